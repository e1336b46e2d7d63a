"""`stigmem keys` against a real node: each verb, what it prints and where, how it refuses; and keys through a restart."""

import json
import subprocess

from tests.scenarios.asked import ask, refused, said
from tests.scenarios.nodes import RunningNode

ENTITY = "stigmem://org-a.example/agent/scribe"


def keys(node: RunningNode, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return ask(node, "keys", *arguments, **settings)


def test_a_key_is_made_listed_and_revoked_from_the_command_line_and_outlives_a_restart(node: RunningNode):
    made = keys(node, "create", ENTITY, "--permission", "read,write", "--scope", "company", "--source", "agent:")
    assert made.returncode == 0 and made.stdout.startswith("sk_") and len(made.stdout) == 47
    assert made.stderr.startswith("stigmem: key ") and made.stdout.strip() not in made.stderr
    raw_key = made.stdout.strip()
    told = json.loads(said(keys(node, "create", ENTITY, "--permission", "read", "--json")))
    assert told["raw_key"].startswith("sk_") and told["permissions"] == ["read"]

    node.stop()
    node.start()

    me = node.get("/v1/me", bearer=raw_key).expect(200)
    assert (me["entity_uri"], me["permissions"], me["allowed_sources"]) == (ENTITY, ["read", "write"], ["agent:"])
    heading, newest, oldest = said(keys(node, "list")).splitlines()
    assert heading.split() == ["KEY", "ENTITY", "PERMISSIONS", "SCOPES", "EXPIRES", "STATUS", "DESCRIPTION"]
    assert (
        newest.startswith(told["key_id"])
        and oldest.split()[2:4] == ["read,write", "company"]
        and oldest.endswith("  active  -")
    )
    raw = json.loads(said(keys(node, "list", "--json")))["keys"]
    assert [key["key_id"] for key in raw] == [told["key_id"], me["key_id"]]

    assert said(keys(node, "revoke", me["key_id"])) == f"{me['key_id']}: revoked\n"

    node.get("/v1/me", bearer=raw_key).refused(401, "api_key_revoked")
    refused(keys(node, "revoke", me["key_id"]), "api_key_already_revoked")
    assert " active " in said(keys(node, "list", "--as-of", f"offset:{told['log_offset']}")).splitlines()[2]


def test_what_cannot_be_is_one_line_and_an_exit_code(node: RunningNode):
    refused(keys(node, "create", ENTITY, "--permission", "own"), "invalid_field")
    refused(keys(node, "revoke", "../config"), "api_key_not_found")
    refused(keys(node, "list", API_KEY="sk_of-which-nobody-here-has-heard-0123456789"), "invalid_credentials")
    assert keys(node, "create", ENTITY).returncode == 2
