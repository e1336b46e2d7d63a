"""Where a fact came from and what became of it: CID, provenance, an entity's history (docs/facts.md).

Always: what is said of other facts, that they are there included, is said of those alone that the caller may read.
Always: every fact of which anything is shown has been held against the log.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Literal

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from node.commands.reading import readable_by
from node.errors import FactNotFound, FieldTooLong, InsufficientCapability, InvalidCursor, InvalidUri
from node.events.facts import Scope, recomputed_cid
from node.events.proof_bundle import Bundle
from node.http.auth import reader_of
from node.http.body import NoMembers, decode_query, json_response, require_no_members
from node.http.describe import READERS, describes
from node.http.fact_pages import FactsQuery, page_asked
from node.http.fact_reader import AttestationShown, ConflictShown, FactReader, Happening, SealShown, vouched_fact
from node.http.forms import AsOf, Cid, Count, Relation, Sha256, Source, Time
from node.http.keys import NODE
from node.http.moments import AsOfQuery, Moment, moment_of
from node.http.paths import uri_in_path
from node.http.records import Record, record_of
from node.projections.access import Access
from node.projections.ancestors import Ancestor, Parent, ancestry_of
from node.projections.fact_queries import find_fact
from node.projections.view import View
from node.runtime import Node
from node.uris import normal_field

MAX_CONFLICTS_SHOWN = 100


class ProvenanceQuery(Struct, frozen=True, kw_only=True):
    depth: Annotated[int, Meta(ge=1, le=32)] = 8
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    as_of: AsOf | None = None


class HistoryQuery(Struct, frozen=True, kw_only=True):
    relation: Relation | None = None
    source: Source | None = None
    scope: Scope | None = None
    order: Literal["asc", "desc"] = "asc"
    as_of: AsOf | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class CidVerdict(Struct, frozen=True, kw_only=True):
    """Members as clients of other nodes know them, and the fact's id."""

    fact_id: str
    cid_valid: bool
    computed_cid: Cid
    stored_cid: Cid
    mismatch_reason: str | None


class HistoryItem(Struct, frozen=True, kw_only=True):
    fact: Record
    logged_at: Time
    live: bool
    became: tuple[Happening, ...]


class History(Struct, frozen=True, kw_only=True):
    """What was said of an entity, as a page of facts is counted."""

    entity_uri: str
    history: list[HistoryItem]
    total: Count
    cursor: str | None
    has_more: bool
    total_is_minimum: bool | UnsetType = UNSET


class ParentShown(Struct, frozen=True, kw_only=True):
    """A parent as it was named; no more where it is not known, or not for the caller to know."""

    parent: str
    exists: bool
    fact_id: str | UnsetType = UNSET
    entity: str | UnsetType = UNSET


class AncestorShown(Struct, frozen=True, kw_only=True):
    fact_id: str
    fact_hash: Sha256
    cid: Cid
    entity: str
    relation: str
    source: str
    origin: str
    scope: Scope
    log_offset: Count
    depth: Count
    derived_from: tuple[ParentShown, ...]


class Provenance(Struct, frozen=True, kw_only=True):
    fact_id: str
    fact_hash: Sha256
    cid: Cid
    entity: str
    origin: str
    received_from: str | None
    log_offset: Count
    logged_at: Time
    live: bool
    became: tuple[Happening, ...]
    derived_from: tuple[ParentShown, ...]
    ancestors: tuple[AncestorShown, ...]
    truncated: bool
    attestations: tuple[AttestationShown, ...]
    seal: SealShown | None
    conflicts: tuple[ConflictShown, ...]
    log_proof: Bundle | None


@describes(
    "whether a fact's CID is that of what it says",
    who=READERS,
    query=AsOfQuery,
    body=NoMembers,
    is_body_optional=True,
    answers={200: CidVerdict},
    refuses=(FactNotFound, InsufficientCapability),
)
async def verify_cid(request: web.Request) -> web.Response:
    principal = reader_of(request)
    await require_no_members(request)
    fact = await vouched_fact(request, principal)
    computed = recomputed_cid(fact, fact.cid)
    is_valid = computed == fact.cid
    verdict = CidVerdict(
        fact_id=fact.id,
        cid_valid=is_valid,
        computed_cid=computed,
        stored_cid=fact.cid,
        mismatch_reason=None if is_valid else "stored_cid does not match computed_cid",
    )
    return json_response(verdict)


