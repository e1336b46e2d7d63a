"""What handlers find on the application and on a request."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from aiohttp import web
from msgspec import Struct

from node.commands.decision import Principal
from node.countersign import Countersigner
from node.key_following import KeyFollower
from node.peer_client import PeerClient
from node.runtime import Node


class PullNow(Protocol):
    """What handlers need of the pulling side, which they do not import."""

    async def pull_now(self, node_id: str, *, from_start: bool) -> Struct: ...

    def lags_ms(self) -> dict[str, int]: ...

    def push_url_of(self, node_id: str) -> str | None: ...

    def state_of(self, node_id: str) -> "ExchangeState": ...


class ExchangeState(Protocol):
    """How the exchange with a peer goes in this run of the node."""

    last_contact_at: str | None
    last_error: str
    reason: str
    next_try_ms: int | None
    has_more: bool | None
    caught_up_ms: int | None


class Document(Struct, frozen=True):
    """The API's document as it is sent; `etag` changes with it."""

    body: bytes
    etag: str


NODE: web.AppKey[Node] = web.AppKey("node", Node)
PEERS: web.AppKey[PeerClient] = web.AppKey("peers", PeerClient)
SYNC: web.AppKey[PullNow] = web.AppKey("sync", PullNow)
FOLLOWER: web.AppKey[KeyFollower] = web.AppKey("follower", KeyFollower)
COUNTERSIGNER: web.AppKey[Countersigner] = web.AppKey("countersigner", Countersigner)
# Held while a body of megabytes is scanned.
LARGE_BODIES: web.AppKey[asyncio.Lock] = web.AppKey("large_bodies", asyncio.Lock)
# Made when it is first asked for, once per process.
DOCUMENT: web.AppKey[Callable[[], Document]] = web.AppKey("document")

# Set once a request's credential was recognised, also where it is then refused: refusals are recorded under it.
PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
