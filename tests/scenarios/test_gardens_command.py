"""`stigmem gardens` against a real node: each verb, what it prints, how it refuses."""

import json
import subprocess

from tests.scenarios.asked import ask, refused, said
from tests.scenarios.nodes import RunningNode

NODE_ID = "stigmem://org-a.example"
MEMBER = "agent:größe 1//x%2F?#"


def gardens(node: RunningNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ask(node, "gardens", *arguments)


def test_a_garden_is_made_peopled_and_deleted_from_the_command_line(node: RunningNode):
    made = json.loads(said(gardens(node, "create", "den", "--scope", "team", "--name", "The den", "--json")))
    assert (made["slug"], made["name"], made["scope"], made["quarantine"]) == ("den", "The den", "team", False)
    heading, listed = said(gardens(node, "list")).splitlines()
    assert heading.split() == ["GARDEN", "SCOPE", "QUARANTINE", "ID", "NAME"]
    assert listed.split() == ["den", "team", "-", made["id"], "The", "den"]

    assert said(gardens(node, "add", made["garden_id"], MEMBER, "--role", "reader")).startswith(f"{MEMBER}: reader of ")
    assert said(gardens(node, "change", "den", MEMBER, "--role", "writer")) == f"{MEMBER}: writer of den\n"
    members = said(gardens(node, "members", made["id"])).splitlines()
    assert members[0].split()[:2] == ["MEMBER", "ROLE"] and members[1].split()[:2] == [NODE_ID, "admin"]
    assert members[2].startswith(f"{MEMBER}  ") and members[2].split()[-3] == "writer"

    assert said(gardens(node, "remove", "den", MEMBER)) == f"{MEMBER}: removed from den\n"
    refused(gardens(node, "remove", "den", NODE_ID), "last_admin")
    assert said(gardens(node, "delete", "den")) == "den: deleted\n"
    node.get("/v1/gardens/den").refused(404, "garden_not_found")
