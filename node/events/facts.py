"""Facts as they enter the log, and the event of one being asserted here."""

from typing import Literal, Protocol

from msgspec import Struct

from node.canonical import fact_body, fact_cid, seal_message, value_text
from node.events.event import Event

Scope = Literal["local", "team", "company", "public"]
ValueType = Literal["string", "text", "number", "boolean", "datetime", "ref", "null"]
Interpretation = Literal["content", "instruction"]
TrustMode = Literal["strict", "relaxed", "off"]


class Value(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A typed value (PROTOCOL §2.1). `v` is None for `null` and only there; a number is always a float."""

    type: ValueType
    v: str | float | bool | None
    interpret_as: Interpretation


class Resolution(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a resolution fact settles (PROTOCOL §2.6); sealed, so it is part of the fact from the first version on."""

    conflict_id: str
    superseded: tuple[str, ...]


class Fact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A fact record as it was when it entered this log (PROTOCOL §2.2); what later happens to it is in later events.

    Like its value it can be part of no cycle, and is held by the thousand: the collector of cycles need not know of it.

    `fact_hash` is the hex SHA-256 of the fact body, `hlc` the origin's, `received_from` None where it was written here.
    """

    id: str
    entity: str
    relation: str
    value: Value
    source: str
    timestamp: str
    hlc: str
    confidence: float
    scope: Scope
    valid_until: str | None
    garden_id: str | None
    received_from: str | None
    supersedes: tuple[str, ...]
    resolves: Resolution | None
    origin: str
    seal: str | None
    source_trust: float | None
    derived_from: tuple[str, ...]
    attestation_chain: tuple[str, ...]
    attestation_chain_issuers: tuple[str, ...]
    attestation_verified: tuple[bool, ...]
    cid: str
    fact_hash: str
    warnings: tuple[str, ...]


class Stated(Protocol):
    """Whatever states a fact: a draft, a fact in the log."""

    entity: str
    relation: str
    value: Value
    source: str
    timestamp: str
    confidence: float
    scope: Scope


def body_of(stated: Stated) -> bytes:
    """The bytes that an attestation signs (PROTOCOL §2.4)."""
    return fact_body(
        entity=stated.entity,
        relation=stated.relation,
        value_type=stated.value.type,
        value_v=stated.value.v,
        interpret_as=stated.value.interpret_as,
        scope=stated.scope,
        source=stated.source,
        confidence=stated.confidence,
        timestamp=stated.timestamp,
    )


def cid_of(stated: Stated, number_text: str | None = None) -> str:
    """The CID (PROTOCOL §2.3); `number_text` is another spelling of a number's text than ours."""
    return fact_cid(
        confidence=stated.confidence,
        entity=stated.entity,
        relation=stated.relation,
        scope=stated.scope,
        source=stated.source,
        value_type=stated.value.type,
        value_v=value_text(stated.value.type, stated.value.v) if number_text is None else number_text,
    )


def recomputed_cid(stated: Stated, cid: str | None) -> str:
    """The CID made anew, in the spelling of `cid` where that is one: some nodes hash a number's integer text (PROTOCOL §2.3)."""
    computed = cid_of(stated)
    if cid in (None, computed) or stated.value.type != "number":
        return computed
    text = value_text(stated.value.type, stated.value.v)
    as_integer = cid_of(stated, text.removesuffix(".0"))
    return as_integer if as_integer == cid else computed


def sealed_bytes(fact: Fact) -> bytes:
    """What a fact's seal is a signature over (PROTOCOL §2.4)."""
    return seal_message(
        origin=fact.origin,
        id=fact.id,
        hlc=fact.hlc,
        fact_hash=fact.fact_hash,
        valid_until=fact.valid_until,
        derived_from=fact.derived_from,
        supersedes=fact.supersedes,
        resolves=fact.resolves,
    )


class Judgement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a source was trusted when its fact came in, term by term, and the rules then in force (PROTOCOL §7).

    `rule` is `weighted`, `first_contact` (the history term alone counts) or `blocked` (by the block list or a `never` rule); terms
    are unweighted, 0..1. `threshold` is the one for this source: 0 under an `always` rule.
    """

    t: float
    identity: float
    history: float
    scope_authority: float
    attestation: float
    weights: tuple[float, float, float, float]
    rule: Literal["weighted", "first_contact", "blocked"]
    mode: TrustMode
    threshold: float


class FactAsserted(Event, tag="fact.asserted.1"):
    """A fact was written here and stands among the facts. `judgement` is None where trust is off or the source is
    our own: then the score decides nothing.

    All of it is about the one fact, so it is one item: every write commits to it, hashes it and stores it.
    """

    judgement: Judgement | None
    fact: Fact


class Seal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fact of this node's own and the seal it was given later, base64url."""

    fact_id: str
    seal: str


class FactsSealed(Event, tag="facts.sealed.1"):
    """Facts written while the node exchanged nothing with anybody were sealed, so that peers may be given them."""

    origin: str
    seals: tuple[Seal, ...]
