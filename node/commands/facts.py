"""Asserting a fact: whose it may be, what it rests on, and whether it stands or waits in quarantine (PROTOCOL §2, §6.3).

Always: everything is refused before anything is stored; what trust decided, and by which rules, is in the event.

Does not ask a peer for its attestation: that happens before the command (see `node/http/facts.py`), with `plan` telling whether.
"""

from collections.abc import Iterator
from itertools import islice

from msgspec import Struct, structs

from node.canonical import fact_hash
from node.commands.api_keys import require_key_write, require_no_peer_name
from node.commands.attestations import check_attestations, is_attested_by_source
from node.commands.capabilities import check_standing, require_write
from node.commands.decision import Context, Decision, Principal, Rules, rules_in_force
from node.commands.drafts import Draft, StatedValue, check_stored, draft_of
from node.commands.graves import require_not_tombstoned
from node.commands.quarantine import hold_reason, place_to_wait
from node.commands.reading import known_to
from node.commands.roles import writable_garden
from node.commands.seals import seal_of
from node.commands.trust import judge
from node.errors import (
    GardenScopeMismatch,
    InsufficientPermission,
    InvalidField,
    ProvenanceHashInvalid,
    ProvenanceUnknownParent,
    QuarantineWriteForbidden,
    SourceNotOwned,
    SupersededNotOwned,
)
from node.events.facts import Fact, FactAsserted, Judgement, Resolution, Scope, body_of, cid_of
from node.events.gardens import FactQuarantined
from node.events.tokens import Grant
from node.projections.access import Access, is_readable
from node.projections.fact_rows import FactRow, is_own_word, may_travel, new_row, speaker_of
from node.projections.gardens import Garden
from node.projections.view import View
from node.times import parse_rfc3339
from node.uris import authority_of, is_uuid, lies_under, normal_uri, origin_of

MAX_PARENTS = 64
MAX_SUPERSEDED = 1000
# How many facts are looked at for all the parents that one names by hash or CID, and for those that it supersedes with `true`: any
# number may be there, and none for the writer to name.
MAX_LOOKED_AT = 2000
_CID_PREFIX = "sha256:"
_HEX = frozenset("0123456789abcdef")


class AssertFact(Struct, frozen=True, kw_only=True):
    """A fact as a caller states it. `accepted_ms` is when the request was taken in: the fact's timestamp where it names none.

    `resolves` comes from settling a conflict alone (see `conflicts.py`).
    """

    principal: Principal
    entity: str
    relation: str
    value: StatedValue
    source: str
    confidence: float
    scope: Scope
    valid_until: str | None
    garden: str | None
    supersedes: bool | tuple[str, ...]
    derived_from: tuple[str, ...]
    timestamp: str | None
    accepted_ms: int
    attestation_chain: tuple[str, ...]
    attestation_chain_issuers: tuple[str, ...]
    resolves: Resolution | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """A command that may be carried out: the draft, the garden it goes to, the facts it rests on and replaces, what to warn of."""

    draft: Draft
    garden: Garden | None
    parents: tuple[str, ...]
    supersedes: tuple[str, ...]
    warnings: tuple[str, ...]


def plan(command: AssertFact, rules: Rules, view: View, context: Context) -> Plan:
    """Check all of a command that needs no answer from elsewhere. Raises the refusal."""
    draft = draft_of(
        entity=command.entity,
        relation=command.relation,
        value=command.value,
        source=command.source,
        confidence=command.confidence,
        scope=command.scope,
        valid_until=command.valid_until,
        timestamp=command.timestamp,
        now_ms=command.accepted_ms,
        is_signed=command.timestamp is not None,
    )
    # What settles a conflict is about the entity of its sides, whatever that is called.
    if command.resolves is None:
        check_stored(entity=draft.entity, relation=draft.relation, source=draft.source)
    garden = _garden(command, view)
    _require_right(command, draft, garden, view, context)
    require_not_tombstoned(draft.normal_entity, draft.scope, view)
    if len(command.derived_from) > MAX_PARENTS:
        raise InvalidField(f"derived_from: more than {MAX_PARENTS}")
    parents, parent_warnings = _parents(command, view, rules) if command.derived_from else ((), ())
    return Plan(
        draft=draft,
        garden=garden,
        parents=parents,
        supersedes=_superseded(command, draft, garden, view, context),
        warnings=(*draft.warnings, *parent_warnings),
    )


