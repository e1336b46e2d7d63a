"""Gardens, and the queue of facts that wait in quarantine for a moderator (PROTOCOL §6).

Always: a fact is under `pending` of its garden if and only if nobody has promoted or rejected it.
Always: a slug once used stays taken, also when its garden is gone.

Does not hold facts (see `facts.py`) or members (see `members.py`).
"""

import struct
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

from msgspec import Struct, structs

from node.events.entry import Entry
from node.events.event import ERASED, Event
from node.events.facts import Scope
from node.events.gardens import FactPromoted, FactQuarantined, FactRejected, GardenCreated, GardenDeleted
from node.events.peers import BatchReceived, PushReceived
from node.events.tombstones import EntityErased
from node.projections.base import Handles, Place, Projection, TableSpec, place_key, place_of, text_key
from node.projections.fact_rows import FactRow
from node.times import format_ms
from node.uris import normal_uri, origin_of

QuarantineStatus = Literal["pending", "promoted", "rejected"]

_COUNT = struct.Struct(">Q")


class Garden(Struct, frozen=True, array_like=True):
    """A garden, created at `offset`, `created_at` in RFC 3339. Deletion, at `deleted_from`, leaves its facts to node admins."""

    id: str
    slug: str
    name: str
    scope: Scope
    description: str
    is_quarantine: bool
    created_at: str
    created_by: str
    offset: int
    deleted_from: int | None

    def stands(self, size: int | None) -> bool:
        """Whether it is there: now, or where the log has `size` entries."""
        if size is None:
            return self.deleted_from is None
        return self.offset < size and (self.deleted_from is None or self.deleted_from >= size)


class Held(Struct, frozen=True, array_like=True):
    """A fact in quarantine, and what was decided about it: by whom, when (RFC 3339), why."""

    place: Place
    fact_id: str
    origin: str
    organisation: str
    garden_id: str
    status: QuarantineStatus
    decided_by: str | None
    decided_at: str | None
    decision_reason: str | None


def new_garden(created: GardenCreated, *, offset: int, at_ms: int) -> Garden:
    """A garden's row when it is made, by the entry at `offset`."""
    return Garden(
        created.id,
        created.slug,
        created.name,
        created.scope,
        created.description,
        created.is_quarantine,
        format_ms(at_ms),
        created.created_by,
        offset,
        None,
    )


def place_in_listing(garden: Garden) -> tuple[str, str]:
    """What gardens are listed by, oldest first."""
    return garden.created_at, garden.id


_BY_ID = TableSpec("gardens/by_id", Garden, hashed=((0, 16),))
_BY_SLUG = TableSpec("gardens/by_slug", bytes, hashed=((0, 16),))
_HELD = TableSpec("gardens/held", Held, hashed=((0, 32),))
_BY_STATUS = TableSpec("gardens/held_by_status", bytes, hashed=((0, 16),))
_PENDING_BY_ORGANISATION = TableSpec("gardens/pending_by_organisation", bytes, hashed=((0, 16),), is_open=True)


