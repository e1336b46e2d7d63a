"""A peer's facts, each judged alone: form, scope, source, seal, clock, CID (PROTOCOL §5.5).

Always: every check here comes before any look at what is stored, and what is signed is checked over the document as received.
`examine` needs signatures verified and so runs off the loop; `exchange.py` then decides on what it found.
"""

import msgspec
from msgspec import Struct

from node.canonical import b64url_decode, fact_hash, seal_message
from node.clock import parse_hlc
from node.commands.attestations import SIGNATURE_CHARS, check_attestations, is_attested_by_source
from node.commands.decision import Context
from node.commands.drafts import (
    NAME_BYTES,
    TIME_CHARS,
    Draft,
    StatedValue,
    check_name,
    check_reserved,
    require_signable,
    value_of,
)
from node.commands.facts import MAX_PARENTS, MAX_SUPERSEDED, is_parent_name
from node.commands.introductions import is_organisation, sealing_chain
from node.commands.seals import sealed_ms
from node.errors import (
    CidMismatch,
    HlcSkew,
    InvalidFact,
    InvalidField,
    InvalidHlc,
    InvalidUri,
    ProvenanceHashInvalid,
    Refusal,
    ScopeViolation,
    SealInvalid,
    SourceNotOwned,
)
from node.events.facts import Fact, Resolution, Scope, body_of, recomputed_cid
from node.events.peers import BatchRefusal
from node.events.rotations import KeyChain, keys_for
from node.keys import verify
from node.projections.peers import Peer
from node.projections.view import View
from node.times import parse_rfc3339
from node.uris import is_informal, is_normal, is_reserved_source, is_uuid, lies_under, normal_relation, normal_uri


