"""Why a source scores as it does, in words and counts, and what would be done with a fact of it now (PROTOCOL §6.3, §7).

Always: the score, the terms and the outcome come from the functions that decide about facts; only the words are made here, and
they follow from a term's value alone.
"""

from typing import Literal

from msgspec import Struct

from node.commands.decision import Rules
from node.commands.quarantine import hold_reason, place_to_wait
from node.commands.trust import judge, listed_as
from node.errors import QuarantineFull, TrustBelowThreshold
from node.events.facts import Judgement, Scope
from node.projections.sources import WINDOW_DAYS
from node.projections.trust_lists import Listed
from node.projections.view import View
from node.uris import origin_of

Term = Literal["identity", "history", "scope_authority", "attestation"]
Rule = Literal["weighted", "first_contact", "blocked", "never", "always"]
TERMS: tuple[Term, ...] = ("identity", "history", "scope_authority", "attestation")

_WHY: dict[Term, dict[float, str]] = {
    "identity": {
        1.0: "a manifest was accepted, and proven to be in its organisation's log",
        0.7: "a manifest was accepted, without a proof that it is in its organisation's log",
        0.5: "a capability token of this node names it",
        0.4: "it is this organisation's own, with no manifest that says so",
        0.1: "it is well formed, and nobody has vouched for it here",
    },
    "history": {
        0.0: "it is blocked, or a rule says never",
        0.3: f"of the last {WINDOW_DAYS} days' facts, 5 % or more were refused or rejected",
        0.5: f"fewer than ten facts were admitted in the last {WINDOW_DAYS} days",
        0.7: f"ten facts or more were admitted in the last {WINDOW_DAYS} days, under 5 % refused or rejected",
        1.0: f"a hundred facts or more were admitted in the last {WINDOW_DAYS} days, and none refused or rejected",
    },
    "scope_authority": {
        1.0: "a token to write in this scope was issued for it",
        0.9: "an operator of this node writes it",
        0.7: "it is this organisation's own",
        0.5: "its organisation is an active peer to which this scope is granted",
        0.2: "nobody has granted it this scope",
    },
    "attestation": {
        1.0: "an attestation of its organisation was verified",
        0.2: "no attestation was verified",
    },
}


class Tallied(Struct, frozen=True, kw_only=True):
    """Facts of the last 30 days."""

    admitted: int
    failed: int


class ExplainedTerm(Struct, frozen=True, kw_only=True):
    """`contribution` is what the term adds to the score: nothing where the rule in force leaves it out."""

    term: Term
    value: float
    weight: float
    contribution: float
    why: str


class FirstContact(Struct, frozen=True, kw_only=True):
    """Whether a moderator here has let the organisation in, and so whether more than its history counts."""

    is_locked: bool
    why: str


class Treatment(Struct, frozen=True, kw_only=True):
    """What would become of a fact of that source that a peer brings now: sound, and no instruction. `reason` as the record, or the
    refusal, would give it."""

    outcome: Literal["accepted", "held", "refused"]
    reason: str | None


class Explanation(Struct, frozen=True, kw_only=True):
    """`rule` is what applied, `matched` the entry of the block list, or the rule's source, that covers this one."""

    source: str
    origin: str
    scope: Scope
    judgement: Judgement
    rule: Rule
    matched: str | None
    terms: tuple[ExplainedTerm, ...]
    of_source: Tallied
    of_origin: Tallied
    first_contact: FirstContact
    now: Treatment


def explain(
    view: View,
    rules: Rules,
    *,
    node_id: str,
    source: str,
    origin: str,
    scope: Scope,
    now_ms: int,
    is_attested: bool,
) -> Explanation:
    """Score a source, given in normal form, for a fact that `origin` wrote first, and say why."""
    origin = origin_of(source, origin)
    judgement = judge(
        view,
        rules,
        node_id=node_id,
        source=source,
        origin=origin,
        scope=scope,
        now_ms=now_ms,
        is_attested=is_attested,
        is_by_admin=False,
        is_by_token=False,
    )
    listed = listed_as(view, rules, source, origin)
    return Explanation(
        source=source,
        origin=origin,
        scope=scope,
        judgement=judgement,
        rule=judgement.rule if listed is None else listed.decision,
        matched=None if listed is None else listed.source,
        terms=tuple(_term(name, position, judgement) for position, name in enumerate(TERMS)),
        of_source=_tallied(view.sources.of_source(origin, source).within(now_ms)),
        of_origin=_tallied(view.sources.of_organisation(origin).within(now_ms)),
        first_contact=_first_contact(view, rules, origin, node_id, listed),
        now=_treatment(view, rules, judgement, node_id=node_id, source=source, origin=origin, now_ms=now_ms),
    )


def _term(name: Term, position: int, judgement: Judgement) -> ExplainedTerm:
    value, weight = getattr(judgement, name), judgement.weights[position]
    counts = judgement.rule == "weighted" or (judgement.rule == "first_contact" and name == "history")
    return ExplainedTerm(
        term=name,
        value=value,
        weight=weight,
        contribution=round(weight * value, 6) if counts else 0.0,
        why=_WHY[name][value],
    )


def _tallied(counts: tuple[int, int]) -> Tallied:
    admitted, failed = counts
    return Tallied(admitted=admitted, failed=failed)


def _first_contact(view: View, rules: Rules, origin: str, node_id: str, listed: Listed | None) -> FirstContact:
    if origin == node_id:
        return FirstContact(is_locked=False, why="this organisation's own word is never locked")
    if rules.mode != "strict":
        return FirstContact(is_locked=False, why="only strict mode locks")
    if listed is not None and listed.decision == "always":
        return FirstContact(is_locked=False, why="a rule says always")
    if view.sources.of_organisation(origin).is_admitted:
        return FirstContact(is_locked=False, why="a moderator's last decision about its organisation was to admit")
    return FirstContact(
        is_locked=True,
        why="no moderator here has admitted a fact of its organisation, or the last decision was a rejection",
    )


def _treatment(
    view: View, rules: Rules, judgement: Judgement, *, node_id: str, source: str, origin: str, now_ms: int
) -> Treatment:
    if origin == node_id or rules.mode == "off":
        return Treatment(outcome="accepted", reason=None)
    reason = hold_reason(
        view,
        rules,
        node_id=node_id,
        source=source,
        origin=origin,
        judgement=judgement,
        is_instruction=False,
        is_provenance_sound=True,
        lacks_attestation=False,
        now_ms=now_ms,
    )
    if reason is None:
        return Treatment(outcome="accepted", reason=None)
    try:
        place_to_wait(reason, origin, rules, view)
    except (TrustBelowThreshold, QuarantineFull) as refusal:
        return Treatment(outcome="refused", reason=refusal.code)
    return Treatment(outcome="held", reason=reason)
