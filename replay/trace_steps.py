"""What a trace is made of: the fact's life, its steps, and how it stands in the end (docs/audit.md)."""

from typing import Literal

from msgspec import Struct

from node.events.facts import Fact, Judgement, Scope, Value
from node.projections.base import Place
from node.projections.fact_rows import FactRow

Verb = Literal[
    "written",
    "written_and_held",
    "written_to_resolve",
    "received",
    "received_and_held",
    "refused",
    "countersigned",
    "admitted",
    "rejected",
    "sealed",
    "became_servable",
    "contradicted",
    "contradiction_resolved",
    "retracted",
    "superseded",
    "put_aside",
    "withdrew",
    "derived_from_it",
    "token_revoked",
    "garden_deleted",
    "in_page",
    "given",
]


class FactRef(Struct, frozen=True, kw_only=True):
    """Another fact that a step names, and where it came in."""

    origin: str
    id: str
    source: str
    value: Value
    confidence: float
    offset: int


class TokenRef(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The capability token that a fact was written under, and where it was issued; only its id where it was not issued here."""

    token_id: str
    issuer: str | None = None
    subject: str | None = None
    verb: str | None = None
    object: str | None = None
    expiry: str | None = None
    issued_offset: int | None = None
    issued_by: str | None = None


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened to the fact; what does not apply is left out."""

    verb: Verb
    by: FactRef | None = None
    facts: tuple[FactRef, ...] = ()
    token: TokenRef | None = None
    judgement: Judgement | None = None
    peer: str | None = None
    nonce: str | None = None
    cursor: str | None = None
    scopes: tuple[Scope, ...] = ()
    garden_id: str | None = None
    conflict_id: str | None = None
    reason: str | None = None


class Standing(Struct, frozen=True, kw_only=True):
    """How the fact stands at the head, expiry judged at the time of the last entry."""

    status: str
    is_contradicted: bool
    garden_id: str | None


class Life:
    """A fact and what has been told of it so far. `fact` is None for what was refused, or signed for a peer, and is not here."""

    def __init__(self, fact: Fact | None, place: Place) -> None:
        self.fact, self.place = fact, place
        self.token_id: str | None = None
        self.servable_at: Place | None = None
        self.is_withdrawn = self.is_put_aside = False
        self.conflicts: dict[str, bool] = {}
        self.given_to: set[str] = set()

    def is_of(self, origin: str, fact_id: str) -> bool:
        return self.fact is not None and (self.fact.origin, self.fact.id.lower()) == (origin, fact_id.lower())


def ref_at(row: FactRow) -> FactRef:
    return ref_of(row.fact, row.place[0])


def ref_of(fact: Fact, offset: int) -> FactRef:
    return FactRef(
        origin=fact.origin,
        id=fact.id,
        source=fact.source,
        value=fact.value,
        confidence=fact.confidence,
        offset=offset,
    )
