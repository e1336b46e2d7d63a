"""A node under which the disk changed its log or its views: what it no longer says, and what it says instead (PROTOCOL §13)."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest

from node.errors import LogDamaged
from node.events.log import ITEM_KEY, OFFSET_KEY
from node.keys import Signer
from node.projections.base import place_key
from replay.rebuild import rebuild_views
from tests import organisations
from tests.clocks import CountedClock
from tests.organisations import Organisation
from tests.replay.folders import edit, flip
from tests.served import SEED, Served, config_for, fact


def _change(folder: Path, table: str, key: bytes, old: bytes, new: bytes) -> None:
    """Change stored bytes behind the node's back, as nothing that writes through it could."""
    environment = lmdb.open(str(folder), max_dbs=40, map_size=1 << 40)
    with environment.begin(write=True) as txn:
        db = environment.open_db(table.encode(), txn, create=False)
        row = txn.get(key, db=db)
        assert row.count(old) == 1, row
        txn.put(key, row.replace(old, new), db=db)
    environment.close()


async def _while_stopped(http: Served, *damage: object) -> None:
    await http.stop()
    _change(http.folder / damage[0], *damage[1:])
    await http.start()


async def _refuses(http: Served, path: str, offset: int) -> None:
    refusal = (await http.get(path)).refused(503, "log_damaged")
    assert f"offset {offset}:" in refusal["detail"] and "stigmem replay verify" in refusal["detail"]
    assert refusal["offset"] == offset


@pytest.fixture
async def http(tmp_path: Path, clock: CountedClock) -> AsyncIterator[Served]:
    """A node whose log is not folded anew at the end, because it cannot be."""
    folder = tmp_path / "damaged"
    started = await Served(folder, clock, Signer.from_seed(SEED), config_for(folder)).start()
    yield started
    await started.stop()


@pytest.fixture
async def two(http: Served) -> tuple[dict, dict]:
    """Two facts: one whose storage will be damaged, and one that stays whole."""
    return await http.write(value={"type": "string", "v": "amber"}, scope="public"), await http.write(
        entity=f"{http.node.node_id}/x"
    )


def _damages(offset: int) -> dict[str, tuple[str, str, bytes, bytes, bytes]]:
    return {
        "an item": ("log", "items", ITEM_KEY.pack(offset, 1), b"amber", b"AMBER"),
        "a header": ("log", "headers", OFFSET_KEY.pack(offset), b'"type":"fact.', b'"type":"FACT.'),
        "the views": ("views/1", "facts/by_place", place_key((offset, 0)), b"amber", b"AMBER"),
    }


@pytest.mark.parametrize("where", list(_damages(0)))
async def test_a_fact_that_is_not_what_the_log_commits_to_is_never_served(http, two, where):
    damaged, whole = two
    offset = damaged["log_offset"]
    await _while_stopped(http, *_damages(offset)[where])
    await _refuses(http, f"/v1/facts/{damaged['id']}", offset)
    await _refuses(http, f"/v1/facts/{damaged['id']}/body", offset)
    await _refuses(http, "/v1/facts", offset)
    (await http.get(f"/v1/facts/{whole['id']}")).expect(200)


async def test_a_node_that_met_damage_is_not_ready_and_takes_no_writes(http, two):
    damaged, whole = two
    await _while_stopped(http, *_damages(damaged["log_offset"])["an item"])
    await _refuses(http, f"/v1/facts/{damaged['id']}", damaged["log_offset"])
    size = http.size
    body = {"entity": whole["entity"], "relation": "memory:x", "value": whole["value"], "source": whole["source"]}
    (await http.post("/v1/facts", body)).refused(503, "log_damaged")
    await _refuses(http, "/readyz", damaged["log_offset"])
    assert http.size == size


@pytest.mark.parametrize("where", list(_damages(0)))
async def test_a_peer_is_not_given_a_fact_that_is_not_what_the_log_commits_to(http, two, where, serve):
    other = Organisation(await serve(seed=organisations.SEED, entity_uri=organisations.NODE_ID))
    await other.join(http)
    damaged, _ = two
    await _while_stopped(http, *_damages(damaged["log_offset"])[where])
    answer = await http.send("GET", "/v1/federation/facts", bearer=other.token(http))
    assert answer.refused(503, "log_damaged")["offset"] == damaged["log_offset"]


async def test_a_node_whose_last_entries_do_not_hold_comes_up_and_says_so(http, two):
    damaged, whole = two
    await _while_stopped(http, *_damages(damaged["log_offset"])["an item"])
    await _refuses(http, "/readyz", damaged["log_offset"])
    await _refuses(http, "/v1/log/checkpoint", damaged["log_offset"])
    (await http.get(f"/v1/facts/{whole['id']}")).expect(200)


async def test_an_entry_whose_signature_was_changed_is_not_shown_whatever_else_of_it_holds(http, two):
    offset = two[0]["log_offset"]
    await http.stop()
    _flip_last_byte(http.folder / "log", offset)
    await http.start()
    await _refuses(http, f"/v1/facts/{two[0]['id']}", offset)
    await _refuses(http, "/v1/admin/audit-log", offset)


