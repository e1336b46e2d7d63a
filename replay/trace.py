"""`stigmem replay audit --trace`: one fact's whole life, step by step, each with the proof that it is in the log (docs/audit.md).

Always: a step is told where the log or its fold says so, and never for what would merely be likely. What this node pushed to
others is in no event.
Always: two origins that use one id have two lives.

Does not write (see `trace_report.py`, `trace_records.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import closing

from node.events.conflicts import ConflictResolved
from node.events.entry import Entry
from node.events.event import ERASED
from node.events.facts import Fact, FactAsserted, FactsSealed
from node.events.gardens import FactPromoted, FactQuarantined, FactRejected, GardenDeleted
from node.events.peers import AttestationSigned, BatchReceived, BatchRefusal, PageServed, PushReceived
from node.events.tokens import CapabilityRevoked, Grant
from node.projections.base import Place
from node.projections.conflicts import At, Conflict
from node.projections.fact_rows import FactRow
from node.projections.facts import Facts
from node.projections.federation_page import behind_all
from node.projections.view import View
from replay.acts import Act, act_of
from replay.chain import Damaged
from replay.checked_log import Evidence, entries_of, folded
from replay.consequences import settled_from, withdrawals
from replay.opening import open_views
from replay.trace_pages import served_steps
from replay.trace_steps import FactRef, Life, Standing, Step, TokenRef, ref_at, ref_of

MAX_LIVES = 100


class UnknownFact(Exception):
    """The log has no fact of that name; the message is one line."""


Tell = Callable[[Life, Step, Entry, Act], None]


def lives_of(name: str, evidence: Evidence) -> list[Life]:
    """The facts of an id, a CID or a fact hash, in order of arrival. Raises UnknownFact for none and for too many."""
    lives: list[Life] = []
    is_refused = is_signed = False
    for entry in entries_of(evidence, 0, evidence.size):
        for index, fact in enumerate(_brought(entry)):
            if _is_named(fact, name):
                lives.append(Life(fact, (entry.offset, index)))
        for mention in _mentions(name, entry):
            is_refused, is_signed = is_refused or mention.verb == "refused", True
        if len(lives) > MAX_LIVES:
            raise UnknownFact(f"more than {MAX_LIVES} facts are named by that: name one by its id")
    # Of a fact that is here, the signature is a step of its own life.
    if is_refused or (is_signed and not lives):
        lives.append(Life(None, (evidence.size, 0)))
    if not lives:
        raise UnknownFact("the log knows no fact of that id, CID or fact hash")
    return lives


def trace(name: str, lives: list[Life], evidence: Evidence, tell: Tell) -> list[Standing | None]:
    """Tell each life's steps in log order; then how each fact stands at the head."""
    views = open_views(evidence.scratch / "views")
    try:
        last_ms = 0
        with closing(folded(views, evidence, evidence.size)) as walk:
            for entry, view in walk:
                last_ms = entry.at_ms
                for life in lives:
                    for step in _told(_steps(life, name, entry, view, evidence), entry.offset):
                        tell(life, step, entry, act_of(entry, view))
        with views.begin() as txn:
            at = At(size=evidence.size, now_ms=last_ms)
            return [None if life.fact is None else _standing(views.view(txn), life, at) for life in lives]
    finally:
        views.close()


def _steps(life: Life, name: str, entry: Entry, view: View, evidence: Evidence) -> Iterator[Step]:
    if life.fact is None:
        yield from _mentions(name, entry)
        return
    if isinstance(entry.event, AttestationSigned) and entry.event.fact_hash == life.fact.fact_hash:
        yield _countersigned(entry.event)
    if entry.offset < life.place[0]:
        return
    if entry.offset == life.place[0]:
        yield _arrival(life, entry, view)
    else:
        yield from _decisions(life, entry)
    if type(entry.event) in Facts.events:
        yield from _changes(life, entry, view, evidence)
    if isinstance(entry.event, PageServed) and life.servable_at is not None:
        yield from served_steps(life, entry.event, view)


def _told(steps: Iterator[Step], offset: int) -> Iterator[Step]:
    """The steps. Raises Damaged where the entry says what no node logs."""
    try:
        yield from steps
    except (ValueError, LookupError) as error:
        raise Damaged(offset, f"the entry cannot be told: {error}") from error


