"""A fact as the API shows it (PROTOCOL §2.2): the record, with what the node thinks of it now.

Always: effective confidence uses live trust for what other organisations say, the trust recorded with the fact where the past is
read, and the stated confidence for our own word.
"""

from functools import lru_cache
from typing import get_type_hints

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from node.commands.attestations import is_attested_by_source
from node.commands.decision import rules_in_force
from node.commands.served_facts import ShownValue, shown_value
from node.commands.trust import judge
from node.events.facts import Fact, Scope
from node.http.forms import Base64Url, Cid, Count, Hlc, Share, Time, Uuid
from node.http.moments import now_at
from node.projections.conflicts import At
from node.projections.fact_rows import FactRow, Speaker
from node.projections.gardens import QuarantineStatus
from node.projections.view import View
from node.runtime import Node
from node.uris import normal_uri, origin_of


class Record(Struct, frozen=True):
    """The record of a fact. `asserted_confidence` is there for a rejected one, whose confidence reads 0."""

    id: Uuid
    entity: str
    relation: str
    value: ShownValue
    source: str
    timestamp: Time
    hlc: Hlc
    confidence: Share
    scope: Scope
    valid_until: Time | None
    garden_id: Uuid | None
    received_from: str | None
    contradicted: bool
    supersedes: tuple[Uuid, ...]
    origin: str
    seal: Base64Url | None
    source_trust: Share | None
    effective_confidence: Share
    quarantine_status: QuarantineStatus | None
    quarantine_garden_id: Uuid | None
    quarantine_reason: str | None
    derived_from: tuple[str, ...]
    attestation_chain: tuple[str, ...]
    attestation_chain_issuers: tuple[str, ...]
    attestation_verified: tuple[bool, ...]
    cid: Cid
    log_offset: Count
    warnings: tuple[str, ...]
    asserted_confidence: Share | UnsetType = UNSET


def _record_behind(name: str, *first: str, doc: str) -> type[Struct]:
    """A record with its id as `fact_id` before it, and those of `first` before the rest: a struct inherits no order but its own."""
    types = get_type_hints(Record, include_extras=True)
    rest = [member for member in Record.__struct_fields__ if member not in (*first, "asserted_confidence")]
    members = [("fact_id", Uuid), *((member, types[member]) for member in (*first, *rest))]
    members.append(("asserted_confidence", types["asserted_confidence"], UNSET))
    return msgspec.defstruct(name, members, frozen=True, kw_only=True, module=__name__, namespace={"__doc__": doc})


HeldRecord = _record_behind(
    "HeldRecord",
    "quarantine_status",
    "quarantine_garden_id",
    "quarantine_reason",
    doc="The record of a write that went to quarantine: what it is about first. `fact_id` is the record's `id`.",
)
QueueItem = _record_behind("QueueItem", doc="A record in the quarantine listing. `fact_id` is its `id`.")


def record_of(row: FactRow, view: View, node: Node, *, at: At | None = None, is_past: bool = False) -> Record:
    """The record of a fact as the view stands, or stood `at` a snapshot (the row is of it too); `is_past` under `as_of`.

    Raises LogDamaged where the log has another fact there.
    """
    node.vouch_for((row,))
    return new_record_of(row, view, node, at=at, is_past=is_past)


def new_record_of(row: FactRow, view: View, node: Node, *, at: At | None = None, is_past: bool = False) -> Record:
    """The record of a fact that comes from its entry itself, which may still be on its way to disk."""
    fact, is_rejected = row.fact, row.quarantine_status == "rejected"
    # In the order of the class: thirty names would take longer to match than all that is looked up here.
    return Record(
        fact.id,
        fact.entity,
        fact.relation,
        shown_value(fact.value),
        fact.source,
        fact.timestamp,
        fact.hlc,
        0.0 if is_rejected else fact.confidence,
        fact.scope,
        fact.valid_until,
        row.garden_id,
        fact.received_from,
        view.conflicts.standing(row, at or now_at(node)).is_contradicted,
        fact.supersedes,
        fact.origin,
        fact.seal,
        fact.source_trust,
        0.0 if is_rejected else _effective_confidence(fact, view, node, is_past=is_past),
        row.quarantine_status,
        row.quarantine_garden_id,
        row.quarantine_reason,
        fact.derived_from,
        fact.attestation_chain,
        fact.attestation_chain_issuers,
        fact.attestation_verified,
        fact.cid,
        row.place[0],
        fact.warnings,
        fact.confidence if is_rejected else UNSET,
    )


def held_answer(record: Record) -> HeldRecord:
    return HeldRecord(fact_id=record.id, **structs.asdict(record))


def queue_item(record: Record) -> QueueItem:
    return QueueItem(fact_id=record.id, **structs.asdict(record))


def is_own_statement(fact: Fact, node: Node) -> bool:
    """Whether the fact is of a source of this node's own, which is believed as stated."""
    return _identity_of(fact.source, fact.origin)[0] == node.node_id


def _effective_confidence(fact: Fact, view: View, node: Node, *, is_past: bool) -> float:
    if is_own_statement(fact, node):
        return fact.confidence
    _, source = _identity_of(fact.source, fact.origin)
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


# Few sources say nearly all that is read.
@lru_cache(maxsize=1024)
def _identity_of(source: str, origin: str) -> Speaker:
    named = normal_uri(source)
    return origin_of(named, origin), named
