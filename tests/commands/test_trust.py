"""The trust score of a source, term by term, from logs made by real commands (PROTOCOL §7)."""

import asyncio

import pytest

from node.commands.decision import rules_in_force
from node.commands.trust import judge
from node.events.facts import Judgement
from tests.organisations import Organisation, be_strict, issue
from tests.served import NODE_ID, Served, fact

SCRIBE = f"{NODE_ID}/agent/scribe"
STRANGER = "stigmem://nobody.example/agent/x"
DAY_MS = 86_400_000


def judged(at: Served, source: str, *, scope: str = "public", origin: str | None = None, **how: bool) -> Judgement:
    circumstances = {"is_attested": False, "is_by_admin": False, "is_by_token": False} | how
    with at.node.view() as view:
        return judge(
            view,
            rules_in_force(view, at.config),
            node_id=at.node.node_id,
            source=source,
            origin=origin or at.node.node_id,
            scope=scope,
            now_ms=at.clock.now_ms(),
            **circumstances,
        )


def good(org_b: Organisation, count: int, first: int = 1, **fields: object) -> list[dict]:
    return [org_b.served_fact(number=number, **fields) for number in range(first, first + count)]


def bad(org_b: Organisation, count: int, first: int = 1000, **fields: object) -> list[dict]:
    """Facts that are verifiably the organisation's, and refused."""
    return [org_b.served_fact(number=number, cid="sha256:0", **fields) for number in range(first, first + count)]


# Identity.


async def test_our_own_authority_has_a_proven_manifest_and_our_informal_sources_a_local_key(http: Served):
    assert judged(http, SCRIBE).identity == 1.0
    assert judged(http, "agent:cto").identity == 0.4


async def test_a_peer_s_identity_is_worth_what_its_manifest_proves(http: Served, org_b: Organisation):
    assert judged(http, org_b.assistant).identity == 0.1
    assert judged(http, org_b.assistant, is_by_token=True).identity == 0.5

    await org_b.join(http, log_entry=None)
    assert judged(http, org_b.assistant).identity == 0.7
    await org_b.join(http)
    assert judged(http, org_b.assistant).identity == 1.0
    assert judged(http, f"{org_b.node_id}.evil.example/x").identity == 0.1


async def test_a_peer_without_manifest_or_with_one_that_has_run_out_is_merely_well_formed(
    http: Served, org_b: Organisation
):
    await org_b.join(http, manifest=None, log_entry=None)
    assert judged(http, org_b.assistant).identity == 0.1

    await org_b.join(http)
    http.clock.advance(366 * DAY_MS)
    assert judged(http, org_b.assistant).identity == 0.1


async def test_a_removed_peer_s_manifest_counts_for_nothing(http: Served, org_b: Organisation):
    peer_id = await org_b.join(http)
    assert (await http.send("DELETE", f"/v1/federation/peers/{peer_id}")).status == 204

    assert judged(http, org_b.assistant).identity == 0.1


# History.


@pytest.mark.parametrize(("count", "term"), [(0, 0.5), (9, 0.5), (10, 0.7), (99, 0.7), (100, 1.0)])
async def test_admitted_facts_make_a_history(http: Served, count: int, term: float):
    await asyncio.gather(*(http.write(source="agent:cto") for _ in range(count)))

    assert judged(http, "agent:cto").history == term


@pytest.mark.parametrize(
    ("admitted", "failed", "term"), [(0, 1, 0.3), (19, 1, 0.3), (20, 1, 0.7), (9, 0, 0.5), (100, 1, 0.7), (100, 6, 0.3)]
)
async def test_one_failure_in_twenty_is_too_many(
    http: Served, org_b: Organisation, admitted: int, failed: int, term: float
):
    await org_b.join(http)

    await org_b.receive(http, *good(org_b, admitted), *bad(org_b, failed))

    assert judged(http, org_b.assistant).history == term


async def test_a_history_is_forgotten_after_thirty_days(http: Served, org_b: Organisation):
    await org_b.join(http)
    await org_b.receive(http, *bad(org_b, 1))

    http.clock.advance(29 * DAY_MS)
    assert judged(http, org_b.assistant).history == 0.3
    http.clock.advance(DAY_MS)
    assert judged(http, org_b.assistant).history == 0.5


