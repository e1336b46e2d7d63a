"""Contradictions over HTTP: what makes one, which fact wins, how one is settled (PROTOCOL §2.6)."""

import json
import uuid

import pytest

from node.times import format_ms
from tests.api_keys import SCRIBE, bearer_for
from tests.organisations import Organisation, be_strict, issue
from tests.served import NODE_ID, Answer, Served, fact

BILLING = f"{NODE_ID}/service/billing"
CLAIM = {"entity": BILLING, "relation": "memory:state"}


def text(v: str) -> dict[str, object]:
    return {"type": "string", "v": v}


async def say(http: Served, v: str, **fields: object) -> dict:
    return await http.write(value=text(v), **(CLAIM | fields))


async def plain(http: Served, **query: object) -> list[str]:
    page = (await http.get("/v1/facts", **({"entity": BILLING} | query))).expect(200)
    assert page["total"] == len(page["facts"])
    return [record["value"].get("v") for record in page["facts"]]


async def contradicted(http: Served) -> dict[str, bool]:
    page = (await http.get("/v1/facts", entity=BILLING, include_contradicted="true")).expect(200)
    return {record["value"].get("v"): record["contradicted"] for record in page["facts"]}


async def conflicts(http: Served, **query: object) -> list[dict]:
    return (await http.get("/v1/conflicts", **query)).expect(200)["conflicts"]


async def resolve(http: Served, conflict: dict, **body: object) -> Answer:
    return await http.post(f"/v1/conflicts/{conflict['conflict_id']}/resolve", body)


def id_of(a: dict, b: dict) -> str:
    return f"stigmem:conflict:{uuid.uuid5(uuid.NAMESPACE_URL, ' '.join(sorted((a['id'], b['id']))))}"


# What makes one.


async def test_two_values_are_a_conflict_with_an_id_that_every_node_would_give_it(http: Served):
    up, down = await say(http, "up"), await say(http, "down")

    assert not up["contradicted"] and down["contradicted"]
    (conflict,) = await conflicts(http, status="unresolved")
    assert conflict["conflict_id"] == id_of(up, down)
    assert [conflict["fact_a"]["id"], conflict["fact_b"]["id"]] == sorted((up["id"], down["id"]))
    assert conflict["fact_a"]["contradicted"] and conflict["fact_b"]["contradicted"]
    assert conflict["status"] == "unresolved" and conflict["resolved_by"] is None and conflict["detected_at"]
    assert await contradicted(http) == {"up": True, "down": True}


@pytest.mark.parametrize(
    "other",
    [
        {"value": text("up"), "source": "agent:other"},
        {"value": text("down"), "relation": "memory:owner"},
        {"value": text("down"), "scope": "team"},
        {"value": text("down"), "entity": f"{NODE_ID}/service/mail"},
        {"value": text("down"), "confidence": 0.0},
        {"value": text("down"), "supersedes": True},
        {"value": text("down"), "valid_until": "2020-01-01T00:00:00Z"},
        {"value": {"type": "null"}, "confidence": 0.0},
    ],
    ids=["equal value", "relation", "scope", "entity", "retraction", "superseding", "expired", "blanket retraction"],
)
async def test_what_does_not_contradict_makes_no_conflict(http: Served, other: dict):
    await say(http, "up")

    record = await http.write(**(CLAIM | other))

    assert await conflicts(http) == [] and not record["contradicted"]


async def test_a_number_and_its_text_differ_and_so_do_null_and_a_value(http: Served):
    await http.write(**CLAIM, value={"type": "number", "v": 1})
    await http.write(**CLAIM, value=text("1"))
    await http.write(**CLAIM, value={"type": "null"})

    assert len(await conflicts(http)) == 3


@pytest.mark.parametrize(("first", "second"), [("0", "-0.0"), ("-0.0", "0.0"), ("-0", "0")])
async def test_a_zero_is_one_value_with_its_sign_and_without_it(http: Served, first: str, second: str):
    async def say_zero(written: str, **fields: object) -> dict:
        body = json.dumps(fact(value={"type": "number", "v": "zero"}, **(CLAIM | fields))).replace('"zero"', written)
        return (await http.send("POST", "/v1/facts", body.encode())).expect(201)

    await say_zero(first)
    again = await say_zero(second)
    other = await http.write(**CLAIM, value={"type": "boolean", "v": False})
    assert not again["contradicted"] and other["contradicted"] and len(await conflicts(http)) == 2

    await say_zero(second, confidence=0.0)

    assert await plain(http) == [False]


