"""/v1/gardens and /v1/quarantine: gardens, and the moderation of what waits in them (PROTOCOL §6)."""

from collections.abc import Iterator
from typing import Annotated, TypeVar, get_args

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from node.canonical import b64url_decode, b64url_encode
from node.commands.gardens import CreateGarden, DeleteGarden, PromoteFact, RejectFact, find_garden
from node.errors import (
    FactAmbiguous,
    FactNotFound,
    FactNotQuarantinePending,
    GardenExists,
    GardenInUse,
    GardenNotFound,
    GardenNotQuarantine,
    GardenScopeMismatch,
    InvalidCursor,
    QuarantineHasPendingFacts,
    QuarantineWriteForbidden,
)
from node.events.facts import Scope
from node.http.auth import operator_of
from node.http.body import decode_query, json_response, read_json
from node.http.describe import ADMIN, describes
from node.http.forms import AsOf, Count, Time, Uuid
from node.http.keys import NODE
from node.http.moments import AsOfQuery, Moment, asked_moment, check_moment, moment_of
from node.http.records import QueueItem, queue_item, record_of
from node.projections.base import LAST_PLACE, Place
from node.projections.conflicts import At
from node.projections.fact_rows import row_at
from node.projections.gardens import Garden, QuarantineStatus
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.times import format_ms

MAX_BYTES = 1 << 16
Cursor = TypeVar("Cursor")


class GardenRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    slug: str
    name: str
    scope: Scope
    description: str = ""
    quarantine: bool = False


class PromoteRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fact_id: str
    origin: str | None = None
    target_garden_id: str | None = None
    reason: str = ""


class RejectRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fact_id: str
    origin: str | None = None
    reason: str = ""


class QueueQuery(Struct, frozen=True, kw_only=True):
    quarantine_status: QuarantineStatus | None = None
    garden_id: str | None = None
    as_of: AsOf | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


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


class Promoted(Struct, frozen=True, kw_only=True):
    """Where a fact went, `target_garden_id` null for outside of all gardens."""

    fact_id: Uuid
    promoted_at: Time
    promoted_by: str
    target_garden_id: Uuid | None


class RejectedFact(Struct, frozen=True, kw_only=True):
    fact_id: Uuid
    rejected_at: Time
    rejected_by: str


class QueuePage(Struct, frozen=True, kw_only=True):
    items: list[QueueItem]
    total: Count
    cursor: str | None


class QueueCursor(Struct, frozen=True, array_like=True):
    """A place in the quarantine listing; a listing of the past carries its moment, one of now looks anew at each page."""

    place: Place
    moment: Moment | None


class GardensCursor(Struct, frozen=True, array_like=True):
    """The last garden of a page of gardens, and the moment of a listing of the past."""

    last_id: str
    moment: Moment | None


class GardensQuery(Struct, frozen=True, kw_only=True):
    as_of: AsOf | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


