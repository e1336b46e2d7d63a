"""docs/replay.md held to the code: its walks are gone, command by command, and its options are those there are.

Always: a command is run as it stands on the page, in order, in one folder for each walk; its output is what the page
shows of it, where `...` stands for whatever was left out.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from node.cli import _parser
from node.events.checkpoint import Checkpoint, origin_of, sign_checkpoint
from node.events.cosignature import cosign, witness_name
from node.events.log import Log
from node.events.tree import root_at
from node.keys import Signer, create_key_file
from replay.snapshots.create import Wanted, create_snapshot
from tests import organisations, served
from tests.clocks import START_MS
from tests.replay.folders import REPOSITORY, edit, flip, key
from tests.replay.story import ORG_A, ORG_B, Story, live_through

PAGE = (REPOSITORY / "docs" / "replay.md").read_text()
OWNER, WITNESS = Signer.from_seed(served.SEED), Signer.from_seed(organisations.SEED)
_TYPED = re.compile(r"^( +)\$ (.*)$")
_ENDED = "__ended__"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A node's life with a peer; its folder at rest, with the key in it."""
    told = live_through(tmp_path_factory.mktemp("story"))
    create_key_file(told.a / "node.key", served.SEED)
    return told


@pytest.fixture
def work(story: Story, tmp_path: Path) -> Path:
    """An empty folder but for a snapshot of the story's log, and what a witness kept of it."""
    wanted = Wanted(data_dir=story.a, target=tmp_path / "backup.snapshot", is_folder=False, since=0, signer=OWNER)
    create_snapshot(wanted, lambda read, size: None)
    (tmp_path / "witness.note").write_text(_kept_by_the_witness(story))
    return tmp_path


def test_the_two_minute_audit_goes_as_the_page_says(story, work):
    shutil.copytree(story.a, work / "data")

    _walk("## The two-minute audit", work)


def test_wrong_views_are_made_anew_as_the_page_says(story, work):
    live = _live(shutil.copytree(story.a, work / "stigmem-data"))
    edit(live, "facts/by_source", _drop_first)

    _walk("### The views are wrong, the log holds", work)


def test_a_damaged_log_is_replaced_as_the_page_says(story, work):
    shutil.copytree(story.a, work / "stigmem-data")
    edit(work / "stigmem-data" / "log", "items", flip(key(14, 1), 30))

    _walk("### The log is damaged", work)

    assert sorted(path.name for path in (work / "stigmem-data").iterdir()) == ["lock", "log", "node.key"]


@pytest.mark.parametrize("command", ["verify", "rebuild"])
def test_the_page_names_every_option_of_a_command_and_no_other(command):
    section = PAGE.split(f"\n## `stigmem replay {command}`\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`--.*?) \|", section, re.MULTILINE)
    named = {option for row in rows for option in re.findall(r"`(--[a-z-]+)", row)}

    parser = _subcommand(_subcommand(_parser({}), "replay"), command)
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}

    assert named == options - {"--help"}


def _walk(heading: str, work: Path) -> None:
    """Type the commands under a heading into one shell, as they stand there."""
    steps = list(_steps(PAGE.split(f"\n{heading}\n")[1]))
    assert steps
    script = "\n".join(f"{command}\necho {_ENDED}" for command, _ in steps)
    answers = _typed(script, work).split(f"{_ENDED}\n")
    for (command, shown), answer in zip(steps, answers, strict=False):
        assert re.fullmatch(_pattern(shown), answer), f"{command}\n{answer}"


def _steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command up to the next heading, with the lines shown of its output."""
    lines = re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    command, margin, shown = "", "", []
    for line in [*lines, ""]:
        typed = _TYPED.match(line)
        if command and not typed and line.startswith(margin):
            shown.append(line.removeprefix(margin))
            continue
        if command:
            yield command, shown
        command, margin, shown = "", "", []
        if typed:
            margin, command = typed.groups()


def _pattern(shown: list[str]) -> str:
    """What the output must be: `...` in a line is anything, as a line of its own any number of lines."""
    lines = [".*".join(map(re.escape, line.split("..."))) + "\n" if line != "..." else "(?:.*\n)*" for line in shown]
    return "".join(lines)


def _typed(script: str, work: Path) -> str:
    tool = f'set -e -o pipefail\nstigmem() {{ {sys.executable} -m node.cli "$@"; }}\n'
    settings = {name: value for name, value in os.environ.items() if not name.startswith("STIGMEM_")}
    done = subprocess.run(
        ["bash", "-c", tool + script],
        cwd=work,
        env=settings | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _kept_by_the_witness(story: Story) -> str:
    """The log's checkpoint at the last page, with the peer's cosignature."""
    size = story.offsets["last_page"]
    log = Log(story.a / "log", is_readonly=True)
    with log.tree() as read:
        root = root_at(size, read)
    log.close()
    note = sign_checkpoint(Checkpoint(origin=origin_of(ORG_A), size=size, root=root), OWNER)
    return note + cosign(note, name=witness_name(ORG_B), signer=WITNESS, time_s=START_MS // 1000) + "\n"


def _live(data_dir: Path) -> Path:
    (live,) = (path for path in (data_dir / "views").iterdir() if path.is_dir())
    return live


def _drop_first(txn: lmdb.Transaction) -> None:
    with txn.cursor() as rows:
        rows.first()
        rows.delete()


def _subcommand(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices[name]
