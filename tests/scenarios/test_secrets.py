"""Everything two nodes keep and say, searched for the secrets they were given: in no file of theirs, no log line, no refusal, no
audit, no list of processes, and nothing that a crash leaves.

Always: each secret searched for was really used, and the search is known to find what is there.
"""

import base64
import json
import os
import resource
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.scenarios.nodes import ADMIN_KEY, STIGMEM, STOP_DEADLINE_S, Answer, RunningNode, environment, eventually
from tests.scenarios.organisations import Organisation, federate, openssl, peer_token, start_together

PASSPHRASE = "correct horse battery staple"
AT_REST_PASSPHRASE = "a passphrase under which org B keeps all that it has"
UNKNOWN_BEARER = "sk_of-which-nobody-here-has-heard-0123456789"
GIVEN_KEY = "a-key-that-was-there-before-this-node-0123456789"
REVOKED_KEY = "a-key-that-somebody-left-on-a-train-0123456789"
BAD_KEY = "a key that is none 0123456789 0123456789"
MISPLACED = "a-secret-in-a-field-that-does-not-exist"
BROKEN_HTTP = "a-secret-in-bytes-that-are-no-request"
IDEMPOTENCY_KEY = "an-idempotency-key-that-nobody-else-may-guess"
STATED = "a text that is no secret"
AUDITS = ("/v1/admin/audit-log?limit=1000", "/v1/federation/audit?limit=500")


@pytest.fixture
def orgs(make_organisation) -> tuple[Organisation, Organisation]:
    """Org A, whose key file is encrypted, and its peer org B, which encrypts what it stores; both log all that a node ever does."""
    org_a, org_b = (make_organisation(name, LOG_LEVEL="debug") for name in ("org-a", "org-b"))
    for org in (org_a, org_b):
        # What a crash says then is all that Python can say of it.
        org.node.launcher = ["env", "PYTHONFAULTHANDLER=1", f"AT_REST_PASSPHRASE={AT_REST_PASSPHRASE}"]
        record_answers(org.node)
        # As some other hand made them.
        org.node.data_dir.mkdir()
        org.node.data_dir.chmod(0o777)
    encrypted = org_a.node.folder / "encrypted.key"
    openssl("pkey", "-in", org_a.key.private, "-aes-256-cbc", "-passout", f"pass:{PASSPHRASE}", "-out", encrypted)
    org_a.node.settings |= {"NODE_PRIVATE_KEY_FILE": "encrypted.key", "NODE_PRIVATE_KEY_PASSPHRASE": PASSPHRASE}
    org_b.node.settings |= {"AT_REST_ENCRYPTION": "on", "AT_REST_KEY_PASSPHRASE_ENV": "AT_REST_PASSPHRASE"}
    start_together(org_a, org_b)
    federate(org_a, org_b)
    for org in (org_a, org_b):
        org.hold_inbound_facts()
    return org_a, org_b


def record_answers(node: RunningNode) -> None:
    """Keep what the node answers under `answers`, by what was asked."""
    send, node.answers = node.send, []

    def recorded(method: str, path: str, body: object = None, bearer: str | None = ADMIN_KEY) -> Answer:
        answer = send(method, path, body, bearer)
        node.answers.append((f"{method} {path}", answer))
        return answer

    node.send = recorded


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


