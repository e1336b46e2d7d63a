"""Contradictions between organisations: found on receipt, named alike, and settled where whoever settles them has a say (§2.6)."""

import itertools
import uuid

import pytest

from tests.organisations import Organisation
from tests.served import NODE_ID, Served

OURS = {"entity": f"{NODE_ID}/service/billing", "relation": "memory:state", "scope": "public"}


def text(v: str) -> dict[str, object]:
    return {"type": "string", "v": v}


async def conflicts(http: Served, **query: object) -> list[dict]:
    return (await http.get("/v1/conflicts", **query)).expect(200)["conflicts"]


async def shown(http: Served, entity: str) -> list[str]:
    return [record["value"]["v"] for record in (await http.get("/v1/facts", entity=entity)).expect(200)["facts"]]


def resolution_of(conflict: dict) -> dict[str, object]:
    sides = [conflict["fact_a"]["id"], conflict["fact_b"]["id"]]
    return {"conflict_id": conflict["conflict_id"], "superseded": sides}


async def test_a_received_fact_contradicts_ours_and_both_nodes_would_name_the_conflict_alike(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    ours = await http.write(**OURS, value=text("up"))
    theirs = org_b.served_fact(**OURS, value=text("down"))

    await org_b.receive(http, theirs)

    (conflict,) = await conflicts(http, status="unresolved")
    name = " ".join(sorted((ours["id"], theirs["id"])))
    assert conflict["conflict_id"] == f"stigmem:conflict:{uuid.uuid5(uuid.NAMESPACE_URL, name)}"
    assert conflict["fact_a"]["contradicted"] and conflict["fact_b"]["contradicted"]


async def test_what_is_said_of_a_conflict_and_its_status_is_served_to_no_peer(http: Served, org_b: Organisation):
    await org_b.join(http)
    await http.write(**OURS, value=text("up"))
    await http.write(**OURS, value=text("down"))

    answer = await http.send("GET", "/v1/federation/facts", bearer=org_b.token(http))

    served = answer.expect(200)["facts"]
    assert [fact["relation"] for fact in served] == ["memory:state"] * 2


async def test_our_resolution_travels_sealed_with_all_that_it_settles(http: Served, org_b: Organisation):
    await org_b.join(http)
    sides = [await http.write(**OURS, value=text(v)) for v in ("up", "down")]
    (conflict,) = await conflicts(http)
    path = f"/v1/conflicts/{conflict['conflict_id']}/resolve"
    settled = (await http.post(path, {"winning_fact_id": sides[0]["id"]})).expect(200)["resolution_fact_id"]

    served = (await http.send("GET", "/v1/federation/facts", bearer=org_b.token(http))).expect(200)["facts"]

    (resolution,) = [fact for fact in served if fact["id"] == settled]
    assert resolution["resolves"]["conflict_id"] == conflict["conflict_id"]
    assert sorted(resolution["resolves"]["superseded"]) == sorted(side["id"] for side in sides)
    assert resolution["seal"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_a_resolution_by_the_entity_s_authority_settles_in_any_order_of_arrival(
    http: Served, org_b: Organisation, order: tuple[int, ...]
):
    await org_b.join(http)
    theirs = {"entity": f"{org_b.node_id}/service/mail", "relation": "memory:state", "scope": "public"}
    sides = [org_b.served_fact(**theirs, number=n, value=text(v)) for n, v in ((1, "up"), (2, "down"))]
    name = " ".join(side["id"] for side in sides)
    conflict_id = f"stigmem:conflict:{uuid.uuid5(uuid.NAMESPACE_URL, name)}"
    settles = {"conflict_id": conflict_id, "superseded": [side["id"] for side in sides]}
    resolution = org_b.served_fact(**theirs, number=3, value=text("degraded"), resolves=settles)
    arriving = [*sides, resolution]

    for index in order:
        await org_b.receive(http, arriving[index], cursor=f"c{index}")

    assert await shown(http, theirs["entity"]) == ["degraded"]
    assert await conflicts(http, status="unresolved") == []
    both = (await http.get("/v1/facts", entity=theirs["entity"], include_contradicted="true")).expect(200)["facts"]
    assert {record["value"]["v"]: record["contradicted"] for record in both} == {
        "up": True,
        "down": True,
        "degraded": False,
    }


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_a_resolution_that_was_taken_back_has_settled_all_the_same_in_any_order_of_arrival(
    http: Served, org_b: Organisation, order: tuple[int, ...]
):
    await org_b.join(http)
    theirs = {"entity": f"{org_b.node_id}/service/mail", "relation": "memory:state", "scope": "public"}
    sides = [org_b.served_fact(**theirs, number=n, value=text(v)) for n, v in ((1, "up"), (2, "down"))]
    settles = {"conflict_id": f"stigmem:conflict:{uuid.uuid4()}", "superseded": [side["id"] for side in sides]}
    settler = {"source": org_b.node_id, **theirs}
    resolution = org_b.served_fact(**settler, number=3, value=text("degraded"), resolves=settles)
    taken_back = org_b.served_fact(**settler, number=4, value={"type": "null"}, confidence=0.0, hlc="1777895940001.000")
    arriving = [sides, [resolution], [taken_back]]

    for index in order:
        await org_b.receive(http, *arriving[index], cursor=f"c{index}")

    assert await shown(http, theirs["entity"]) == []
    assert await conflicts(http, status="unresolved") == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["behind it", "before it"])
async def test_a_fact_that_comes_on_one_page_with_its_retraction_disputes_nothing(
    http: Served, org_b: Organisation, order: tuple[int, int]
):
    await org_b.join(http)
    ours = await http.write(**OURS, value=text("up"), confidence=0.5)
    said = org_b.served_fact(**OURS, number=1, value=text("down"))
    taken_back = org_b.served_fact(**OURS, number=2, value=text("down"), confidence=0.0, hlc="1777895940001.000")

    await org_b.receive(http, *[(said, taken_back)[index] for index in order])

    assert await conflicts(http, status="unresolved") == []
    (record,) = (await http.get("/v1/facts", entity=OURS["entity"])).expect(200)["facts"]
    assert (record["id"], record["contradicted"]) == (ours["id"], False)


async def test_somebody_else_s_resolution_of_our_conflict_is_a_plain_fact_that_contradicts(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    for v in ("up", "down"):
        await http.write(**OURS, value=text(v))
    (conflict,) = await conflicts(http)

    resolution = org_b.served_fact(**OURS, value=text("theirs"), confidence=1.0, resolves=resolution_of(conflict))
    await org_b.receive(http, resolution)

    unresolved = await conflicts(http, status="unresolved")
    assert len(unresolved) == 3 and conflict["conflict_id"] in {found["conflict_id"] for found in unresolved}


async def test_a_resolution_reaches_only_facts_of_its_own_group(http: Served, org_b: Organisation):
    await org_b.join(http)
    theirs = {"entity": f"{org_b.node_id}/service/mail", "relation": "memory:state", "scope": "public"}
    elsewhere = await http.write(**(OURS | {"relation": "memory:owner"}), value=text("ours"))
    settles = {"conflict_id": f"stigmem:conflict:{uuid.uuid4()}", "superseded": [elsewhere["id"]]}

    await org_b.receive(http, org_b.served_fact(**theirs, value=text("x"), resolves=settles))

    assert await shown(http, OURS["entity"]) == ["ours"]


async def test_a_conflict_is_settled_however_many_stronger_facts_stand_beside_its_sides(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    for v in ("up", "down"):
        await http.write(**OURS, value=text(v), confidence=0.5)
    (conflict,) = await conflicts(http)
    crowd = [
        org_b.served_fact(**OURS, number=n, value=text("down"), confidence=1.0, seal=None, cid=None)
        for n in range(1, 1010)
    ]
    for start in (0, 500, 1000):
        await org_b.receive(http, *crowd[start : start + 500], cursor=f"c{start}")

    path = f"/v1/conflicts/{conflict['conflict_id']}/resolve"
    (await http.post(path, {"new_value": text("up")})).expect(200)

    assert conflict["conflict_id"] in {found["conflict_id"] for found in await conflicts(http, status="resolved")}
    (await http.post(path, {"new_value": text("up")})).refused(409, "conflict_already_resolved")
