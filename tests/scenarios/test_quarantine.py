"""What org B writes to org A with its token, and what a moderator of org A makes of it."""

import pytest

from tests.scenarios.organisations import AUTO_QUARANTINE


@pytest.fixture
def write(two_orgs):
    """Writes a fact about project atlas to org A as org B's bot, each time with the same token; returns the answer."""
    org_a, org_b = two_orgs
    token = org_a.issue_token(org_b.bot)["token_json"]

    def write(relation: str, v: str = "active"):
        fact = org_a.fact("project/atlas", v, scope="company") | {"relation": relation, "source": org_b.bot}
        return org_a.node.post("/v1/facts", fact, bearer=token)

    return write


def promote(org, garden_id, fact_id, target=None):
    return org.node.post(
        f"/v1/gardens/{garden_id}/promote",
        {"fact_id": fact_id, "target_garden_id": target, "reason": "It was checked."},
    )


def listed(org):
    return [
        fact["id"] for fact in org.node.facts("&include_contradicted=true&include_retracted=true&include_expired=true")
    ]


def test_one_token_writes_a_second_and_a_third_time(two_orgs, write):
    org_a, _ = two_orgs

    written = [write(relation).expect(202) for relation in ("memory:status", "memory:owner", "memory:budget")]

    assert [fact["quarantine_reason"] for fact in written] == [AUTO_QUARANTINE] * 3
    assert sorted(item["fact_id"] for item in org_a.held()) == sorted(fact["fact_id"] for fact in written)


def test_a_fact_that_was_admitted_cannot_be_admitted_again(two_orgs, write):
    org_a, _ = two_orgs
    fact = write("memory:status").expect(202)
    promote(org_a, fact["quarantine_garden_id"], fact["fact_id"]).expect(200)
    record = org_a.node.get(f"/v1/facts/{fact['fact_id']}").expect(200)

    promote(org_a, fact["quarantine_garden_id"], fact["fact_id"]).refused(409, "fact_not_quarantine_pending")

    assert org_a.node.get(f"/v1/facts/{fact['fact_id']}").expect(200) == record
    assert listed(org_a) == [fact["fact_id"]]


def test_after_one_admission_the_next_write_of_that_organisation_is_taken_at_once(two_orgs, write):
    org_a, _ = two_orgs
    first = write("memory:status").expect(202)
    promote(org_a, first["quarantine_garden_id"], first["fact_id"]).expect(200)

    second = write("memory:owner").expect(201)

    assert second["quarantine_status"] is None
    assert sorted(listed(org_a)) == sorted([first["fact_id"], second["id"]])


def test_a_fact_admitted_into_a_garden_stands_in_that_garden(two_orgs, write):
    org_a, _ = two_orgs
    garden_id = org_a.create_garden("atlas")
    fact = write("memory:status").expect(202)

    answer = promote(org_a, fact["quarantine_garden_id"], fact["fact_id"], garden_id).expect(200)

    record = org_a.node.get(f"/v1/facts/{fact['fact_id']}").expect(200)
    assert answer["target_garden_id"] == garden_id
    assert (record["garden_id"], record["quarantine_status"]) == (garden_id, "promoted")
    assert [found["id"] for found in org_a.node.facts(f"&garden_id={garden_id}")] == [fact["fact_id"]]


@pytest.fixture
def reader(two_orgs):
    """What org B's bot reads at org A, which shared its company facts with it."""
    org_a, org_b = two_orgs
    token = org_a.issue_token(org_b.bot, "read")["token_json"]
    return lambda path: org_a.node.get(path, bearer=token)


def test_a_held_fact_is_shown_to_nobody_but_the_moderators_until_it_is_admitted(two_orgs, write, reader):
    org_a, _ = two_orgs
    fact = write("memory:status").expect(202)
    place = f"/v1/facts/{fact['fact_id']}"

    reader(place).refused(404, "fact_not_found")
    reader(f"{place}/body").refused(404, "fact_not_found")
    reader(f"/v1/facts/{fact['cid']}").refused(404, "fact_not_found")
    assert reader("/v1/facts").expect(200)["total"] == 0
    reader("/v1/quarantine").refused(403, "insufficient_permission")
    assert org_a.node.get(place).expect(200)["quarantine_status"] == "pending"

    promote(org_a, fact["quarantine_garden_id"], fact["fact_id"]).expect(200)
    assert reader(place).expect(200)["quarantine_status"] == "promoted"
    assert reader("/v1/facts").expect(200)["total"] == 1


def test_a_rejected_fact_counts_for_nothing_and_is_shown_to_the_admin_by_id_alone(two_orgs, write, reader):
    org_a, _ = two_orgs
    fact = write("memory:status").expect(202)
    place, rejected = f"/v1/facts/{fact['fact_id']}", f"/v1/gardens/{fact['quarantine_garden_id']}/reject"

    rejection = {"fact_id": fact["fact_id"], "reason": "Nobody vouches for it."}
    answer = org_a.node.post(rejected, rejection).expect(200)

    record = org_a.node.get(place).expect(200)
    assert (list(answer), answer["rejected_by"]) == (["fact_id", "rejected_at", "rejected_by"], org_a.entity_uri)
    assert record["quarantine_status"] == "rejected"
    assert (record["confidence"], record["effective_confidence"], record["asserted_confidence"]) == (0.0, 0.0, 0.85)
    assert listed(org_a) == []
    assert org_a.held() == []
    assert [item["fact_id"] for item in org_a.held("rejected")] == [fact["fact_id"]]
    reader(place).refused(404, "fact_not_found")
    org_a.node.get(place, bearer="sk_" + "A" * 43).refused(401, "invalid_credentials")
    org_a.node.post(rejected, rejection).refused(409, "fact_not_quarantine_pending")