async def test_a_withdrawn_fact_contradicts_nobody_who_comes_after(http: Served):
    await say(http, "up")
    await say(http, "up", confidence=0.0)

    down = await say(http, "down")

    assert not down["contradicted"] and await conflicts(http) == [] and await plain(http) == ["down"]


async def test_facts_in_a_garden_contradict_each_other_and_nobody_outside(http: Served):
    garden = (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "local"})).expect(201)
    await say(http, "up")
    inside = await say(http, "down", garden_id=garden["id"])
    assert not inside["contradicted"] and await conflicts(http) == []

    await say(http, "sideways", garden_id=garden["id"])

    (conflict,) = await conflicts(http)
    assert {conflict["fact_a"]["value"]["v"], conflict["fact_b"]["value"]["v"]} == {"down", "sideways"}
    assert sorted(await plain(http)) == ["sideways", "up"]


# Which one is shown.


async def test_a_plain_read_shows_the_higher_confidence_then_the_higher_hlc(http: Served):
    await say(http, "sure", confidence=0.9)
    await say(http, "newer", confidence=0.5)
    assert await plain(http) == ["sure"]

    await say(http, "surer", confidence=0.9)

    assert await plain(http) == ["surer"]
    assert await plain(http, include_contradicted="true") == ["surer", "newer", "sure"]


async def test_when_all_but_one_are_withdrawn_that_one_is_no_longer_contradicted(http: Served):
    await say(http, "up", source="agent:a")
    await say(http, "down", source="agent:b")
    await say(http, "down", source="agent:b", confidence=0.0)

    assert await plain(http) == ["up"]
    assert (await contradicted(http))["up"] is False
    (conflict,) = await conflicts(http)
    assert (conflict["status"], conflict["resolved_by"]) == ("resolved", None)
    assert await conflicts(http, status="unresolved") == []


async def test_a_side_that_expires_ends_the_conflict(http: Served):
    await say(http, "up")
    soon = http.clock.now_ms() + 60_000
    await say(http, "down", valid_until=format_ms(soon))
    assert [conflict["status"] for conflict in await conflicts(http)] == ["unresolved"]

    http.clock.set(soon + 1)

    assert [conflict["status"] for conflict in await conflicts(http)] == ["resolved"]
    assert await plain(http) == ["up"] and (await contradicted(http)).get("up") is False


# What the node says of it.


async def test_what_the_node_says_of_a_conflict_is_read_like_any_fact(http: Served):
    up, down = await say(http, "up", scope="public"), await say(http, "down", scope="public")
    conflict_id = id_of(up, down)

    about = (await http.get("/v1/facts", entity=conflict_id)).expect(200)["facts"]
    between = next(record for record in about if record["relation"] == "stigmem:conflict:between")
    status = next(record for record in about if record["relation"] == "stigmem:conflict:status")

    assert between["value"] == {"type": "text", "v": " ".join(sorted((up["id"], down["id"])))}
    assert status["value"] == {"type": "string", "v": "unresolved"}
    assert {between["source"], status["source"]} == {"system:stigmem"} and between["scope"] == "public"
    listed = (await http.get("/v1/facts", relation="stigmem:conflict:between")).expect(200)["facts"]
    assert [record["id"] for record in listed] == [between["id"]]
    assert (await http.get(f"/v1/facts/{between['id']}")).expect(200)["value"] == between["value"]
    assert await plain(http) == ["down"]


# Settling.


async def test_a_winner_settles_every_conflict_of_its_group_and_a_plain_read_shows_the_new_fact(http: Served):
    up, down, _ = await say(http, "up"), await say(http, "down"), await say(http, "gone")
    conflict = next(c for c in await conflicts(http) if c["conflict_id"] == id_of(up, down))

    answer = (await resolve(http, conflict, winning_fact_id=up["id"], resolution_note="asked them")).expect(200)

    assert answer["conflict_status"] == "resolved"
    settled = (await http.get(f"/v1/facts/{answer['resolution_fact_id']}")).expect(200)
    assert (settled["value"]["v"], settled["confidence"], settled["source"]) == ("up", 1.0, NODE_ID)
    assert not settled["contradicted"]
    assert [record["status"] for record in await conflicts(http)] == ["resolved"] * 3
    assert {record["resolved_by"] for record in await conflicts(http)} == {answer["resolution_fact_id"]}
    page = (await http.get("/v1/facts", entity=BILLING)).expect(200)["facts"]
    assert [record["id"] for record in page] == [answer["resolution_fact_id"]]
    assert len(await plain(http, include_contradicted="true")) == 4
    resolves = (await http.get("/v1/facts", entity=answer["resolution_fact_id"])).expect(200)["facts"]
    assert {record["relation"] for record in resolves} == {"stigmem:resolves"}
    (await resolve(http, conflict, winning_fact_id=up["id"])).refused(409, "conflict_already_resolved")


