"""Countersigning for a peer: what this node puts its name to, and everything that it does not (PROTOCOL §9)."""

import json

import pytest

from node.keys import Signer, verify
from node.times import format_ms
from tests.clocks import START_MS
from tests.organisations import Organisation, b64url, be_strict, body_of, issue
from tests.served import NODE_ID, Answer, Served, fact

ATTEST = "/v1/federation/attest"
SCRIBE = f"{NODE_ID}/agent/scribe"


def body(**changes: object) -> dict[str, object]:
    """What our scribe writes at the other organisation, as its node asks us to sign it."""
    stated = {
        "entity": "stigmem://org-b.example/project/zeus",
        "relation": "memory:status",
        "value": {"type": "string", "v": "blue"},
        "scope": "company",
        "source": SCRIBE,
        "confidence": 0.9,
        "ts": format_ms(START_MS),
    }
    return {name: value for name, value in (stated | changes).items() if value is not ...}


@pytest.fixture
async def token(http: Served, org_b: Organisation) -> str:
    """Our scribe's token at the other organisation, which is our peer."""
    await org_b.join(http)
    return await issue(org_b.home, SCRIBE)


async def ask(http: Served, org_b: Organisation, token: object, fact_body: object = None, **more: object) -> Answer:
    request = {"fact_body": body() if fact_body is None else fact_body, "token_json": token} | more
    return await http.post(ATTEST, request, bearer=org_b.token(http))


async def test_what_our_own_wrote_there_is_signed_and_on_record(http: Served, org_b: Organisation, token: str):
    size = http.size

    answer = (await ask(http, org_b, token)).expect(200)

    signed = body_of(body() | {"timestamp": body()["ts"]})
    assert b64url(http.signer.sign(signed)) == answer["attestation"]
    assert (answer["issuer"], answer["key_id"]) == (NODE_ID, http.signer.key_id)
    [recorded] = http.entries(size)
    assert (recorded.type, recorded.event.fact_body) == ("attestation.signed.1", signed)
    assert recorded.event.token_id == json.loads(token)["token_id"]
    assert recorded.actor.principal == org_b.node_id


async def test_the_token_may_come_as_an_object(http: Served, org_b: Organisation, token: str):
    (await ask(http, org_b, json.loads(token))).expect(200)


REFUSED_BODIES = {
    "an entity of ours": ({"entity": f"{NODE_ID}/project/apollo"}, 403, "attestation_refused"),
    "an entity of a third organisation": ({"entity": "stigmem://org-c.example/x"}, 403, "attestation_refused"),
    "an entity that begins alike": ({"entity": "stigmem://org-b.example.evil/x"}, 403, "attestation_refused"),
    "an informal entity": ({"entity": "user:alice"}, 403, "attestation_refused"),
    "another source of ours": ({"source": f"{NODE_ID}/agent/boss"}, 403, "attestation_refused"),
    "ourselves as source": ({"source": NODE_ID}, 403, "attestation_refused"),
    "the peer as source": ({"source": "stigmem://org-b.example/agent/bot"}, 403, "attestation_refused"),
    "a public fact": ({"scope": "public"}, 403, "attestation_refused"),
    "a time long ago": ({"ts": format_ms(START_MS - 300_001)}, 422, "timestamp_out_of_window"),
    "a time to come": ({"ts": format_ms(START_MS + 300_001)}, 422, "timestamp_out_of_window"),
    "a time that is none": ({"ts": "now"}, 422, "invalid_field"),
    "an eighth member": ({"note": "x"}, 422, "unknown_field"),
    "a missing member": ({"confidence": ...}, 422, "missing_field"),
    "a confidence above 1": ({"confidence": 1.5}, 422, "invalid_field"),
    "a value that is not of its type": ({"value": {"type": "number", "v": "1"}}, 422, "invalid_value"),
    "a reserved relation": ({"relation": "stigmem:resolves"}, 403, "reserved_namespace"),
    "a relation of another spelling": ({"relation": "Memory:status"}, 422, "invalid_field"),
    "a source of another spelling": ({"source": SCRIBE.replace("org-a", "ORG-A")}, 422, "invalid_field"),
    "a hidden character": ({"entity": "stigmem://org-b.example/a\u202eb"}, 422, "invalid_field"),
    "a large text": ({"value": {"type": "text", "v": "x" * 65_537}}, 413, "text_too_large"),
}


