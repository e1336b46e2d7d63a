"""A node under which the disk changed its log or its views: what it no longer says, and what it says instead (PROTOCOL §13)."""

from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest

from node.events.log import ITEM_KEY, OFFSET_KEY
from node.keys import Signer
from node.projections.base import place_key
from tests import organisations
from tests.clocks import CountedClock
from tests.organisations import Organisation
from tests.served import SEED, Served, config_for


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
