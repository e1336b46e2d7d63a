"""The power goes at any moment: whatever the disk had promised by then opens, verifies, and holds all that was acknowledged."""

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.at_rest import secret_of
from node.clock import Clock
from node.config import Config, from_environ
from node.events.at_rest_folder import keys_for
from node.events.facts import FactAsserted
from node.events.log import Log
from node.events.log_check import LogCheck
from node.events.log_file import startup_problem
from node.keys import load_signer
from node.runtime import Node
from tests.scenarios.nodes import ADMIN_KEY, RunningNode, eventually
from tests.scenarios.power_cut import STRACE, Call, Disk, calls_of
from tests.scenarios.test_startup import FACT, ORG_A

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FACTS, LONG_FACTS = 50, 500
# Every so many moments a whole node is started on what is left.
STARTED_EVERY, LONG_STARTED_EVERY = 20, 5
_ACKNOWLEDGED = re.compile(rb'HTTP/1\.1 201 .*?"id":"([^"]+)"', re.DOTALL)


@pytest.fixture(params=["off", "on"], ids=["in clear", "encrypted"])
def settings(request, tmp_path: Path) -> dict[str, str]:
    key_file = tmp_path / "at-rest-secret"
    key_file.write_text(bytes(range(32)).hex())
    key_file.chmod(0o600)
    encrypted = {"AT_REST_ENCRYPTION": "on", "AT_REST_KEY_FILE": str(key_file)} if request.param == "on" else {}
    return {"ENTITY_URI": ORG_A, "ADMIN_KEY": ADMIN_KEY} | encrypted


def trace_of_load(folder: Path, facts: int, settings: dict[str, str]) -> Path:
    """The system calls of a node that was started in an empty folder and took so many facts, one append each."""
    trace = folder / "trace.txt"
    data_dir = str(folder / "node" / "data")
    node = RunningNode(folder / "node", launcher=[*STRACE, "-o", str(trace)], DATA_DIR=data_dir, **settings)
    try:
        node.start()
        client = node.client()
        for number in range(facts):
            client.send("POST", "/v1/facts", FACT | {"entity": f"{ORG_A}/item/{number}"}).expect(201)
        eventually(
            lambda: trace.read_bytes().count(b"HTTP/1.1 201 ".hex(" ").replace(" ", "\\x").encode()) >= facts,
            within_s=20,
            what="strace has written all answers down",
        )
    finally:
        node.kill()
    return trace


def moments(trace: Path, folder: Path, chance: random.Random) -> Iterator[tuple[Disk, random.Random | None, set[str]]]:
    """The disk just before and just after each call that makes something safe, and what was acknowledged by then.

    Before it, by chance, any part of what is under way is on the disk too; after it only what is safe.
    """
    disk, acknowledged = Disk(folder), set()
    for call, has_returned in calls_of(trace):
        if not has_returned:
            acknowledged |= acknowledged_by(call)
            disk.begin(call)
        elif disk.makes_safe(call):
            yield disk, chance, acknowledged
            disk.end(call)
            yield disk, None, acknowledged
        else:
            disk.end(call)


def acknowledged_by(call: Call) -> set[str]:
    """The ids of facts in an answer that goes out with this call."""
    return {found[1].decode() for found in _ACKNOWLEDGED.finditer(b"".join(call.texts))}


def laid_out(picture: dict[Path, bytes | None], folder: Path) -> Path:
    """The data folder with these files, as the machine has them when it is up again."""
    folder.mkdir()
    for path, content in picture.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
    current = folder / "data" / "views" / "CURRENT"
    if current.exists():
        current.write_bytes(current.read_bytes().replace(BOOT_ID.read_bytes().strip(), b"another"))
    return folder / "data"


def config_in(data_dir: Path, settings: dict[str, str]) -> Config:
    environ = {f"STIGMEM_{name}": text for name, text in (settings | {"DATA_DIR": str(data_dir)}).items()}
    return from_environ(environ, None, {})[0]


def assert_log_holds(config: Config, acknowledged: set[str]) -> None:
    data_dir = Path(config.data_dir)
    if not (data_dir / "log" / "data.mdb").exists():
        assert not acknowledged
        return
    assert startup_problem(data_dir / "log") is None
    secret = secret_of(config, lambda: load_signer(data_dir / "node.key", None))
    log = Log(data_dir / "log", file_keys=keys_for(data_dir, secret))
    check, size = LogCheck(log.store, log.items), log.head().size
    if size:
        checked = check.check(0, size)
        assert (checked.damage, check.check_rest(checked.items)) == (None, None)
    events = [entry.event for entry in log.read(0, size)]
    log.close()
    assert acknowledged <= {event.fact.id for event in events if isinstance(event, FactAsserted)}


async def assert_node_holds(config: Config, acknowledged: set[str]) -> None:
    """A node starts on it and makes its views anew."""
    key_file = Path(config.data_dir) / "node.key"
    if not key_file.exists():
        assert not acknowledged
        return
    node = await Node.open(config=config, clock=Clock.system(), signer=load_signer(key_file, None))
    try:
        await node.begun()
        assert node.is_ready
        with node.view() as view:
            assert [fact_id for fact_id in acknowledged if view.facts.by_id(fact_id) is None] == []
    finally:
        await node.close()


@pytest.mark.timeout(900)
async def test_after_a_power_cut_at_any_moment_the_log_holds_and_has_all_that_was_acknowledged(
    tmp_path, settings, long_run
):
    facts, started_every = (LONG_FACTS, LONG_STARTED_EVERY) if long_run else (FACTS, STARTED_EVERY)
    trace = trace_of_load(tmp_path, facts, settings)
    chance, looked_at, acknowledged = random.Random(20261122), 0, set()
    for number, (disk, torn, acknowledged) in enumerate(moments(trace, tmp_path / "node", chance)):
        is_started = number % started_every == 0
        data_dir = laid_out(disk.picture(torn, but_for=None if is_started else "views"), tmp_path / "left")
        config = config_in(data_dir, settings)
        assert_log_holds(config, acknowledged)
        if is_started:
            await assert_node_holds(config, acknowledged)
        shutil.rmtree(tmp_path / "left")
        looked_at = number + 1

    assert len(acknowledged) == facts
    # Of both runs 200 moments at which something became safe, and as many just before.
    assert looked_at >= 4 * facts, "before and after the sync of an append, and of the page that commits it"
