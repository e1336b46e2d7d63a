"""A fact as the API shows it (PROTOCOL §2.2): the record, with what the node thinks of it now.

Always: effective confidence uses live trust for what other organisations say, the trust recorded with the fact where the past is
read, and the stated confidence for our own word.
"""

from msgspec import UNSET, Struct, UnsetType

from node.commands.attestations import is_attested_by_source
from node.commands.decision import rules_in_force
from node.commands.served_facts import ShownValue, shown_value
from node.commands.trust import judge
from node.events.facts import Fact, Scope
from node.http.moments import now_at
from node.projections.conflicts import At
from node.projections.fact_rows import FactRow
from node.projections.view import View
from node.runtime import Node
from node.uris import normal_uri, origin_of


class Record(Struct, frozen=True, kw_only=True):
    """The record of a fact. `asserted_confidence` is there for a rejected one, whose confidence reads 0."""

    id: str
    entity: str
    relation: str
    value: ShownValue
    source: str
    timestamp: str
    hlc: str
    confidence: float
    scope: Scope
    valid_until: str | None
    garden_id: str | None
    received_from: str | None
    contradicted: bool
    supersedes: tuple[str, ...]
    origin: str
    seal: str | None
    source_trust: float | None
    effective_confidence: float
    quarantine_status: str | None
    quarantine_garden_id: str | None
    quarantine_reason: str | None
    derived_from: tuple[str, ...]
    attestation_chain: tuple[str, ...]
    attestation_chain_issuers: tuple[str, ...]
    attestation_verified: tuple[bool, ...]
    cid: str
    log_offset: int
    warnings: tuple[str, ...]
    asserted_confidence: float | UnsetType = UNSET


def record_of(row: FactRow, view: View, node: Node, *, at: At | None = None, is_past: bool = False) -> Record:
    """The record of a fact as the view stands, or stood `at` a snapshot (the row is of it too); `is_past` under `as_of`.

    Raises LogDamaged where the log has another fact there.
    """
    node.vouch_for((row,))
    return new_record_of(row, view, node, at=at, is_past=is_past)


def new_record_of(row: FactRow, view: View, node: Node, *, at: At | None = None, is_past: bool = False) -> Record:
    """The record of a fact that comes from its entry itself, which may still be on its way to disk."""
    fact, is_rejected = row.fact, row.quarantine_status == "rejected"
    return Record(
        id=fact.id,
        entity=fact.entity,
        relation=fact.relation,
        value=shown_value(fact.value),
        source=fact.source,
        timestamp=fact.timestamp,
        hlc=fact.hlc,
        confidence=0.0 if is_rejected else fact.confidence,
        scope=fact.scope,
        valid_until=fact.valid_until,
        garden_id=row.garden_id,
        received_from=fact.received_from,
        contradicted=view.conflicts.standing(row, at or now_at(node)).is_contradicted,
        supersedes=fact.supersedes,
        origin=fact.origin,
        seal=fact.seal,
        source_trust=fact.source_trust,
        effective_confidence=0.0 if is_rejected else _effective_confidence(fact, view, node, is_past=is_past),
        quarantine_status=row.quarantine_status,
        quarantine_garden_id=row.quarantine_garden_id,
        quarantine_reason=row.quarantine_reason,
        derived_from=fact.derived_from,
        attestation_chain=fact.attestation_chain,
        attestation_chain_issuers=fact.attestation_chain_issuers,
        attestation_verified=fact.attestation_verified,
        cid=fact.cid,
        log_offset=row.place[0],
        warnings=fact.warnings,
        asserted_confidence=fact.confidence if is_rejected else UNSET,
    )


def held_answer(record: Record) -> dict[str, object]:
    """The answer to a write that went to quarantine: what it is about first, then the rest of the record."""
    members = _members(record)
    first = ("quarantine_status", "quarantine_garden_id", "quarantine_reason")
    return {"fact_id": record.id} | {name: members.pop(name) for name in first} | members


def queue_item(record: Record) -> dict[str, object]:
    """A record in the quarantine listing."""
    return {"fact_id": record.id} | _members(record)


def _members(record: Record) -> dict[str, object]:
    members = ((name, getattr(record, name)) for name in record.__struct_fields__)
    return {name: value for name, value in members if value is not UNSET}


def _effective_confidence(fact: Fact, view: View, node: Node, *, is_past: bool) -> float:
    source = normal_uri(fact.source)
    if origin_of(source, fact.origin) == node.node_id:
        return fact.confidence
    if is_past:
        return fact.confidence if fact.source_trust is None else round(fact.confidence * fact.source_trust, 6)
    rules = rules_in_force(view, node.config)
    if rules.mode == "off":
        return fact.confidence
    judgement = judge(
        view,
        rules,
        node_id=node.node_id,
        source=source,
        origin=fact.origin,
        scope=fact.scope,
        now_ms=node.clock.at_ms(),
        is_attested=is_attested_by_source(source, fact.attestation_chain_issuers, fact.attestation_verified),
        is_by_admin=False,
        is_by_token=False,
    )
    return round(fact.confidence * judgement.t, 6)