async def test_a_new_value_stands_though_a_winner_is_named_and_later_facts_contradict_it_alone(http: Served):
    up, down = await say(http, "up"), await say(http, "down")
    (conflict,) = await conflicts(http)

    body = {"winning_fact_id": up["id"], "new_value": text("degraded")}
    settled = (await resolve(http, conflict, **body)).expect(200)["resolution_fact_id"]
    assert await plain(http) == ["degraded"]
    later = await say(http, "down", confidence=0.5)

    assert await plain(http) == ["degraded"] and later["contradicted"]
    (unresolved,) = await conflicts(http, status="unresolved")
    assert {unresolved["fact_a"]["id"], unresolved["fact_b"]["id"]} == {settled, later["id"]}
    assert http.entries(http.size - 2)[0].event.winning_fact_id == up["id"] != down["id"]


async def test_what_settles_nothing_is_refused_and_leaves_nothing(http: Served):
    await say(http, "up"), await say(http, "down")
    stranger = await say(http, "other", relation="memory:owner")
    (conflict,) = await conflicts(http)
    size, digests = http.size, await http.digests()

    (await resolve(http, conflict)).refused(422, "missing_field")
    (await resolve(http, conflict, winning_fact_id=stranger["id"])).refused(422, "winner_not_in_conflict")
    for value, status, code in (
        ({"type": "number", "v": "x"}, 422, "invalid_value"),
        ({"type": "string"}, 422, "invalid_value"),
        (text("x" * 65_537), 413, "text_too_large"),
    ):
        assert "new_value.v: " in (await resolve(http, conflict, new_value=value)).refused(status, code)["detail"]
    unknown = {"conflict_id": f"stigmem:conflict:{uuid.uuid4()}"}
    (await resolve(http, unknown, winning_fact_id=stranger["id"])).refused(404, "conflict_not_found")
    (await resolve(http, {"conflict_id": "x"}, winning_fact_id=stranger["id"])).refused(404, "conflict_not_found")

    assert http.size == size and await http.digests() == digests


# Many.


async def test_a_group_has_pairwise_records_of_32_facts_and_the_others_are_contradicted_all_the_same(http: Served):
    for number in range(36):
        await say(http, f"value {number}")

    found = await conflicts(http, limit=1000)

    assert len(found) == 32 * 31 // 2
    assert len({side["id"] for conflict in found for side in (conflict["fact_a"], conflict["fact_b"])}) == 32
    assert set((await contradicted(http)).values()) == {True}
    assert await plain(http) == ["value 35"]
    settled = (await resolve(http, found[0], new_value=text("end"))).expect(200)
    assert await plain(http) == ["end"] and settled["conflict_status"] == "resolved"
    assert await conflicts(http, status="unresolved") == []


async def test_where_a_full_group_has_room_again_records_go_to_those_that_stand_longest_and_to_none_that_expired(
    http: Served,
):
    first = [await say(http, f"value {number}") for number in range(32)]
    now_ms = http.clock.now_ms()
    lasting = [
        await say(http, f"late {number}", valid_until=format_ms(now_ms + (number * 7 % 20) * 60_000 + 30_000))
        for number in range(20)
    ]
    for number in range(10):
        await say(http, f"value {number}", confidence=0.0)
    http.clock.advance(5 * 60_000)

    news = await say(http, "news")

    found = await conflicts(http, limit=1000)
    of_news = [
        {conflict["fact_a"]["id"], conflict["fact_b"]["id"]} - {news["id"]}
        for conflict in found
        if news["id"] in (conflict["fact_a"]["id"], conflict["fact_b"]["id"])
    ]
    longest = sorted(lasting, key=lambda record: record["valid_until"])[-9:]
    assert set().union(*of_news) == {record["id"] for record in (*first[10:], *longest)}


async def test_one_dissenter_among_many_of_one_mind_is_in_conflict_with_them(http: Served):
    for number in range(40):
        await say(http, "up", source=f"agent:{number}")
    assert await conflicts(http) == []

    await say(http, "down")

    assert len(await conflicts(http, limit=1000)) == 31
    assert set((await contradicted(http)).values()) == {True}


