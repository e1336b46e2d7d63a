"""Exchanges with peers: serving a page, taking one in, countersigning a fact body (PROTOCOL §5.2-§5.5, §9).

Always: whatever becomes of a peer's request, the event that records it takes the nonce, once the token's checks held.
Always: the facts of a page and the cursor behind them are one event, so a crash at any point leaves them agreeing.
"""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct, structs

from node.canonical import b64url_decode, b64url_encode, fact_hash
from node.clock import parse_hlc
from node.commands.capabilities import check_dates, holds_under, parse_token
from node.commands.decision import Context, Decision, Rules, rules_in_force
from node.commands.drafts import Draft, StatedValue, draft_of
from node.commands.graves import require_not_tombstoned
from node.commands.ingest import Examined
from node.commands.peer_tokens import Claims, check_claims, forget_ms
from node.commands.quarantine import hold_reason, place_to_wait
from node.commands.trust import judge
from node.commands.witness import Witnessed, seen_with
from node.config import Config
from node.errors import (
    AttestationQuotaExceeded,
    AttestationRefused,
    ClientCertificateRefused,
    ClientCertificateRequired,
    CosignatureInvalid,
    IdCollision,
    NonceAlreadySeen,
    Refusal,
    ScopeNotPermitted,
    TermsChanged,
    Unauthenticated,
    UnknownOrInactivePeer,
)
from node.events.cosignature import check_cosignature, witness_name
from node.events.event import Actor
from node.events.facts import Fact, Judgement, Scope, body_of
from node.events.peers import (
    AttestationSigned,
    BatchReceived,
    BatchRefusal,
    CheckpointCosigned,
    ExchangeRefused,
    PageServed,
    Receipt,
    Receipts,
)
from node.projections.fact_rows import speaker_of
from node.projections.federation_page import read_cursor
from node.projections.peers import Peer
from node.projections.view import View
from node.uris import authority_of, lies_under, normal_uri, origin_of

COSIGNATURE_WINDOW_MS = 300_000


class ServePage(Struct, frozen=True, kw_only=True):
    """A peer asks for a page; its token's signature was checked at the door."""

    claims: Claims
    scope: str | None
    cursor: str | None
    limit: int


class IngestBatch(Struct, frozen=True, kw_only=True):
    """A page of a peer's facts, each examined, and the cursor behind them.

    `public_key` and `terms_from` are those of the peer they were examined under; `witnessed` is the checkpoint proved before.
    """

    node_id: str
    public_key: str | None
    terms_from: int
    outcomes: tuple[Examined | BatchRefusal, ...]
    cursor: str
    witnessed: Witnessed | None = None


class Ingested(Struct, frozen=True, kw_only=True):
    """What became of a page's facts: `ingested` counts accepted and held ones."""

    ingested: int
    known: int
    refused: int


class Taken(Struct, frozen=True, kw_only=True):
    """What became of facts that a peer brought; `recorded` are the refusals that are to be in the event."""

    receipts: tuple[Receipt, ...]
    known: int
    refused: tuple[BatchRefusal, ...]
    recorded: tuple[BatchRefusal, ...]

    @property
    def latest_hlc(self) -> str | None:
        return max((receipt.fact.hlc for receipt in self.receipts), default=None, key=parse_hlc)


class FactBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The seven members of a fact body (PROTOCOL §2.4), as another node asks for a signature over them."""

    entity: str
    relation: str
    value: StatedValue
    scope: Scope
    source: str
    confidence: Annotated[float, Meta(ge=0.0, le=1.0)]
    ts: str


class SignAttestation(Struct, frozen=True, kw_only=True):
    """A peer asks for this node's signature on a fact written there by one of ours; `token` is the bearer's text."""

    claims: Claims
    body: FactBody
    token: bytes


class TakeCosignature(Struct, frozen=True, kw_only=True):
    """A peer cosigned `note`, which is this node's own checkpoint of `size` entries, with the signature line `cosignature`."""

    claims: Claims
    note: str
    size: int
    cosignature: str


class RefuseExchange(Struct, frozen=True, kw_only=True):
    """A peer's request failed at the door, behind its token's signature. Who could not prove to be its issuer takes no nonce."""

    claims: Claims
    refusal: Refusal


def decide_serve_page(command: ServePage, view: View, context: Context) -> Decision:
    return answer_peer(command.claims, view, context, lambda peer: _served(command, peer, view, context))


def decide_sign_attestation(command: SignAttestation, view: View, context: Context) -> Decision:
    return answer_peer(command.claims, view, context, lambda peer: _attested(command, peer, view, context))


