"""/v1/conflicts: listing contradictions, settling them (PROTOCOL §2.6)."""

from collections.abc import Sequence
from typing import Annotated, Literal

from aiohttp import web
from msgspec import Meta, Struct

from node.commands.conflicts import ResolveConflict, require_settler, sides_of
from node.commands.decision import Principal
from node.commands.drafts import StatedValue
from node.commands.reading import readable_by
from node.errors import (
    ConflictAlreadyResolved,
    ConflictNotFound,
    GardenForbidden,
    GardenNotFound,
    IdempotencyKeyReused,
    InsufficientCapability,
    InvalidCursor,
    InvalidValue,
    TextTooLarge,
    WinnerNotInConflict,
)
from node.events.entry import Entry
from node.http.auth import principal_of, reader_of
from node.http.body import decode_query, json_response, read_json
from node.http.cursors import FOREIGN, cursor_text, opened_cursor
from node.http.describe import KEYS, READERS, describes
from node.http.forms import AsOf, ConflictId, Time, Uuid
from node.http.idempotency import TAKES_KEY, carry_out
from node.http.keys import NODE
from node.http.moments import Moment, check_moment, moment_of
from node.http.records import Record, record_of
from node.projections.access import Access, is_readable
from node.projections.base import LAST_PLACE, Place
from node.projections.conflicts import At, Conflict
from node.projections.fact_rows import row_at
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.times import format_ms

MAX_BYTES = 1 << 20
Status = Literal["unresolved", "resolved"]


class ConflictsQuery(Struct, frozen=True, kw_only=True):
    status: Status | None = None
    as_of: AsOf | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ResolveRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    winning_fact_id: str | None = None
    new_value: StatedValue | None = None
    resolution_note: str = ""


class ShownConflict(Struct, frozen=True, kw_only=True):
    """Two facts that contradict. `resolved_by` is the fact that settled it, null where a side expired or was retracted."""

    conflict_id: ConflictId
    fact_a: Record
    fact_b: Record
    status: Status
    resolved_by: Uuid | None
    detected_at: Time


class ConflictsPage(Struct, frozen=True, kw_only=True):
    conflicts: list[ShownConflict]
    cursor: str | None
    has_more: bool


class Resolved(Struct, frozen=True, kw_only=True):
    resolution_fact_id: Uuid
    conflict_status: Literal["resolved"] = "resolved"


class Cursor(Struct, frozen=True, array_like=True):
    """A place in the listing, and what its first page looked at."""

    moment: Moment
    place: Place
    status: Status | None


@describes(
    "contradictions, newest first",
    who=READERS,
    query=ConflictsQuery,
    answers={200: ConflictsPage},
    refuses=(InvalidCursor, InsufficientCapability),
)
async def list_conflicts(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], reader_of(request)
    asked = decode_query(request, ConflictsQuery)
    moment = moment_of(asked.as_of, node)
    listing = await node.read(lambda view: _listing(asked, moment, readable_by(principal, view), view, node))
    return json_response(listing)


@describes(
    "settle a contradiction with a new fact",
    who=KEYS,
    body=ResolveRequest,
    answers={200: Resolved},
    headers=TAKES_KEY,
    refuses=(
        IdempotencyKeyReused,
        ConflictNotFound,
        ConflictAlreadyResolved,
        GardenForbidden,
        GardenNotFound,
        InvalidValue,
        TextTooLarge,
        WinnerNotInConflict,
    ),
)
async def resolve_conflict(request: web.Request) -> web.Response:
    require_settler(principal_of(request))
    raw = await read_json(request, max_bytes=MAX_BYTES)
    body = decode(raw, ResolveRequest)

    def command(principal: Principal) -> ResolveConflict:
        return ResolveConflict(
            principal=principal,
            conflict_id=request.match_info["conflict_id"],
            winning_fact_id=body.winning_fact_id,
            new_value=body.new_value,
            note=body.resolution_note,
        )

    def answer(entries: Sequence[Entry], view: View) -> web.Response:
        return json_response(Resolved(resolution_fact_id=entries[0].event.fact.id))

    return await carry_out(request, raw, command, answer)


def _listing(asked: ConflictsQuery, moment: Moment, access: Access, view: View, node: Node) -> ConflictsPage:
    moment, before = _start(asked, moment, node)
    found: list[Conflict] = []
    for conflict in view.conflicts.newest_first(before):
        if len(found) > asked.limit:
            break
        if _is_asked(conflict, asked, moment.at, view) and all(
            is_readable(side, access) for side in sides_of(conflict, view)
        ):
            found.append(conflict)
    page, has_more = found[: asked.limit], len(found) > asked.limit
    cursor = Cursor(moment=moment, place=page[-1].detected, status=asked.status) if has_more else None
    return ConflictsPage(
        conflicts=[_shown(conflict, moment, view, node) for conflict in page],
        cursor=cursor_text(cursor, "conflicts"),
        has_more=has_more,
    )


def _is_asked(conflict: Conflict, asked: ConflictsQuery, at: At, view: View) -> bool:
    if conflict.detected[0] >= at.size:
        return False
    return asked.status is None or _status(conflict, at, view) == asked.status


def _status(conflict: Conflict, at: At, view: View) -> Status:
    return "unresolved" if view.conflicts.is_open(conflict, at) else "resolved"


def _shown(conflict: Conflict, moment: Moment, view: View, node: Node) -> ShownConflict:
    at, is_past = moment.at, moment.as_of is not None
    first, second = (
        record_of(row_at(side, at.size), view, node, at=at, is_past=is_past) for side in sides_of(conflict, view)
    )
    resolution = view.conflicts.resolution(conflict, at)
    return ShownConflict(
        conflict_id=conflict.conflict_id,
        fact_a=first,
        fact_b=second,
        status=_status(conflict, at, view),
        resolved_by=None if resolution is None else resolution.fact.id,
        detected_at=format_ms(conflict.detected_ms),
    )


def _start(asked: ConflictsQuery, moment: Moment, node: Node) -> tuple[Moment, Place]:
    if not asked.cursor:
        return moment, LAST_PLACE
    cursor = opened_cursor(asked.cursor, Cursor, "conflicts")
    check_moment(moment, cursor.moment.as_of)
    size = cursor.moment.at.size
    is_place = 0 <= cursor.place[0] < size <= node.log.announced().size and 0 <= cursor.place[1] < 2**32
    if cursor.status != asked.status or not is_place:
        raise InvalidCursor(FOREIGN)
    return cursor.moment, cursor.place
