"""Four organisations in a line and each with each: public facts reach everybody once, unchanged, on their origin's seal (§5.6)."""

import itertools

import pytest

from tests.scenarios.nodes import eventually
from tests.scenarios.organisations import Organisation, await_active, start_together

NAMES = ("org-a", "org-b", "org-c", "org-d")
LINE = [(0, 1), (1, 2), (2, 3)]
MESH = list(itertools.combinations(range(4), 2))
# What must be the same at every node, whoever brought it.
UNCHANGED = ("id", "entity", "relation", "value", "source", "timestamp", "hlc", "confidence", "origin", "seal", "cid")


@pytest.fixture
def four(make_organisation) -> list[Organisation]:
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "1"}
    made = [make_organisation(name, **settings) for name in NAMES]
    start_together(*made)
    return made


def connect(four: list[Organisation], links: list[tuple[int, int]], *scopes: str) -> None:
    for one, other in links:
        four[one].register(four[other], *scopes)
        four[other].register(four[one], *scopes)
    await_active(*((four[a], four[b]) for one, other in links for a, b in ((one, other), (other, one))))


def facts_of(org: Organisation) -> dict[str, dict]:
    """Every fact outside its own node's doings, by id; fails where one is listed twice."""
    listed = org.node.get("/v1/facts?limit=1000&include_contradicted=true").expect(200)["facts"]
    assert len({fact["id"] for fact in listed}) == len(listed)
    return {fact["id"]: fact for fact in listed}


def holds_all(org: Organisation, expected: set[str]) -> None:
    eventually(
        lambda: facts_of(org).keys() >= expected, within_s=30, what=f"{org.name} holds all {len(expected)} public facts"
    )


@pytest.mark.parametrize("links", [LINE, MESH], ids=["a line", "each with each"])
def test_public_facts_reach_all_four_once_and_unchanged_and_company_facts_go_one_hop(four, links):
    connect(four, links, "public", "company")
    public = {}
    for org in four:
        for number in range(3):
            fact = org.assert_fact(f"project/{number}", f"{org.name} {number}")
            public[fact["id"]] = org.node.get(f"/v1/facts/{fact['id']}").expect(200)
    company = {org.assert_fact("plan", "for friends", scope="company")["id"]: org for org in four}
    local = {org.assert_fact("note", "for us", scope=scope)["id"] for org in four for scope in ("local", "team")}

    for org in four:
        holds_all(org, set(public))
    neighbours = {index: {a + b - index for a, b in links if index in (a, b)} for index in range(4)}
    for index, org in enumerate(four):
        friends = {fact_id for fact_id, owner in company.items() if four.index(owner) in neighbours[index]}
        holds_all(org, friends)

    for index, org in enumerate(four):
        held = facts_of(org)
        for fact_id, sent in public.items():
            assert {name: held[fact_id][name] for name in UNCHANGED} == {name: sent[name] for name in UNCHANGED}
        foreign_company = {fact_id for fact_id in held if fact_id in company and company[fact_id] is not org}
        assert foreign_company == {
            fact_id for fact_id, owner in company.items() if four.index(owner) in neighbours[index]
        }
        assert not {fact_id for fact_id in local if fact_id in held and held[fact_id]["origin"] != org.entity_uri}


def test_a_conflict_across_a_relay_has_the_same_name_at_both_ends(four):
    connect(four, LINE)
    entity = f"{four[0].entity_uri}/service/billing"
    claim = {"entity": entity, "relation": "memory:state", "confidence": 0.9, "scope": "public"}
    ends = (four[0], four[3])
    for org, v in zip(ends, ("up", "down"), strict=True):
        org.node.post("/v1/facts", claim | {"value": {"type": "string", "v": v}, "source": org.assistant}).expect(201)

    found = [
        eventually(
            lambda org=org: org.node.get("/v1/conflicts?status=unresolved").expect(200)["conflicts"],
            within_s=30,
            what=f"{org.name} finds the conflict",
        )
        for org in four
    ]

    assert len({conflict["conflict_id"] for conflicts in found for conflict in conflicts}) == 1
    # Org A's is the entity's authority: what it settles is settled everywhere.
    path = f"/v1/conflicts/{found[0][0]['conflict_id']}/resolve"
    four[0].node.post(path, {"winning_fact_id": found[0][0]["fact_a"]["id"]}).expect(200)
    for org in four:
        eventually(
            lambda org=org: not org.node.get("/v1/conflicts?status=unresolved").expect(200)["conflicts"],
            within_s=30,
            what=f"{org.name} hears that it is settled",
        )
