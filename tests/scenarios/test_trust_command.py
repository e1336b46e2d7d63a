"""`stigmem trust` against a real node: each verb, what it prints, how it refuses."""

import json
import subprocess

import pytest

from tests.scenarios.asked import ask, said
from tests.scenarios.nodes import RunningNode

ORG_B = "stigmem://org-b.example"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory):
    running = RunningNode(
        tmp_path_factory.mktemp("trust") / "node", ENTITY_URI="stigmem://org-a.example", TRUST_MODE="strict"
    ).start()
    yield running
    running.stop()


def trust(node: RunningNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ask(node, "trust", *arguments)


def test_trust_is_tuned_and_explained_from_the_command_line(node: RunningNode):
    said(trust(node, "set", "--threshold", "0.3", "--weights", "0.4,0.3,0.2,0.1"))
    said(trust(node, "block", "agent:mallory", "--origin", ORG_B))
    said(trust(node, "always", f"{ORG_B}/agent"))
    mode, weights, heading, *rules = said(trust(node, "never", "agent:", "--origin", ORG_B)).splitlines()

    assert (mode, weights) == (
        "mode strict, threshold 0.3",
        "weights: identity 0.4, history 0.3, scope authority 0.2, attestation 0.1",
    )
    assert heading.split() == ["RULE", "SOURCE", "ORIGIN"]
    assert [rule.split() for rule in rules] == [
        ["blocked", "agent:mallory", ORG_B],
        ["never", "agent:", ORG_B],
        ["always", f"{ORG_B}/agent", ORG_B],
    ]

    first, heading, *_, lock, becomes = said(trust(node, "explain", "agent:mallory", "--origin", ORG_B)).splitlines()
    assert first == f"agent:mallory of {ORG_B}: t = 0.0, blocked (agent:mallory)"
    assert heading.split() == ["TERM", "VALUE", "WEIGHT", "ADDS", "WHY"]
    assert lock.startswith("threshold 0.3, mode strict; no moderator here has admitted")
    assert becomes == "a fact that a peer brings now: refused: trust_below_threshold"

    said(trust(node, "unblock", "agent:mallory", "--origin", ORG_B))
    node.send("PATCH", "/v1/admin/config", {"remove_trust_rules": [{"source": "agent:", "origin": ORG_B}]}).expect(200)
    shown = json.loads(trust(node, "set", "--threshold", "default", "--json").stdout)
    assert (shown["quarantine_trust_threshold"], shown["blocked_sources"], len(shown["trust_rules"])) == (0.2, [], 1)
    discovered = node.get("/.well-known/stigmem", bearer=None).expect(200)
    assert discovered["auth"] == "required" and node.get("/v1/admin/config").expect(200) == shown


def test_taking_away_what_is_not_there_is_said(node: RunningNode):
    rule = {"source": f"{ORG_B}/rare", "decision": "always"}
    stands = node.send("PATCH", "/v1/admin/config", {"add_trust_rules": [rule]}).expect(200)

    for arguments, words in (
        (("unrule", f"{ORG_B}/nobody"), "there is no rule on it"),
        (("unrule", f"{ORG_B}/nobody", "--json"), "there is no rule on it"),
        (("unblock", f"{ORG_B}/rare"), "not on the block list"),
    ):
        done = trust(node, *arguments)

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"stigmem: {arguments[1]}: {words}\n"
    assert node.get("/v1/admin/config").expect(200) == stands

    # The node knows the rule by the name's one spelling.
    left = json.loads("".join(said(trust(node, "unrule", "stigmem://ORG-B.example/rare", "--json"))))["trust_rules"]
    assert left == [one for one in stands["trust_rules"] if one["source"] != rule["source"]]


def test_what_cannot_be_set_is_refused_in_words(node: RunningNode):
    for arguments, exit_code, words in (
        (("block", "agent:x"), 1, "invalid_field"),
        (("set", "--threshold", "nan"), 2, "--threshold"),
    ):
        done = trust(node, *arguments)

        assert (done.returncode, done.stdout) == (exit_code, "")
        assert words in done.stderr and "Traceback" not in done.stderr