@describes(
    "where a fact came from and what became of it, with its place in the log",
    who=READERS,
    query=ProvenanceQuery,
    answers={200: Provenance},
    refuses=(FactNotFound, InsufficientCapability),
)
async def get_provenance(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], reader_of(request)
    asked = decode_query(request, ProvenanceQuery)
    moment = moment_of(asked.as_of, node)
    name = request.match_info["fact_id"]
    answer = await node.read(
        lambda view: _provenance(name, asked, moment, FactReader(view, readable_by(principal, view), node, moment.at))
    )
    return json_response(answer)


@describes(
    "everything that was said of an entity, with what became of it, oldest first",
    who=READERS,
    query=HistoryQuery,
    answers={200: History},
    refuses=(InvalidCursor, InvalidUri, FieldTooLong, InsufficientCapability),
)
async def entity_history(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], reader_of(request)
    asked = decode_query(request, HistoryQuery)
    entity = normal_field("entity_uri", uri_in_path(request, "entity_uri"))
    moment = moment_of(asked.as_of, node)
    answer = await node.read(lambda view: _history(entity, asked, moment, readable_by(principal, view), view, node))
    return json_response(answer)


def _history(entity: str, asked: HistoryQuery, moment: Moment, access: Access, view: View, node: Node) -> History:
    everything = FactsQuery(
        entity=entity,
        include_contradicted=True,
        include_expired=True,
        include_retracted=True,
        **structs.asdict(asked),
    )
    page = page_asked(everything, moment, access, view, node)
    reader = FactReader(view, access, node, page.at)
    items = [
        HistoryItem(
            fact=record_of(row, view, node, at=page.at, is_past=page.is_past),
            logged_at=reader.dated(row.place[0]),
            live=view.conflicts.is_live(row, page.at),
            became=reader.became(row),
        )
        for row in page.rows
    ]
    return History(
        entity_uri=entity,
        history=items,
        total=page.counted,
        cursor=page.cursor,
        has_more=page.cursor is not None,
        total_is_minimum=page.is_counted_in_part,
    )


def _provenance(name: str, asked: ProvenanceQuery, moment: Moment, reader: FactReader) -> Provenance:
    view, access, node, at = reader.view, reader.access, reader.node, moment.at
    row = find_fact(name, access, view, at)
    ancestry = ancestry_of(row, view, access, at, max_depth=asked.depth, max_ancestors=asked.limit)
    node.vouch_for(ancestry.rows())
    conflicts = list(islice(reader.conflicts(row), MAX_CONFLICTS_SHOWN + 1))
    fact = row.fact
    return Provenance(
        fact_id=fact.id,
        fact_hash=fact.fact_hash,
        cid=fact.cid,
        entity=fact.entity,
        origin=fact.origin,
        received_from=fact.received_from,
        log_offset=row.place[0],
        logged_at=reader.dated(row.place[0]),
        live=view.conflicts.is_live(row, at),
        became=reader.became(row),
        derived_from=_shown_parents(ancestry.fact.parents),
        ancestors=tuple(map(_shown_ancestor, ancestry.ancestors)),
        truncated=ancestry.is_truncated or len(conflicts) > MAX_CONFLICTS_SHOWN,
        attestations=reader.attestations(fact),
        seal=reader.seal(fact),
        conflicts=tuple(conflicts[:MAX_CONFLICTS_SHOWN]),
        log_proof=reader.log_proof(row),
    )


def _shown_parents(parents: Iterable[Parent]) -> tuple[ParentShown, ...]:
    return tuple(
        ParentShown(parent=parent.name, exists=False)
        if parent.row is None
        else ParentShown(parent=parent.name, exists=True, fact_id=parent.row.fact.id, entity=parent.row.fact.entity)
        for parent in parents
    )


def _shown_ancestor(found: Ancestor) -> AncestorShown:
    fact = found.row.fact
    return AncestorShown(
        fact_id=fact.id,
        fact_hash=fact.fact_hash,
        cid=fact.cid,
        entity=fact.entity,
        relation=fact.relation,
        source=fact.source,
        origin=fact.origin,
        scope=fact.scope,
        log_offset=found.row.place[0],
        depth=found.depth,
        derived_from=_shown_parents(found.parents),
    )
