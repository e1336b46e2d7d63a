"""What each source, and each organisation, had admitted and refused, by day; and whether moderators have let it in (PROTOCOL §7).

Always: a row keeps the days that the window can still see, by the time in the entry that touched it last.
A refusal counts against a source only where the fact verifiably came from it; else against the peer that brought it alone.

Does not score (see `node/commands/trust.py`).
"""

from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from msgspec import Struct

from node.events.conflicts import ConflictResolved
from node.events.entry import Entry
from node.events.event import ERASED, Event
from node.events.facts import FactAsserted
from node.events.gardens import FactPromoted, FactQuarantined, FactRejected
from node.events.identity import RefusalsCounted
from node.events.peers import BatchReceived, BatchRefusal, PushReceived, Receipt
from node.events.tombstones import EntityErased, places_in
from node.projections.base import DAY_MS, Handles, Place, Projection, TableSpec, text_key
from node.projections.fact_rows import FactRow
from node.uris import lies_under, normal_uri, origin_of

WINDOW_DAYS = 30
_OF_THE_ENTITY = "entity_tombstoned"


class Tally(Struct, frozen=True, array_like=True):
    """One day (since the epoch): how many facts were admitted, how many refused or rejected."""

    day: int
    admitted: int
    failed: int


class History(Struct, frozen=True, array_like=True):
    """Days, oldest first. `is_admitted` says, for an organisation, whether the moderators' last decision was to admit."""

    days: tuple[Tally, ...]
    is_admitted: bool

    def within(self, now_ms: int) -> tuple[int, int]:
        """(admitted, failed) in the 30 days up to `now_ms`."""
        first = now_ms // DAY_MS - WINDOW_DAYS + 1
        admitted = failed = 0
        for tally in self.days:
            if tally.day >= first:
                admitted, failed = admitted + tally.admitted, failed + tally.failed
        return admitted, failed


NO_HISTORY = History((), False)
# Refusals that only facts meet which a peer brings, and that are no policy of ours.
_OF_FACTS = frozenset(
    {"scope_violation", "invalid_fact", "seal_invalid", "hlc_skew", "invalid_hlc", "cid_mismatch", "id_collision"}
)

_HISTORY = TableSpec("sources/history", History, hashed=((0, 16),))
_HELD = TableSpec("sources/held", bytes, hashed=((0, 16),))