@pytest.mark.parametrize("where", ["an item", "a header"])
async def test_views_are_not_made_of_a_damaged_log(http, two, where):
    damaged, whole = two
    await http.stop()
    _change(http.folder / "log", *_damages(damaged["log_offset"])[where][1:])
    shutil.rmtree(http.folder / "views")
    await http.start()
    for path in ("/readyz", f"/v1/facts/{whole['id']}", "/v1/gardens", "/v1/log/checkpoint"):
        await _refuses(http, path, damaged["log_offset"])
    assert (await http.get("/healthz")).status == 200
    assert not (http.folder / "views" / "CURRENT").exists()


async def test_an_older_entry_is_found_damaged_before_views_are_made_anew(http):
    offset = await _with_an_old_fact(http)
    await http.stop()
    _change(http.folder / "log", *_damages(offset)["a header"][1:])
    shutil.rmtree(http.folder / "views")
    await http.start()
    await _refuses(http, "/readyz", offset)


async def test_damage_among_the_older_entries_is_found_in_the_background(http):
    offset = await _with_an_old_fact(http)
    await _while_stopped(http, *_damages(offset)["an item"])
    assert (await http.get("/readyz")).status == 200, "the start looks at the last entries alone"
    http.node.watch_log()
    async with asyncio.timeout(20):
        while http.node.is_ready:  # noqa: ASYNC110 - what it waits for is another thread's finding, not an event
            await asyncio.sleep(0.01)
    await _refuses(http, "/readyz", offset)


async def test_a_node_closes_at_once_while_its_log_is_looked_through(http):
    await _with_an_old_fact(http)
    http.node.watch_log()
    began = time.monotonic()
    await http.restart()
    assert time.monotonic() - began < 5


async def test_a_torn_file_keeps_a_node_from_starting(http, two):
    await http.stop()
    file = http.folder / "log" / "data.mdb"
    sound = file.read_bytes()
    file.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(LogDamaged, match=r"the file in .* is damaged: .*stigmem replay verify"):
        await http.opened(waits_for_views=True)
    file.write_bytes(sound)
    await http.start()


def _unreadable(damaged: dict) -> tuple[str, str, bytes, bytes, bytes]:
    return "views/1", "facts/by_place", place_key((damaged["log_offset"], 0)), b"amber", b"\xff" * 5


async def test_a_row_of_the_views_that_cannot_be_read_is_damage_and_no_bug(http, two):
    await _while_stopped(http, *_unreadable(two[0]))

    refusal = (await http.get("/v1/facts")).refused(503, "log_damaged")

    assert "stigmem replay rebuild" in refusal["detail"]
    (await http.get("/readyz")).refused(503, "log_damaged")


async def test_a_write_that_is_decided_by_such_a_row_is_refused_and_not_stored(http, two):
    await _while_stopped(http, *_unreadable(two[0]))
    size = http.size

    (await http.post("/v1/facts", fact(derived_from=[two[0]["id"]]))).refused(503, "log_damaged")

    assert http.size == size


async def test_a_torn_file_of_views_is_made_anew(http, two):
    await http.stop()
    file = http.folder / "views" / "1" / "data.mdb"
    file.write_bytes(file.read_bytes()[:12288])
    await http.start()
    (await http.get(f"/v1/facts/{two[0]['id']}")).expect(200)


async def _with_an_old_fact(http: Served) -> int:
    """A fact with more entries behind it than a start looks at; its offset."""
    old = await http.write(value={"type": "string", "v": "amber"}, scope="public")
    await asyncio.gather(*(http.write(entity=f"{http.node.node_id}/thing/{number}") for number in range(1100)))
    return old["log_offset"]


def _flip_last_byte(log_dir: Path, offset: int) -> None:
    edit(log_dir, "headers", flip(OFFSET_KEY.pack(offset), -1))


async def test_a_log_that_was_set_back_beside_its_views_takes_no_writes_until_that_is_said_to_be_meant(http):
    await http.write()
    await http.stop()
    shutil.copytree(http.folder / "log", http.folder / "older")
    size = await _one_more_written(http)
    shutil.rmtree(http.folder / "log")
    (http.folder / "older").rename(http.folder / "log")
    await http.start()
    await _refuses(http, "/readyz", size - 1)
    (await http.post("/v1/facts", fact())).refused(503, "log_damaged")
    await http.stop()
    rebuild_views(http.folder)
    await http.start()
    await http.write()


async def test_a_log_that_is_gone_beside_its_views_is_not_founded_anew(http):
    await http.write()
    size = http.size
    await http.stop()
    shutil.rmtree(http.folder / "log")
    for _ in range(2):
        await http.start()
        assert (
            f"the views hold {size} entries, the log 0"
            in (await http.get("/readyz")).refused(503, "log_damaged")["detail"]
        )
        await http.stop()
    await http.start()


async def _one_more_written(http: Served) -> int:
    await http.start()
    await http.write()
    size = http.size
    await http.stop()
    return size
