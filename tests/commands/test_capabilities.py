"""Capability tokens: in which order one is checked, what it allows, and what it never does (PROTOCOL §8)."""

import json

import pytest
import rfc8785

from node.keys import Signer
from node.times import format_ms
from tests.clocks import START_MS
from tests.organisations import Organisation, b64url, issue
from tests.served import NODE_ID, Answer, Served, fact

DAY_S = 86_400
VERIFY = "/v1/federation/capability-tokens/verify"
ISSUE = "/v1/federation/capability-tokens"


@pytest.fixture
async def peer_id(http: Served, org_b: Organisation) -> str:
    return await org_b.join(http)


@pytest.fixture
async def token(http: Served, org_b: Organisation, peer_id: str) -> str:
    return await issue(http, org_b.assistant)


async def write(at: Served, token: str, **fields: object) -> Answer:
    stated = {"source": "stigmem://org-b.example/agent/assistant", "scope": "company"}
    return await at.post("/v1/facts", fact(**stated | fields), bearer=token)


async def verdict(at: Served, token: object) -> object:
    return (await at.post(VERIFY, {"token_json": token}, bearer=None)).expect(200)


def resigned(token: str, signer: Signer, **changes: object) -> str:
    members = {name: value for name, value in json.loads(token).items() if name != "signature"} | changes
    return json.dumps(members | {"signature": b64url(signer.sign(rfc8785.dumps(members)))})


# Its form.


async def test_a_token_is_all_its_fields_and_itself_as_one_line(http: Served):
    answer = (
        await http.post(
            ISSUE,
            {
                "issuer": NODE_ID,
                "subject": "stigmem://org-b.example/x",
                "verb": "write",
                "object": "*",
                "ttl_seconds": 60,
            },
        )
    ).expect(201)

    line = answer.pop("token_json")
    assert "\n" not in line and json.loads(line) == answer
    assert list(answer) == [
        *("token_version", "token_id", "issuer", "subject", "verb", "object", "issued_at", "expiry", "nonce", "key_id"),
        "signature",
    ]
    assert (answer["issued_at"], answer["expiry"]) == (format_ms(START_MS), format_ms(START_MS + 60_000))
    assert len(answer["nonce"]) == 64


REFUSED_ISSUES = [
    ({"issuer": "stigmem://org-b.example"}, "invalid_object"),
    ({"object": "stigmem://org-b.example/project"}, "invalid_object"),
    ({"object": "user:alice"}, "invalid_object"),
    ({"object": f"{NODE_ID}/scope/secret"}, "invalid_object"),
    ({"object": f"{NODE_ID}/garden/none"}, "invalid_object"),
    ({"object": ""}, "invalid_uri"),
    ({"subject": "agent:bot"}, "invalid_field"),
    ({"subject": "stigmem://"}, "invalid_uri"),
    ({"verb": "delete"}, "invalid_field"),
    ({"ttl_seconds": 0}, "invalid_field"),
    ({"ttl_seconds": 90 * DAY_S + 1}, "invalid_expiry"),
    ({"ttl_seconds": None}, "invalid_expiry"),
    ({"expiry": format_ms(START_MS + 1000)}, "invalid_expiry"),
    ({"ttl_seconds": None, "expiry": format_ms(START_MS)}, "invalid_expiry"),
    ({"ttl_seconds": None, "expiry": "never"}, "invalid_field"),
]


@pytest.mark.parametrize(("changes", "code"), REFUSED_ISSUES, ids=[str(changes) for changes, _ in REFUSED_ISSUES])
async def test_a_token_that_could_not_hold_is_not_issued(http: Served, changes: dict, code: str):
    stated = {"issuer": NODE_ID, "subject": "stigmem://x.example/y", "verb": "write", "object": "*", "ttl_seconds": 60}
    size = http.size

    (await http.post(ISSUE, stated | changes)).refused(422, code)

    assert http.size == size


# Its checks, in order.


async def test_a_token_that_holds_writes_again_and_again(http: Served, token: str):
    for n in range(3):
        record = (await write(http, token, value={"type": "string", "v": str(n)})).expect(201)

    assert record["source"] == "stigmem://org-b.example/agent/assistant" and record["origin"] == NODE_ID
    written = http.entries(http.size - 1)[0]
    assert (written.actor.via, written.actor.credential) == ("capability", json.loads(token)["token_id"])


