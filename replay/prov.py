"""The audit as W3C PROV in JSON-LD: activities (events), agents, entities (facts, tokens, manifests, ...) (docs/audit.md).

Always: one document with its context inline, written node by node; what is told twice is told alike, so a reader who merges
nodes by their `@id` gets one description.
Always: an IRI is made from what names the thing: an entry by its leaf hash, a fact by (origin, id), a source by its name, or
where that is informal by (origin, name).

Does not say who generated a fact that a peer brought: that happened in another log.
"""

import re
from urllib.parse import quote

import msgspec

from node.canonical import canonical_json
from node.events.entry import Entry
from node.events.event import Actor
from node.projections.view import View
from node.times import format_ms
from node.uris import is_informal, is_normal
from replay.acts import Act
from replay.checked_log import Evidence
from replay.shown import Output
from replay.things import Thing

TERMS = "https://stigmem.invalid/ns#"
_REFERENCES = (
    "prov:wasAssociatedWith",
    "prov:wasAttributedTo",
    "prov:wasGeneratedBy",
    "prov:wasInvalidatedBy",
    "prov:wasDerivedFrom",
    "prov:alternateOf",
    "prov:used",
    "stigmem:about",
)
CONTEXT: dict[str, object] = {
    "prov": "http://www.w3.org/ns/prov#",
    "stigmem": TERMS,
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    **{name: {"@type": "@id"} for name in _REFERENCES},
    **{name: {"@type": "xsd:dateTime"} for name in ("prov:startedAtTime", "prov:endedAtTime", "prov:generatedAtTime")},
    "prov:invalidatedAtTime": {"@type": "xsd:dateTime"},
}
_GENERATED = {
    "asserted",
    "quarantined",
    "resolution",
    "created",
    "published",
    "issued",
    "contradicted",
    "changed",
    "cosigned",
}
_INVALIDATED = {"retracted", "superseded", "put_aside", "rejected", "settled", "revoked", "deleted"}
_TYPES = {
    "node": "prov:Agent",
    "peer": "prov:Agent",
    "principal": "prov:Agent",
    "fact": "prov:Entity",
    "token": "prov:Entity",
    "api_key": "prov:Entity",
    "garden": "prov:Entity",
    "manifest": "prov:Entity",
    "conflict": "prov:Entity",
    "settings": "prov:Entity",
    "checkpoint": "prov:Entity",
    "admin_key": "prov:Entity",
    "node_key": "prov:Entity",
}
_HASH = re.compile(r"[0-9a-f]{64}")

Description = dict[str, object]


class ProvDocument:
    """A JSON-LD document, written as its nodes come."""

    def __init__(self, output: Output) -> None:
        self._output, self._separator = output, b""

    def begin(self) -> None:
        self._output.raw(b'{"@context":' + canonical_json(CONTEXT) + b',"@graph":[')

    def add(self, description: Description) -> None:
        self._output.raw(self._separator + canonical_json(description))
        self._separator = b","

    def end(self) -> None:
        self._output.raw(b"]}")


class ProvWriter:
    """Writes an audit as such a document."""

    def __init__(self, output: Output, evidence: Evidence) -> None:
        self._document, self._node_id = ProvDocument(output), evidence.node_id

    def begin(self) -> None:
        self._document.begin()

    def event(self, entry: Entry, act: Act, view: View) -> None:
        for description in descriptions_of(entry, act, self._node_id):
            self._document.add(description)

    def end(self) -> None:
        self._document.end()


def descriptions_of(entry: Entry, act: Act, node_id: str) -> list[Description]:
    """The activity that an event is, its agents, and what it says of each thing."""
    agents = _agents_of(entry.actor, node_id)
    things = [_described(thing, entry, node_id) for thing in act.things]
    return [_activity(entry, act, node_id, agents), *agents, *(one for found in things for one in found)]


def entry_iri(leaf: bytes) -> str:
    return f"urn:stigmem:entry:{leaf.hex()}"


def fact_iri(origin: str, fact_id: str) -> str:
    return f"urn:stigmem:fact:{_quoted(origin)}:{_quoted(fact_id.lower())}"


def body_iri(fact_hash: str) -> str:
    """What a fact says, whoever holds it: facts with equal bodies share it."""
    return f"urn:stigmem:body:{fact_hash}"


def name_iri(name: str, origin: str) -> str:
    """A name as an IRI; an informal one belongs to its origin."""
    if not is_informal(name) and is_normal(name):
        return name
    return f"urn:stigmem:name:{_quoted(origin)}:{_quoted(name)}"


def parents_of(derived_from: tuple[str, ...]) -> list[str]:
    """Parents are named by fact hash, or by an id whose origin is not said."""
    return [body_iri(p) if _HASH.fullmatch(p) else f"urn:stigmem:fact-id:{_quoted(p.lower())}" for p in derived_from]


