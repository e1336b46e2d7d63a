"""Asking a peer for its checkpoint, and for the proof that its log goes on from the one held of it (PROTOCOL §10.3).

Always: whatever a peer answers is data: bounded, parsed strictly, and worth only what its pinned key signed or its hashes lead to.
A fork takes signed evidence; a proof that is missing or leads nowhere is none, and leaves the log merely unproven.

Does not decide when a checkpoint is stored (see `node/commands/witness.py`), nor what an unproven log costs (see `node/sync.py`).
"""

from collections.abc import Awaitable
from contextlib import suppress
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta, Struct

from node.canonical import b64url_decode
from node.commands.peer_tokens import mint_token
from node.commands.witness import RecordFork, Witnessed
from node.errors import LogUnproven, MalformedJson, PeerAnswerInvalid, PeerBehind, PeerFailed, Refusal
from node.events.checkpoint import Checkpoint, bare_note, open_checkpoint, origin_in
from node.events.cosignature import cosign, witness_name
from node.events.signed_note import MAX_NOTE_BYTES
from node.events.tree import roots_from_consistency, roots_from_last_leaf
from node.peer_client import PeerClient, PeerRefused
from node.projections.peers import Peer
from node.runtime import Node
from node.strict_json import scan_json

# Room for all that a note may carry: the cosignatures of many witnesses; of those nothing is kept.
NOTE_BYTES = MAX_NOTE_BYTES
BARE_NOTE_BYTES = 1 << 12
PROOF_BYTES = 1 << 16
COSIGN_TIMEOUT_S = 5.0
_LOST = (
    "its log goes on from a snapshot, under another name, without all that it had: an admin may take its new line "
    "(approve, accept_checkpoint)"
)

_log = structlog.get_logger("stigmem.witness")

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class ShownProof(Struct, frozen=True, kw_only=True):
    """What is needed of a proof; the rest of it says nothing that its hashes do not. A tree of 2^63 leaves has paths of 63."""

    hashes: Annotated[tuple[Hash, ...], Meta(max_length=128)]
    leaf_hash: Hash | None = None


class _Pair(Struct, frozen=True):
    """The checkpoint held of a peer, and the larger or equal one that it shows now."""

    held: Checkpoint
    shown: Checkpoint
    held_note: str
    shown_note: str


async def witness_log(node: Node, client: PeerClient, peer: Peer) -> Witnessed | None:
    """The peer's checkpoint, proved to go on from the one held of it; None where it is that one.

    Raises PeerBehind, LogUnproven, PeerUnreachable, and LogForked once the fork's evidence is in the log.
    """
    note, shown = _opened(peer, await _asked_checkpoint(client, peer))
    if peer.seen_checkpoint is None:
        return Witnessed(after=None, note=note)
    held = _open_held(peer, peer.seen_checkpoint)
    if shown == held:
        return None
    is_renamed = shown.origin != held.origin
    if is_renamed and shown.size <= held.size:
        raise LogUnproven(_LOST)
    if shown.size < held.size:
        raise PeerBehind(f"its log has {shown.size} entries and had {held.size}: an older copy, or not yet caught up")
    pair = _Pair(held, shown, peer.seen_checkpoint, note)
    fork = _fork(peer, pair, ShownProof(hashes=())) if shown.size == held.size else await _measured(client, peer, pair)
    if fork is not None and is_renamed:
        # PROTOCOL §12: under another name it is another line, which contradicts nothing that was signed of the old one.
        raise LogUnproven(_LOST)
    if fork is not None:
        # What this records is what it refuses with.
        await node.execute(fork)
    return Witnessed(after=peer.seen_checkpoint, note=note)


async def shown_checkpoint(client: PeerClient, peer: Peer) -> str:
    """The peer's checkpoint now, as its pinned key signed it. Raises LogUnproven, PeerUnreachable."""
    return _opened(peer, await _asked_checkpoint(client, peer))[0]


