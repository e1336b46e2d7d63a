"""Encryption at rest as an operator meets it: real nodes, killed, and every byte of their folders looked through."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.at_rest import found_in, state_of
from tests.scenarios.nodes import ADMIN_KEY, RunningNode, eventually, run_stigmem
from tests.scenarios.organisations import Organisation, federate, start_together

GIVEN_KEY = "sk_of-an-agent-that-was-here-before-0123456789"
VALUES: dict[str, Any] = {
    "string": "planted string wombat",
    "text": "planted text, longer than a string: numbat, quokka and bandicoot",
    "datetime": "2031-07-09T11:13:17.019Z",
    "ref": "stigmem://org-a.example/planted/ref-bettong",
}


@pytest.fixture
def orgs(make_organisation) -> tuple[Organisation, Organisation]:
    """Org A, encrypted under what is derived from its node key, and its peer org B; both federate and push."""
    org_a = make_organisation("org-a", AT_REST_ENCRYPTION="on", LOG_LEVEL="debug")
    org_b = make_organisation("org-b")
    start_together(org_a, org_b)
    federate(org_a, org_b)
    org_a.hold_inbound_facts()
    return org_a, org_b


def plant(org_a: Organisation, org_b: Organisation) -> list[str]:
    """Say something of every kind that a node keeps; the words that must show nowhere."""
    node = org_a.node
    entity, source = "stigmem://org-a.example/planted/entity-quoll", "stigmem://org-a.example/planted/source-dibbler"
    for number, (kind, value) in enumerate(VALUES.items()):
        body = org_a.fact("project/x", "x") | {
            "entity": f"{entity}-{number}",
            "relation": f"planted:relation-kowari-{number}",
            "value": {"type": kind, "v": value},
            "source": source,
        }
        node.post("/v1/facts", body).expect(201)
    for value in (271828182845, -1.6180339887498949, True):
        kind = "boolean" if value is True else "number"
        body = org_a.fact("project/numbers", "x") | {"entity": f"{entity}-n", "value": {"type": kind, "v": value}}
        node.post("/v1/facts", body).expect(201)
    garden = {"slug": "planted-burrow", "name": "Planted Burrow Bilby", "scope": "company"}
    node.post("/v1/gardens", garden).expect(201)
    member = "stigmem://org-a.example/planted/member-phascogale"
    node.send("PUT", f"/v1/gardens/planted-burrow/members/{member}", {"role": "writer"})
    made = node.post(
        "/v1/auth/keys", {"entity_uri": member, "permissions": ["read", "write"], "raw_key": GIVEN_KEY}
    ).expect(201)
    token = org_a.issue_token("stigmem://org-b.example/planted/subject-woylie")
    node.post(
        "/v1/facts", org_a.fact("project/x", "x") | {"source": "stigmem://org-c.example/planted/thief"}, GIVEN_KEY
    )
    org_b.assert_fact("planted-foreign-potoroo", "planted foreign value mulgara")
    org_a.pull(org_b)
    held = eventually(org_a.held, within_s=20, what="a fact is held")
    reason = {"fact_id": held[0]["fact_id"], "reason": "planted reason of a rejection antechinus"}
    node.post(f"/v1/gardens/{held[0]['quarantine_garden_id']}/reject", reason).expect(200)
    client = node.client()
    client._connection.request(
        "POST",
        "/v1/facts",
        body=json.dumps(org_a.fact("project/idempotent", "x")).encode(),
        headers={
            "Authorization": f"Bearer {ADMIN_KEY}",
            "Content-Type": "application/json",
            "Idempotency-Key": "planted-idempotency-kultarr",
        },
    )
    assert client._connection.getresponse().status == 201
    client.close()
    node.send("PATCH", "/v1/admin/config", {"blocked_sources": ["stigmem://org-c.example/planted/blocked-dunnart"]})
    return [
        entity,
        source,
        "planted",
        "kowari",
        *VALUES.values(),
        "271828182845",
        "Planted Burrow Bilby",
        "phascogale",
        GIVEN_KEY,
        made["key_id"],
        token["token_id"],
        json.loads(token["token_json"])["signature"],
        "woylie",
        "potoroo",
        "mulgara",
        "org-b.example",
        org_b.node.url,
        "antechinus",
        "kultarr",
        "dunnart",
        "memory:status",
        "org-a.example",
        ADMIN_KEY,
    ]


def test_no_word_of_anything_is_in_a_file_of_a_node_that_was_killed_and_it_goes_on(orgs):
    org_a, org_b = orgs
    words = plant(*orgs)
    facts = sorted(fact["id"] for fact in org_a.node.facts())
    org_a.node.kill()
    org_b.node.kill()

    # Of what is searched for nearly all is found at the peer, or would be in a folder in clear.
    assert len(found_in(org_b.node.data_dir, ["potoroo", "mulgara", "memory:status"])) >= 3
    assert found_in(org_a.node.data_dir, words) == []

    assert sorted(fact["id"] for fact in org_a.node.start().facts()) == facts

    settings = {name: value for name, value in org_a.node.settings.items() if name != "PORT"}
    data_dir = str(org_a.node.data_dir)
    with_key = run_stigmem("replay", "verify", "--data-dir", data_dir, folder=org_a.node.folder, **settings)
    without = run_stigmem("replay", "verify", "--data-dir", data_dir, folder=org_a.node.folder)
    assert (with_key.returncode, without.returncode) == (0, 0), with_key.stderr + without.stderr
    assert "chain, signatures, items and tree hold" in with_key.stdout
    assert "as the log folds to" in with_key.stdout
    assert "no key was given" in without.stdout


def key_file(path: Path, digit: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(digit * 64 + "\n")
    return path


def fact(relation: str) -> dict[str, object]:
    return {
        "entity": "stigmem://org-a.example/planted/entity-quoll",
        "relation": relation,
        "value": {"type": "string", "v": "planted string wombat"},
        "source": "stigmem://org-a.example/agent/scribe",
    }


def start_in_vain(node: RunningNode, **settings: str | None) -> str:
    """What a node says that does not start: one line; nothing in its folder is touched."""
    given = {name: value for name, value in (node.settings | settings).items() if value is not None}
    was = state_of(node.data_dir)
    done = run_stigmem("serve", folder=node.folder, **given)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("stigmem: "), done.stderr
    assert state_of(node.data_dir) == was
    return done.stderr


def test_a_folder_in_clear_is_not_served_with_encryption_on_before_it_was_encrypted(make_node, tmp_path):
    node = make_node()
    node.start().post("/v1/facts", fact("planted:relation-kowari")).expect(201)
    node.stop()
    node.settings |= {"AT_REST_ENCRYPTION": "on", "AT_REST_KEY_FILE": str(key_file(tmp_path / "one.hex", "1"))}
    assert "`stigmem storage encrypt`" in start_in_vain(node)
    assert found_in(node.data_dir, ["kowari"])

    for verb, settings in (("encrypt", node.settings), ("rekey", node.settings)):
        done = run_stigmem("storage", verb, "--data-dir", str(node.data_dir), folder=node.folder, **settings)
        assert done.returncode == 0, done.stderr
        assert found_in(node.data_dir, ["kowari"], but=("node.key",)) == []

    assert [found["relation"] for found in node.start().facts()] == ["planted:relation-kowari"]
    node.stop()
    node.settings["AT_REST_KEY_FILE"] = str(key_file(tmp_path / "other.hex", "2"))
    assert "is encrypted under another key than the key file that is set" in start_in_vain(node)