def decide_assert_fact(command: AssertFact, view: View, context: Context) -> Decision:
    rules = rules_in_force(view, context.config)
    planned = plan(command, rules, view, context)
    body = body_of(planned.draft)
    verified, warnings = check_attestations(
        body,
        command.attestation_chain,
        command.attestation_chain_issuers,
        dated_ms=parse_rfc3339(planned.draft.timestamp) if command.attestation_chain else context.at_ms,
        view=view,
        context=context,
        is_strict=rules.mode == "strict",
    )
    judgement = _judge(command, planned.draft, verified, rules, view, context)
    fact = _fact(command, planned, fact_hash(body), verified, judgement, context, (*planned.warnings, *warnings))
    is_own = is_own_word(fact)
    # A node that exchanges nothing seals nothing: a second signature would be a fifth of its write (bench/README.md).
    if is_own and context.config.federation_enabled and may_travel(new_row((0, 0), fact, None)):
        fact = structs.replace(fact, seal=seal_of(fact, context.signer))
    reason = _reason_to_hold(command, planned.draft, judgement, verified, rules, view, context)
    if reason is not None:
        return _hold(command, fact, judgement, reason, rules, view)
    event = FactAsserted(judgement=None if is_own else judgement, fact=fact)
    return Decision(events=(event,), actor=command.principal.actor(), reply=fact)


def _hold(
    command: AssertFact, fact: Fact, judgement: Judgement | None, reason: str, rules: Rules, view: View
) -> Decision:
    garden_id = place_to_wait(reason, origin_of(fact.source, fact.origin), rules, view)
    event = FactQuarantined(garden_id=garden_id, reason=reason, judgement=judgement, fact=fact)
    return Decision(events=(event,), actor=command.principal.actor(), reply=fact)


def row_of(event: FactAsserted | FactQuarantined, offset: int) -> FactRow:
    """The row that folding the event makes: the answer to the write needs no second look into the views."""
    hold = (event.garden_id, event.reason) if isinstance(event, FactQuarantined) else None
    return new_row((offset, 0), event.fact, hold)


def needs_attestation(command: AssertFact) -> bool:
    """Whether the source's own node is to be asked for its signature (PROTOCOL §9)."""
    return command.principal.via == "capability" and not command.attestation_chain


def _require_right(command: AssertFact, draft: Draft, garden: Garden | None, view: View, context: Context) -> None:
    principal = command.principal
    if principal.grant is not None:
        check_standing(principal.grant, view, context.at_ms, context.node_id)
        uri = None if garden is None else f"{context.node_id}/garden/{garden.slug}"
        require_write(principal.grant, scope=draft.scope, entity=draft.normal_entity, garden_uri=uri)
        if not lies_under(draft.normal_source, principal.grant.subject):
            raise SourceNotOwned("source: it does not lie under the token's subject")
        _require_no_own_instruction(draft, principal.grant, context)
    elif principal.key is not None:
        require_key_write(principal.key, draft, view, context)
    elif principal.via == "admin":
        require_no_peer_name("source", draft.normal_source, view, context)
    elif principal.via != "anonymous":
        raise InsufficientPermission("this credential does not write facts")


def _require_no_own_instruction(draft: Draft, grant: Grant, context: Context) -> None:
    # Another organisation's instruction is always held; our own agent's would stand at once (PROTOCOL §8.4).
    if draft.value.interpret_as == "instruction" and authority_of(grant.subject) == context.node_id:
        raise InsufficientPermission("value.interpret_as: instructions need instruction:write, which no token grants")


def _garden(command: AssertFact, view: View) -> Garden | None:
    if command.garden is None:
        return None
    garden = writable_garden(command.garden, command.principal, view, field="garden_id")
    if garden.is_quarantine:
        raise QuarantineWriteForbidden("garden_id: nothing is asserted into a quarantine garden")
    if garden.scope != command.scope:
        raise GardenScopeMismatch(f"garden_id: the garden's scope is {garden.scope}")
    return garden


def _parents(command: AssertFact, view: View, rules: Rules) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parents as the fact names them, and what to warn of."""
    access, looks = known_to(command.principal, view), iter(range(MAX_LOOKED_AT))
    parents = tuple(_parent_named(name, access, view, looks) for name in command.derived_from)
    unknown = [parent for parent in parents if not _is_known(parent, access, view, looks)]
    if unknown and rules.mode == "strict":
        raise ProvenanceUnknownParent("derived_from: names a fact that is not known here")
    return parents, tuple(f"derived_from: {parent} is not known here" for parent in unknown)


def _parent_named(name: str, access: Access, view: View, looks: Iterator[int]) -> str:
    """A fact hash or id as it stands. For a CID, which today's clients hand on, the id of what it names to its reader."""
    if not name.startswith(_CID_PREFIX):
        return name
    for row, _ in zip(view.facts.by_cid(name), looks, strict=False):
        if row.shown_from is not None and is_readable(row, access):
            return row.fact.id
    raise ProvenanceHashInvalid("derived_from: a CID that names no fact known here")


