"""`as_of` over HTTP: which entries a point covers, what is of then, and what stays of now (PROTOCOL §2.5)."""

import json
from collections.abc import Iterator
from functools import reduce
from urllib.parse import quote

import msgspec
import pytest
from msgspec import structs

from node.canonical import b64url_decode
from node.http.app import ROUTES
from node.http.cursors import cursor_text
from node.times import format_ms
from tests.clocks import START_MS
from tests.conftest import Serve
from tests.http.test_doors import PEERS_ALONE, PLACES, PUBLIC
from tests.organisations import Organisation, be_strict, issue
from tests.served import NODE_ID, Served

BILLING = f"{NODE_ID}/service/billing"
CLAIM = {"entity": BILLING, "relation": "memory:state"}
UNKNOWN_ID = "01890000-0000-7000-8000-00000000dead"
PEERS = "/v1/federation/peers"
TOKENS = "/v1/federation/capability-tokens"
LISTINGS = ("/v1/facts", "/v1/conflicts", "/v1/quarantine", "/v1/gardens", PEERS, TOKENS)


def text(v: str) -> dict[str, object]:
    return {"type": "string", "v": v}


def offset(record: dict) -> str:
    return f"offset:{record['log_offset']}"


async def values(http: Served, **query: object) -> list[str]:
    page = (await http.get("/v1/facts", **({"entity": BILLING} | query))).expect(200)
    assert page["total"] == len(page["facts"])
    return [record["value"]["v"] for record in page["facts"]]


async def read_by(http: Served, token: str, path: str, **query: str) -> tuple[int, dict]:
    words = "&".join(f"{name}={value}" for name, value in query.items())
    answer = await http.send("GET", f"{path}?{words}", bearer=token)
    return answer.status, answer.json


# Which entries a point covers.


async def test_an_offset_covers_its_own_entry_and_none_behind_it(http: Served):
    up = await http.write(**CLAIM, value=text("up"))
    replaced = await http.write(**CLAIM, value=text("down"), supersedes=True)

    assert await values(http, as_of=f"offset:{up['log_offset'] - 1}") == []
    assert await values(http, as_of=offset(up)) == ["up"]
    assert await values(http, as_of=offset(replaced)) == ["down"] == await values(http)


async def test_a_time_covers_all_that_is_dated_no_later(http: Served):
    for v in ("up", "sideways"):
        await http.write(**CLAIM, value=text(v), supersedes=True)
    http.clock.advance(1000)
    await http.write(**CLAIM, value=text("down"), supersedes=True)

    assert await values(http, as_of=format_ms(START_MS - 1)) == []
    assert await values(http, as_of=format_ms(START_MS)) == ["sideways"]
    assert await values(http, as_of=format_ms(START_MS + 999)) == ["sideways"]
    assert await values(http, as_of="2026-05-04T14:00:00.999+02:00") == ["sideways"]
    assert await values(http, as_of=format_ms(START_MS + 1000)) == ["down"]


@pytest.mark.parametrize(
    "as_of",
    [
        "",
        "offset:",
        "offset:-1",
        "offset:01",
        "offset:999",
        f"offset:{2**64}",
        "yesterday",
        "2026-05-04",
        "2099-01-01T00:00:00Z",
    ],
)
async def test_a_point_that_is_none_or_not_there_yet_is_refused(http: Served, as_of: str):
    for path in (*LISTINGS, f"/v1/facts/{UNKNOWN_ID}", f"/v1/facts/{UNKNOWN_ID}/body", f"{TOKENS}/{UNKNOWN_ID}"):
        (await http.get(path, as_of=as_of)).refused(422, "invalid_parameter")


async def test_a_point_is_named_once(http: Served):
    for path in ("/v1/facts", f"/v1/facts/{UNKNOWN_ID}"):
        answer = await http.send("GET", f"{path}?as_of=offset:0&as_of=offset:1")
        answer.refused(422, "invalid_parameter")


async def test_a_read_without_a_past_refuses_rather_than_answers_with_the_present(http: Served):
    reads: list[tuple[str, dict[str, str]]] = [
        ("/v1/admin/config", {}),
        ("/v1/admin/audit-log", {}),
        ("/v1/trust", {"source": "agent:a"}),
        ("/v1/federation/audit", {}),
        (f"/v1/federation/manifest/{NODE_ID.replace(':', '%3A').replace('/', '%2F')}", {}),
        (f"{PEERS}/{UNKNOWN_ID}/capabilities", {}),
    ]
    for path, query in reads:
        words = "&".join(f"{name}={value}" for name, value in (query | {"as_of": "offset:0"}).items())
        (await http.send("GET", f"{path}?{words}")).refused(422, "unsupported_parameter")


