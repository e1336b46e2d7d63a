"""Pushes: what a peer brings is judged like what is pulled, and malice leaves nothing but its audit (PROTOCOL §5.4)."""

import asyncio
import json

import pytest

from node.clock import format_hlc
from node.keys import Signer
from tests.clocks import START_MS
from tests.http.test_doors import bearers
from tests.organisations import Organisation, b64url, be_strict, issue, seal_message
from tests.served import NODE_ID, Answer, Served

PUSH = "/v1/federation/facts/push"
PULL = "/v1/federation/facts"
HOUR_MS = 3_600_000
ORG_C = "stigmem://org-c.example"


@pytest.fixture
async def http(serve) -> Served:
    return await serve(federation_push_enabled=True)


@pytest.fixture
async def peer_id(http: Served, org_b: Organisation) -> str:
    return await org_b.join(http, scopes=("public",))


async def push(at: Served, org: Organisation, *facts: object, token: str | None = None, **body: object) -> Answer:
    sent = {"facts": list(facts), "sender_hlc": format_hlc(START_MS, 0)} | body
    return await at.post(PUSH, sent, bearer=token or org.token(at))


async def listed(at: Served) -> list[str]:
    return [fact["id"] for fact in (await at.get("/v1/facts", order="asc")).expect(200)["facts"]]


def audit(at: Served, start: int) -> list[tuple[str, str]]:
    [entry] = at.entries(start)
    return [(refused.event_type, refused.reason) for refused in entry.event.outcome.refused]


async def kept(at: Served) -> dict[str, str]:
    """The tables that no refused push may move."""
    digests = await at.digests()
    return {name: digests[name] for name in ("facts", "gardens", "tokens", "peers", "identity")}


async def test_a_pushed_fact_is_taken_in_like_a_pulled_one(http: Served, org_b: Organisation, peer_id: str):
    sent, size = org_b.served_fact(), http.size

    answer = await push(http, org_b, sent)

    assert answer.expect(202) == {"accepted": 1, "rejected": 0, "errors": []}
    [record] = (await http.get("/v1/facts")).json["facts"]
    for name in ("id", "entity", "value", "source", "timestamp", "hlc", "cid", "origin", "seal"):
        assert record[name] == sent[name], name
    assert (record["received_from"], record["warnings"]) == (org_b.node_id, [])
    [entry] = http.entries(size)
    assert (entry.type, entry.actor.principal, entry.actor.via) == ("push.received.1", org_b.node_id, "peer")
    assert entry.event.nonce == entry.actor.credential
    peer = org_b.peer_at(http)
    assert (peer.accepted, peer.held, peer.refused, peer.cursor) == (1, 0, 0, None)


async def test_a_push_leaves_the_place_of_the_pull_alone(http: Served, org_b: Organisation, peer_id: str):
    await org_b.receive(http, org_b.served_fact(number=1), cursor="here")

    await push(http, org_b, org_b.served_fact(number=2))

    assert org_b.peer_at(http).cursor == "here"


async def test_what_is_known_counts_as_accepted_and_is_stored_once(http: Served, org_b: Organisation, peer_id: str):
    await org_b.receive(http, org_b.served_fact(number=1))

    pushed = await push(http, org_b, *(org_b.served_fact(number=n) for n in (1, 2, 2)))
    again = await org_b.receive(http, org_b.served_fact(number=1), org_b.served_fact(number=2))

    assert pushed.expect(202) == {"accepted": 3, "rejected": 0, "errors": []}
    assert (again.reply.known, again.entries) == (2, ())
    assert len(await listed(http)) == 2


async def test_what_goes_to_quarantine_counts_as_accepted(http: Served, org_b: Organisation, peer_id: str):
    await be_strict(http)

    (await push(http, org_b, org_b.served_fact())).expect(202)

    [held] = (await http.get("/v1/quarantine")).json["items"]
    assert held["quarantine_reason"] == "auto-quarantine: source_trust below threshold (t=0.15)"
    assert await listed(http) == []
    assert org_b.peer_at(http).held == 1


