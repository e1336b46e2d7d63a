"""A thousand clients that send slowly, read nothing or just stay, and a node that answers everybody else meanwhile.

Always: real sockets to `stigmem serve`, which is given the soft limit of open files that most systems give.
"""

import itertools
import json
import os
import resource
import socket
import statistics
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb
import pytest

from node.keys import load_signer
from tests.organisations import jwt
from tests.scenarios.nodes import ADMIN_KEY, RunningNode, eventually
from tests.scenarios.organisations import Organisation, federate, start_together

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
CLIENTS = 5000 if LONG else 1000
ROUNDS = 60 if LONG else 5
TEXTS, TEXT = 16, "x" * 60_000
# What they may cost at the most: answers and bodies of 128 MiB each, held twice at worst; the node itself; each connection.
MEMORY_BYTES = (560 << 20) + CLIENTS * (80 << 10)
WITHIN_S = 1.0
# Pushes that do not end in time are refused, ten of them a minute on record against the peer.
RECORDED = 30
SOFT_LIMIT = ("sh", "-c", 'ulimit -S -n 1024 && exec "$@"', "sh")


@pytest.fixture(autouse=True)
def _many_open_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def org_a(make_organisation) -> tuple[Organisation, str]:
    """An organisation with facts of megabytes, and a token of its peer's for pushes."""
    settings = {"TRUST_MODE": "relaxed", "FEDERATION_PULL_INTERVAL_S": "3600", "FEDERATION_PUSH_ENABLED": "true"}
    org_a, org_b = (make_organisation(name, **settings) for name in ("org-a", "org-b"))
    org_a.node = RunningNode(org_a.node.folder, launcher=SOFT_LIMIT, **org_a.node.settings)
    try:
        start_together(org_a, org_b)
        federate(org_a, org_b)
        org_b.node.stop()
        facts = [org_a.fact(f"item/{number}", "", scope="company") for number in range(TEXTS)]
        facts = [fact | {"value": {"type": "text", "v": TEXT}} for fact in facts]
        assert org_a.node.post("/v1/facts/batch", {"facts": facts}).expect(201)["accepted"] == TEXTS
        yield org_a, _peer_token(org_b, org_a)
        org_a.node.stop()
    finally:
        org_a.node.kill()


def _peer_token(org_b: Organisation, org_a: Organisation) -> str:
    now_ms = time.time_ns() // 1_000_000
    claims = {"iss": org_b.entity_uri, "sub": org_a.entity_uri, "iat": now_ms, "exp": now_ms + 600_000}
    return jwt(load_signer(str(org_b.key.private), None), claims | {"nonce": str(uuid.uuid4()), "scopes": ["public"]})


def _head(line: str, *, bearer: str = ADMIN_KEY, size: int = 0) -> bytes:
    fields = [f"{line} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {bearer}"]
    fields += ["Content-Type: application/json", f"Content-Length: {size}"] if size else []
    return "\r\n".join((*fields, "", "")).encode()


def _kinds(token: str) -> dict[str, bytes]:
    """How each kind of client begins. What comes after it comes byte by byte, or never."""
    return {
        "a header that trickles": b"GET /v1/facts HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        "a body that trickles": _head("POST /v1/facts", size=4000) + b'{"entity":"',
        "a push that trickles": _head("POST /v1/federation/facts/push", bearer=token, size=4 << 20) + b" " * 100_000,
        "a page that is not read": _head("GET /v1/facts?limit=1000"),
        "a connection that stays": _head("GET /v1/me"),
        "a connection that says nothing": b"",
    }


@contextmanager
def _clients(node: RunningNode, token: str) -> Iterator[list[socket.socket]]:
    """So many of each kind; those that trickle, which are to get a byte now and then."""
    with ExitStack() as stack:
        trickling = []
        for (kind, beginning), _ in zip(itertools.cycle(_kinds(token).items()), range(CLIENTS), strict=False):
            client = stack.enter_context(socket.socket())
            if kind == "a page that is not read":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", node.port))
            client.setblocking(False)
            client.send(beginning[: 1 << 16])
            if "trickles" in kind:
                trickling.append(client)
        yield trickling


def _timed(ask: Callable[[], object]) -> float:
    began = time.monotonic()
    ask()
    return time.monotonic() - began


def _memory_bytes(node: RunningNode) -> int:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) << 10


def _readers(folder: Path) -> int:
    """How many slots for readers are taken of an LMDB environment that another process has open."""
    with lmdb.open(str(folder), readonly=True, create=False) as environment:
        return len(environment.readers().splitlines()) - 1


def test_a_thousand_slow_clients_keep_nobody_waiting_and_hold_little(org_a: tuple[Organisation, str]):
    org_a, token = org_a
    node, size = org_a.node, org_a.node.log_size()
    asked = (
        lambda: node.get("/readyz", bearer=None).expect(200),
        lambda: node.get("/v1/facts?limit=1").expect(200),
        lambda: org_a.assert_fact(f"note/{uuid.uuid4()}", "written"),
    )
    took: dict[int, list[float]] = {number: [] for number in range(len(asked))}

    with _clients(node, token) as trickling:
        for _ in range(ROUNDS):
            for client in trickling:
                try:
                    client.send(b"x")
                except (BlockingIOError, ConnectionError):
                    continue
            for number, ask in enumerate(asked):
                took[number].append(_timed(ask))
        memory_bytes = _memory_bytes(node)
        grown = node.log_size() - size
        readers = [_readers(folder) for folder in (node.data_dir / "log", *(node.data_dir / "views").glob("[0-9]*"))]

    assert max(statistics.median(times) for times in took.values()) < WITHIN_S
    assert memory_bytes < MEMORY_BYTES
    assert max(readers) < 20
    assert ROUNDS <= grown <= ROUNDS + RECORDED
    assert len(node.facts()) == TEXTS + ROUNDS
    said = [json.loads(line) for line in node.errors.read_bytes().splitlines()]
    assert not [line for line in said if line["level"] == "error" or "exception" in line]
    eventually(
        lambda: len(os.listdir(f"/proc/{node.process.pid}/fd")), lambda count: count < 100, within_s=10, what="closed"
    )