@pytest.mark.parametrize("fault", REFUSED_BODIES)
async def test_what_is_not_ours_to_vouch_for_is_not_signed_and_on_record(
    http: Served, org_b: Organisation, token: str, fault: str
):
    changes, status, code = REFUSED_BODIES[fault]
    size = http.size

    answer = (await ask(http, org_b, token, body(**changes))).refused(status, code)

    assert "attestation" not in answer
    [recorded] = http.entries(size)
    assert (recorded.type, recorded.event.reason) == ("exchange.refused.1", code)
    assert recorded.event.nonce is not None


@pytest.mark.parametrize("verb", ["read", "admin", "federate"])
async def test_only_a_write_token_is_signed_under(http: Served, org_b: Organisation, token: str, verb: str):
    (await ask(http, org_b, await issue(org_b.home, SCRIBE, verb=verb))).refused(403, "attestation_refused")


@pytest.mark.parametrize("subject", [NODE_ID, "stigmem://org-b.example/agent/bot", "stigmem://org-a.example.evil/x"])
async def test_the_token_s_subject_must_be_a_part_of_this_organisation(
    http: Served, org_b: Organisation, token: str, subject: str
):
    answer = await ask(http, org_b, await issue(org_b.home, subject), body(source=SCRIBE))

    answer.refused(403, "attestation_refused")


async def test_a_token_of_ours_is_none_of_the_peer_s(http: Served, org_b: Organisation, token: str):
    (await ask(http, org_b, await issue(http, SCRIBE))).refused(403, "attestation_refused")


async def test_a_forged_token_is_not_signed_under(http: Served, org_b: Organisation, token: str):
    members = json.loads(token) | {"signature": b64url(Signer.from_seed(bytes(32)).sign(b"x"))}

    (await ask(http, org_b, json.dumps(members))).refused(403, "attestation_refused")


async def test_a_token_that_has_run_out_is_not_signed_under(http: Served, org_b: Organisation, token: str):
    http.clock.advance(3_600_000)

    answer = await ask(http, org_b, token, body(ts=format_ms(http.clock.now_ms())))

    answer.refused(403, "token_expired")


@pytest.mark.parametrize("broken", ["", "{", '{"a":1,"a":1}', {}, {"token_version": 1}])
async def test_what_is_no_token_is_refused_and_takes_the_nonce(
    http: Served, org_b: Organisation, token: str, broken: object
):
    size = http.size

    answer = await ask(http, org_b, broken)

    assert answer.status in (400, 401)
    [recorded] = http.entries(size)
    assert recorded.event.nonce is not None


async def test_one_peer_token_gets_one_signature(http: Served, org_b: Organisation, token: str):
    bearer, request = org_b.token(http), {"fact_body": body(), "token_json": token}

    (await http.post(ATTEST, request, bearer=bearer)).expect(200)

    (await http.post(ATTEST, request, bearer=bearer)).refused(401, "nonce_already_seen")
    (await http.send("GET", "/v1/federation/facts", bearer=bearer)).refused(401, "nonce_already_seen")


async def test_sixty_signatures_a_minute_and_no_more(http: Served, org_b: Organisation, token: str):
    for _ in range(60):
        (await ask(http, org_b, token)).expect(200)

    assert (await ask(http, org_b, token)).refused(429, "quota_exceeded")["retry_after"] > 0
    http.clock.advance(60_000)
    (await ask(http, org_b, token)).expect(200)


# Policy.


@pytest.mark.parametrize("policy", ["off", "accepted"])
async def test_the_policy_can_keep_this_node_from_signing(serve, org_b: Organisation, policy: str):
    at = await serve(attestation_policy=policy)
    await org_b.join(at)
    token = await issue(org_b.home, SCRIBE)

    (await ask(at, org_b, token)).refused(403, "attestation_refused")


async def test_a_token_that_an_admin_took_up_is_signed_under(serve, org_b: Organisation):
    at = await serve(attestation_policy="accepted")
    await org_b.join(at)
    token, other = await issue(org_b.home, SCRIBE), await issue(org_b.home, SCRIBE)
    path = f"/v1/federation/capability-tokens/{json.loads(token)['token_id']}/accept"

    (await at.send("POST", path)).expect(200)
    size = at.size
    (await at.send("POST", path)).expect(200)

    assert at.size == size
    (await ask(at, org_b, token)).expect(200)
    (await ask(at, org_b, other)).refused(403, "attestation_refused")


