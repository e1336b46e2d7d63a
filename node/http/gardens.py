"""/v1/gardens: making, listing and deleting gardens (PROTOCOL §6.1). Members: `members.py`; what waits in them: `quarantine.py`."""

from collections.abc import Sequence
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from node.commands.decision import Principal
from node.commands.gardens import CreateGarden, DeleteGarden
from node.commands.reading import reach_of
from node.commands.roles import is_known, known_garden, require_visitor
from node.errors import (
    GardenExists,
    GardenForbidden,
    GardenInUse,
    GardenNotFound,
    IdempotencyKeyReused,
    InvalidCursor,
    QuarantineHasPendingFacts,
    ScopeNotPermitted,
)
from node.events.entry import Entry
from node.events.facts import Scope
from node.http.auth import principal_of
from node.http.body import decode_query, json_response, read_json
from node.http.cursors import FOREIGN, cursor_text, opened_cursor
from node.http.describe import GARDEN_ADMINS, KEYS, MEMBERS, describes
from node.http.forms import AsOf, Name, Slug, Time, Uuid
from node.http.idempotency import TAKES_KEY, carry_out
from node.http.keys import NODE
from node.http.moments import AsOfQuery, Moment, asked_moment, check_moment, moment_of
from node.projections.gardens import Garden, new_garden, place_in_listing
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode

MAX_BYTES = 1 << 16


class GardenRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    slug: Slug
    name: Name
    scope: Scope
    description: str = ""
    quarantine: bool = False


class GardenRecord(Struct, frozen=True, kw_only=True):
    """A garden: `id` is what facts carry, `garden_id` its URI."""

    id: Uuid
    garden_id: str
    slug: str
    name: str
    scope: Scope
    description: str
    quarantine: bool
    created_at: Time
    created_by: str


class GardensPage(Struct, frozen=True, kw_only=True):
    gardens: list[GardenRecord]
    cursor: str | None
    has_more: bool


class GardensCursor(Struct, frozen=True, array_like=True):
    """The place of the last garden of a page of gardens, and the moment of a listing of the past."""

    last: tuple[str, str]
    moment: Moment | None


class GardensQuery(Struct, frozen=True, kw_only=True):
    as_of: AsOf | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


@describes(
    "create a garden",
    who=KEYS,
    body=GardenRequest,
    answers={201: GardenRecord},
    headers=TAKES_KEY,
    refuses=(GardenExists, GardenForbidden, IdempotencyKeyReused, ScopeNotPermitted),
)
async def create_garden(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], principal_of(request)
    raw = await read_json(request, max_bytes=MAX_BYTES)
    body = decode(raw, GardenRequest)

    def command(principal: Principal) -> CreateGarden:
        return CreateGarden(
            principal=principal,
            slug=body.slug,
            name=body.name,
            scope=body.scope,
            description=body.description,
            is_quarantine=body.quarantine,
        )

    def answer(entries: Sequence[Entry], view: View) -> web.Response:
        [entry] = entries
        return json_response(_shown(new_garden(entry.event, offset=entry.offset, at_ms=entry.at_ms), node), 201)

    return await carry_out(request, raw, command, answer)


@describes(
    "the gardens that the caller is a member of",
    who=KEYS,
    query=GardensQuery,
    answers={200: GardensPage},
    refuses=(InvalidCursor,),
)
async def list_gardens(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], visitor_of(request)
    asked = decode_query(request, GardensQuery)
    last, moment = _gardens_start(asked.cursor, moment_of(asked.as_of, node), node)
    with node.view() as view:
        access = reach_of(principal, view)
        gardens = [garden for garden in view.gardens.all(moment.past_size) if is_known(garden, access)]
    left = [garden for garden in gardens if last is None or place_in_listing(garden) > last]
    page, has_more = left[: asked.limit], len(left) > asked.limit
    cursor = None
    if has_more:
        carried = None if moment.as_of is None else moment
        cursor = cursor_text(GardensCursor(place_in_listing(page[-1]), carried), "gardens")
    return json_response(
        GardensPage(gardens=[_shown(garden, node) for garden in page], cursor=cursor, has_more=has_more)
    )


@describes(
    "one garden, by id, slug or URI",
    who=MEMBERS,
    query=AsOfQuery,
    answers={200: GardenRecord},
    refuses=(GardenNotFound,),
)
async def get_garden(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], visitor_of(request)
    size = asked_moment(request).past_size
    with node.view() as view:
        return json_response(_shown(known_garden(request.match_info["garden"], principal, view, size=size), node))


@describes(
    "delete a garden; its facts stay with node admins",
    who=GARDEN_ADMINS,
    answers={204: None},
    refuses=(GardenNotFound, GardenInUse, QuarantineHasPendingFacts),
)
async def delete_garden(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], principal_of(request)
    await node.execute(DeleteGarden(principal=principal, garden=request.match_info["garden"]))
    return web.Response(status=204, headers={"X-Content-Type-Options": "nosniff"})


def visitor_of(request: web.Request) -> Principal:
    """The request's principal, to whom gardens may be shown at all."""
    principal = principal_of(request)
    require_visitor(principal)
    return principal


def _gardens_start(text: str | None, moment: Moment, node: Node) -> tuple[tuple[str, str] | None, Moment]:
    if not text:
        return None, moment
    cursor = opened_cursor(text, GardensCursor, "gardens")
    return cursor.last, carried_moment(cursor.moment, moment, node)


def carried_moment(carried: Moment | None, asked: Moment, node: Node) -> Moment:
    """The moment of a later page: that of the first one where the listing is of the past."""
    check_moment(asked, None if carried is None else carried.as_of)
    if carried is not None and not 0 <= carried.at.size <= node.log.announced().size:
        raise InvalidCursor(FOREIGN)
    return carried or asked


def _shown(garden: Garden, node: Node) -> GardenRecord:
    return GardenRecord(
        id=garden.id,
        garden_id=f"{node.node_id}/garden/{garden.slug}",
        slug=garden.slug,
        name=garden.name,
        scope=garden.scope,
        description=garden.description,
        quarantine=garden.is_quarantine,
        created_at=garden.created_at,
        created_by=garden.created_by,
    )