class Sources(Projection):
    name: ClassVar[str] = "sources"
    version: ClassVar[int] = 2
    events: ClassVar[tuple[type[Event], ...]] = (
        FactAsserted,
        ConflictResolved,
        FactQuarantined,
        BatchReceived,
        PushReceived,
        FactPromoted,
        FactRejected,
        RefusalsCounted,
        EntityErased,
    )
    tables: ClassVar[tuple[TableSpec, ...]] = (_HISTORY, _HELD)

    def __init__(self, txn: object, handles: Handles, erased: Callable[[], tuple[FactRow, ...]]) -> None:
        super().__init__(txn, handles)
        self._erased = erased
        # Rows this transaction has seen: one source's writes come in runs, and each asks for the same two.
        self._seen: dict[bytes, History] = {}

    def of_source(self, organisation: str, source: str) -> History:
        return self._history(_source_key(organisation, source))

    def of_organisation(self, organisation: str) -> History:
        return self._history(_organisation_key(organisation))

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case FactAsserted(fact=fact) | ConflictResolved(fact=fact):
                self.count_admitted(entry.at_ms, fact.source, fact.origin, 1)
            case FactQuarantined(fact=fact):
                self._remember(fact.id, fact.source, fact.origin)
            case (
                BatchReceived(receipts=receipts, outcome=outcome, node_id=node_id)
                | PushReceived(receipts=receipts, outcome=outcome, node_id=node_id)
            ):
                self._receive(entry, receipts)
                for refused in outcome.refused:
                    self._count_refused(entry, refused, node_id)
            case FactPromoted(fact_id=fact_id, origin=origin):
                self._moderate(entry, fact_id, origin, is_admitted=True)
            case FactRejected(fact_id=fact_id, origin=origin):
                self._moderate(entry, fact_id, origin, is_admitted=False)
            case RefusalsCounted(principal=principal, code=code, count=count) if code in _OF_FACTS:
                # What a peer brought too fast to be written down one by one failed all the same.
                self._add(entry.at_ms, _organisation_key(principal), 0, count)
            case EntityErased() as event:
                self._erase(entry, event)
            case _:
                pass  # no other event says anything about a source

    def count_admitted(self, at_ms: int, source: str, origin: str, count: int) -> None:
        """So many facts of a source were admitted at this time."""
        self._count(at_ms, source, origin, admitted=count)

    def _receive(self, entry: Entry, receipts: tuple[Receipt, ...]) -> None:
        # Counted first: a page holds hundreds of facts of a handful of sources.
        admitted: Counter[tuple[str, str]] = Counter()
        for receipt in receipts:
            if receipt is ERASED:
                continue
            fact = receipt.fact
            if receipt.quarantine_garden_id is None:
                admitted[fact.source, fact.origin] += 1
            else:
                self._remember(fact.id, fact.source, fact.origin)
        for (source, origin), count in admitted.items():
            self.count_admitted(entry.at_ms, source, origin, count)

    def _remember(self, fact_id: str, source: str, origin: str) -> None:
        self.table(_HELD).put(_held_key(origin, fact_id), source.encode())

    def _moderate(self, entry: Entry, fact_id: str, origin: str, *, is_admitted: bool) -> None:
        source = self.table(_HELD).get(_held_key(origin, fact_id))
        if source is None:
            return
        self.table(_HELD).delete(_held_key(origin, fact_id))
        counts = {"admitted": 1} if is_admitted else {"failed": 1}
        self._count(entry.at_ms, source.decode(), origin, **counts)
        key = _organisation_key(origin_of(normal_uri(source.decode()), origin))
        self._put(key, History(self._history(key).days, is_admitted))

    def _count_refused(self, entry: Entry, refused: BatchRefusal, node_id: str) -> None:
        if refused.reason == _OF_THE_ENTITY:
            # That an entity is gone here is nothing that its source did.
            return
        if lies_under(refused.source, node_id):
            self._count(entry.at_ms, refused.source, node_id, failed=1)
        else:
            self._add(entry.at_ms, _organisation_key(node_id), 0, 1)

    def _count(self, at_ms: int, source: str, origin: str, *, admitted: int = 0, failed: int = 0) -> None:
        source = normal_uri(source)
        organisation = origin_of(source, origin)
        self._add(at_ms, _source_key(organisation, source), admitted, failed)
        self._add(at_ms, _organisation_key(organisation), admitted, failed)

    def _add(self, at_ms: int, key: bytes, admitted: int, failed: int) -> None:
        history = self._history(key)
        today = at_ms // DAY_MS
        days = history.days
        if days and days[-1].day == today:
            last = days[-1]
            days = (*days[:-1], Tally(today, last.admitted + admitted, last.failed + failed))
        else:
            kept = tuple(tally for tally in days if tally.day > today - WINDOW_DAYS)
            days = (*kept, Tally(today, admitted, failed))
        self._put(key, History(days, history.is_admitted))

    def _erase(self, entry: Entry, event: EntityErased) -> None:
        """Take back what erased facts had counted. What is left is what would have been counted without them: so every history is
        cut to the window as of now, and what would be no row is none.
        """
        counted = _days_counted(event)
        for row in self._erased():
            self.table(_HELD).delete(_held_key(row.fact.origin, row.fact.id))
            day = counted.get(row.place)
            if day is not None:
                self._take_back(day, row)
        for organisation, is_admitted in event.organisations:
            key = _organisation_key(organisation)
            self._put(key, History(self._history(key).days, is_admitted))
        self._cut_all(entry.at_ms // DAY_MS)

    def _take_back(self, day: int, row: FactRow) -> None:
        failed = 1 if row.quarantine_status == "rejected" else 0
        source = normal_uri(row.fact.source)
        organisation = origin_of(source, row.fact.origin)
        for key in (_source_key(organisation, source), _organisation_key(organisation)):
            history = self._history(key)
            days = tuple(
                Tally(tally.day, tally.admitted - (1 - failed), tally.failed - failed) if tally.day == day else tally
                for tally in history.days
            )
            self._put(key, History(days, history.is_admitted))

    def _cut_all(self, today: int) -> None:
        for key, history in list(self.table(_HISTORY).scan()):
            days = tuple(
                tally for tally in history.days if tally.day > today - WINDOW_DAYS and (tally.admitted or tally.failed)
            )
            if days or history.is_admitted:
                self.table(_HISTORY).put(key, History(days, history.is_admitted))
            else:
                self.table(_HISTORY).delete(key)
        self._seen.clear()

    def _history(self, key: bytes) -> History:
        history = self._seen.get(key)
        if history is None:
            history = self._seen[key] = self.table(_HISTORY).get(key) or NO_HISTORY
        return history

    def _put(self, key: bytes, history: History) -> None:
        self._seen[key] = history
        self.table(_HISTORY).put(key, history)


def _days_counted(event: EntityErased) -> dict[Place, int]:
    places = places_in(event.places)
    return {
        (place.offset, place.index): place.day for place in places if place.index is not None and place.day is not None
    }


def _source_key(organisation: str, source: str) -> bytes:
    return text_key("source", organisation, source)


def _organisation_key(organisation: str) -> bytes:
    return text_key("organisation", organisation)


def _held_key(origin: str, fact_id: str) -> bytes:
    return text_key(origin, fact_id.lower())