async def send_cosignature(node: Node, client: PeerClient, peer: Peer, note: str) -> None:
    """Bring a peer our word for its checkpoint, which was proved and is stored. That it may not want it is no trouble of ours."""
    line = cosign(note, name=witness_name(node.node_id), signer=node.signer, time_s=node.clock.now_ms() // 1000)
    body = msgspec.json.encode({"checkpoint": note, "cosignature": line})
    token = mint_token(node.signer, node.clock, issuer=node.node_id, audience=peer.node_id, scopes=peer.allowed_scopes)
    try:
        await client.post_json(_url(peer, "cosignatures"), body, peer=peer, token=token, timeout_s=COSIGN_TIMEOUT_S)
    except (PeerRefused, Refusal) as refusal:
        _log.info("cosignature_not_taken", peer=peer.node_id, reason=str(refusal))


async def _measured(client: PeerClient, peer: Peer, pair: _Pair) -> RecordFork | None:
    """The evidence that the larger log does not go on from the smaller, or None where it does. Raises LogUnproven."""
    first, second = pair.held.size, pair.shown.size
    if first == 0:
        return None
    proof = await _proof(client, peer, "consistency", {"from": first, "to": second})
    roots = roots_from_consistency(first, second, _raw(proof.hashes), pair.held.root)
    if roots is None or roots[1] != pair.shown.root:
        # From a power of two a consistency proof names no first root, so one of a forked log leads nowhere: the way from
        # the smaller log's last leaf names both.
        proof = await _proof(client, peer, "inclusion", {"offset": first - 1, "size": second})
        leaf = bytes.fromhex(proof.leaf_hash or "")
        roots = roots_from_last_leaf(first, second, _raw(proof.hashes), leaf)
    else:
        proof = ShownProof(hashes=proof.hashes)
    if roots is None or roots[1] != pair.shown.root:
        raise LogUnproven("its proof does not lead to the root that it signed")
    return None if roots[0] == pair.held.root else _fork(peer, pair, proof)


def _fork(peer: Peer, pair: _Pair, proof: ShownProof) -> RecordFork:
    return RecordFork(
        node_id=peer.node_id,
        held=pair.held_note,
        shown=pair.shown_note,
        leaf_hash=proof.leaf_hash,
        hashes=proof.hashes,
    )


def _asked_checkpoint(client: PeerClient, peer: Peer) -> Awaitable[bytes]:
    return _asked(client.get_text(_url(peer, "checkpoint"), peer=peer, max_bytes=NOTE_BYTES))


def _opened(peer: Peer, raw: bytes) -> tuple[str, Checkpoint]:
    """The note as far as the peer itself signed it, and what it says. Raises LogUnproven."""
    try:
        text = raw.decode()
        note = bare_note(text, origin=origin_in(text, peer.node_id), public_key=_key(peer))
        if len(note.encode()) > BARE_NOTE_BYTES:
            raise ValueError("the note is too long")
        return note, _open(peer, note)
    except ValueError as error:
        raise LogUnproven(f"its checkpoint cannot be taken: {error}") from error


def _open(peer: Peer, note: str) -> Checkpoint:
    return open_checkpoint(note, origin=origin_in(note, peer.node_id), public_key=_key(peer))


def _open_held(peer: Peer, note: str) -> Checkpoint:
    """What was verified when it was stored, maybe under a key that the peer has rotated since."""
    origin = origin_in(note, peer.node_id)
    for key in reversed(peer.keys):
        with suppress(ValueError):
            return open_checkpoint(note, origin=origin, public_key=key.public_key)
    raise LogUnproven("the checkpoint held of it is signed by no key that is known of it")


async def _proof(client: PeerClient, peer: Peer, kind: str, asked: dict[str, int]) -> ShownProof:
    params = {name: str(value) for name, value in asked.items()}
    raw = await _asked(client.get_json(_url(peer, f"proof/{kind}"), peer=peer, params=params, max_bytes=PROOF_BYTES))
    try:
        scan_json(raw)
        return msgspec.json.decode(raw, type=ShownProof)
    except (MalformedJson, msgspec.MsgspecError) as error:
        raise LogUnproven(f"its {kind} proof cannot be read") from error


async def _asked(asking: Awaitable[bytes]) -> bytes:
    """What the peer answers. One that does not answer is unreachable; one that answers otherwise proves nothing."""
    try:
        return await asking
    except PeerRefused as refusal:
        raise LogUnproven(f"asked for its log's proof it answered {refusal.status} {refusal.code}") from refusal
    except (PeerAnswerInvalid, PeerFailed) as refusal:
        raise LogUnproven(f"its log's proof: {refusal.detail}") from refusal


def _raw(hashes: tuple[str, ...]) -> list[bytes]:
    return [bytes.fromhex(node) for node in hashes]


def _key(peer: Peer) -> bytes:
    return b64url_decode(peer.public_key or "")


def _url(peer: Peer, what: str) -> str:
    return f"{peer.node_url}/v1/log/{what}"
