"""Gardens, and what happens to facts in quarantine (PROTOCOL §6)."""

from typing import ClassVar, Literal

from node.events.event import Event
from node.events.facts import Fact, Judgement, Scope

# What a member may do: docs/gardens.md.
Role = Literal["admin", "writer", "reader", "quarantine:moderator"]


class GardenCreated(Event, tag="garden.created.1"):
    """`created_by` becomes the garden's first admin; `description` may be empty."""

    id: str
    slug: str
    name: str
    scope: Scope
    description: str
    is_quarantine: bool
    created_by: str


class GardenDeleted(Event, tag="garden.deleted.1"):
    garden_id: str


class GardenMemberSet(Event, tag="garden.member_set.1"):
    """An entity, in normal form, is a member from here on, or has another role than before."""

    garden_id: str
    entity: str
    role: Role


class GardenMemberRemoved(Event, tag="garden.member_removed.1"):
    garden_id: str
    entity: str


class FactQuarantined(Event, tag="fact.quarantined.1"):
    """A fact written here was held back. `judgement` is None where the reason needs no trust score."""

    parts: ClassVar[tuple[str, ...]] = ("fact",)
    garden_id: str
    reason: str
    judgement: Judgement | None
    fact: Fact


class FactPromoted(Event, tag="fact.promoted.1"):
    """`origin` with `fact_id` names the fact; `target_garden_id` None puts it outside every garden."""

    fact_id: str
    origin: str
    garden_id: str
    target_garden_id: str | None
    reason: str


class FactRejected(Event, tag="fact.rejected.1"):
    fact_id: str
    origin: str
    garden_id: str
    reason: str