class Gardens(Projection):
    name: ClassVar[str] = "gardens"
    version: ClassVar[int] = 3
    events: ClassVar[tuple[type[Event], ...]] = (
        GardenCreated,
        GardenDeleted,
        FactQuarantined,
        BatchReceived,
        PushReceived,
        FactPromoted,
        FactRejected,
        EntityErased,
    )
    tables: ClassVar[tuple[TableSpec, ...]] = (_BY_ID, _BY_SLUG, _HELD, _BY_STATUS, _PENDING_BY_ORGANISATION)

    def __init__(self, txn: object, handles: Handles, erased: Callable[[], tuple[FactRow, ...]]) -> None:
        super().__init__(txn, handles)
        self._erased = erased

    # Reading

    def by_id(self, garden_id: str, size: int | None = None) -> Garden | None:
        garden = self.table(_BY_ID).get(text_key(garden_id))
        return garden if garden is not None and garden.stands(size) else None

    def by_slug(self, slug: str, size: int | None = None) -> Garden | None:
        garden_id = self.table(_BY_SLUG).get(text_key(slug))
        return None if garden_id is None else self.by_id(garden_id.decode(), size)

    def is_slug_taken(self, slug: str) -> bool:
        return self.table(_BY_SLUG).has(text_key(slug))

    def all(self, size: int | None = None) -> list[Garden]:
        """Gardens that exist, or did where the log has `size` entries, oldest first."""
        gardens = [garden for _, garden in self.table(_BY_ID).scan() if garden.stands(size)]
        return sorted(gardens, key=place_in_listing)

    def held(self, garden_id: str, fact_id: str) -> list[Held]:
        """What is known of the facts of that id in that garden's quarantine, one per origin, decided or not."""
        return [held for _, held in self.table(_HELD).scan(_held_prefix(garden_id, fact_id))]

    def queue(self, garden_id: str, status: QuarantineStatus, *, before: Place) -> Iterator[Place]:
        """Places of the facts of one status in one garden, newest first."""
        prefix = _status_prefix(garden_id, status)
        for key, _ in self.table(_BY_STATUS).scan_back(prefix, before=prefix + place_key(before)):
            yield place_of(key)

    def has_pending(self, garden_id: str) -> bool:
        return next(self.table(_BY_STATUS).scan(_status_prefix(garden_id, "pending")), None) is not None

    def pending_of(self, organisation: str) -> int:
        """How many facts of an organisation wait, in all gardens."""
        row = self.table(_PENDING_BY_ORGANISATION).get(text_key(organisation))
        return 0 if row is None else _COUNT.unpack(row)[0]

    # Folding

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case GardenCreated() as created:
                self._create(entry, created)
            case GardenDeleted(garden_id=garden_id):
                self._delete(entry, garden_id)
            case FactQuarantined(fact=fact, garden_id=garden_id):
                self._hold((entry.offset, 0), fact.id, fact.origin, fact.source, garden_id)
            case BatchReceived(receipts=receipts) | PushReceived(receipts=receipts):
                for index, receipt in enumerate(receipts):
                    if receipt is not ERASED and receipt.quarantine_garden_id is not None:
                        fact = receipt.fact
                        place = (entry.offset, index)
                        self._hold(place, fact.id, fact.origin, fact.source, receipt.quarantine_garden_id)
            case FactPromoted(fact_id=fact_id, origin=origin, garden_id=garden_id, reason=reason):
                self._decide(entry, garden_id, fact_id, origin, "promoted", reason)
            case FactRejected(fact_id=fact_id, origin=origin, garden_id=garden_id, reason=reason):
                self._decide(entry, garden_id, fact_id, origin, "rejected", reason)
            case EntityErased():
                for row in self._erased():
                    self._forget(row)
            case _:
                pass  # no other event is about gardens or quarantine

    def _create(self, entry: Entry, created: GardenCreated) -> None:
        garden = new_garden(created, offset=entry.offset, at_ms=entry.at_ms)
        self.table(_BY_ID).put(text_key(created.id), garden)
        self.table(_BY_SLUG).put(text_key(created.slug), created.id.encode())

    def _delete(self, entry: Entry, garden_id: str) -> None:
        garden = self.by_id(garden_id)
        if garden is not None:
            self.table(_BY_ID).put(text_key(garden_id), structs.replace(garden, deleted_from=entry.offset))

    def _hold(self, place: Place, fact_id: str, origin: str, source: str, garden_id: str) -> None:
        organisation = origin_of(normal_uri(source), origin)
        held = Held(place, fact_id, origin, organisation, garden_id, "pending", None, None, None)
        self.table(_HELD).put(_held_prefix(garden_id, fact_id) + text_key(origin), held)
        self.table(_BY_STATUS).put(_status_prefix(garden_id, "pending") + place_key(place), b"")
        self._count_pending(organisation, +1)

    def _decide(
        self, entry: Entry, garden_id: str, fact_id: str, origin: str, status: QuarantineStatus, reason: str
    ) -> None:
        key = _held_prefix(garden_id, fact_id) + text_key(origin)
        held = self.table(_HELD).get(key)
        if held is None or held.status != "pending":
            return
        self.table(_BY_STATUS).delete(_status_prefix(garden_id, "pending") + place_key(held.place))
        self.table(_BY_STATUS).put(_status_prefix(garden_id, status) + place_key(held.place), b"")
        self._count_pending(held.organisation, -1)
        decided = structs.replace(
            held,
            status=status,
            decided_by=entry.actor.principal,
            decided_at=format_ms(entry.at_ms),
            decision_reason=reason,
        )
        self.table(_HELD).put(key, decided)

    def _forget(self, row: FactRow) -> None:
        """Remove what is known of a fact that was held; what its garden is, and who is in it, stays."""
        if row.quarantine_garden_id is None:
            return
        key = _held_prefix(row.quarantine_garden_id, row.fact.id) + text_key(row.fact.origin)
        held = self.table(_HELD).get(key)
        if held is None or held.place != row.place:
            return
        self.table(_HELD).delete(key)
        self.table(_BY_STATUS).delete(_status_prefix(row.quarantine_garden_id, held.status) + place_key(held.place))
        if held.status == "pending":
            self._count_pending(held.organisation, -1)

    def _count_pending(self, organisation: str, change: int) -> None:
        # No row for none: erasing leaves what there would be without what it erased.
        count = self.pending_of(organisation) + change
        if count:
            self.table(_PENDING_BY_ORGANISATION).put(text_key(organisation), _COUNT.pack(count))
        else:
            self.table(_PENDING_BY_ORGANISATION).delete(text_key(organisation))


def _held_prefix(garden_id: str, fact_id: str) -> bytes:
    return text_key(garden_id, fact_id.lower())


def _status_prefix(garden_id: str, status: QuarantineStatus) -> bytes:
    return text_key(garden_id, status)
