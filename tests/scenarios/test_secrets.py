"""Everything two nodes keep and say, searched for the secrets they were given: in no file of theirs and in no log line.

Always: each secret searched for was really used, and the search is known to find what is there.
"""

import base64
import json
import socket
from pathlib import Path

import pytest

from tests.scenarios.nodes import RunningNode
from tests.scenarios.organisations import Organisation, federate, openssl, start_together

PASSPHRASE = "correct horse battery staple"
UNKNOWN_BEARER = "sk_of-which-nobody-here-has-heard-0123456789"
GIVEN_KEY = "a-key-that-was-there-before-this-node-0123456789"
REVOKED_KEY = "a-key-that-somebody-left-on-a-train-0123456789"
BAD_KEY = "a key that is none 0123456789 0123456789"
MISPLACED = "a-secret-in-a-field-that-does-not-exist"
BROKEN_HTTP = "a-secret-in-bytes-that-are-no-request"
STATED = "a text that is no secret"


@pytest.fixture
def orgs(make_organisation) -> tuple[Organisation, Organisation]:
    """Org A, whose key file is encrypted, and its peer org B; both log as much as a node ever does."""
    org_a, org_b = (make_organisation(name, LOG_LEVEL="debug") for name in ("org-a", "org-b"))
    encrypted = org_a.node.folder / "encrypted.key"
    openssl("pkey", "-in", org_a.key.private, "-aes-256-cbc", "-passout", f"pass:{PASSPHRASE}", "-out", encrypted)
    org_a.node.settings |= {"NODE_PRIVATE_KEY_FILE": "encrypted.key", "NODE_PRIVATE_KEY_PASSPHRASE": PASSPHRASE}
    start_together(org_a, org_b)
    federate(org_a, org_b)
    for org in (org_a, org_b):
        org.hold_inbound_facts()
    return org_a, org_b


def private_key_of(org: Organisation) -> dict[str, bytes]:
    """The private key in every spelling in which it could lie about."""
    der = openssl("pkey", "-in", org.key.private, "-outform", "DER")
    raw = der[-32:]
    return {
        "private key, raw": raw,
        "private key, hex": raw.hex().encode(),
        "private key, base64url": base64.urlsafe_b64encode(raw).rstrip(b"="),
        "private key, PEM": base64.b64encode(der),
    }


def use_everything(org_a: Organisation, org_b: Organisation) -> dict[str, bytes]:
    """Has both nodes meet each of these secrets where it belongs, and where it does not; returns them by name."""
    node = org_a.node
    token = org_a.issue_token(org_b.bot)
    fact = org_a.fact("project/atlas", STATED, scope="company") | {"source": org_b.bot}
    node.post("/v1/facts", fact, token["token_json"]).expect(202)
    node.post("/v1/facts", fact | {"source": org_a.assistant}, token["token_json"]).refused(403, "source_not_owned")
    node.get("/v1/facts", bearer=UNKNOWN_BEARER).refused(401, "invalid_credentials")
    node.get("/v1/facts", bearer=json.dumps({"token_id": UNKNOWN_BEARER})).refused(401, "token_malformed")
    node.post("/v1/facts", fact | {MISPLACED: MISPLACED}).expect(422)
    node.post("/v1/facts", f'{{"entity": "{MISPLACED}'.encode()).refused(400, "malformed_json")
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connection:
        connection.sendall(f"{BROKEN_HTTP}\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"400"
    org_b.pull(org_a)
    for key in (GIVEN_KEY, REVOKED_KEY):
        make = {"entity_uri": org_a.assistant, "permissions": ["write"], "raw_key": key}
        made = node.post("/v1/auth/keys", make).expect(201)
        node.post("/v1/auth/keys", make).refused(409, "api_key_exists")
        node.post("/v1/facts", fact | {"source": org_a.assistant}, key).expect(201)
        node.get("/v1/facts", bearer=key).refused(403, "insufficient_permission")
    assert node.send("DELETE", f"/v1/auth/keys/{made['key_id']}").status == 204
    node.get("/v1/facts", bearer=REVOKED_KEY).refused(401, "api_key_revoked")
    node.post("/v1/auth/keys", {"entity_uri": "agent:x", "permissions": ["read"], "raw_key": BAD_KEY}).expect(422)
    made = node.post("/v1/auth/keys", {"entity_uri": "agent:x", "permissions": ["read"]}).expect(201)
    made_key = made["raw_key"]
    node.get("/v1/facts", bearer=made_key).expect(200)
    return private_key_of(org_a) | {
        "given key": GIVEN_KEY.encode(),
        "revoked key": REVOKED_KEY.encode(),
        "bad key": BAD_KEY.encode(),
        "made key": made_key.encode(),
        "admin key": node.settings["ADMIN_KEY"].encode(),
        "passphrase": PASSPHRASE.encode(),
        "token signature": json.loads(token["token_json"])["signature"].encode(),
        "unknown bearer": UNKNOWN_BEARER.encode(),
        "misplaced secret": MISPLACED.encode(),
        "bytes that are no request": BROKEN_HTTP.encode(),
    }


def files_with(content: bytes, node: RunningNode) -> list[Path]:
    files = [path for path in node.data_dir.rglob("*") if path.is_file()]
    return [path for path in files if content in path.read_bytes()]


def test_no_secret_is_in_a_file_of_the_data_folder_or_in_a_log_line(orgs):
    secrets = use_everything(*orgs)
    for org in orgs:
        org.node.stop()

    assert files_with(STATED.encode(), orgs[0].node)
    kept = [(org.name, name) for org in orgs for name, secret in secrets.items() if files_with(secret, org.node)]
    logged = [
        (org.name, name) for org in orgs for name, secret in secrets.items() if secret in org.node.said().encode()
    ]
    assert (kept, logged) == ([], [])


def test_every_log_line_is_one_json_object_whatever_strangers_send(orgs):
    use_everything(*orgs)
    for org in orgs:
        org.node.stop()

    logged = [json.loads(line) for org in orgs for line in org.node.said().splitlines()]

    assert {"serving", "stopping", "malformed_http"} <= {line["event"] for line in logged}
    assert [line for line in logged if not {"event", "level", "logger", "timestamp"} <= line.keys()] == []