async def test_every_read_of_content_takes_a_point_or_refuses_one(http: Served):
    """What is public, what peers ask for, and whom a credential speaks for is no content; a new read has to choose."""
    spared = (
        {"GET /v1/me", "GET /v1/federation/tombstones"}
        | PEERS_ALONE
        | (PUBLIC - {"GET /v1/federation/manifest/{entity_uri:.+}"})
    )
    reads = {route.path for route in ROUTES if route.method == "GET" and f"GET {route.path}" not in spared}
    assert len(reads) >= 16
    for read in reads:
        path = reduce(lambda path, place: path.replace(place, PLACES[place]), PLACES, read)
        answer = await http.send("GET", f"{path}?as_of=offset:999999")
        assert answer.status == 422 and "as_of" in answer.json["detail"], path


# Pages.


@pytest.mark.parametrize("path", ["/v1/facts", "/v1/conflicts"])
async def test_a_cursor_carries_its_point_and_takes_no_other(http: Served, path: str):
    for v in ("a", "b", "c"):
        last = await http.write(**CLAIM, value=text(v))
    query = {"include_contradicted": True, "limit": 1}
    first = (await http.get(path, **query, as_of=offset(last))).expect(200)
    now = (await http.get(path, **query)).expect(200)
    await http.write(**CLAIM, value=text("d"))
    (await http.post(f"/v1/conflicts/{await a_conflict(http)}/resolve", {"new_value": text("e")})).expect(200)

    alone = (await http.get(path, **query, cursor=first["cursor"])).expect(200)

    assert alone == (await http.get(path, **query, cursor=first["cursor"], as_of=offset(last))).expect(200)
    (shown,) = alone.get("facts") or alone["conflicts"]
    assert shown.get("status", "unresolved") == "unresolved" and shown.get("contradicted", True)
    for cursor, as_of in ((first["cursor"], "offset:0"), (now["cursor"], offset(last))):
        (await http.get(path, **query, cursor=cursor, as_of=as_of)).refused(400, "invalid_cursor")


@pytest.mark.parametrize(
    ("path", "listing"),
    [
        ("/v1/facts", "facts"),
        (f"/v1/entities/{quote(CLAIM['entity'], safe='')}/history", "facts"),
        ("/v1/conflicts", "conflicts"),
    ],
)
@pytest.mark.parametrize("odd", [-1, -(2**63), 2**63, 2**64 - 1, None, "x", []])
async def test_a_cursor_that_somebody_forged_is_refused_or_means_another_page(
    http: Served, path: str, listing: str, odd: object
):
    for v in ("a", "b", "c"):
        last = await http.write(**CLAIM, value=text(v))
    for as_of in ({}, {"as_of": offset(last)}):
        query = {"limit": 1, "include_contradicted": True} | as_of
        cursor = (await http.get(path, **query)).expect(200)["cursor"]
        content = msgspec.msgpack.decode(b64url_decode(cursor)[:-4])
        assert cursor_text(content, listing) == cursor
        for altered in altered_anywhere(content, odd):
            answer = await http.get(path, **query, cursor=cursor_text(altered, listing) or "x")
            if answer.status != 200:
                answer.refused(400, "invalid_cursor")
            else:
                assert answer.json.get("total", 0) in range(4)


def altered_anywhere(content: object, odd: object) -> Iterator[object]:
    """What a cursor holds, each time with another part of it replaced."""
    yield odd
    for index, part in enumerate(content if isinstance(content, list) else ()):
        for altered in altered_anywhere(part, odd):
            yield [*content[:index], altered, *content[index + 1 :]]


async def a_conflict(http: Served) -> str:
    return (await http.get("/v1/conflicts", status="unresolved")).expect(200)["conflicts"][0]["conflict_id"]


# What is of then.


async def test_a_conflict_reads_as_it_stood_and_so_do_its_sides(http: Served):
    up = await http.write(**CLAIM, value=text("up"))
    down = await http.write(**CLAIM, value=text("down"))
    conflict_id = await a_conflict(http)
    (await http.post(f"/v1/conflicts/{conflict_id}/resolve", {"winning_fact_id": up["id"]})).expect(200)

    then = (await http.get("/v1/conflicts", as_of=offset(down))).expect(200)["conflicts"]

    assert [(one["status"], one["resolved_by"]) for one in then] == [("unresolved", None)]
    assert then[0]["fact_a"]["contradicted"] and then[0]["fact_b"]["contradicted"]
    assert (await http.get("/v1/conflicts", as_of=offset(up))).expect(200)["conflicts"] == []
    assert (await http.get(f"/v1/facts/{up['id']}", as_of=offset(up))).expect(200)["contradicted"] is False
    told = {"entity": conflict_id, "relation": "stigmem:conflict:status"}
    assert await values(http, **told, as_of=offset(down)) == ["unresolved"] and await values(http, **told) == [
        "resolved"
    ]
    assert await values(http, **told, as_of=offset(up)) == []


