"""A peer's facts, each judged alone: every check with its audit, and what becomes of those that pass (PROTOCOL §5.5, §6.3)."""

import json
from base64 import urlsafe_b64decode
from itertools import permutations

import pytest

from node.clock import format_hlc
from node.commands.exchange import Ingested
from node.errors import UnknownOrInactivePeer
from node.events.entry import Entry
from node.keys import Signer
from tests.clocks import START_MS
from tests.organisations import Organisation, b64url, be_strict, body_of, cid_of, seal_message
from tests.served import NODE_ID, Served


@pytest.fixture
async def peer_id(http: Served, org_b: Organisation) -> str:
    return await org_b.join(http)


async def listed(at: Served) -> list[dict]:
    return (await at.get("/v1/facts", include_retracted=True, include_expired=True)).expect(200)["facts"]


async def waiting(at: Served) -> list[dict]:
    return (await at.get("/v1/quarantine", quarantine_status="pending")).expect(200)["items"]


def audit(entry: Entry) -> list[tuple[str, str]]:
    return [(refused.event_type, refused.reason) for refused in entry.event.outcome.refused]


async def test_a_fact_is_taken_in_with_everything_its_origin_said(http: Served, org_b: Organisation, peer_id: str):
    sent = org_b.served_fact(valid_until="2027-01-01T00:00:00.000Z", derived_from=["f" * 64])

    outcome = await org_b.receive(http, sent, cursor="behind-it")

    [record] = await listed(http)
    said = (
        "id",
        "entity",
        "relation",
        "value",
        "source",
        "timestamp",
        "hlc",
        "confidence",
        "scope",
        "valid_until",
        "cid",
    )
    for name in (*said, "derived_from", "origin", "seal"):
        assert record[name] == sent[name], name
    assert (record["received_from"], record["warnings"], record["garden_id"]) == (org_b.node_id, [], None)
    [entry] = outcome.entries
    assert (entry.event.cursor, entry.actor.principal, entry.actor.via) == ("behind-it", org_b.node_id, "peer")
    assert org_b.peer_at(http).cursor == "behind-it"
    assert outcome.reply == Ingested(ingested=1, known=0, refused=0)


