"""/v1/gardens and /v1/quarantine: gardens, and the moderation of what waits in them (PROTOCOL §6)."""

from typing import Annotated, get_args

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from node.canonical import b64url_decode, b64url_encode
from node.commands.gardens import CreateGarden, DeleteGarden, PromoteFact, RejectFact, find_garden
from node.errors import InvalidCursor
from node.events.facts import Scope
from node.http.auth import operator_of
from node.http.body import decode_query, json_response, read_json
from node.http.keys import NODE
from node.http.records import queue_item, record_of
from node.projections.base import LAST_PLACE, Place
from node.projections.gardens import Garden, QuarantineStatus
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.times import format_ms

MAX_BYTES = 1 << 16


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
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class GardensQuery(Struct, frozen=True, kw_only=True):
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


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


async def list_gardens(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    asked = decode_query(request, GardensQuery)
    with node.view() as view:
        gardens = view.gardens.all()
    start = _garden_place(asked.cursor, gardens)
    page = gardens[start : start + asked.limit]
    has_more = start + len(page) < len(gardens)
    cursor = b64url_encode(page[-1].id.encode()) if has_more else None
    return json_response({"gardens": [_shown(garden, node) for garden in page], "cursor": cursor, "has_more": has_more})


async def get_garden(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    with node.view() as view:
        return json_response(_shown(find_garden(request.match_info["garden"], view), node))


async def delete_garden(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    await node.execute(DeleteGarden(principal=principal, garden=request.match_info["garden"]))
    return web.Response(status=204, headers={"X-Content-Type-Options": "nosniff"})


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
        {
            "fact_id": outcome.reply.fact_id,
            "promoted_at": format_ms(outcome.entries[0].at_ms),
            "promoted_by": principal.entity,
            "target_garden_id": outcome.reply.target_garden_id,
        }
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
        {
            "fact_id": outcome.reply.fact_id,
            "rejected_at": format_ms(outcome.entries[0].at_ms),
            "rejected_by": principal.entity,
        }
    )


async def list_quarantine(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    asked = decode_query(request, QueueQuery)
    return json_response(await node.read(lambda view: _queue(asked, view, node)))


def _queue(asked: QueueQuery, view: View, node: Node) -> dict[str, object]:
    gardens = [find_garden(asked.garden_id, view)] if asked.garden_id else view.gardens.all()
    statuses = get_args(QuarantineStatus) if asked.quarantine_status is None else (asked.quarantine_status,)
    waiting = [
        place
        for garden in gardens
        for status in statuses
        for place in view.gardens.queue(garden.id, status, before=LAST_PLACE)
    ]
    waiting.sort(reverse=True)
    before = _queue_place(asked.cursor)
    left = [place for place in waiting if place < before]
    page = left[: asked.limit]
    cursor = b64url_encode(msgspec.msgpack.encode(page[-1])) if len(left) > len(page) else None
    items = [queue_item(record_of(view.facts.at(place), view, node)) for place in page]
    return {"items": items, "total": len(waiting), "cursor": cursor}


def _queue_place(cursor: str | None) -> Place:
    if not cursor:
        return LAST_PLACE
    try:
        return msgspec.msgpack.decode(b64url_decode(cursor), type=Place)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidCursor("cursor: not one of this listing's") from error


def _garden_place(cursor: str | None, gardens: list[Garden]) -> int:
    if not cursor:
        return 0
    try:
        last = b64url_decode(cursor).decode()
        return next(index for index, garden in enumerate(gardens) if garden.id == last) + 1
    except (ValueError, StopIteration) as error:
        raise InvalidCursor("cursor: not one of this listing's") from error


def _shown(garden: Garden, node: Node) -> dict[str, object]:
    return {
        "id": garden.id,
        "garden_id": f"{node.node_id}/garden/{garden.slug}",
        "slug": garden.slug,
        "name": garden.name,
        "scope": garden.scope,
        "description": garden.description,
        "quarantine": garden.is_quarantine,
        "created_at": garden.created_at,
        "created_by": garden.created_by,
    }