async def test_what_has_expired_since_was_valid_then(http: Served):
    until = format_ms(START_MS + 5000)
    short = await http.write(**CLAIM, value=text("short"), valid_until=until)
    await http.write(**CLAIM, value=text("long"), confidence=0.5)
    http.clock.advance(10_000)

    assert await values(http) == ["long"]
    assert await values(http, as_of=f"offset:{http.size - 1}") == ["short"]
    assert await values(http, as_of=format_ms(START_MS + 4999)) == ["short"]
    assert await values(http, as_of=until) == ["long"]
    assert (await http.get(f"/v1/facts/{short['id']}", as_of=until)).expect(200)["contradicted"] is False


async def test_a_seal_that_came_later_was_not_there_before(serve: Serve):
    http = await serve(federation_enabled=False)
    record = await http.write(**CLAIM, value=text("up"), scope="public")
    http.config = structs.replace(http.config, federation_enabled=True)
    await http.restart()
    path = f"/v1/facts/{record['id']}"

    assert (await http.get(path)).expect(200)["seal"] is not None
    assert (await http.get(path, as_of=offset(record))).expect(200)["seal"] is None
    assert (await http.get("/v1/facts", as_of=offset(record))).expect(200)["facts"][0]["seal"] is None


async def test_trust_is_that_recorded_with_the_fact(http: Served, org_b: Organisation):
    await org_b.join(http)
    await org_b.receive(http, org_b.served_fact())
    (then,) = (await http.get("/v1/facts", source=org_b.assistant)).expect(200)["facts"]
    (await http.send("PATCH", "/v1/admin/config", {"blocked_sources": [org_b.assistant]})).expect(200)
    path = f"/v1/facts/{then['id']}"

    past = (await http.get(path, as_of=offset(then))).expect(200)

    assert (await http.get(path)).expect(200)["effective_confidence"] == 0.0
    assert past["effective_confidence"] == round(past["confidence"] * past["source_trust"], 6) > 0


async def test_a_resolution_from_quarantine_settles_from_its_promotion_on_alone(http: Served, org_b: Organisation):
    garden = await be_strict(http)
    await org_b.join(http)
    entity = f"{org_b.node_id}/project/zeus"
    sides = [await http.write(entity=entity, relation="memory:status", scope="public", value=text(v)) for v in "ab"]
    conflict_id = await a_conflict(http)
    resolves = {"conflict_id": conflict_id, "superseded": [side["id"] for side in sides]}
    resolution = org_b.served_fact(resolves=resolves, value=text("c"), confidence=1.0)
    await org_b.receive(http, resolution)
    waiting = http.size - 1
    body = {"fact_id": resolution["id"], "target_garden_id": None, "reason": ""}
    (await http.post(f"/v1/gardens/{garden}/promote", body)).expect(200)

    for as_of, status, by in ((waiting, "unresolved", None), (http.size - 1, "resolved", resolution["id"])):
        (one,) = (await http.get("/v1/conflicts", as_of=f"offset:{as_of}")).expect(200)["conflicts"]
        assert (one["status"], one["resolved_by"]) == (status, by)
    assert await values(http, entity=resolution["id"], as_of=f"offset:{waiting}") == []


async def test_peers_tokens_and_gardens_are_listed_as_they_were(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    token_id = json.loads(await issue(http, org_b.assistant))["token_id"]
    (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "local"})).expect(201)
    then = f"offset:{http.size - 1}"
    before = {path: (await http.get(path)).expect(200) for path in (PEERS, TOKENS, "/v1/gardens")}
    assert (await http.send("DELETE", f"{PEERS}/{peer_id}")).status == 204
    (await http.post(f"{TOKENS}/{token_id}/revoke", {})).expect(200)
    assert (await http.send("DELETE", "/v1/gardens/den")).status == 204

    (peer,) = (await http.get(PEERS, as_of=then)).expect(200)["peers"]

    known = {name: value for name, value in before[PEERS]["peers"][0].items() if peer[name] is not None}
    assert {name: peer[name] for name in known} == known and peer["status"] == "active"
    assert [peer[name] for name in ("cursor", "facts_accepted", "lag", "last_error")] == [None] * 4
    for path in (TOKENS, "/v1/gardens"):
        assert (await http.get(path, as_of=then)).expect(200) == before[path]
        assert (await http.get(path)).expect(200) != before[path]
    assert (await http.get(f"{TOKENS}/{token_id}", as_of=then)).expect(200)["status"] == "active"
    assert (await http.get("/v1/gardens/den", as_of=then)).expect(200)["slug"] == "den"
    assert (await http.get(PEERS, as_of="offset:0")).expect(200) == {"peers": []}
    (await http.get(f"{TOKENS}/{token_id}", as_of="offset:0")).refused(404, "token_not_found")


