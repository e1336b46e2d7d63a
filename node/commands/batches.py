"""Asserting many facts in one append: each is judged by itself and sees those before it (PROTOCOL §2.7).

Always: a fact is decided by `decide_assert_fact` and nothing else. In an atomic batch all are stored or none; in another one a
refused fact leaves those beside it alone.

Does not ask for attestations (see `node/countersign.py`).
"""

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from node.commands.decision import Context, Decision, Outcome, Principal, Steps
from node.commands.facts import AssertFact
from node.commands.idempotency import Claim, take_key, told_before
from node.errors import BatchRefused, Refusal
from node.events.gardens import FactQuarantined
from node.projections.view import View


class AssertFacts(Struct, frozen=True, kw_only=True):
    """The facts of a batch, in order; one whose form was refused at the door stands as that refusal.

    With a claim the reply is what was `Taken` where the batch was carried out before.
    """

    principal: Principal
    facts: tuple[AssertFact | Refusal, ...]
    is_atomic: bool
    claim: Claim | None = None


class FactResult(Struct, frozen=True, kw_only=True):
    """What became of one fact. `not_stored`: nothing was wrong with it, but with another of its atomic batch."""

    index: int
    status: Literal["accepted", "quarantined", "rejected", "not_stored"]
    fact_id: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class BatchAnswer(Struct, frozen=True, kw_only=True):
    """`accepted` counts what is stored, in quarantine too."""

    accepted: int
    rejected: int
    results: tuple[FactResult, ...]


class BatchReply(Struct, frozen=True, kw_only=True):
    """The answer to a batch, and why facts of it were refused."""

    answer: BatchAnswer
    refusals: tuple[Refusal, ...]


def assert_facts_in_steps(command: AssertFacts, view: View, context: Context) -> Steps:
    """Each fact is one step. Raises BatchRefused, which carries every result, for an atomic batch with a refused fact."""
    told = None if command.claim is None else told_before(command.claim, view, context.at_ms)
    if told is not None:
        return Decision(reply=told)
    outcomes: list[Outcome | Refusal] = []
    for fact in command.facts:
        outcomes.append(fact if isinstance(fact, Refusal) else (yield fact))
    refusals = tuple(outcome for outcome in outcomes if isinstance(outcome, Refusal))
    is_kept = not (command.is_atomic and refusals)
    results = tuple(_result(index, outcome, is_kept=is_kept) for index, outcome in enumerate(outcomes))
    answer = BatchAnswer(
        accepted=len(results) - len(refusals) if is_kept else 0, rejected=len(refusals), results=results
    )
    if not is_kept:
        raise BatchRefused(
            f"{answer.rejected} of {len(results)} facts were refused, and none is stored",
            causes=refusals,
            accepted=answer.accepted,
            rejected=answer.rejected,
            results=answer.results,
        )
    reply = BatchReply(answer=answer, refusals=refusals)
    if command.claim is None:
        return Decision(reply=reply)
    # An answer of refusals alone has no entries to be read from.
    event = take_key(command.claim, entries=answer.accepted, answer=msgspec.json.encode(answer).decode())
    return Decision(events=(event,), actor=command.claim.principal.actor(), reply=reply)


def _result(index: int, outcome: Outcome | Refusal, *, is_kept: bool) -> FactResult:
    if isinstance(outcome, Refusal):
        return FactResult(index=index, status="rejected", error=outcome.code, detail=outcome.detail)
    if not is_kept:
        return FactResult(index=index, status="not_stored")
    is_held = isinstance(outcome.entries[0].event, FactQuarantined)
    return FactResult(index=index, status="quarantined" if is_held else "accepted", fact_id=outcome.reply.id)
