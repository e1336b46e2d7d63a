"""stigmem-openclaw 0.9.0a12, unchanged, against a real node: what it reads at its start, and what it leaves for others."""

import re
from uuid import uuid4

import pytest

from tests.clients.conftest import Driver
from tests.clients.sdk import ClientRaised, Sdk
from tests.clients.test_python_sdk import UNKNOWN_ID
from tests.scenarios.nodes import RunningNode


@pytest.fixture
def agent() -> str:
    """An agent that nobody has handed anything to yet."""
    return f"agent:{uuid4()}"


@pytest.fixture
def adapter(driver: Driver, node: RunningNode, key: str, agent: str) -> Sdk:
    return Sdk(
        driver, "openclaw", url=node.url, api_key=key, source_entity=agent, allowed_handoff_targets=["agent:night"]
    )


def relations(node: RunningNode, entity: str) -> dict[str, object]:
    return {fact["relation"]: fact["value"]["v"] for fact in node.facts(f"&entity={entity}")}


def test_boot_finds_preferences_constraints_and_what_was_handed_over(adapter: Sdk, node: RunningNode, agent: str):
    user, project = f"user:{uuid4()}", f"project:{uuid4()}"

    def said(entity: str, relation: str, v: str, **fields: object) -> str:
        fact = {"entity": entity, "relation": relation, "value": {"type": "text", "v": v}, "source": agent}
        return node.post("/v1/facts", fact | {"scope": "company"} | fields).expect(201)["id"]

    # More than one page of them.
    preferences = [said(user, f"preference:{number}", f"likes {number}") for number in range(52)]
    said(user, "preference:vague", "perhaps", confidence=0.5)
    said(user, "memory:role", "CEO")
    constraint = said(project, "roadmap:constraint", "not before May")
    expired = said(f"escalation:{uuid4()}", "intent:escalation", "high", valid_until="2026-01-01T00:00:00Z")
    handed = adapter(
        "emit_handoff", from_entity=agent, to_entity=agent, summary="half done", fact_refs=[constraint, UNKNOWN_ID]
    )

    context = adapter("boot", user_entity=user, project_entities=[project])

    found = [fact["id"] for fact in context["facts"]]
    assert set(found) >= {*preferences, constraint} and expired not in found
    assert len([fact for fact in context["facts"] if fact["entity"] == user]) == 52
    assert {
        fact["relation"]: fact["value"]["v"] for fact in context["facts"] if fact["entity"] == handed["entity"]
    } == {
        "intent:handoff_summary": "half done",
        "intent:context_ref": constraint,
    }
    assert "likes 51" in context["summary"] and "not before May" in context["summary"]


def test_a_handoff_names_what_it_rests_on_and_is_left_once(adapter: Sdk, node: RunningNode, agent: str):
    fact = {"entity": f"project:{uuid4()}", "relation": "memory:x", "value": {"type": "null"}, "source": agent}
    parent = node.post("/v1/facts", fact).expect(201)
    words = {"from_entity": agent, "to_entity": "agent:night", "summary": "go on", "continuation": "from page 3"}
    words |= {"fact_refs": [parent["cid"]], "idempotency_key": f"shift-{agent[6:]}"}

    first, again = adapter("emit_handoff", **words), adapter("emit_handoff", **words)

    assert (first["created"], again["created"], first["entity"]) == (True, False, f"handoff:shift-{agent[6:]}")
    facts = node.facts(f"&entity={first['entity']}")
    assert {fact["relation"]: fact["value"]["v"] for fact in facts} == {
        "intent:handoff_to": "agent:night",
        "intent:handoff_summary": "go on",
        "intent:context_ref": parent["cid"],
        "intent:continuation": "from page 3",
    }
    assert [fact["derived_from"] for fact in facts] == [[parent["id"]]] * 4


def test_a_handoff_that_rests_on_nothing_known_is_not_left(adapter: Sdk, agent: str):
    with pytest.raises(ClientRaised, match="none of 1 fact_refs validated"):
        adapter("emit_handoff", from_entity=agent, to_entity=agent, summary="?", fact_refs=[UNKNOWN_ID])


def test_an_escalation_and_a_decision_may_follow_a_boot(adapter: Sdk, node: RunningNode, agent: str):
    project = f"project:{uuid4()}"
    adapter("boot", user_entity=agent, project_entities=[project])

    escalated = adapter("emit_escalation", to_entity="agent:night", goal="a second pair of eyes", priority="high")
    adapter("emit_decision", entity=project, summary="we wait")

    assert relations(node, escalated["entity"]) == {
        "intent:escalation": "high",
        "intent:escalate_to": "agent:night",
        "intent:goal": "a second pair of eyes",
    }
    [urgent] = node.facts(f"&entity={escalated['entity']}&relation=intent:escalation")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", urgent["valid_until"])
    assert relations(node, project) == {"roadmap:decision": "we wait"}
    assert escalated["entity"] in {fact["entity"] for fact in adapter("boot", user_entity=agent)["facts"]}


def test_a_context_is_not_recalled_yet_and_that_is_said(adapter: Sdk):
    with pytest.raises(ClientRaised) as raised:
        adapter("recall_context", query="what now")

    assert raised.value.kind == "OpenClawBootError"
