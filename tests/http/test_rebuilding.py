"""A node whose views are made anew: what it answers meanwhile, and how it comes out (PROTOCOL §13)."""

import asyncio

import msgspec
import pytest

from node.projections.views import read_current
from tests.served import Served, fact

FACTS = 3_000


@pytest.fixture
async def stopped(http: Served) -> Served:
    """A node with facts enough that folding them takes a while, stopped."""
    await _fill(http)
    await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "local"})
    await http.stop()
    return http


async def _fill(http: Served, **named: object) -> None:
    writes = (http.write(entity=f"{http.node.node_id}/thing/{number}", **named) for number in range(FACTS))
    await asyncio.gather(*writes)


def _of_another_version(http: Served, name: str) -> None:
    """Have CURRENT say that another version of one projection folded its tables."""
    views_dir = http.folder / "views"
    current = read_current(views_dir)
    changed = msgspec.structs.replace(current, versions=current.versions | {name: 0})
    (views_dir / "CURRENT").write_bytes(msgspec.json.encode(changed))


async def _until_begun(http: Served) -> None:
    async with asyncio.timeout(20):
        await http.node.begun()


async def test_reads_of_other_views_go_on_while_one_is_made_anew(stopped):
    _of_another_version(stopped, "conflicts")
    await stopped.start(waits_for_views=False)
    ready, gardens, facts, written = [
        await stopped.get("/readyz"),
        await stopped.get("/v1/gardens"),
        await stopped.get("/v1/facts"),
        await stopped.post("/v1/facts", fact()),
    ]
    assert not stopped.node.is_ready, "the folding was over before the questions were"
    assert (
        ready.status == 503
        and ready.json["error"] == "not_ready"
        and f"of {stopped.size} entries" in ready.json["detail"]
    )
    assert gardens.expect(200)["gardens"]
    facts.refused(503, "not_ready")
    written.refused(503, "not_ready")
    await _until_begun(stopped)
    assert (await stopped.get("/readyz")).status == 200
    assert (await stopped.get("/v1/facts", limit=1)).expect(200)["total"] == FACTS
    await stopped.write()


async def test_nothing_is_read_from_views_that_the_machine_took_down(stopped):
    (stopped.folder / "views" / "CURRENT").unlink()
    await stopped.start(waits_for_views=False)
    (await stopped.get("/v1/gardens")).refused(503, "not_ready")
    assert (await stopped.get("/healthz")).status == 200
    await _until_begun(stopped)
    assert (await stopped.get("/v1/gardens")).expect(200)["gardens"]


async def test_a_node_stops_in_the_middle_of_the_folding_and_begins_it_again(stopped):
    _of_another_version(stopped, "facts")
    await stopped.start(waits_for_views=False)
    await stopped.stop()
    assert read_current(stopped.folder / "views").versions["facts"] == 0, "the folding was over before the stop"
    await stopped.start()
    assert (await stopped.get("/v1/facts", limit=1)).expect(200)["total"] == FACTS


async def test_a_generated_admin_key_works_while_the_views_are_made_anew(serve):
    http = await serve(admin_key=None)
    key = http.node.made_admin_key
    await _fill(http, bearer=key)
    await http.stop()
    _of_another_version(http, "identity")
    await http.start(waits_for_views=False)
    (await http.send("GET", "/v1/gardens", bearer=key)).refused(503, "not_ready")
    await _until_begun(http)
    (await http.send("GET", "/v1/gardens", bearer=key)).expect(200)
