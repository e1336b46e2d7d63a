"""What an entry says: who did what, to which things, and what followed at once (docs/audit.md).

Always: what followed (facts withdrawn, contradictions found and settled) is read from the view behind the entry.

Does not escape anything for a terminal (see `shown.py`).
"""

import msgspec
from msgspec import Struct

from node.events.entry import Entry
from node.projections.conflicts import Conflict
from node.projections.fact_rows import FactRow
from node.projections.facts import Facts
from node.projections.view import View
from replay.chain import Damaged
from replay.consequences import consequences_of
from replay.tellings import LEFT_NOTHING, TELLINGS
from replay.things import FactName, Thing, fact_thing


class Act(Struct, frozen=True, kw_only=True):
    """An event as it is told: `words` go on from the actor's name; `data` are members of the event, as they were logged."""

    verb: str
    words: str
    things: tuple[Thing, ...]
    data: dict[str, object]


def act_of(entry: Entry, view: View) -> Act:
    """What an entry says; `view` stands right behind it. Raises Damaged where it says what no node logs."""
    telling = TELLINGS.get(type(entry.event), LEFT_NOTHING)
    try:
        things = list(telling.things(entry.event, view))
        if type(entry.event) in Facts.events:
            things += [_followed(about, role, view) for about, role in consequences_of(entry, view)]
    except (ValueError, LookupError) as error:
        raise Damaged(entry.offset, f"the entry cannot be told: {error}") from error
    return Act(
        verb=telling.verb,
        words=telling.words(entry.event),
        things=tuple(things),
        data={name: msgspec.to_builtins(getattr(entry.event, name)) for name in telling.data},
    )


def _followed(about: FactRow | Conflict, role: str, view: View) -> Thing:
    if isinstance(about, FactRow):
        return fact_thing(about.fact, role)
    sides = (view.facts.at(place).fact for place in about.facts)
    names = tuple(FactName(origin=fact.origin, id=fact.id) for fact in sides)
    return Thing(kind="conflict", id=about.conflict_id, role=role, sides=names)
