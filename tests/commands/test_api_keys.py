"""API keys: what one may do, in whose name, and until when (PROTOCOL §3, §2.1, §8.4, §12)."""

import re

import pytest

from node.commands.api_keys import RevokeApiKey
from node.commands.decision import Principal
from node.errors import ApiKeyRevoked
from node.times import format_ms
from tests.api_keys import KEYS, SCRIBE, bearer_for, make_key
from tests.clocks import START_MS
from tests.organisations import Organisation, issue
from tests.served import ADMIN_KEY, NODE_ID, Answer, Served, fact

TOKENS = "/v1/federation/capability-tokens"

DAY_MS = 86_400_000
GIVEN = "a-key-that-was-there-before-the-node-0123456789"
UNKNOWN_ID = "01890000-0000-7000-8000-00000000dead"
PARTNER = "stigmem://partner.example/agent/fax"


async def write(at: Served, bearer: str, **fields: object) -> Answer:
    return await at.post("/v1/facts", fact(**fields), bearer=bearer)


async def read(at: Served, bearer: str, path: str = "/v1/facts") -> Answer:
    return await at.send("GET", path, bearer=bearer)


async def revoke(at: Served, key_id: str) -> None:
    (await at.send("DELETE", f"{KEYS}/{key_id}")).expect(204)


# Making one.


async def test_a_key_is_shown_once_and_known_by_its_id_from_then_on(http: Served):
    made = await make_key(http, "write", "read", allowed_sources=["agent:"], description="the scribe's")

    assert re.fullmatch(r"sk_[A-Za-z0-9_-]{43}", made["raw_key"])
    assert made["permissions"] == ["read", "write"]
    assert (made["entity_uri"], made["allowed_sources"]) == (SCRIBE, ["agent:"])
    assert made["allowed_scopes"] == ["local", "team", "company", "public"]
    assert (made["created_at"], made["created_by"]) == (format_ms(START_MS), NODE_ID)
    assert made["expires_at"] == format_ms(START_MS + 90 * DAY_MS)
    assert (made["status"], made["revoked_at"], made["description"]) == ("active", None, "the scribe's")
    known = (await http.get(f"{KEYS}/{made['key_id']}")).expect(200)
    assert known == {name: value for name, value in made.items() if name != "raw_key"}
    assert (await http.get(KEYS)).expect(200) == {"keys": [known], "cursor": None, "has_more": False}


async def test_keys_are_listed_newest_first_page_by_page_as_they_stood_at_the_first_page(http: Served):
    made = [(await make_key(http))["key_id"] for _ in range(5)]

    first = (await http.get(KEYS, limit=2)).expect(200)
    await make_key(http)
    second = (await http.get(KEYS, limit=2, cursor=first["cursor"])).expect(200)
    third = (await http.get(KEYS, limit=2, cursor=second["cursor"])).expect(200)

    assert [key["key_id"] for page in (first, second, third) for key in page["keys"]] == made[::-1]
    assert (first["has_more"], third["has_more"], third["cursor"]) == (True, False, None)


async def test_a_given_key_is_taken_as_it_is(http: Served):
    made = await make_key(http, "read", raw_key=GIVEN)

    assert made["raw_key"] == GIVEN
    assert (await read(http, GIVEN, "/v1/me")).expect(200)["key_id"] == made["key_id"]


async def test_a_given_key_that_is_or_was_a_credential_here_is_refused(http: Served):
    made = await make_key(http, raw_key=GIVEN)
    size = http.size

    for taken in (GIVEN, ADMIN_KEY):
        (await http.post(KEYS, {"entity_uri": SCRIBE, "permissions": ["read"], "raw_key": taken})).refused(
            409, "api_key_exists"
        )
    assert http.size == size
    await revoke(http, made["key_id"])
    again = {"entity_uri": SCRIBE, "permissions": ["read"], "raw_key": GIVEN}
    (await http.post(KEYS, again)).refused(409, "api_key_exists")


