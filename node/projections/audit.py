"""The federation's audit: one compact row per refusal between nodes and per change of a peer (PROTOCOL §5.2, §5.5, §5.7).

Always: a row is in the table, and in each of the listings it can be asked for by, or in none; a key ends in the row's place,
so each lists in log order. What an event refused beyond its limits is counted by a row of its own (see `node/refusals.py`).

Does not hold what was taken: that is in the facts. Other events are read from the log itself (see `node/http/audit.py`).
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

from msgspec import Struct

from node.events.entry import Entry
from node.events.event import Event
from node.events.identity import RefusalsCounted
from node.events.peers import (
    AttestationSigned,
    BatchReceived,
    BatchRefusal,
    ExchangeRefused,
    PeerChanged,
    PeerPinned,
    PeerRegistered,
    PeerStatusSet,
    PeerTlsFailed,
    PeerVerified,
    PushReceived,
)
from node.projections.base import Place, Projection, TableSpec, place_key, place_of, text_key

# What a row's `event_type` may be: all that is folded below.
AuditedType = Literal[
    "peer_registered",
    "peer_verified",
    "peer_active",
    "peer_pending_verification",
    "peer_rejected",
    "peer_revoked",
    "peer_changed",
    "peer_pinned",
    "tls_refused",
    "attestation_signed",
    "replay_attempt",
    "rejected_token",
    "rejected_request",
    "scope_violation",
    "rejected_fact",
    "refusals_counted",
]


class AuditRow(Struct, frozen=True, array_like=True):
    """What happened, why in one code, with which peer and which of its facts. `at_ms` is epoch; `detail` words."""

    event_type: str
    reason: str
    node_id: str
    fact_id: str | None
    at_ms: int
    hlc: str
    detail: str


_ROWS = TableSpec("audit/rows", AuditRow)
_LISTED = TableSpec("audit/listed", bytes, hashed=((0, 16),))
_PEERS = TableSpec("audit/peers", bytes, hashed=((0, 16),))


class Audit(Projection):
    name: ClassVar[str] = "audit"
    version: ClassVar[int] = 2
    events: ClassVar[tuple[type[Event], ...]] = (
        PeerRegistered,
        PeerVerified,
        PeerStatusSet,
        PeerChanged,
        PeerPinned,
        PeerTlsFailed,
        AttestationSigned,
        ExchangeRefused,
        BatchReceived,
        PushReceived,
        RefusalsCounted,
    )
    tables: ClassVar[tuple[TableSpec, ...]] = (_ROWS, _LISTED, _PEERS)

    def listed(
        self, *, node_id: str | None, event_type: AuditedType | None, before: Place
    ) -> Iterator[tuple[Place, AuditRow]]:
        """Rows before a place, newest first, of one peer, one type, both or all."""
        if node_id is None and event_type is None:
            for key, row in self.table(_ROWS).scan_back(b"", before=place_key(before)):
                yield place_of(key), row
            return
        prefix = _listing_key(node_id, event_type)
        for key, _ in self.table(_LISTED).scan_back(prefix, before=prefix + place_key(before)):
            place = place_of(key)
            yield place, self._at(place)

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case PeerRegistered(node_id=node_id, node_url=url, allowed_scopes=scopes):
                self.table(_PEERS).put(text_key(node_id), b"")
                self._add(entry, "peer_registered", node_id, detail=f"{url}; scopes: {', '.join(scopes)}")
            case PeerVerified(node_id=node_id, is_manifest_proven=is_proven, warnings=warnings):
                reason = "" if is_proven else "proof_missing"
                self._add(entry, "peer_verified", node_id, reason, detail="; ".join(warnings))
            case PeerStatusSet(node_id=node_id, status=status, reason=reason, detail=detail):
                self._add(entry, f"peer_{status}", node_id, reason, detail=detail)
            case PeerChanged(node_id=node_id, allowed_scopes=scopes, delegated_sources=sources):
                detail = f"scopes: {', '.join(scopes)}; delegated: {', '.join(sources) or 'nothing'}"
                self._add(entry, "peer_changed", node_id, detail=detail)
            case PeerPinned() | PeerTlsFailed():
                self._add_tls(entry)
            case AttestationSigned(node_id=node_id, token_id=token_id, fact_hash=fact_hash):
                self._add(entry, "attestation_signed", node_id, detail=f"fact hash {fact_hash}, token {token_id}")
            case ExchangeRefused(node_id=node_id, event_type=event_type, reason=reason, detail=detail):
                self._add(entry, event_type, node_id, reason, detail=detail)
            case BatchReceived(node_id=node_id, outcome=outcome) | PushReceived(node_id=node_id, outcome=outcome):
                for index, refused in enumerate(outcome.refused):
                    self._add_refused(entry, index, node_id, refused)
            case RefusalsCounted(principal=node_id, code=code, count=count, minute=minute):
                if self.table(_PEERS).has(text_key(node_id)):
                    self._add(
                        entry, "refusals_counted", node_id, code, detail=f"{count} more in the minute of {minute}"
                    )
            case _:
                pass  # no other event is between nodes

    def _at(self, place: Place) -> AuditRow:
        row = self.table(_ROWS).get(place_key(place))
        if row is None:
            raise KeyError(place)
        return row

    def _add_tls(self, entry: Entry) -> None:
        match entry.event:
            case PeerPinned(node_id=node_id, tls_pins=pins):
                self._add(entry, "peer_pinned", node_id, detail=", ".join(pins) or "no certificate is pinned any more")
            case PeerTlsFailed(node_id=node_id, reason=reason, detail=detail):
                self._add(entry, "tls_refused", node_id, reason, detail=detail)

    def _add_refused(self, entry: Entry, index: int, node_id: str, refused: BatchRefusal) -> None:
        self._add(
            entry,
            refused.event_type,
            node_id,
            refused.reason,
            detail=f"source: {refused.source}",
            fact_id=refused.fact_id or None,
            index=index,
        )

    def _add(
        self,
        entry: Entry,
        event_type: str,
        node_id: str,
        reason: str = "",
        *,
        detail: str = "",
        fact_id: str | None = None,
        index: int = 0,
    ) -> None:
        here = place_key((entry.offset, index))
        row = AuditRow(event_type, reason, node_id, fact_id, entry.at_ms, entry.hlc, detail)
        self.table(_ROWS).put(here, row)
        for names in ((node_id, None), (None, event_type), (node_id, event_type)):
            self.table(_LISTED).put(_listing_key(*names) + here, b"")


def _listing_key(node_id: str | None, event_type: str | None) -> bytes:
    # Each name has its place among four, so that a peer that is named like a type lists nothing but its own.
    return text_key("peer" if node_id else "", node_id or "", "type" if event_type else "", event_type or "")