async def test_the_checks_come_in_the_protocol_s_order(http: Served, org_b: Organisation, peer_id: str, token: str):
    """Break everything, then mend it check by check: each refusal is of the first thing still wrong."""
    late = resigned(token, Signer.from_seed(bytes(32)), issuer="stigmem://x.example", token_version=2, verb="tell")
    steps = [
        (401, "token_malformed", late),
        (401, "unknown_issuer", resigned(token, Signer.from_seed(bytes(32)), issuer="stigmem://x.example")),
        (
            401,
            "token_signature_invalid",
            resigned(token, Signer.from_seed(bytes(32)), issued_at=format_ms(START_MS + 9)),
        ),
        (
            401,
            "timestamp_future_dated",
            resigned(token, http.signer, issued_at=format_ms(START_MS + 9), expiry=format_ms(1)),
        ),
        (403, "token_expired", resigned(token, http.signer, issued_at=format_ms(1), expiry=format_ms(START_MS))),
        (401, "token_lifetime_exceeded", resigned(token, http.signer, issued_at=format_ms(1))),
        (403, "subject_not_delegated", token),
    ]
    await http.send("DELETE", f"/v1/federation/peers/{peer_id}")
    (await http.post(f"{ISSUE}/{json.loads(token)['token_id']}/revoke", {})).expect(200)
    for status, code, bearer in steps:
        (await write(http, bearer)).refused(status, code)

    await org_b.join(http)
    (await write(http, token)).refused(403, "token_revoked")
    (await write(http, await issue(http, org_b.assistant, verb="read"))).refused(403, "insufficient_capability")


MALFORMED = [
    {"token_version": 2},
    {"token_version": "1"},
    {"nonce": "f" * 63},
    {"nonce": "F" * 64},
    {"issued_at": "today"},
    {"expiry": 1},
    {"surprise": 1},
]


@pytest.mark.parametrize("changes", MALFORMED, ids=str)
async def test_a_token_of_another_form_is_malformed(http: Served, token: str, changes: dict):
    bearer = resigned(token, http.signer, **changes)

    (await write(http, bearer)).refused(401, "token_malformed")
    assert await verdict(http, bearer) == {"valid": False, "reason": "malformed"}


@pytest.mark.parametrize("member", ["subject", "verb", "object", "expiry", "nonce", "key_id", "token_id"])
async def test_no_member_can_be_changed(http: Served, token: str, member: str):
    members = json.loads(token)
    other = {
        "subject": NODE_ID,
        "verb": "admin",
        "object": f"{NODE_ID}/x",
        "expiry": format_ms(START_MS + 999),
        "nonce": "0" * 64,
        "key_id": "0" * 64,
        "token_id": "00000000-0000-7000-8000-000000000000",
    }

    answer = await write(http, json.dumps(members | {member: other[member]}))

    answer.refused(401, "unknown_issuer" if member == "token_id" else "token_signature_invalid")


async def test_a_token_that_was_never_issued_here_is_nobody_s_though_our_key_signed_it(http: Served, token: str):
    unissued = resigned(token, http.signer, token_id="01890000-0000-7000-8000-000000000001")

    (await write(http, unissued)).refused(401, "unknown_issuer")


async def test_a_token_is_read_in_any_layout_of_its_json(http: Served, token: str):
    spread = json.dumps(dict(reversed(json.loads(token).items())), separators=(" , ", " : "))

    (await write(http, spread)).expect(201)


# What it allows.


@pytest.mark.parametrize(
    ("target", "fields", "is_covered"),
    [
        ("*", {}, True),
        (f"{NODE_ID}/scope/company", {}, True),
        (f"{NODE_ID}/scope/public", {}, False),
        (f"{NODE_ID}/scope/shared", {"scope": "public"}, True),
        (f"{NODE_ID}/scope/shared", {"scope": "team"}, False),
        (f"{NODE_ID}/project/apollo", {}, True),
        (f"{NODE_ID}/project/apollo", {"entity": f"{NODE_ID}/project/apollo/part"}, True),
        (f"{NODE_ID}/project/apollo", {"entity": f"{NODE_ID}/project/apollo13"}, False),
        (f"{NODE_ID}/project/apollo", {"entity": f"{NODE_ID}/project/apollo/%2e%2e/x"}, None),
        (NODE_ID, {"entity": "stigmem://org-a.example.evil/x"}, False),
        (NODE_ID, {}, True),
    ],
)
async def test_a_token_covers_what_its_object_names(
    http: Served, org_b: Organisation, peer_id: str, target: str, fields: dict, is_covered: bool | None
):
    answer = await write(http, await issue(http, org_b.assistant, object=target), **fields)

    if is_covered is None:
        answer.refused(422, "invalid_uri")
    elif is_covered:
        answer.expect(201)
    else:
        answer.refused(403, "insufficient_capability")


