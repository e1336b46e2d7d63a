"""Registering peers, believing what their documents say, changing and removing them (PROTOCOL §5.1).

Always: a key once pinned stays, unless a chain of rotations leads on from it; only removing the peer makes room for another.
Always: what keeps a peer from being active is one reason code with words beside it.

Does not fetch anything (see `node/peer_checks.py`): it judges what was fetched.
"""

from msgspec import Struct

from node.canonical import b64url_decode, b64url_encode, canonical_json
from node.certificates import fingerprint_of
from node.commands.decision import Context, Decision, Principal, require_scopes, rules_in_force
from node.commands.gardens import require_operator
from node.commands.manifests import Manifest, check_form, check_signature, followed, parse_foreign
from node.errors import (
    DeclarationInvalid,
    FederationDisabled,
    InsufficientPermission,
    InvalidField,
    InvalidUri,
    KeyForked,
    LogForked,
    ManifestRotationChainInvalid,
    PeerIdTaken,
    PeerNotFound,
    Refusal,
    ScopeNotPermitted,
)
from node.events.checkpoint import bare_note, origin_in
from node.events.event import NODE_ITSELF, Event
from node.events.facts import Scope
from node.events.manifest_proof import LogEntry, check_log_entry
from node.events.peers import (
    PeerChanged,
    PeerKeyForked,
    PeerPinned,
    PeerRegistered,
    PeerStatus,
    PeerStatusSet,
    PeerTermsProposed,
    PeerTlsFailed,
    PeerVerified,
)
from node.events.rotations import first_key, read_rotation, rotated_in, rotations_in
from node.keys import is_sound_public_key, verify
from node.projections.peers import Peer
from node.projections.view import View
from node.times import parse_rfc3339
from node.uris import authority_of, check_plain, is_informal, normal_uri

DECLARATION_WINDOW_MS = 3_600_000
# One that is in use and the next.
MAX_TLS_PINS = 4
MAX_NODE_ID_BYTES = 512
MAX_DETAIL_CHARS = 500


class Declaration(Struct, frozen=True, kw_only=True):
    """A peer's signed statement of who and where it is; `signed` is the canonical JSON that `signature` is over."""

    public_key: str
    signed_at: str
    signature: str
    signed: bytes


class RegisterPeer(Struct, frozen=True, kw_only=True):
    """`node_url` was checked by the peer client already (PROTOCOL §5.1 'Peer URLs'). With an API key there is a declaration."""

    principal: Principal
    node_id: str
    node_url: str
    allowed_scopes: tuple[Scope, ...]
    declaration: Declaration | None
    tls_pins: tuple[str, ...] | None = None


class PeerDocuments(Struct, frozen=True, kw_only=True):
    """What a peer says of itself: discovery, and manifest and proof where it has them."""

    node_id: str
    public_key: str
    manifest: bytes | None
    log_entry: LogEntry | None


class RecordPeerCheck(Struct, frozen=True, kw_only=True):
    """The outcome of fetching a peer's documents: those, or why there are none."""

    peer_id: str
    documents: PeerDocuments | None
    failure: str
    is_tls_refused: bool = False


class RecordTlsRefusal(Struct, frozen=True, kw_only=True):
    """No TLS came about with the peer of this node_id."""

    node_id: str
    refusal: Refusal


class Finding(Struct, frozen=True, kw_only=True):
    """What a check of a peer's documents came to by itself; an active peer outlives a bad one (see `_is_known`)."""

    status: PeerStatus
    reason: str
    detail: str
    warnings: tuple[str, ...]


class ChangePeer(Struct, frozen=True, kw_only=True):
    principal: Principal
    peer_id: str
    allowed_scopes: tuple[Scope, ...] | None
    delegated_sources: tuple[str, ...] | None
    tls_pins: tuple[str, ...] | None = None


class RemovePeer(Struct, frozen=True, kw_only=True):
    principal: Principal
    peer_id: str


