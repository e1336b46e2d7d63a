"""Starting, refusing to start, and stopping: what the person at the terminal sees."""

import json
import re
import socket
from pathlib import Path

import pytest

from tests.scenarios.nodes import (
    ADMIN_KEY,
    REQUEST_DEADLINE_S,
    STOP_DEADLINE_S,
    RunningNode,
    eventually,
    free_port,
    run_stigmem,
)
from tests.scenarios.organisations import KeyPair, openssl

ORG_A = "stigmem://org-a.example"
FACT = {
    "entity": f"{ORG_A}/project/atlas",
    "relation": "memory:status",
    "value": {"type": "string", "v": "active"},
    "source": f"{ORG_A}/agent/assistant",
}


def serve_in_vain(folder: Path, **settings: str) -> str:
    """`stigmem serve` that is to end by itself; returns the one line that it says."""
    done = run_stigmem("serve", folder=folder, timeout_s=20, **settings)
    assert done.returncode == 1, f"it ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, f"more or less than one line:\n{done.stderr}"
    return lines[0]


def test_the_version_is_one_line(tmp_path):
    done = run_stigmem("--version", folder=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (0, "stigmem-node 1.1.0\n", "")


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1", "81 00"])
def test_a_port_that_is_none_stops_the_start(tmp_path, port):
    assert "STIGMEM_PORT" in serve_in_vain(tmp_path, PORT=port)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("HOST", "203.0.113.9"),
        ("DATA_DIR", "not-a-folder"),
        ("ENTITY_URI", "https://org-a.example"),
        ("TRUST_MODE", "paranoid"),
        ("AT_REST_ENCRYPTION", "on"),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start_and_is_named(tmp_path, setting, value):
    (tmp_path / "not-a-folder").touch()

    said = serve_in_vain(tmp_path, **{"PORT": str(free_port()), "ADMIN_KEY": ADMIN_KEY, setting: value})

    assert said.startswith(f"stigmem: STIGMEM_{setting}: ")


def test_a_settings_file_that_cannot_be_read_stops_the_start(tmp_path):
    (tmp_path / "stigmem.toml").write_text("port = eighty\n")

    assert "stigmem.toml" in serve_in_vain(tmp_path, ADMIN_KEY=ADMIN_KEY)


def test_a_busy_port_stops_the_start(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])

        assert port in serve_in_vain(tmp_path, PORT=port, ADMIN_KEY=ADMIN_KEY)


def test_an_admin_key_made_by_a_start_that_finds_its_port_busy_is_shown_and_works_later(make_node):
    node = make_node()
    del node.settings["ADMIN_KEY"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = node.settings | {"PORT": str(listener.getsockname()[1])}
        done = run_stigmem("serve", folder=node.folder, timeout_s=20, **settings)
    assert done.returncode == 1

    node.start()

    assert [works_as_admin(node, word) for word in words_of(done.stdout)] == [True]


def test_a_second_process_on_the_same_folder_stops_and_leaves_the_first_alone(make_node, tmp_path):
    node = make_node("node").start()

    said = serve_in_vain(tmp_path, DATA_DIR=str(node.data_dir), PORT=str(free_port()), ADMIN_KEY=ADMIN_KEY)

    assert str(node.data_dir) in said
    node.post("/v1/facts", FACT | {"source": "agent:assistant"}).expect(201)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"-----BEGIN PRIVATE KEY-----\nnot base64\n-----END PRIVATE KEY-----\n"],
    ids=["missing", "empty", "garbled"],
)
def test_a_key_file_that_cannot_be_read_stops_the_start(tmp_path, content):
    if content is not None:
        (tmp_path / "signing.key").write_bytes(content)

    assert "signing.key" in serve_in_vain(tmp_path, NODE_PRIVATE_KEY_FILE="signing.key", ADMIN_KEY=ADMIN_KEY)


def test_a_key_file_that_others_may_read_stops_the_start(tmp_path):
    KeyPair.made_in(tmp_path).private.chmod(0o644)

    said = serve_in_vain(tmp_path, NODE_PRIVATE_KEY_FILE="signing.key", ADMIN_KEY=ADMIN_KEY)

    assert "STIGMEM_NODE_PRIVATE_KEY_FILE: signing.key is open to others than its owner (mode 0644): chmod 600" in said


def test_a_key_of_another_kind_stops_the_start(tmp_path):
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", tmp_path / "signing.key")

    assert "Ed25519" in serve_in_vain(tmp_path, NODE_PRIVATE_KEY_FILE="signing.key", ADMIN_KEY=ADMIN_KEY)


@pytest.fixture
def encrypted_key(tmp_path):
    arguments = [
        "-algorithm",
        "Ed25519",
        "-aes-256-cbc",
        "-pass",
        "pass:correct horse",
        "-out",
        tmp_path / "signing.key",
    ]
    openssl("genpkey", *arguments)
    return tmp_path / "signing.key"


def test_an_encrypted_key_starts_with_its_passphrase(make_node, encrypted_key):
    node = make_node(NODE_PRIVATE_KEY_FILE=str(encrypted_key), NODE_PRIVATE_KEY_PASSPHRASE="correct horse").start()

    node.stop()


