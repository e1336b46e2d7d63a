"""/v1/gardens/{garden}/members: who is a member of a garden, and in which role (PROTOCOL §6.1)."""

from collections.abc import Sequence
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from node.commands.decision import Principal
from node.commands.members import AddMember, ChangeMember, MemberRecord, RemoveMember, record_of_member
from node.commands.roles import known_garden
from node.errors import (
    FieldTooLong,
    GardenForbidden,
    GardenNotFound,
    IdempotencyKeyReused,
    InvalidCursor,
    InvalidField,
    InvalidUri,
    LastAdmin,
    MemberExists,
    MemberNotFound,
    ReservedNamespace,
    UnsupportedParameter,
)
from node.events.entry import Entry
from node.events.gardens import Role
from node.http.auth import principal_of
from node.http.body import decode_query, json_response, read_json
from node.http.cursors import cursor_text, opened_cursor
from node.http.describe import GARDEN_ADMINS, MEMBERS, describes
from node.http.gardens import visitor_of
from node.http.idempotency import TAKES_KEY, carry_out
from node.http.keys import NODE
from node.http.moments import refuse_as_of
from node.http.paths import uri_in_path
from node.projections.gardens import Garden
from node.projections.view import View
from node.strict_json import decode
from node.times import format_ms

MAX_BYTES = 1 << 16
_CHANGING = (FieldTooLong, GardenNotFound, InvalidUri, LastAdmin, MemberExists, MemberNotFound, ReservedNamespace)


class MemberRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    entity_uri: str
    role: Role


class RoleRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Role


class MembersQuery(Struct, frozen=True, kw_only=True):
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class MembersPage(Struct, frozen=True, kw_only=True):
    members: list[MemberRecord]
    cursor: str | None
    has_more: bool


@describes(
    "who is a member of a garden, and in which role",
    who=MEMBERS,
    query=MembersQuery,
    answers={200: MembersPage},
    refuses=(GardenNotFound, InvalidCursor, UnsupportedParameter),
)
async def list_members(request: web.Request) -> web.Response:
    """Any member may see who else is, in the order in which they came."""
    node, principal = request.app[NODE], visitor_of(request)
    refuse_as_of(request, "memberships are those of now, also where content of then is read")
    asked = decode_query(request, MembersQuery)
    with node.view() as view:
        garden = known_garden(request.match_info["garden"], principal, view)
        last = _last(asked.cursor, garden)
        members = [member for member in view.members.of_garden(garden.id) if member.offset > last]
    page, has_more = members[: asked.limit], len(members) > asked.limit
    cursor = cursor_text(page[-1].offset, "members", garden.id) if has_more else None
    members = [record_of_member(member) for member in page]
    return json_response(MembersPage(members=members, cursor=cursor, has_more=has_more))


@describes(
    "add a member to a garden",
    who=GARDEN_ADMINS,
    body=MemberRequest,
    answers={201: MemberRecord},
    headers=TAKES_KEY,
    refuses=(*_CHANGING, GardenForbidden, IdempotencyKeyReused),
)
async def add_member(request: web.Request) -> web.Response:
    principal_of(request)
    raw = await read_json(request, max_bytes=MAX_BYTES)
    body, garden = decode(raw, MemberRequest), request.match_info["garden"]

    def command(principal: Principal) -> AddMember:
        return AddMember(principal=principal, garden=garden, entity=body.entity_uri, role=body.role)

    return await carry_out(request, raw, command, _added)


def _added(entries: Sequence[Entry], view: View) -> web.Response:
    [entry] = entries
    record = MemberRecord(
        entity_uri=entry.event.entity,
        role=entry.event.role,
        added_at=format_ms(entry.at_ms),
        added_by=entry.actor.principal,
    )
    return json_response(record, 201)


@describes(
    "give a member another role",
    who=GARDEN_ADMINS,
    body=RoleRequest,
    answers={200: MemberRecord},
    refuses=_CHANGING,
)
async def change_member(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], principal_of(request)
    body = decode(await read_json(request, max_bytes=MAX_BYTES), RoleRequest)
    garden, entity = request.match_info["garden"], uri_in_path(request, "entity_uri")
    outcome = await node.execute(ChangeMember(principal=principal, garden=garden, entity=entity, role=body.role))
    return json_response(outcome.reply)


@describes("remove a member", who=GARDEN_ADMINS, answers={204: None}, refuses=(*_CHANGING, InvalidField))
async def remove_member(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], principal_of(request)
    garden, entity = request.match_info["garden"], uri_in_path(request, "entity_uri")
    await node.execute(RemoveMember(principal=principal, garden=garden, entity=entity))
    return web.Response(status=204, headers={"X-Content-Type-Options": "nosniff"})


def _last(cursor: str | None, garden: Garden) -> int:
    """The offset at which the last member of a page came; members came at none below 0."""
    if not cursor:
        return -1
    return opened_cursor(cursor, Annotated[int, Meta(ge=0)], "members", garden.id)
