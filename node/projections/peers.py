"""Peers: where they are, what is exchanged with them, which key is theirs, and how far each exchange has come (PROTOCOL §5).

Always: a verified peer's key is pinned; only its own rotations move the pin, and only the removal of the peer takes it away.
Always: the cursor into a peer's log is stored by the event that brought the facts before it.
Always: what became of a peer is kept under the place where it did, so a reader can ask for any point of the log.
Always: the checkpoint that a peer's log is measured against only moves on, unless an admin takes another line (PROTOCOL §10.3).

Does not fetch or verify anything (see `node/commands/peers.py`, `node/sync.py`).
"""

from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from msgspec import Struct, structs

from node.canonical import b64url_decode
from node.events.entry import Entry
from node.events.event import ERASED, Event
from node.events.facts import Scope
from node.events.identity import SettingsChanged, TrustSettings, TrustSettingsChanged
from node.events.peers import (
    BatchReceived,
    CheckpointCosigned,
    PageServed,
    PeerChanged,
    PeerCheckpointAccepted,
    PeerCheckpointSeen,
    PeerKeyForked,
    PeerLogForked,
    PeerPinned,
    PeerRegistered,
    PeerStatus,
    PeerStatusSet,
    PeerTermsApproved,
    PeerTermsProposed,
    PeerVerified,
    PushReceived,
    Receipt,
)
from node.events.rotations import KeyChain, chain_of, rotations_in
from node.events.tombstones import EntityErased
from node.projections.base import Handles, Projection, TableSpec, place_key, text_key
from node.projections.fact_rows import FactRow
from node.projections.manifest_dates import dates_of
from node.projections.trust_lists import settings_of
from node.times import format_ms


class Terms(Struct, frozen=True, array_like=True):
    """What a repeated declaration asks for, until an admin approves it."""

    node_url: str
    allowed_scopes: tuple[Scope, ...]
    declared_key: str


class Fork(Struct, frozen=True, array_like=True):
    """Two signed notes of one log that cannot both be true of it."""

    held: str
    shown: str


class Cosigned(Struct, frozen=True, array_like=True):
    """The last checkpoint of this log that a peer cosigned, by its size, with the peer's signature line."""

    size: int
    line: str
    at: str


class Peer(Struct, frozen=True, array_like=True):
    """A peer as it stands. `terms_from` is the offset since which its facts are
    judged as they are now. Times are RFC 3339; `public_key` (base64url) and `manifest` are None until it was verified.

    `manifest_expires_ms` is 0 where there is none; `cursor` is our place in its log, None for the beginning.
    Counts are of facts, but for `pages_served`; `refused` counts those of pulled pages, what was pushed is in the audit.
    `asked_scope` and `asked_cursor` are those of the last page it asked for; `tls_pins` fingerprints of the certificates that
    count for it (hex), empty where its CA and names do.
    `keys` are all that are known of it, oldest first: `public_key` is the last one, the pin.
    `checkpoint` is the note its proof rested on, `seen_checkpoint` the last one that went on from it.
    """

    peer_id: str
    node_id: str
    node_url: str
    allowed_scopes: tuple[Scope, ...]
    delegated_sources: tuple[str, ...]
    status: PeerStatus
    reason: str
    detail: str
    registered_at: str
    verified_at: str | None
    declared_key: str | None
    declared_at: str | None
    public_key: str | None
    manifest: bytes | None
    manifest_expires_ms: int
    is_manifest_proven: bool
    checkpoint: str | None
    warnings: tuple[str, ...]
    cursor: str | None
    terms_from: int
    accepted: int
    held: int
    refused: int
    pages_served: int
    last_received_at: str | None
    last_served_at: str | None
    seen_checkpoint: str | None
    seen_at_ms: int
    fork: Fork | None
    proposed: Terms | None
    cosigned: Cosigned | None
    asked_scope: str | None
    asked_cursor: str | None
    tls_pins: tuple[str, ...]
    keys: KeyChain


class PastPeer(Struct, frozen=True, array_like=True):
    """What an event made of a peer, as operators are shown it; without what every page moves on: cursors and counts."""

    peer_id: str
    node_id: str
    node_url: str
    allowed_scopes: tuple[Scope, ...]
    delegated_sources: tuple[str, ...]
    status: PeerStatus
    reason: str
    detail: str
    registered_at: str
    verified_at: str | None
    warnings: tuple[str, ...]
    seen_checkpoint: str | None
    fork: Fork | None
    proposed: Terms | None
    cosigned: Cosigned | None
    tls_pins: tuple[str, ...]