# Each with what is changed, and how its refusal is audited.
FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "no UUID": ({"id": "fact-1"}, "invalid_fact"),
    "a confidence above 1": ({"confidence": 1.1}, "invalid_fact"),
    "a time that is none": ({"timestamp": "today"}, "invalid_fact"),
    "an end that is none": ({"valid_until": "never"}, "invalid_fact"),
    "a scope that nobody knows": ({"scope": "secret"}, "invalid_fact"),
    "65 parents": ({"derived_from": ["f" * 64] * 65}, "invalid_fact"),
    "a time without end": ({"timestamp": f"2026-05-04T11:59:00.{'0' * 100}Z"}, "invalid_fact"),
    "a parent of no form": ({"derived_from": ["x"]}, "provenance_hash_invalid"),
    "a control character": ({"entity": "user:a\x00b"}, "invalid_field"),
    "a long name": ({"entity": "user:" + "x" * 2048}, "field_too_long"),
    "no URI": ({"entity": "stigmem://"}, "invalid_uri"),
    "a source not in normal form": ({"source": "stigmem://ORG-B.example/agent/assistant"}, "source_not_owned"),
    "a reserved relation": ({"relation": "stigmem:resolves"}, "reserved_namespace"),
    "a reserved relation in capitals": ({"relation": "Stigmem:resolves"}, "reserved_namespace"),
    "a reserved entity": ({"entity": "stigmem:conflict:1"}, "reserved_namespace"),
    "the node's own source": ({"source": "system:stigmem"}, "source_not_owned"),
    "a bad value": ({"value": {"type": "boolean", "v": 1}}, "invalid_value"),
    "a large text": ({"value": {"type": "text", "v": "x" * 65_537}}, "text_too_large"),
    "a scope that is not exchanged": ({"scope": "team"}, "scope_violation"),
    "a local fact": ({"scope": "local"}, "scope_violation"),
    "our own source": ({"source": f"{NODE_ID}/agent/scribe"}, "source_not_owned"),
    "a third node's source": ({"source": "stigmem://org-c.example/agent/x"}, "source_not_owned"),
    "a source that begins alike": ({"source": "stigmem://org-b.example.evil/x"}, "source_not_owned"),
    "another node's record": ({"origin": "stigmem://org-c.example"}, "source_not_owned"),
    "an informal source without seal": ({"source": "agent:x", "seal": None}, "source_not_owned"),
    "a seal that is none": ({"seal": "AAAA"}, "seal_invalid"),
    "a seal not in base64url": ({"seal": "!"}, "seal_invalid"),
    "a clock that is none": ({"hlc": "now"}, "invalid_hlc"),
    "a clock of ISO form": ({"hlc": "2026-05-04T12:00:00Z"}, "invalid_hlc"),
    "a clock too far ahead": ({"hlc": format_hlc(START_MS + 300_001, 0)}, "hlc_skew"),
    "a CID of another fact": ({"cid": "sha256:" + "0" * 64}, "cid_mismatch"),
    "a CID of no form": ({"cid": "x"}, "cid_mismatch"),
    "chains of unequal length": ({"attestation_chain": ["AAAA"]}, "attestation_chain_mismatch"),
    "17 attestations": (
        {"attestation_chain": ["AAAA"] * 17, "attestation_chain_issuers": [f"agent:{n}" for n in range(17)]},
        "attestation_chain_too_long",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_bad_fact_is_refused_with_its_reason_and_stops_no_other(
    http: Served, org_b: Organisation, peer_id: str, fault: str
):
    changes, reason = FAULTS[fault]

    outcome = await org_b.receive(
        http, org_b.served_fact(number=1), org_b.served_fact(number=2, **changes), org_b.served_fact(number=3)
    )

    assert outcome.reply == Ingested(ingested=2, known=0, refused=1)
    event_type = "scope_violation" if reason == "scope_violation" else "rejected_fact"
    assert audit(outcome.entries[0]) == [(event_type, reason)]
    assert [record["id"][-1] for record in await listed(http)] == ["3", "1"]
    assert await waiting(http) == []


@pytest.mark.parametrize("raw", [b"null", b"[]", b"1", b'"x"', b"{}", b'{"id":1,"source":[]}'])
async def test_what_is_no_fact_is_refused_as_such(http: Served, org_b: Organisation, peer_id: str, raw: bytes):
    outcome = await org_b.receive(http, raw)

    assert audit(outcome.entries[0]) == [("rejected_fact", "invalid_fact")]


@pytest.mark.parametrize("member", ["entity", "value", "source", "timestamp", "confidence", "scope", "relation", "id"])
async def test_a_fact_that_lacks_a_member_is_none(http: Served, org_b: Organisation, peer_id: str, member: str):
    sent = org_b.served_fact()
    del sent[member]

    assert audit((await org_b.receive(http, sent)).entries[0]) == [("rejected_fact", "invalid_fact")]


SEALED = {
    "entity": "stigmem://org-b.example/project/hera",
    "value": {"type": "string", "v": "red"},
    "confidence": 0.1,
    "timestamp": "2026-05-04T11:59:01.000Z",
    "hlc": "1777895940000.001",
    "valid_until": "2027-01-01T00:00:00.000Z",
    "derived_from": ["f" * 64],
    "supersedes": ["01890000-0000-7000-8000-000000000009"],
    "id": "01890000-0000-7000-8000-000000000008",
    "source": "stigmem://org-b.example/agent/bot",
    "scope": "company",
}


@pytest.mark.parametrize("member", SEALED)
async def test_nothing_that_is_sealed_can_be_changed(http: Served, org_b: Organisation, peer_id: str, member: str):
    changed = org_b.served_fact() | {member: SEALED[member]}
    changed["cid"] = cid_of(changed)

    outcome = await org_b.receive(http, changed)

    assert audit(outcome.entries[0]) == [("rejected_fact", "seal_invalid")]


async def test_another_node_s_seal_is_none_of_the_peer_s(http: Served, org_b: Organisation, peer_id: str):
    sent = org_b.served_fact()
    forged = b64url(Signer.from_seed(bytes(32)).sign(seal_message(sent)))

    assert audit((await org_b.receive(http, sent | {"seal": forged})).entries[0]) == [("rejected_fact", "seal_invalid")]


# What passes.


async def test_a_fact_without_seal_is_taken_with_a_warning(http: Served, org_b: Organisation, peer_id: str):
    await org_b.receive(http, org_b.served_fact(seal=None))

    [record] = await listed(http)
    assert (record["warnings"], record["seal"]) == (["unsealed"], None)


async def test_an_informal_source_passes_sealed_or_under_a_delegated_prefix(
    http: Served, org_b: Organisation, peer_id: str
):
    await org_b.receive(http, org_b.served_fact(number=1, source="agent:x"))
    delegated = {"delegated_sources": ["agent:"]}
    (await http.send("PATCH", f"/v1/federation/peers/{peer_id}", delegated)).expect(200)

    outcome = await org_b.receive(
        http,
        org_b.served_fact(number=2, source="agent:x", seal=None),
        org_b.served_fact(number=3, source="agents:x", seal=None),
        org_b.served_fact(number=4, source=f"{NODE_ID}/agent/scribe", seal=None),
    )

    assert [(record["id"][-1], record["warnings"]) for record in await listed(http)] == [("2", ["unsealed"]), ("1", [])]
    assert audit(outcome.entries[0]) == [("rejected_fact", "source_not_owned")] * 2


@pytest.mark.parametrize("prefixes", [["agent"], [""], [":"], ["stigmem:"], ["STIGMEM://x/"], ["system:"], ["a\x00:"]])
async def test_a_prefix_that_would_reach_too_far_is_not_delegated(http: Served, peer_id: str, prefixes: list[str]):
    answer = await http.send("PATCH", f"/v1/federation/peers/{peer_id}", {"delegated_sources": prefixes})

    answer.refused(422, "invalid_field")


@pytest.mark.parametrize(("v", "text"), [(3, "3.0"), (3, "3"), (0.5, "0.5"), (1e16, "1e+16"), (-0.0, "-0.0")])
async def test_the_cid_of_a_number_may_be_over_its_float_or_its_integer_text(
    http: Served, org_b: Organisation, peer_id: str, v: float, text: str
):
    value = {"type": "number", "v": v}
    cid = cid_of(org_b.served_fact(value={"type": "number", "v": text}))

    outcome = await org_b.receive(http, org_b.served_fact(value=value, cid=cid))

    assert outcome.reply.ingested == 1
    assert (await listed(http))[0]["cid"] == cid


async def test_the_integer_text_of_a_fraction_is_no_cid(http: Served, org_b: Organisation, peer_id: str):
    cid = cid_of(org_b.served_fact(value={"type": "number", "v": "0"}))

    outcome = await org_b.receive(http, org_b.served_fact(value={"type": "number", "v": 0.5}, cid=cid))

    assert audit(outcome.entries[0]) == [("rejected_fact", "cid_mismatch")]


async def test_a_fact_without_cid_or_clock_gets_ours(http: Served, org_b: Organisation, peer_id: str):
    sent = org_b.served_fact(cid=None, hlc=None)

    await org_b.receive(http, sent)

    [record] = await listed(http)
    assert record["cid"] == cid_of(sent)
    assert record["hlc"].startswith(f"{START_MS:013d}.")


async def test_a_peer_s_clock_moves_ours_only_up_to_now(http: Served, org_b: Organisation, peer_id: str):
    ahead = format_hlc(START_MS + 300_000, 7)

    outcome = await org_b.receive(http, org_b.served_fact(hlc=ahead))

    assert outcome.reply.ingested == 1
    assert outcome.entries[0].hlc.startswith(f"{START_MS:013d}.")
    assert (await http.write())["hlc"].startswith(f"{START_MS:013d}.")


async def test_a_foreign_clock_may_have_an_unpadded_counter(http: Served, org_b: Organisation, peer_id: str):
    await org_b.receive(http, org_b.served_fact(hlc="1777895940000.7"))

    assert (await listed(http))[0]["hlc"] == "1777895940000.7"


async def test_a_peer_s_warnings_and_judgements_are_ignored(http: Served, org_b: Organisation, peer_id: str):
    claims = {
        "contradicted": True,
        "source_trust": 1.0,
        "quarantine_status": "promoted",
        "garden_id": "x",
        "novel": [1],
    }
    fact = org_b.served_fact()
    fact["value"] = fact["value"] | {"novel": {"a": 1}}

    await org_b.receive(http, fact | claims | {"received_from": "stigmem://org-c.example"})

    [record] = await listed(http)
    assert (record["contradicted"], record["garden_id"], record["quarantine_status"]) == (False, None, None)
    assert record["source_trust"] < 1.0 and record["received_from"] == org_b.node_id


@pytest.mark.parametrize("is_good", [True, False])
async def test_an_attestation_that_came_along_is_checked_and_kept(
    http: Served, org_b: Organisation, peer_id: str, is_good: bool
):
    plain = org_b.served_fact()
    signature = b64url(org_b.signer.sign(body_of(plain) + (b"" if is_good else b" ")))

    chain = {"attestation_chain": [signature], "attestation_chain_issuers": [org_b.node_id]}
    await org_b.receive(http, org_b.served_fact(**chain))

    [record] = await listed(http)
    assert record["attestation_chain"] == [signature] and record["attestation_verified"] == [is_good]
    assert bool(record["warnings"]) is not is_good
    assert len(urlsafe_b64decode(signature + "==")) == 64


# Known already.


async def test_reading_a_page_again_changes_nothing(http: Served, org_b: Organisation, peer_id: str):
    facts = [org_b.served_fact(number=number) for number in (1, 2)]
    await org_b.receive(http, *facts)
    size, digests = http.size, await http.digests()

    outcome = await org_b.receive(http, *facts)

    assert outcome.reply == Ingested(ingested=0, known=2, refused=0)
    assert outcome.entries == () and http.size == size and await http.digests() == digests


async def test_a_fact_that_stands_twice_in_a_page_is_taken_once(http: Served, org_b: Organisation, peer_id: str):
    outcome = await org_b.receive(http, org_b.served_fact(), org_b.served_fact())

    assert outcome.reply == Ingested(ingested=1, known=1, refused=0)


@pytest.mark.parametrize("in_one_page", [True, False])
async def test_an_id_given_to_another_fact_is_a_collision(
    http: Served, org_b: Organisation, peer_id: str, in_one_page: bool
):
    first, second = org_b.served_fact(), org_b.served_fact(value={"type": "string", "v": "other"})

    if in_one_page:
        outcome = await org_b.receive(http, first, second)
    else:
        await org_b.receive(http, first)
        outcome = await org_b.receive(http, second)

    assert audit(outcome.entries[0]) == [("rejected_fact", "id_collision")]
    assert [record["value"]["v"] for record in await listed(http)] == ["blue"]


async def test_a_peer_may_use_an_id_of_ours_without_touching_our_fact(http: Served, org_b: Organisation, peer_id: str):
    own = await http.write(scope="public")

    await org_b.receive(http, org_b.served_fact(id=own["id"], supersedes=[own["id"]]))

    assert len(await listed(http)) == 2
    assert (await http.get(f"/v1/facts/{own['id']}")).json == own
    assert (await http.get("/v1/facts", entity=own["entity"])).json["total"] == 1


async def test_a_peer_s_retraction_reaches_its_own_word_alone(http: Served, org_b: Organisation, peer_id: str):
    await http.write(scope="public", entity="user:alice", source="agent:x")
    shared = {"entity": "user:alice", "source": "agent:x"}
    await org_b.receive(http, org_b.served_fact(number=1, **shared))
    later = {"hlc": "1777895940000.005", "value": {"type": "null"}, "confidence": 0.0}

    await org_b.receive(http, org_b.served_fact(number=2, **shared, **later))

    [left] = (await http.get("/v1/facts")).json["facts"]
    assert left["origin"] == NODE_ID


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_a_retraction_holds_whatever_the_order_of_arrival(
    http: Served, org_b: Organisation, peer_id: str, order: tuple[int, int]
):
    facts = {
        1: org_b.served_fact(number=1),
        2: org_b.served_fact(number=2, hlc="1777895940000.005", value={"type": "null"}, confidence=0.0),
    }

    for number in order:
        await org_b.receive(http, facts[number])

    assert (await http.get("/v1/facts")).json["total"] == 0


@pytest.mark.parametrize("order", list(permutations(range(5)))[::17])
async def test_which_facts_a_source_s_retractions_reach_does_not_depend_on_the_order_of_arrival(
    http: Served, org_b: Organisation, peer_id: str, order: tuple[int, ...]
):
    def said(number: int, v: str, **changes: object) -> dict:
        return org_b.served_fact(number=number, value={"type": "string", "v": v}, **changes)

    # Of one moment the id decides; one retraction reaches all before it, the other its own value alone.
    facts = [
        said(1, "a"),
        said(2, "retracted", confidence=0.0),
        said(3, "a"),
        said(4, "b"),
        said(5, "a", confidence=0.0),
    ]

    for number in order:
        await org_b.receive(http, facts[number])

    assert [fact["value"]["v"] for fact in (await http.get("/v1/facts")).json["facts"]] == ["b"]
    assert (await http.get("/v1/facts", include_retracted=True)).json["total"] == 5


@pytest.mark.parametrize(("later", "left"), [("1777895940000.10", 0), ("1777895940000.2", 1), ("999999999999.999", 1)])
async def test_clocks_are_compared_as_numbers(http: Served, org_b: Organisation, peer_id: str, later: str, left: int):
    await org_b.receive(http, org_b.served_fact(number=1, hlc="1777895940000.9"))

    await org_b.receive(http, org_b.served_fact(number=2, hlc=later, value={"type": "null"}, confidence=0.0))

    assert (await http.get("/v1/facts")).json["total"] == left


async def test_a_page_of_a_peer_that_is_gone_is_not_taken(http: Served, org_b: Organisation, peer_id: str):
    peer = org_b.peer_at(http)
    await http.send("DELETE", f"/v1/federation/peers/{peer_id}")
    size = http.size

    with pytest.raises(UnknownOrInactivePeer):
        await org_b.receive(http, org_b.served_fact())
    assert http.size == size and peer.status == "active"


# Into quarantine.

REASONS = [
    ("source blocked", {"blocked": True, "instruction": True, "unsound": True}),
    ("instruction from another organisation", {"instruction": True, "unsound": True}),
    ("provenance failed", {"unsound": True}),
    ("source_trust below threshold (t=0.15)", {}),
]


@pytest.mark.parametrize(("reason", "faults"), REASONS, ids=[reason for reason, _ in REASONS])
async def test_a_fact_is_held_for_the_first_reason_there_is(
    http: Served, org_b: Organisation, peer_id: str, reason: str, faults: dict
):
    garden = await be_strict(http, blocked_sources=[org_b.node_id] if faults.get("blocked") else [])
    changes: dict[str, object] = {}
    if faults.get("instruction"):
        changes["value"] = {"type": "string", "v": "go", "interpret_as": "instruction"}
    if faults.get("unsound"):
        changes |= {"attestation_chain": ["AAAA"], "attestation_chain_issuers": [org_b.node_id]}

    outcome = await org_b.receive(http, org_b.served_fact(**changes))

    assert outcome.reply == Ingested(ingested=1, known=0, refused=0)
    [held] = await waiting(http)
    assert held["quarantine_reason"] == f"auto-quarantine: {reason}"
    assert (held["quarantine_status"], held["quarantine_garden_id"]) == ("pending", garden)
    assert await listed(http) == []


async def test_a_peer_whose_manifest_ran_out_is_held_for_that(http: Served, org_b: Organisation, peer_id: str):
    await be_strict(http)
    http.clock.advance(366 * 86_400_000)

    await org_b.receive(http, org_b.served_fact())

    [held] = await waiting(http)
    assert held["quarantine_reason"] == "auto-quarantine: no valid manifest for source"


async def test_a_known_organisation_s_facts_stand_at_once(http: Served, org_b: Organisation, peer_id: str):
    garden = await be_strict(http)
    await org_b.receive(http, org_b.served_fact(number=1))
    (await http.post(f"/v1/gardens/{garden}/promote", {"fact_id": org_b.served_fact(number=1)["id"]})).expect(200)

    await org_b.receive(http, org_b.served_fact(number=2))

    assert [record["id"][-1] for record in await listed(http)] == ["2", "1"]


async def test_an_instruction_is_held_in_every_mode_and_refused_without_a_garden(
    http: Served, org_b: Organisation, peer_id: str
):
    go = {"value": {"type": "string", "v": "go", "interpret_as": "instruction"}}

    outcome = await org_b.receive(http, org_b.served_fact(number=1, **go))
    assert audit(outcome.entries[0]) == [("rejected_fact", "trust_below_threshold")]

    await be_strict(http, trust_mode="relaxed")
    await org_b.receive(http, org_b.served_fact(number=2, **go), org_b.served_fact(number=3))
    assert [held["id"][-1] for held in await waiting(http)] == ["2"]
    assert [record["id"][-1] for record in await listed(http)] == ["3"]


async def test_what_waits_is_seen_by_operators_alone_and_promoted_or_rejected_once(
    http: Served, org_b: Organisation, peer_id: str
):
    garden = await be_strict(http)
    await org_b.receive(http, org_b.served_fact(number=1), org_b.served_fact(number=2))
    first, second = (org_b.served_fact(number=number)["id"] for number in (1, 2))

    (await http.post(f"/v1/gardens/{garden}/promote", {"fact_id": first})).expect(200)
    (await http.post(f"/v1/gardens/{garden}/reject", {"fact_id": second, "reason": "no"})).expect(200)
    for verb in ("promote", "reject"):
        for fact_id in (first, second):
            answer = await http.post(f"/v1/gardens/{garden}/{verb}", {"fact_id": fact_id})
            answer.refused(409, "fact_not_quarantine_pending")

    [shown] = await listed(http)
    assert (shown["id"], shown["quarantine_status"], shown["confidence"]) == (first, "promoted", 0.9)
    rejected = (await http.get(f"/v1/facts/{second}")).expect(200)
    assert (rejected["confidence"], rejected["effective_confidence"], rejected["asserted_confidence"]) == (
        0.0,
        0.0,
        0.9,
    )
    assert rejected["cid"] == org_b.served_fact(number=2)["cid"]
    queue = (await http.get("/v1/quarantine", quarantine_status="rejected")).expect(200)
    assert (queue["total"], queue["items"][0]["fact_id"]) == (1, second)


async def test_a_received_fact_is_not_served_on(http: Served, org_b: Organisation, peer_id: str):
    await org_b.receive(http, org_b.served_fact(entity="user:alice", source="agent:x"))
    await http.write(scope="public")

    page = (await http.send("GET", "/v1/federation/facts", bearer=org_b.token(http))).expect(200)

    assert [served["origin"] for served in page["facts"]] == [NODE_ID]
    assert json.dumps(page).count("agent:x") == 0
