"""A peer whose every answer may be spoilt on its way: documents, proofs, checkpoints and pages, over a real socket (PROTOCOL §16).

Always: a real node stands behind it, so that each answer is nearly sound. Whatever comes, the node's own callers get an answer that
says whose fault it was, nothing of a spoilt answer is stored but that it was one, and a sound answer is taken afterwards.
"""

import asyncio
import gzip
import json
import os
import random
from collections.abc import AsyncIterator

import pytest

from tests.conftest import Serve
from tests.organisations import Organisation
from tests.served import Served
from tests.spoilt import HOSTILE_VALUES, places, spoil_a_place, with_other_bytes

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
ROUNDS = 900 if LONG else 20
# What a caller may be told of a peer that answers so.
ITS_FAULT = {"peer_unreachable", "peer_answer_invalid", "peer_behind", "log_unproven", "peer_url_forbidden"}
# What means something in JSON.
ODD_BYTES = (b'"', b"}", b"[" * 100, b"\xff", b"\\ud800", b"NaN", b"\x00", b",")


class Spoiler:
    """Stands before a node at a port of its own; while `chance` is set, answers are spoilt by it."""

    chance: random.Random | None = None
    kind = "as it was"

    def __init__(self, port: int) -> None:
        self._port = port

    async def start(self) -> "Spoiler":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://localhost:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(sizes[0].partition(b":")[2])) if sizes else b""
            answer = await self._asked(head, body)
            writer.write(self._spoilt(answer) if self.chance else answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _asked(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + body)
            return await reader.read()
        finally:
            writer.close()

    def _spoilt(self, answer: bytes) -> bytes:
        head, _, body = answer.partition(b"\r\n\r\n")
        chance = self.chance
        self.kind = chance.choice(("member", "member", "member", "bytes", "bytes", "http"))
        if self.kind == "http":
            return self._odd_http(head, body, chance)
        body = _with_other_member(body, chance) if self.kind == "member" else with_other_bytes(body, chance, ODD_BYTES)
        return _with_body(head, body)

    def _odd_http(self, head: bytes, body: bytes, chance: random.Random) -> bytes:
        self.kind, answer = chance.choice(
            [
                ("packed", _with_body(head + b"\r\nContent-Encoding: gzip", gzip.compress(body + b" " * (1 << 20)))),
                ("packed unsaid", _with_body(head, gzip.compress(body))),
                (
                    "elsewhere",
                    b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n",
                ),
                ("to itself", b"HTTP/1.1 302 Found\r\nLocation: /v1/federation/facts\r\nContent-Length: 0\r\n\r\n"),
                ("a status that is none", head.replace(b" 200 ", b" 999 ") + b"\r\n\r\n" + body),
                ("an interim answer for ever", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
                ("no HTTP", chance.randbytes(1) * 2000),
                ("nothing", b""),
                ("cut off", (head + b"\r\n\r\n" + body)[: -1 - len(body) // 2]),
                ("a thousand fields", head + b"\r\n" + b"X: y\r\n" * 1000 + b"\r\n" + body),
                ("an endless field", head + b"\r\nX: " + b"y" * 100_000 + b"\r\n\r\n" + body),
                ("another type", head.replace(b"application/json", b"text/html") + b"\r\n\r\n" + body),
                ("two lengths", head + b"\r\nContent-Length: 3\r\n\r\n" + body),
                ("megabytes of brackets", _with_body(head, b'{"facts":[' + b"[]," * 400_000 + b"1]}")),
                ("more than may be", _with_body(head, b" " * (9 << 20))),
                ("busy", b"HTTP/1.1 429 Too Many\r\nRetry-After: 99999999999\r\nContent-Length: 0\r\n\r\n"),
            ]
        )
        return answer


def _with_body(head: bytes, body: bytes) -> bytes:
    fields = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
    return b"\r\n".join((*fields, b"Content-Length: %d" % len(body), b"", b"")) + body


def _with_other_member(body: bytes, chance: random.Random) -> bytes:
    """JSON in which one place is changed; what is no JSON loses bytes."""
    try:
        document = json.loads(body)
    except ValueError:
        return with_other_bytes(body, chance, ODD_BYTES)
    if not places(document):
        return json.dumps(chance.choice(HOSTILE_VALUES)).encode()
    spoil_a_place(document, chance)
    return json.dumps(document).encode()


@pytest.fixture
async def http(serve: Serve) -> Served:
    return await serve(trust_mode="relaxed")


@pytest.fixture
async def spoiler(http: Served, org_b: Organisation) -> AsyncIterator[Spoiler]:
    """Before org B, who is a peer of ours at its address."""
    spoiler = await Spoiler(org_b.home.port).start()
    await org_b.join(http, node_url=spoiler.url)
    await Organisation(http).join(org_b.home)
    yield spoiler
    await spoiler.stop()


async def test_whatever_a_peer_answers_the_node_goes_on_and_stores_nothing_that_is_not_its_word(
    http: Served, org_b: Organisation, spoiler: Spoiler
):
    path = f"/v1/federation/peers/{org_b.peer_at(http).peer_id}"
    theirs = {}
    for number in range(ROUNDS):
        written = await org_b.home.write(entity=f"{org_b.node_id}/item/{number}", source=org_b.node_id, scope="public")
        theirs[written["id"]] = written["cid"]
        spoiler.chance = random.Random(number)
        for what in ("check", "pull"):
            http.clock.advance(1000)
            answer = await http.post(f"{path}/{what}", {} if what == "pull" else None)
            told = (number, spoiler.kind, what, answer)
            assert answer.status < 500 or answer.json["error"] in ITS_FAULT, told
            answer.assert_well_formed()
        (await http.get("/readyz")).expect(200)
    spoiler.chance = None

    http.clock.advance(3_600_000)
    (await http.post(f"{path}/check", None)).expect(200)
    (await http.post(f"{path}/pull", {"from": "start"})).expect(200)

    facts = (await http.get("/v1/facts", limit=1000, include_contradicted=True)).expect(200)["facts"]
    assert {fact["id"]: fact["cid"] for fact in facts if fact["id"] in theirs} == theirs
