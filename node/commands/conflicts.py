"""Settling a contradiction with a new fact (PROTOCOL §2.6).

Always: the new fact names every fact of the group that was live, so settling one conflict settles all among them and starts none.
"""

from msgspec import Struct

from node.commands.decision import Context, Decision, Principal, require_permission
from node.commands.drafts import StatedValue
from node.commands.facts import MAX_SUPERSEDED, AssertFact, decide_assert_fact
from node.commands.reading import known_to
from node.errors import (
    ConflictAlreadyResolved,
    ConflictNotFound,
    InsufficientPermission,
    InvalidField,
    InvalidValue,
    MissingField,
    TextTooLarge,
    WinnerNotInConflict,
)
from node.events.conflicts import ConflictResolved
from node.events.facts import Resolution, Value
from node.projections.access import Access, is_readable
from node.projections.conflicts import WHOLE, At, Conflict
from node.projections.fact_rows import FactRow
from node.projections.view import View

MAX_NOTE_CHARS = 2000
# All of the log that a view holds.


class ResolveConflict(Struct, frozen=True, kw_only=True):
    """Settle a conflict for one of its sides, or with a new value; with both given the new value stands."""

    principal: Principal
    conflict_id: str
    winning_fact_id: str | None
    new_value: StatedValue | None
    note: str


def require_settler(principal: Principal) -> None:
    """Raises InsufficientPermission for a credential that settles nothing: a key must read both sides, and write."""
    if principal.key is not None:
        require_permission(principal.key, "read")
        require_permission(principal.key, "write")
    elif not principal.is_operator:
        raise InsufficientPermission("this credential does not settle conflicts")


def find_conflict(conflict_id: str, access: Access, view: View) -> Conflict:
    """Raises ConflictNotFound alike for none and for one whose sides may not be read."""
    conflict = view.conflicts.by_id(conflict_id)
    if conflict is None or not all(is_readable(side, access) for side in sides_of(conflict, view)):
        raise ConflictNotFound("there is no such conflict")
    return conflict


def sides_of(conflict: Conflict, view: View) -> list[FactRow]:
    """The two facts, sorted by id."""
    return [view.facts.at(place) for place in conflict.facts]


def decide_resolve_conflict(command: ResolveConflict, view: View, context: Context) -> Decision:
    """One event; its reply is the fact that settles the conflict."""
    require_settler(command.principal)
    conflict = find_conflict(command.conflict_id, known_to(command.principal, view), view)
    if len(command.note) > MAX_NOTE_CHARS:
        raise InvalidField(f"resolution_note: more than {MAX_NOTE_CHARS} characters")
    at = At(size=WHOLE, now_ms=context.at_ms)
    if not view.conflicts.is_open(conflict, at):
        raise ConflictAlreadyResolved("the conflict is settled, or one of its sides no longer stands")
    sides = sides_of(conflict, view)
    winner = _winner(command, sides)
    first = sides[0]
    live = view.conflicts.live_with(first, at, MAX_SUPERSEDED)
    # The sides whatever their rank: among more facts than one resolution names, the conflict would stay open.
    named = dict.fromkeys(row.fact.id for row in (*live, *sides))
    settles = Resolution(conflict_id=conflict.conflict_id, superseded=tuple(named))
    try:
        decision = decide_assert_fact(_assertion(command, first, winner, settles, context), view, context)
    except (InvalidValue, TextTooLarge) as refusal:
        # A winner's value stands already, so it is the new one.
        raise type(refusal)(f"new_{refusal.detail}") from None
    asserted = decision.events[0]
    event = ConflictResolved(
        conflict_id=conflict.conflict_id,
        winning_fact_id=None if winner is None else winner.fact.id,
        note=command.note,
        judgement=asserted.judgement,
        fact=asserted.fact,
    )
    return Decision(events=(event,), actor=decision.actor, reply=asserted.fact)


def _winner(command: ResolveConflict, sides: list[FactRow]) -> FactRow | None:
    if command.winning_fact_id is None:
        if command.new_value is None:
            raise MissingField("winning_fact_id or new_value: one of them is needed")
        return None
    wanted = command.winning_fact_id.lower()
    winner = next((side for side in sides if side.fact.id.lower() == wanted), None)
    if winner is None:
        raise WinnerNotInConflict("winning_fact_id: not a side of this conflict")
    return winner


def _assertion(
    command: ResolveConflict, side: FactRow, winner: FactRow | None, settles: Resolution, context: Context
) -> AssertFact:
    return AssertFact(
        principal=command.principal,
        entity=side.fact.entity,
        relation=side.fact.relation,
        value=command.new_value if command.new_value is not None else _stated(winner.fact.value),
        source=command.principal.entity,
        confidence=1.0,
        scope=side.fact.scope,
        valid_until=None,
        garden=side.garden_id,
        supersedes=False,
        derived_from=(),
        timestamp=None,
        accepted_ms=context.at_ms,
        attestation_chain=(),
        attestation_chain_issuers=(),
        resolves=settles,
    )


def _stated(value: Value) -> StatedValue:
    if value.type == "null":
        return StatedValue(type="null", interpret_as=value.interpret_as)
    return StatedValue(type=value.type, v=value.v, interpret_as=value.interpret_as)