def decide_take_cosignature(command: TakeCosignature, view: View, context: Context) -> Decision:
    return answer_peer(command.claims, view, context, lambda peer: _cosigned(command, peer, context))


def decide_refuse_exchange(command: RefuseExchange, view: View, context: Context) -> Decision:
    def refuse(peer: Peer) -> Decision:
        if isinstance(command.refusal, ClientCertificateRequired | ClientCertificateRefused):
            return _unproven(command.claims, command.refusal, context)
        raise command.refusal

    return answer_peer(command.claims, view, context, refuse)


def decide_ingest_batch(command: IngestBatch, view: View, context: Context) -> Decision:
    peer = view.peers.of_node(command.node_id)
    if peer is None or peer.status != "active":
        raise UnknownOrInactivePeer()
    require_terms(peer, public_key=command.public_key, terms_from=command.terms_from)
    taken = take_in(command.outcomes, peer, view, context)
    reply = Ingested(ingested=len(taken.receipts), known=taken.known, refused=len(taken.refused))
    has_news = bool(taken.receipts or taken.recorded)
    seen = seen_with(peer, command.witnessed, has_news=has_news, now_ms=context.at_ms)
    actor = _peer_actor(command.node_id)
    if not has_news:
        return Decision(events=seen, actor=actor, reply=reply)
    event = BatchReceived(
        node_id=command.node_id,
        cursor=command.cursor,
        known=taken.known,
        outcome=Receipts(refused=taken.recorded),
        receipts=taken.receipts,
    )
    return Decision(events=(*seen, event), actor=actor, reply=reply, observed_hlc=taken.latest_hlc)


def require_terms(peer: Peer, *, public_key: str | None, terms_from: int) -> None:
    """Raises where the peer no longer stands as it stood when its facts were examined."""
    if peer.public_key != public_key:
        raise UnknownOrInactivePeer()
    if peer.terms_from != terms_from:
        # Its cursor was put back to the beginning meanwhile; a page's would undo that.
        raise TermsChanged("the peer's terms changed while its facts were examined")


def take_in(outcomes: tuple[Examined | BatchRefusal, ...], peer: Peer, view: View, context: Context) -> Taken:
    """Judge examined facts, each alone, by what is stored and in force now."""
    rules = rules_in_force(view, context.config)
    receipts: dict[tuple[str, str], Receipt] = {}
    refused, known = [], 0
    judge_once = _Judge(rules, view, context)
    for outcome in outcomes:
        if isinstance(outcome, BatchRefusal):
            refused.append(outcome)
            continue
        try:
            receipt = _receipt(outcome, receipts, judge_once, rules, view, context)
        except Refusal as refusal:
            refused.append(_refused(outcome.fact, refusal))
            continue
        if receipt is None:
            known += 1
        else:
            receipts[outcome.fact.origin, outcome.fact.id.lower()] = receipt
    # A peer chooses how much of what it brings is refused: past the limit that is counted, or it could fill our disk.
    recorded = tuple(
        refusal for refusal in refused if context.refusals.admit(peer.node_id, refusal.reason, context.at_ms)
    )
    return Taken(receipts=tuple(receipts.values()), known=known, refused=tuple(refused), recorded=recorded)


def granted_scopes(peer: Peer, claims: Claims, scope: str | None, context: Context) -> tuple[Scope, ...]:
    """What a pull may return: the peer's scopes, its token's, and the one asked for, all at once (PROTOCOL §5.3)."""
    granted = tuple(
        name
        for name in exchanged_scopes(peer, context.config)
        if name in claims.scopes and (scope is None or name == scope)
    )
    if not granted:
        raise ScopeNotPermitted("no scope is left of what the peer is allowed, its token names and was asked for")
    return granted


def exchanged_scopes(peer: Peer, config: Config) -> tuple[Scope, ...]:
    """What a peer may be given at all: never `local`, `team` only where the node allows it."""
    allowed = {"public", "company"} | ({"team"} if config.federation_allow_team else set())
    return tuple(name for name in peer.allowed_scopes if name in allowed)


def answer_peer(claims: Claims, view: View, context: Context, act: Callable[[Peer], Decision]) -> Decision:
    """Run `act(peer)` for an authenticated peer. Its one event takes the nonce; where it raises, that of the refusal does."""
    peer = view.peers.of_node(claims.iss)
    if peer is None or peer.status != "active":
        raise UnknownOrInactivePeer()
    actor = _peer_actor(claims.iss, claims.nonce)
    try:
        check_claims(claims, view, context)
    except Unauthenticated as refusal:
        return structs.replace(_unproven(claims, refusal, context), actor=actor)
    try:
        return structs.replace(act(peer), actor=actor)
    except Refusal as refusal:
        nonce = str(claims.nonce)
        return Decision(events=(_refusal_event(claims, refusal, nonce, context),), actor=actor, refusal=refusal)