@pytest.mark.parametrize("passphrase", [None, "wrong horse"], ids=["without", "with-a-wrong-one"])
def test_an_encrypted_key_stops_the_start_without_its_passphrase(encrypted_key, passphrase):
    settings = {} if passphrase is None else {"NODE_PRIVATE_KEY_PASSPHRASE": passphrase}

    said = serve_in_vain(encrypted_key.parent, NODE_PRIVATE_KEY_FILE="signing.key", ADMIN_KEY=ADMIN_KEY, **settings)

    assert "passphrase" in said.lower()
    assert "horse" not in said


@pytest.fixture
def stopped_node(make_node) -> RunningNode:
    """A node of org A that has run and was stopped."""
    node = make_node(NODE_PRIVATE_KEY_FILE="signing.key", ENTITY_URI=ORG_A)
    KeyPair.made_in(node.folder)
    node.start().stop()
    return node


def test_a_key_that_is_not_the_logs_stops_the_start_and_leaves_the_log_alone(stopped_node):
    right_key = (stopped_node.folder / "signing.key").read_bytes()
    head = stopped_node.verify_log()
    KeyPair.made_in(stopped_node.folder)

    said = serve_in_vain(stopped_node.folder, **stopped_node.settings)

    assert "key_mismatch" in said
    assert stopped_node.verify_log() == head
    (stopped_node.folder / "signing.key").write_bytes(right_key)
    stopped_node.start().stop()


def test_another_entity_uri_than_the_logs_stops_the_start(stopped_node):
    said = serve_in_vain(stopped_node.folder, **stopped_node.settings | {"ENTITY_URI": "stigmem://org-b.example"})

    assert ORG_A in said
    assert "stigmem://org-b.example" in said


def test_an_unknown_setting_is_warned_of_with_the_nearest_known_name(make_node):
    node = make_node(TRUST_MOD="strict").start()

    told = [line for line in node.said().splitlines() if re.search(r"STIGMEM_TRUST_MOD\b", line)]

    assert len(told) == 1
    assert "STIGMEM_TRUST_MODE" in told[0]


def works_as_admin(node: RunningNode, bearer: str) -> bool:
    return node.get("/v1/admin/config", bearer=bearer).status == 200


def words_of(text: str) -> list[str]:
    """Every word that is long enough for a key."""
    return sorted(set(re.findall(r"[A-Za-z0-9_-]{20,}", text)))


def shown_admin_keys(node: RunningNode) -> list[str]:
    """Every word on the terminal that the node takes as its admin key."""
    return [word for word in words_of(node.said()) if works_as_admin(node, word)]


def test_an_admin_key_is_made_and_shown_at_the_first_start_and_at_no_other(make_node):
    node = make_node()
    del node.settings["ADMIN_KEY"]
    node.start()
    (key,) = shown_admin_keys(node)

    node.restart()

    assert key not in node.said()
    assert shown_admin_keys(node) == []
    assert works_as_admin(node, key)


def test_a_made_admin_key_is_in_no_file_of_the_data_folder(make_node):
    node = make_node()
    del node.settings["ADMIN_KEY"]
    node.start()
    (key,) = shown_admin_keys(node)
    node.stop()

    files = [path for path in node.data_dir.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if key.encode() in path.read_bytes()] == []


def test_sigterm_ends_a_node_that_holds_idle_connections(make_node):
    node = make_node().start()
    idle = [node.client() for _ in range(5)]
    for client in idle:
        client.send("GET", "/healthz").expect(200)

    node.stop()


def test_sigterm_ends_a_node_in_the_middle_of_a_request(make_node):
    node = make_node().start()
    with socket.create_connection(("127.0.0.1", node.port)) as connection:
        head = f"POST /v1/facts HTTP/1.1\r\nHost: localhost:{node.port}\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
        connection.sendall(head.encode() + b'Content-Type: application/json\r\nContent-Length: 400\r\n\r\n{"entity": ')

        node.stop()


def is_listening(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_sigterm_stops_accepting_and_answers_the_request_under_way(make_node):
    node = make_node(ENTITY_URI=ORG_A).start()
    idle = node.client()
    idle.send("GET", "/healthz").expect(200)
    body = json.dumps(FACT).encode()
    head = (
        f"POST /v1/facts HTTP/1.1\r\nHost: localhost:{node.port}\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", node.port), timeout=REQUEST_DEADLINE_S) as connection:
        connection.sendall(head.encode() + body[:20])
        # Answered behind it, so the first bytes have arrived and the request is under way.
        idle.send("GET", "/healthz").expect(200)
        node.process.terminate()
        eventually(lambda: not is_listening(node.port), within_s=5, what="the node accepts no more connections")
        connection.sendall(body[20:])
        answer = connection.makefile("rb").read()

    assert node.process.wait(STOP_DEADLINE_S) == 0, node.said()
    assert answer.startswith(b"HTTP/1.1 201 ")
    fact_id = json.loads(answer.partition(b"\r\n\r\n")[2])["id"]
    node.start()
    assert [fact["id"] for fact in node.facts()] == [fact_id]


def test_the_log_holds_every_answered_write_after_sigterm(make_node):
    node = make_node(ENTITY_URI=ORG_A).start()
    written = [node.post("/v1/facts", FACT | {"relation": f"memory:status-{n}"}).expect(201)["id"] for n in range(5)]

    node.restart()

    assert sorted(fact["id"] for fact in node.facts()) == sorted(written)
    node.stop()
    assert re.fullmatch(r"head \d+:\S+", node.verify_log())