# What the event itself says


def _countersigned(event: AttestationSigned) -> Step:
    return Step(verb="countersigned", peer=event.node_id, nonce=event.nonce, token=TokenRef(token_id=event.token_id))


def _arrival(life: Life, entry: Entry, view: View) -> Step:
    event, actor = entry.event, entry.actor
    if isinstance(event, BatchReceived | PushReceived):
        receipt = event.receipts[life.place[1]]
        return Step(
            verb="received" if receipt.quarantine_garden_id is None else "received_and_held",
            peer=event.node_id,
            nonce=event.nonce if isinstance(event, PushReceived) else None,
            cursor=event.cursor if isinstance(event, BatchReceived) else None,
            judgement=receipt.judgement,
            garden_id=receipt.quarantine_garden_id,
            reason=receipt.quarantine_reason,
        )
    if actor.via == "capability":
        life.token_id = actor.credential
    token = None if life.token_id is None else _token(life.token_id, view)
    match event:
        case FactQuarantined(garden_id=garden_id, reason=reason, judgement=judgement):
            return Step(verb="written_and_held", token=token, judgement=judgement, garden_id=garden_id, reason=reason)
        case ConflictResolved(conflict_id=conflict_id, note=note, judgement=judgement):
            return Step(
                verb="written_to_resolve",
                token=token,
                judgement=judgement,
                conflict_id=conflict_id,
                reason=note or None,
            )
        case _:
            return Step(
                verb="written", token=token, judgement=getattr(event, "judgement", None), garden_id=life.fact.garden_id
            )


def _decisions(life: Life, entry: Entry) -> Iterator[Step]:
    match entry.event:
        case FactPromoted(fact_id=fact_id, origin=origin, target_garden_id=target, reason=reason):
            if life.is_of(origin, fact_id):
                yield Step(verb="admitted", garden_id=target, reason=reason or None)
        case FactRejected(fact_id=fact_id, origin=origin, garden_id=garden_id, reason=reason):
            if life.is_of(origin, fact_id):
                yield Step(verb="rejected", garden_id=garden_id, reason=reason or None)
        case FactsSealed(origin=origin, seals=seals):
            if any(life.is_of(origin, seal.fact_id) for seal in seals):
                yield Step(verb="sealed")
        case CapabilityRevoked(revocation=revocation, reason=reason):
            if revocation.token_id == life.token_id:
                yield Step(verb="token_revoked", token=TokenRef(token_id=revocation.token_id), reason=reason or None)
        case GardenDeleted(garden_id=garden_id):
            if garden_id == life.fact.garden_id:
                yield Step(verb="garden_deleted", garden_id=garden_id)
        case _:
            pass  # no other event names a fact that is here already


def _mentions(name: str, entry: Entry) -> Iterator[Step]:
    """What there is of a fact that is not here: brought and refused, or countersigned for a peer by its hash."""
    if isinstance(entry.event, AttestationSigned) and entry.event.fact_hash == name:
        yield _countersigned(entry.event)
    for refused in _refused(entry):
        if refused.fact_id.lower() == name.lower():
            reason = f"{refused.event_type}: {refused.reason}"
            yield Step(verb="refused", peer=entry.event.node_id, reason=f"{reason} (source {refused.source})")


# What followed, as the view behind the entry has it


def _changes(life: Life, entry: Entry, view: View, evidence: Evidence) -> Iterator[Step]:
    row = view.facts.at(life.place)
    if row.shown_from is not None and row.shown_from[0] == entry.offset:
        withdrawn = _withdrawn_by(row, view)
        if withdrawn:
            yield Step(verb="withdrew", facts=withdrawn)
    withdrawal = view.facts.withdrawal(life.place)
    if withdrawal is not None and not life.is_withdrawn:
        life.is_withdrawn = True
        yield Step(verb=withdrawal.kind, by=_shown_at(withdrawal.by, view, evidence))
    settled = settled_from(life.place, view)
    if settled is not None and not life.is_put_aside:
        life.is_put_aside = True
        yield Step(verb="put_aside", by=_shown_at(settled, view, evidence))
    yield from _contradictions(life, view)
    if life.servable_at is None:
        life.servable_at = _servable_at(life, entry.offset, view)
        if life.servable_at is not None:
            yield Step(verb="became_servable")
    yield from _descendants(life, entry)