def _unproven(claims: Claims, refusal: Unauthenticated, context: Context) -> Decision:
    # No nonce is taken here, so nothing but this limit keeps somebody with one captured token from filling the log.
    if not context.refusals.admit(claims.iss, refusal.code, context.at_ms):
        return Decision(refusal=refusal)
    return Decision(events=(_refusal_event(claims, refusal, None, context),), refusal=refusal)


def _refusal_event(claims: Claims, refusal: Refusal, nonce: str | None, context: Context) -> ExchangeRefused:
    if isinstance(refusal, NonceAlreadySeen):
        event_type = "replay_attempt"
    elif nonce is None:
        event_type = "rejected_token"
    else:
        event_type = "scope_violation" if isinstance(refusal, ScopeNotPermitted) else "rejected_request"
    return ExchangeRefused(
        node_id=claims.iss,
        nonce=nonce,
        forget_ms=0 if nonce is None else forget_ms(claims, context),
        event_type=event_type,
        reason=refusal.code,
        detail=refusal.detail,
    )


def _served(command: ServePage, peer: Peer, view: View, context: Context) -> Decision:
    scopes = granted_scopes(peer, command.claims, command.scope, context)
    read_cursor(command.cursor, scopes, view)
    event = PageServed(
        node_id=peer.node_id,
        nonce=str(command.claims.nonce),
        forget_ms=forget_ms(command.claims, context),
        scope=command.scope,
        cursor=command.cursor,
        limit=command.limit,
    )
    return Decision(events=(event,), reply=scopes)


def _cosigned(command: TakeCosignature, peer: Peer, context: Context) -> Decision:
    try:
        time_s = check_cosignature(
            command.cosignature,
            note=command.note,
            name=witness_name(peer.node_id),
            public_key=b64url_decode(peer.public_key or ""),
        )
    except ValueError as error:
        raise CosignatureInvalid(f"cosignature: {error}") from error
    if abs(time_s * 1000 - context.at_ms) > COSIGNATURE_WINDOW_MS:
        raise CosignatureInvalid("cosignature: dated more than five minutes from now")
    if peer.cosigned is not None and command.size < peer.cosigned.size:
        raise CosignatureInvalid("checkpoint: smaller than the last one that this peer cosigned")
    event = CheckpointCosigned(
        node_id=peer.node_id,
        nonce=str(command.claims.nonce),
        forget_ms=forget_ms(command.claims, context),
        size=command.size,
        cosignature=command.cosignature,
    )
    return Decision(events=(event,))


def _attested(command: SignAttestation, peer: Peer, view: View, context: Context) -> Decision:
    body = command.body
    draft = draft_of(
        entity=body.entity,
        relation=body.relation,
        value=body.value,
        source=body.source,
        confidence=body.confidence,
        scope=body.scope,
        valid_until=None,
        timestamp=body.ts,
        now_ms=context.at_ms,
        is_signed=True,
    )
    token_id = _check_attestable(command, draft, peer, view, context)
    # Built from what was checked, never the document that was sent (PROTOCOL §2.4).
    signed = body_of(draft)
    event = AttestationSigned(
        node_id=peer.node_id,
        nonce=str(command.claims.nonce),
        forget_ms=forget_ms(command.claims, context),
        token_id=token_id,
        fact_hash=fact_hash(signed),
        fact_body=signed,
    )
    return Decision(events=(event,), reply=b64url_encode(context.signer.sign(signed)))


def _check_attestable(command: SignAttestation, draft: Draft, peer: Peer, view: View, context: Context) -> str:
    """The id of the token under which this may be signed. Raises AttestationRefused, or what is wrong with the token."""
    token = parse_token(command.token)
    if token.issuer != peer.node_id or token.verb != "write":
        raise AttestationRefused("token: not a write token of the node that asks")
    if not holds_under(token, peer.keys, context.at_ms):
        raise AttestationRefused("token: its signature does not hold")
    check_dates(token, context.at_ms)
    subject = normal_uri(token.subject)
    if subject == context.node_id or not lies_under(subject, context.node_id):
        raise AttestationRefused("token: its subject is not part of this organisation")
    if not lies_under(draft.normal_source, subject):
        raise AttestationRefused("source: it does not lie under the token's subject")
    if authority_of(draft.normal_entity) != peer.node_id:
        raise AttestationRefused("entity: it lies outside the authority of the node that asks")
    if draft.scope == "public":
        raise AttestationRefused("scope: a public fact needs the author's own signature")
    _check_policy(token.token_id, view, context)
    require_not_tombstoned(draft.normal_entity, draft.scope, view)
    # Last: only what would be signed counts, or others' mistakes would use up a peer's share.
    if not context.attestations.take(peer.node_id, context.at_ms):
        raise AttestationQuotaExceeded("that peer has had its signatures of this minute", retry_after=60)
    return token.token_id


