"""/v1/quarantine, and admitting and rejecting what waits in a garden (PROTOCOL §6.4)."""

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Annotated, get_args

from aiohttp import web
from msgspec import Meta, Struct

from node.commands.decision import Principal
from node.commands.gardens import PromoteFact, RejectFact
from node.commands.reading import reach_of
from node.commands.roles import find_garden, is_known
from node.errors import (
    FactAmbiguous,
    FactNotFound,
    FactNotQuarantinePending,
    GardenForbidden,
    GardenNotFound,
    GardenNotQuarantine,
    GardenScopeMismatch,
    IdempotencyKeyReused,
    InvalidCursor,
    QuarantineWriteForbidden,
)
from node.events.entry import Entry
from node.http.auth import principal_of
from node.http.body import decode_query, json_response, read_json
from node.http.cursors import FOREIGN, cursor_text, opened_cursor
from node.http.describe import KEYS, MODERATORS, describes
from node.http.forms import AsOf, Count, Name, Time, Uuid
from node.http.gardens import MAX_BYTES, carried_moment, visitor_of
from node.http.idempotency import TAKES_KEY, carry_out
from node.http.keys import NODE
from node.http.moments import Moment, moment_of
from node.http.records import QueueItem, queue_item, record_of
from node.projections.access import Access, is_readable, readable_at
from node.projections.base import LAST_PLACE, Place
from node.projections.conflicts import At
from node.projections.fact_rows import FactRow
from node.projections.gardens import Garden, QuarantineStatus
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.times import format_ms


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
    garden_id: Name | None = None
    as_of: AsOf | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


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
    has_more: bool


class QueueCursor(Struct, frozen=True, array_like=True):
    """A place in the quarantine listing; a listing of the past carries its moment, one of now looks anew at each page."""

    place: Place
    moment: Moment | None


@describes(
    "admit a fact that waits in quarantine",
    who=MODERATORS,
    body=PromoteRequest,
    answers={200: Promoted},
    headers=TAKES_KEY,
    refuses=(
        FactAmbiguous,
        IdempotencyKeyReused,
        FactNotFound,
        FactNotQuarantinePending,
        GardenForbidden,
        GardenNotFound,
        GardenNotQuarantine,
        GardenScopeMismatch,
        QuarantineWriteForbidden,
    ),
)
async def promote_fact(request: web.Request) -> web.Response:
    principal_of(request)
    raw = await read_json(request, max_bytes=MAX_BYTES)
    body = decode(raw, PromoteRequest)

    def command(principal: Principal) -> PromoteFact:
        return PromoteFact(
            principal=principal,
            garden=request.match_info["garden"],
            fact_id=body.fact_id,
            origin=body.origin,
            target=body.target_garden_id,
            reason=body.reason,
        )

    return await carry_out(request, raw, command, _promoted)


@describes(
    "reject a fact that waits in quarantine",
    who=MODERATORS,
    body=RejectRequest,
    answers={200: RejectedFact},
    headers=TAKES_KEY,
    refuses=(
        IdempotencyKeyReused,
        FactAmbiguous,
        FactNotFound,
        FactNotQuarantinePending,
        GardenForbidden,
        GardenNotFound,
        GardenNotQuarantine,
    ),
)
async def reject_fact(request: web.Request) -> web.Response:
    principal_of(request)
    raw = await read_json(request, max_bytes=MAX_BYTES)
    body = decode(raw, RejectRequest)

    def command(principal: Principal) -> RejectFact:
        return RejectFact(
            principal=principal,
            garden=request.match_info["garden"],
            fact_id=body.fact_id,
            origin=body.origin,
            reason=body.reason,
        )

    return await carry_out(request, raw, command, _rejected)


@describes(
    "facts in quarantine, newest first; without a status, all",
    who=KEYS,
    query=QueueQuery,
    answers={200: QueuePage},
    refuses=(GardenForbidden, InvalidCursor),
)
async def list_quarantine(request: web.Request) -> web.Response:
    """What the gardens hold that the caller moderates; to whoever moderates none, nothing."""
    node, principal = request.app[NODE], visitor_of(request)
    asked = decode_query(request, QueueQuery)
    before, moment = _queue_start(asked, moment_of(asked.as_of, node), node)
    return json_response(
        await node.read(lambda view: _queue(asked, before, moment, reach_of(principal, view), view, node))
    )