async def test_without_a_place_in_quarantine_a_fact_is_refused_and_the_push_is_not(
    http: Served, org_b: Organisation, peer_id: str
):
    garden = await be_strict(http)
    (await http.send("PATCH", "/v1/admin/config", {"quarantine_garden_id": None})).expect(200)
    assert garden
    size = http.size

    answer = (await push(http, org_b, org_b.served_fact())).expect(202)

    assert answer["errors"] == [{"fact_id": org_b.served_fact()["id"], "error": "trust_below_threshold"}]
    assert audit(http, size) == [("rejected_fact", "trust_below_threshold")]


async def test_an_empty_push_is_answered_and_takes_its_nonce(http: Served, org_b: Organisation, peer_id: str):
    token = org_b.token(http)

    assert (await push(http, org_b, token=token)).expect(202) == {"accepted": 0, "rejected": 0, "errors": []}
    (await push(http, org_b, token=token)).refused(401, "nonce_already_seen")


async def test_while_pushes_are_off_there_is_nothing_to_authenticate_for(serve, org_b: Organisation):
    off = await serve()
    await org_b.join(off)
    size, token = off.size, org_b.token(off)

    for bearer in (None, "wrong", token):
        answer = await off.send("POST", PUSH, b"{", bearer=bearer)
        answer.refused(405, "push_disabled")
        assert answer.headers["Allow"] == ""

    assert off.size == size
    (await off.send("GET", PULL, bearer=token)).expect(200)


async def test_a_capability_token_writes_elsewhere(http: Served, org_b: Organisation, peer_id: str):
    token, size = await issue(http, org_b.assistant), http.size
    body = json.dumps({"facts": [org_b.served_fact()]}).encode()

    (await http.send("POST", PUSH, body, bearer=token)).refused(405, "push_disabled")
    in_header = {"X-Stigmem-Capability": token}
    (await http.send("POST", PUSH, body, bearer=None, headers=in_header)).refused(405, "push_disabled")

    assert http.size == size


# Malicious pushes.

FORGED = {
    "a third node's": "stigmem://node-c/user/alice",
    "a prefix of letters": "stigmem://org-b.example.evil/x",
    "a longer label": "stigmem://org-bb.example/x",
    "the name as user": "stigmem://org-b.example@evil.example/x",
    "another port": "stigmem://org-b.example:8080/x",
    "a trailing dot": "stigmem://org-b.example./x",
    "a dot segment out": "stigmem://org-b.example/../org-a.example/x",
    "a dot segment in": "stigmem://org-b.example/./agent/x",
    "an escaped dot segment": "stigmem://org-b.example/%2e%2e/x",
    "a backslash": "stigmem://org-b.example\\x",
    "an empty segment": "stigmem://org-b.example//agent/x",
    "capitals": "stigmem://ORG-B.example/agent/x",
    "a scheme in capitals": "STIGMEM://org-b.example/agent/x",
    "white space around it": " stigmem://org-b.example/agent/x",
    "a Cyrillic letter": "stigmem://\u043erg-b.example/agent/x",
    "a Kelvin sign": "stigmem://org-\u212a.example/agent/x",
    "a character of no width": "stigmem://org-b.example\u200b/agent/x",
    "a turn of the writing": "stigmem://org-b.example/\u202eagent/x",
    "the victim's node_id": NODE_ID,
    "the victim's own": f"{NODE_ID}/agent/scribe",
    "the node's voice": "system:stigmem",
    "the node's voice in capitals": "System:Stigmem",
    "nobody's": "stigmem://",
    "nothing": "",
}


