"""A trace for machines: canonical JSON lines, or W3C PROV as JSON-LD (docs/audit.md).

Always: every step carries the whole inclusion proof of its entry against the log's head.
"""

import msgspec

from node.canonical import canonical_json
from node.events.entry import Entry
from node.events.facts import Fact
from node.times import format_ms
from replay.acts import Act
from replay.checked_log import Evidence, proof_of
from replay.prov import Description, ProvDocument, body_iri, descriptions_of, entry_iri, fact_iri
from replay.shown import Output
from replay.things import Thing
from replay.trace_steps import FactRef, Life, Standing, Step

_OF_THE_FACT = (
    "origin",
    "id",
    "cid",
    "fact_hash",
    "entity",
    "relation",
    "value",
    "source",
    "scope",
    "confidence",
    "timestamp",
    "hlc",
    "valid_until",
    "received_from",
    "derived_from",
    "supersedes",
    "attestation_chain_issuers",
    "attestation_verified",
    "source_trust",
    "warnings",
)


class NdjsonTrace:
    """Collects each life's lines, and writes them life by life."""

    def __init__(self, lives: list[Life], evidence: Evidence) -> None:
        self._lives, self._evidence = lives, evidence
        self._lines: dict[int, list[bytes]] = {id(life): [] for life in lives}

    def tell(self, life: Life, step: Step, entry: Entry, act: Act) -> None:
        record = {
            "record": "step",
            "fact": _name_of(life),
            "offset": entry.offset,
            "at": format_ms(entry.at_ms),
            "hlc": entry.hlc,
            "type": entry.type,
            "actor": msgspec.to_builtins(entry.actor),
            "step": msgspec.to_builtins(step),
            "proof": msgspec.to_builtins(proof_of(entry, self._evidence)),
        }
        self._lines[id(life)].append(canonical_json(record))

    def write(self, standings: list[Standing | None], output: Output) -> None:
        for life, standing in zip(self._lives, standings, strict=True):
            if life.fact is not None:
                output.raw(canonical_json({"record": "fact", **fact_record(life.fact)}))
            for line in self._lines[id(life)]:
                output.raw(line)
            if standing is not None:
                record = {"record": "standing", "fact": _name_of(life), **msgspec.to_builtins(standing)}
                output.raw(canonical_json(record | {"size": self._evidence.size, "root": self._evidence.root.hex()}))


class ProvTrace:
    """The entries that the steps are in, each with its proof; of what they are about, what concerns the fact."""

    def __init__(self, lives: list[Life], evidence: Evidence) -> None:
        self._lives, self._evidence = lives, evidence
        self._described: list[Description] = []

    def tell(self, life: Life, step: Step, entry: Entry, act: Act) -> None:
        things = tuple(thing for thing in act.things if _concerns(thing, life, step))
        kept = Act(verb=act.verb, words=act.words, things=things, data={})
        self._described += descriptions_of(entry, kept, self._evidence.node_id)
        self._described.append(self._step(life, step, entry))

    def write(self, standings: list[Standing | None], output: Output) -> None:
        document = ProvDocument(output)
        document.begin()
        for life, standing in zip(self._lives, standings, strict=True):
            if life.fact is not None and standing is not None:
                document.add(_life(life.fact, standing))
        for description in self._described:
            document.add(description)
        document.end()

    def _step(self, life: Life, step: Step, entry: Entry) -> Description:
        proof = proof_of(entry, self._evidence)
        described: Description = {
            "@id": entry_iri(entry.leaf),
            "@type": "prov:Activity",
            "stigmem:step": step.verb,
            "stigmem:auditPath": {"@list": list(proof.hashes)},
            "stigmem:treeSize": proof.tree_size,
            "stigmem:rootHash": proof.root_hash,
        }
        if life.fact is not None and step.verb in ("in_page", "given", "received", "received_and_held"):
            described["prov:used"] = fact_iri(life.fact.origin, life.fact.id)
        if step.judgement is not None:
            described["stigmem:sourceTrust"] = canonical_json(msgspec.to_builtins(step.judgement)).decode()
        if step.reason is not None:
            described["stigmem:reason"] = step.reason
        return described


def fact_record(fact: Fact) -> dict[str, object]:
    """What the fact says and how it came (docs/audit.md)."""
    return {name: msgspec.to_builtins(getattr(fact, name)) for name in _OF_THE_FACT}


def _life(fact: Fact, standing: Standing) -> Description:
    return {
        "@id": fact_iri(fact.origin, fact.id),
        "@type": "prov:Entity",
        "prov:alternateOf": body_iri(fact.fact_hash),
        "prov:value": canonical_json(msgspec.to_builtins(fact.value)).decode(),
        "stigmem:status": standing.status,
        "stigmem:isContradicted": standing.is_contradicted,
    }


def _concerns(thing: Thing, life: Life, step: Step) -> bool:
    if thing.kind != "fact":
        return thing.kind != "conflict" or thing.id in (step.conflict_id, *life.conflicts)
    refs: tuple[FactRef, ...] = step.facts if step.by is None else (*step.facts, step.by)
    is_named = any((ref.origin, ref.id) == (thing.origin, thing.id) for ref in refs)
    return is_named or life.is_of(thing.origin or "", thing.id) or (life.fact is None and thing.role == "refused")


def _name_of(life: Life) -> dict[str, str] | None:
    return None if life.fact is None else {"origin": life.fact.origin, "id": life.fact.id}