@pytest.mark.parametrize(
    "source",
    [
        "stigmem://org-b.example",
        "stigmem://org-b.example/agent/bot",
        "stigmem://org-b.example/agent/assistant2",
        f"{NODE_ID}/agent/scribe",
        "agent:assistant",
    ],
)
async def test_a_bearer_speaks_for_its_subject_alone(http: Served, token: str, source: str):
    (await write(http, token, source=source)).refused(403, "source_not_owned")
    (await write(http, token, source="stigmem://org-b.example/agent/assistant/part")).expect(201)


@pytest.mark.parametrize("verb", ["read", "admin", "federate", "subscribe", "tombstone:read"])
async def test_no_other_verb_writes(http: Served, org_b: Organisation, peer_id: str, verb: str):
    (await write(http, await issue(http, org_b.assistant, verb=verb))).refused(403, "insufficient_capability")


OPERATORS = [
    ("GET", "/v1/admin/config", None),
    ("PATCH", "/v1/admin/config", {"trust_mode": "off"}),
    ("POST", "/v1/gardens", {"slug": "den", "name": "Den", "scope": "team"}),
    ("GET", "/v1/gardens", None),
    ("GET", "/v1/quarantine", None),
    ("POST", "/v1/gardens/den/promote", {"fact_id": "x"}),
    ("POST", "/v1/gardens/den/reject", {"fact_id": "x"}),
    ("GET", "/v1/trust?source=agent%3Ax", None),
    ("PUT", "/v1/federation/manifest", {}),
    ("POST", "/v1/federation/peers", {}),
    ("GET", "/v1/federation/peers", None),
    ("POST", "/v1/federation/capability-tokens", {}),
    ("GET", "/v1/federation/capability-tokens", None),
    ("POST", "/v1/federation/capability-tokens/x/revoke", {}),
    ("POST", "/v1/federation/capability-tokens/x/accept", None),
]


@pytest.mark.parametrize("verb", ["write", "admin"])
async def test_no_token_moderates_or_reaches_keys_and_configuration(
    http: Served, org_b: Organisation, peer_id: str, verb: str
):
    bearer = await issue(http, org_b.assistant, verb=verb)

    for method, path, body in OPERATORS:
        (await http.send(method, path, body, bearer=bearer)).refused(403, "insufficient_permission")


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("*", {"company", "public", "team", "local"}),
        (f"{NODE_ID}/scope/shared", {"company", "public"}),
        (f"{NODE_ID}/project/apollo", {"company", "public", "team", "local"}),
        (f"{NODE_ID}/project/other", set()),
    ],
)
async def test_a_read_token_sees_what_it_names_and_its_totals_tell_no_more(
    http: Served, org_b: Organisation, peer_id: str, target: str, seen: set
):
    records = [await http.write(scope=scope) for scope in ("local", "team", "company", "public")]
    (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "team"})).expect(201)
    hidden = await http.write(scope="team", garden_id="den")
    bearer = await issue(http, org_b.assistant, verb="read", object=target)

    page = (await http.send("GET", "/v1/facts", bearer=bearer)).expect(200)

    assert {record["scope"] for record in page["facts"]} == seen and page["total"] == len(seen)
    for record in records:
        status = 200 if record["scope"] in seen else 404
        assert (await http.send("GET", f"/v1/facts/{record['id']}", bearer=bearer)).status == status
    (await http.send("GET", f"/v1/facts/{hidden['id']}", bearer=bearer)).refused(404, "fact_not_found")
    for garden in ("den", "none"):
        answer = await http.send("GET", f"/v1/facts?garden_id={garden}", bearer=bearer)
        answer.refused(403, "garden_forbidden")


