"""/v1/facts/batch: many facts in one append (PROTOCOL §2.7).

Always: what is wrong with the form of one fact is that fact's refusal; what is wrong with the document is the document's.
"""

import asyncio
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from node.commands.batches import AssertFacts, BatchAnswer, BatchReply, FactResult
from node.commands.decision import Principal
from node.commands.facts import AssertFact, needs_attestation
from node.commands.idempotency import Claim
from node.errors import BatchRefused, BodyTooLarge, IdempotencyKeyReused, InvalidField, Refusal
from node.http.auth import bearer_of, principal_of
from node.http.body import json_response, read_body
from node.http.describe import READERS, RefusalBody, describes
from node.http.errors import record_refusal
from node.http.facts import ASSERTING, MAX_FACT_BYTES, FactRequest, command_of
from node.http.forms import Count, IdempotencyKey
from node.http.idempotency import TAKES_KEY, claim_for, recorded_answer, turn_of
from node.http.keys import COUNTERSIGNER, LARGE_BODIES, NODE
from node.http.quotas import charge_facts
from node.projections.idempotency import Taken
from node.strict_json import MAX_LIST_VALUES, decode, holds_more_values, scan_json

MAX_BATCH_BYTES = 8 << 20
MAX_BATCH_FACTS = 1000
# Opening takes the loop from every other caller: as long as a few single writes may, and no longer.
_OPENED_ON_LOOP_BYTES = 1 << 16


# Read by itself, so that what is wrong with one is that one's refusal.
Stated = Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/FactRequest"})]


class BatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/facts/batch; each fact is that of POST /v1/facts, and is read by itself."""

    facts: Annotated[list[Stated], Meta(min_length=1)]
    atomic: bool = False
    idempotency_key: IdempotencyKey | None = None


class BatchRefusal(RefusalBody, frozen=True, kw_only=True):
    """An atomic batch with a refused fact tells of each, as where it is accepted."""

    accepted: Count | UnsetType = UNSET
    rejected: Count | UnsetType = UNSET
    results: tuple[FactResult, ...] | UnsetType = UNSET


@describes(
    "assert up to 1,000 facts in one append",
    who=READERS,
    body=BatchRequest,
    answers={201: BatchAnswer},
    headers=TAKES_KEY,
    refuses=(*ASSERTING, BatchRefused, IdempotencyKeyReused),
    refusal=BatchRefusal,
)
async def assert_facts(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], principal_of(request)
    accepted_ms = node.clock.now_ms()
    body, claim = await _read(request)
    if claim is None:
        return await _carry_out(request, body, principal, accepted_ms, None)
    async with turn_of(request, claim) as taken:
        if taken is not None:
            return recorded_answer(taken)
        return await _carry_out(request, body, claim.principal, accepted_ms, claim)


async def _carry_out(
    request: web.Request, body: BatchRequest, principal: Principal, accepted_ms: int, claim: Claim | None
) -> web.Response:
    charge_facts(request, principal, len(body.facts))
    facts = await _attested([_stated(raw, principal, accepted_ms) for raw in body.facts], request)
    command = AssertFacts(principal=principal, facts=tuple(facts), is_atomic=body.atomic, claim=claim)
    try:
        reply: BatchReply | Taken = (await request.app[NODE].execute(command)).reply
    except BatchRefused as refusal:
        await _record(request, refusal.causes)
        raise
    if isinstance(reply, Taken):
        return recorded_answer(reply)
    await _record(request, reply.refusals)
    return json_response(reply.answer, 201)


async def _read(request: web.Request) -> tuple[BatchRequest, Claim | None]:
    raw = await read_body(request, max_bytes=MAX_BATCH_BYTES)
    if len(raw) <= _OPENED_ON_LOOP_BYTES:
        return _opened(raw, request)
    # One at a time: no two are scanned at once anyway, and each that waits for the interpreter keeps the loop waiting too.
    async with request.app[LARGE_BODIES]:
        return await asyncio.to_thread(_opened, raw, request)


def _opened(raw: bytes, request: web.Request) -> tuple[BatchRequest, Claim | None]:
    if holds_more_values(raw, MAX_LIST_VALUES):
        raise BodyTooLarge(f"facts: at most {MAX_BATCH_FACTS}")
    content = scan_json(raw, max_values=MAX_LIST_VALUES)
    facts = content.get("facts") if isinstance(content, dict) else None
    # Before each is read as one: a body has room for millions.
    if isinstance(facts, list) and len(facts) > MAX_BATCH_FACTS:
        raise BodyTooLarge(f"facts: at most {MAX_BATCH_FACTS}")
    body = decode(raw, BatchRequest)
    return body, claim_for(request, content, named=body.idempotency_key)


def _stated(raw: msgspec.Raw, principal: Principal, accepted_ms: int) -> AssertFact | Refusal:
    if len(raw) > MAX_FACT_BYTES:
        return BodyTooLarge(f"a fact: at most {MAX_FACT_BYTES} bytes")
    try:
        stated = decode(raw, FactRequest)
        if stated.idempotency_key is not None:
            return InvalidField("idempotency_key: the batch has one, its facts have none")
        return command_of(stated, principal, accepted_ms)
    except Refusal as refusal:
        return refusal


async def _attested(facts: list[AssertFact | Refusal], request: web.Request) -> list[AssertFact | Refusal]:
    asking = [index for index, fact in enumerate(facts) if isinstance(fact, AssertFact) and needs_attestation(fact)]
    if asking:
        commands = [facts[index] for index in asking]
        attested = await request.app[COUNTERSIGNER].with_attestations(commands, bearer_of(request))
        for index, fact in zip(asking, attested, strict=True):
            facts[index] = fact
    return facts


async def _record(request: web.Request, refusals: tuple[Refusal, ...]) -> None:
    """What a known caller may not do is on record against it, in a batch too."""
    for refusal in refusals:
        await record_refusal(request, refusal)
