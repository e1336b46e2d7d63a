"""A machine that fails under a running node: refused clearly, nothing lost, reads go on, and it recovers by itself."""

import http.client
import os
import random
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.times import parse_rfc3339
from tests.independent.verifier import check_log, read_log
from tests.scenarios.faults import (
    SYNCING_CALLS,
    WRITING_CALLS,
    await_ready,
    await_refusing,
    failing_calls,
    filled,
    libfaketime,
    limited,
    said_with,
    small_disk,
)
from tests.scenarios.nodes import Answer, Client, RunningNode, eventually, run_stigmem
from tests.scenarios.organisations import await_active
from tests.scenarios.test_startup import FACT, serve_in_vain

ORG_A = "stigmem://org-a.example"
LARGE = 60_000
TOKEN = {
    "issuer": ORG_A,
    "subject": f"{ORG_A}/agent/reader",
    "verb": "read",
    "object": f"{ORG_A}/scope/company",
    "ttl_seconds": 86400,
}


class Writer:
    """Writes one fact after another, each under an idempotency key; keeps what was acknowledged."""

    def __init__(self, node: RunningNode) -> None:
        self.node = node
        self.acknowledged: dict[str, str] = {}
        self._number = 0

    def write(self, size: int = 10) -> Answer:
        self._number += 1
        return self.write_again(size)

    def write_again(self, size: int = 10) -> Answer:
        """The same fact under the same key: nobody knows what became of it."""
        body = {
            "entity": f"{ORG_A}/item/{self._number}",
            "relation": "memory:status",
            # Nothing that a snapshot could make smaller.
            "value": {"type": "text", "v": random.Random(self._number).randbytes(size // 2).hex()},
            "source": f"{ORG_A}/agent/assistant",
            "idempotency_key": f"key-{self._number}",
        }
        answer = self.node.post("/v1/facts", body)
        if answer.status == 201:
            self.acknowledged[answer.json["entity"]] = answer.json["id"]
        return answer

    def fill(self) -> Answer:
        """Writes until the first refusal."""
        return eventually(
            lambda: self.write(LARGE), lambda answer: answer.status != 201, within_s=20, what="a write is refused"
        )

    def assert_refused(self, code: str) -> None:
        """Writes and readiness tell the cause; the process lives and everything acknowledged is read."""
        self.write().refused(503, code)
        self.write_again().refused(503, code)
        await_refusing(self.node, code)
        self.node.get("/healthz").expect(200)
        self.assert_nothing_lost()

    def assert_recovered(self) -> None:
        """Without a restart: what was refused passes when it is sent again."""
        await_ready(self.node)
        self.write_again().expect(201)
        self.write().expect(201)
        self.assert_nothing_lost()

    def assert_nothing_lost(self) -> None:
        listed = {fact["entity"]: fact["id"] for fact in self.node.facts()}
        assert self.acknowledged.items() <= listed.items()

    def assert_sound(self) -> None:
        """Every acknowledged fact is there once, and nothing else but what was sent; the log proves itself."""
        entities = [fact["entity"] for fact in self.node.facts()]
        assert len(entities) == len(set(entities)) <= self._number
        self.assert_nothing_lost()
        self.node.stop()
        assert check_log(self.node.data_dir) == []


@pytest.fixture
def writer(make_node) -> Writer:
    node = make_node(ENTITY_URI=ORG_A).start()
    writer = Writer(node)
    writer.write().expect(201)
    return writer


def test_a_disk_that_fails_takes_no_writes_and_takes_them_again_when_it_works(writer):
    node, log_file = writer.node, writer.node.data_dir / "log" / "data.mdb"
    process = node.process.pid
    for calls, error, code in [
        (SYNCING_CALLS, "EIO", "storage_failed"),
        (WRITING_CALLS, "EIO", "storage_failed"),
        (WRITING_CALLS, "EROFS", "storage_failed"),
        (WRITING_CALLS, "EDQUOT", "storage_full"),
    ]:
        with failing_calls(node.process.pid, log_file, calls, f"error={error}"):
            writer.assert_refused(code)
        writer.assert_recovered()

    assert node.process.pid == process
    assert len(said_with(node, "storage_recovered")) == 4
    writer.assert_sound()


def test_a_failure_of_the_very_write_that_commits_is_recovered_from_too(writer):
    node, log_file = writer.node, writer.node.data_dir / "log" / "data.mdb"

    def given_up() -> bool:
        # How many pages come before the one that commits, and so which call it is, differs from commit to commit.
        for place in (2, 3):
            with failing_calls(node.process.pid, log_file, "pwrite64", f"error=EIO:when={place}"):
                if writer.write().status == 503:
                    await_refusing(node, "storage_failed")
            writer.assert_recovered()
        return "MDB_PANIC" in node.said()

    eventually(given_up, within_s=40, what="LMDB gives up the file")
    writer.assert_sound()


def test_views_that_cannot_be_written_are_folded_on_when_they_can(writer):
    node = writer.node
    (views_file,) = node.data_dir.glob("views/*/data.mdb")
    before = node.log_size()
    with failing_calls(node.process.pid, views_file, WRITING_CALLS, "error=ENOSPC"):
        writer.assert_refused("storage_full")

    # The log had taken it: the same key gets the answer of that time, and there is no second fact.
    await_ready(node)
    size = node.log_size()
    assert size > before
    writer.write_again().expect(201)
    assert node.log_size() == size
    writer.assert_recovered()
    writer.assert_sound()


def test_views_that_the_disk_did_not_keep_are_made_anew_while_the_old_ones_are_read(writer):
    node = writer.node
    (views_file,) = node.data_dir.glob("views/*/data.mdb")
    for _ in range(20):
        writer.write().expect(201)
    # Of the log's file only what it writes fails, so that it recovers first and the views are asked.
    with failing_calls(
        node.process.pid, [node.data_dir / "log" / "data.mdb", views_file], SYNCING_CALLS, "error=EIO:when=1"
    ):
        writer.assert_refused("storage_failed")
        eventually(lambda: said_with(node, "making_views"), within_s=10, what="the views are made anew")
        writer.assert_recovered()

    assert not views_file.exists()
    writer.assert_sound()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "24m") as folder:
        yield folder


def node_on(disk: Path, folder: Path) -> RunningNode:
    node = RunningNode(folder, ENTITY_URI=ORG_A, DATA_DIR=str(disk / "data"))
    node.data_dir = disk / "data"
    return node


def test_a_full_disk_refuses_writes_until_there_is_room_and_starts_and_stops_cleanly(disk, tmp_path):
    node = node_on(disk, tmp_path / "node").start()
    try:
        writer = Writer(node)
        writer.write().expect(201)
        with filled(disk, leave_bytes=300_000):
            writer.fill().refused(503, "storage_full")
            writer.assert_refused("storage_full")
        writer.assert_recovered()

        with filled(disk):
            writer.fill().refused(503, "storage_full")
            node.stop()
        # Without room for new views: none that are half made are taken for views.
        shutil.rmtree(node.data_dir / "views")
        with filled(disk):
            said = serve_in_vain(tmp_path, **node.settings)
            assert "No space left on device" in said and str(disk) in said
        node.start()
        writer.assert_sound()
    finally:
        node.kill()


def test_commands_that_find_the_disk_full_leave_nothing_half_done(disk, tmp_path):
    node = node_on(disk, tmp_path / "node").start()
    writer = Writer(node)
    for _ in range(10):
        writer.write(LARGE).expect(201)
    node.stop()
    snapshot, data_dir, restored = tmp_path / "whole.snapshot", str(node.data_dir), disk / "restored"
    create = ("snapshot", "create", "--data-dir", data_dir, "--out")
    restore = ("snapshot", "restore", "--data-dir", str(restored), str(snapshot))
    rebuild = ("replay", "rebuild", "--data-dir", data_dir)
    made = run_stigmem(*create, str(snapshot), folder=tmp_path)
    assert made.returncode == 0, made.stderr

    with filled(disk, leave_bytes=100_000):
        for command in ((*create, str(disk / "half.snapshot")), restore, rebuild):
            done = run_stigmem(*command, folder=tmp_path)
            assert done.returncode not in (0, None) and "Traceback" not in done.stdout + done.stderr, command
            assert re.search("No space left|no room", done.stderr.splitlines()[-1]), (command, done.stderr)

    assert not (restored / "log").exists()
    assert [path.name for path in disk.iterdir() if path.suffix == ".snapshot"] == []
    done = run_stigmem(*restore, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    node.start()
    writer.assert_sound()


def test_a_folder_that_cannot_be_written_stops_the_start_and_is_left_alone(disk, tmp_path):
    node = node_on(disk, tmp_path / "node").start()
    writer = Writer(node)
    writer.write().expect(201)
    node.stop()
    remount(disk, "ro")
    before = contents(node.data_dir)

    said = serve_in_vain(tmp_path, **node.settings)

    assert "Read-only file system" in said and str(node.data_dir) in said
    assert contents(node.data_dir) == before
    remount(disk, "rw")
    node.start()
    writer.assert_nothing_lost()
    node.kill()


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_node_out_of_descriptors_serves_those_it_has_and_takes_new_connections_when_it_may(writer):
    node, client = writer.node, writer.node.client()
    client.send("GET", "/healthz").expect(200)
    with limited(node, resource.RLIMIT_NOFILE, first_unused_descriptor(node)):
        # What was there before may have been closed meanwhile, and leaves room for one more each.
        held = []
        while len(held) < 10 and (connection := connected(node)):
            held.append(connection)
        # Closed at once, not left waiting.
        assert len(held) < 10
        written = client.send("POST", "/v1/facts", FACT).expect(201)
        assert client.send("GET", f"/v1/facts/{written['id']}").expect(200)["id"] == written["id"]
        client.send("GET", "/readyz").expect(200)

    writer.assert_recovered()


def first_unused_descriptor(node: RunningNode) -> int:
    used = {int(name) for name in os.listdir(f"/proc/{node.process.pid}/fd")}
    return next(number for number in range(len(used) + 1) if number not in used)


def connected(node: RunningNode) -> Client | None:
    """A connection that answers, or None where the node closes it."""
    client = node.client()
    try:
        client.send("GET", "/healthz").expect(200)
    except (ConnectionError, http.client.HTTPException):
        return None
    return client


def test_a_folder_that_is_moved_away_takes_no_writes_until_it_is_back(writer, tmp_path):
    node, away = writer.node, tmp_path / "away"
    node.data_dir.rename(away)
    await_refusing(node, "storage_failed")
    writer.assert_refused("storage_failed")
    away.rename(node.data_dir)
    writer.assert_recovered()

    node.data_dir.rename(away)
    await_refusing(node, "storage_failed")
    node.stop()
    away.rename(node.data_dir)
    node.start()
    writer.assert_sound()


def test_a_peer_that_could_not_be_taken_up_for_a_failing_disk_is_taken_up_later(make_organisation):
    org_a, org_b = (make_organisation(name, FEDERATION_PULL_INTERVAL_S="1") for name in ("org-a", "org-b"))
    org_a.node.start()
    org_a.publish()
    org_a.register(org_b)
    with failing_calls(org_a.node.process.pid, org_a.node.data_dir / "log" / "data.mdb", SYNCING_CALLS, "error=EIO"):
        org_b.node.start()
        org_b.publish()
        eventually(
            lambda: said_with(org_a.node, "peer_not_attended"), within_s=20, what="the peer was looked at in vain"
        )
    await_active((org_a, org_b), within_s=20)


class ClockedNode(RunningNode):
    """A node whose clock can be set while it runs."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._offset = folder / "offset"
        folder.mkdir()
        self._offset.write_text("+0")
        # The file is looked at anew each second.
        faked = {"TIMESTAMP_FILE": str(self._offset), "CACHE_DURATION": "1", "DONT_FAKE_MONOTONIC": "1"}
        preload = f"LD_PRELOAD={libfaketime()}"
        super().__init__(
            folder, launcher=["env", preload, *(f"FAKETIME_{name}={text}" for name, text in faked.items())], **settings
        )

    def set_clock(self, off_s: int) -> None:
        """Wait until the node goes by a clock that is so many seconds off the machine's."""
        self._offset.write_text(f"{off_s:+d}")
        eventually(self._off_s, lambda found: abs(found - off_s) < 60, within_s=10, what="the clock is set")

    def _off_s(self) -> float:
        stamped = self.post("/v1/facts", FACT).expect(201)["timestamp"]
        return parse_rfc3339(stamped) / 1000 - time.time()


@pytest.fixture
def clocked_node(tmp_path: Path) -> Iterator[ClockedNode]:
    node = ClockedNode(tmp_path / "node", ENTITY_URI=ORG_A)
    yield node.start()
    node.kill()


def test_a_clock_that_jumps_an_hour_back_and_forth_puts_nothing_out_of_order(clocked_node):
    node = clocked_node
    good, revoked = [node.post("/v1/federation/capability-tokens", TOKEN).expect(201) for _ in range(2)]
    facts = [node.post("/v1/facts", FACT).expect(201)]
    for off_s in (-3600, 3600, 0):
        node.set_clock(off_s)
        facts += [node.post("/v1/facts", FACT | {"value": {"type": "number", "v": n}}).expect(201) for n in (1, 2)]
        # Not even for an hour is a token one of the future, or a revoked one good again.
        node.get("/v1/facts?limit=1", good["token_json"]).expect(200)
        if off_s < 0:
            node.post(f"/v1/federation/capability-tokens/{revoked['token_id']}/revoke", {}).expect(200)
        node.get("/v1/facts?limit=1", revoked["token_json"]).refused(403, "token_revoked")
        node.get("/readyz").expect(200)

    assert [fact["hlc"] for fact in facts] == sorted({fact["hlc"] for fact in facts})
    node.stop()
    dates = [entry.header["at"] for entry in read_log(node.data_dir)]
    assert dates == sorted(dates)
    assert check_log(node.data_dir) == []


def test_an_erasure_that_finds_the_disk_full_is_finished_when_there_is_room(disk, tmp_path):
    node = node_on(disk, tmp_path / "node").start()
    writer = Writer(node)
    writer.write(LARGE).expect(201)
    entity, words = f"{ORG_A}/user/alice", "rumpelstiltskin"
    node.post("/v1/facts", FACT | {"entity": entity, "value": {"type": "text", "v": words}}).expect(201)
    # Room for what is said, and not for a second log.
    with filled(disk, leave_bytes=100_000):
        asked = {"entity_uri": entity, "scope": "*", "reason": "asked to be forgotten"}
        node.post("/v1/tombstones", asked).expect(201)
        eventually(lambda: said_with(node, "erasure_failed"), within_s=20, what="the erasure finds no room")
        assert entity not in {fact["entity"] for fact in node.facts()}
        writer.assert_nothing_lost()

    node.restart()
    assert [path for path in node.data_dir.rglob("*") if path.is_file() and words.encode() in path.read_bytes()] == []
    writer.write().expect(201)
    writer.assert_nothing_lost()
    node.stop()
    node.verify_log()
