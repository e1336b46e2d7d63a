"""Believing a manifest that a relay hands over, as far as it may be believed (PROTOCOL §5.5).

Always: it opens the seals of relayed facts and nothing else: no peer is made, no key is pinned.
Always: an organisation that is registered here but was never verified is a stranger: what others say of it is judged as of any.
"""

from msgspec import Struct

from node.canonical import b64url_decode, canonical_json
from node.commands.decision import Context, Decision
from node.commands.manifests import check_form, check_signature, followed, parse_foreign
from node.errors import KeyMismatch, ManifestConflict, ManifestEntityForeign, ManifestValidity, UnknownOrInactivePeer
from node.events.event import NODE_ITSELF
from node.events.peers import ManifestIntroduced
from node.events.rotations import KeyChain
from node.projections.introductions import Introduction
from node.projections.peers import Peer
from node.projections.view import View
from node.strict_json import scan_json
from node.times import parse_rfc3339
from node.uris import authority_of, is_normal

# A log never forgets: no peer fills it with organisations that nobody has heard of.
MAX_INTRODUCED = 256


class IntroduceManifest(Struct, frozen=True, kw_only=True):
    """`document` is the manifest of `entity_uri` as the peer `introducer` served it."""

    introducer: str
    entity_uri: str
    document: bytes


def decide_introduce_manifest(command: IntroduceManifest, view: View, context: Context) -> Decision:
    peer = view.peers.of_node(command.introducer)
    if peer is None or peer.status != "active":
        raise UnknownOrInactivePeer()
    if not may_introduce(command.entity_uri, view, context):
        return Decision()
    members = scan_json(command.document)
    manifest = parse_foreign(command.document)
    if manifest.entity_uri != command.entity_uri:
        raise ManifestEntityForeign("entity_uri: the relay answered with another organisation's manifest")
    check_form(manifest)
    check_signature(manifest)
    if parse_rfc3339(manifest.expires_at) <= context.at_ms:
        raise ManifestValidity("expires_at: the manifest has expired")
    held = view.introductions.by(command.entity_uri, command.introducer)
    try:
        followed(manifest, () if held is None else held.keys, context.at_ms)
    except KeyMismatch as mismatch:
        # Without a rotation chain another key is another organisation, whoever says so.
        raise ManifestConflict("the relay introduced that organisation with another key before") from mismatch
    if held is None and view.introductions.count_of(command.introducer, at_most=MAX_INTRODUCED) == MAX_INTRODUCED:
        raise ManifestConflict(f"the relay has introduced {MAX_INTRODUCED} organisations")
    if held is not None and held.expires_ms > context.at_ms and held.public_key == manifest.public_key:
        # It is known from it already: only another key, to which its chain leads, is news.
        return Decision()
    event = ManifestIntroduced(
        introducer=command.introducer,
        entity_uri=command.entity_uri,
        public_key=manifest.public_key,
        manifest=canonical_json(members),
    )
    return Decision(events=(event,), actor=NODE_ITSELF)


def may_introduce(entity_uri: str, view: View, context: Context) -> bool:
    """Whether somebody else's word on an organisation counts at all: it is a stranger."""
    is_other = is_organisation(entity_uri) and entity_uri != context.node_id
    return is_other and _is_stranger(view.peers.of_node(entity_uri))


def needs_introduction(entity_uri: str, introducer: str, view: View, context: Context) -> bool:
    """Whether the introducer's word on an organisation is still to be asked for: it is a stranger, and not known from it."""
    if not may_introduce(entity_uri, view, context):
        return False
    held = view.introductions.by(entity_uri, introducer)
    return held is None or held.expires_ms <= context.at_ms


def sealing_chain(origin: str, view: View, context: Context) -> KeyChain:
    """The keys that seals of `origin` may hold under: ours, a peer's pinned one, or the one all introducers name, with its chain.

    Empty where they are not known, or belong to a peer that is revoked or rejected. Raises ManifestConflict.
    """
    if origin == context.node_id:
        return view.identity.keys()
    peer = view.peers.of_node(origin)
    if not _is_stranger(peer):
        return () if _is_shut_out(peer) else peer.keys
    chains = [row.keys for row in _valid_introductions(origin, view, context)]
    newest = max(chains, default=(), key=lambda chain: (len(chain), chain[-1].public_key))
    # Who has not seen the last rotation yet names a key that it leads from.
    named = {chain[-1].public_key for chain in chains}
    if peer is not None and peer.declared_key is not None:
        named.add(b64url_decode(peer.declared_key))
    if newest and not named <= {key.public_key for key in newest}:
        raise ManifestConflict("origin: relays, or its own declaration, name different keys of it")
    return newest


def held_manifest(entity_uri: str, view: View, context: Context) -> bytes | None:
    """The manifest of another organisation as we would hand it over: a registered peer's, or the one that all relays agree on."""
    peer = view.peers.of_node(entity_uri)
    if not _is_stranger(peer):
        return None if _is_shut_out(peer) else peer.manifest
    try:
        chain = sealing_chain(entity_uri, view, context)
    except ManifestConflict:
        return None
    current = {key.public_key for key in chain[-1:]}
    held = view.introductions.of(entity_uri)
    return next((row.manifest for row in held if b64url_decode(row.public_key) in current), None)


def is_organisation(entity_uri: str) -> bool:
    """Whether it is an organisation's own URI, in normal form."""
    return is_normal(entity_uri) and authority_of(entity_uri) == entity_uri


def _is_shut_out(peer: Peer) -> bool:
    """Whether nothing is taken in its name, by whatever way: what is pending may yet be approved, what is refused may not."""
    return peer.status in ("revoked", "rejected")


def _is_stranger(peer: Peer | None) -> bool:
    """Whether its key is for others to name: it is no peer, or one that waits and whose key was never pinned."""
    return peer is None or (peer.public_key is None and not _is_shut_out(peer))


def _valid_introductions(origin: str, view: View, context: Context) -> list[Introduction]:
    return [row for row in view.introductions.of(origin) if row.expires_ms > context.at_ms]
