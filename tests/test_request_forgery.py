"""A peer, its DNS or its documents try to make the node ask somebody else, or take more than it should (PROTOCOL §5.1).

Always: a canary stands where the node must not go, and counts who connects.
"""

import asyncio
import gzip
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from node.errors import PeerAnswerInvalid, PeerUnreachable, PeerUrlForbidden
from node.peer_client import PeerClient
from node.sync import PAGE_BYTES
from tests.certificates import Somebody
from tests.conftest import Serve
from tests.interop_peer import ReferencePeer, declare, join
from tests.served import Served

MIB = 1 << 20
SOMEBODY = Somebody("stigmem://org-b.example")


class Dns(AbstractResolver):
    """A name server of the attacker's: it answers every name with the addresses it has now."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self.addresses
        ]

    async def close(self) -> None:
        """Holds nothing."""


class Canary:
    """A listener on loopback that counts connections and answers each as `answer` says."""

    def __init__(self, answer: "Misbehave | None" = None) -> None:
        self.connections, self.sent_bytes, self._answer = 0, 0, answer

    async def start(self) -> "Canary":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://localhost:{self.port}"
        return self

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def send(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        writer.write(part)
        self.sent_bytes += len(part)
        await writer.drain()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self._answer is not None:
                await self._answer(self, writer)
        except (OSError, asyncio.IncompleteReadError):
            return  # the node has had enough, and closed
        finally:
            writer.close()


Misbehave = Callable[[Canary, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def canary(answer: Misbehave | None = None) -> AsyncIterator[Canary]:
    running = await Canary(answer).start()
    try:
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def client(dns: Dns | None = None, **allowed: bool) -> AsyncIterator[PeerClient]:
    given = {"allow_loopback": False, "allow_private": False, "allow_insecure_http": True} | allowed
    peers = PeerClient(**given, resolver=dns)
    await peers.start()
    try:
        yield peers
    finally:
        await peers.close()


# What a name leads to is seen when the connection is made

NEVER = [
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "fe80::1",
    "fec0::1",
    "224.0.0.1",
    "ff02::1",
    "0.0.0.0",
    "::",
    "255.255.255.255",
]


@pytest.mark.parametrize("address", NEVER)
async def test_no_setting_lets_a_name_lead_to_a_special_address(address):
    async with client(Dns(address), allow_loopback=True, allow_private=True) as peers:
        for ask in (
            peers.get_json("http://node.example/x", peer=SOMEBODY),
            peers.post_json("https://node.example/x", b"{}", peer=SOMEBODY),
        ):
            with pytest.raises(PeerUrlForbidden):
                await ask


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1"]
)
async def test_a_name_that_leads_to_a_private_address_is_refused_until_those_are_allowed(address):
    async with client(Dns(address), allow_loopback=True) as peers:
        with pytest.raises(PeerUrlForbidden):
            await peers.get_json("http://node.example/x", peer=SOMEBODY)


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("93.184.216.34", "127.0.0.1"), ("::ffff:127.0.0.1",)])
async def test_a_name_that_also_leads_to_this_machine_connects_to_nothing(addresses):
    async with canary() as here, client(Dns(*addresses), allow_private=True) as peers:
        with pytest.raises(PeerUrlForbidden):
            await peers.get_json(f"http://node.example:{here.port}/x", peer=SOMEBODY)

    assert here.connections == 0


async def test_a_loopback_name_that_leads_elsewhere_is_refused():
    async with client(Dns("93.184.216.34"), allow_loopback=True, allow_insecure_http=False) as peers:
        with pytest.raises(PeerUrlForbidden):
            await peers.get_json("http://localhost/x", peer=SOMEBODY)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
MOVED = b"HTTP/1.1 307 Moved\r\nLocation: /there\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def test_a_name_that_leads_elsewhere_the_second_time_is_refused_then():
    dns = Dns("127.0.0.1")

    async def answer(here: Canary, writer: asyncio.StreamWriter) -> None:
        await here.send(writer, OK)

    async with canary(answer) as here, client(dns, allow_loopback=True, allow_private=True) as peers:
        assert await peers.get_json(f"http://node.example:{here.port}/x", peer=SOMEBODY) == b"{}"
        dns.addresses = ("169.254.169.254",)
        with pytest.raises(PeerUrlForbidden):
            await peers.get_json(f"http://node.example:{here.port}/x", peer=SOMEBODY)

    assert here.connections == 1


async def test_a_name_that_leads_elsewhere_after_a_redirect_is_refused_then():
    dns = Dns("127.0.0.1")

    async def answer(here: Canary, writer: asyncio.StreamWriter) -> None:
        dns.addresses = ("169.254.169.254",)
        await here.send(writer, MOVED)

    async with canary(answer) as here, client(dns, allow_loopback=True, allow_private=True) as peers:
        with pytest.raises(PeerUrlForbidden):
            await peers.get_json(f"http://node.example:{here.port}/x", peer=SOMEBODY)

    assert here.connections == 1


# Answers without end

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def endless_interim(here: Canary, writer: asyncio.StreamWriter) -> None:
    while True:
        await here.send(writer, b"HTTP/1.1 102 Processing\r\n\r\n" * 10)
        await asyncio.sleep(0.01)


async def slow_head(here: Canary, writer: asyncio.StreamWriter) -> None:
    for byte in HEAD * 1000:
        await here.send(writer, bytes([byte]))
        await asyncio.sleep(0.01)


async def silence(here: Canary, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def endless_headers(here: Canary, writer: asyncio.StreamWriter) -> None:
    await here.send(writer, HEAD)
    while here.sent_bytes < 64 * MIB:
        await here.send(writer, b"X-Filler: " + b"x" * 1000 + b"\r\n")


async def endless_chunks(here: Canary, writer: asyncio.StreamWriter) -> None:
    await here.send(writer, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while here.sent_bytes < 64 * MIB:
        await here.send(writer, b"4000\r\n" + b" " * 0x4000 + b"\r\n")


async def endless_chunk_size(here: Canary, writer: asyncio.StreamWriter) -> None:
    await here.send(writer, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;")
    # Nothing of this is an answer's byte, so only time bounds it; nothing of it is kept either.
    while True:
        await here.send(writer, b"x" * 0x4000)


def bomb(encoding: bytes) -> Misbehave:
    async def answer(here: Canary, writer: asyncio.StreamWriter) -> None:
        packed = gzip.compress(b" " * (32 * MIB))
        length = b"Content-Length: %d\r\n" % len(packed)
        await here.send(writer, HEAD + encoding + length + b"\r\n" + packed)

    return answer


@pytest.mark.parametrize(
    "answer", [endless_interim, slow_head, silence, endless_chunk_size], ids=lambda answer: answer.__name__
)
async def test_an_answer_that_does_not_come_ends_at_the_time_limit(answer):
    async with canary(answer) as here, client(allow_loopback=True) as peers:
        async with asyncio.timeout(5):
            with pytest.raises(PeerUnreachable, match=r"within 0\.3 s"):
                await peers.get_json(f"{here.url}/x", timeout_s=0.3, peer=SOMEBODY)


@pytest.mark.parametrize("answer", [endless_headers, endless_chunks], ids=lambda answer: answer.__name__)
async def test_an_answer_without_end_costs_bounded_bytes(answer):
    async with canary(answer) as here, client(allow_loopback=True) as peers:
        with pytest.raises((PeerAnswerInvalid, PeerUnreachable)):
            await peers.get_json(f"{here.url}/x", peer=SOMEBODY)

    # What the limit lets through and what fits into the buffers between.
    assert here.sent_bytes < 16 * MIB


@pytest.mark.parametrize(
    "encoding",
    [b"Content-Encoding: gzip\r\n", b"Content-Encoding: GZIP, gzip\r\n", b"Content-Encoding: br\r\n"],
    ids=["gzip", "twice", "brotli"],
)
async def test_a_compressed_answer_is_never_inflated(encoding):
    async with canary(bomb(encoding)) as here, client(allow_loopback=True) as peers:
        with pytest.raises(PeerAnswerInvalid, match="compressed"):
            await peers.get_json(f"{here.url}/x", max_bytes=64 * MIB, peer=SOMEBODY)


async def test_compressed_bytes_that_are_not_said_to_be_so_are_taken_as_they_are():
    async with canary(bomb(b"")) as here, client(allow_loopback=True) as peers:
        assert len(await peers.get_json(f"{here.url}/x", peer=SOMEBODY)) < MIB


# Through the node


@pytest.fixture
async def relaxed(serve: Serve) -> Served:
    return await serve(trust_mode="relaxed")


SPELLINGS = [
    "http://169.254.169.254/latest",
    "http://2852039166",
    "http://0xa9.0xfe.0xa9.0xfe",
    "http://0251.0376.0251.0376",
    "http://[::ffff:169.254.169.254]",
    "http://[fe80::1%25eth0]",
    "https://10.0.0.1",
    "https://012.0.0.1",
    "https://[fd00::1]",
    "http://node.example",
    "http://localhost@node.example",
    "http://localhost:8080?x=1",
    "file:///etc/passwd",
    "gopher://localhost:70",
]


@pytest.mark.parametrize("url", SPELLINGS)
async def test_a_peer_at_a_forbidden_url_is_refused_and_leaves_nothing(relaxed, url):
    size = relaxed.size

    answer = await relaxed.post("/v1/federation/peers", {"peer_url": url, "peer_entity_uri": "stigmem://org-x.example"})

    answer.refused(422, "peer_url_forbidden")
    assert relaxed.size == size


ELSEWHERE = [
    "http://localhost:{canary}/manifest",
    "http://127.0.0.1:{own}/manifest",
    "https://localhost:{own}/manifest",
    "http://localhost:{own}@localhost:{canary}/manifest",
    "//localhost:{canary}/manifest",
    "http://169.254.169.254/latest/meta-data",
    "file:///etc/passwd",
    "http://localhost:{own}\\@localhost:{canary}/",
]


@pytest.mark.parametrize("url", ELSEWHERE)
async def test_documents_named_at_another_origin_are_not_fetched(relaxed, reference, url):
    reference.published_manifest = reference.manifest()
    async with canary() as here:
        named = url.format(canary=here.port, own=reference.url.rpartition(":")[2])
        reference.discovery = {
            "federation_trust": {"manifest_url": named, "manifest_proof_url": named},
            "federation_endpoints": {"facts": named, "peers": named, "push": named},
        }
        answer = await declare(relaxed, reference, "public")
        assert here.connections == 0

    # Its own well-known place was asked instead.
    assert (answer["status"], answer["warnings"]) == ("active", ["manifest proof: none is published"])


async def test_a_peer_whose_documents_redirect_elsewhere_stays_unverified(relaxed):
    async with canary() as there:

        async def redirect(here: Canary, writer: asyncio.StreamWriter) -> None:
            location = f"Location: {there.url}/.well-known/stigmem\r\n".encode()
            await here.send(writer, b"HTTP/1.1 307 Moved\r\nContent-Length: 0\r\n" + location + b"\r\n")

        async with canary(redirect) as here:
            form = {"peer_url": here.url, "peer_entity_uri": "stigmem://org-x.example"}
            answer = (await relaxed.post("/v1/federation/peers", form)).expect(201)

    assert (here.connections, there.connections) == (1, 0)
    assert (answer["status"], answer["reason"]) == ("pending_verification", "unreachable")
    assert "redirect" in answer["detail"]


def padded(bytes_: int) -> dict[str, object]:
    return {"facts": [], "cursor": "c", "has_more": False, "padding": "x" * bytes_}


BAD_PAGES = {
    "too_large": padded(PAGE_BYTES),
    "too_many": {"facts": [{}] * 501, "cursor": "c", "has_more": False},
    "long_cursor": {"facts": [], "cursor": "c" * 1025, "has_more": False},
    "cursor_no_text": {"facts": [], "cursor": 5, "has_more": False},
    "no_page": {"detail": "hello"},
    "deep": {"facts": [], "cursor": "c", "has_more": False, "x": json.loads("[" * 40 + "]" * 40)},
}


@pytest.mark.parametrize("page", BAD_PAGES.values(), ids=BAD_PAGES)
async def test_a_page_that_is_none_is_refused_whole(relaxed, reference: ReferencePeer, page):
    await join(relaxed, reference)
    reference.pull_answer = (200, page, {})
    with relaxed.node.view() as view:
        peer_id = view.peers.of_node(reference.node_id).peer_id
    size = relaxed.size

    answer = await relaxed.post(f"/v1/federation/peers/{peer_id}/pull", {})

    answer.refused(503, "peer_answer_invalid")
    assert relaxed.size == size