@describes(
    "create a garden",
    who=ADMIN,
    body=GardenRequest,
    answers={201: GardenRecord},
    refuses=(GardenExists,),
)
async def create_garden(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    body = decode(await read_json(request, max_bytes=MAX_BYTES), GardenRequest)
    outcome = await node.execute(
        CreateGarden(
            principal=principal,
            slug=body.slug,
            name=body.name,
            scope=body.scope,
            description=body.description,
            is_quarantine=body.quarantine,
        )
    )
    with node.view() as view:
        return json_response(_shown(view.gardens.by_id(outcome.reply), node), 201)


@describes("gardens", who=ADMIN, query=GardensQuery, answers={200: GardensPage}, refuses=(InvalidCursor,))
async def list_gardens(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    asked = decode_query(request, GardensQuery)
    last_id, moment = _gardens_start(asked.cursor, moment_of(asked.as_of, node), node)
    with node.view() as view:
        gardens = view.gardens.all(moment.past_size)
    start = _after(last_id, gardens)
    page = gardens[start : start + asked.limit]
    has_more = start + len(page) < len(gardens)
    cursor = None
    if has_more:
        carried = None if moment.as_of is None else moment
        cursor = b64url_encode(msgspec.msgpack.encode(GardensCursor(page[-1].id, carried)))
    return json_response(
        GardensPage(gardens=[_shown(garden, node) for garden in page], cursor=cursor, has_more=has_more)
    )


@describes(
    "one garden, by id, slug or URI",
    who=ADMIN,
    query=AsOfQuery,
    answers={200: GardenRecord},
    refuses=(GardenNotFound,),
)
async def get_garden(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    size = asked_moment(request).past_size
    with node.view() as view:
        return json_response(_shown(find_garden(request.match_info["garden"], view, size=size), node))


@describes(
    "delete a garden; its facts stay with node admins",
    who=ADMIN,
    answers={204: None},
    refuses=(GardenNotFound, GardenInUse, QuarantineHasPendingFacts),
)
async def delete_garden(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    await node.execute(DeleteGarden(principal=principal, garden=request.match_info["garden"]))
    return web.Response(status=204, headers={"X-Content-Type-Options": "nosniff"})


@describes(
    "admit a fact that waits in quarantine",
    who=ADMIN,
    body=PromoteRequest,
    answers={200: Promoted},
    refuses=(
        FactAmbiguous,
        FactNotFound,
        FactNotQuarantinePending,
        GardenNotFound,
        GardenNotQuarantine,
        GardenScopeMismatch,
        QuarantineWriteForbidden,
    ),
)
async def promote_fact(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    body = decode(await read_json(request, max_bytes=MAX_BYTES), PromoteRequest)
    outcome = await node.execute(
        PromoteFact(
            principal=principal,
            garden=request.match_info["garden"],
            fact_id=body.fact_id,
            origin=body.origin,
            target=body.target_garden_id,
            reason=body.reason,
        )
    )
    return json_response(
        Promoted(
            fact_id=outcome.reply.fact_id,
            promoted_at=format_ms(outcome.entries[0].at_ms),
            promoted_by=principal.entity,
            target_garden_id=outcome.reply.target_garden_id,
        )
    )


@describes(
    "reject a fact that waits in quarantine",
    who=ADMIN,
    body=RejectRequest,
    answers={200: RejectedFact},
    refuses=(FactAmbiguous, FactNotFound, FactNotQuarantinePending, GardenNotFound, GardenNotQuarantine),
)
async def reject_fact(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    body = decode(await read_json(request, max_bytes=MAX_BYTES), RejectRequest)
    outcome = await node.execute(
        RejectFact(
            principal=principal,
            garden=request.match_info["garden"],
            fact_id=body.fact_id,
            origin=body.origin,
            reason=body.reason,
        )
    )
    return json_response(
        RejectedFact(
            fact_id=outcome.reply.fact_id,
            rejected_at=format_ms(outcome.entries[0].at_ms),
            rejected_by=principal.entity,
        )
    )


@describes(
    "facts in quarantine, newest first; without a status, all",
    who=ADMIN,
    query=QueueQuery,
    answers={200: QueuePage},
    refuses=(GardenNotFound, InvalidCursor),
)
async def list_quarantine(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    asked = decode_query(request, QueueQuery)
    before, moment = _queue_start(asked.cursor, moment_of(asked.as_of, node), node)
    return json_response(await node.read(lambda view: _queue(asked, before, moment, view, node)))


def _queue(asked: QueueQuery, before: Place, moment: Moment, view: View, node: Node) -> QueuePage:
    at, size = moment.at, moment.past_size
    gardens = [find_garden(asked.garden_id, view, size=size)] if asked.garden_id else view.gardens.all(size)
    is_past = size is not None
    waiting = sorted(_held_then(asked, gardens, at, view) if is_past else _held(asked, gardens, view), reverse=True)
    left = [place for place in waiting if place < before]
    page = left[: asked.limit]
    cursor = QueueCursor(page[-1], moment if is_past else None) if len(left) > len(page) else None
    rows = (view.facts.at(place) for place in page)
    if is_past:
        records = [record_of(row_at(row, at.size), view, node, at=at, is_past=True) for row in rows]
    else:
        records = [record_of(row, view, node) for row in rows]
    return QueuePage(
        items=[queue_item(record) for record in records],
        total=len(waiting),
        cursor=None if cursor is None else b64url_encode(msgspec.msgpack.encode(cursor)),
    )


def _held(asked: QueueQuery, gardens: list[Garden], view: View) -> Iterator[Place]:
    statuses = get_args(QuarantineStatus) if asked.quarantine_status is None else (asked.quarantine_status,)
    for garden in gardens:
        for status in statuses:
            yield from view.gardens.queue(garden.id, status, before=LAST_PLACE)


def _held_then(asked: QueueQuery, gardens: list[Garden], at: At, view: View) -> Iterator[Place]:
    """What has been decided since may have had another status then: it is looked for under all of them."""
    for garden in gardens:
        for status in get_args(QuarantineStatus):
            for place in view.gardens.queue(garden.id, status, before=(at.size, 0)):
                then = row_at(view.facts.at(place), at.size)
                if asked.quarantine_status in (None, then.quarantine_status):
                    yield place


def _queue_start(text: str | None, moment: Moment, node: Node) -> tuple[Place, Moment]:
    if not text:
        return LAST_PLACE, moment
    cursor = _opened(text, QueueCursor)
    carried = _carried(cursor.moment, moment, node)
    if not (0 <= cursor.place[0] < carried.at.size and 0 <= cursor.place[1] < 2**32):
        raise InvalidCursor("cursor: not one of this listing's")
    return cursor.place, carried


def _gardens_start(text: str | None, moment: Moment, node: Node) -> tuple[str | None, Moment]:
    if not text:
        return None, moment
    cursor = _opened(text, GardensCursor)
    return cursor.last_id, _carried(cursor.moment, moment, node)


def _after(last_id: str | None, gardens: list[Garden]) -> int:
    """Where the next page of gardens begins."""
    if last_id is None:
        return 0
    try:
        return next(index for index, garden in enumerate(gardens) if garden.id == last_id) + 1
    except StopIteration as error:
        raise InvalidCursor("cursor: not one of this listing's") from error


def _opened(text: str, cursor: type[Cursor]) -> Cursor:
    try:
        return msgspec.msgpack.decode(b64url_decode(text), type=cursor)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidCursor("cursor: not one of this listing's") from error


def _carried(carried: Moment | None, asked: Moment, node: Node) -> Moment:
    """The moment of a later page: that of the first one where the listing is of the past."""
    check_moment(asked, None if carried is None else carried.as_of)
    if carried is not None and not 0 <= carried.at.size <= node.log.announced().size:
        raise InvalidCursor("cursor: not one of this listing's")
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
