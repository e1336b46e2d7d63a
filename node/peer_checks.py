"""Fetching what a peer says of itself, and having it judged (PROTOCOL §5.1, §5.4).

Always: every document comes from the peer's registered origin; what it names elsewhere is not fetched.
A peer that cannot be reached is no error here but an outcome, recorded like any other.
"""

import msgspec
from msgspec import Struct

from node.commands.peers import Finding, PeerDocuments, RecordPeerCheck
from node.errors import MalformedJson, PeerAnswerInvalid, PeerTlsRefused, PeerUnreachable, PeerUrlForbidden
from node.events.manifest_proof import LogEntry
from node.peer_client import PeerClient, PeerRefused
from node.projections.peers import Peer
from node.runtime import Node
from node.strict_json import scan_json

_DISCOVERY = "/.well-known/stigmem"
_MANIFEST = "/.well-known/stigmem-manifest.json"
_PROOF = "/.well-known/stigmem-manifest-proof.json"
_NOT_THERE = (403, 404, 405, 501)


class Trust(Struct, frozen=True, kw_only=True):
    """Where a peer says its manifest and proof are."""

    manifest_url: str | None = None
    manifest_proof_url: str | None = None


class Endpoints(Struct, frozen=True, kw_only=True):
    push: str | None = None


class PushDiscovery(Struct, frozen=True, kw_only=True):
    """What is needed of a discovery document to push."""

    federation_endpoints: Endpoints | None = None


class Discovery(Struct, frozen=True, kw_only=True):
    """What is needed of a peer's discovery document; the rest of it is ignored."""

    node_id: str
    federation_pubkey: str
    federation_trust: Trust | None = None


async def check_peer(node: Node, client: PeerClient, peer: Peer) -> Finding | None:
    """Fetch a peer's documents and record what they are worth: afterwards it is active, or its reason says why not.

    Returns what was found; None where the peer was revoked, or came to wait for an admin, meanwhile.
    """
    documents, failure, is_tls_refused = None, "", False
    try:
        documents = await _fetch(client, peer)
    except PeerTlsRefused as refusal:
        failure, is_tls_refused = refusal.detail, True
    except (PeerUnreachable, PeerAnswerInvalid, PeerUrlForbidden) as refusal:
        failure = refusal.detail
    except PeerRefused as refusal:
        failure = f"it answered {refusal.status} {refusal.code}"
    command = RecordPeerCheck(
        peer_id=peer.peer_id, documents=documents, failure=failure[:500], is_tls_refused=is_tls_refused
    )
    return (await node.execute(command)).reply


async def fetch_push_url(client: PeerClient, peer: Peer) -> str | None:
    """Where a peer says that it takes pushes; None where it takes none, or names a place that is not its own.

    Raises PeerUnreachable, PeerAnswerInvalid, PeerUrlForbidden or PeerRefused.
    """
    base = peer.node_url
    discovery = _decoded(await client.get_json(base + _DISCOVERY, peer=peer), PushDiscovery)
    named = discovery.federation_endpoints.push if discovery.federation_endpoints else None
    if named is None:
        return None
    is_path = named.startswith("/") and not named.startswith("//")
    url = base + named if is_path else named
    return url if client.same_origin(url, base) else None


async def _fetch(client: PeerClient, peer: Peer) -> PeerDocuments:
    discovery = _decoded(await client.get_json(peer.node_url + _DISCOVERY, peer=peer), Discovery)
    trust = discovery.federation_trust or Trust()
    manifest = await _document(client, peer, trust.manifest_url, _MANIFEST)
    proof = None if manifest is None else await _document(client, peer, trust.manifest_proof_url, _PROOF)
    return PeerDocuments(
        node_id=discovery.node_id,
        public_key=discovery.federation_pubkey,
        manifest=manifest,
        log_entry=None if proof is None else _decoded(proof, LogEntry),
    )


async def _document(client: PeerClient, peer: Peer, named: str | None, path: str) -> bytes | None:
    """A document the peer may not have: None where it says so."""
    # A document named elsewhere would have us fetch whatever the peer likes.
    url = named if named is not None and client.same_origin(named, peer.node_url) else peer.node_url + path
    try:
        raw = await client.get_json(url, peer=peer)
    except PeerRefused as refusal:
        if refusal.status in _NOT_THERE:
            return None
        raise
    _strict(raw)
    return raw


def _decoded(raw: bytes, type: type) -> object:
    _strict(raw)
    try:
        return msgspec.json.decode(raw, type=type)
    except msgspec.MsgspecError as error:
        raise PeerAnswerInvalid(f"its {type.__name__.lower()} document cannot be read: {error}") from error


def _strict(raw: bytes) -> None:
    try:
        scan_json(raw)
    except MalformedJson as error:
        raise PeerAnswerInvalid(f"it answered no strict JSON: {error.detail}") from error
