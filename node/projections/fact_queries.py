"""Single facts by name, and pages of facts: filters, authorisation, expiry and withdrawal as of one snapshot (PROTOCOL §2.5).

Always: a page and its total hold only what the caller may read; all pages of one cursor show the state at its first page's offset.
Newest first in log order, or oldest first with `is_ascending`.

Unbounded in what it may scan: call it off the event loop.
"""

import heapq
from collections.abc import Iterator
from operator import attrgetter
from typing import Annotated

from msgspec import Meta, Struct

from node.errors import FactNotFound
from node.events.facts import Fact, Scope
from node.projections import told_facts
from node.projections.access import Access, may_read, readable_at
from node.projections.base import Place
from node.projections.conflicts import At
from node.projections.fact_rows import FactRow, row_at
from node.projections.facts import Facts
from node.projections.view import View
from node.times import parse_rfc3339
from node.uris import normal_relation, normal_uri

EXACT_TOTAL_MAX = 10_000
_CID_PREFIX = "sha256:"


class FactQuery(Struct, frozen=True):
    """What is asked for. URIs in normal form, times in epoch ms, both bounds excluded; `garden_id` is a garden's id."""

    entity: str | None
    relation: str | None
    source: str | None
    scope: Scope | None
    garden_id: str | None
    min_confidence: float | None
    after_ms: int | None
    before_ms: int | None
    includes_expired: bool
    includes_retracted: bool
    includes_contradicted: bool
    is_ascending: bool


class Snapshot(Struct, frozen=True, array_like=True):
    """What fixes a listing: the log size it looks at, the time by which expiry is judged, and the total once counted."""

    size: Annotated[int, Meta(ge=0)]
    now_ms: Annotated[int, Meta(ge=0, le=2**53)]
    total: Annotated[int, Meta(ge=0, le=EXACT_TOTAL_MAX + 1)] | None


class FactPage(Struct, frozen=True, kw_only=True):
    """`total` counts up to EXACT_TOTAL_MAX; `last` is the place to go on from, None at the end."""

    rows: list[FactRow]
    total: int
    last: Place | None


def page_of(
    view: View, query: FactQuery, access: Access, snapshot: Snapshot, *, limit: int, after: Place | None
) -> FactPage:
    """Up to `limit` matching rows behind `after` in the listing's direction."""
    rows: list[FactRow] = []
    has_more = False
    for row in _matching(view, query, access, snapshot, after):
        if len(rows) == limit:
            has_more = True
            break
        rows.append(row_at(row, snapshot.size))
    if snapshot.total is not None:
        total = snapshot.total
    else:
        # Whoever sees the end of a first page has seen all there is.
        total = len(rows) if after is None and not has_more else _total(view, query, access, snapshot)
    return FactPage(rows=rows, total=total, last=rows[-1].place if has_more and rows else None)


def may_be_many(name: str) -> bool:
    """Whether any number of facts may bear that name, and none of them be readable: a CID."""
    return name.startswith(_CID_PREFIX)


def find_fact(name: str, access: Access, view: View, at: At) -> FactRow:
    """The fact of an id, or the newest readable one of a CID. Raises FactNotFound alike for none and for none to be read."""
    is_cid = name.startswith(_CID_PREFIX)
    for stored in view.facts.by_cid(name) if is_cid else view.facts.all_by_id(name):
        row = readable_at(stored, access, at.size)
        if row is not None and (row.shown_from is not None or not is_cid):
            return row
    told = told_facts.told_by_id(view, at, name)
    if told is not None and may_read(told, view, access):
        return told
    raise FactNotFound("there is no such fact")


def is_narrow(view: View, entity: str) -> bool:
    """Whether a listing looks at so few rows, whatever else it asks for, that the loop may wait for it. In normal form.

    Of up to 64 KiB each: some milliseconds at worst, and far less than going to a thread costs where they are small.
    """
    return not told_facts.may_be_told_of(entity) and view.facts.few_about(entity) is not None


def is_expired(fact: Fact, now_ms: int) -> bool:
    return fact.valid_until is not None and parse_rfc3339(fact.valid_until) <= now_ms


def _total(view: View, query: FactQuery, access: Access, snapshot: Snapshot) -> int:
    total = 0
    for _ in _matching(view, query, access, snapshot, None):
        total += 1
        if total > EXACT_TOTAL_MAX:
            break
    return total


def _matching(
    view: View, query: FactQuery, access: Access, snapshot: Snapshot, after: Place | None
) -> Iterator[FactRow]:
    size, at = snapshot.size, At(snapshot.size, snapshot.now_ms)
    for row in _candidates(view, query, snapshot, after):
        if (
            row.shown_from is not None
            and row.shown_from[0] < size
            and _has_asked_form(row, query)
            and may_read(row, view, access)
            and (query.includes_expired or row.fact.valid_until is None or not is_expired(row.fact, snapshot.now_ms))
            and (query.includes_retracted or _stands(view.facts, row, snapshot))
            and (query.includes_contradicted or view.conflicts.standing(row, at).is_shown)
        ):
            yield row


def _candidates(view: View, query: FactQuery, snapshot: Snapshot, after: Place | None) -> Iterator[FactRow]:
    entity, relation, source = query.entity, query.relation, query.source
    if query.is_ascending:
        behind = after or (0, 0)
        said = view.facts.indexed_forward(
            entity=entity, relation=relation, source=source, after=behind, end=snapshot.size
        )
    else:
        before = after or (snapshot.size, 0)
        said = view.facts.indexed(entity=entity, relation=relation, source=source, before=before)
    # Through a merge each fact would take longer, also where there is nothing to merge it with.
    if not told_facts.is_asked_for(entity, relation, source):
        return said
    names = {"entity": entity, "relation": relation, "source": source}
    at = At(snapshot.size, snapshot.now_ms)
    if query.is_ascending:
        told = told_facts.told_forward(view, at, **names, after=behind)
    else:
        told = told_facts.told(view, at, **names, before=before)
    return heapq.merge(said, told, key=attrgetter("place"), reverse=not query.is_ascending)


def _has_asked_form(row: FactRow, query: FactQuery) -> bool:
    fact = row.fact
    # Nearly all names were given in their normal form.
    return (
        (query.relation in (None, fact.relation) or normal_relation(fact.relation) == query.relation)
        and (query.scope is None or fact.scope == query.scope)
        and (query.garden_id is None or row.garden_id == query.garden_id)
        and (query.min_confidence is None or fact.confidence >= query.min_confidence)
        and (query.entity in (None, fact.entity) or normal_uri(fact.entity) == query.entity)
        and (query.source in (None, fact.source) or normal_uri(fact.source) == query.source)
        and ((query.after_ms is None and query.before_ms is None) or _is_between(fact, query))
    )


def _is_between(fact: Fact, query: FactQuery) -> bool:
    at_ms = parse_rfc3339(fact.timestamp)
    return (query.after_ms is None or at_ms > query.after_ms) and (query.before_ms is None or at_ms < query.before_ms)


def _stands(facts: Facts, row: FactRow, snapshot: Snapshot) -> bool:
    if row.fact.confidence == 0.0:
        return False
    withdrawal = facts.withdrawal(row.place)
    return withdrawal is None or withdrawal.by[0] >= snapshot.size
