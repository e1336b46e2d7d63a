"""Rules and the block list: what they let in, hold and never let in, and that nobody can dress up for them (PROTOCOL §7)."""

import pytest

from node.events.identity import Settings, SettingsChanged, TrustRule
from node.projections.trust_lists import TrustLists, lists_of, settings_of
from tests.commands.test_ingest import listed, waiting
from tests.commands.test_trust import bad, good, judged
from tests.organisations import Organisation, be_strict, issue
from tests.served import NODE_ID, Served, fact

AGENTS = "stigmem://org-b.example/agent"


async def change(at: Served, **changes: object) -> dict:
    return (await at.send("PATCH", "/v1/admin/config", changes)).expect(200)


def rule(decision: str, source: str, origin: str | None = None) -> dict[str, str]:
    return {"decision": decision, "source": source} | ({} if origin is None else {"origin": origin})


async def why_held(at: Served) -> list[str]:
    return [held["quarantine_reason"].removeprefix("auto-quarantine: ") for held in await waiting(at)]


# What rules do.


async def test_an_always_rule_lets_a_newcomer_in_and_leaves_its_score_to_its_terms(http: Served, org_b: Organisation):
    await org_b.join(http)
    await be_strict(http, trust_rules=[rule("always", AGENTS)])

    await org_b.receive(http, *good(org_b, 1), *good(org_b, 1, first=2, source=f"{org_b.node_id}/bot/x"))

    [record] = await listed(http)
    assert record["source"] == org_b.assistant
    assert record["source_trust"] == pytest.approx(0.35 * 1.0 + 0.30 * 0.5 + 0.25 * 0.5 + 0.10 * 0.2)
    assert await why_held(http) == ["source_trust below threshold (t=0.15)"]


async def test_an_always_rule_takes_a_source_below_any_threshold(http: Served, org_b: Organisation):
    await org_b.join(http)
    await be_strict(http, quarantine_trust_threshold=1.0, trust_rules=[rule("always", AGENTS)])

    await org_b.receive(http, *bad(org_b, 3), *good(org_b, 1))

    assert [record["id"][-1] for record in await listed(http)] == ["1"]
    judgement = judged(http, org_b.assistant)
    assert (judgement.rule, judgement.threshold, judgement.history) == ("weighted", 0.0, 0.3)


async def test_a_never_rule_holds_a_source_at_any_threshold_and_says_so(http: Served, org_b: Organisation):
    await org_b.join(http)
    await be_strict(http, quarantine_trust_threshold=0.0, trust_rules=[rule("never", AGENTS)])

    await org_b.receive(http, *good(org_b, 1))

    assert await why_held(http) == [f"source never trusted (rule {AGENTS})"]
    assert (judged(http, org_b.assistant).t, judged(http, org_b.assistant).rule) == (0.0, "blocked")


async def test_a_never_rule_scores_nothing_in_relaxed_mode_at_once_for_what_is_there(http: Served, org_b: Organisation):
    await org_b.join(http)
    await org_b.receive(http, *good(org_b, 1))
    [before] = await listed(http)
    assert before["effective_confidence"] > 0

    await change(http, trust_rules=[rule("never", AGENTS)])
    [held_down] = await listed(http)
    await change(http, trust_rules=[])
    [after] = await listed(http)

    assert held_down["effective_confidence"] == 0.0
    assert after["effective_confidence"] == before["effective_confidence"]


@pytest.mark.parametrize(
    ("lists", "outcome"),
    [
        ({"trust_rules": [rule("always", AGENTS), rule("never", "stigmem://org-b.example")]}, "never"),
        ({"trust_rules": [rule("always", "stigmem://org-b.example"), rule("never", AGENTS)]}, "never"),
        ({"trust_rules": [rule("always", AGENTS)], "blocked_sources": ["stigmem://org-b.example"]}, "blocked"),
        ({"trust_rules": [rule("never", AGENTS)], "blocked_sources": ["stigmem://org-b.example"]}, "blocked"),
        ({"trust_rules": [rule("always", "stigmem://org-b.example")]}, "always"),
        ({}, "first_contact"),
    ],
    ids=["never over always", "however exact", "a block over always", "a block over never", "always", "computed"],
)
async def test_a_block_wins_over_never_and_never_over_always_and_always_over_the_score(
    http: Served, org_b: Organisation, lists: dict, outcome: str
):
    await org_b.join(http)
    await be_strict(http, **lists)

    told = (await http.get("/v1/trust", source=org_b.assistant)).expect(200)

    assert told["rule"] == outcome
    assert told["now"]["outcome"] == ("accepted" if outcome == "always" else "held")


