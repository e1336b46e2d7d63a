"""Two nodes become peers whatever comes first, and what they agreed on outlives stopping and kill -9."""

from urllib.parse import quote

import pytest

from tests.scenarios.organisations import await_active, federate, start_together


@pytest.fixture
def orgs(make_organisation):
    return make_organisation("org-a"), make_organisation("org-b")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["org-a-registers-first", "org-b-registers-first"])
def test_both_become_active_whichever_registers_first(orgs, order):
    first, second = (orgs[index] for index in order)
    start_together(first, second)

    first.register(second)
    second.register(first)

    await_active((first, second), (second, first))


def test_both_become_active_when_one_is_started_only_after_the_other_registered_it(orgs):
    early, late = orgs
    start_together(early)
    answer = early.register(late)
    assert (answer["status"], answer["reason"]) == ("pending_verification", "unreachable")

    start_together(late)
    late.register(early)

    await_active((early, late), (late, early), within_s=10)


def what_it_knows(org_a, org_b, fact_id, tokens):
    """Everything the tutorial leaves on org A, as org A answers it now."""
    peer = org_a.peer(org_b)
    return {
        "manifest": org_a.node.get(f"/v1/federation/manifest/{quote(org_a.entity_uri, safe='')}").expect(200),
        "peer": {
            name: peer[name] for name in ("peer_id", "node_id", "node_url", "status", "allowed_scopes", "verified_at")
        },
        "garden": org_a.node.get("/v1/gardens/inbound-quarantine").expect(200),
        "sink": org_a.node.get("/v1/admin/config").expect(200)["quarantine_garden_id"],
        "verified": [
            org_a.node.post(
                "/v1/federation/capability-tokens/verify", {"token_json": token["token_json"]}, None
            ).expect(200)
            for token in tokens
        ],
        "fact": org_a.node.get(f"/v1/facts/{fact_id}").expect(200),
        "held": org_a.held(),
    }


def test_what_two_organisations_agreed_on_survives_a_stop_and_a_kill(orgs):
    org_a, org_b = orgs
    start_together(org_a, org_b)
    federate(org_a, org_b)
    garden_id = org_a.hold_inbound_facts()
    kept, revoked = (org_a.issue_token(org_b.bot) for _ in range(2))
    write = org_a.fact("project/atlas", "active", scope="company") | {"source": org_b.bot}
    fact_id = org_a.node.post("/v1/facts", write, kept["token_json"]).expect(202)["fact_id"]
    org_a.node.post("/v1/facts", write | {"relation": "memory:owner"}, kept["token_json"]).expect(202)
    admission = {"fact_id": fact_id, "target_garden_id": None, "reason": "It was checked."}
    org_a.node.post(f"/v1/gardens/{garden_id}/promote", admission).expect(200)
    org_a.node.post(f"/v1/federation/capability-tokens/{revoked['token_id']}/revoke", {}).expect(200)
    before = what_it_knows(org_a, org_b, fact_id, (kept, revoked))
    assert before["verified"] == [{"valid": True}, {"valid": False, "reason": "revoked"}]
    assert (before["fact"]["quarantine_status"], len(before["held"])) == ("promoted", 1)

    org_a.node.restart()
    after_stop = what_it_knows(org_a, org_b, fact_id, (kept, revoked))
    org_a.node.kill()
    org_a.node.start()
    after_kill = what_it_knows(org_a, org_b, fact_id, (kept, revoked))

    assert after_stop == before
    assert after_kill == before
