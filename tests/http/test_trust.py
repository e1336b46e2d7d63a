"""GET /v1/trust: a score told term by term, in words and counts, with what becomes of the source's facts (PROTOCOL §7)."""

import pytest

from tests.api_keys import bearer_for
from tests.commands.test_trust import DAY_MS, bad, good, judged
from tests.organisations import Organisation, be_strict
from tests.served import NODE_ID, Served


async def told_of(at: Served, source: str, **asked: str) -> dict:
    return (await at.get("/v1/trust", source=source, **asked)).expect(200)


async def test_the_terms_with_their_weights_add_up_to_the_score_and_each_says_why(http: Served, org_b: Organisation):
    await org_b.join(http)
    await org_b.receive(http, *good(org_b, 12))

    told = await told_of(http, org_b.assistant)

    terms = {term["term"]: (term["value"], term["weight"], term["contribution"]) for term in told["terms"]}
    assert terms == {
        "identity": (1.0, 0.35, 0.35),
        "history": (0.7, 0.3, 0.21),
        "scope_authority": (0.5, 0.25, 0.125),
        "attestation": (0.2, 0.1, 0.02),
    }
    assert told["t"] == judged(http, org_b.assistant).t == pytest.approx(sum(c for _, _, c in terms.values()))
    why = {term["term"]: term["why"] for term in told["terms"]}
    assert "proven" in why["identity"] and "ten facts or more" in why["history"] and "granted" in why["scope_authority"]
    assert told["counts"] == {"source": {"admitted": 12, "failed": 0}, "origin": {"admitted": 12, "failed": 0}}
    assert (await told_of(http, org_b.assistant, attested="true"))["terms"][3]["contribution"] == 0.1


async def test_under_first_contact_history_alone_contributes_and_the_lock_is_told(http: Served, org_b: Organisation):
    await org_b.join(http)
    garden = await be_strict(http)
    await org_b.receive(http, *good(org_b, 1))

    locked = await told_of(http, org_b.assistant)
    (await http.post(f"/v1/gardens/{garden}/promote", {"fact_id": good(org_b, 1)[0]["id"]})).expect(200)
    unlocked = await told_of(http, org_b.assistant)

    assert [term["contribution"] for term in locked["terms"]] == [0.0, 0.15, 0.0, 0.0]
    assert (locked["rule"], locked["first_contact"]["is_locked"], locked["t"]) == ("first_contact", True, 0.15)
    assert locked["now"] == {"outcome": "held", "reason": "auto-quarantine: source_trust below threshold (t=0.15)"}
    assert (unlocked["rule"], unlocked["first_contact"]["is_locked"]) == ("weighted", False)
    assert unlocked["now"] == {"outcome": "accepted", "reason": None}


async def test_what_would_be_done_is_what_is_done_while_there_is_no_garden_to_hold_it(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    (await http.send("PATCH", "/v1/admin/config", {"trust_mode": "strict"})).expect(200)

    told = await told_of(http, org_b.assistant)
    outcome = await org_b.receive(http, *good(org_b, 1))

    assert told["now"] == {"outcome": "refused", "reason": "trust_below_threshold"}
    assert outcome.reply.refused == 1


@pytest.mark.parametrize("mode", ["relaxed", "off", "strict"])
async def test_this_organisation_s_own_word_is_always_taken(http: Served, mode: str):
    await be_strict(http, trust_mode=mode)

    for source in (f"{NODE_ID}/agent/scribe", "agent:cto"):
        told = await told_of(http, source)
        assert (told["origin"], told["now"]["outcome"]) == (NODE_ID, "accepted")
        assert told["first_contact"]["is_locked"] is False


async def test_a_block_and_a_rule_are_named_with_the_entry_that_covers_the_source(http: Served, org_b: Organisation):
    await org_b.join(http)
    never = {"decision": "never", "source": "agent:", "origin": org_b.node_id}
    await be_strict(http, blocked_sources=[org_b.assistant], trust_rules=[never])

    blocked = await told_of(http, org_b.assistant)
    ruled = await told_of(http, "agent:x", origin=org_b.node_id)

    assert (blocked["rule"], blocked["matched"], blocked["t"]) == ("blocked", org_b.assistant, 0.0)
    assert blocked["now"] == {"outcome": "held", "reason": "auto-quarantine: source blocked"}
    assert (ruled["rule"], ruled["matched"], ruled["t"]) == ("never", "agent:", 0.0)
    assert ruled["now"]["reason"] == "auto-quarantine: source never trusted (rule agent:)"
    assert {term["contribution"] for told in (blocked, ruled) for term in told["terms"]} == {0.0}


async def test_counts_leave_the_window_after_thirty_days(http: Served, org_b: Organisation):
    await org_b.join(http)
    await org_b.receive(http, *good(org_b, 3), *bad(org_b, 2))
    before = (await told_of(http, org_b.assistant))["counts"]["source"]

    http.clock.advance(30 * DAY_MS)

    assert before == {"admitted": 3, "failed": 2}
    assert (await told_of(http, org_b.assistant))["counts"]["source"] == {"admitted": 0, "failed": 0}


async def test_a_moderator_of_the_designated_garden_is_told_without_counts_and_no_other_key_is(
    http: Served, org_b: Organisation
):
    await org_b.join(http)
    await be_strict(http)
    (await http.post("/v1/gardens", {"slug": "pit", "name": "p", "scope": "company", "quarantine": True})).expect(201)
    bearers = {}
    for garden in ("quarantine", "pit"):
        entity = f"{NODE_ID}/agent/{garden}"
        stated = {"entity_uri": entity, "role": "quarantine:moderator"}
        (await http.post(f"/v1/gardens/{garden}/members", stated)).expect(201)
        bearers[garden] = await bearer_for(http, "read", entity_uri=entity)

    asked = f"/v1/trust?source={org_b.node_id}"
    told = (await http.send("GET", asked, bearer=bearers["quarantine"])).expect(200)
    (await http.send("GET", asked, bearer=bearers["pit"])).refused(403, "insufficient_permission")

    assert told["rule"] == "first_contact" and "counts" not in told
    assert "counts" in await told_of(http, org_b.node_id)


@pytest.mark.parametrize(
    "asked",
    [
        {"source": ""},
        {"source": "stigmem://"},
        {"source": "agent:x", "origin": "agent:y"},
        {"source": "stigmem://b.example/x", "origin": "stigmem://c.example"},
        {"source": "agent:\u200bx"},
        {"source": "x" * 2049},
    ],
)
async def test_a_name_that_is_nobody_s_is_refused(http: Served, asked: dict):
    (await http.get("/v1/trust", **asked)).refused(422, "invalid_parameter")
