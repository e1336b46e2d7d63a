"""Members of a garden: adding them, changing their role, removing them (PROTOCOL §6.1).

Always: the garden's admins decide, and the node's own; a garden keeps at least one admin.
A member is a name: whether anybody has a key in that name, now or ever, is not asked.
"""

from msgspec import Struct

from node.commands.decision import Context, Decision, Principal
from node.commands.drafts import check_stored, principal_name
from node.commands.roles import administered_garden
from node.errors import InvalidField, LastAdmin, MemberExists, MemberNotFound
from node.events.gardens import GardenMemberRemoved, GardenMemberSet, Role
from node.projections.gardens import Garden
from node.projections.members import Member
from node.projections.view import View
from node.times import format_ms


class AddMember(Struct, frozen=True, kw_only=True):
    """`garden` is an id, slug or URI, here and below; `entity` a name in any spelling."""

    principal: Principal
    garden: str
    entity: str
    role: Role


class ChangeMember(Struct, frozen=True, kw_only=True):
    principal: Principal
    garden: str
    entity: str
    role: Role


class RemoveMember(Struct, frozen=True, kw_only=True):
    principal: Principal
    garden: str
    entity: str


class MemberRecord(Struct, frozen=True, kw_only=True):
    """A member as the API shows it."""

    entity_uri: str
    role: Role
    added_at: str
    added_by: str | None


def record_of_member(member: Member) -> MemberRecord:
    return MemberRecord(entity_uri=member.entity, role=member.role, added_at=member.added_at, added_by=member.added_by)


def decide_add_member(command: AddMember, view: View, context: Context) -> Decision:
    """One event; its reply is the MemberRecord."""
    garden = administered_garden(command.garden, command.principal, view)
    _check_role(command.role, garden)
    entity = principal_name("entity_uri", command.entity)
    check_stored(entity_uri=entity)
    if view.members.member(garden.id, entity) is not None:
        raise MemberExists("entity_uri: a member already; its role can be changed")
    record = MemberRecord(
        entity_uri=entity,
        role=command.role,
        added_at=format_ms(context.at_ms),
        added_by=command.principal.entity,
    )
    event = GardenMemberSet(garden_id=garden.id, entity=entity, role=command.role)
    return Decision(events=(event,), actor=command.principal.actor(), reply=record)


def decide_change_member(command: ChangeMember, view: View, context: Context) -> Decision:
    """One event, or none where the member has that role; its reply is the MemberRecord."""
    garden = administered_garden(command.garden, command.principal, view)
    _check_role(command.role, garden)
    member = _member(command.entity, garden, view)
    if member.role == command.role:
        return Decision(reply=record_of_member(member))
    _check_admin_stays(member, garden, view)
    record = MemberRecord(
        entity_uri=member.entity, role=command.role, added_at=member.added_at, added_by=member.added_by
    )
    event = GardenMemberSet(garden_id=garden.id, entity=member.entity, role=command.role)
    return Decision(events=(event,), actor=command.principal.actor(), reply=record)


def decide_remove_member(command: RemoveMember, view: View, context: Context) -> Decision:
    garden = administered_garden(command.garden, command.principal, view)
    member = _member(command.entity, garden, view)
    _check_admin_stays(member, garden, view)
    event = GardenMemberRemoved(garden_id=garden.id, entity=member.entity)
    return Decision(events=(event,), actor=command.principal.actor())


def _member(entity: str, garden: Garden, view: View) -> Member:
    member = view.members.member(garden.id, principal_name("entity_uri", entity))
    if member is None:
        raise MemberNotFound("there is no such member of this garden")
    return member


def _check_role(role: Role, garden: Garden) -> None:
    if role == "quarantine:moderator" and not garden.is_quarantine:
        raise InvalidField("role: quarantine:moderator is a role in quarantine gardens alone")


def _check_admin_stays(member: Member, garden: Garden, view: View) -> None:
    """Raises LastAdmin where a garden would be left to nobody."""
    if member.role != "admin":
        return
    if not any(other.role == "admin" and other.entity != member.entity for other in view.members.of_garden(garden.id)):
        raise LastAdmin("it is the garden's last admin: make somebody else admin first")