async def test_a_source_is_no_better_than_its_organisation_and_another_organisation_is_untouched(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    await org_b.receive(http, *bad(org_b, 1, source=f"{org_b.node_id}/agent/rogue"))

    assert judged(http, org_b.assistant).history == 0.3
    assert judged(http, SCRIBE).history == judged(http, STRANGER).history == 0.5


async def test_what_only_claims_to_come_from_a_source_counts_against_whoever_brought_it(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    await org_b.receive(http, *good(org_b, 1, source=SCRIBE), *good(org_b, 1, first=2, source=STRANGER))

    assert judged(http, SCRIBE).history == judged(http, STRANGER).history == 0.5
    assert judged(http, org_b.assistant).history == 0.3


async def test_what_was_known_already_makes_no_history(http: Served, org_b: Organisation):
    await org_b.join(http)
    for _ in range(3):
        await org_b.receive(http, *good(org_b, 5))

    assert judged(http, org_b.assistant).history == 0.5


# Scope authority and attestation.


async def test_scope_authority_is_the_best_right_there_is(http: Served, org_b: Organisation):
    assert judged(http, SCRIBE).scope_authority == 0.7
    assert judged(http, SCRIBE, is_by_admin=True).scope_authority == 0.9
    assert judged(http, org_b.assistant).scope_authority == 0.2

    await org_b.join(http, scopes=("public",))
    assert judged(http, org_b.assistant, scope="public").scope_authority == 0.5
    assert judged(http, org_b.assistant, scope="company").scope_authority == 0.2


@pytest.mark.parametrize(
    ("target", "scope", "term"),
    [
        ("*", "team", 1.0),
        (f"{NODE_ID}/scope/shared", "company", 1.0),
        (f"{NODE_ID}/scope/shared", "team", 0.2),
        (f"{NODE_ID}/scope/public", "public", 1.0),
        (f"{NODE_ID}/project/apollo", "company", 0.2),
    ],
)
async def test_a_write_token_counts_in_the_scopes_that_it_names(http: Served, target: str, scope: str, term: float):
    await issue(http, STRANGER, object=target)

    assert judged(http, STRANGER, scope=scope).scope_authority == term
    assert judged(http, f"{STRANGER}/part", scope=scope).scope_authority == term
    assert judged(http, f"{STRANGER}2", scope=scope).scope_authority == 0.2


async def test_a_write_token_counts_while_it_lives_and_a_read_token_never(http: Served):
    await issue(http, STRANGER, verb="read")
    assert judged(http, STRANGER).scope_authority == 0.2
    await issue(http, STRANGER, ttl_seconds=60)
    assert judged(http, STRANGER).scope_authority == 1.0

    http.clock.advance(60_000)

    assert judged(http, STRANGER).scope_authority == 0.2


async def test_an_attestation_is_all_or_nearly_nothing(http: Served):
    assert judged(http, SCRIBE, is_attested=True).attestation == 1.0
    assert judged(http, SCRIBE).attestation == 0.2


# The score.


async def test_the_score_is_the_weighted_sum_of_the_terms(http: Served):
    record = await http.write()

    assert record["source_trust"] == pytest.approx(0.35 * 1.0 + 0.30 * 0.5 + 0.25 * 0.9 + 0.10 * 0.2)


async def test_other_weights_are_used_as_soon_as_they_are_set_and_shown_to_peers(http: Served):
    (await http.send("PATCH", "/v1/admin/config", {"trust_weights": [0.0, 1.0, 0.0, 0.0]})).expect(200)

    assert (await http.write())["source_trust"] == 0.5
    shown = (await http.get("/.well-known/stigmem")).json["federation_trust"]["trust_weights"]
    assert shown == {"identity": 0.0, "history": 1.0, "scope_authority": 0.0, "attestation": 0.0}


@pytest.mark.parametrize("weights", [[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [1, 0, 0], [-1, 1, 1, 0], [2, -1, 0, 0]])
async def test_weights_that_do_not_add_up_to_one_are_refused(http: Served, weights: list[float]):
    size = http.size

    (await http.send("PATCH", "/v1/admin/config", {"trust_weights": weights})).refused(422, "invalid_field")

    assert http.size == size


async def test_a_score_is_explained_as_it_is_reckoned(http: Served):
    told = (await http.get("/v1/trust", source=SCRIBE, scope="team")).expect(200)

    expected = judged(http, SCRIBE, scope="team")
    assert (
        told["t"],
        told["identity"],
        told["history"],
        told["scope_authority"],
        told["attestation"],
        told["rule"],
    ) == (
        expected.t,
        *(1.0, 0.5, 0.7, 0.2, "weighted"),
    )


# First contact.


async def test_a_newcomer_s_history_alone_counts_in_strict_mode(http: Served, org_b: Organisation):
    await org_b.join(http)
    assert judged(http, org_b.assistant).rule == "weighted"

    await be_strict(http)

    assert (judged(http, org_b.assistant).rule, judged(http, org_b.assistant).t) == ("first_contact", 0.15)
    assert judged(http, org_b.assistant, is_attested=True, is_by_token=True).t == 0.15
    assert judged(http, SCRIBE).rule == judged(http, "agent:cto").rule == "weighted"
    assert judged(http, "agent:cto", origin=org_b.node_id).rule == "first_contact"


async def test_one_admission_unlocks_and_a_rejection_locks_again_until_the_next(http: Served, org_b: Organisation):
    await org_b.join(http)
    garden = await be_strict(http)
    facts = good(org_b, 3)
    await org_b.receive(http, *facts)
    rules = []

    for fact_held, verb in zip(facts, ("promote", "reject", "promote"), strict=True):
        (await http.post(f"/v1/gardens/{garden}/{verb}", {"fact_id": fact_held["id"], "reason": "seen"})).expect(200)
        rules.append(judged(http, f"{org_b.node_id}/agent/another").rule)

    assert rules == ["weighted", "first_contact", "weighted"]


async def test_what_was_taken_in_without_a_moderator_unlocks_nothing(http: Served, org_b: Organisation):
    await org_b.join(http)
    await org_b.receive(http, *good(org_b, 50))

    await be_strict(http)

    assert judged(http, org_b.assistant).rule == "first_contact"


# Block list and modes.


async def test_a_blocked_source_scores_nothing_with_all_that_lies_under_it(http: Served, org_b: Organisation):
    await org_b.join(http)
    blocked = ["STIGMEM://org-b.example/agent", {"source": "agent:mallory", "origin": org_b.node_id}]
    (await http.send("PATCH", "/v1/admin/config", {"blocked_sources": blocked})).expect(200)

    for source in (org_b.assistant, f"{org_b.node_id}/agent", "agent:mallory"):
        judgement = judged(http, source, origin=org_b.node_id)
        assert (judgement.t, judgement.rule) == (0.0, "blocked")
    for source in (f"{org_b.node_id}/agents", f"{org_b.node_id}/project/x", "agent:mallory2", "agent:mallory/x"):
        assert judged(http, source, origin=org_b.node_id).rule == "weighted"


async def test_a_name_that_anybody_may_use_is_blocked_for_whom_it_was_blocked_alone(http: Served, org_b: Organisation):
    blocked = [{"source": "agent:cto", "origin": org_b.node_id}]
    shown = (await http.send("PATCH", "/v1/admin/config", {"blocked_sources": blocked})).expect(200)

    assert shown["blocked_sources"] == blocked
    rules = {
        origin: judged(http, "agent:cto", origin=origin).rule for origin in (org_b.node_id, "stigmem://c", NODE_ID)
    }
    assert rules == {org_b.node_id: "blocked", "stigmem://c": "weighted", NODE_ID: "weighted"}


async def test_blocking_an_organisation_blocks_its_informal_sources_and_not_ours(http: Served, org_b: Organisation):
    (await http.send("PATCH", "/v1/admin/config", {"blocked_sources": [org_b.node_id]})).expect(200)

    assert judged(http, "agent:cto", origin=org_b.node_id).t == 0.0
    assert judged(http, "agent:cto").rule == "weighted"


async def test_relaxed_mode_scores_and_holds_nothing_back(http: Served, org_b: Organisation):
    await org_b.join(http)
    (await http.send("PATCH", "/v1/admin/config", {"blocked_sources": [org_b.node_id]})).expect(200)

    await org_b.receive(http, *good(org_b, 1))

    [record] = (await http.get("/v1/facts")).json["facts"]
    assert (record["source_trust"], record["effective_confidence"], record["quarantine_status"]) == (0.0, 0.0, None)


async def test_with_trust_off_nothing_is_scored(http: Served, org_b: Organisation):
    await org_b.join(http)
    (await http.send("PATCH", "/v1/admin/config", {"trust_mode": "off"})).expect(200)

    await org_b.receive(http, *good(org_b, 1))
    own = await http.write()

    [_, foreign] = (await http.get("/v1/facts")).json["facts"]
    assert own["source_trust"] is None and foreign["source_trust"] is None
    assert foreign["effective_confidence"] == foreign["confidence"] == 0.9


async def test_the_effective_confidence_of_a_foreign_fact_follows_its_source_s_trust_and_ours_does_not(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    await org_b.receive(http, *good(org_b, 1))
    [record] = (await http.get("/v1/facts")).json["facts"]
    assert record["effective_confidence"] == pytest.approx(0.9 * record["source_trust"])

    (await http.send("PATCH", "/v1/admin/config", {"blocked_sources": [org_b.node_id, NODE_ID]})).expect(200)

    [now] = (await http.get("/v1/facts")).json["facts"]
    assert (now["source_trust"], now["effective_confidence"]) == (record["source_trust"], 0.0)
    own = (await http.post("/v1/facts", fact(confidence=0.5))).expect(201)
    assert own["effective_confidence"] == 0.5
