"""What an event did to other facts at once: which it withdrew, which contradictions it opened and settled.

Always: read from the view right behind the entry, whose fold found it; nothing here decides what follows from what.
"""

from collections.abc import Iterator

from node.events.entry import Entry
from node.projections.base import LAST_PLACE, Place, Table, place_key
from node.projections.conflicts import Conflict, Conflicts
from node.projections.fact_rows import FactRow
from node.projections.facts import Left
from node.projections.view import View

# What followed for which fact or contradiction, in one word (its role).
Consequence = tuple[FactRow | Conflict, str]


def consequences_of(entry: Entry, view: View) -> Iterator[Consequence]:
    """For an event that changes the facts. Roles: `retracted` `superseded` `put_aside`, `contradicted` and `settled`."""
    for left in withdrawals(view):
        yield view.facts.at(left.place), view.facts.withdrawal(left.place).kind
    for conflict in detected_at(entry.offset, view):
        yield conflict, "contradicted"
    for row in view.facts.changes:
        if isinstance(row, Left):
            continue
        for other in put_aside_by(row, view):
            yield other, "put_aside"
        for conflict in settled_by(row, view):
            yield conflict, "settled"


def withdrawals(view: View) -> list[Left]:
    """What the entry at the view's end withdrew."""
    return [change for change in view.facts.changes if isinstance(change, Left)]


def detected_at(offset: int, view: View) -> Iterator[Conflict]:
    """The contradictions that the entry at the view's end brought about."""
    for conflict in view.conflicts.newest_first(LAST_PLACE):
        if conflict.detected[0] != offset:
            return
        yield conflict


def put_aside_by(resolution: FactRow, view: View) -> Iterator[FactRow]:
    """The facts here that a resolution put aside."""
    for fact_id in resolution.fact.resolves.superseded if resolution.fact.resolves else ():
        for row in view.facts.all_by_id(fact_id):
            if settled_from(row.place, view) == resolution.shown_from:
                yield row


def settled_by(resolution: FactRow, view: View) -> Iterator[Conflict]:
    if resolution.fact.resolves is not None:
        for conflict in view.conflicts.resolved_by(resolution.fact.id):
            if conflict.resolved_by == resolution.place:
                yield conflict


def settled_from(place: Place, view: View) -> Place | None:
    """From which place on a fact is put aside by a resolution."""
    return settled_table(view).get(place_key(place))


def settled_table(view: View) -> Table[Place]:
    spec = next(spec for spec in Conflicts.tables if spec.name == "conflicts/settled")
    return view.conflicts.table(spec)
