"""What a peer says of its tombstones: asked in each cycle, and recorded where the peer's own key signed it (PROTOCOL §15).

Always: that a peer tells of none, or cannot be understood, is no trouble of the exchange of facts: reference nodes answer 404
or 401 (INTEROP §4).
"""

import msgspec
import structlog
from msgspec import Struct

from node.commands.peer_tokens import mint_token
from node.commands.tombstones import TakePeersTombstones
from node.errors import PeerAnswerInvalid, Refusal
from node.events.tombstones import Revocation, Tombstone
from node.peer_client import PeerClient, PeerRefused
from node.projections.peers import Peer
from node.projections.view import View
from node.runtime import Node
from node.strict_json import scan_json

PAGE_BYTES = 1 << 20
_LIMIT, _MAX_PAGES, _MAX_TEXT = 200, 10, 4096

_log = structlog.get_logger("stigmem.sync")


class _Shown(Struct, frozen=True):
    """A tombstone as a peer shows it; what else it says is ignored (PROTOCOL §1)."""

    id: str
    entity_uri: str
    scope: str
    legal_hold: bool
    created_at: str
    signed_by: str
    key_id: str
    signature: str
    revocation: Revocation | None = None


class _Page(Struct, frozen=True):
    tombstones: list[msgspec.Raw]
    cursor: str | None = None
    has_more: bool = False


async def take_tombstones(node: Node, client: PeerClient, peer: Peer, cursor: str | None) -> str | None:
    """Read the peer's tombstones from behind a cursor on, and record what is new; returns the cursor to go on from."""
    try:
        for _ in range(_MAX_PAGES):
            page = await _asked(node, client, peer, cursor)
            await _take(node, peer, [shown for shown in map(_readable, page.tombstones) if shown is not None])
            is_stuck = page.cursor in (None, cursor)
            cursor = page.cursor or cursor
            if not page.has_more or is_stuck:
                break
    except (PeerRefused, Refusal) as refusal:
        _log.info("tombstones_not_read", peer=peer.node_id, reason=str(refusal))
    return cursor


async def _asked(node: Node, client: PeerClient, peer: Peer, cursor: str | None) -> _Page:
    token = mint_token(node.signer, node.clock, issuer=node.node_id, audience=peer.node_id, scopes=peer.allowed_scopes)
    params = {"limit": str(_LIMIT)} | ({"cursor": cursor} if cursor else {})
    raw = await client.get_json(
        f"{peer.node_url}/v1/federation/tombstones", peer=peer, token=token, params=params, max_bytes=PAGE_BYTES
    )
    scan_json(raw)
    try:
        page = msgspec.json.decode(raw, type=_Page)
    except msgspec.MsgspecError as error:
        raise PeerAnswerInvalid(f"tombstones: {error}") from error
    if len(page.tombstones) > _LIMIT or len(page.cursor or "") > _MAX_TEXT:
        raise PeerAnswerInvalid("tombstones: more than was asked for")
    return page


def _readable(raw: msgspec.Raw) -> tuple[Tombstone, Revocation | None] | None:
    try:
        shown = msgspec.json.decode(raw, type=_Shown)
        members = {name: getattr(shown, name) for name in Tombstone.__struct_fields__}
        tombstone = msgspec.convert(members, Tombstone)
    except msgspec.MsgspecError:
        return None  # another form than ours: nobody can be shown that it was signed
    texts = (value for value in members.values() if isinstance(value, str))
    return (tombstone, shown.revocation) if all(len(text) <= _MAX_TEXT for text in texts) else None


async def _take(node: Node, peer: Peer, shown: list[tuple[Tombstone, Revocation | None]]) -> None:
    def is_news(view: View) -> list[tuple[Tombstone, Revocation | None]]:
        held = ((one, revocation, view.tombstones.of_peer(peer.node_id, one.id)) for one, revocation in shown)
        return [
            (one, revocation)
            for one, revocation, known in held
            if known is None or (known.revocation is None and revocation is not None)
        ]

    news = await node.read(is_news)
    if not news:
        return
    command = TakePeersTombstones(node_id=peer.node_id, public_key=peer.public_key, shown=tuple(news))
    refused = (await node.execute(command)).reply
    if refused:
        _log.warning("tombstones_refused", peer=peer.node_id, count=refused)
