"""What the node itself says: facts that nobody wrote, read like others and never served to peers (PROTOCOL §2.6, §5.5).

`stigmem:conflict:between` and `stigmem:conflict:status` are about a conflict, `stigmem:resolves` about the fact that settled it;
`stigmem:received_from` is about a fact that a peer brought, and is found by that fact's id as its entity; its scope is `local`.

Always: they follow from what is stored and the reader's time, so they are made when read and stored nowhere.
Always: who may not read what one is about may not read it either (`subject_of`).
They are found by entity, relation, source or id; a listing that names none of these has the facts that somebody asserted alone.
"""

import heapq
from collections.abc import Iterator
from operator import attrgetter

from msgspec import structs

from node.canonical import fact_hash
from node.events.facts import Fact, Scope, Value, ValueType, body_of, cid_of
from node.projections.base import LAST_PLACE, Place
from node.projections.conflicts import BETWEEN, PREFIX, RESOLVES, STATUS, At, Conflict
from node.projections.fact_rows import FactRow
from node.projections.view import View
from node.times import format_ms
from node.uris import RESERVED_SOURCE, is_uuid, named_uuid, uuid_bytes, uuid_text

RECEIVED_FROM = "stigmem:received_from"
_RELATIONS = (BETWEEN, STATUS, RESOLVES, RECEIVED_FROM)
# Behind every fact that one event can bring.
_FIRST_INDEX = 1 << 31
_FIRST_RECEIVED_INDEX = 3 << 30
_UUID_CHARS = 36


def is_told(row: FactRow) -> bool:
    """Whether the row is one of these, which no entry brought."""
    return row.place[1] >= _FIRST_INDEX


def told(
    view: View, at: At, *, entity: str | None, relation: str | None, source: str | None, before: Place = LAST_PLACE
) -> Iterator[FactRow]:
    """What there is to say where it `is_asked_for` by these names, newest first; the caller filters by what it asked for."""
    if entity is not None:
        found = [*_received(view, at, entity), *_of_conflicts(view, at, entity)]
        yield from sorted((row for row in found if row.place < before), key=attrgetter("place"), reverse=True)
        return
    streams = [_received_before(view, at, before)] if relation in (None, RECEIVED_FROM) else []
    if relation != RECEIVED_FROM:
        streams.append(row for row in _of_conflicts(view, at, None) if row.place < before)
    yield from heapq.merge(*streams, key=attrgetter("place"), reverse=True)


def told_forward(
    view: View, at: At, *, entity: str | None, relation: str | None, source: str | None, after: Place
) -> Iterator[FactRow]:
    """The same oldest first, behind a place."""
    if entity is not None:
        rows = list(told(view, at, entity=entity, relation=relation, source=source))
        yield from (row for row in reversed(rows) if row.place > after)
        return
    streams = [_received_behind(view, at, after)] if relation in (None, RECEIVED_FROM) else []
    if relation != RECEIVED_FROM:
        streams.append(row for row in reversed(list(_of_conflicts(view, at, None))) if row.place > after)
    yield from heapq.merge(*streams, key=attrgetter("place"))


def may_be_told_of(entity: str) -> bool:
    """Whether the node may have something to say of an entity of that name."""
    return entity.startswith(PREFIX) or (len(entity) == _UUID_CHARS and is_uuid(entity))


def is_asked_for(entity: str | None, relation: str | None, source: str | None) -> bool:
    """Whether a listing of what these names reach may hold any of these facts. In normal form."""
    if source not in (None, RESERVED_SOURCE) or relation not in (None, *_RELATIONS):
        return False
    if entity is None:
        return relation is not None or source is not None
    return may_be_told_of(entity)


def subject_of(row: FactRow, view: View) -> FactRow | None:
    """The fact that one says from whom it came; None for whatever else there is to read."""
    offset, index = row.place
    return view.facts.at((offset, index - _FIRST_RECEIVED_INDEX)) if index >= _FIRST_RECEIVED_INDEX else None


def told_by_id(view: View, at: At, fact_id: str) -> FactRow | None:
    """The one of that id."""
    conflict, key = view.conflicts.telling(fact_id), uuid_bytes(fact_id)
    if key is not None and conflict is None:
        return next(_received(view, at, uuid_text(_other_version(key))), None)
    rows = [] if conflict is None or conflict.detected[0] >= at.size else rows_of(conflict, at, view)
    return next((row for row in rows if row.fact.id == fact_id.lower()), None)


