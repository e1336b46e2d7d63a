"""The damage drill: whatever happens to a data folder, each command names it, the node serves none of it, nothing crashes.

What no look at one folder can see, an older copy or a tail lost whole, is noticed by whoever has a head of it from before.
"""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.keys import create_key_file
from node.projections.views import read_current
from tests.events.samples import PEER_SIGNER
from tests.replay import damages
from tests.replay.damages import AT, NOTHING, OF_ROWS, OF_THE_FILE, SIZE, SOMEWHERE, Do, sound_entries
from tests.replay.folders import Result
from tests.replay.forked import DEADLINE_S, Forked, run, running
from tests.scenarios.nodes import ADMIN_KEY, Answer, Client, free_port

COMMANDS = {
    "verify": ("replay", "verify"),
    "quick": ("replay", "verify", "--quick"),
    "rebuild": ("replay", "rebuild"),
    "audit": ("replay", "audit"),
    "diff": ("replay", "diff", "--from", "0", "--to", "10"),
    "head": ("log", "head"),
    "show": ("log", "show", str(AT)),
    "proof": ("log", "proof", str(AT), "--sign-with", "node.key"),
    "create": ("snapshot", "create"),
}
DAMAGED, NOT_DONE = 6, 2
# Who can say no more of a file that is no LMDB file at all than that it is none.
_SAY_NO_LOG = ("quick", "create")
_NOT_LOOKED_AT = (("quick", "page of items"), ("create", "page of the tree"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound folder with the node's key, that no test changes."""
    data_dir = tmp_path_factory.mktemp("sound") / "data"
    damages.write(data_dir, sound_entries())
    create_key_file(data_dir / "node.key", bytes(range(32)))
    return data_dir


@pytest.fixture
def spoilt(sound: Path, tmp_path: Path) -> Callable[[Do], Path]:
    """Make a copy of the sound folder and do that to it."""

    def make(do: Do) -> Path:
        data_dir = Path(shutil.copytree(sound, tmp_path / "data"))
        do(data_dir)
        return data_dir

    return make


def all_commands(data_dir: Path, folder: Path) -> dict[str, Result]:
    """What each says of a copy of its own, all at the same time."""
    under_way = {}
    for name, arguments in COMMANDS.items():
        copied = shutil.copytree(data_dir, folder / name / "data")
        shutil.copy(data_dir / "node.key", folder / name / "node.key")
        under_way[name] = Forked(folder / name, (*arguments, "--data-dir", str(copied)), {})
    return {name: command.result() for name, command in under_way.items()}


def _named(found: Result) -> int:
    """The offset that a command named, or SOMEWHERE, or NOTHING."""
    if found.code == 0:
        return NOTHING
    assert found.code == DAMAGED and found.stderr.strip(), found
    words = found.stderr.splitlines()[-1].removeprefix("stigmem: ").split(":")[0].split()
    return int(words[1]) if words[0] == "offset" and words[1].isdecimal() else SOMEWHERE


class _Node:
    """A node that is to start on a folder, or to say in one line why not."""

    def __init__(self, process: Forked, client: Client) -> None:
        self._process, self._client = process, client
        self.answers: dict[str, Answer] = {}

    def ask(self, *paths: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self._process.is_running and time.monotonic() < deadline:
            try:
                self.answers = {path: self._client.send("GET", path) for path in paths}
                return
            except ConnectionRefusedError:
                self._client.close()
                time.sleep(0.01)

    def end(self) -> Result:
        self._process.send(signal.SIGTERM)
        return self._process.result()


@contextmanager
def serving(data_dir: Path, folder: Path) -> Iterator[_Node]:
    port = free_port()
    settings = {"DATA_DIR": str(data_dir), "PORT": str(port), "ADMIN_KEY": ADMIN_KEY, "LOG_LEVEL": "error"}
    with running(folder, "serve", **settings) as process:
        client = Client(port)
        yield _Node(process, client)
        client.close()


def _facts(answer: Answer) -> set[tuple[object, ...]]:
    """What is said of each fact."""
    facts = answer.expect(200)["facts"]
    return {(fact["id"], fact["entity"], fact["value"]["v"], fact["confidence"]) for fact in facts}


_TRUE_FACTS = {(fact.id, fact.entity, fact.value.v, fact.confidence) for fact in damages.true_facts()}


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_damaged_entry_is_named_at_its_offset_by_every_command_that_looks_at_it(name, spoilt, tmp_path):
    damage = OF_ROWS[name]
    found = all_commands(spoilt(damage.do), tmp_path)
    named = {command: _named(result) for command, result in found.items()}
    assert named == {command: damage.said_by(command) for command in COMMANDS}


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_node_serves_nothing_of_a_damaged_entry(name, spoilt, tmp_path):
    damage = OF_ROWS[name]
    with serving(spoilt(damage.do), tmp_path / "served") as node:
        node.ask("/readyz", "/v1/log/checkpoint", f"/v1/log/proof/inclusion?offset={AT}", "/v1/facts?limit=100")
        ended = node.end()
    if not node.answers:
        # Where it stands is not to be read: the rows behind its head are not an entry's.
        assert (name, ended.code, ended.stderr.count("\n")) == ("entry again at the end", 1, 1)
        assert f"index {SIZE}" in ended.stderr and "stigmem replay verify" in ended.stderr
        return
    *refused, facts = node.answers.values()
    for answer in refused:
        answer.refused(503, "log_damaged")
        assert answer.json["offset"] == damage.offset and "stigmem replay verify" in answer.json["detail"]
    if facts.status == 200:
        assert _facts(facts) <= _TRUE_FACTS
    else:
        facts.refused(503, "log_damaged")
    assert ended.code == 0


@pytest.mark.parametrize("name", OF_THE_FILE)
def test_a_damaged_file_is_named_and_takes_nobody_down(name, spoilt, tmp_path):
    data_dir = spoilt(OF_THE_FILE[name])
    for command, found in all_commands(data_dir, tmp_path).items():
        is_no_log = found.code == NOT_DONE and (command in _SAY_NO_LOG or name == "the file of the views")
        is_not_looked_at = found.code == 0 and (command, name) in _NOT_LOOKED_AT
        assert found.code == DAMAGED or is_no_log or is_not_looked_at, (command, found)
        assert is_not_looked_at or found.stderr.count("\n") == 1, (command, found)
    with serving(data_dir, tmp_path / "served") as node:
        node.ask("/readyz")
        ended = node.end()
    assert (node.answers, ended.code, ended.stderr.count("\n")) == ({}, 1, 1), ended
    assert "stigmem replay verify" in ended.stderr


def _cut_views(data_dir: Path) -> None:
    file = _views(data_dir)
    file.write_bytes(file.read_bytes()[:12288])


def _noise_in_views(data_dir: Path) -> None:
    _views(data_dir).write_bytes(b"\xa5" * 65536)


def _log_for_views(data_dir: Path) -> None:
    shutil.copyfile(data_dir / "log" / "data.mdb", _views(data_dir))


def _views(data_dir: Path) -> Path:
    return data_dir / "views" / str(read_current(data_dir / "views").folder) / "data.mdb"


@pytest.mark.parametrize("do", [_cut_views, _noise_in_views, _log_for_views])
def test_damaged_views_are_named_by_verify_and_made_anew_by_the_node(do, spoilt, tmp_path):
    data_dir = spoilt(do)
    found = run(tmp_path / "verify", *COMMANDS["verify"], "--data-dir", data_dir)
    assert found.code == DAMAGED and "live views" in found.last_line
    with serving(data_dir, tmp_path / "served") as node:
        deadline = time.monotonic() + DEADLINE_S
        node.ask("/readyz", "/v1/facts?limit=100")
        while node.answers["/readyz"].status == 503 and time.monotonic() < deadline:
            node.ask("/readyz", "/v1/facts?limit=100")
        assert node.end().code == 0
    assert _facts(node.answers["/v1/facts?limit=100"]) == _TRUE_FACTS


def test_another_nodes_log_is_refused_by_the_node_and_by_its_key(spoilt, tmp_path):
    data_dir = spoilt(lambda data_dir: damages.replace_log(data_dir, sound_entries(PEER_SIGNER)))
    found = all_commands(data_dir, tmp_path)
    assert found["verify"].code == DAMAGED and "folded from another entry" in found["verify"].last_line
    assert found["proof"].code == NOT_DONE and "the key is not the one that signs this log" in found["proof"].stderr
    with serving(data_dir, tmp_path / "served") as node:
        node.ask("/readyz")
        ended = node.end()
    assert (node.answers, ended.code, ended.stderr.count("\n")) == ({}, 1, 1)
    assert "key_mismatch" in ended.stderr


@pytest.mark.parametrize("kept", [SIZE - 1, AT])
def test_an_older_copy_holds_and_only_who_has_a_later_head_sees_that_it_is_one(kept, sound, tmp_path):
    head = run(tmp_path, *COMMANDS["verify"], "--data-dir", sound).last_line.removeprefix("head ")
    older = tmp_path / "older"
    damages.write(older, sound_entries()[:kept])
    shutil.copy(sound / "node.key", older / "node.key")
    found = all_commands(older, tmp_path)
    assert {name: result.code for name, result in found.items() if name not in ("show", "proof")} == dict.fromkeys(
        set(COMMANDS) - {"show", "proof"}, 0
    )
    for more in ((), ("--quick",)):
        expected = run(tmp_path, *COMMANDS["verify"], *more, "--data-dir", older, "--expect-head", head)
        assert expected.code == DAMAGED and f"does not extend the expected head {head}" in expected.last_line
    with serving(older, tmp_path / "served") as node:
        node.ask("/readyz")
        assert node.end().code == 0
    node.answers["/readyz"].expect(200)