def _contradictions(life: Life, view: View) -> Iterator[Step]:
    for conflict in view.conflicts.of_fact(life.place):
        is_resolved = conflict.resolved_by is not None
        if conflict.conflict_id not in life.conflicts:
            yield Step(verb="contradicted", conflict_id=conflict.conflict_id, by=_other_side(conflict, life, view))
        if is_resolved and not life.conflicts.get(conflict.conflict_id):
            by = ref_at(view.facts.at(conflict.resolved_by))
            yield Step(verb="contradiction_resolved", conflict_id=conflict.conflict_id, by=by)
        life.conflicts[conflict.conflict_id] = is_resolved


def _descendants(life: Life, entry: Entry) -> Iterator[Step]:
    names = {life.fact.id.lower(), life.fact.fact_hash}
    for index, fact in enumerate(_brought(entry)):
        if (entry.offset, index) != life.place and names & {parent.lower() for parent in fact.derived_from}:
            yield Step(verb="derived_from_it", by=ref_of(fact, entry.offset))


def _withdrawn_by(row: FactRow, view: View) -> tuple[FactRef, ...]:
    others = (left.place for left in withdrawals(view) if left.until == row.shown_from and left.place != row.place)
    return tuple(ref_at(view.facts.at(place)) for place in others)


def _servable_at(life: Life, offset: int, view: View) -> Place | None:
    """Where the entry made the fact one that peers may be given, if it did."""
    if life.fact.scope == "local":
        return None
    for place, servable in view.facts.servable(life.fact.scope, behind_all(offset)):
        if place[0] != offset:
            return None
        if servable.place == life.place:
            return place
    return None


def _shown_at(place: Place, view: View, evidence: Evidence) -> FactRef:
    """The fact that was shown from a place on: it came in there, or was admitted there."""
    event = evidence.log.read(place[0], 1)[0].event
    if isinstance(event, FactPromoted):
        return ref_at(view.facts.of_origin(event.origin, event.fact_id))
    return ref_at(view.facts.at(place))


def _other_side(conflict: Conflict, life: Life, view: View) -> FactRef:
    return ref_at(view.facts.at(next(place for place in conflict.facts if place != life.place)))


# What facts an entry has


def _brought(entry: Entry) -> Iterator[Fact]:
    match entry.event:
        case FactAsserted(fact=fact) | ConflictResolved(fact=fact) | FactQuarantined(fact=fact):
            yield fact
        case BatchReceived(receipts=receipts) | PushReceived(receipts=receipts):
            yield from (receipt.fact for receipt in receipts if receipt is not ERASED)
        case _:
            pass  # no other event brings a fact


def _refused(entry: Entry) -> tuple[BatchRefusal, ...]:
    return entry.event.outcome.refused if isinstance(entry.event, BatchReceived | PushReceived) else ()


def _is_named(fact: Fact, name: str) -> bool:
    return name.lower() == fact.id.lower() or name in (fact.cid, fact.fact_hash) or f"sha256:{name}" == fact.cid


def _token(token_id: str, view: View) -> TokenRef:
    issued = view.tokens.issued(token_id)
    if issued is None:
        return TokenRef(token_id=token_id)
    grant: Grant = issued.grant
    return TokenRef(
        token_id=token_id,
        issuer=grant.issuer,
        subject=grant.subject,
        verb=grant.verb,
        object=grant.object,
        expiry=grant.expiry,
        issued_offset=issued.offset,
        issued_by=issued.issued_by,
    )


def _standing(view: View, life: Life, at: At) -> Standing:
    row, withdrawal = view.facts.at(life.place), view.facts.withdrawal(life.place)
    if row.quarantine_status in ("pending", "rejected"):
        status = {"pending": "held", "rejected": "rejected"}[row.quarantine_status]
    elif withdrawal is not None:
        status = withdrawal.kind
    elif settled_from(life.place, view) is not None:
        status = "put_aside"
    else:
        status = "stands" if view.conflicts.is_live(row, at) or row.fact.confidence == 0.0 else "expired"
    is_contradicted = view.conflicts.standing(row, at).is_contradicted
    return Standing(status=status, is_contradicted=is_contradicted, garden_id=row.garden_id)