def _is_known(parent: str, access: Access, view: View, looks: Iterator[int]) -> bool:
    if not is_parent_name(parent):
        raise ProvenanceHashInvalid("derived_from: neither a fact hash, a fact id nor a CID")
    if len(parent) != 64:
        rows = view.facts.all_by_id(parent)
    else:
        rows = (row for row, _ in zip(view.facts.by_hash(parent), looks, strict=False))
    # Only what the writer may read counts as known: else this would tell what exists in places closed to it.
    return any(is_readable(row, access) for row in rows)


def is_parent_name(text: str) -> bool:
    """Whether the text is a fact hash (64 hex digits) or a fact id."""
    return (len(text) == 64 and set(text) <= _HEX) or is_uuid(text)


def _superseded(
    command: AssertFact, draft: Draft, garden: Garden | None, view: View, context: Context
) -> tuple[str, ...]:
    if command.supersedes is False:
        return ()
    # The record names what it supersedes: so only what the writer may name is looked at.
    access = known_to(command.principal, view)
    speaker = (origin_of(draft.normal_source, context.node_id), draft.normal_source)
    if command.supersedes is True:
        standing = islice(view.facts.standing(draft.normal_entity, draft.relation, draft.scope, speaker), MAX_LOOKED_AT)
        # Every reader of the record is told these ids, so they are of facts that every reader of it may read: those of another
        # garden, which contradict nothing here, are left alone.
        places = (None, garden.id if garden else None)
        named = (row.fact.id for row in standing if row.garden_id in places and is_readable(row, access))
        return tuple(islice(named, MAX_SUPERSEDED))
    if len(command.supersedes) > MAX_SUPERSEDED:
        raise InvalidField(f"supersedes: more than {MAX_SUPERSEDED}")
    for fact_id in command.supersedes:
        named = view.facts.all_by_id(fact_id)
        # Of the same entity: what is erased with one takes nothing of another along, nor brings it back (docs/tombstones.md).
        if not any(
            speaker_of(row.fact) == speaker
            and normal_uri(row.fact.entity) == draft.normal_entity
            and is_readable(row, access)
            for row in named
        ):
            raise SupersededNotOwned("supersedes: not a fact of this source about the same entity")
    return command.supersedes


def _judge(
    command: AssertFact, draft: Draft, verified: tuple[bool, ...], rules: Rules, view: View, context: Context
) -> Judgement | None:
    if rules.mode == "off":
        return None
    issuers = command.attestation_chain_issuers
    return judge(
        view,
        rules,
        node_id=context.node_id,
        source=draft.normal_source,
        origin=context.node_id,
        scope=draft.scope,
        now_ms=context.at_ms,
        is_attested=is_attested_by_source(draft.normal_source, issuers, verified),
        is_by_admin=command.principal.is_operator,
        is_by_token=command.principal.via == "capability",
        is_by_key=command.principal.via == "key",
    )


def _reason_to_hold(
    command: AssertFact,
    draft: Draft,
    judgement: Judgement | None,
    verified: tuple[bool, ...],
    rules: Rules,
    view: View,
    context: Context,
) -> str | None:
    # What an operator writes is this node's own doing, whoever it quotes; only what came from outside is held (PROTOCOL §6.3).
    is_own = origin_of(draft.normal_source, context.node_id) == context.node_id
    if is_own or command.principal.via != "capability":
        return None
    issuers = command.attestation_chain_issuers
    return hold_reason(
        view,
        rules,
        node_id=context.node_id,
        source=draft.normal_source,
        origin=context.node_id,
        judgement=judgement,
        is_instruction=draft.value.interpret_as == "instruction",
        is_provenance_sound=True,
        lacks_attestation=not is_attested_by_source(draft.normal_source, issuers, verified),
        now_ms=context.at_ms,
    )


def _fact(
    command: AssertFact,
    planned: Plan,
    body_hash: str,
    verified: tuple[bool, ...],
    judgement: Judgement | None,
    context: Context,
    warnings: tuple[str, ...],
) -> Fact:
    draft = planned.draft
    return Fact(
        id=context.clock.new_id(),
        entity=draft.entity,
        relation=draft.relation,
        value=draft.value,
        source=draft.source,
        timestamp=draft.timestamp,
        hlc=context.hlc,
        confidence=draft.confidence,
        scope=draft.scope,
        valid_until=draft.valid_until,
        garden_id=planned.garden.id if planned.garden else None,
        received_from=None,
        supersedes=planned.supersedes,
        resolves=command.resolves,
        origin=context.node_id,
        seal=None,
        source_trust=judgement.t if judgement else None,
        derived_from=planned.parents,
        attestation_chain=command.attestation_chain,
        attestation_chain_issuers=command.attestation_chain_issuers,
        attestation_verified=verified,
        cid=cid_of(draft),
        fact_hash=body_hash,
        warnings=warnings,
    )