@pytest.mark.parametrize("seal", [True, False], ids=["sealed by the peer", "without a seal"])
@pytest.mark.parametrize("forged", FORGED)
async def test_a_forged_source_is_refused_and_moves_nothing(
    http: Served, org_b: Organisation, peer_id: str, forged: str, seal: bool
):
    before, size = await kept(http), http.size
    fact = org_b.served_fact(source=FORGED[forged], **({} if seal else {"seal": None}))

    answer = (await push(http, org_b, fact)).refused(403, "source_not_owned")

    assert answer["errors"] == [{"fact_id": fact["id"], "error": "source_not_owned"}]
    assert audit(http, size) == [("rejected_fact", "source_not_owned")]
    assert await kept(http) == before


@pytest.mark.parametrize("origin", [ORG_C, "stigmem://org-b.example", None])
async def test_another_s_fact_under_its_own_seal_passes_by_pull_at_most(
    http: Served, org_b: Organisation, peer_id: str, origin: str | None
):
    fact = org_b.served_fact(source=f"{ORG_C}/agent/x", origin=origin or ORG_C)
    fact["seal"] = b64url(Signer.from_seed(bytes(32)).sign(seal_message(fact)))

    (await push(http, org_b, fact)).refused(403, "source_not_owned")


async def test_an_informal_source_passes_sealed_by_the_peer_or_delegated_and_else_is_forged(
    http: Served, org_b: Organisation, peer_id: str
):
    unsealed = org_b.served_fact(number=1, source="agent:x", seal=None)
    (await push(http, org_b, unsealed)).refused(403, "source_not_owned")
    (await push(http, org_b, org_b.served_fact(number=2, source="agent:x"))).expect(202)
    (await http.send("PATCH", f"/v1/federation/peers/{peer_id}", {"delegated_sources": ["agent:"]})).expect(200)

    (await push(http, org_b, unsealed)).expect(202)

    assert len(await listed(http)) == 2


@pytest.mark.parametrize("scope", ["company", "team", "local"])
async def test_a_scope_that_is_not_declared_is_refused_and_moves_nothing(
    http: Served, org_b: Organisation, peer_id: str, scope: str
):
    before, size = await kept(http), http.size

    (await push(http, org_b, org_b.served_fact(scope=scope))).refused(403, "scope_violation")

    assert audit(http, size) == [("scope_violation", "scope_violation")]
    assert await kept(http) == before


async def test_a_push_of_nothing_but_forbidden_facts_answers_with_the_first_one_s_code(
    http: Served, org_b: Organisation, peer_id: str
):
    wide = org_b.served_fact(number=1, scope="company")
    forged = org_b.served_fact(number=2, source=f"{NODE_ID}/agent/scribe")
    size = http.size

    (await push(http, org_b, wide, forged)).refused(403, "scope_violation")
    (await push(http, org_b, forged, wide)).refused(403, "source_not_owned")

    assert [entry.type for entry in http.entries(size)] == ["push.received.1"] * 2


async def test_of_a_mixed_push_each_fact_is_judged_alone(http: Served, org_b: Organisation, peer_id: str):
    size = http.size
    facts = (
        org_b.served_fact(number=1),
        org_b.served_fact(number=2, scope="company"),
        org_b.served_fact(number=3, source=NODE_ID),
        org_b.served_fact(number=4, cid="sha256:" + "0" * 64),
        org_b.served_fact(number=5, hlc=format_hlc(START_MS + 300_001, 0)),
        "no fact at all",
        org_b.served_fact(number=7),
    )
    reasons = ["scope_violation", "source_not_owned", "cid_mismatch", "hlc_skew", "invalid_fact"]

    answer = (await push(http, org_b, *facts)).expect(202)

    assert (answer["accepted"], answer["rejected"]) == (2, 5)
    assert [error["error"] for error in answer["errors"]] == reasons
    assert [error["fact_id"][-1:] for error in answer["errors"]] == ["2", "3", "4", "5", ""]
    assert [reason for _, reason in audit(http, size)] == reasons
    assert await listed(http) == [facts[0]["id"], facts[-1]["id"]]


