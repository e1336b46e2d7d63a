"""The network of the simulation: messages in flight, which the schedule delivers, drops, holds back, repeats and reorders.

Always: nothing arrives by itself; a request waits here until the schedule says what becomes of it, and so does its answer.
Reading a checkpoint or a proof changes nothing anywhere, so that alone is answered at once; what is believed of a manifest
depends on when it comes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from node.errors import PeerUnreachable

PULL, PUSH, COSIGN = "/v1/federation/facts", "/v1/federation/facts/push", "/v1/log/cosignatures"
TOMBSTONES = "/v1/federation/tombstones"
# Asked for without a token, with the organisation as `entity_uri`.
MANIFEST = "/v1/federation/manifest"
# Answers what needs no message, or raises.
Lookup = Callable[[str, str, dict[str, str]], bytes]


@dataclass(eq=False)
class Request:
    """`reply` is None where nobody waits for the answer: a push that is not followed up, or a copy made by the network."""

    sender: str
    receiver: str
    path: str
    token: str
    params: dict[str, str]
    body: bytes
    reply: asyncio.Future | None = None
    task: asyncio.Task | None = None

    def __str__(self) -> str:
        return f"{self.path.rpartition('/')[2]} {self.sender}->{self.receiver}"


@dataclass(eq=False)
class Answer:
    """What a request came to, on its way back."""

    request: Request
    content: bytes | Exception

    def __str__(self) -> str:
        return f"answer to {self.request}"


class Transport:
    """`sent` is told of every request that leaves a node."""

    def __init__(self, lookup: Lookup, sent: Callable[[Request], None]) -> None:
        self.in_flight: list[Request | Answer] = []
        self.moved = asyncio.Event()
        self._lookup, self._sent = lookup, sent
        self._parked: set[asyncio.Task] = set()

    def is_parked(self, task: asyncio.Task) -> bool:
        """Whether a task waits for the network."""
        return task in self._parked

    def look_up(self, url: str, params: dict[str, str]) -> bytes:
        parts = urlsplit(url)
        return self._lookup(_name_of(parts.netloc), parts.path, params)

    def send(self, request: Request) -> None:
        self._sent(request)
        self.in_flight.append(request)

    async def ask(self, sender: str, url: str, *, token: str, params: dict[str, str], body: bytes) -> bytes:
        parts, task = urlsplit(url), asyncio.current_task()
        reply = asyncio.get_running_loop().create_future()
        request = Request(sender, _name_of(parts.netloc), parts.path, token, params, body, reply, task)
        self.send(request)
        self._parked.add(task)
        self.moved.set()
        try:
            return await reply
        finally:
            self._parked.discard(task)

    def answer(self, request: Request, content: bytes | Exception) -> None:
        """Give the sender its answer; one that has given up, or is gone, hears nothing."""
        if request.reply is None or request.reply.done():
            return
        self._parked.discard(request.task)
        if isinstance(content, Exception):
            request.reply.set_exception(content)
        else:
            request.reply.set_result(content)

    def give_up(self, request: Request) -> None:
        """The sender has waited long enough; what it sent is on its way all the same."""
        self.answer(request, PeerUnreachable("no answer in time"))


class LinkedClient:
    """What a node's `Sync` speaks to peers through: the calls of `PeerClient`, over the simulated network."""

    def __init__(self, name: str, transport: Transport) -> None:
        self._name, self._transport = name, transport

    async def get_json(self, url: str, *, token: str | None = None, params: dict | None = None, **_: object) -> bytes:
        if f"{MANIFEST}/" in url:
            url, _, entity_uri = url.partition(f"{MANIFEST}/")
            params = {"entity_uri": unquote(entity_uri)}
            return await self._transport.ask(self._name, url + MANIFEST, token="", params=params, body=b"")
        if token is None:
            return self._transport.look_up(url, params or {})
        return await self._transport.ask(self._name, url, token=token, params=params or {}, body=b"")

    async def get_text(self, url: str, **_: object) -> bytes:
        return self._transport.look_up(url, {})

    async def post_json(self, url: str, body: bytes, *, token: str, **_: object) -> bytes:
        return await self._transport.ask(self._name, url, token=token, params={}, body=body)


def node_id_of(name: str) -> str:
    return f"stigmem://org-{name}.example"


def _name_of(netloc: str) -> str:
    return netloc.removeprefix("org-").removesuffix(".example")