REFUSED = [
    ({"permissions": []}, 422, "invalid_field"),
    ({"permissions": ["read", "own"]}, 422, "invalid_field"),
    ({"allowed_scopes": ["secret"]}, 422, "invalid_field"),
    ({"raw_key": "sk_" + "a" * 28}, 422, "invalid_field"),
    ({"raw_key": "a" * 513}, 422, "invalid_field"),
    ({"raw_key": "a" * 31 + " " + "a" * 31}, 422, "invalid_field"),
    ({"raw_key": "ä" * 40}, 422, "invalid_field"),
    ({"raw_key": "{" + "a" * 40}, 422, "invalid_field"),
    ({"entity_uri": ""}, 422, "invalid_uri"),
    ({"entity_uri": "stigmem://"}, 422, "invalid_uri"),
    ({"entity_uri": "stigmem://org-a.example/x/../y"}, 422, "invalid_uri"),
    ({"entity_uri": "agent:"}, 422, "invalid_field"),
    ({"entity_uri": "agent:\u202ex"}, 422, "invalid_field"),
    ({"entity_uri": "a" * 2049}, 422, "field_too_long"),
    ({"entity_uri": f"{NODE_ID}/x/" + "é" * 400}, 422, "field_too_long"),
    ({"entity_uri": "system:stigmem"}, 403, "reserved_namespace"),
    ({"entity_uri": "stigmem:conflict:x"}, 403, "reserved_namespace"),
    ({"allowed_sources": ["system:"]}, 403, "reserved_namespace"),
    ({"allowed_sources": ["System:"]}, 403, "reserved_namespace"),
    ({"allowed_sources": ["stigmem:"]}, 403, "reserved_namespace"),
    ({"allowed_sources": ["stigmem://"]}, 422, "invalid_uri"),
    ({"allowed_sources": [""]}, 422, "invalid_uri"),
    ({"allowed_sources": ["agent:x"] * 65}, 422, "invalid_field"),
    ({"expires_at": "soon"}, 422, "invalid_field"),
    ({"expires_at": format_ms(START_MS)}, 422, "invalid_expiry"),
    ({"expires_at": format_ms(START_MS + 90 * DAY_MS + 1)}, 422, "invalid_expiry"),
    ({"description": "a" * 501}, 422, "invalid_field"),
    ({"description": "a\x1b[2J"}, 422, "invalid_field"),
]


@pytest.mark.parametrize(("changes", "status", "code"), REFUSED, ids=[str(changes)[:60] for changes, _, _ in REFUSED])
async def test_a_key_that_nobody_should_hold_is_not_made(http: Served, changes: dict, status: int, code: str):
    size = http.size

    answer = await http.post(KEYS, {"entity_uri": SCRIBE, "permissions": ["read"]} | changes)

    assert answer.refused(status, code)["detail"].startswith(next(iter(changes)))
    assert [entry.type for entry in http.entries(size)] == (["request.refused.1"] if status == 403 else [])


async def test_no_key_is_made_for_names_under_a_registered_peer(http: Served, org_b: Organisation):
    await org_b.join(http)

    for changes in ({"entity_uri": org_b.assistant}, {"allowed_sources": ["agent:", org_b.assistant]}):
        answer = await http.post(KEYS, {"entity_uri": SCRIBE, "permissions": ["write"]} | changes)
        answer.refused(403, "source_not_owned")
    assert (await http.get(KEYS)).expect(200)["keys"] == []


async def test_how_long_a_key_may_live_is_a_setting(serve):
    http = await serve(api_key_max_age_days=7)

    assert (await make_key(http))["expires_at"] == format_ms(START_MS + 7 * DAY_MS)
    late = {"entity_uri": SCRIBE, "permissions": ["read"], "expires_at": format_ms(START_MS + 7 * DAY_MS + 1)}
    (await http.post(KEYS, late)).refused(422, "invalid_expiry")


# Whose source.


OWNED = [
    (SCRIBE, [], SCRIBE),
    (SCRIBE, [], f"{SCRIBE}/notes/today"),
    (SCRIBE, [], "stigmem://ORG-A.example/agent/Scribe/"),
    (SCRIBE, ["agent:"], "agent:anybody"),
    (SCRIBE, ["agent:team/"], "agent:team/one"),
    (SCRIBE, ["agent:cto"], "agent:cto"),
    (SCRIBE, [f"{NODE_ID}/service/"], f"{NODE_ID}/service/billing"),
    (SCRIBE, [PARTNER], PARTNER),
    ("agent:cto", [], "agent:cto"),
    (NODE_ID, [], f"{NODE_ID}/anything/at/all"),
]
FOREIGN = [
    (SCRIBE, [], NODE_ID),
    (SCRIBE, [], f"{SCRIBE}2"),
    (SCRIBE, [], f"{NODE_ID}/agent"),
    (SCRIBE, [], "agent:scribe"),
    (SCRIBE, ["agent:"], "user:alice"),
    (SCRIBE, ["agent:"], "agent"),
    (SCRIBE, ["agent:team/"], "agent:team"),
    (SCRIBE, ["agent:cto"], "agent:cto/assistant"),
    (SCRIBE, ["agent:cto"], "agent:ctox"),
    (SCRIBE, [f"{NODE_ID}/service:"], f"{NODE_ID}/service:billing"),
    (SCRIBE, [f"{NODE_ID}/service"], f"{NODE_ID}/services/billing"),
    ("agent:cto", [], "agent:cto/assistant"),
    (SCRIBE, [], PARTNER),
]