async def test_a_push_that_is_refused_for_other_causes_is_no_403(http: Served, org_b: Organisation, peer_id: str):
    wide, bad = org_b.served_fact(number=1, scope="company"), org_b.served_fact(number=2, confidence=2)

    assert (await push(http, org_b, bad)).expect(202)["rejected"] == 1
    assert (await push(http, org_b, wide, bad)).expect(202)["rejected"] == 2


async def test_refused_facts_beyond_ten_a_minute_are_counted(http: Served, org_b: Organisation, peer_id: str):
    size = http.size
    forged = [org_b.served_fact(number=n, source=NODE_ID) for n in range(1, 15)]

    answer = (await push(http, org_b, *forged)).refused(403, "source_not_owned")
    assert len(answer["errors"]) == 14
    assert len(audit(http, size)) == 10

    http.clock.advance(60_000)
    await http.node.keep_up()
    counted = http.entries(size)[-1].event
    assert (counted.principal, counted.code, counted.count) == (org_b.node_id, "source_not_owned", 4)


# Size and form.


async def test_more_than_500_facts_are_refused_before_the_nonce_is_taken(
    http: Served, org_b: Organisation, peer_id: str
):
    token, size = org_b.token(http), http.size

    (await push(http, org_b, *[{}] * 501, token=token)).refused(413, "body_too_large")
    (await http.send("POST", PUSH, b" " * ((8 << 20) + 1), bearer=token)).refused(413, "body_too_large")

    assert http.size == size
    (await push(http, org_b, *[{}] * 500, token=token)).expect(202)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b'{"facts":[],"facts":[]}', 400, "malformed_json"),
        (b'{"facts":[],"sender_hlc":NaN}', 400, "malformed_json"),
        (b'{"facts":[],"extra":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "malformed_json"),
        (b"[]", 422, "invalid_field"),
        (b"{}", 422, "missing_field"),
        (b'{"facts":{}}', 422, "invalid_field"),
        (b'{"facts":[],"sender_hlc":1}', 422, "invalid_field"),
        (b'{"facts":[],"sender_hlc":"now"}', 422, "invalid_hlc"),
        (f'{{"facts":[],"sender_hlc":"{START_MS + 300_001}.0"}}'.encode(), 422, "hlc_skew"),
    ],
)
async def test_a_push_of_no_form_is_refused_and_takes_its_nonce(
    http: Served, org_b: Organisation, peer_id: str, body: bytes, status: int, code: str
):
    token, size, before = org_b.token(http), http.size, await kept(http)

    (await http.send("POST", PUSH, body, bearer=token)).refused(status, code)

    [entry] = http.entries(size)
    assert (entry.type, entry.event.event_type, entry.event.reason) == ("exchange.refused.1", "rejected_request", code)
    (await push(http, org_b, token=token)).refused(401, "nonce_already_seen")
    assert await kept(http) == before


@pytest.mark.parametrize("extra", ["[" * 100_000 + "]" * 100_000, '{"a":1,"a":2}', "NaN"])
async def test_a_fact_that_cannot_be_read_is_refused_and_those_beside_it_are_taken(
    http: Served, org_b: Organisation, peer_id: str, extra: str
):
    good, bad = (json.dumps(org_b.served_fact(number=number)) for number in (1, 2))
    body = f'{{"facts":[{bad[:-1]},"extra":{extra}}},{good}],"sender_hlc":"{START_MS}.0"}}'

    answer = (await http.send("POST", PUSH, body.encode(), bearer=org_b.token(http))).expect(202)

    refused = {"fact_id": json.loads(bad)["id"], "error": "invalid_fact"}
    assert answer == {"accepted": 1, "rejected": 1, "errors": [refused]}
    assert await listed(http) == [json.loads(good)["id"]]


async def test_what_else_a_peer_says_is_ignored_and_its_clock_may_be_left_out(
    http: Served, org_b: Organisation, peer_id: str
):
    body = {"facts": [org_b.served_fact() | {"surprise": [1]}], "later": {"a": 1}}

    (await http.post(PUSH, body, bearer=org_b.token(http))).expect(202)