async def test_pages_of_conflicts_repeat_nothing_and_miss_nothing_while_writes_and_decisions_go_on(http: Served):
    for number in range(5):
        for value in ("up", "down"):
            await http.write(entity=f"{NODE_ID}/service/{number}", relation="memory:state", value=text(value))
    everything = [conflict["conflict_id"] for conflict in await conflicts(http)]
    seen, cursor = [], None
    while True:
        query = {"limit": 2, "status": "unresolved"} | ({"cursor": cursor} if cursor else {})
        page = (await http.get("/v1/conflicts", **query)).expect(200)
        seen += [conflict["conflict_id"] for conflict in page["conflicts"]]
        cursor = page["cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            break
        await say(http, f"noise {len(seen)}")
        last = {"conflict_id": everything[-1]}
        await resolve(http, last, new_value=text("settled"))

    assert seen == everything and len(seen) == 5


async def test_a_listing_s_later_pages_show_the_contradictions_of_its_first_page(http: Served):
    for number in range(3):
        await http.write(entity=f"{NODE_ID}/service/{number}", relation="memory:state", value=text("up"))
    first = (await http.get("/v1/facts", relation="memory:state", limit=1)).expect(200)
    for number in range(3):
        await http.write(
            entity=f"{NODE_ID}/service/{number}", relation="memory:state", value=text("down"), source="agent:x"
        )

    rest = (await http.get("/v1/facts", relation="memory:state", limit=10, cursor=first["cursor"])).expect(200)["facts"]

    assert [(record["value"]["v"], record["contradicted"]) for record in rest] == [("up", False)] * 2


# Quarantine.


async def test_what_waits_in_quarantine_contradicts_nobody_until_it_is_promoted(http: Served, org_b: Organisation):
    garden = await be_strict(http)
    await org_b.join(http)
    up = await say(http, "up", scope="company")
    body = fact(**CLAIM, value=text("down"), scope="company", source=org_b.assistant)
    held = (await http.post("/v1/facts", body, bearer=await issue(http, org_b.assistant))).expect(202)
    assert await conflicts(http) == []

    promoted = {"fact_id": held["fact_id"], "target_garden_id": None}
    (await http.post(f"/v1/gardens/{garden}/promote", promoted)).expect(200)

    (conflict,) = await conflicts(http)
    assert {conflict["fact_a"]["id"], conflict["fact_b"]["id"]} == {up["id"], held["fact_id"]}


async def test_what_one_page_brings_and_retracts_contradicts_nobody(http: Served, org_b: Organisation):
    await org_b.join(http)
    said = [
        {"value": text("a")},
        {"value": text("a"), "confidence": 0.0},
        {"value": text("c")},
    ]
    facts = [
        org_b.served_fact(number=number, hlc=f"{1777895940000 + number:013d}.000", **fields)
        for number, fields in enumerate(said, 1)
    ]
    await org_b.receive(http, *facts)

    (record,) = (await http.get("/v1/facts", source=org_b.assistant)).expect(200)["facts"]
    assert record["value"]["v"] == "c" and not record["contradicted"]
    assert (await http.get("/v1/conflicts")).expect(200)["conflicts"] == []


# Settled with an API key.


async def settled_by(http: Served, conflict_id: str, bearer: str, **body: object) -> Answer:
    return await http.post(f"/v1/conflicts/{conflict_id}/resolve", body, bearer=bearer)


async def test_a_key_that_reads_both_sides_and_writes_settles_a_conflict_in_its_own_name(http: Served):
    up, down = await say(http, "up"), await say(http, "down")
    bearer = await bearer_for(http, "read", "write")

    answer = (await settled_by(http, id_of(up, down), bearer, winning_fact_id=down["id"])).expect(200)

    settled = (await http.get(f"/v1/facts/{answer['resolution_fact_id']}")).expect(200)
    assert (settled["source"], settled["value"]) == (SCRIBE, text("down"))
    assert await plain(http) == ["down"]


@pytest.mark.parametrize("permissions", [["read"], ["write"], ["admin"], ["read", "admin"], ["federate"]])
async def test_settling_takes_reading_and_writing(http: Served, permissions: list[str]):
    up, down = await say(http, "up"), await say(http, "down")
    bearer = await bearer_for(http, *permissions)

    for conflict_id in (id_of(up, down), id_of(up, up)):
        (await settled_by(http, conflict_id, bearer, winning_fact_id=up["id"])).refused(403, "insufficient_permission")
    assert await conflicts(http, status="resolved") == []


async def test_a_conflict_in_a_scope_that_a_key_does_not_read_is_none_to_it(http: Served):
    up, down = await say(http, "up", scope="team"), await say(http, "down", scope="team")
    bearer = await bearer_for(http, "read", "write", allowed_scopes=["local", "public"])

    answer = await settled_by(http, id_of(up, down), bearer, winning_fact_id=up["id"])

    answer.refused(404, "conflict_not_found")
    listed = await http.send("GET", "/v1/conflicts", bearer=bearer)
    assert listed.expect(200)["conflicts"] == []