def successor_of(org: Organisation) -> dict[str, bytes]:
    """The private key that took the place of the one before; its file is encrypted too."""
    file = org.node.folder / "encrypted.key"
    raw = openssl("pkey", "-in", file, "-passin", f"pass:{PASSPHRASE}", "-outform", "DER")[-32:]
    assert raw not in private_key_of(org).values()
    assert not [path for path in org.node.folder.glob("encrypted.key*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    return {"new private key, raw": raw, "new private key, hex": raw.hex().encode()}


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
    keyed = fact | {"source": org_a.assistant, "idempotency_key": IDEMPOTENCY_KEY}
    node.post("/v1/facts", keyed).expect(201)
    node.post("/v1/facts", keyed | {"confidence": 0.1}).refused(409, "idempotency_key_reused")
    spent, foreign = peer_token(org_b, org_a), peer_token(org_b, org_b)
    node.get("/v1/federation/facts", bearer=spent).expect(200)
    node.get("/v1/federation/facts", bearer=spent).refused(401, "nonce_already_seen")
    node.get("/v1/federation/facts", bearer=foreign).refused(401, "invalid_sub")
    keys = private_key_of(org_a)
    node.post("/v1/admin/keys/rotate", {}).expect(200)
    org_b.pull(org_a)
    return (
        keys
        | successor_of(org_a)
        | {
            "spent peer token": spent.encode(),
            "spent peer token's signature": spent.rpartition(".")[2].encode(),
            "foreign peer token's signature": foreign.rpartition(".")[2].encode(),
            "given key": GIVEN_KEY.encode(),
            "revoked key": REVOKED_KEY.encode(),
            "bad key": BAD_KEY.encode(),
            "made key": made_key.encode(),
            "admin key": node.settings["ADMIN_KEY"].encode(),
            "passphrase": PASSPHRASE.encode(),
            "passphrase at rest": AT_REST_PASSPHRASE.encode(),
            "token signature": json.loads(token["token_json"])["signature"].encode(),
            "unknown bearer": UNKNOWN_BEARER.encode(),
            "misplaced secret": MISPLACED.encode(),
            "bytes that are no request": BROKEN_HTTP.encode(),
        }
    )


def files_with(content: bytes, node: RunningNode) -> list[Path]:
    files = [path for path in node.data_dir.rglob("*") if path.is_file()]
    return [path for path in files if content in path.read_bytes()]


def tells(org: Organisation, secrets: dict[str, bytes], what: str, content: bytes) -> list[str]:
    return [f"{org.name} {what}: {name}" for name, secret in secrets.items() if secret in content]


def refuse_and_audit(org: Organisation, secrets: dict[str, bytes]) -> list[str]:
    """Where a refusal, an audit, a list or a metric tells a secret."""
    for path in (*AUDITS, "/v1/auth/keys", "/v1/federation/peers", "/v1/admin/config", "/metrics", "/readyz"):
        org.node.get(path)
    # Whoever makes a key or a token is given it, this once.
    made = ("POST /v1/auth/keys", "POST /v1/federation/capability-tokens")
    told = [(asked, answer) for asked, answer in org.node.answers if answer.status >= 300 or asked not in made]
    assert {asked for asked, _ in told} >= {f"GET {path}" for path in AUDITS}
    # A field that no route knows is named to whoever sent it.
    searched = {name: secret for name, secret in secrets.items() if name != "misplaced secret"}
    return [leak for asked, answer in told for leak in tells(org, searched, asked, answer.body)]


def starve_of_descriptors(org: Organisation, other: Organisation) -> None:
    """Leave a node no file descriptor while it has a peer to ask and somebody knocks: real errors, with a key in every hand."""
    pid, client = org.node.process.pid, org.node.client()
    peer_id = client.send("GET", "/v1/federation/peers").expect(200)["peers"][0]["peer_id"]
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), limits[1]))
    client.send("POST", f"/v1/federation/peers/{peer_id}/pull", {})
    client.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    eventually(lambda: org.node.get("/readyz").status == 200, within_s=10, what="it takes connections again")


def processes_of(org: Organisation) -> bytes:
    """The list of processes while the node serves and a command waits for its input."""
    command = subprocess.Popen(
        [STIGMEM, "facts", "batch", "-"],
        env=environment({"URL": org.node.url, "API_KEY": ADMIN_KEY}),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (org.node.process.pid, command.pid))
    finally:
        command.stdin.close()
        command.wait(STOP_DEADLINE_S)


def crash(node: RunningNode) -> None:
    # What the kernel would leave of it holds every key.
    assert resource.prlimit(node.process.pid, resource.RLIMIT_CORE) == (0, 0)
    node.process.send_signal(signal.SIGABRT)
    assert node.process.wait(STOP_DEADLINE_S) == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in node.said()


def open_to_others(node: RunningNode) -> list[Path]:
    kept = [node.data_dir, *(path for path in node.data_dir.rglob("*") if path.is_file())]
    return [path for path in kept if stat.S_IMODE(path.stat().st_mode) & 0o077]


def test_no_secret_is_in_a_file_a_log_line_a_refusal_an_audit_a_list_of_processes_or_a_crash(orgs):
    secrets = use_everything(*orgs)
    shown = secrets | {"idempotency key": IDEMPOTENCY_KEY.encode()}
    starve_of_descriptors(*orgs)
    leaks = [leak for org in orgs for leak in refuse_and_audit(org, shown)]
    leaks += [leak for org in orgs for leak in tells(org, shown, "list of processes", processes_of(org))]

    leaks += [f"{path} is open to others" for org in orgs for path in open_to_others(org.node)]

    for org in orgs:
        crash(org.node)

    leaks += [leak for org in orgs for leak in tells(org, shown, "output", org.node.said().encode())]
    # An idempotency key is part of the log: it says under which name a write was carried out once (docs/idempotency.md).
    kept = [(org.name, name) for org in orgs for name, secret in secrets.items() if files_with(secret, org.node)]
    assert files_with(STATED.encode(), orgs[0].node)
    assert (kept, leaks) == ([], [])


def test_every_log_line_is_one_json_object_whatever_strangers_send(orgs):
    use_everything(*orgs)
    for org in orgs:
        org.node.stop()

    logged = [json.loads(line) for org in orgs for line in org.node.said().splitlines()]

    assert {"serving", "stopping", "malformed_http", "data_folder_closed"} <= {line["event"] for line in logged}
    assert [line for line in logged if not {"event", "level", "logger", "timestamp"} <= line.keys()] == []