@pytest.mark.parametrize(("entity", "sources", "source"), OWNED)
async def test_a_key_names_what_lies_under_its_entity_or_an_allowed_source(
    http: Served, entity: str, sources: list[str], source: str
):
    bearer = await bearer_for(http, "write", entity_uri=entity, allowed_sources=sources)

    (await write(http, bearer, source=source)).expect(201)

    written = http.entries(http.size - 1)[0]
    assert (written.actor.via, written.actor.principal) == ("key", entity)
    assert written.actor.credential == (await http.get(KEYS)).json["keys"][0]["key_id"]


@pytest.mark.parametrize(("entity", "sources", "source"), FOREIGN)
async def test_a_key_names_no_other_source(http: Served, entity: str, sources: list[str], source: str):
    bearer = await bearer_for(http, "write", entity_uri=entity, allowed_sources=sources)

    (await write(http, bearer, source=source)).refused(403, "source_not_owned")

    assert http.entries(http.size - 1)[0].type == "request.refused.1"


async def test_not_even_a_key_that_covers_it_writes_as_the_node(http: Served):
    bearer = await bearer_for(http, "write", "admin", entity_uri=NODE_ID)

    (await write(http, bearer, source="system:stigmem")).refused(403, "reserved_namespace")
    (await write(http, bearer, source="agent:cto")).refused(403, "source_not_owned")


async def test_a_key_made_before_a_peer_was_registered_does_not_write_in_its_name(http: Served, org_b: Organisation):
    bearer = await bearer_for(http, "write", allowed_sources=[org_b.assistant])
    (await write(http, bearer, source=org_b.assistant)).expect(201)

    await org_b.join(http)

    (await write(http, bearer, source=org_b.assistant)).refused(403, "source_not_owned")


async def test_a_key_retracts_and_replaces_its_own_facts_alone(http: Served):
    mine, theirs = await bearer_for(http, "write"), await bearer_for(http, "write", entity_uri="agent:cto")
    told = (await write(http, mine)).expect(201)
    gone = {"value": {"type": "string", "v": "retracted"}, "confidence": 0.0}

    (await write(http, theirs, source=SCRIBE, **gone)).refused(403, "source_not_owned")
    (await write(http, theirs, source="agent:cto", supersedes=[told["id"]])).refused(403, "superseded_not_owned")
    assert (await http.get("/v1/facts")).expect(200)["total"] == 1
    (await write(http, mine, **gone)).expect(201)
    assert (await http.get("/v1/facts")).expect(200)["total"] == 0


# What its permissions and scopes allow.


async def test_a_key_that_only_reads_writes_nothing_and_the_other_way_round(http: Served):
    reader, writer = await bearer_for(http, "read"), await bearer_for(http, "write")

    (await write(http, reader)).refused(403, "insufficient_permission")
    written = (await write(http, writer)).expect(201)

    assert (await read(http, reader)).expect(200)["total"] == 1
    for path in ("/v1/facts", f"/v1/facts/{written['id']}", f"/v1/facts/{written['id']}/body", "/v1/conflicts"):
        (await read(http, writer, path)).refused(403, "insufficient_permission")


async def test_a_key_reads_the_scopes_that_it_is_allowed_and_knows_of_no_others(http: Served):
    seen = await http.write(scope="company", value={"type": "string", "v": "seen"})
    hidden = await http.write(scope="team", value={"type": "string", "v": "hidden"})
    bearer = await bearer_for(http, "read", allowed_scopes=["company", "public"])

    page = (await read(http, bearer)).expect(200)
    assert ([record["id"] for record in page["facts"]], page["total"]) == ([seen["id"]], 1)
    assert (await read(http, bearer, "/v1/facts?scope=team")).expect(200)["total"] == 0
    for name in (hidden["id"], hidden["cid"]):
        (await read(http, bearer, f"/v1/facts/{name}")).refused(404, "fact_not_found")


async def test_a_key_writes_the_scopes_that_it_is_allowed(http: Served):
    bearer = await bearer_for(http, "write", allowed_scopes=["company"])

    (await write(http, bearer, scope="company")).expect(201)
    (await write(http, bearer, scope="public")).refused(403, "scope_not_permitted")