class WireValue(StatedValue, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A value as a peer serves it; members that we do not know are ignored here too."""


class WireFact(Struct, frozen=True, kw_only=True):
    """A fact as a peer serves it; what it says beyond this is ignored (PROTOCOL §1)."""

    id: str
    entity: str
    relation: str
    value: WireValue
    source: str
    timestamp: str
    confidence: float
    scope: Scope
    hlc: str | None = None
    valid_until: str | None = None
    cid: str | None = None
    derived_from: tuple[str, ...] = ()
    supersedes: tuple[str, ...] | None = None
    resolves: Resolution | None = None
    attestation_chain: tuple[str, ...] = ()
    attestation_chain_issuers: tuple[str, ...] = ()
    origin: str | None = None
    seal: str | None = None


class Examined(Struct, frozen=True, kw_only=True):
    """A fact that passed every check of its own; `source` in normal form, `fact.hlc` empty where the peer sent none."""

    fact: Fact
    source: str
    is_attested: bool
    is_provenance_sound: bool


class _Loose(Struct):
    """What a refusal can name of a fact that is none."""

    id: object = None
    source: object = None


def examine(
    raw: bytes, peer: Peer, view: View, context: Context, *, is_pushed: bool = False
) -> Examined | BatchRefusal:
    """Judge one fact of a peer's page, or of what it pushed, by itself."""
    try:
        return _examined(_decode(raw), peer, view, context, is_pushed=is_pushed)
    except Refusal as refusal:
        return refusal_of(raw, refusal.code)


def refusal_of(raw: bytes, code: str) -> BatchRefusal:
    """The audit of a fact that was not taken (PROTOCOL §5.5)."""
    try:
        loose = msgspec.json.decode(raw, type=_Loose)
    except msgspec.MsgspecError:
        loose = _Loose()
    return BatchRefusal(
        fact_id=str(loose.id)[:64] if isinstance(loose.id, str) else "",
        source=str(loose.source)[:512] if isinstance(loose.source, str) else "",
        event_type="scope_violation" if code == "scope_violation" else "rejected_fact",
        reason=code,
    )


def _decode(raw: bytes) -> WireFact:
    try:
        fact = msgspec.json.decode(raw, type=WireFact)
        parse_rfc3339(fact.timestamp)
        if fact.valid_until is not None:
            parse_rfc3339(fact.valid_until)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidFact(str(error)) from error
    if not is_uuid(fact.id) or not 0.0 <= fact.confidence <= 1.0:
        raise InvalidFact("id or confidence")
    _check_bounds(fact)
    return fact


def _check_bounds(fact: WireFact) -> None:
    """Nothing of a peer's fact is stored that no fact of ours could hold: a log never forgets what once went in."""
    if len(fact.timestamp) > TIME_CHARS or len(fact.valid_until or "") > TIME_CHARS:
        raise InvalidFact("timestamp or valid_until: too long")
    if len(fact.derived_from) > MAX_PARENTS or len(fact.supersedes or ()) > MAX_SUPERSEDED:
        raise InvalidFact("derived_from or supersedes: too many")
    if not all(map(is_parent_name, fact.derived_from)):
        raise ProvenanceHashInvalid("derived_from: neither a fact hash nor a fact id")
    named = (*(fact.supersedes or ()), *(fact.resolves.superseded if fact.resolves else ()))
    if not all(map(is_uuid, named)) or len(named) > 2 * MAX_SUPERSEDED:
        raise InvalidFact("supersedes or resolves: not fact ids")
    if any(len(signature) > SIGNATURE_CHARS for signature in fact.attestation_chain):
        raise InvalidFact("attestation_chain: too long a signature")
    if any(len(name) > NAME_BYTES for name in (*fact.attestation_chain_issuers, _conflict_of(fact))):
        raise InvalidFact("attestation_chain_issuers or resolves: too long a name")


def _conflict_of(fact: WireFact) -> str:
    return fact.resolves.conflict_id if fact.resolves else ""


def _examined(wire: WireFact, peer: Peer, view: View, context: Context, *, is_pushed: bool) -> Examined:
    if wire.scope not in peer.allowed_scopes:
        raise ScopeViolation(f"{wire.scope} facts are not exchanged with this peer")
    draft = _draft(wire)
    body = body_of(draft)
    body_hash = fact_hash(body)
    origin = peer.node_id if wire.origin is None else wire.origin
    if origin == peer.node_id:
        is_sealed = _check_source(wire, draft.normal_source, body_hash, peer)
    else:
        _check_relayed(wire, draft.normal_source, body_hash, view, context, is_pushed=is_pushed)
        is_sealed = True
    check_hlc(wire.hlc, context)
    verified, warnings = check_attestations(
        body,
        wire.attestation_chain,
        wire.attestation_chain_issuers,
        dated_ms=parse_rfc3339(wire.timestamp),
        view=view,
        context=context,
        is_strict=False,
    )
    fact = Fact(
        id=wire.id,
        entity=draft.entity,
        relation=draft.relation,
        value=draft.value,
        source=draft.source,
        timestamp=draft.timestamp,
        hlc=wire.hlc or "",
        confidence=draft.confidence,
        scope=draft.scope,
        valid_until=draft.valid_until,
        garden_id=None,
        received_from=peer.node_id,
        supersedes=wire.supersedes or (),
        resolves=wire.resolves,
        origin=origin,
        seal=wire.seal,
        source_trust=None,
        derived_from=wire.derived_from,
        attestation_chain=wire.attestation_chain,
        attestation_chain_issuers=wire.attestation_chain_issuers,
        attestation_verified=verified,
        cid=_checked_cid(wire, draft),
        fact_hash=body_hash,
        warnings=warnings if is_sealed else (*warnings, "unsealed"),
    )
    return Examined(
        fact=fact,
        source=draft.normal_source,
        is_attested=is_attested_by_source(draft.normal_source, wire.attestation_chain_issuers, verified),
        is_provenance_sound=all(verified),
    )


def _draft(wire: WireFact) -> Draft:
    """The fact's own fields, checked like a local writer's but stored as they came: their origin signed them so."""
    normal_source = _ownable(wire.source)
    for field, text in (("entity", wire.entity), ("relation", wire.relation)):
        check_name(field, text)
    normal_entity = normal_uri(wire.entity)
    require_signable(normal_relation(wire.relation), wire.source)
    check_reserved(normal_entity, normal_relation(wire.relation), normal_source)
    return Draft(
        entity=wire.entity,
        relation=wire.relation,
        value=value_of(wire.value),
        source=wire.source,
        timestamp=wire.timestamp,
        confidence=wire.confidence + 0.0,
        scope=wire.scope,
        valid_until=wire.valid_until,
        normal_entity=normal_entity,
        normal_source=normal_source,
        warnings=(),
    )


def _ownable(source: str) -> str:
    """The source in normal form. Raises SourceNotOwned for a name that is no peer's, whichever it is."""
    try:
        check_name("source", source)
        normal = normal_uri(source)
    except (InvalidField, InvalidUri) as error:
        # Invisible characters, dot segments, foreign letters: names made to be taken for somebody else's.
        raise SourceNotOwned("source: no name that anybody owns") from error
    if not is_normal(source) or is_reserved_source(normal):
        raise SourceNotOwned("source: another spelling than the owner's, or this node's own")
    return normal


def _check_source(wire: WireFact, source: str, body_hash: str, peer: Peer) -> bool:
    """Whether the peer's own record carries its seal. Raises SourceNotOwned or SealInvalid."""
    is_own = lies_under(source, peer.node_id) or wire.source == peer.node_id
    is_sealed = wire.seal is not None
    # Whose it is comes first: a stranger's word is not the peer's, sealed by whomever.
    if not is_own and not is_informal(source):
        raise SourceNotOwned("source: it does not lie under the peer's node_id")
    if is_sealed and not _is_sealed_under(peer.keys, peer.node_id, wire, body_hash):
        raise SealInvalid("seal: it is not the peer's over this record")
    if not (is_own or is_sealed or wire.source.startswith(peer.delegated_sources)):
        raise SourceNotOwned("source: an informal name without the peer's seal")
    return is_sealed


def _check_relayed(
    wire: WireFact, source: str, body_hash: str, view: View, context: Context, *, is_pushed: bool
) -> None:
    """Another node's record passes by pull, public, and on that node's own seal (PROTOCOL §5.5). Raises why it does not."""
    origin = wire.origin or ""
    if is_pushed or not is_organisation(origin):
        raise SourceNotOwned("origin: the fact is another node's record")
    if wire.scope != "public":
        raise ScopeViolation(f"{wire.scope} facts go one hop")
    if not is_informal(source) and not lies_under(source, origin):
        raise SourceNotOwned("source: it does not lie under the fact's origin")
    if not _is_sealed_under(sealing_chain(origin, view, context), origin, wire, body_hash):
        raise SourceNotOwned("origin: the fact does not carry a seal of it that is known to be its")


def _is_sealed_under(chain: KeyChain, origin: str, wire: WireFact, body_hash: str) -> bool:
    """Whether the seal is by a key of the chain that proves something of the record's date (PROTOCOL §11)."""
    message = seal_message(
        origin=origin,
        id=wire.id,
        hlc=wire.hlc or "",
        fact_hash=body_hash,
        valid_until=wire.valid_until,
        derived_from=wire.derived_from,
        supersedes=wire.supersedes or (),
        resolves=None if wire.resolves is None else msgspec.to_builtins(wire.resolves),
    )
    try:
        keys, seal = keys_for(chain, sealed_ms(wire.hlc, wire.timestamp)), b64url_decode(wire.seal or "")
        return any(verify(key, message, seal) for key in keys)
    except ValueError:
        return False


def check_hlc(hlc: str | None, context: Context) -> None:
    """Raises InvalidHlc or HlcSkew; none at all is no fault (PROTOCOL §5.5)."""
    if hlc is None:
        return
    try:
        wall_ms, _ = parse_hlc(hlc)
    except ValueError as error:
        raise InvalidHlc("hlc: not digits.digits") from error
    if wall_ms > context.at_ms + context.config.federation_hlc_max_future_skew_s * 1000:
        raise HlcSkew("hlc: too far ahead of this node's clock")


def _checked_cid(wire: WireFact, draft: Draft) -> str:
    cid = recomputed_cid(draft, wire.cid)
    if wire.cid not in (None, cid):
        raise CidMismatch("cid: not this fact's")
    return cid