async def test_an_always_rule_lets_in_neither_an_instruction_nor_what_fails_provenance(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    await be_strict(http, trust_rules=[rule("always", org_b.node_id)])
    go = {"value": {"type": "string", "v": "go", "interpret_as": "instruction"}}
    unsound = {"attestation_chain": ["AAAA"], "attestation_chain_issuers": [org_b.node_id]}

    await org_b.receive(
        http, org_b.served_fact(number=1, **go), org_b.served_fact(number=2, **unsound), *good(org_b, 1, first=3)
    )

    assert sorted(await why_held(http)) == ["instruction from another organisation", "provenance failed"]
    assert [record["id"][-1] for record in await listed(http)] == ["3"]


async def test_an_always_rule_lets_nobody_in_whose_manifest_ran_out_or_who_is_no_peer(
    http: Served, org_b: Organisation
):
    peer_id = await org_b.join(http)
    await be_strict(http, trust_rules=[rule("always", org_b.node_id)])
    http.clock.advance(366 * 86_400_000)

    await org_b.receive(http, *good(org_b, 1))
    assert await why_held(http) == ["no valid manifest for source"]
    assert (await http.send("DELETE", f"/v1/federation/peers/{peer_id}")).status == 204

    # A relay would forge the seal of an organisation whose key nobody here has pinned.
    told = (await http.get("/v1/trust", source=org_b.assistant)).expect(200)
    assert (told["rule"], told["matched"]) == ("first_contact", None)


# Whom they cover.


@pytest.mark.parametrize(
    "source",
    [
        "stigmem://org-b.example/agents/x",
        "stigmem://org-b.example/agentx",
        "stigmem://org-b.example",
        "stigmem://org-b.example.evil.example/agent/x",
        "stigmem://org-b.example:8443/agent/x",
        "stigmem://evil.example/agent/stigmem://org-b.example/agent/x",
    ],
)
async def test_a_source_that_only_looks_as_if_it_lay_under_a_rule_is_not_covered(http: Served, source: str):
    lists = TrustLists((), _rules(("always", "stigmem://org-b.example", AGENTS)))

    assert lists.listed(source, "stigmem://" + source.split("/")[2]) is None


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        ("agentx:cto", "stigmem://org-b.example"),
        ("agent", "stigmem://org-b.example"),
        ("Agent:cto", "stigmem://org-b.example"),
        ("\u0430gent:cto", "stigmem://org-b.example"),  # a Cyrillic letter that looks like an `a`
        ("user:agent:cto", "stigmem://org-b.example"),
        ("agent:cto", "stigmem://org-c.example"),
        ("agent:cto", NODE_ID),
    ],
)
async def test_an_informal_prefix_covers_what_begins_with_it_of_its_own_organisation_alone(source: str, origin: str):
    lists = TrustLists((), _rules(("always", "stigmem://org-b.example", "agent:")))

    assert lists.listed(source, origin) is None
    assert lists.listed("agent:cto", "stigmem://org-b.example").source == "agent:"


async def test_an_informal_name_that_ends_in_neither_covers_itself_alone():
    lists = TrustLists((), _rules(("always", "stigmem://org-b.example", "agent:a")))

    assert lists.listed("agent:a", "stigmem://org-b.example").decision == "always"
    assert [lists.listed(name, "stigmem://org-b.example") for name in ("agent:ab", "agent:a/b", "agent:a:b")] == [
        None
    ] * 3


