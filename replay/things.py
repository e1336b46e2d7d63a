"""The things that events are about, as an audit names them: each with its kind, its id and what became of it (docs/audit.md).

Does not hold a fact's value: an audit tells that something was said, a trace tells what (see `trace.py`).
"""

from typing import Literal

from msgspec import Struct

from node.events.facts import Fact

Kind = Literal[
    "node",
    "node_key",
    "admin_key",
    "manifest",
    "settings",
    "request",
    "garden",
    "fact",
    "conflict",
    "token",
    "api_key",
    "peer",
    "principal",
    "checkpoint",
    "entity",
]


class FactName(Struct, frozen=True, kw_only=True):
    """What a fact is known by between nodes."""

    origin: str
    id: str


class Thing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that an event is about. `role` is what became of it there; what does not apply is left out.

    `sides` are the two facts of a contradiction.
    """

    kind: Kind
    id: str
    role: str
    origin: str | None = None
    entity: str | None = None
    relation: str | None = None
    source: str | None = None
    scope: str | None = None
    cid: str | None = None
    fact_hash: str | None = None
    garden_id: str | None = None
    received_from: str | None = None
    derived_from: tuple[str, ...] = ()
    sides: tuple[FactName, ...] = ()
    subject: str | None = None
    reason: str | None = None


def fact_thing(fact: Fact, role: str, *, garden_id: str | None = None, reason: str | None = None) -> Thing:
    return Thing(
        kind="fact",
        id=fact.id,
        role=role,
        origin=fact.origin,
        entity=fact.entity,
        relation=fact.relation,
        source=fact.source,
        scope=fact.scope,
        cid=fact.cid,
        fact_hash=fact.fact_hash,
        garden_id=garden_id or fact.garden_id,
        received_from=fact.received_from,
        derived_from=fact.derived_from,
        reason=reason,
    )