def _promoted(entries: Sequence[Entry], view: View) -> web.Response:
    [entry] = entries
    return json_response(
        Promoted(
            fact_id=entry.event.fact_id,
            promoted_at=format_ms(entry.at_ms),
            promoted_by=entry.actor.principal,
            target_garden_id=entry.event.target_garden_id,
        )
    )


def _rejected(entries: Sequence[Entry], view: View) -> web.Response:
    [entry] = entries
    return json_response(
        RejectedFact(
            fact_id=entry.event.fact_id,
            rejected_at=format_ms(entry.at_ms),
            rejected_by=entry.actor.principal,
        )
    )


def _queue(asked: QueueQuery, before: Place, moment: Moment, access: Access, view: View, node: Node) -> QueuePage:
    at, size = moment.at, moment.past_size
    is_past = size is not None
    gardens = _moderated(asked.garden_id, access, view, size)
    held = _held_then(asked, gardens, access, at, view) if is_past else _held(asked, gardens, access, view)
    waiting = sorted(held, key=attrgetter("place"), reverse=True)
    left = [row for row in waiting if row.place < before]
    page = left[: asked.limit]
    cursor = QueueCursor(page[-1].place, moment if is_past else None) if len(left) > len(page) else None
    records = [record_of(row, view, node, at=at if is_past else None, is_past=is_past) for row in page]
    return QueuePage(
        items=[queue_item(record) for record in records],
        total=len(waiting),
        cursor=cursor_text(cursor, *_listing(asked)),
        has_more=cursor is not None,
    )


def _moderated(name: str | None, access: Access, view: View, size: int | None) -> list[Garden]:
    """The gardens that are asked for and that the caller moderates. Raises GardenForbidden for one that is named and is none."""
    if name is None:
        return [garden for garden in view.gardens.all(size) if _is_moderated(garden, access)]
    try:
        garden = find_garden(name, view, size=size)
    except GardenNotFound as error:
        raise GardenForbidden("garden_id: no such garden, or not yours") from error
    if not _is_moderated(garden, access):
        raise GardenForbidden("garden_id: no such garden, or not yours")
    return [garden]


def _is_moderated(garden: Garden, access: Access) -> bool:
    return is_known(garden, access) and access.is_moderator(garden.id)


def _held(asked: QueueQuery, gardens: list[Garden], access: Access, view: View) -> Iterator[FactRow]:
    statuses = get_args(QuarantineStatus) if asked.quarantine_status is None else (asked.quarantine_status,)
    for garden in gardens:
        for status in statuses:
            rows = map(view.facts.at, view.gardens.queue(garden.id, status, before=LAST_PLACE))
            # Who moderates need not have the fact's scope, nor be a member of the garden that it was admitted to.
            yield from (row for row in rows if is_readable(row, access))


def _held_then(asked: QueueQuery, gardens: list[Garden], access: Access, at: At, view: View) -> Iterator[FactRow]:
    """What has been decided since may have had another status then: it is looked for under all of them."""
    for garden in gardens:
        for status in get_args(QuarantineStatus):
            for place in view.gardens.queue(garden.id, status, before=(at.size, 0)):
                then = readable_at(view.facts.at(place), access, at.size)
                if then is not None and asked.quarantine_status in (None, then.quarantine_status):
                    yield then


def _listing(asked: QueueQuery) -> tuple[str | None, ...]:
    return "quarantine", asked.quarantine_status, asked.garden_id


def _queue_start(asked: QueueQuery, moment: Moment, node: Node) -> tuple[Place, Moment]:
    if not asked.cursor:
        return LAST_PLACE, moment
    cursor = opened_cursor(asked.cursor, QueueCursor, *_listing(asked))
    carried = carried_moment(cursor.moment, moment, node)
    if not (0 <= cursor.place[0] < carried.at.size and 0 <= cursor.place[1] < 2**32):
        raise InvalidCursor(FOREIGN)
    return cursor.place, carried