async def test_a_rule_on_an_organisation_covers_what_it_says_under_any_name_and_nobody_else():
    lists = TrustLists((), _rules(("never", "stigmem:node:1", "stigmem:node:1")))

    assert lists.listed("agent:x", "stigmem:node:1").decision == "never"
    assert lists.listed("stigmem:node:1", "stigmem:node:1").decision == "never"
    assert lists.listed("agent:x", "stigmem:node:10") is None


def _rules(*rules: tuple[str, str, str]) -> tuple[TrustRule, ...]:
    return tuple(TrustRule(decision=decision, origin=origin, source=source) for decision, origin, source in rules)


# Changing them.


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"blocked_sources": ["agent:cto"]}, "blocked_sources"),
        ({"block": [{"source": "agent:", "origin": "stigmem://org-b.example"}]}, "block"),
        ({"block": [{"source": "agent:x", "origin": "stigmem://org-b.example/agent"}]}, "block"),
        ({"block": [{"source": AGENTS, "origin": "stigmem://org-c.example"}]}, "block"),
        ({"trust_rules": [rule("always", "agent:")]}, "trust_rules"),
        ({"trust_rules": [rule("always", f"{NODE_ID}/agent")]}, "trust_rules"),
        ({"trust_rules": [rule("always", AGENTS), rule("never", AGENTS)]}, "trust_rules"),
        ({"add_trust_rules": [rule("perhaps", AGENTS)]}, "add_trust_rules"),
        ({"add_trust_rules": [rule("never", "stigmem://x.example")] * 1001}, "add_trust_rules"),
    ],
)
async def test_a_list_entry_that_names_nobody_in_particular_is_refused(http: Served, changes: dict, field: str):
    size = http.size

    refused = (await http.send("PATCH", "/v1/admin/config", changes)).refused(422, "invalid_field")

    assert refused["detail"].startswith(field) and http.size == size


async def test_entries_are_added_and_taken_away_without_a_look_at_the_others(http: Served):
    await change(http, block=["stigmem://one.example"], add_trust_rules=[rule("never", "stigmem://three.example/")])
    await change(http, block=["stigmem://two.example"], add_trust_rules=[rule("always", AGENTS)])
    shown = await change(http, unblock=["stigmem://one.example"], remove_trust_rules=["stigmem://three.example"])

    assert shown["blocked_sources"] == [{"origin": "stigmem://two.example", "source": "stigmem://two.example"}]
    assert shown["trust_rules"] == [rule("always", AGENTS, "stigmem://org-b.example")]
    [changed] = [entry.type for entry in http.entries(http.size - 1)]
    assert changed == "settings.changed.2"


