"""The audit between nodes, and the whole log as an operator reads it (PROTOCOL §5.7).

Always: newest first, and stable while the log grows: a page begins before the place where the last one ended.
No fact's value and no document is shown here, only what happened, to what, and by whom.

The whole log has no index of its own, which every write would pay for: a page of it ends when it has looked at enough.
"""

from itertools import islice
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from node.commands.decision import Principal
from node.commands.reading import administers_every_scope
from node.errors import InsufficientPermission, InvalidCursor, InvalidParameter, UnsupportedParameter
from node.events import EVENT_TYPES
from node.events.entry import Entry
from node.events.event import Event
from node.events.gardens import GardenMemberRemoved, GardenMemberSet
from node.events.identity import RefusalsCounted
from node.http.auth import operator_of
from node.http.body import decode_query, json_response, time_asked
from node.http.cursors import FOREIGN, cursor_text, opened_cursor
from node.http.describe import ADMIN, describes
from node.http.forms import Count, EventType, Time
from node.http.keys import NODE
from node.http.moments import refuse_as_of
from node.http.subjects import Subject, subject_of
from node.projections.audit import AuditedType, AuditRow
from node.projections.base import LAST_PLACE, Place
from node.projections.federation_page import MAX_PAGE_FACTS
from node.projections.view import View
from node.times import format_ms

# What one page of the log may look at: headers, and items of the entries it shows.
LOG_PAGE_READS = 20_000
_TEXT_CHARS = 1000


class AuditQuery(Struct, frozen=True, kw_only=True):
    """`peer_id` is the peer's id here, or its node_id; `event_type` a type of this audit, which are not those of the log."""

    peer_id: str | None = None
    event_type: AuditedType | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_FACTS)] = 100


class LogQuery(Struct, frozen=True, kw_only=True):
    """`event_type` is a type as the log names it, with or without its version."""

    after: Time | None = None
    before: Time | None = None
    event_type: EventType | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class AuditedEvent(Struct, frozen=True, kw_only=True):
    """One line of the audit. `peer_id` is None where no peer has to do with it."""

    seq: Count
    event_type: str
    reason: str
    peer_id: str | None
    fact_id: str | None
    ts: Time
    hlc: str
    detail: str


class LoggedEvent(AuditedEvent, frozen=True, kw_only=True):
    """One entry of the log: beside what the audit says, what it is about and who caused it."""

    subject: Subject
    principal: str | None
    via: str
    credential: str | None
    trace_id: str | None


class AuditPage(Struct, frozen=True, kw_only=True):
    """Newest first. `entries` are the `events` once more, under the name that today's clients read."""

    events: list[AuditedEvent]
    entries: list[AuditedEvent]
    cursor: str | None
    has_more: bool


class LogPage(Struct, frozen=True, kw_only=True):
    """Newest first; it may be short, or empty, and still say that there is more."""

    events: list[LoggedEvent]
    entries: list[LoggedEvent]
    cursor: str | None
    has_more: bool


@describes(
    "what was refused between nodes, and what became of peers, newest first",
    who=ADMIN,
    query=AuditQuery,
    answers={200: AuditPage},
    refuses=(InvalidCursor, UnsupportedParameter),
)
async def federation_audit(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], _auditor_of(request)
    refuse_as_of(request, "the audit never changes; a cursor leads back in it")
    asked = decode_query(request, AuditQuery)
    before = _place(asked.cursor, _listing(asked))
    return json_response(await node.read(lambda view: _audit_page(asked, before, view)))


@describes(
    "every event of the log, newest first",
    who=ADMIN,
    query=LogQuery,
    answers={200: LogPage},
    refuses=(InvalidCursor, UnsupportedParameter),
)
async def audit_log(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], _auditor_of(request)
    refuse_as_of(request, "the log never changes; before shows it up to a time")
    asked = decode_query(request, LogQuery)
    before, types = _place(asked.cursor, _log_listing(asked))[0], _types_named(asked.event_type)
    after_ms, before_ms = time_asked("after", asked.after), time_asked("before", asked.before)

    def page(view: View) -> LogPage:
        size = node.log.announced().size
        first = 0 if after_ms is None else node.log.first_at(after_ms + 1, size)
        end = size if before_ms is None else node.log.first_at(before_ms, size)
        entries, left = node.log.read_back(
            first, min(before, end), types=types, limit=asked.limit, max_reads=LOG_PAGE_READS
        )
        for entry in entries:
            node.require_undamaged(entry.offset)
        events = [_logged(entry, view) for entry in entries]
        cursor = None if left <= first else cursor_text((left, 0), *_log_listing(asked))
        return LogPage(events=events, entries=events, cursor=cursor, has_more=cursor is not None)

    return json_response(await node.read(page))