_ASKS_FOR_OTHER = "its declaration asks for other scopes or another URL"
_FORKED = "it signed two logs that cannot both be its own"
_KEY_FORKED = "one key of it named two successors"
_BY_NODE_ID = TableSpec("peers/by_node_id", Peer, hashed=((0, 16),))
_BY_PEER_ID = TableSpec("peers/by_peer_id", str, hashed=((0, 16),))
_PAST = TableSpec("peers/past", PastPeer, hashed=((0, 16),))
_JUDGED_BY = TableSpec("peers/judged_by", TrustSettings)
# Pages move a peer's cursors and counts on, and settings its cursor: none of that is in its past.
_TOLD_OF = (
    PeerRegistered,
    PeerVerified,
    PeerStatusSet,
    PeerChanged,
    PeerTermsProposed,
    PeerTermsApproved,
    PeerCheckpointSeen,
    PeerLogForked,
    PeerKeyForked,
    PeerCheckpointAccepted,
    CheckpointCosigned,
    PeerPinned,
)


class Peers(Projection):
    name: ClassVar[str] = "peers"
    version: ClassVar[int] = 7
    events: ClassVar[tuple[type[Event], ...]] = (
        *_TOLD_OF,
        PageServed,
        BatchReceived,
        PushReceived,
        SettingsChanged,
        TrustSettingsChanged,
        EntityErased,
    )
    tables: ClassVar[tuple[TableSpec, ...]] = (_BY_NODE_ID, _BY_PEER_ID, _PAST, _JUDGED_BY)

    def __init__(self, txn: object, handles: Handles, erased: Callable[[], tuple[FactRow, ...]]) -> None:
        super().__init__(txn, handles)
        self._erased = erased

    def of_node(self, node_id: str) -> Peer | None:
        return self.table(_BY_NODE_ID).get(text_key(node_id))

    def by_id(self, peer_id: str) -> Peer | None:
        node_id = self.table(_BY_PEER_ID).get(text_key(peer_id))
        return None if node_id is None else self.of_node(node_id)

    def all(self) -> list[Peer]:
        """Every peer ever registered, oldest first."""
        return sorted((peer for _, peer in self.table(_BY_NODE_ID).scan()), key=lambda p: (p.registered_at, p.node_id))

    def all_at(self, size: int) -> list[PastPeer]:
        """Every peer that the first `size` entries of the log register, as they left it, oldest first."""
        found = [self._at(key, size) for key, _ in self.table(_BY_NODE_ID).scan()]
        return sorted((peer for peer in found if peer is not None), key=lambda p: (p.registered_at, p.node_id))

    def cosigned(self) -> tuple[int, list[str]]:
        """The largest size of this log that a peer we exchange with has cosigned, and all lines for that size; 0 for none."""
        found = [peer.cosigned for peer in self.all() if peer.cosigned is not None and peer.status == "active"]
        size = max((cosigned.size for cosigned in found), default=0)
        return size, [cosigned.line for cosigned in found if cosigned.size == size]

    def fold(self, entry: Entry) -> None:
        if isinstance(entry.event, EntityErased):
            self._take_back(self._erased())
        else:
            self._fold(entry)
        if isinstance(entry.event, _TOLD_OF):
            self._keep(entry)

    def _fold(self, entry: Entry) -> None:
        match entry.event:
            case PeerRegistered() as registered:
                self._register(entry, registered)
            case PeerVerified() as verified:
                self._verify(entry, verified)
            case PeerStatusSet(node_id=node_id, status=status, reason=reason, detail=detail):
                self._change(node_id, status=status, reason=reason, detail=detail)
            case PeerChanged() | PeerPinned():
                self._set(entry)
            case PeerTermsProposed() as proposed:
                self._propose(proposed)
            case PeerTermsApproved(node_id=node_id):
                self._approve(entry, node_id)
            case (
                PeerCheckpointSeen()
                | PeerLogForked()
                | PeerKeyForked()
                | PeerCheckpointAccepted()
                | CheckpointCosigned()
            ):
                self._witness(entry)
            case PageServed() as served:
                self._count_served(entry, served)
            case BatchReceived(node_id=node_id, cursor=cursor, outcome=outcome, receipts=receipts):
                self._count_received(entry, node_id, receipts, refused=len(outcome.refused), cursor=cursor)
            case PushReceived(node_id=node_id, receipts=receipts) if receipts:
                # A push of which nothing is taken leaves no trace but in the audit: else a thief of tokens moves our tables.
                self._count_received(entry, node_id, receipts, refused=0)
            case SettingsChanged() | TrustSettingsChanged() as changed:
                self._judge_again(entry, settings_of(changed))
            case _:
                pass  # no other event is about a peer

    def _register(self, entry: Entry, registered: PeerRegistered) -> None:
        old = self.of_node(registered.node_id)
        keeps_pin = old is not None and old.status != "revoked"
        keeps_terms = keeps_pin and old.allowed_scopes == registered.allowed_scopes
        peer = Peer(
            peer_id=registered.peer_id,
            node_id=registered.node_id,
            node_url=registered.node_url,
            allowed_scopes=registered.allowed_scopes,
            delegated_sources=old.delegated_sources if keeps_pin else (),
            status="pending_verification",
            reason="",
            detail="",
            registered_at=format_ms(entry.at_ms),
            verified_at=None,
            declared_key=registered.declared_key,
            declared_at=registered.declared_at,
            public_key=old.public_key if keeps_pin else None,
            manifest=old.manifest if keeps_pin else None,
            manifest_expires_ms=old.manifest_expires_ms if keeps_pin else 0,
            is_manifest_proven=keeps_pin and old.is_manifest_proven,
            checkpoint=old.checkpoint if keeps_pin else None,
            warnings=(),
            cursor=old.cursor if keeps_terms else None,
            terms_from=old.terms_from if keeps_terms else entry.offset,
            accepted=old.accepted if old else 0,
            held=old.held if old else 0,
            refused=old.refused if old else 0,
            pages_served=old.pages_served if old else 0,
            last_received_at=old.last_received_at if old else None,
            last_served_at=old.last_served_at if old else None,
            seen_checkpoint=old.seen_checkpoint if keeps_pin else None,
            seen_at_ms=old.seen_at_ms if keeps_pin else 0,
            fork=None,
            proposed=None,
            cosigned=old.cosigned if keeps_pin else None,
            asked_scope=old.asked_scope if old else None,
            asked_cursor=old.asked_cursor if old else None,
            tls_pins=old.tls_pins if keeps_pin else (),
            keys=old.keys if keeps_pin else (),
        )
        self.table(_BY_NODE_ID).put(text_key(peer.node_id), peer)
        self.table(_BY_PEER_ID).put(text_key(peer.peer_id), peer.node_id)

    def _set(self, entry: Entry) -> None:
        match entry.event:
            case PeerChanged(node_id=node_id, allowed_scopes=scopes, delegated_sources=delegated):
                # What was refused under the old terms may pass under the new ones: read its log from the start again.
                self._change(
                    node_id, allowed_scopes=scopes, delegated_sources=delegated, cursor=None, terms_from=entry.offset
                )
            case PeerPinned(node_id=node_id, tls_pins=tls_pins):
                self._change(node_id, tls_pins=tls_pins)

    def _propose(self, proposed: PeerTermsProposed) -> None:
        # What was agreed before stays agreed; nothing is exchanged until the new terms are (PROTOCOL §5.1).
        peer = self.of_node(proposed.node_id)
        is_new = peer is not None and (peer.node_url, peer.allowed_scopes) == (
            proposed.node_url,
            proposed.allowed_scopes,
        )
        self._change(
            proposed.node_id,
            status="pending_verification",
            reason="awaiting_approval",
            detail="its declaration waits for an admin" if is_new else _ASKS_FOR_OTHER,
            declared_at=proposed.declared_at,
            proposed=Terms(
                node_url=proposed.node_url,
                allowed_scopes=proposed.allowed_scopes,
                declared_key=proposed.declared_key,
            ),
        )

    def _approve(self, entry: Entry, node_id: str) -> None:
        peer = self.of_node(node_id)
        if peer is None or peer.proposed is None:
            return
        terms = peer.proposed
        keeps_terms = terms.allowed_scopes == peer.allowed_scopes
        self._change(
            node_id,
            status="pending_verification",
            reason="",
            detail="",
            node_url=terms.node_url,
            allowed_scopes=terms.allowed_scopes,
            declared_key=terms.declared_key,
            cursor=peer.cursor if keeps_terms else None,
            terms_from=peer.terms_from if keeps_terms else entry.offset,
            proposed=None,
        )

    def _witness(self, entry: Entry) -> None:
        match entry.event:
            case PeerCheckpointSeen(node_id=node_id, checkpoint=note):
                self._change(node_id, seen_checkpoint=note, seen_at_ms=entry.at_ms)
            case PeerLogForked(node_id=node_id, held=held, shown=shown):
                fork = Fork(held=held, shown=shown)
                self._change(node_id, status="revoked", reason="log_forked", detail=_FORKED, fork=fork)
            case PeerKeyForked(node_id=node_id):
                self._change(node_id, status="revoked", reason="key_forked", detail=_KEY_FORKED)
            case PeerCheckpointAccepted(node_id=node_id, checkpoint=note):
                self._take_line(entry, node_id, note)
            case CheckpointCosigned(node_id=node_id, size=size, cosignature=line):
                self._change(node_id, cosigned=Cosigned(size=size, line=line, at=format_ms(entry.at_ms)))

    def _take_line(self, entry: Entry, node_id: str, note: str) -> None:
        self._change(
            node_id,
            status="pending_verification",
            reason="",
            detail="",
            fork=None,
            seen_checkpoint=note,
            seen_at_ms=entry.at_ms,
            cursor=None,
            terms_from=entry.offset,
        )

    def _verify(self, entry: Entry, verified: PeerVerified) -> None:
        peer = self.of_node(verified.node_id)
        if peer is not None and peer.seen_checkpoint is None and verified.checkpoint is not None:
            self._change(verified.node_id, seen_checkpoint=verified.checkpoint, seen_at_ms=entry.at_ms)
        self._change(
            verified.node_id,
            status="active",
            reason="",
            detail="",
            verified_at=format_ms(entry.at_ms),
            public_key=verified.public_key,
            keys=self._chain(verified),
            manifest=verified.manifest or None,
            manifest_expires_ms=dates_of(verified.manifest)[1] if verified.manifest else 0,
            is_manifest_proven=verified.is_manifest_proven,
            checkpoint=verified.checkpoint,
            warnings=verified.warnings,
        )

    def _chain(self, verified: PeerVerified) -> KeyChain:
        peer = self.of_node(verified.node_id)
        held = () if peer is None else peer.keys
        rotations = rotations_in(verified.manifest) if verified.manifest else []
        return chain_of(verified.node_id, b64url_decode(verified.public_key), rotations, held)

    def _count_served(self, entry: Entry, served: PageServed) -> None:
        peer = self.of_node(served.node_id)
        if peer is not None:
            self._change(
                served.node_id,
                pages_served=peer.pages_served + 1,
                last_served_at=format_ms(entry.at_ms),
                asked_scope=served.scope,
                asked_cursor=served.cursor,
            )

    def _count_received(
        self, entry: Entry, node_id: str, receipts: tuple[Receipt, ...], *, refused: int, **cursor: str
    ) -> None:
        peer = self.of_node(node_id)
        if peer is None:
            return
        told = [receipt for receipt in receipts if receipt is not ERASED]
        held = sum(receipt.quarantine_garden_id is not None for receipt in told)
        self._change(
            node_id,
            accepted=peer.accepted + len(told) - held,
            held=peer.held + held,
            refused=peer.refused + refused,
            last_received_at=format_ms(entry.at_ms),
            **cursor,
        )

    def _take_back(self, erased: tuple[FactRow, ...]) -> None:
        """Count erased facts no more among what peers brought."""
        brought = Counter((row.fact.received_from, row.quarantine_garden_id is not None) for row in erased)
        for (node_id, is_held), count in brought.items():
            peer = None if node_id is None else self.of_node(node_id)
            if peer is None:
                continue
            if is_held:
                self._change(node_id, held=peer.held - count)
            else:
                self._change(node_id, accepted=peer.accepted - count)

    def _judge_again(self, entry: Entry, settings: TrustSettings) -> None:
        old = self.table(_JUDGED_BY).get(b"settings")
        self.table(_JUDGED_BY).put(b"settings", settings)
        if old is None or _rules_of(old) != _rules_of(settings):
            for peer in self.all():
                self._change(peer.node_id, cursor=None, terms_from=entry.offset)

    def _keep(self, entry: Entry) -> None:
        """Write down what the entry made of its peer."""
        key = text_key(entry.event.node_id)
        peer = self.table(_BY_NODE_ID).get(key)
        if peer is not None:
            past = PastPeer(*(getattr(peer, name) for name in PastPeer.__struct_fields__))
            self.table(_PAST).put(key + place_key((entry.offset, 0)), past)

    def _at(self, key: bytes, size: int) -> PastPeer | None:
        found = next(self.table(_PAST).scan_back(key, before=key + place_key((size, 0))), None)
        return None if found is None else found[1]

    def _change(self, node_id: str, **changes: object) -> None:
        peer = self.of_node(node_id)
        if peer is not None:
            self.table(_BY_NODE_ID).put(text_key(node_id), structs.replace(peer, **changes))


def _rules_of(settings: TrustSettings) -> tuple[object, ...]:
    return (
        settings.trust_mode,
        settings.quarantine_trust_threshold,
        settings.trust_weights,
        settings.blocked_sources,
        settings.trust_rules,
    )