def _check_policy(token_id: str, view: View, context: Context) -> None:
    policy = context.config.attestation_policy
    if policy == "off" or (policy == "accepted" and not view.tokens.is_accepted(token_id)):
        raise AttestationRefused("this node's attestation policy does not allow it")


def _receipt(
    examined: Examined,
    batch: dict[tuple[str, str], Receipt],
    judge_once: "_Judge",
    rules: Rules,
    view: View,
    context: Context,
) -> Receipt | None:
    """The fact as it is taken in, or None where it is known already. Raises why it is not taken."""
    fact = examined.fact
    known_hash = _known_hash(fact, batch, view)
    if known_hash is not None:
        if known_hash != fact.fact_hash:
            raise IdCollision("id: the peer gave it to another fact before")
        return None
    require_not_tombstoned(normal_uri(fact.entity), fact.scope, view)
    judgement = judge_once.judgement_of(examined)
    reason = hold_reason(
        view,
        rules,
        node_id=context.node_id,
        source=examined.source,
        origin=fact.origin,
        judgement=judgement,
        is_instruction=fact.value.interpret_as == "instruction",
        is_provenance_sound=examined.is_provenance_sound,
        lacks_attestation=False,
        now_ms=context.at_ms,
    )
    garden_id = None if reason is None else _place_to_wait(reason, examined, batch, rules, view)
    return Receipt(
        fact=structs.replace(fact, hlc=fact.hlc or context.hlc, source_trust=judgement.t if judgement else None),
        judgement=judgement,
        quarantine_garden_id=garden_id,
        quarantine_reason=reason,
    )


def _known_hash(fact: Fact, batch: dict[tuple[str, str], Receipt], view: View) -> str | None:
    # A UUID is the same in either case; two facts under one would be moderated as one.
    if (fact.origin, fact.id.lower()) in batch:
        return batch[fact.origin, fact.id.lower()].fact.fact_hash
    row = view.facts.of_origin(fact.origin, fact.id)
    return None if row is None else row.fact.fact_hash


class _Judge:
    """Scores what one page brings. Nothing is folded before all of it is decided, so equal questions have equal answers."""

    def __init__(self, rules: Rules, view: View, context: Context) -> None:
        self._rules, self._view, self._context = rules, view, context
        self._judged: dict[tuple[str, str, Scope, bool], Judgement] = {}

    def judgement_of(self, examined: Examined) -> Judgement | None:
        """The trust in a fact's source; None where trust is off."""
        if self._rules.mode == "off":
            return None
        asked = (examined.source, examined.fact.origin, examined.fact.scope, examined.is_attested)
        judgement = self._judged.get(asked)
        if judgement is None:
            judgement = self._judged[asked] = self._judge(*asked)
        return judgement

    def _judge(self, source: str, origin: str, scope: Scope, is_attested: bool) -> Judgement:
        return judge(
            self._view,
            self._rules,
            node_id=self._context.node_id,
            source=source,
            origin=origin,
            scope=scope,
            now_ms=self._context.at_ms,
            is_attested=is_attested,
            is_by_admin=False,
            is_by_token=False,
        )


def _place_to_wait(
    reason: str, examined: Examined, batch: dict[tuple[str, str], Receipt], rules: Rules, view: View
) -> str:
    organisation = origin_of(examined.source, examined.fact.origin)
    waiting = sum(
        receipt.quarantine_garden_id is not None and speaker_of(receipt.fact)[0] == organisation
        for receipt in batch.values()
    )
    return place_to_wait(reason, organisation, rules, view, besides=waiting)


def _refused(fact: Fact, refusal: Refusal) -> BatchRefusal:
    return BatchRefusal(fact_id=fact.id, source=fact.source, event_type="rejected_fact", reason=refusal.code)


def _peer_actor(node_id: str, nonce: object = None) -> Actor:
    return Actor(
        principal=node_id,
        via="peer",
        credential=nonce if isinstance(nonce, str) else None,
        idempotency_key=None,
        trace_id=None,
    )
