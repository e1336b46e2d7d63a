"""/v1/facts: asserting, listing, reading one, and the bytes that were signed (PROTOCOL §2)."""

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from node.canonical import b64url_decode, b64url_encode
from node.commands.attestations import SIGNATURE_CHARS
from node.commands.decision import Principal
from node.commands.drafts import NAME_BYTES, StatedValue
from node.commands.facts import AssertFact, needs_attestation, row_of
from node.commands.reading import readable_by
from node.commands.roles import find_garden, is_known
from node.commands.served_facts import ShownValue
from node.errors import (
    AttestationChainMismatch,
    AttestationChainTooLong,
    FactNotFound,
    GardenForbidden,
    GardenNotFound,
    GardenScopeMismatch,
    InsufficientCapability,
    InsufficientPermission,
    InvalidCursor,
    InvalidField,
    InvalidParameter,
    InvalidUri,
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
    UnsupportedField,
)
from node.events.facts import Scope, body_of
from node.http.auth import bearer_of, principal_of, reader_of
from node.http.body import decode_query, json_response, read_json
from node.http.describe import FACT, READERS, describes
from node.http.forms import AsOf, Count, Share, Time
from node.http.keys import COUNTERSIGNER, NODE
from node.http.moments import AsOfQuery, Moment, asked_moment, check_moment, moment_of
from node.http.records import HeldRecord, Record, held_answer, new_record_of, record_of
from node.projections.access import Access, may_read, readable_at
from node.projections.base import Place
from node.projections.conflicts import At
from node.projections.fact_queries import EXACT_TOTAL_MAX, FactPage, FactQuery, Snapshot, page_of
from node.projections.fact_rows import FactRow
from node.projections.told_facts import told_by_id
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.times import parse_rfc3339
from node.uris import normal_relation, normal_uri
from node.writer import Outcome

MAX_FACT_BYTES = 1 << 20
_CID_PREFIX = "sha256:"


class ParentRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parent as today's clients name it."""

    fact_id: str


class FactRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/facts (PROTOCOL §2.1)."""

    entity: str
    relation: str
    value: StatedValue
    source: str
    confidence: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    scope: Scope = "local"
    valid_until: str | None = None
    garden_id: str | None = None
    supersedes: bool | tuple[str, ...] = False
    derived_from: tuple[str | ParentRef, ...] = ()
    attestation_chain: tuple[Annotated[str, Meta(max_length=SIGNATURE_CHARS)], ...] = ()
    attestation_chain_issuers: tuple[Annotated[str, Meta(max_length=NAME_BYTES)], ...] = ()
    timestamp: str | None = None
    idempotency_key: str | None = None
    write_mode: Literal["assert", "summarize_with_provenance"] = "assert"


class FactsQuery(Struct, frozen=True, kw_only=True):
    """The parameters of GET /v1/facts (PROTOCOL §2.5)."""

    entity: str | None = None
    relation: str | None = None
    source: str | None = None
    scope: Scope | None = None
    garden_id: str | None = None
    min_confidence: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    after: str | None = None
    before: str | None = None
    include_contradicted: bool = False
    include_expired: bool = False
    include_retracted: bool = False
    as_of: AsOf | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    order: Literal["desc", "asc"] = "desc"


class FactsPage(Struct, frozen=True, kw_only=True):
    """`total` counts all that was asked for, up to 10,000; of more it says so with `total_is_minimum`."""

    facts: list[Record]
    total: Count
    cursor: str | None
    total_is_minimum: bool | UnsetType = UNSET


class SignedBody(Struct, frozen=True, kw_only=True):
    """The fact body (PROTOCOL §2.4): canonical JSON, the bytes that attestations sign."""

    confidence: Share
    entity: str
    relation: str
    scope: Scope
    source: str
    ts: Time
    value: ShownValue


class Cursor(Struct, frozen=True, array_like=True):
    """A place in a listing: the snapshot of its first page, the last place shown, a digest of what was asked, and its `as_of`."""

    snapshot: Snapshot
    place: Place
    asked: int
    as_of: str | None


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
    UnsupportedField,
    ScopeNotPermitted,
)


@describes(
    "assert a fact; 202 where it waits in quarantine",
    who=READERS,
    body=FactRequest,
    answers={201: Record, 202: HeldRecord},
    refuses=ASSERTING,
)
async def assert_fact(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], principal_of(request)
    accepted_ms = node.clock.now_ms()
    if "Idempotency-Key" in request.headers:
        raise UnsupportedField("Idempotency-Key: not supported by this version")
    body = decode(await read_json(request, max_bytes=MAX_FACT_BYTES), FactRequest)
    command = command_of(body, principal, accepted_ms)
    if needs_attestation(command):
        command = await request.app[COUNTERSIGNER].with_attestation(command, bearer_of(request))
    return await node.execute(command, lambda outcome, view: _answer_of(outcome, view, node))


def command_of(body: FactRequest, principal: Principal, accepted_ms: int) -> AssertFact:
    """What a body asks for, taken in at `accepted_ms`."""
    if body.idempotency_key is not None:
        raise UnsupportedField("idempotency_key: not supported by this version")
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
        derived_from=tuple(p.fact_id if isinstance(p, ParentRef) else p for p in body.derived_from),
        timestamp=body.timestamp,
        accepted_ms=accepted_ms,
        attestation_chain=body.attestation_chain,
        attestation_chain_issuers=body.attestation_chain_issuers,
    )


@describes(
    "facts, newest first",
    who=READERS,
    query=FactsQuery,
    answers={200: FactsPage},
    refuses=(InvalidCursor, GardenForbidden, InsufficientCapability),
)
async def list_facts(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], reader_of(request)
    asked = decode_query(request, FactsQuery)
    # Before the view is opened, which then holds at least what was announced.
    moment = moment_of(asked.as_of, node)
    answer = await node.read(lambda view: _listing(asked, moment, readable_by(principal, view), view, node))
    return json_response(answer)


@describes(
    "one record, by id or CID",
    who=READERS,
    query=AsOfQuery,
    answers={200: Record},
    refuses=(FactNotFound, InsufficientCapability),
)
async def get_fact(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], reader_of(request)
    moment = asked_moment(request)
    with node.view() as view:
        row = _find(request.match_info["fact_id"], readable_by(principal, view), view, moment.at)
        return json_response(record_of(row, view, node, at=moment.at, is_past=moment.as_of is not None))


@describes(
    "the fact body, the bytes that attestations sign",
    who=READERS,
    query=AsOfQuery,
    answers={200: SignedBody},
    refuses=(FactNotFound, InsufficientCapability),
)
async def get_body(request: web.Request) -> web.Response:
    """The fact body as it was signed (PROTOCOL §2.4)."""
    node, principal = request.app[NODE], reader_of(request)
    moment = asked_moment(request)
    with node.view() as view:
        row = _find(request.match_info["fact_id"], readable_by(principal, view), view, moment.at)
        node.vouch_for((row,))
        body = body_of(row.fact)
    return web.Response(body=body, content_type="application/json", headers={"X-Content-Type-Options": "nosniff"})


def _answer_of(outcome: Outcome, view: View, node: Node) -> web.Response:
    entry = outcome.entries[0]
    record = new_record_of(row_of(entry.event, entry.offset), view, node)
    if record.quarantine_status is None:
        return json_response(record, 201)
    return json_response(held_answer(record), 202)


def _find(name: str, access: Access, view: View, at: At) -> FactRow:
    """The fact of an id, or the newest readable one of a CID. Raises FactNotFound alike for none and for none to be read."""
    stored = view.facts.by_cid(name) if name.startswith(_CID_PREFIX) else view.facts.all_by_id(name)
    for row in (readable_at(row, access, at.size) for row in stored):
        if row is not None and (row.shown_from is not None or not name.startswith(_CID_PREFIX)):
            return row
    told = told_by_id(view, at, name)
    if told is not None and may_read(told, view, access):
        return told
    raise FactNotFound("there is no such fact")


def _listing(asked: FactsQuery, moment: Moment, access: Access, view: View, node: Node) -> FactsPage:
    cursor = _opened(asked.cursor, moment, node) if asked.cursor else None
    snapshot = Snapshot(moment.at.size, moment.at.now_ms, None) if cursor is None else cursor.snapshot
    as_of = moment.as_of if cursor is None else cursor.as_of
    query = _query(asked, access, view, size=None if as_of is None else snapshot.size)
    digest = _digest(query)
    if cursor is not None and cursor.asked != digest:
        raise InvalidCursor("cursor: not one of this listing's")
    place, at = None if cursor is None else cursor.place, At(snapshot.size, snapshot.now_ms)
    page = page_of(view, query, access, snapshot, limit=asked.limit, after=place)
    return FactsPage(
        facts=[record_of(row, view, node, at=at, is_past=as_of is not None) for row in page.rows],
        total=min(page.total, EXACT_TOTAL_MAX),
        cursor=_next(page, snapshot, digest, as_of),
        total_is_minimum=True if page.total > EXACT_TOTAL_MAX else UNSET,
    )


def _query(asked: FactsQuery, access: Access, view: View, *, size: int | None) -> FactQuery:
    return FactQuery(
        entity=_name("entity", asked.entity),
        relation=_relation(asked.relation),
        source=_name("source", asked.source),
        scope=asked.scope,
        garden_id=_garden_id(asked.garden_id, access, view, size),
        min_confidence=asked.min_confidence,
        after_ms=_time("after", asked.after),
        before_ms=_time("before", asked.before),
        includes_expired=asked.include_expired,
        includes_retracted=asked.include_retracted,
        includes_contradicted=asked.include_contradicted,
        is_ascending=asked.order == "asc",
    )


def _garden_id(name: str | None, access: Access, view: View, size: int | None) -> str | None:
    if name is None:
        return None
    # Not there and not yours read alike (PROTOCOL §6.1).
    try:
        garden = find_garden(name, view, size=size)
    except GardenNotFound as error:
        raise GardenForbidden("garden_id: no such garden, or not yours") from error
    if not is_known(garden, access):
        raise GardenForbidden("garden_id: no such garden, or not yours")
    return garden.id


def _name(parameter: str, text: str | None) -> str | None:
    try:
        return None if text is None else normal_uri(text)
    except InvalidUri as error:
        raise InvalidParameter(f"{parameter}: not a name that a fact can carry") from error


def _relation(text: str | None) -> str | None:
    try:
        return None if text is None else normal_relation(text)
    except InvalidField as error:
        raise InvalidParameter("relation: not one that a fact can carry") from error


def _time(parameter: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_rfc3339(text)
    except ValueError as error:
        raise InvalidParameter(f"{parameter}: not an RFC 3339 time") from error


def _digest(query: FactQuery) -> int:
    return int.from_bytes(msgspec.msgpack.encode(query), "big") % (2**61 - 1)


def _opened(text: str, moment: Moment, node: Node) -> Cursor:
    try:
        cursor = msgspec.msgpack.decode(b64url_decode(text), type=Cursor)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidCursor("cursor: not one of this listing's") from error
    check_moment(moment, cursor.as_of)
    is_size = 0 <= cursor.snapshot.size <= node.log.announced().size
    if not (is_size and 0 <= cursor.place[0] < cursor.snapshot.size and 0 <= cursor.place[1] < 2**32):
        raise InvalidCursor("cursor: not one of this listing's")
    return cursor


def _next(page: FactPage, snapshot: Snapshot, digest: int, as_of: str | None) -> str | None:
    if page.last is None:
        return None
    cursor = Cursor(structs.replace(snapshot, total=page.total), page.last, digest, as_of)
    return b64url_encode(msgspec.msgpack.encode(cursor))
