"""Who is a member of which garden, and in which role (PROTOCOL §6.1).

Always: whoever created a garden is its first admin; a member has one role, found from the garden and from the member alike.
Names are in normal form, as the events have them. Members of a garden that was deleted stay on record here, and count for
nothing: whoever asks looks whether the garden stands (see `gardens.py`).

Does not say what a role allows (see `node/commands/reading.py` and `node/commands/roles.py`).
"""

from typing import ClassVar

from msgspec import Struct, structs

from node.events.entry import Entry
from node.events.event import Event
from node.events.gardens import GardenCreated, GardenMemberRemoved, GardenMemberSet, Role
from node.projections.base import Projection, TableSpec, text_key
from node.times import format_ms


class Member(Struct, frozen=True, array_like=True):
    """A member since `offset`, and `added_at` in RFC 3339, by whom; a role that changes later changes nothing of that."""

    garden_id: str
    entity: str
    role: Role
    offset: int
    added_at: str
    added_by: str | None


class Membership(Struct, frozen=True, array_like=True):
    garden_id: str
    role: Role


_OF_GARDEN = TableSpec("members/of_garden", Member, hashed=((0, 32),))
_OF_ENTITY = TableSpec("members/of_entity", Membership, hashed=((0, 32),))


class Members(Projection):
    name: ClassVar[str] = "members"
    version: ClassVar[int] = 1
    events: ClassVar[tuple[type[Event], ...]] = (GardenCreated, GardenMemberSet, GardenMemberRemoved)
    tables: ClassVar[tuple[TableSpec, ...]] = (_OF_GARDEN, _OF_ENTITY)

    # Reading

    def member(self, garden_id: str, entity: str) -> Member | None:
        return self.table(_OF_GARDEN).get(_key(garden_id, entity))

    def of_garden(self, garden_id: str) -> list[Member]:
        """A garden's members, in the order in which they became members."""
        members = (member for _, member in self.table(_OF_GARDEN).scan(text_key(garden_id)))
        return sorted(members, key=lambda member: member.offset)

    def of_entity(self, entity: str) -> list[Membership]:
        """The memberships of an entity, also those in gardens that were deleted."""
        return [membership for _, membership in self.table(_OF_ENTITY).scan(text_key(entity))]

    # Folding

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case GardenCreated(id=garden_id, created_by=entity):
                self._set(entry, garden_id, entity, "admin")
            case GardenMemberSet(garden_id=garden_id, entity=entity, role=role):
                self._set(entry, garden_id, entity, role)
            case GardenMemberRemoved(garden_id=garden_id, entity=entity):
                self.table(_OF_GARDEN).delete(_key(garden_id, entity))
                self.table(_OF_ENTITY).delete(_key(entity, garden_id))
            case _:
                pass  # no other event makes or ends a membership

    def _set(self, entry: Entry, garden_id: str, entity: str, role: Role) -> None:
        before = self.member(garden_id, entity)
        if before is None:
            member = Member(garden_id, entity, role, entry.offset, format_ms(entry.at_ms), entry.actor.principal)
        else:
            member = structs.replace(before, role=role)
        self.table(_OF_GARDEN).put(_key(garden_id, entity), member)
        self.table(_OF_ENTITY).put(_key(entity, garden_id), Membership(garden_id, role))


def _key(first: str, second: str) -> bytes:
    return text_key(first) + text_key(second)