# The other side: two nodes, one asks the other over its socket.


async def test_a_write_with_a_token_comes_back_with_its_author_s_signature(http: Served, org_b: Organisation):
    token = await each_other_s_peer(http, org_b)

    record = (await write_there(org_b, token)).expect(201)

    assert record["attestation_chain_issuers"] == [NODE_ID] and record["attestation_verified"] == [True]
    signed = body_of(record)
    assert verify(http.signer.public_key, signed, http.signer.sign(signed))
    assert record["attestation_chain"] == [b64url(http.signer.sign(signed))]


async def test_each_fact_of_a_batch_comes_back_with_its_author_s_signature(http: Served, org_b: Organisation):
    token = await each_other_s_peer(http, org_b)
    stated = {"entity": "stigmem://org-b.example/project/zeus", "source": SCRIBE}
    facts = [fact(**stated, scope="company", value={"type": "number", "v": number}) for number in range(12)]
    asked = [*facts, fact(**stated, scope="public"), fact(**stated, relation="stigmem:x"), {}]
    size = http.size

    answer = (await org_b.home.post("/v1/facts/batch", {"facts": asked}, bearer=token)).expect(201)

    assert [result["status"] for result in answer["results"]] == ["accepted"] * 13 + ["rejected"] * 2
    kept = [await org_b.home.get(f"/v1/facts/{result['fact_id']}") for result in answer["results"][:13]]
    # What is refused, or may not be signed, is written without; nobody is asked about what is refused anyway.
    assert [record.expect(200)["attestation_verified"] for record in kept] == [[True]] * 12 + [[]]
    assert [entry.type for entry in http.entries(size)].count("attestation.signed.1") == 12


async def test_a_refused_signature_is_missed_in_strict_mode_alone(http: Served, org_b: Organisation):
    token = await each_other_s_peer(http, org_b)

    plain = (await write_there(org_b, token, scope="public")).expect(201)
    assert plain["attestation_chain"] == []

    garden = await be_strict(org_b.home)
    held = (await write_there(org_b, token, scope="company")).expect(202)
    assert held["quarantine_reason"] == "auto-quarantine: source_trust below threshold (t=0.15)"
    (await org_b.home.post(f"/v1/gardens/{garden}/promote", {"fact_id": held["fact_id"]})).expect(200)

    (await write_there(org_b, token, scope="company")).expect(201)
    missing = (await write_there(org_b, token, scope="public")).expect(202)
    assert missing["quarantine_reason"] == "auto-quarantine: attestation missing"


async def test_nobody_is_asked_to_sign_what_is_refused_anyway(http: Served, org_b: Organisation):
    token = await each_other_s_peer(http, org_b)
    size = http.size

    (await write_there(org_b, token, source=f"{NODE_ID}/agent/boss")).refused(403, "source_not_owned")
    (await write_there(org_b, token, relation="stigmem:x")).refused(403, "reserved_namespace")

    assert http.size == size


async def test_a_node_that_does_not_answer_holds_up_no_write(http: Served, org_b: Organisation):
    token = await each_other_s_peer(http, org_b)
    await http.stop()
    try:
        record = (await write_there(org_b, token)).expect(201)
    finally:
        await http.start()

    assert record["attestation_chain"] == []


async def each_other_s_peer(http: Served, org_b: Organisation) -> str:
    """Register both with each other, over their sockets; our scribe's token at the other."""
    for at, other in ((http, org_b.home), (org_b.home, http)):
        form = {
            "peer_url": f"http://127.0.0.1:{other.port}",
            "peer_entity_uri": other.node.node_id,
            "allowed_scopes": ["public", "company"],
        }
        assert (await at.post("/v1/federation/peers", form)).expect(201)["status"] == "active"
    return await issue(org_b.home, SCRIBE)


async def write_there(org_b: Organisation, token: str, **fields: object) -> Answer:
    stated = {"entity": "stigmem://org-b.example/project/zeus", "source": SCRIBE, "scope": "company"}
    return await org_b.home.post("/v1/facts", fact(**stated | fields), bearer=token)
