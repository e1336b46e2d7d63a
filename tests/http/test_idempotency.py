"""`Idempotency-Key`: a request that is sent again is answered again, and carried out once (PROTOCOL §2.7)."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from node.commands.gardens import CreateGarden
from node.commands.idempotency import Claim, Once
from node.commands.peers import RegisterPeer
from node.errors import IdempotencyKeyReused
from node.events.entry import Entry
from node.events.facts import FactAsserted
from node.events.gardens import GardenCreated
from node.http.app import ROUTES
from node.http.describe import description_of
from node.http.idempotency import Turns
from node.projections.idempotency import Taken
from tests.api_keys import SCRIBE, bearer_for
from tests.organisations import Organisation, be_strict, issue
from tests.served import ADMIN_KEY, NODE_ID, Answer, Served, fact

DAY_MS = 86_400_000
FACTS, BATCH, GARDENS = "/v1/facts", "/v1/facts/batch", "/v1/gardens"
TOKENS, PEERS, KEYS = "/v1/federation/capability-tokens", "/v1/federation/peers", "/v1/auth/keys"


async def ask(http: Served, path: str, body: object, *, key: str = "k-1", bearer: str = ADMIN_KEY) -> Answer:
    return await http.send("POST", path, body, headers={"Idempotency-Key": key}, bearer=bearer)


def types(http: Served, start: int) -> list[str]:
    return [entry.type for entry in http.entries(start)]


def of(value: str, **fields: object) -> dict[str, object]:
    return fact(value={"type": "string", "v": value}, **fields)


# Everything that takes a key.


@dataclass(frozen=True)
class Request:
    path: str
    body: object
    status: int
    types: list[str]


async def _fact(http: Served, org_b: Organisation) -> Request:
    return Request(FACTS, fact(scope="public"), 201, ["fact.asserted.1"])


async def _batch(http: Served, org_b: Organisation) -> Request:
    return Request(BATCH, {"facts": [of("a"), {}, of("b")]}, 201, ["fact.asserted.1"] * 2)


async def _batch_of_nothing(http: Served, org_b: Organisation) -> Request:
    return Request(BATCH, {"facts": [{}]}, 201, [])


async def _garden(http: Served, org_b: Organisation) -> Request:
    return Request(GARDENS, {"slug": "den", "name": "Den", "scope": "team"}, 201, ["garden.created.1"])


async def _member(http: Served, org_b: Organisation) -> Request:
    (await http.post(GARDENS, {"slug": "den", "name": "Den", "scope": "team"})).expect(201)
    member = {"entity_uri": "user:alice", "role": "writer"}
    return Request(f"{GARDENS}/den/members", member, 201, ["garden.member_set.1"])


async def _token(http: Served, org_b: Organisation) -> Request:
    grant = {"issuer": NODE_ID, "subject": org_b.assistant, "verb": "write", "object": "*", "ttl_seconds": 60}
    return Request(TOKENS, grant, 201, ["capability.issued.1"])


async def _peer(http: Served, org_b: Organisation) -> Request:
    named = {"peer_url": "http://localhost:1", "peer_entity_uri": org_b.node_id}
    return Request(PEERS, named, 201, ["peer.registered.1", "idempotency_key.taken.1", "peer.status_set.1"])


async def _api_key(http: Served, org_b: Organisation) -> Request:
    wanted = {"entity_uri": f"{NODE_ID}/agent/scribe", "permissions": ["read", "write"]}
    return Request(KEYS, wanted, 201, ["api_key.created.1"])


async def _own_api_key(http: Served, org_b: Organisation) -> Request:
    wanted = {"entity_uri": f"{NODE_ID}/agent/scribe", "permissions": ["read"], "raw_key": "k" * 40}
    return Request(KEYS, wanted, 201, ["api_key.created.1"])


async def _conflict(http: Served, org_b: Organisation) -> Request:
    for value in ("red", "green"):
        (await http.post(FACTS, of(value))).expect(201)
    [conflict] = (await http.get("/v1/conflicts")).expect(200)["conflicts"]
    body = {"winning_fact_id": conflict["fact_a"]["id"], "resolution_note": ""}
    return Request(f"/v1/conflicts/{conflict['conflict_id']}/resolve", body, 200, ["conflict.resolved.1"])


async def _held(http: Served, org_b: Organisation) -> tuple[str, str]:
    await org_b.join(http)
    garden_id = await be_strict(http)
    written = await http.post(
        FACTS, fact(source=org_b.assistant, scope="company"), bearer=await issue(http, org_b.assistant)
    )
    return garden_id, written.expect(202)["id"]


async def _promotion(http: Served, org_b: Organisation) -> Request:
    garden_id, fact_id = await _held(http, org_b)
    return Request(f"{GARDENS}/{garden_id}/promote", {"fact_id": fact_id}, 200, ["fact.promoted.1"])


async def _rejection(http: Served, org_b: Organisation) -> Request:
    garden_id, fact_id = await _held(http, org_b)
    return Request(f"{GARDENS}/{garden_id}/reject", {"fact_id": fact_id}, 200, ["fact.rejected.1"])


MAKERS: dict[str, Callable[[Served, Organisation], Awaitable[Request]]] = {
    "a fact": _fact,
    "a batch": _batch,
    "a batch in which nothing is accepted": _batch_of_nothing,
    "a garden": _garden,
    "a member of a garden": _member,
    "a capability token": _token,
    "a peer": _peer,
    "an API key": _api_key,
    "an API key that was chosen": _own_api_key,
    "settling a conflict": _conflict,
    "promoting": _promotion,
    "rejecting": _rejection,
}


# What these do is a read, the same when done twice, or refused the second time (docs/idempotency.md).
WITHOUT_KEY = {
    "/v1/tombstones/{tombstone_id}/lift-hold",
    "/v1/tombstones/{tombstone_id}/revoke",
    "/v1/facts/{fact_id}/verify-cid",
    "/v1/admin/restore/confirm",
    "/v1/admin/keys/rotate",
    "/v1/federation/declaration",
    "/v1/federation/peers/{peer_id}/check",
    "/v1/federation/peers/{peer_id}/approve",
    "/v1/federation/peers/{peer_id}/pull",
    "/v1/federation/facts/push",
    "/v1/federation/attest",
    "/v1/federation/capability-tokens/verify",
    "/v1/federation/capability-tokens/{token_id}/revoke",
    "/v1/federation/capability-tokens/{token_id}/accept",
    "/v1/log/cosignatures",
}
WITH_KEY = {
    "/v1/tombstones",
    FACTS,
    BATCH,
    GARDENS,
    f"{GARDENS}/{{garden}}/members",
    f"{GARDENS}/{{garden}}/promote",
    f"{GARDENS}/{{garden}}/reject",
    "/v1/conflicts/{conflict_id}/resolve",
    TOKENS,
    PEERS,
    KEYS,
}


def test_every_route_that_creates_something_takes_a_key_and_its_page_says_so():
    posts = {route.path: description_of(route) for route in ROUTES if route.method == "POST"}

    taking = {path for path, said in posts.items() if "Idempotency-Key" in said.headers}

    assert taking == WITH_KEY
    assert posts.keys() - taking == WITHOUT_KEY
    page = (Path(__file__).parents[2] / "docs" / "idempotency.md").read_text()
    assert {path for path in WITH_KEY if f"`POST {path}`" not in page} == set()


@pytest.fixture(params=MAKERS)
async def request_of(request: pytest.FixtureRequest, http: Served, org_b: Organisation) -> Request:
    return await MAKERS[request.param](http, org_b)


async def test_a_request_sent_again_gets_the_same_answer_and_stores_nothing(http: Served, request_of: Request):
    start = http.size
    first = await ask(http, request_of.path, request_of.body)
    size, digests = http.size, await http.digests()

    again = await ask(http, request_of.path, request_of.body)
    await http.restart()
    after_a_restart = await ask(http, request_of.path, request_of.body)

    assert {first.status, again.status, after_a_restart.status} == {request_of.status}
    assert first.body == again.body == after_a_restart.body
    assert types(http, start) == [*request_of.types, "idempotency_key.taken.1"]
    assert (http.size, await http.digests()) == (size, digests)
    again.assert_well_formed()


async def test_two_at_once_are_one(http: Served, request_of: Request):
    start = http.size

    first, second = await asyncio.gather(*(ask(http, request_of.path, request_of.body) for _ in range(2)))

    assert (first.status, first.body) == (request_of.status, second.body)
    assert types(http, start) == [*request_of.types, "idempotency_key.taken.1"]


async def test_another_body_under_the_key_is_refused(http: Served, request_of: Request):
    (await ask(http, request_of.path, request_of.body)).expect(request_of.status)
    size = http.size
    other = {**request_of.body}
    match other:
        case {"role": _}:
            other["role"] = "reader"
        case {"slug": _}:
            other["name"] = "Another"
        case {"facts": facts}:
            other["facts"] = [*facts, fact()]
        case {"entity": _}:
            other["confidence"] = 0.5
        case {"permissions": _}:
            other["description"] = "another"
        case {"peer_url": _}:
            other["peer_url"] = "http://localhost:2"
        case {"ttl_seconds": _}:
            other["ttl_seconds"] = 61
        case {"winning_fact_id": _}:
            other["resolution_note"] = "another"
        case _:
            other["reason"] = "another"

    (await ask(http, request_of.path, other)).refused(409, "idempotency_key_reused")

    assert http.size == size


async def test_every_entry_of_the_request_names_its_key(http: Served):
    start = http.size

    (await ask(http, BATCH, {"facts": [of("a"), of("b")]}, key="order 66/~!")).expect(201)

    assert {entry.actor.idempotency_key for entry in http.entries(start)} == {"order 66/~!"}


async def test_a_batch_of_megabytes_is_carried_out_once_too(http: Served):
    facts = [of("x" * 60_000, entity=f"{NODE_ID}/thing/{number}") for number in range(40)]

    first = await ask(http, BATCH, {"facts": facts})
    again = await ask(http, BATCH, {"facts": facts})

    assert (first.expect(201)["accepted"], again.body) == (40, first.body)


# What is the same request.


async def test_the_order_of_members_and_the_space_between_them_do_not_count(http: Served):
    first = await ask(http, FACTS, json.dumps(fact()).encode())
    again = await ask(http, FACTS, json.dumps(dict(reversed(fact().items())), indent=2).encode())

    assert (again.status, again.body) == (201, first.body)


@pytest.mark.parametrize("path", [FACTS, BATCH])
async def test_the_key_may_stand_in_the_body_or_in_the_header_or_in_both(http: Served, path: str):
    body = fact() if path == FACTS else {"facts": [fact()]}
    size = http.size

    answers = [
        await http.post(path, body | {"idempotency_key": "k-1"}),
        await ask(http, path, body),
        await ask(http, path, body | {"idempotency_key": "k-1"}),
    ]

    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert http.size == size + 2


async def test_another_place_in_the_path_is_another_request(http: Served, org_b: Organisation):
    garden_id, fact_id = await _held(http, org_b)
    (await ask(http, f"{GARDENS}/{garden_id}/reject", {"fact_id": fact_id})).expect(200)

    (await ask(http, f"{GARDENS}/nowhere/reject", {"fact_id": fact_id})).refused(409, "idempotency_key_reused")


async def test_two_keys_that_differ_are_refused(http: Served):
    size = http.size

    (await ask(http, FACTS, fact(idempotency_key="k-2"))).refused(422, "invalid_field")

    assert http.size == size


@pytest.mark.parametrize(
    "key", ["", "x" * 256, "ключ", "a\tb", "a\x7f"], ids=["empty", "long", "letters", "tab", "del"]
)
async def test_a_key_of_another_form_is_refused(http: Served, key: str):
    size = http.size

    for path, body in ((FACTS, fact()), (BATCH, {"facts": [fact()]})):
        answer = (await http.post(path, body | {"idempotency_key": key})).refused(422, "invalid_field")
        assert answer["detail"].startswith("idempotency_key: ")
    if key.isascii() and key.isprintable():
        garden = {"slug": "den", "name": "Den", "scope": "team"}
        answer = (await ask(http, GARDENS, garden, key=key)).refused(422, "invalid_field")
        assert answer["detail"].startswith("Idempotency-Key: ")

    assert http.size == size


async def test_a_key_of_255_printable_characters_is_one(http: Served):
    (await ask(http, FACTS, fact(), key="~" * 255)).expect(201)


# Whose a key is.


async def test_the_same_key_on_another_route_is_another(http: Served):
    (await ask(http, FACTS, fact())).expect(201)
    (await ask(http, BATCH, {"facts": [fact()]})).expect(201)
    (await ask(http, GARDENS, {"slug": "den", "name": "Den", "scope": "team"})).expect(201)


async def test_the_same_key_of_another_caller_is_another_and_tells_nothing(http: Served, org_b: Organisation):
    await org_b.join(http)
    stated = fact(source=org_b.assistant, scope="company")
    first_token, second_token = [await issue(http, org_b.assistant) for _ in range(2)]
    first = await ask(http, FACTS, stated, bearer=first_token)

    second = await ask(http, FACTS, stated, bearer=second_token)
    other = await ask(http, FACTS, stated | {"confidence": 0.5}, bearer=second_token, key="k-2")
    admins = await ask(http, FACTS, fact())

    assert [answer.status for answer in (first, second, other, admins)] == [201] * 4
    assert len({answer.json["id"] for answer in (first, second, other, admins)}) == 4
    assert (await ask(http, FACTS, stated, bearer=first_token)).body == first.body


async def test_a_credential_that_counts_no_more_is_not_answered_again(http: Served, org_b: Organisation):
    await org_b.join(http)
    stated, token = fact(source=org_b.assistant, scope="company"), await issue(http, org_b.assistant)
    (await ask(http, FACTS, stated, bearer=token)).expect(201)
    (await http.post(f"{TOKENS}/{json.loads(token)['token_id']}/revoke", {})).expect(200)

    (await ask(http, FACTS, stated, bearer=token)).refused(403, "token_revoked")


async def test_what_is_in_a_garden_is_told_again_to_its_members_alone(http: Served):
    """A membership that is withdrawn takes the answers along: content is of then, rights are of now."""
    bearer = await bearer_for(http)
    role_of_scribe = f"{GARDENS}/den/members/{quote(SCRIBE, safe='')}"
    asked = {
        GARDENS: {"slug": "den", "name": "Den", "scope": "team"},
        f"{GARDENS}/den/members": {"entity_uri": "user:alice", "role": "writer"},
        FACTS: fact(garden_id="den", scope="team", source=SCRIBE),
    }
    told = {path: await ask(http, path, body, bearer=bearer) for path, body in asked.items()}
    (await http.send("PATCH", f"{GARDENS}/den/members/user%3Aalice", {"role": "admin"})).expect(200)
    (await http.send("DELETE", role_of_scribe)).expect(204)
    size = http.size

    for path, body in asked.items():
        (await ask(http, path, body, bearer=bearer)).refused(403, "garden_forbidden")

    assert set(types(http, size)) == {"request.refused.1"}
    (await http.post(f"{GARDENS}/den/members", {"entity_uri": SCRIBE, "role": "reader"})).expect(201)
    for path, body in asked.items():
        assert (await ask(http, path, body, bearer=bearer)).body == told[path].body
    assert {answer.status for answer in told.values()} == {201}


async def test_what_a_moderator_decided_is_told_again_to_moderators_alone(http: Served, org_b: Organisation):
    bearer = await bearer_for(http)
    garden_id, fact_id = await _held(http, org_b)
    stated = {"entity_uri": SCRIBE, "role": "quarantine:moderator"}
    (await http.post(f"{GARDENS}/{garden_id}/members", stated)).expect(201)
    path, body = f"{GARDENS}/{garden_id}/promote", {"fact_id": fact_id}
    (await ask(http, path, body, bearer=bearer)).expect(200)
    (await http.send("DELETE", f"{GARDENS}/{garden_id}/members/{quote(SCRIBE, safe='')}")).expect(204)

    (await ask(http, path, body, bearer=bearer)).refused(403, "garden_forbidden")


# What is answered again is what was answered, whatever came since.


async def test_a_fact_is_told_as_it_stood_when_it_was_written(http: Served):
    first = await ask(http, FACTS, of("red"))
    (await http.post(FACTS, of("green"))).expect(201)
    (await http.post(FACTS, of("red", confidence=0.0))).expect(201)

    again = await ask(http, FACTS, of("red"))

    assert (first.json["contradicted"], again.body) == (False, first.body)


async def test_a_fact_that_contradicted_another_is_told_so_after_that_is_settled(http: Served):
    (await http.post(FACTS, of("green"))).expect(201)
    first = await ask(http, FACTS, of("red"))
    (await http.post(FACTS, of("green", confidence=0.0))).expect(201)

    assert first.json["contradicted"] is True
    assert (await ask(http, FACTS, of("red"))).body == first.body


async def test_a_fact_that_waited_is_told_to_wait_after_it_was_let_in(http: Served, org_b: Organisation):
    await org_b.join(http)
    garden_id, token = await be_strict(http), await issue(http, org_b.assistant)
    stated = fact(source=org_b.assistant, scope="company")
    first = await ask(http, FACTS, stated, bearer=token)
    promotion = {"fact_id": first.expect(202)["fact_id"]}
    (await http.post(f"{GARDENS}/{garden_id}/promote", promotion)).expect(200)

    again = await ask(http, FACTS, stated, bearer=token)

    assert (again.status, again.body) == (202, first.body)


async def test_a_foreign_fact_is_told_with_the_trust_of_then(http: Served, org_b: Organisation):
    await org_b.join(http)
    token = await issue(http, org_b.assistant)
    first = await ask(http, FACTS, fact(source=org_b.assistant, scope="company"), bearer=token)
    await be_strict(http, blocked_sources=[org_b.assistant])

    assert first.expect(201)["source_trust"] > 0
    assert (await ask(http, FACTS, fact(source=org_b.assistant, scope="company"), bearer=token)).body == first.body


async def test_a_garden_is_told_as_it_was_made_after_it_is_gone(http: Served):
    body = {"slug": "den", "name": "Den", "scope": "team"}
    first = await ask(http, GARDENS, body)
    (await http.send("DELETE", f"{GARDENS}/den")).expect(204)

    assert (await ask(http, GARDENS, body)).body == first.body


async def test_an_issued_token_told_again_is_one_that_counts(http: Served):
    grant = {"issuer": NODE_ID, "subject": NODE_ID, "verb": "read", "object": "*", "ttl_seconds": 60}
    (await ask(http, TOKENS, grant)).expect(201)

    again = (await ask(http, TOKENS, grant)).expect(201)

    (await http.send("GET", FACTS, bearer=again["token_json"])).expect(200)
    logged = b"".join(item.content for entry in http.entries(0) for item in entry.items)
    assert again["signature"].encode() not in logged


async def test_an_api_key_told_again_counts_lies_nowhere_and_is_another_once_its_key_is_free(http: Served):
    asked = {"entity_uri": f"{NODE_ID}/agent/scribe", "permissions": ["read", "write"]}
    (await ask(http, KEYS, asked)).expect(201)
    await http.restart()

    again = (await ask(http, KEYS, asked)).expect(201)
    http.clock.advance(DAY_MS)
    later = (await ask(http, KEYS, asked)).expect(201)

    for made in (again, later):
        me = (await http.send("GET", "/v1/me", bearer=made["raw_key"])).expect(200)
        assert me["entity_uri"] == asked["entity_uri"]
    assert again["raw_key"] != later["raw_key"]
    logged = b"".join(item.content for entry in http.entries(0) for item in entry.items)
    assert again["raw_key"].removeprefix("sk_").encode() not in logged


async def test_a_key_told_again_is_told_as_it_was_made_though_it_was_revoked(http: Served):
    asked = {"entity_uri": f"{NODE_ID}/agent/scribe", "permissions": ["read"]}
    first = await ask(http, KEYS, asked)
    (await http.send("DELETE", f"{KEYS}/{first.json['key_id']}")).expect(204)

    assert (await ask(http, KEYS, asked)).body == first.body


async def test_two_api_keys_of_one_entity_have_keys_of_their_own(http: Served):
    wanted = {"entity_uri": f"{NODE_ID}/agent/scribe", "permissions": ["write"]}
    bearers = [(await http.post(KEYS, wanted)).expect(201)["raw_key"] for _ in range(2)]

    told = [(await ask(http, FACTS, fact(), bearer=bearer)).expect(201)["id"] for bearer in (*bearers, *bearers)]

    assert told[:2] == told[2:] and len(set(told)) == 2


async def test_a_peer_whose_registration_was_interrupted_is_checked_then_and_named_once(
    http: Served, org_b: Organisation
):
    asked, start = await _peer(http, org_b), http.size
    principal = structs.replace(http.admin, idempotency_key="k-1")
    request_hash = Turns(lambda: http.node.secrets).request_hash(PEERS, asked.body)
    command = RegisterPeer(
        principal=principal,
        node_id=org_b.node_id,
        node_url="http://localhost:1",
        allowed_scopes=("public",),
        declaration=None,
    )
    claim = Claim(principal=principal, route=f"POST {PEERS}", request_hash=request_hash)
    await http.node.execute(Once(claim=claim, command=command))

    again = await ask(http, PEERS, asked.body)

    assert again.expect(201)["status"] == "pending_verification"
    assert types(http, start) == [*asked.types, "idempotency_key.taken.1"]
    assert (await ask(http, PEERS, asked.body)).body == again.body


# What takes no key.


async def test_a_refused_request_takes_no_key(http: Served):
    (await ask(http, FACTS, fact(garden_id="den"))).refused(404, "garden_not_found")
    (await http.post(GARDENS, {"slug": "den", "name": "Den", "scope": "local"})).expect(201)

    (await ask(http, FACTS, fact(garden_id="den"))).expect(201)


async def test_a_refused_atomic_batch_takes_no_key(http: Served):
    batch = {"facts": [fact(garden_id="den")], "atomic": True}
    (await ask(http, BATCH, batch)).refused(422, "batch_refused")
    (await http.post(GARDENS, {"slug": "den", "name": "Den", "scope": "local"})).expect(201)

    (await ask(http, BATCH, batch)).expect(201)


async def test_a_route_that_creates_nothing_takes_no_notice_of_a_key(http: Served):
    size = http.size
    for _ in range(2):
        (await ask(http, "/v1/federation/declaration", {"allowed_scopes": ["public"]})).expect(200)

    assert http.size == size


# How long it lives.


async def test_a_key_lives_for_a_day_and_is_then_free(http: Served):
    first = await ask(http, FACTS, of("red"))
    http.clock.advance(DAY_MS - 1)
    assert (await ask(http, FACTS, of("red"))).body == first.body
    http.clock.advance(1)

    later = await ask(http, FACTS, of("green"))

    assert later.expect(201)["id"] != first.json["id"]
    assert (await ask(http, FACTS, of("green"))).body == later.body
    (await ask(http, FACTS, of("red"))).refused(409, "idempotency_key_reused")


async def test_keys_that_ran_out_leave_the_tables_as_others_are_taken(http: Served):
    for number in range(5):
        (await ask(http, FACTS, of("red"), key=f"old-{number}")).expect(201)
    http.clock.advance(DAY_MS)

    (await ask(http, FACTS, of("red"), key="new")).expect(201)

    def rows(view: Any) -> list[int]:
        projection = view.idempotency
        return [sum(1 for _ in projection.table(spec).scan()) for spec in projection.tables]

    assert await http.node.read(rows) == [1, 1]


# Within one writer batch.


def garden_once(http: Served, request_hash: str = "h") -> Once:
    principal = structs.replace(http.admin, idempotency_key="k-1")
    command = CreateGarden(
        principal=principal, slug="den", name="Den", scope="team", description="", is_quarantine=False
    )
    return Once(claim=Claim(principal=principal, route="r", request_hash=request_hash), command=command)


async def test_of_two_commands_in_one_append_the_second_finds_what_the_first_did(http: Served):
    start = http.size

    first, second, other = await asyncio.gather(
        http.node.execute(garden_once(http)),
        http.node.execute(garden_once(http)),
        http.node.execute(garden_once(http, "another")),
        return_exceptions=True,
    )

    assert types(http, start) == ["garden.created.1", "idempotency_key.taken.1"]
    assert isinstance(second.reply, Taken) and second.entries == ()
    assert (second.reply.first, second.reply.end) == (first.entries[0].offset, first.entries[1].offset)
    assert isinstance(other, IdempotencyKeyReused)


async def test_whichever_comes_first_the_other_waits_and_takes_the_key_only_where_that_was_refused(http: Served):
    for number, bodies in enumerate(([fact(garden_id="nowhere"), fact()], [fact(), fact(garden_id="nowhere")])):
        answers = await asyncio.gather(*(ask(http, FACTS, body, key=f"k-{number}") for body in bodies))

        assert sorted(answer.status for answer in answers) in ([201, 404], [201, 409])


# Against a run without retries.


def asked_of(draw: random.Random, place: str) -> tuple[str, object]:
    """A request about `place`: a fact, a batch, a garden; some of them are refused."""
    kinds = [{}, {"surprise": 1}, {"confidence": 0.0}, {"supersedes": True}, {"garden_id": f"{place}-0"}]

    def stated() -> dict[str, object]:
        name = f"{NODE_ID}/{place}/{draw.randrange(3)}"
        return of(draw.choice("abc"), entity=name, scope="team") | draw.choice(kinds)

    match draw.randrange(4):
        case 0:
            return GARDENS, {"slug": f"{place}-{draw.randrange(2)}", "name": "Den", "scope": "team"}
        case 1:
            return BATCH, {"facts": [stated() for _ in range(draw.randrange(1, 4))], "atomic": draw.random() < 0.5}
        case _:
            return FACTS, stated()


async def live(http: Served, place: str, seed: int, *, retries: random.Random | None) -> list[str]:
    """Twelve requests, each under a key of its own; with `retries` some are sent again, at once or later. What the log got."""
    draw, start, told = random.Random(seed), http.size, {}
    for number in range(12):
        path, body = asked_of(draw, place)
        times = retries.randrange(1, 4) if retries else 1
        answers = await asyncio.gather(*(ask(http, path, body, key=f"{place}-{number}") for _ in range(times)))
        if answers[0].status < 400:
            assert {(answer.status, answer.body) for answer in answers} == {(answers[0].status, answers[0].body)}
            told[number] = (path, body, answers[0])
        if retries and told and retries.random() < 0.5:
            again = retries.choice(list(told))
            path, body, answer = told[again]
            assert (await ask(http, path, body, key=f"{place}-{again}")).body == answer.body
    return [f"{entry.type} {said(entry)}".replace(place, "") for entry in http.entries(start)]


def said(entry: Entry) -> str:
    match entry.event:
        case FactAsserted(fact=stated):
            return f"{stated.entity} {stated.value.v} {stated.confidence} {len(stated.supersedes)} {stated.garden_id is None}"
        case GardenCreated(slug=slug):
            return slug
        case event:
            return f"{event.route} {event.entries}"


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_retries_make_no_difference_to_what_is_stored(http: Served, seed: int):
    run = http.size

    plain = await live(http, f"plain{run}", seed, retries=None)
    retried = await live(http, f"again{run}", seed, retries=random.Random(seed + 1))

    assert retried == plain
