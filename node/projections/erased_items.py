"""Which items of the log hold what is known of an entity, so that they can be erased (docs/tombstones.md).

Always: every item that holds one of its facts, what was thought of it, why it was promoted, rejected or settled, or its body as
it was countersigned for a peer. What only names the fact by its id or hash stays: nothing can be read from that.
"""

from collections.abc import Iterator
from typing import Protocol

from node.errors import LogDamaged
from node.events.entry import Header, open_header
from node.events.event import type_of
from node.events.evidence import FACT_ITEMS
from node.events.peers import BatchReceived, PushReceived
from node.events.tombstones import ErasedPlace
from node.projections.base import DAY_MS
from node.projections.fact_rows import FactRow
from node.projections.view import View
from node.times import parse_rfc3339

_PAGES = (type_of(BatchReceived), type_of(PushReceived))
# Of an entry that promotes or rejects a fact, the item that says why.
_DECISION_ITEM = 1


class Stored(Protocol):
    """A log, as far as it is looked at."""

    def stored(self, offset: int) -> bytes: ...


def items_about(entity: str, view: View, log: Stored) -> Iterator[ErasedPlace]:
    """The items about an entity, by its name in normal form, each once. Raises LogDamaged."""
    for row in view.facts.about(entity):
        yield from _items_of(row, log)
    for offset, item in view.tombstones.attested(entity):
        yield ErasedPlace(offset, item, None, None)


def _items_of(row: FactRow, log: Stored) -> Iterator[ErasedPlace]:
    (offset, index), header = row.place, open_header(log.stored(row.place[0]))
    if header.type not in FACT_ITEMS:
        raise LogDamaged(f"a {header.type} brings no fact, and the views have one", offset=offset)
    first, _ = FACT_ITEMS[header.type]
    counted_by = header
    if row.decided_from is not None:
        counted_by = open_header(log.stored(row.decided_from[0]))
        yield ErasedPlace(row.decided_from[0], _DECISION_ITEM, None, None)
    elif row.quarantine_status is not None:
        counted_by = None
    yield ErasedPlace(offset, first + index, index, None if counted_by is None else _day_of(counted_by))
    if header.type not in _PAGES:
        # All else but the actor's is about this one fact.
        yield from (ErasedPlace(offset, item, None, None) for item in range(1, first))


def _day_of(header: Header) -> int:
    return parse_rfc3339(header.at) // DAY_MS
