# make, python3 (3.11 or newer) and git are enough to begin: every target sets up what it needs.
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-long test-encrypted serve bench lint audit sbom need-venv need-demo need-test

VENV ?= .venv
# `make demo --keep` too: make itself takes that word for --keep-going, which says nothing else in a Makefile without -j.
KEEP ?= $(findstring k,$(filter-out --%,$(firstword $(MAKEFLAGS))))
ARGS ?=
# Tests run in so many processes side by side; 0 is in pytest's own, as a debugger needs it.
WORKERS ?= 2
PYTEST = $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal
SBOM ?= sbom.cdx.json
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
endif
ifeq ($(strip $(PYTHON)),)
PYTHON := python3
endif
export PYTHON VENV

help:
	@echo 'make demo        two nodes on this machine, walked through the two-organisation tutorial (KEEP=1 leaves them running)'
	@echo 'make serve       one node on http://localhost:8765; settings are STIGMEM_* variables'
	@echo 'make test        all tests, two at a time (WORKERS=4: four; ARGS="-k word" passes on to pytest)'
	@echo 'make test-long   the same with larger numbers'
	@echo 'make test-encrypted   what a node answers, with encryption at rest'
	@echo 'make bench       measures the node and prints ratios'
	@echo 'make lint        checks style and formatting'
	@echo 'make audit       asks for known vulnerabilities in what is shipped; says so where it cannot ask'
	@echo 'make sbom        writes what is shipped to $(SBOM), as CycloneDX'

demo: need-demo $(VENV)/.installed
	@demo/tutorial.sh $(if $(KEEP),--keep)

test: need-test $(VENV)/.installed-for-tests $(VENV)/clients/.installed
	$(PYTEST) $(ARGS)

test-long: need-test $(VENV)/.installed-for-tests $(VENV)/clients/.installed
	STIGMEM_TEST_LONG=1 $(PYTEST) --timeout=1800 $(ARGS)

# What a node answers must not depend on how it lies on the disk: tests that do not look into the folder themselves.
test-encrypted: need-test $(VENV)/.installed-for-tests
	STIGMEM_TEST_ENCRYPTED=1 $(PYTEST) tests/commands tests/projections/test_fold.py tests/test_at_rest.py \
		$(addprefix tests/http/test_, facts.py conflicts.py members.py time_travel.py idempotency.py listing_against_model.py) $(ARGS)

serve: need-venv $(VENV)/.installed
	@exec $(VENV)/bin/stigmem serve

bench: need-venv $(VENV)/.installed-for-tests
	$(VENV)/bin/python -m bench $(ARGS)

lint: need-venv $(VENV)/.installed-for-tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

audit: need-venv $(VENV)/supply/.installed $(VENV)/shipped/.installed
	@$(VENV)/bin/python .ci/audit.py $(VENV)/supply/bin/pip-audit $(VENV)/shipped/lib/python*/site-packages

sbom: need-venv $(VENV)/supply/.installed $(VENV)/shipped/.installed
	@$(VENV)/supply/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o $(SBOM) $(VENV)/shipped/bin/python
	@echo '$(SBOM) written'

need-venv:
	@.ci/setup venv

need-demo:
	@.ci/setup venv curl jq openssl

need-test:
	@.ci/setup venv curl jq openssl strace faketime

# Editable, so that a target runs the tree as it is; the stamps are older than a changed pyproject.toml, so the environment follows it.
$(VENV)/.installed: pyproject.toml
	@echo 'Setting up $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-for-tests: pyproject.toml
	@echo 'Setting up $(VENV) with what the tests need'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[test]'
	@touch $(VENV)/.installed $@

# Today's clients bring libraries of their own, in versions of their own.
$(VENV)/clients/.installed: tests/clients/requirements.txt
	@echo 'Setting up $(VENV)/clients with the clients that the tests run'
	@$(PYTHON) -m venv $(VENV)/clients
	@$(VENV)/clients/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

# What looks at dependencies must not be among them: tools of their own, and an environment with what a node runs on and nothing else, not even pip.
$(VENV)/supply/.installed: Makefile
	@echo 'Setting up $(VENV)/supply with pip-audit and cyclonedx-bom'
	@$(PYTHON) -m venv $(VENV)/supply
	@$(VENV)/supply/bin/python -m pip install -q --disable-pip-version-check 'pip-audit>=2.9' 'cyclonedx-bom>=7'
	@touch $@

$(VENV)/shipped/.installed: pyproject.toml $(VENV)/supply/.installed
	@echo 'Setting up $(VENV)/shipped with what a node runs on'
	@$(PYTHON) -m venv --without-pip --clear $(VENV)/shipped
	@$(VENV)/supply/bin/python -m pip --python $(VENV)/shipped/bin/python install -q --disable-pip-version-check .
	@touch $@
