"""Looking at a peer's manifest again where something is signed by a key of it that is not known (PROTOCOL §11).

Always: one look at a time for each peer, however many wait for it, and what strangers sent makes us look once in a while only.

Does not judge what is found (see `node/commands/peers.py`).
"""

import asyncio
from contextlib import suppress

from msgspec import Struct

from node.errors import PeerAnswerInvalid
from node.peer_checks import check_peer
from node.peer_client import PeerClient
from node.projections.peers import Peer
from node.runtime import Node

# For a request that anybody may have sent: its signature does not hold under what is known.
REST_S = 5.0
LOOK_S = 10.0
MAX_WAITING = 32
# After these it is not known which key is the peer's: its word is neither taken nor refused until it is.
_UNCLEAR = ("unreachable", "key_mismatch", "manifest_rotation_chain_invalid")


class _Line(Struct):
    """The looks at one peer."""

    lock: asyncio.Lock
    waiting: int = 0
    rests_until: float = 0.0


class KeyFollower:
    """Follows the keys of active peers."""

    def __init__(self, node: Node, client: PeerClient) -> None:
        self._node, self._client = node, client
        self._lines: dict[str, _Line] = {}

    async def follow(self, node_id: str, known: str | None) -> Peer | None:
        """The peer, where another key than `known` is its by now; None where not, or where it was looked at a moment ago."""
        line = self._lines.setdefault(node_id, _Line(asyncio.Lock()))
        if line.waiting >= MAX_WAITING:
            return None
        line.waiting += 1
        try:
            async with line.lock:
                now = asyncio.get_running_loop().time()
                if self._peer(node_id).public_key == known and now >= line.rests_until:
                    line.rests_until = now + REST_S
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_S):
                            await check_peer(self._node, self._client, self._peer(node_id))
        finally:
            line.waiting -= 1
        return self._other(node_id, known)

    async def settle(self, node_id: str, known: str | None) -> Peer | None:
        """The same at once, for what the peer itself answered. Raises PeerAnswerInvalid where its key cannot be told."""
        if self._peer(node_id).public_key == known:
            found = await check_peer(self._node, self._client, self._peer(node_id))
            if found is not None and found.reason in _UNCLEAR:
                raise PeerAnswerInvalid(f"what it says is signed by a key that is not known of it: {found.detail}")
        return self._other(node_id, known)

    def _other(self, node_id: str, known: str | None) -> Peer | None:
        peer = self._peer(node_id)
        return peer if peer.status == "active" and peer.public_key != known else None

    def _peer(self, node_id: str) -> Peer:
        with self._node.view() as view:
            return view.peers.of_node(node_id)