async def test_a_sender_s_clock_is_taken_in_but_never_moves_ours_past_our_own(
    http: Served, org_b: Organisation, peer_id: str
):
    for ms, counter in ((START_MS, 500), (START_MS + 200_000, 0)):
        (await push(http, org_b, sender_hlc=format_hlc(ms, counter))).expect(202)

    assert http.entries(http.size - 1)[0].hlc.startswith(f"{START_MS:013d}.50")


# Tokens.


async def test_of_many_copies_of_one_token_exactly_one_wins(http: Served, org_b: Organisation, peer_id: str):
    token, size = org_b.token(http), http.size

    answers = await asyncio.gather(*(push(http, org_b, org_b.served_fact(number=n), token=token) for n in range(1, 33)))

    assert sorted(answer.status for answer in answers) == [202] + [401] * 31
    assert {answer.json["error"] for answer in answers if answer.status == 401} == {"nonce_already_seen"}
    assert [entry.type for entry in http.entries(size)].count("push.received.1") == 1
    assert len(await listed(http)) == 1


async def test_a_token_used_on_one_route_is_used_on_the_other(http: Served, org_b: Organisation, peer_id: str):
    pulled, pushed = org_b.token(http), org_b.token(http)
    (await http.send("GET", PULL, bearer=pulled)).expect(200)
    (await push(http, org_b, org_b.served_fact(scope="company"), token=pushed)).refused(403, "scope_violation")
    size = http.size

    (await push(http, org_b, org_b.served_fact(), token=pulled)).refused(401, "nonce_already_seen")
    (await http.send("GET", PULL, bearer=pushed)).refused(401, "nonce_already_seen")

    assert [entry.event.event_type for entry in http.entries(size)] == ["replay_attempt"] * 2


async def test_a_copied_token_is_refused_before_a_fact_is_looked_at_and_moves_nothing(
    http: Served, org_b: Organisation, peer_id: str
):
    token = org_b.token(http)
    (await push(http, org_b, org_b.served_fact(number=1), token=token)).expect(202)
    before, size = await kept(http), http.size

    (await push(http, org_b, org_b.served_fact(number=2), token=token)).refused(401, "nonce_already_seen")

    assert await kept(http) == before
    [entry] = http.entries(size)
    assert (entry.event.event_type, entry.event.nonce) == ("replay_attempt", None)


async def test_with_a_window_a_token_is_good_again_that_long_after_its_use(serve, org_b: Organisation):
    windowed = await serve(federation_push_enabled=True, federation_nonce_window_s=5)
    await org_b.join(windowed)
    token = org_b.token(windowed)
    (await push(windowed, org_b, org_b.served_fact(), token=token)).expect(202)

    windowed.clock.advance(4_999)
    (await push(windowed, org_b, token=token)).refused(401, "nonce_already_seen")
    await windowed.restart()
    (await push(windowed, org_b, token=token)).refused(401, "nonce_already_seen")
    windowed.clock.advance(1)
    (await push(windowed, org_b, org_b.served_fact(), token=token)).expect(202)

    assert len(await listed(windowed)) == 1


async def test_a_token_made_to_break_something_is_refused_and_nothing_is_carried_out(
    http: Served, org_b: Organisation, peer_id: str
):
    body, before = json.dumps({"facts": [org_b.served_fact()]}).encode(), await kept(http)

    for kind, bearer in bearers(org_b, http):
        answer = await http.send("POST", PUSH, body, bearer=bearer)

        assert answer.status == 401, (kind, answer)
        answer.assert_well_formed()
    assert await kept(http) == before


async def test_a_peer_that_is_removed_pushes_no_more(http: Served, org_b: Organisation, peer_id: str):
    await http.send("DELETE", f"/v1/federation/peers/{peer_id}")

    (await push(http, org_b, org_b.served_fact())).refused(401, "unknown_or_inactive_peer")
