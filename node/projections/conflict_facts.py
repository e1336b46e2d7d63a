"""What the node itself says about conflicts: facts that nobody wrote, read like others and never served to peers (PROTOCOL §2.6).

`stigmem:conflict:between` and `stigmem:conflict:status` are about the conflict, `stigmem:resolves` about the fact that settled it.

Always: they follow from the conflict's record and the reader's time, so they are made when read and stored nowhere.
They are found by entity, relation, source or id; a listing that names none of these has the facts that somebody asserted alone.
"""

from collections.abc import Iterator

from msgspec import structs

from node.canonical import fact_hash
from node.events.facts import Fact, Value, ValueType, body_of, cid_of
from node.projections.base import LAST_PLACE, Place
from node.projections.conflicts import BETWEEN, PREFIX, RESOLVES, STATUS, At, Conflict
from node.projections.fact_rows import FactRow
from node.projections.view import View
from node.times import format_ms
from node.uris import RESERVED_SOURCE, is_uuid, named_uuid, uuid_bytes, uuid_text

_RELATIONS = (BETWEEN, STATUS, RESOLVES)
# Behind every fact that one event can bring.
_FIRST_INDEX = 1 << 31


def told(
    view: View, at: At, *, entity: str | None, relation: str | None, source: str | None, before: Place = LAST_PLACE
) -> Iterator[FactRow]:
    """What there is to say of the conflicts that these names reach, newest first; the caller filters by what it asked for."""
    if source not in (None, RESERVED_SOURCE) or (relation is not None and relation not in _RELATIONS):
        return
    if entity is None and relation is None and source is None:
        return
    for conflict in _conflicts(view, entity):
        if conflict.detected[0] < at.size:
            for row in reversed(rows_of(conflict, at, view)):
                if row.place < before:
                    yield row


def told_by_id(view: View, at: At, fact_id: str) -> FactRow | None:
    """The one of that id."""
    conflict = view.conflicts.telling(fact_id)
    rows = [] if conflict is None else rows_of(conflict, at, view)
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
    if conflict.resolved_by is not None and conflict.resolved_by[0] < at.size:
        said.append((view.facts.at(conflict.resolved_by).fact.id, RESOLVES, "ref", conflict.conflict_id))
    return [_row(conflict, number, sides[0], view, *words) for number, words in enumerate(said)]


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
    conflict: Conflict, number: int, side: FactRow, view: View, entity: str, relation: str, kind: ValueType, v: str
) -> FactRow:
    birth = view.identity.birth()
    fact = Fact(
        id=uuid_text(named_uuid(uuid_bytes(conflict.conflict_id.removeprefix(PREFIX)), relation)),
        entity=entity,
        relation=relation,
        value=Value(type=kind, v=v, interpret_as="content"),
        source=RESERVED_SOURCE,
        timestamp=format_ms(conflict.detected_ms),
        hlc=conflict.hlc,
        confidence=1.0,
        scope=side.fact.scope,
        valid_until=None,
        garden_id=side.garden_id,
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
    place = (conflict.detected[0], _FIRST_INDEX + 4 * conflict.detected[1] + number)
    stated = _with_hashes(fact)
    return FactRow(place, stated, (conflict.detected[0], 0), side.garden_id, None, None, None)


def _with_hashes(fact: Fact) -> Fact:
    return structs.replace(fact, cid=cid_of(fact), fact_hash=fact_hash(body_of(fact)))