# What is of now.


async def test_what_was_held_then_is_shown_then_to_moderators_alone_though_it_is_public_now(
    http: Served, org_b: Organisation
):
    garden = await be_strict(http)
    await org_b.join(http)
    held = org_b.served_fact()
    await org_b.receive(http, held)
    waiting = f"offset:{http.size - 1}"
    body = {"fact_id": held["id"], "target_garden_id": None, "reason": ""}
    (await http.post(f"/v1/gardens/{garden}/promote", body)).expect(200)
    reader = await issue(http, org_b.assistant, verb="read")
    path = f"/v1/facts/{held['id']}"

    assert (await read_by(http, reader, path))[0] == 200
    assert (await read_by(http, reader, path, as_of=waiting))[1]["error"] == "fact_not_found"
    assert (await read_by(http, reader, f"{path}/body", as_of=waiting))[1]["error"] == "fact_not_found"
    assert (await read_by(http, reader, "/v1/facts", as_of=waiting))[1]["total"] == 0
    assert (await http.get("/v1/facts", as_of=waiting)).expect(200)["total"] == 0
    then = (await http.get(path, as_of=waiting)).expect(200)
    assert (then["quarantine_status"], then["quarantine_garden_id"]) == ("pending", garden)
    for status, expected in (("pending", [held["id"]]), ("promoted", [])):
        queue = (await http.get("/v1/quarantine", quarantine_status=status, as_of=waiting)).expect(200)
        assert ([item["id"] for item in queue["items"]], queue["total"]) == (expected, len(expected))


async def test_a_reader_reads_of_the_past_what_its_credential_covers_now(http: Served, org_b: Organisation):
    await org_b.join(http)
    await http.write(**CLAIM, value=text("secret"), scope="company")
    shown = await http.write(**CLAIM, value=text("open"), scope="public")
    then = f"offset:{http.size - 1}"
    reader = await issue(http, org_b.assistant, verb="read", object=f"{NODE_ID}/scope/public")
    token_id = json.loads(reader)["token_id"]

    status, page = await read_by(http, reader, "/v1/facts", as_of=then)
    assert (status, [record["id"] for record in page["facts"]], page["total"]) == (200, [shown["id"]], 1)
    assert (await read_by(http, reader, "/v1/quarantine", as_of=then))[0] == 403
    assert (await read_by(http, reader, PEERS, as_of=then))[0] == 403

    issued = f"offset:{http.size - 1}"
    (await http.post(f"{TOKENS}/{token_id}/revoke", {})).expect(200)
    assert (await read_by(http, reader, "/v1/facts", as_of=issued))[1]["error"] == "token_revoked"


async def test_a_fact_that_two_resolutions_name_is_out_since_the_first(http: Served, org_b: Organisation):
    await org_b.join(http)
    entity = f"{org_b.node_id}/project/zeus"
    claim = {"entity": entity, "relation": "memory:status", "scope": "public"}
    sides = [await http.write(**claim, value=text(v)) for v in "ab"]
    settle = f"/v1/conflicts/{await a_conflict(http)}/resolve"
    (await http.post(settle, {"new_value": text("a")})).expect(200)
    between = f"offset:{http.size - 1}"
    resolves = {"conflict_id": f"stigmem:conflict:{UNKNOWN_ID}", "superseded": [side["id"] for side in sides]}
    await org_b.receive(http, org_b.served_fact(resolves=resolves, value=text("d"), confidence=1.0))

    page = (await http.get("/v1/facts", entity=entity, include_contradicted=True, as_of=between)).expect(200)

    assert await values(http, entity=entity, as_of=between) == ["a"]
    assert [(record["value"]["v"], record["contradicted"]) for record in page["facts"]] == [
        ("a", False),
        ("b", True),
        ("a", True),
    ]
