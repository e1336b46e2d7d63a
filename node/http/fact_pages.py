"""Pages of facts over HTTP: what may be asked for, and the cursor that leads on (PROTOCOL §2.5).

Always: a cursor goes with what was asked for; all its pages show the state at its first page's offset, with one total.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from node.commands.roles import find_garden, is_known
from node.errors import GardenForbidden, GardenNotFound, InvalidCursor, InvalidField, InvalidParameter, InvalidUri
from node.events.facts import Scope
from node.http.body import time_asked
from node.http.cursors import FOREIGN, cursor_text, opened_cursor
from node.http.forms import AsOf, Count, Entity, Name, Relation, Source, Time
from node.http.moments import Moment, check_moment
from node.http.records import Record, new_record_of
from node.projections.access import Access
from node.projections.base import Place
from node.projections.conflicts import At
from node.projections.fact_queries import EXACT_TOTAL_MAX, FactQuery, Snapshot, is_narrow, page_of
from node.projections.fact_rows import FactRow
from node.projections.view import View
from node.runtime import Node
from node.uris import normal_relation, normal_uri


class FactsQuery(Struct, frozen=True, kw_only=True):
    """The parameters of GET /v1/facts (PROTOCOL §2.5)."""

    entity: Entity | None = None
    relation: Relation | None = None
    source: Source | None = None
    scope: Scope | None = None
    garden_id: Name | None = None
    min_confidence: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    after: Time | None = None
    before: Time | None = None
    include_contradicted: bool = False
    include_expired: bool = False
    include_retracted: bool = False
    as_of: AsOf | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    order: Literal["desc", "asc"] = "desc"


class FactsPage(Struct, frozen=True, kw_only=True):
    """`total` counts all that was asked for, up to 10,000; of more it says so with `total_is_minimum`."""

    facts: list[Record]
    total: Count
    cursor: str | None
    has_more: bool
    total_is_minimum: bool | UnsetType = UNSET


class Page(Struct, frozen=True, kw_only=True):
    """The facts of a page as its snapshot has them, how many match in all (at most EXACT_TOTAL_MAX + 1), and where to go on."""

    rows: list[FactRow]
    at: At
    is_past: bool
    total: int
    cursor: str | None

    @property
    def counted(self) -> int:
        return min(self.total, EXACT_TOTAL_MAX)

    @property
    def is_counted_in_part(self) -> bool | UnsetType:
        """True where there are more than were counted; else there is nothing to say."""
        return True if self.total > EXACT_TOTAL_MAX else UNSET


class Cursor(Struct, frozen=True, array_like=True):
    """A place in a listing: the snapshot of its first page, the last place shown, its `as_of`, and digests of what was asked and of
    what its reader might read: to another one, or after a change of rights, the snapshot's total says nothing.
    """

    snapshot: Snapshot
    place: Place
    asked: int
    as_of: str | None
    access: int


def shown_page(page: Page, view: View, node: Node) -> FactsPage:
    """The answer of GET /v1/facts. Raises LogDamaged where the log has other facts there."""
    node.vouch_for(page.rows)
    records = [new_record_of(row, view, node, at=page.at, is_past=page.is_past) for row in page.rows]
    return FactsPage(
        facts=records,
        total=page.counted,
        cursor=page.cursor,
        has_more=page.cursor is not None,
        total_is_minimum=page.is_counted_in_part,
    )


def is_small(asked: FactsQuery, view: View) -> bool:
    """Whether the answer is made of so few facts that the loop may make it. Raises InvalidParameter."""
    return asked.entity is not None and is_narrow(view, _name("entity", asked.entity))


def page_asked(asked: FactsQuery, moment: Moment, access: Access, view: View, node: Node) -> Page:
    """One page. Raises InvalidParameter, InvalidCursor, GardenForbidden."""
    cursor = _opened(asked.cursor, moment, node) if asked.cursor else None
    snapshot = Snapshot(moment.at.size, moment.at.now_ms, None) if cursor is None else _snapshot_of(cursor, access)
    as_of = moment.as_of if cursor is None else cursor.as_of
    query = _query(asked, access, view, size=None if as_of is None else snapshot.size)
    if cursor is not None and cursor.asked != _digest(query):
        raise InvalidCursor(FOREIGN)
    found = page_of(view, query, access, snapshot, limit=asked.limit, after=None if cursor is None else cursor.place)
    following = None
    if found.last is not None:
        counted = structs.replace(snapshot, total=found.total)
        following = cursor_text(Cursor(counted, found.last, _digest(query), as_of, _digest_of_access(access)), "facts")
    return Page(
        rows=found.rows,
        at=At(snapshot.size, snapshot.now_ms),
        is_past=as_of is not None,
        total=found.total,
        cursor=following,
    )


def _query(asked: FactsQuery, access: Access, view: View, *, size: int | None) -> FactQuery:
    # In the order of the class: names take longer to match.
    return FactQuery(
        None if asked.entity is None else _name("entity", asked.entity),
        None if asked.relation is None else _relation(asked.relation),
        None if asked.source is None else _name("source", asked.source),
        asked.scope,
        None if asked.garden_id is None else _garden_id(asked.garden_id, access, view, size),
        asked.min_confidence,
        time_asked("after", asked.after),
        time_asked("before", asked.before),
        asked.include_expired,
        asked.include_retracted,
        asked.include_contradicted,
        asked.order == "asc",
    )


def _garden_id(name: str, access: Access, view: View, size: int | None) -> str:
    if not name:
        raise InvalidParameter("garden_id: an id, a slug or a URI")
    # Not there and not yours read alike (PROTOCOL §6.1).
    try:
        garden = find_garden(name, view, size=size)
    except GardenNotFound as error:
        raise GardenForbidden("garden_id: no such garden, or not yours") from error
    if not is_known(garden, access):
        raise GardenForbidden("garden_id: no such garden, or not yours")
    return garden.id


def _name(parameter: str, text: str) -> str:
    try:
        return normal_uri(text)
    except InvalidUri as error:
        raise InvalidParameter(f"{parameter}: not a name that a fact can carry") from error


def _relation(text: str) -> str:
    try:
        return normal_relation(text)
    except InvalidField as error:
        raise InvalidParameter("relation: not one that a fact can carry") from error


def _snapshot_of(cursor: Cursor, access: Access) -> Snapshot:
    # Counted under the rights of whoever asked for the first page (PROTOCOL §2.5).
    is_own = cursor.access == _digest_of_access(access)
    return cursor.snapshot if is_own else structs.replace(cursor.snapshot, total=None)


def _digest(asked: object) -> int:
    return int.from_bytes(msgspec.msgpack.encode(asked), "big") % (2**61 - 1)


def _digest_of_access(access: Access) -> int:
    gardens = None if access.gardens is None else sorted(access.gardens)
    return _digest((access.scopes, access.entity_prefix, gardens))


def _opened(text: str, moment: Moment, node: Node) -> Cursor:
    cursor = opened_cursor(text, Cursor, "facts")
    check_moment(moment, cursor.as_of)
    is_size = 0 <= cursor.snapshot.size <= node.log.announced().size
    if not (is_size and 0 <= cursor.place[0] < cursor.snapshot.size and 0 <= cursor.place[1] < 2**32):
        raise InvalidCursor(FOREIGN)
    return cursor
