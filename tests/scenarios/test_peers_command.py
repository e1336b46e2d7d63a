"""`stigmem peers` against real nodes: each verb, what it prints, and how it refuses."""

import json
import subprocess

import pytest

from tests.scenarios.asked import ask, refused, said
from tests.scenarios.nodes import ADMIN_KEY
from tests.scenarios.organisations import Organisation, start_together


@pytest.fixture
def orgs(make_organisation) -> tuple[Organisation, Organisation]:
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "3600"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    start_together(org_a, org_b)
    return org_a, org_b


def peers(org: Organisation, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return ask(org.node, "peers", *arguments, **settings)


def test_an_operator_can_do_everything_with_a_peer_from_the_command_line(orgs):
    org_a, org_b = orgs
    said(peers(org_a, "add", org_b.node.url, org_b.entity_uri))
    added = said(peers(org_b, "add", org_a.node.url, org_a.entity_uri, "--scope", "public", "--scope", "company"))
    assert added.startswith(f"{org_a.entity_uri} ") and added.endswith(": active\n")
    asserted = org_a.assert_fact("item/1", "here")

    assert "its documents hold" in said(peers(org_b, "check", org_a.entity_uri))
    assert said(peers(org_b, "pull", org_a.entity_uri)).startswith("1 ingested, ")
    assert ", 1 known, " in said(peers(org_b, "pull", org_a.entity_uri, "--from-start"))
    assert org_b.node.get(f"/v1/facts/{asserted['id']}").expect(200)["origin"] == org_a.entity_uri

    heading, row = said(peers(org_b, "list")).splitlines()
    assert heading.split("  ")[0].strip() == "PEER" and "LAST ERROR" in heading
    assert row.startswith(f"{org_a.entity_uri}  active ") and " public,company " in row and "nothing, " in row
    [raw] = json.loads(said(peers(org_b, "list", "--json")))["peers"]
    assert raw["peer_id"] == org_b.peer(org_a)["peer_id"]
    assert json.loads(said(peers(org_b, "show", raw["peer_id"], "--json")))["checkpoint"] == raw["checkpoint"]
    assert ["node_id", org_a.entity_uri] in [
        line.split() for line in said(peers(org_b, "show", raw["peer_id"])).splitlines()
    ]
    refused(peers(org_b, "approve", org_a.entity_uri), "not_awaiting_approval")
    refused(peers(org_b, "approve", org_a.entity_uri, "--accept-checkpoint"), "not_awaiting_approval")

    offset = org_b.node.log_size() - 1
    assert said(peers(org_b, "remove", org_a.entity_uri)) == f"{org_a.entity_uri}: revoked (removed)\n"
    assert "revoked (removed)" in said(peers(org_b, "list"))
    _, row_then = said(peers(org_b, "list", "--as-of", f"offset:{offset}")).splitlines()
    assert row_then.split()[:3] == [org_a.entity_uri, "active", "public,company"]
    shown = json.loads(said(peers(org_b, "show", org_a.entity_uri, "--as-of", f"offset:{offset}", "--json")))
    assert (shown["status"], shown["checkpoint"], shown["lag"]) == ("active", raw["checkpoint"], None)
    refused(peers(org_b, "show", org_a.entity_uri, "--as-of", "offset:0"), "peer_not_found")
    refused(peers(org_b, "list", "--as-of", "yesterday"), "invalid_parameter")
    refused(peers(org_b, "pull", org_a.entity_uri), "peer_not_active")


def test_an_operator_has_the_own_declaration_printed_or_brought_to_a_peer(orgs):
    org_a, org_b = orgs
    printed = json.loads(said(peers(org_a, "declare", "--scopes", "public,company")))

    registered = org_b.node.send("POST", "/v1/federation/peers", printed).expect(201)
    brought = said(peers(org_b, "declare", "--to", org_a.node.url, PEER_API_KEY=ADMIN_KEY))

    assert (registered["node_id"], registered["status"]) == (org_a.entity_uri, "active")
    assert registered["allowed_scopes"] == ["public", "company"]
    assert brought == f"{org_a.node.url}: active\n"
    assert org_a.peer(org_b)["allowed_scopes"] == ["public"]

    refused(peers(org_a, "declare", "--scope", "local"), "scope_not_permitted")
    refused(peers(org_a, "declare", "--to", org_b.node.url), "STIGMEM_PEER_API_KEY")
    refused(peers(org_a, "declare", "--to", org_b.node.url, PEER_API_KEY="wrong"), "invalid_credentials")
    refused(peers(org_a, "declare", "--to", "http://localhost:1", PEER_API_KEY="x"), "localhost:1")
    refused(peers(org_a, "declare", "--to", "nowhere", PEER_API_KEY="x"), "nowhere")


def test_what_an_operator_gets_wrong_is_one_line_and_exit_code_1(orgs):
    _, org_b = orgs

    refused(peers(org_b, "show", "stigmem://nobody.example"), "peer_not_found")
    refused(peers(org_b, "add", "http://10.0.0.1", "stigmem://org-c.example"), "peer_url_forbidden")
    refused(
        peers(org_b, "add", "http://localhost:1", "stigmem://org-c.example", "--scope", "local"), "scope_not_permitted"
    )
    refused(peers(org_b, "list", API_KEY="wrong"), "invalid_credentials")
    refused(peers(org_b, "list", API_KEY=""), "STIGMEM_API_KEY")
    refused(peers(org_b, "list", URL="http://localhost:1"), "localhost:1")
    assert json.loads(said(peers(org_b, "list", "--json"))) == {"peers": []}


def test_a_refusal_is_said_in_words_and_as_it_came_to_whoever_asks_for_json(orgs):
    _, org_b = orgs
    local = ("add", "http://localhost:1", "stigmem://org-c.example", "--scope", "local")

    in_words, as_it_came = peers(org_b, *local), peers(org_b, *local, "--json")

    words = "allowed_scopes: local facts never leave the node"
    assert (in_words.returncode, in_words.stderr) == (1, f"stigmem: scope_not_permitted: {words}\n")
    assert (as_it_came.returncode, as_it_came.stdout) == (1, "")
    assert json.loads(as_it_came.stderr) == {"error": "scope_not_permitted", "detail": words}


def test_a_peer_that_is_down_is_listed_with_its_error_in_words_and_the_next_try(orgs):
    _, org_b = orgs
    added = said(peers(org_b, "add", "http://localhost:1", "stigmem://org-c.example"))

    assert "pending_verification (unreachable: no connection)" in added
    [row] = said(peers(org_b, "list")).splitlines()[1:]
    assert "pending_verification (unreachable)" in row and "no connection" in row
    assert "no connection" in said(peers(org_b, "check", "stigmem://org-c.example"))