async def test_an_admin_s_key_gives_away_no_scope_that_it_lacks(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http, scopes=("public",))
    admin = await bearer_for(http, "admin", allowed_scopes=["local", "public"])
    key = {"entity_uri": SCRIBE, "permissions": ["read"]}
    token = {"issuer": NODE_ID, "subject": SCRIBE, "verb": "read", "ttl_seconds": 60}
    peer = f"/v1/federation/peers/{peer_id}"
    size = http.size

    for method, path, body in (
        ("POST", KEYS, key),
        ("POST", KEYS, key | {"allowed_scopes": ["public", "team"]}),
        *(
            ("POST", TOKENS, token | {"object": name})
            for name in ("*", f"{NODE_ID}/scope/shared", f"{NODE_ID}/project/x")
        ),
        ("PATCH", peer, {"allowed_scopes": ["public", "company"]}),
    ):
        (await http.send(method, path, body, bearer=admin)).refused(403, "scope_not_permitted")
    assert {entry.type for entry in http.entries(size)} == {"request.refused.1"}

    (await http.post(KEYS, key | {"allowed_scopes": ["public"]}, bearer=admin)).expect(201)
    (await http.post(TOKENS, token | {"object": f"{NODE_ID}/scope/public"}, bearer=admin)).expect(201)
    # What others gave stays, and may be taken away.
    (await http.send("PATCH", peer, {"allowed_scopes": ["public", "company"]})).expect(200)
    (await http.send("PATCH", peer, {"allowed_scopes": ["company"]}, bearer=admin)).expect(200)


async def test_a_key_with_no_scope_neither_reads_nor_writes(http: Served):
    await http.write()
    bearer = await bearer_for(http, "read", "write", allowed_scopes=[])

    assert (await read(http, bearer)).expect(200)["total"] == 0
    (await write(http, bearer)).refused(403, "scope_not_permitted")


async def test_an_instruction_takes_a_permission_of_its_own(http: Served):
    instruction = {"type": "text", "v": "Always ask first.", "interpret_as": "instruction"}
    plain, trusted = await bearer_for(http, "write"), await bearer_for(http, "write", "instruction:write")

    (await write(http, plain, value=instruction)).refused(403, "insufficient_permission")
    assert (await write(http, trusted, value=instruction)).expect(201)["value"] == instruction
    alone = await bearer_for(http, "instruction:write")
    (await write(http, alone, value=instruction)).refused(403, "insufficient_permission")


async def test_a_parent_that_a_key_may_not_read_is_as_unknown_as_none(http: Served):
    hidden = await http.write(scope="team")
    writer = await bearer_for(http, "read", "write", allowed_scopes=["local"])

    for parent in (hidden["id"], UNKNOWN_ID):
        record = (await write(http, writer, derived_from=[parent], entity="user:alice")).expect(201)
        assert f"derived_from: {parent} is not known here" in record["warnings"]


async def test_admin_opens_the_admin_routes_and_brings_neither_read_nor_write(http: Served):
    plain, admin = await bearer_for(http, "read", "write", "federate"), await bearer_for(http, "admin")

    for path in (
        KEYS,
        "/v1/admin/config",
        "/v1/admin/audit-log",
        "/v1/trust?source=x",
        "/v1/federation/capability-tokens",
    ):
        (await read(http, plain, path)).refused(403, "insufficient_permission")
        (await read(http, admin, path)).expect(200)
    (await read(http, admin)).refused(403, "insufficient_permission")
    (await write(http, admin)).refused(403, "insufficient_permission")
    await bearer_for(http)
    made = await http.post(KEYS, {"entity_uri": SCRIBE, "permissions": ["read"]}, bearer=admin)
    assert made.expect(201)["created_by"] == SCRIBE


async def test_a_source_of_nobody_is_trusted_more_by_key_than_without_one(http: Served):
    bearer = await bearer_for(http, "write", allowed_sources=[PARTNER])

    own = http.entries((await write(http, bearer)).expect(201)["log_offset"])[0]
    by_key = http.entries((await write(http, bearer, source=PARTNER)).expect(201)["log_offset"])[0]

    assert own.event.judgement is None and own.event.fact.source_trust is not None
    assert (by_key.event.judgement.identity, by_key.event.judgement.scope_authority) == (0.4, 0.2)


# How long it holds.


async def test_a_revoked_key_is_refused_at_once_and_is_on_record(http: Served):
    made = await make_key(http)
    (await write(http, made["raw_key"])).expect(201)

    await revoke(http, made["key_id"])

    (await write(http, made["raw_key"])).refused(401, "api_key_revoked")
    refused = http.entries(http.size - 1)[0]
    assert (refused.type, refused.event.code, refused.actor.credential) == (
        *("request.refused.1", "api_key_revoked"),
        made["key_id"],
    )
    shown = (await http.get(f"{KEYS}/{made['key_id']}")).expect(200)
    assert (shown["status"], shown["revoked_at"]) == ("revoked", format_ms(START_MS))