async def test_a_write_token_reads_nothing(http: Served, token: str):
    record = await http.write(scope="public")

    for path in ("/v1/facts", f"/v1/facts/{record['id']}", f"/v1/facts/{record['id']}/body"):
        (await http.send("GET", path, bearer=token)).refused(403, "insufficient_capability")


async def test_a_garden_looks_alike_to_a_bearer_whether_or_not_it_is_there(http: Served, token: str):
    (await http.post("/v1/gardens", {"slug": "den", "name": "Den", "scope": "company"})).expect(201)

    answers = [await write(http, token, garden_id=name) for name in ("den", "none")]

    assert answers[0].body == answers[1].body
    answers[0].refused(403, "garden_forbidden")


async def test_what_a_known_bearer_may_not_do_is_on_record_against_it(http: Served, token: str):
    size = http.size

    (await write(http, token, source="agent:x")).refused(403, "source_not_owned")

    [recorded] = http.entries(size)
    assert (recorded.event.code, recorded.event.subject) == ("source_not_owned", "POST /v1/facts")
    assert recorded.actor.credential == json.loads(token)["token_id"]


# Verify and revoke.


async def test_a_token_verifies_as_text_and_as_an_object(http: Served, token: str):
    assert await verdict(http, token) == await verdict(http, json.loads(token)) == {"valid": True}


async def test_a_verdict_says_why_not(http: Served, org_b: Organisation, peer_id: str, token: str):
    short = await issue(http, org_b.assistant, ttl_seconds=1)
    stranger = await issue(http, "stigmem://stranger.example/x")
    revoked = await issue(http, org_b.assistant)
    (await http.post(f"{ISSUE}/{json.loads(revoked)['token_id']}/revoke", {"reason": "gone"})).expect(200)
    http.clock.advance(1000)

    reasons = {
        "expired": short,
        "subject": stranger,
        "revoked": revoked,
        "signature": resigned(token, Signer.from_seed(bytes(32))),
        "unknown_issuer": resigned(token, http.signer, issuer="stigmem://x.example"),
        "malformed": resigned(token, http.signer, issued_at=format_ms(START_MS + 10_000)),
    }

    for reason, bearer in reasons.items():
        assert await verdict(http, bearer) == {"valid": False, "reason": reason}


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"a":1,"a":2}', "null", {}, {"a": 1}])
async def test_what_is_no_token_is_malformed(http: Served, broken: object):
    assert await verdict(http, broken) == {"valid": False, "reason": "malformed"}


@pytest.mark.parametrize("broken", [1, None, True, []])
async def test_what_is_neither_text_nor_object_is_no_question(http: Served, broken: object):
    (await http.post(VERIFY, {"token_json": broken}, bearer=None)).refused(422, "invalid_field")


async def test_a_revoked_token_writes_nothing_and_is_revoked_once(http: Served, token: str):
    token_id = json.loads(token)["token_id"]
    http.clock.advance(5000)

    revoked = (await http.send("POST", f"{ISSUE}/{token_id}/revoke")).expect(200)

    assert revoked == {"token_id": token_id, "revoked_at": format_ms(START_MS + 5000), "status": "revoked"}
    (await http.post(f"{ISSUE}/{token_id}/revoke", {})).refused(409, "token_already_revoked")
    (await write(http, token)).refused(403, "token_revoked")
    shown = (await http.get(f"{ISSUE}/{token_id}")).expect(200)
    assert (shown["status"], shown["revoked_at"]) == ("revoked", revoked["revoked_at"])
    (await http.post(f"{ISSUE}/none/revoke", {})).refused(404, "token_not_found")
    (await http.get(f"{ISSUE}/none")).refused(404, "token_not_found")


async def test_tokens_and_revocations_survive_a_restart(http: Served, org_b: Organisation, token: str):
    other = await issue(http, org_b.assistant)
    (await http.post(f"{ISSUE}/{json.loads(other)['token_id']}/revoke", {})).expect(200)

    await http.restart()

    assert await verdict(http, token) == {"valid": True}
    assert await verdict(http, other) == {"valid": False, "reason": "revoked"}
    listed = (await http.get(ISSUE)).expect(200)["tokens"]
    assert [shown["status"] for shown in listed] == ["revoked", "active"]
