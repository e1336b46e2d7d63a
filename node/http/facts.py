"""/v1/facts: asserting, listing, reading one, and the bytes that were signed (PROTOCOL §2)."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from aiohttp import web
from msgspec import Meta, Struct

from node.commands.attestations import SIGNATURE_CHARS
from node.commands.decision import Principal
from node.commands.drafts import NAME_BYTES, StatedValue
from node.commands.facts import AssertFact, needs_attestation, row_of
from node.commands.reading import readable_by
from node.commands.served_facts import ShownValue
from node.errors import (
    AttestationChainMismatch,
    AttestationChainTooLong,
    FactNotFound,
    GardenForbidden,
    GardenNotFound,
    GardenScopeMismatch,
    IdempotencyKeyReused,
    InsufficientCapability,
    InsufficientPermission,
    InvalidCursor,
    MissingField,
    ProvenanceHashInvalid,
    ProvenanceInvalid,
    ProvenanceUnknownParent,
    QuarantineFull,
    QuarantineWriteForbidden,
    Refusal,
    ScopeNotPermitted,
    SourceNotOwned,
    SupersededNotOwned,
    TrustBelowThreshold,
)
from node.events.entry import Entry
from node.events.facts import Scope, body_of
from node.http.auth import bearer_of, principal_of, reader_of
from node.http.body import decode_query, json_response, read_json
from node.http.describe import FACT, READERS, describes
from node.http.fact_pages import FactsPage, FactsQuery, Page, is_small, page_asked, shown_page
from node.http.fact_reader import vouched_fact
from node.http.forms import Entity, IdempotencyKey, Relation, Share, Source, Time
from node.http.idempotency import TAKES_KEY, carry_out_once, claim_of
from node.http.keys import COUNTERSIGNER, NODE
from node.http.lasting import answer_of_fact, answer_of_page, question_of
from node.http.moments import AsOfQuery, asked_moment, moment_of
from node.http.records import HeldRecord, Record, held_answer, new_record_of, record_of
from node.projections.conflicts import At
from node.projections.fact_queries import find_fact, may_be_many
from node.projections.fact_rows import FactRow
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.writer import Outcome

MAX_FACT_BYTES = 1 << 20


class ParentRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parent as today's clients name it: by `fact_id`, by `hash` (a fact hash or CID), or by both, of which the id counts."""

    fact_id: str | None = None
    hash: str | None = None


class FactRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/facts (PROTOCOL §2.1)."""

    entity: Entity
    relation: Relation
    value: StatedValue
    source: Source
    confidence: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    scope: Scope = "local"
    valid_until: Time | None = None
    garden_id: str | None = None
    supersedes: bool | tuple[str, ...] = False
    derived_from: tuple[str | ParentRef, ...] = ()
    attestation_chain: tuple[Annotated[str, Meta(max_length=SIGNATURE_CHARS)], ...] = ()
    attestation_chain_issuers: tuple[Annotated[str, Meta(max_length=NAME_BYTES)], ...] = ()
    timestamp: Time | None = None
    idempotency_key: IdempotencyKey | None = None
    write_mode: Literal["assert", "summarize_with_provenance"] = "assert"


class SignedBody(Struct, frozen=True, kw_only=True):
    """The fact body (PROTOCOL §2.4): canonical JSON, the bytes that attestations sign."""

    confidence: Share
    entity: str
    relation: str
    scope: Scope
    source: str
    ts: Time
    value: ShownValue


# What a fact that is asserted can be refused with, for itself and for whose it is.
ASSERTING: tuple[type[Refusal], ...] = (
    *FACT,
    AttestationChainMismatch,
    AttestationChainTooLong,
    GardenForbidden,
    GardenNotFound,
    GardenScopeMismatch,
    InsufficientCapability,
    InsufficientPermission,
    ProvenanceHashInvalid,
    ProvenanceInvalid,
    ProvenanceUnknownParent,
    QuarantineFull,
    QuarantineWriteForbidden,
    SourceNotOwned,
    SupersededNotOwned,
    TrustBelowThreshold,
    ScopeNotPermitted,
)


@describes(
    "assert a fact; 202 where it waits in quarantine",
    who=READERS,
    body=FactRequest,
    answers={201: Record, 202: HeldRecord},
    headers=TAKES_KEY,
    refuses=(*ASSERTING, IdempotencyKeyReused),
)
async def assert_fact(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], principal_of(request)
    accepted_ms = node.clock.now_ms()
    raw = await read_json(request, max_bytes=MAX_FACT_BYTES)
    body = decode(raw, FactRequest)
    claim = claim_of(request, raw, named=body.idempotency_key)
    if claim is None:
        command = await _attested(command_of(body, principal, accepted_ms), request)
        return await node.execute(command, lambda outcome, view: _answer_of(outcome, view, node))
    return await carry_out_once(
        request,
        claim,
        lambda: _attested(command_of(body, claim.principal, accepted_ms), request),
        lambda entries, view: _lasting_answer(entries[0], view, node),
    )


def command_of(body: FactRequest, principal: Principal, accepted_ms: int) -> AssertFact:
    """What a body asks for, taken in at `accepted_ms`."""
    return AssertFact(
        principal=principal,
        entity=body.entity,
        relation=body.relation,
        value=body.value,
        source=body.source,
        confidence=body.confidence,
        scope=body.scope,
        valid_until=body.valid_until,
        garden=body.garden_id,
        supersedes=body.supersedes,
        derived_from=tuple(_parent_named(parent) for parent in body.derived_from),
        timestamp=body.timestamp,
        accepted_ms=accepted_ms,
        attestation_chain=body.attestation_chain,
        attestation_chain_issuers=body.attestation_chain_issuers,
    )


def _parent_named(parent: str | ParentRef) -> str:
    if isinstance(parent, str):
        return parent
    name = parent.hash if parent.fact_id is None else parent.fact_id
    if name is None:
        raise MissingField("derived_from: a parent without fact_id and hash")
    return name


@describes(
    "facts, newest first",
    who=READERS,
    query=FactsQuery,
    answers={200: FactsPage},
    refuses=(InvalidCursor, GardenForbidden, InsufficientCapability),
)
def list_facts(request: web.Request) -> bytes | Awaitable[web.Response]:
    node, principal = request.app[NODE], reader_of(request)
    question = question_of(request, principal)
    answer = node.given_again(question)
    if answer is not None:
        return answer
    asked = decode_query(request, FactsQuery)
    # Before the view is opened, which then holds at least what was announced.
    moment = moment_of(asked.as_of, node)

    def page_in(view: View) -> Page:
        return page_asked(asked, moment, readable_by(principal, view), view, node)

    with node.view() as view:
        if is_small(asked, view):
            return answer_of_page(question, asked, page_in(view), view, node)
    return _read(node, lambda view: shown_page(page_in(view), view, node))


@describes(
    "one record, by id or CID",
    who=READERS,
    query=AsOfQuery,
    answers={200: Record},
    refuses=(FactNotFound, InsufficientCapability),
)
def get_fact(request: web.Request) -> bytes | Awaitable[web.Response]:
    node, principal = request.app[NODE], reader_of(request)
    question = question_of(request, principal)
    answer = node.given_again(question)
    if answer is not None:
        return answer
    moment, name = asked_moment(request), request.match_info["fact_id"]

    def found_in(view: View) -> FactRow:
        return find_fact(name, readable_by(principal, view), view, moment.at)

    if may_be_many(name):
        is_past = moment.as_of is not None
        return _read(node, lambda view: record_of(found_in(view), view, node, at=moment.at, is_past=is_past))
    with node.view() as view:
        return answer_of_fact(question, found_in(view), moment, view, node)


@describes(
    "the fact body, the bytes that attestations sign",
    who=READERS,
    query=AsOfQuery,
    answers={200: SignedBody},
    refuses=(FactNotFound, InsufficientCapability),
)
async def get_body(request: web.Request) -> web.Response:
    """The fact body as it was signed (PROTOCOL §2.4)."""
    body = body_of(await vouched_fact(request, reader_of(request)))
    return web.Response(body=body, content_type="application/json", headers={"X-Content-Type-Options": "nosniff"})


async def _read(node: Node, use: Callable[[View], Record | FactsPage]) -> web.Response:
    return json_response(await node.read(use))


async def _attested(command: AssertFact, request: web.Request) -> AssertFact:
    if not needs_attestation(command):
        return command
    return await request.app[COUNTERSIGNER].with_attestation(command, bearer_of(request))


def _answer_of(outcome: Outcome, view: View, node: Node) -> web.Response:
    entry = outcome.entries[0]
    return _shown(new_record_of(row_of(entry.event, entry.offset), view, node))


def _lasting_answer(entry: Entry, view: View, node: Node) -> web.Response:
    """The answer as it can be given again: what stood when the fact was written, with the trust that was recorded then."""
    at = At(size=entry.offset + 1, now_ms=entry.at_ms)
    return _shown(new_record_of(row_of(entry.event, entry.offset), view, node, at=at, is_past=True))


def _shown(record: Record) -> web.Response:
    if record.quarantine_status is None:
        return json_response(record, 201)
    return json_response(held_answer(record), 202)