def _activity(entry: Entry, act: Act, node_id: str, agents: list[Description]) -> Description:
    at = format_ms(entry.at_ms)
    used = [_thing_iri(t, entry, node_id) for t in act.things if t.kind in _TYPES and _is_used(t)]
    about = [_thing_iri(t, entry, node_id) for t in act.things if _TYPES.get(t.kind) == "prov:Agent"]
    if entry.actor.via == "capability" and entry.actor.credential is not None:
        used.append(_token_iri(entry.actor.credential))
    if entry.actor.via == "key" and entry.actor.credential is not None:
        used.append(_iri_of_ours("api_key", entry.actor.credential, node_id))
    activity = {
        "@id": entry_iri(entry.leaf),
        "@type": "prov:Activity",
        "prov:startedAtTime": at,
        "prov:endedAtTime": at,
        "prov:wasAssociatedWith": [agent["@id"] for agent in agents],
        "stigmem:offset": entry.offset,
        "stigmem:hlc": entry.hlc,
        "stigmem:type": entry.type,
        "stigmem:verb": act.verb,
        "stigmem:via": entry.actor.via,
        "stigmem:data": _text_of(act.data),
    }
    return activity | _unless_empty("prov:used", used) | _unless_empty("stigmem:about", about)


def _agents_of(actor: Actor, node_id: str) -> list[Description]:
    """Whoever caused the event, and the node that carried it out."""
    node = _agent(node_id, node_id)
    if actor.principal is None or actor.principal == node_id:
        return [node]
    return [_agent(actor.principal, node_id), node]


def _agent(name: str, origin: str) -> Description:
    return {"@id": name_iri(name, origin), "@type": "prov:Agent", "stigmem:name": name}


def _described(thing: Thing, entry: Entry, node_id: str) -> list[Description]:
    kind = _TYPES.get(thing.kind)
    if kind is None:
        return []
    if kind == "prov:Agent":
        return [_agent(thing.id, node_id)]
    described: Description = {"@id": _thing_iri(thing, entry, node_id), "@type": kind, "stigmem:kind": thing.kind}
    activity, at = entry_iri(entry.leaf), format_ms(entry.at_ms)
    if thing.role in _GENERATED:
        described |= {"prov:wasGeneratedBy": activity, "prov:generatedAtTime": at}
    if thing.role in _INVALIDATED:
        described |= {"prov:wasInvalidatedBy": activity, "prov:invalidatedAtTime": at}
    if thing.kind != "fact":
        return [
            described | _unless_empty("prov:wasDerivedFrom", [fact_iri(side.origin, side.id) for side in thing.sides])
        ]
    return [described | _of_fact(thing), *_source_of(thing, node_id)]


def _of_fact(thing: Thing) -> Description:
    words = ("entity", "relation", "scope", "cid", "origin")
    said = {f"stigmem:{word}": getattr(thing, word) for word in words if getattr(thing, word) is not None}
    if thing.fact_hash is not None and thing.role != "attested":
        said["prov:alternateOf"] = body_iri(thing.fact_hash)
    if thing.role == "refused":
        return said | {"stigmem:claimedSource": thing.source or "", "stigmem:reason": thing.reason or ""}
    if thing.source is not None:
        said["prov:wasAttributedTo"] = _source_iri(thing)
    return said | _unless_empty("prov:wasDerivedFrom", parents_of(thing.derived_from))


def _source_of(thing: Thing, node_id: str) -> list[Description]:
    if thing.source is None or thing.role == "refused":
        return []
    return [{"@id": _source_iri(thing), "@type": "prov:Agent", "stigmem:name": thing.source}]


def _source_iri(thing: Thing) -> str:
    return name_iri(thing.source, thing.origin or thing.received_from or "")


def _thing_iri(thing: Thing, entry: Entry, node_id: str) -> str:
    match thing.kind:
        case "node" | "peer" | "principal":
            return name_iri(thing.id, node_id)
        case "fact" if thing.role == "attested":
            return body_iri(thing.fact_hash or "")
        case "fact" if thing.role == "refused":
            # Who says it wrote it is not believed: it must not be told of the fact that origin really has under this id.
            return f"urn:stigmem:refused:{entry.leaf.hex()}:{_quoted(thing.id)}"
        case "fact":
            return fact_iri(thing.origin or thing.received_from or "", thing.id)
        case "token":
            return _token_iri(thing.id)
        case "settings":
            return f"urn:stigmem:settings:{entry.leaf.hex()}"
        case kind:
            return _iri_of_ours(kind, thing.id, node_id)


def _iri_of_ours(kind: str, thing_id: str, node_id: str) -> str:
    """Of what has a name in this node alone."""
    return f"urn:stigmem:{kind}:{_quoted(node_id)}:{_quoted(thing_id)}"


def _token_iri(token_id: str) -> str:
    return f"urn:stigmem:token:{_quoted(token_id)}"


def _is_used(thing: Thing) -> bool:
    """Whether the thing was there before the event."""
    return _TYPES[thing.kind] == "prov:Entity" and thing.role not in _GENERATED


def _unless_empty(member: str, iris: list[str]) -> Description:
    return {member: list(dict.fromkeys(iris))} if iris else {}


def _text_of(data: dict[str, object]) -> str:
    """JSON in a literal: a graph has no place for members that only an event of that type has."""
    return canonical_json(msgspec.to_builtins(data)).decode()


def _quoted(text: str) -> str:
    return quote(text, safe="")