async def test_a_change_of_rules_has_peers_logs_read_again_and_what_was_refused_taken(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    await change(http, trust_mode="strict")
    await org_b.receive(http, *good(org_b, 1), cursor="c-1")
    assert (await listed(http), org_b.peer_at(http).cursor) == ([], "c-1")

    await change(http, add_trust_rules=[rule("always", AGENTS)])
    assert org_b.peer_at(http).cursor is None
    await org_b.receive(http, *good(org_b, 1), cursor="c-1")

    assert [record["id"][-1] for record in await listed(http)] == ["1"]
    await change(http, quarantine_trust_threshold=0.3)
    assert org_b.peer_at(http).cursor is None


# Gaming it.


async def test_one_good_fact_admitted_buys_no_credit_for_the_bad_ones_behind_it(http: Served, org_b: Organisation):
    await org_b.join(http)
    garden = await be_strict(http, quarantine_trust_threshold=0.6)
    await org_b.receive(http, *good(org_b, 1))
    (await http.post(f"/v1/gardens/{garden}/promote", {"fact_id": good(org_b, 1)[0]["id"]})).expect(200)
    let_in = judged(http, org_b.assistant).t

    await org_b.receive(http, *bad(org_b, 1))
    await org_b.receive(http, *good(org_b, 1, first=2))

    assert (let_in, judged(http, org_b.assistant).t) == (0.645, 0.585)
    assert await why_held(http) == ["source_trust below threshold (t=0.58)"]
    (await http.post(f"/v1/gardens/{garden}/reject", {"fact_id": good(org_b, 1, first=2)[0]["id"]})).expect(200)
    assert (judged(http, org_b.assistant).rule, judged(http, org_b.assistant).t) == ("first_contact", 0.09)


async def test_a_newcomer_that_splits_over_many_sources_is_one_organisation(http: Served, org_b: Organisation):
    await org_b.join(http)
    await be_strict(http)
    sources = [f"{org_b.node_id}/agent/n{number}" for number in range(5)] + ["agent:informal"]

    for number, source in enumerate(sources):
        await org_b.receive(http, *bad(org_b, 1, first=1000 + number, source=source))

    fresh = (f"{org_b.node_id}/agent/fresh", "agent:fresh")
    assert {judged(http, source, origin=org_b.node_id).history for source in fresh} == {0.3}
    assert {judged(http, source, origin=org_b.node_id).rule for source in fresh} == {"first_contact"}


async def test_many_sources_with_few_facts_each_are_no_better_known_than_each_is(http: Served, org_b: Organisation):
    await org_b.join(http)

    for number in range(12):
        source = f"{org_b.node_id}/agent/n{number}"
        await org_b.receive(http, *good(org_b, 9, first=1 + 10 * number, source=source))

    assert judged(http, f"{org_b.node_id}/agent/n0").history == 0.5
    assert judged(http, f"{org_b.node_id}/agent/fresh").history == 0.5


async def test_an_organisation_that_turns_after_a_hundred_good_facts_falls_with_the_first_and_the_sixth(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    await org_b.receive(http, *good(org_b, 100))
    terms = [judged(http, org_b.assistant).history]

    for number in range(6):
        await org_b.receive(http, *bad(org_b, 1, first=1000 + number))
        terms.append(judged(http, org_b.assistant).history)

    assert terms == [1.0, 0.7, 0.7, 0.7, 0.7, 0.7, 0.3]


async def test_bad_facts_that_come_too_fast_to_be_written_down_singly_count_all_the_same(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    await org_b.receive(http, *good(org_b, 300))

    await org_b.receive(http, *bad(org_b, 30))
    recorded = judged(http, org_b.assistant).history
    http.clock.advance(60_000)
    await http.node.keep_up()

    assert (recorded, judged(http, org_b.assistant).history) == (0.7, 0.3)
    told = (await http.get("/v1/trust", source=org_b.assistant)).expect(200)
    assert told["counts"] == {"source": {"admitted": 300, "failed": 10}, "origin": {"admitted": 300, "failed": 30}}


# What stood before.


async def test_a_block_list_of_before_there_were_origins_blocks_a_name_whoever_says_it():
    settings = Settings(
        quarantine_garden_id=None,
        trust_mode="strict",
        quarantine_trust_threshold=0.4,
        trust_weights=None,
        blocked_sources=("agent:mallory", "stigmem://org-b.example/agent", "stigmem:node:1"),
    )

    standing = settings_of(SettingsChanged(settings=settings))
    lists = lists_of(standing)

    assert (standing.quarantine_trust_threshold, standing.trust_rules) == (0.4, ())
    for source, origin in (
        ("agent:mallory", "stigmem://org-b.example"),
        ("agent:mallory", NODE_ID),
        ("stigmem://org-b.example/agent/x", "stigmem://org-b.example"),
        ("agent:anybody", "stigmem:node:1"),
    ):
        assert lists.listed(source, origin).decision == "blocked"
    assert lists.listed("agent:mallory/x", NODE_ID) is None
    assert lists.listed("stigmem://org-b.example/agents", "stigmem://org-b.example") is None


async def test_an_always_rule_is_no_attestation(http: Served, org_b: Organisation):
    await org_b.join(http)
    await be_strict(http, trust_rules=[rule("always", org_b.node_id)])
    token = await issue(http, org_b.assistant)
    written = fact(source=org_b.assistant, scope="public")

    held = (await http.send("POST", "/v1/facts", written, bearer=token)).expect(202)

    assert held["quarantine_reason"] == "auto-quarantine: attestation missing"
