"""A contradiction being settled (PROTOCOL §2.6); that there is one follows from the facts and is no event."""

from typing import ClassVar

from node.events.event import Event
from node.events.facts import Fact, Judgement


class ConflictResolved(Event, tag="conflict.resolved.1"):
    """Somebody settled a conflict with a new fact, whose `resolves` names what it puts aside.

    `winning_fact_id` is the side that was chosen, None where a new value was given alone; `note` says why.
    """

    parts: ClassVar[tuple[str, ...]] = ("fact",)
    conflict_id: str
    winning_fact_id: str | None
    note: str
    judgement: Judgement | None
    fact: Fact