def rows_of(conflict: Conflict, at: At, view: View) -> list[FactRow]:
    """The facts about one conflict, in the order of their places."""
    sides = [view.facts.at(place) for place in conflict.facts]
    status = "unresolved" if view.conflicts.is_open(conflict, at) else "resolved"
    between = " ".join(side.fact.id.lower() for side in sides)
    said: list[tuple[str, str, ValueType, str]] = [
        (conflict.conflict_id, BETWEEN, "text", between),
        (conflict.conflict_id, STATUS, "string", status),
    ]
    resolution = view.conflicts.resolution(conflict, at)
    if resolution is not None:
        said.append((resolution.fact.id, RESOLVES, "ref", conflict.conflict_id))
    rows = []
    for number, words in enumerate(said):
        made = uuid_text(named_uuid(uuid_bytes(conflict.conflict_id.removeprefix(PREFIX)), words[1]))
        place = (conflict.detected[0], _FIRST_INDEX + 4 * conflict.detected[1] + number)
        # Who may not read the one side may not be told of it by way of the other.
        about = next((side for side in sides if side.hidden), sides[0])
        rows.append(_row(made, format_ms(conflict.detected_ms), conflict.hlc, place, about, view, *words))
    return rows


def _of_conflicts(view: View, at: At, entity: str | None) -> Iterator[FactRow]:
    for conflict in _conflicts(view, entity):
        if conflict.detected[0] < at.size:
            yield from reversed(rows_of(conflict, at, view))


def _received(view: View, at: At, entity: str) -> Iterator[FactRow]:
    """From whom the facts of that id came; nothing of one that is not shown."""
    rows = (_received_row(row, at, view) for row in view.facts.all_by_id(entity))
    return (row for row in rows if row is not None)


def _received_before(view: View, at: At, before: Place) -> Iterator[FactRow]:
    """The same of all facts, newest first, by a walk over what there is down to the first that a peer brought."""
    end = (before[0], max(0, before[1] - _FIRST_RECEIVED_INDEX))
    return _received_among(view.facts.indexed(entity=None, relation=None, source=None, before=end), at, view)


def _received_behind(view: View, at: At, after: Place) -> Iterator[FactRow]:
    if after[1] >= _FIRST_RECEIVED_INDEX:
        start = (after[0], after[1] - _FIRST_RECEIVED_INDEX)
    else:
        start = (after[0] - 1, LAST_PLACE[1]) if after[0] else after
    rows = view.facts.indexed_forward(entity=None, relation=None, source=None, after=start, end=at.size)
    return _received_among(rows, at, view)


def _received_among(rows: Iterator[FactRow], at: At, view: View) -> Iterator[FactRow]:
    # No index: every fact that comes in would pay for it. Once as many were met as peers ever brought, there are no more.
    missing = sum(peer.accepted + peer.held for peer in view.peers.all())
    while missing and (row := next(rows, None)) is not None:
        missing -= row.fact.received_from is not None
        said = _received_row(row, at, view)
        if said is not None:
            yield said


def _received_row(row: FactRow, at: At, view: View) -> FactRow | None:
    is_shown = row.shown_from is not None and row.shown_from[0] < at.size
    if row.fact.received_from is None or not is_shown:
        return None
    place = (row.place[0], _FIRST_RECEIVED_INDEX + row.place[1])
    made = uuid_text(_other_version(uuid_bytes(row.fact.id)))
    said = (row.fact.id, RECEIVED_FROM, "ref", row.fact.received_from)
    # PROTOCOL §5.5: a local fact, whatever the scope of what it is about.
    return _row(made, row.fact.timestamp, row.fact.hlc, place, row, view, *said, scope="local")


def _other_version(fact_id: bytes) -> bytes:
    """The id of what is said about a fact, and back: the fact's own but for the bits that name its version."""
    return fact_id[:6] + bytes([fact_id[6] ^ 0xF0]) + fact_id[7:]


def _conflicts(view: View, entity: str | None) -> Iterator[Conflict]:
    if entity is None:
        yield from view.conflicts.newest_first()
    elif entity.startswith(PREFIX):
        found = view.conflicts.by_id(entity)
        if found is not None:
            yield found
    elif is_uuid(entity):
        yield from view.conflicts.resolved_by(entity)


def _row(
    fact_id: str,
    timestamp: str,
    hlc: str,
    place: Place,
    about: FactRow,
    view: View,
    entity: str,
    relation: str,
    kind: ValueType,
    v: str,
    *,
    scope: Scope | None = None,
) -> FactRow:
    """A fact of the node's own, in the scope of the row it is about unless in one of its own."""
    birth = view.identity.birth()
    fact = Fact(
        id=fact_id,
        entity=entity,
        relation=relation,
        value=Value(type=kind, v=v, interpret_as="content"),
        source=RESERVED_SOURCE,
        timestamp=timestamp,
        hlc=hlc,
        confidence=1.0,
        scope=scope or about.fact.scope,
        valid_until=None,
        garden_id=about.garden_id,
        received_from=None,
        supersedes=(),
        resolves=None,
        origin="" if birth is None else birth.node_id,
        seal=None,
        source_trust=None,
        derived_from=(),
        attestation_chain=(),
        attestation_chain_issuers=(),
        attestation_verified=(),
        cid="",
        fact_hash="",
        warnings=(),
    )
    stated = structs.replace(fact, cid=cid_of(fact), fact_hash=fact_hash(body_of(fact)))
    return FactRow(place, stated, (place[0], 0), about.garden_id, None, None, None, None, None, about.hidden)