def _auditor_of(request: web.Request) -> Principal:
    """An admin who reads every scope: what happened to a fact says that there is one."""
    principal = operator_of(request)
    if not administers_every_scope(principal):
        raise InsufficientPermission("the audit tells of facts in every scope, and the key does not read all")
    return principal


def _audit_page(asked: AuditQuery, before: Place, view: View) -> AuditPage:
    node_id = None if asked.peer_id is None else _node_id_of(asked.peer_id, view)
    rows = list(
        islice(
            view.audit.listed(node_id=node_id, event_type=asked.event_type, before=before),
            asked.limit + 1,
        )
    )
    shown, has_more = rows[: asked.limit], len(rows) > asked.limit
    events = [_audited(place, row, view) for place, row in shown]
    cursor = cursor_text(shown[-1][0], *_listing(asked)) if has_more else None
    return AuditPage(events=events, entries=events, cursor=cursor, has_more=has_more)


def _node_id_of(peer_id: str, view: View) -> str:
    peer = view.peers.by_id(peer_id)
    return peer_id if peer is None else peer.node_id


def _peer_id_of(node_id: str | None, view: View) -> str | None:
    peer = None if node_id is None else view.peers.of_node(node_id)
    return None if peer is None else peer.peer_id


def _audited(place: Place, row: AuditRow, view: View) -> AuditedEvent:
    return AuditedEvent(
        seq=place[0],
        event_type=row.event_type,
        reason=row.reason,
        peer_id=_peer_id_of(row.node_id, view),
        fact_id=row.fact_id,
        ts=format_ms(row.at_ms),
        hlc=row.hlc,
        detail=row.detail,
    )


def _logged(entry: Entry, view: View) -> LoggedEvent:
    event, actor = entry.event, entry.actor
    fact = getattr(event, "fact", None)
    return LoggedEvent(
        seq=entry.offset,
        event_type=entry.type,
        reason=_text(event, "reason") or _text(event, "code"),
        peer_id=_peer_id_of(getattr(event, "node_id", None), view),
        fact_id=getattr(event, "fact_id", None) if fact is None else fact.id,
        ts=format_ms(entry.at_ms),
        hlc=entry.hlc,
        detail=_detail_of(event)[:_TEXT_CHARS],
        subject=subject_of(event),
        principal=actor.principal,
        via=actor.via,
        credential=actor.credential,
        trace_id=actor.trace_id,
    )


def _text(event: object, member: str) -> str:
    return str(getattr(event, member, ""))[:_TEXT_CHARS]


def _detail_of(event: Event) -> str:
    match event:
        case RefusalsCounted(count=count, minute=minute):
            return f"{count} more in the minute of {minute}"
        case GardenMemberSet(entity=entity, role=role):
            return f"{entity}: {role}"
        case GardenMemberRemoved(entity=entity):
            return entity
        case _:
            return ": ".join(filter(None, (_text(event, "subject"), _text(event, "detail"))))


def _types_named(name: str | None) -> frozenset[str] | None:
    """None for all. A name of no type is refused: to whoever mistyped one, an empty list would say that nothing happened."""
    if name is None:
        return None
    named = frozenset(known for known in EVENT_TYPES if name in (known, known.rpartition(".")[0]))
    if not named:
        raise InvalidParameter("event_type: no event type, such as fact.asserted")
    return named


def _listing(asked: AuditQuery) -> tuple[str | None, ...]:
    return "audit", asked.peer_id, asked.event_type


def _log_listing(asked: LogQuery) -> tuple[str | None, ...]:
    return "log", asked.event_type, asked.after, asked.before


def _place(cursor: str | None, listing: tuple[str | None, ...]) -> Place:
    if not cursor:
        return LAST_PLACE
    place = opened_cursor(cursor, Place, *listing)
    if not (0 <= place[0] <= LAST_PLACE[0] and 0 <= place[1] <= LAST_PLACE[1]):
        raise InvalidCursor(FOREIGN)
    return place
