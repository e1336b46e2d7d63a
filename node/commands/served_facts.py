"""A fact as other nodes get it, pulled or pushed (PROTOCOL §5.3).

Always: what this node thinks of a fact (contradicted, trust, quarantine, garden, offset) never leaves with it.
"""

from msgspec import UNSET, Struct, UnsetType

from node.events.facts import Fact, Interpretation, Resolution, Scope, Value, ValueType, cid_of


class ShownValue(Struct, frozen=True, kw_only=True):
    """A value on the wire: no `v` for null (foreign nodes are sent one), `interpret_as` only where it is an instruction."""

    type: ValueType
    v: str | float | bool | UnsetType | None = UNSET
    interpret_as: Interpretation | UnsetType = UNSET


class ServedFact(Struct, frozen=True, kw_only=True):
    """Exactly the members that a served fact has; `hlc` may be left out for a foreign node."""

    id: str
    entity: str
    relation: str
    value: ShownValue
    source: str
    timestamp: str
    hlc: str | UnsetType
    confidence: float
    scope: Scope
    valid_until: str | None
    cid: str
    derived_from: tuple[str, ...]
    supersedes: tuple[str, ...]
    resolves: Resolution | None
    attestation_chain: tuple[str, ...]
    attestation_chain_issuers: tuple[str, ...]
    origin: str
    seal: str | None
    received_from: None = None


def shown_value(value: Value) -> ShownValue:
    return ShownValue(
        type=value.type,
        v=UNSET if value.v is None else value.v,
        interpret_as=value.interpret_as if value.interpret_as == "instruction" else UNSET,
    )


def served_fact(fact: Fact) -> ServedFact:
    return ServedFact(
        id=fact.id,
        entity=fact.entity,
        relation=fact.relation,
        value=shown_value(fact.value),
        source=fact.source,
        timestamp=fact.timestamp,
        hlc=fact.hlc,
        confidence=fact.confidence,
        scope=fact.scope,
        valid_until=fact.valid_until,
        # A received number may carry another spelling's CID, which no reader of ours would arrive at (PROTOCOL §2.3).
        cid=fact.cid if fact.received_from is None else cid_of(fact),
        derived_from=fact.derived_from,
        supersedes=fact.supersedes,
        resolves=fact.resolves,
        attestation_chain=fact.attestation_chain,
        attestation_chain_issuers=fact.attestation_chain_issuers,
        origin=fact.origin,
        seal=fact.seal,
    )