class _Unproven(Exception):
    """Something keeps the peer from being active."""

    def __init__(self, status: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail


def decide_register_peer(command: RegisterPeer, view: View, context: Context) -> Decision:
    require_registrar(command.principal)
    if not command.principal.is_operator and command.declaration is None:
        raise InsufficientPermission(
            "a key that may federate brings a signed declaration; an admin names a peer without one"
        )
    if not context.config.federation_enabled:
        raise FederationDisabled("STIGMEM_FEDERATION_ENABLED is off")
    _check_node_id(command.node_id, context)
    check_scopes(command.allowed_scopes, context)
    old = view.peers.of_node(command.node_id)
    if old is not None and old.fork is not None:
        # Registering anew forgets what a log is measured against: that would be a way around the approval.
        raise LogForked("its log forked; approve with accept_checkpoint first")
    if command.declaration is not None:
        _check_declaration(command.declaration, old, context.at_ms)
    peer_id = old.peer_id if old else context.clock.new_id()
    if command.principal.is_operator:
        require_scopes(command.principal, command.allowed_scopes, "allowed_scopes")
        pinned = _pinned(peer_id, command.node_id, old, command.tls_pins)
        events: tuple[Event, ...] = (_registered(command, old, peer_id), *pinned)
    else:
        events = _declared_by_key(command, old, peer_id)
    return Decision(events=events, actor=command.principal.actor(), reply=peer_id)


def decide_record_peer_check(command: RecordPeerCheck, view: View, context: Context) -> Decision:
    peer = find_peer(command.peer_id, view)
    if peer.status == "revoked" or peer.reason == "awaiting_approval":
        return Decision()
    try:
        event: Event = _verified(peer, command, view, context)
        found = Finding(status="active", reason="", detail="", warnings=event.warnings)
    except KeyForked as fork:
        event = _key_fork(peer, fork)
        found = Finding(status="revoked", reason=fork.code, detail=fork.detail, warnings=())
    except _Unproven as doubt:
        event = _status(peer, doubt)
        found = Finding(status=doubt.status, reason=doubt.reason, detail=doubt.detail, warnings=())
    # Retries are for ever, the log's growth is not: only news is an event.
    events = () if _is_known(peer, event) else (event,)
    return Decision(events=events, actor=NODE_ITSELF, reply=found)


def decide_change_peer(command: ChangePeer, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    peer = find_peer(command.peer_id, view)
    scopes = peer.allowed_scopes if command.allowed_scopes is None else command.allowed_scopes
    delegated = peer.delegated_sources if command.delegated_sources is None else command.delegated_sources
    check_scopes(scopes, context)
    require_scopes(command.principal, set(scopes) - set(peer.allowed_scopes), "allowed_scopes")
    _check_delegated(delegated)
    events: tuple[Event, ...] = _pinned(peer.peer_id, peer.node_id, peer, command.tls_pins)
    if (_sorted(scopes), delegated) != (peer.allowed_scopes, peer.delegated_sources):
        changed = PeerChanged(
            peer_id=peer.peer_id, node_id=peer.node_id, allowed_scopes=_sorted(scopes), delegated_sources=delegated
        )
        events = (changed, *events)
    return Decision(events=events, actor=command.principal.actor())


def decide_record_tls_refusal(command: RecordTlsRefusal, view: View, context: Context) -> Decision:
    """One that is not active has a status that says it (see `_verified`)."""
    peer, refusal = view.peers.of_node(command.node_id), command.refusal
    if peer is None or peer.status != "active":
        return Decision()
    if not context.refusals.admit(peer.node_id, refusal.code, context.at_ms):
        return Decision()
    event = PeerTlsFailed(
        peer_id=peer.peer_id, node_id=peer.node_id, reason=refusal.code, detail=refusal.detail[:MAX_DETAIL_CHARS]
    )
    return Decision(events=(event,), actor=NODE_ITSELF)


def decide_remove_peer(command: RemovePeer, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    peer = find_peer(command.peer_id, view)
    if peer.status == "revoked":
        return Decision()
    event = PeerStatusSet(
        peer_id=peer.peer_id, node_id=peer.node_id, status="revoked", reason="removed", detail="removed by an admin"
    )
    return Decision(events=(event,), actor=command.principal.actor())


def require_registrar(principal: Principal) -> None:
    """Raises InsufficientPermission unless it is an admin, or a key that may bring declarations."""
    if not principal.is_operator and (principal.key is None or "federate" not in principal.key.permissions):
        raise InsufficientPermission("an admin may do this, or an API key with the permission federate")


def find_peer(peer_id: str, view: View) -> Peer:
    """Raises PeerNotFound."""
    peer = view.peers.by_id(peer_id)
    if peer is None:
        raise PeerNotFound("there is no such peer")
    return peer


def check_scopes(scopes: tuple[Scope, ...], context: Context) -> None:
    """Raises InvalidField or ScopeNotPermitted for scopes that this node exchanges with nobody."""
    if not scopes or len(set(scopes)) != len(scopes):
        raise InvalidField("allowed_scopes: at least one, each once")
    if "local" in scopes:
        raise ScopeNotPermitted("allowed_scopes: local facts never leave the node")
    if "team" in scopes and not context.config.federation_allow_team:
        raise ScopeNotPermitted("allowed_scopes: team needs STIGMEM_FEDERATION_ALLOW_TEAM")


def _declared_by_key(command: RegisterPeer, old: Peer | None, peer_id: str) -> tuple[Event, ...]:
    """What a declaration comes to that no admin stands behind: who is new waits, who is known may have less at once."""
    if old is None or old.status == "revoked":
        return _registered(command, None, peer_id), _proposed(command, peer_id)
    held = old.public_key or old.declared_key
    if held is None or b64url_decode(held) != b64url_decode(command.declaration.public_key):
        # Anybody can sign a declaration with a key of his own: it may not so much as stop the exchange with whom we know.
        raise DeclarationInvalid("federation_pubkey: not the key that is held of this peer")
    # Whoever waits goes on waiting: it may never have been approved.
    return (_proposed(command, peer_id) if old.reason == "awaiting_approval" else _registered(command, old, peer_id),)


def _pinned(peer_id: str, node_id: str, old: Peer | None, tls_pins: tuple[str, ...] | None) -> tuple[PeerPinned, ...]:
    """The event that sets other pins than those that stand; of a peer that was revoked none do. None: left as they are."""
    if tls_pins is None:
        return ()
    if len(tls_pins) > MAX_TLS_PINS:
        raise InvalidField(f"tls_pins: at most {MAX_TLS_PINS}")
    try:
        pins = tuple(dict.fromkeys(map(fingerprint_of, tls_pins)))
    except ValueError as error:
        raise InvalidField(f"tls_pins: {error}") from error
    held = () if old is None or old.status == "revoked" else old.tls_pins
    return () if pins == held else (PeerPinned(peer_id=peer_id, node_id=node_id, tls_pins=pins),)


def _registered(command: RegisterPeer, old: Peer | None, peer_id: str) -> PeerRegistered | PeerTermsProposed:
    declaration = command.declaration
    if declaration is not None and _asks_for_more(command, old):
        return _proposed(command, peer_id)
    return PeerRegistered(
        peer_id=peer_id,
        node_id=command.node_id,
        node_url=command.node_url,
        allowed_scopes=_sorted(command.allowed_scopes),
        declared_key=declaration.public_key if declaration else None,
        declared_at=declaration.signed_at if declaration else None,
    )


def _proposed(command: RegisterPeer, peer_id: str) -> PeerTermsProposed:
    return PeerTermsProposed(
        peer_id=peer_id,
        node_id=command.node_id,
        node_url=command.node_url,
        allowed_scopes=_sorted(command.allowed_scopes),
        declared_key=command.declaration.public_key,
        declared_at=command.declaration.signed_at,
    )


def _asks_for_more(command: RegisterPeer, old: Peer | None) -> bool:
    if old is None or old.status == "revoked":
        return False
    return command.node_url != old.node_url or not set(command.allowed_scopes) <= set(old.allowed_scopes)


def _verified(peer: Peer, command: RecordPeerCheck, view: View, context: Context) -> PeerVerified:
    documents = command.documents
    if documents is None:
        reason = "tls_refused" if command.is_tls_refused else "unreachable"
        raise _Unproven("pending_verification", reason, command.failure)
    if documents.node_id != peer.node_id:
        raise _Unproven("rejected", "entity_mismatch", "its discovery document speaks for another entity")
    key = _sound_key(documents.public_key)
    if documents.manifest is None:
        _require_pinned(peer, key)
        _require_told_again(peer, b"{}")
    is_strict = rules_in_force(view, context.config).mode == "strict"
    manifest, doubts = _manifest(documents, key, peer, context.at_ms)
    checkpoint = None
    if manifest is not None:
        try:
            checkpoint = _proven(documents, manifest, key)
        except ValueError as error:
            doubts = (*doubts, f"manifest proof: {error}")
    if doubts and is_strict:
        raise _Unproven("pending_verification", "proof_missing", doubts[0])
    return PeerVerified(
        peer_id=peer.peer_id,
        node_id=peer.node_id,
        public_key=b64url_encode(key),
        is_manifest_proven=checkpoint is not None,
        checkpoint=checkpoint,
        warnings=doubts,
        manifest=manifest.canonical() if manifest else b"",
    )


def _require_pinned(peer: Peer, key: bytes) -> None:
    if any(pin is not None and b64url_decode(pin) != key for pin in (peer.public_key, peer.declared_key)):
        raise _Unproven("rejected", "key_mismatch", "its key is not the one that was pinned or declared")


def _follow(manifest: Manifest, peer: Peer, now_ms: int) -> None:
    """Raises unless the pin, and what a declaration names, lead to the manifest's key (PROTOCOL §11)."""
    followed(manifest, peer.keys, now_ms)
    if peer.declared_key is not None:
        followed(manifest, first_key(b64url_decode(peer.declared_key)), now_ms)
    _require_told_again(peer, manifest.canonical())


def _require_told_again(peer: Peer, shown: bytes) -> None:
    """Raises where a rotation that the last manifest told is left out (PROTOCOL §4.2): against it a second successor is seen."""
    if not rotated_in(peer.manifest or b"{}") <= rotated_in(shown):
        detail = "it leaves out rotations that it told before"
        raise _Unproven("rejected", ManifestRotationChainInvalid.code, detail)


def _manifest(documents: PeerDocuments, key: bytes, peer: Peer, now_ms: int) -> tuple[Manifest | None, tuple[str, ...]]:
    if documents.manifest is None:
        return None, ("it publishes no manifest; the key of its discovery document is pinned",)
    try:
        manifest = parse_foreign(documents.manifest)
        check_form(manifest)
        check_signature(manifest)
        _require_speaks_for(manifest, documents, key)
        _follow(manifest, peer, now_ms)
    except KeyForked:
        raise
    except Refusal as refusal:
        reason = "signature_invalid" if refusal.code == "manifest_signature_invalid" else refusal.code
        raise _Unproven("rejected", reason, refusal.detail) from refusal
    if parse_rfc3339(manifest.expires_at) <= now_ms:
        raise _Unproven("pending_verification", "manifest_expired", "its manifest has expired")
    return manifest, ()


def _require_speaks_for(manifest: Manifest, documents: PeerDocuments, key: bytes) -> None:
    if manifest.entity_uri != documents.node_id:
        raise _Unproven("rejected", "entity_mismatch", "its manifest speaks for another entity")
    if manifest.raw_key() != key:
        raise _Unproven("rejected", "key_mismatch", "manifest and discovery document name different keys")


def _proven(documents: PeerDocuments, manifest: Manifest, key: bytes) -> str:
    if documents.log_entry is None:
        raise ValueError("none is published")
    check_log_entry(documents.log_entry, manifest=manifest.canonical(), node_id=documents.node_id, public_key=key)
    note = documents.log_entry.checkpoint
    return bare_note(note, origin=origin_in(note, documents.node_id), public_key=key)


def _sound_key(text: str) -> bytes:
    try:
        key = b64url_decode(text)
    except ValueError as error:
        raise _Unproven("rejected", "key_mismatch", "its discovery document names no key") from error
    if not is_sound_public_key(key):
        raise _Unproven("rejected", "weak_key", "its key is one under which anybody can sign")
    return key


def _key_fork(peer: Peer, fork: KeyForked) -> PeerKeyForked:
    shown = read_rotation(fork.rotation)
    held = next(r for r in rotations_in(peer.manifest or b"{}") if r.old_key_id == shown.old_key_id)
    return PeerKeyForked(peer_id=peer.peer_id, node_id=peer.node_id, held=held.document, shown=shown.document)


def _status(peer: Peer, doubt: _Unproven) -> PeerStatusSet:
    return PeerStatusSet(
        peer_id=peer.peer_id, node_id=peer.node_id, status=doubt.status, reason=doubt.reason, detail=doubt.detail
    )


def _is_known(peer: Peer, event: Event) -> bool:
    if isinstance(event, PeerKeyForked):
        return False
    if isinstance(event, PeerStatusSet):
        # An active peer's key is pinned and its manifest held: a document that is off for a moment takes nothing away.
        return peer.status == "active" or (peer.status, peer.reason) == (event.status, event.reason)
    return peer.status == "active" and (peer.manifest or b"") == event.manifest


def _check_node_id(node_id: str, context: Context) -> None:
    check_plain(node_id, "peer_entity_uri")
    if not node_id or len(node_id.encode()) > MAX_NODE_ID_BYTES:
        raise InvalidField("peer_entity_uri: empty or too long")
    if not is_informal(node_id) and (normal_uri(node_id) != node_id or authority_of(node_id) != node_id):
        raise InvalidUri("peer_entity_uri: a bare authority in normal form, such as stigmem://org-b.example")
    if node_id == context.node_id:
        raise PeerIdTaken("peer_entity_uri: that is this node itself")


def _check_delegated(prefixes: tuple[str, ...]) -> None:
    for prefix in prefixes:
        check_plain(prefix, "delegated_sources")
        if len(prefix) < 2 or prefix[-1] not in ":/" or prefix.lower().startswith(("stigmem:", "system:")):
            raise InvalidField("delegated_sources: informal prefixes that end in ':' or '/'")


def _check_declaration(declaration: Declaration, old: Peer | None, now_ms: int) -> None:
    try:
        key, signature = b64url_decode(declaration.public_key), b64url_decode(declaration.signature)
        signed_ms = parse_rfc3339(declaration.signed_at)
    except ValueError as error:
        raise DeclarationInvalid("the declaration cannot be read") from error
    if not is_sound_public_key(key) or not verify(key, declaration.signed, signature):
        raise DeclarationInvalid("declaration_sig: it does not hold")
    if abs(now_ms - signed_ms) > DECLARATION_WINDOW_MS:
        raise DeclarationInvalid("signed_at: more than an hour from now")
    if old is not None and old.declared_at is not None and signed_ms <= parse_rfc3339(old.declared_at):
        raise DeclarationInvalid("signed_at: not later than the last declaration's")


def declaration_of(members: dict[str, object]) -> Declaration:
    """A declaration from its JSON members; the signature is over all of them but itself."""
    signed = {name: value for name, value in members.items() if name != "declaration_sig"}
    return Declaration(
        public_key=str(members["federation_pubkey"]),
        signed_at=str(members["signed_at"]),
        signature=str(members["declaration_sig"]),
        signed=canonical_json(signed),
    )


def _sorted(scopes: tuple[Scope, ...]) -> tuple[Scope, ...]:
    order = ("public", "company", "team")
    return tuple(sorted(scopes, key=order.index))
