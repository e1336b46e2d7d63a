"""What is not ours: declared, each with a lower bound that holds; no network but loopback; an audit that never passes unasked."""

import ast
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.loopback import outside

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIPPED = [Requirement(wish) for wish in PROJECT["project"]["dependencies"]]
OF_TESTS = [Requirement(wish) for wish in PROJECT["project"]["optional-dependencies"]["test"]]
TO_BUILD = [Requirement(wish) for wish in PROJECT["build-system"]["requires"]]

# Every socket that is opened, bound or sent to, and every name that is looked up, ends the process.
IMPORT_ALL = """
import importlib, pkgutil, sys

def refuse(event, arguments):
    if event.startswith("socket."):
        sys.stderr.write(f"{event}: {arguments}\\n")
        sys.exit(9)

sys.addaudithook(refuse)
import node, replay
for package in (node, replay):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(len([name for name in sys.modules if name.split(".")[0] in ("node", "replay")]))
"""


@pytest.mark.parametrize("wish", [*SHIPPED, *OF_TESTS, *TO_BUILD], ids=lambda wish: wish.name)
def test_every_dependency_has_a_lower_bound_that_what_is_installed_meets(wish: Requirement):
    assert [specifier.operator for specifier in wish.specifier] == [">="]
    if wish not in TO_BUILD:
        assert wish.specifier.contains(importlib.metadata.version(wish.name), prereleases=True)


def test_everything_that_is_imported_is_declared_and_everything_declared_imported():
    distributions = importlib.metadata.packages_distributions()
    imported = {
        canonicalize_name(distributions[name][0])
        for path in (*ROOT.glob("node/**/*.py"), *ROOT.glob("replay/**/*.py"))
        for name in imports_of(path)
        if name not in sys.stdlib_module_names and name not in ("node", "replay")
    }

    assert imported == {canonicalize_name(wish.name) for wish in SHIPPED}


def imports_of(path: Path) -> set[str]:
    found = set()
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
            found.add(statement.module.partition(".")[0])
    return found


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_importing_all_of_it_opens_no_socket_and_looks_no_name_up():
    done = run_python(IMPORT_ALL)

    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == len([*ROOT.glob("node/**/*.py"), *ROOT.glob("replay/**/*.py")])


@pytest.mark.parametrize("act", ["socket.getaddrinfo('localhost', 1)", "socket.socket().bind(('127.0.0.1', 0))"])
def test_the_guard_over_imports_sees_what_it_is_to_see(act: str):
    done = run_python(IMPORT_ALL.replace("import node, replay", f"import socket; {act}"))

    assert done.returncode == 9 and done.stderr.startswith("socket.")


# The tests themselves.


@pytest.mark.parametrize(
    ("event", "arguments", "stays_here"),
    [
        ("socket.connect", (None, ("127.0.0.1", 80)), True),
        ("socket.connect", (None, ("::1", 80, 0, 0)), True),
        ("socket.connect", (None, "/run/a-socket"), True),
        ("socket.connect", (None, ("192.0.2.1", 80)), False),
        ("socket.connect", (None, ("2001:db8::1", 80, 0, 0)), False),
        ("socket.connect", (None, ("0.0.0.0", 80)), False),
        ("socket.getaddrinfo", ("localhost", 80, 0, 0, 0), True),
        ("socket.getaddrinfo", ("127.0.0.1", 80, 0, 0, 0), True),
        ("socket.getaddrinfo", (None, 80, 0, 0, 0), True),
        ("socket.getaddrinfo", ("org-b.example", 80, 0, 0, 0), False),
        ("socket.bind", (None, ("0.0.0.0", 0)), True),
    ],
)
def test_the_guard_over_tests_tells_loopback_from_the_world(event: str, arguments: tuple, stays_here: bool):
    assert (outside(event, arguments) is None) is stays_here


def test_a_test_that_reaches_out_fails(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest("from tests.loopback import watch_network, stays_on_loopback\nwatch_network()\n")
    pytester.makepyfile(
        """
        import socket

        def test_it():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.connect(("192.0.2.1", 9))
        """
    )

    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", f"--rootdir={pytester.path}")

    done.assert_outcomes(passed=1, errors=1)


# The audit.


def verdict(report: object) -> tuple[int, list[str]]:
    specification = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    audit = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(audit)
    return audit.verdict(report if isinstance(report, str) else json.dumps({"dependencies": report}))


SOUND = {"name": "lmdb", "version": "3.0.0", "vulns": []}
UNKNOWN = {"name": "uvloop", "skip_reason": "Dependency not found on PyPI and could not be audited: uvloop (0.23.0)"}
WEAK = {"name": "aiohttp", "version": "3.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1"], "aliases": []}]}


@pytest.mark.parametrize(
    ("report", "code", "words"),
    [
        ([SOUND], 0, "1 packages, no known vulnerability"),
        ([SOUND, WEAK], 1, "aiohttp 3.0: PYSEC-1, fixed in 3.1"),
        ([WEAK, UNKNOWN], 1, "aiohttp"),
        ([SOUND, UNKNOWN], 3, "not audited: uvloop"),
        ([UNKNOWN, UNKNOWN], 3, "cannot run here"),
        ([], 3, "cannot run here"),
        ("", 3, "cannot run here"),
        ("<html>", 3, "cannot run here"),
    ],
)
def test_an_audit_passes_only_where_every_package_was_looked_up(report: object, code: int, words: str):
    ended, lines = verdict(report)

    assert ended == code and lines[0].startswith(words)


def test_the_tools_that_look_at_dependencies_are_none_of_them():
    makefile = (ROOT / "Makefile").read_text()

    assert re.search(
        r"^\t@\$\(VENV\)/supply/bin/python -m pip install .*'pip-audit>=\d.*'cyclonedx-bom>=\d", makefile, re.M
    )
    assert not {"pip-audit", "cyclonedx-bom"} & {wish.name for wish in (*SHIPPED, *OF_TESTS)}
