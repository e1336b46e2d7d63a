"""Carrying a request out once, however often it is sent (PROTOCOL §2.7).

Always: a key is looked up and taken in the transaction that decides the request, so of two requests under it one is carried out.
A refused request takes none.
"""

from msgspec import Struct

from node.commands.decision import Context, Decide, Decision, Principal
from node.commands.reading import reach_of
from node.errors import GardenForbidden, IdempotencyKeyReused
from node.events.conflicts import ConflictResolved
from node.events.event import Event
from node.events.facts import FactAsserted
from node.events.gardens import FactPromoted, FactRejected, GardenCreated, GardenMemberSet
from node.events.idempotency import IdempotencyKeyTaken
from node.projections.idempotency import Taken, key_name
from node.projections.view import View


class Claim(Struct, frozen=True, kw_only=True):
    """What is asked under a key, which is the principal's `idempotency_key`; `request_hash` as in the event."""

    principal: Principal
    route: str
    request_hash: str

    @property
    def name(self) -> bytes:
        return key_name(self.principal.actor(), self.route)


class Once(Struct, frozen=True, kw_only=True):
    """A command to be carried out once; the reply is what was `Taken` where it was carried out before."""

    claim: Claim
    command: Struct


class RecordAnswer(Struct, frozen=True, kw_only=True):
    """The answer to a request that has taken its key and was finished after its command."""

    claim: Claim
    answer: str


def told_before(claim: Claim, view: View, now_ms: int) -> Taken | None:
    """What was done under this key, if anything was. Raises IdempotencyKeyReused where something else was asked."""
    taken = view.idempotency.taken(claim.name, now_ms)
    if taken is not None and taken.request_hash != claim.request_hash:
        raise IdempotencyKeyReused("Idempotency-Key: it was used for another request")
    return taken


def require_still_known(event: Event, principal: Principal, view: View) -> None:
    """Raises GardenForbidden where what a request did is in a garden of which the principal may not know any more.

    Content is of then and rights are of now, as with every read: else a key would keep what a membership gave.
    """
    garden_id = _garden_of(event)
    if garden_id is not None and not reach_of(principal, view).is_member(garden_id):
        raise GardenForbidden("what this request did is in a garden that is not yours any more")


def take_key(claim: Claim, *, entries: int, answer: str | None) -> IdempotencyKeyTaken:
    """The event that follows what a request did."""
    return IdempotencyKeyTaken(route=claim.route, request_hash=claim.request_hash, entries=entries, answer=answer)


def decide_once(command: Once, decide: Decide, view: View, context: Context) -> Decision:
    """`decide` is the inner command's."""
    taken = told_before(command.claim, view, context.at_ms)
    if taken is not None:
        return Decision(reply=taken)
    decision = decide(command.command, view, context)
    if decision.refusal is not None:
        return decision
    event = take_key(command.claim, entries=len(decision.events), answer=None)
    return Decision(
        events=(*decision.events, event),
        actor=decision.actor,
        reply=decision.reply,
        observed_hlc=decision.observed_hlc,
    )


def decide_record_answer(command: RecordAnswer, view: View, context: Context) -> Decision:
    event = take_key(command.claim, entries=0, answer=command.answer)
    return Decision(events=(event,), actor=command.claim.principal.actor())


def _garden_of(event: Event) -> str | None:
    """The garden that an answer tells of; what waits in quarantine is told to its writer, who was never a member there."""
    match event:
        case FactAsserted(fact=fact) | ConflictResolved(fact=fact):
            return fact.garden_id
        case GardenCreated(id=garden_id):
            return garden_id
        case (
            GardenMemberSet(garden_id=garden_id) | FactPromoted(garden_id=garden_id) | FactRejected(garden_id=garden_id)
        ):
            return garden_id
        case _:
            return None