async def test_what_is_under_way_when_its_key_is_revoked_is_not_decided(http: Served):
    made, other = await make_key(http, "admin"), await make_key(http)
    with http.node.view() as view:
        grant = view.api_keys.by_id(made["key_id"]).grant
    let_in = Principal(via="key", entity=grant.entity, key=grant)

    first = http.node.execute(RevokeApiKey(principal=http.admin, key_id=made["key_id"]))
    second = http.node.execute(RevokeApiKey(principal=let_in, key_id=other["key_id"]))

    await first
    with pytest.raises(ApiKeyRevoked):
        await second
    (await read(http, other["raw_key"])).expect(200)


async def test_a_key_is_revoked_once_and_one_that_is_not_there_never(http: Served):
    made = await make_key(http)
    await revoke(http, made["key_id"])
    size = http.size

    (await http.send("DELETE", f"{KEYS}/{made['key_id']}")).refused(409, "api_key_already_revoked")
    (await http.send("DELETE", f"{KEYS}/{UNKNOWN_ID}")).refused(404, "api_key_not_found")
    assert http.size == size


async def test_a_key_expires_by_itself(http: Served):
    made = await make_key(http, expires_at=format_ms(START_MS + 60_000))
    http.clock.advance(59_999)
    (await read(http, made["raw_key"])).expect(200)
    http.clock.advance(1)

    (await read(http, made["raw_key"])).refused(401, "api_key_expired")
    assert (await http.get(KEYS)).expect(200)["keys"][0]["status"] == "expired"


async def test_keys_outlive_a_restart_with_all_that_was_said_of_them(http: Served):
    kept, gone = await make_key(http, "read"), await make_key(http)
    await revoke(http, gone["key_id"])

    await http.restart()

    (await read(http, kept["raw_key"])).expect(200)
    (await write(http, kept["raw_key"])).refused(403, "insufficient_permission")
    (await read(http, gone["raw_key"])).refused(401, "api_key_revoked")


async def test_the_past_shows_a_key_as_it_was_and_none_that_came_later(http: Served):
    first = await make_key(http)
    then = f"offset:{first['log_offset']}"
    await revoke(http, first["key_id"])
    second = await make_key(http)

    assert [key["status"] for key in (await http.get(KEYS, as_of=then)).expect(200)["keys"]] == ["active"]
    assert (await http.get(f"{KEYS}/{first['key_id']}", as_of=then)).expect(200)["revoked_at"] is None
    (await http.get(f"{KEYS}/{second['key_id']}", as_of=then)).refused(404, "api_key_not_found")


# Who am I.


async def test_a_key_is_told_what_it_is_and_may_do(http: Served):
    made = await make_key(http, "read", allowed_scopes=["company"], allowed_sources=["agent:"])

    told = (await read(http, made["raw_key"], "/v1/me")).expect(200)

    assert told.pop("quota").keys() == {"reads", "writes"}
    assert told == {
        "entity_uri": SCRIBE,
        "kind": "key",
        "permissions": ["read"],
        "key_id": made["key_id"],
        "allowed_scopes": ["company"],
        "allowed_sources": ["agent:"],
        "expires_at": made["expires_at"],
        "capability": None,
    }


async def test_the_admin_key_and_a_token_are_told_the_same_of_themselves(http: Served, org_b: Organisation):
    await org_b.join(http)
    token = await issue(http, org_b.assistant, object=f"{NODE_ID}/scope/shared")

    admin = (await http.get("/v1/me")).expect(200)
    assert admin["permissions"] == ["read", "write", "federate", "admin", "instruction:write"]
    assert (admin["kind"], admin["key_id"], admin["allowed_sources"], admin["capability"]) == (
        "admin",
        None,
        None,
        None,
    )
    told = (await read(http, token, "/v1/me")).expect(200)
    assert (told["kind"], told["permissions"]) == ("capability", ["write"])
    assert (told["allowed_scopes"], told["allowed_sources"]) == (["company", "public"], [org_b.assistant])
    assert told["expires_at"] == told["capability"]["expiry"]
    assert told.keys() == admin.keys()


async def test_where_authentication_is_off_a_key_is_nobody_in_particular(serve):
    http = await serve(auth_required=False)
    made = await make_key(http, "read")

    assert (await read(http, made["raw_key"], "/v1/me")).expect(200)["kind"] == "anonymous"
