"""deploy/Containerfile held to what it promises, as far as that can be done without building it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from node.cli import _parser
from node.config import SETTINGS
from tests.deploy.unit_file import CONTAINERFILE, ROOT, assignments

HADOLINT = Path(sys.executable).with_name("hadolint")
TEXT = CONTAINERFILE.read_text()
INSTRUCTIONS = [
    (line.split(None, 1)[0], line.split(None, 1)[1])
    for line in re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    if line.strip()
]
# What the image is: whatever stands behind the last FROM.
IMAGE = INSTRUCTIONS[max(at for at, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM") :]


def only(word: str) -> str:
    (value,) = [value for name, value in IMAGE if name == word]
    return value


@pytest.mark.skipif(not HADOLINT.exists() and shutil.which("hadolint") is None, reason="needs hadolint")
def test_the_linter_of_container_files_finds_nothing():
    command = HADOLINT if HADOLINT.exists() else "hadolint"
    done = subprocess.run([command, CONTAINERFILE], capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_node_is_nobody_in_particular_and_never_root():
    user, group = only("USER").split(":")

    assert user.isdigit() and group.isdigit() and int(user) >= 1000 and int(group) >= 1000
    assert f"--uid {user}" in TEXT and f"--gid {group}" in TEXT
    # Nothing is installed or copied once the image is the user's.
    behind = [word for word, _ in IMAGE[[word for word, _ in IMAGE].index("USER") + 1 :]]
    assert {"RUN", "COPY", "ADD"} & set(behind) == set()


def test_what_the_container_runs_parses_and_its_health_check_too():
    command = [*json.loads(only("ENTRYPOINT")), *json.loads(only("CMD"))]
    health = json.loads(only("HEALTHCHECK").partition("CMD ")[2])

    for words, name in ((command, "serve"), (health, "ready")):
        assert words[0] == "stigmem"
        assert _parser({}, words[1:]).parse_args(words[1:]).command == name
    # Shell forms would swallow SIGTERM.
    assert only("STOPSIGNAL") == "SIGTERM"


def test_every_setting_of_the_container_is_one_and_its_data_lies_in_the_volume():
    given = assignments(only("ENV"))
    named = {name for name in given if name.startswith("STIGMEM_")}

    assert named <= {setting.variable for setting in SETTINGS}
    assert json.loads(only("VOLUME")) == [given["STIGMEM_DATA_DIR"]]
    assert only("EXPOSE") == "8765"


def test_what_is_copied_is_there_and_is_all_that_the_package_is_made_of():
    copied = [words.split()[:-1] for word, words in INSTRUCTIONS if word == "COPY" and not words.startswith("--from")]
    sources = {source for words in copied for source in words}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert [source for source in sources if not (ROOT / source).exists()] == []
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert sources == {"pyproject.toml", project["project"]["readme"], *packages}
    # A folder as it is would carry keys, logs and the history of the repository along.
    assert not [words for words in copied if "." in words]


def test_the_base_is_one_that_the_package_runs_on_and_no_digest_is_made_up():
    (base,) = [value for word, value in INSTRUCTIONS if word == "ARG"]
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]

    version = re.fullmatch(r"BASE=docker\.io/library/python:(\d+\.\d+)-slim-[a-z]+", base)[1]
    assert least == f">={version}"
