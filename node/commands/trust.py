"""The trust score of a source, term by term, and what follows from it (PROTOCOL §6.3, §7).

Always: pure, from a View and a time; the same function scores a fact when it comes in and when it is read.

Does not hold facts back (see `facts.py`, `exchange.py`): it says why one should be.
"""

from functools import lru_cache

from node.commands.capabilities import covers_scope
from node.commands.decision import Rules
from node.events.facts import Judgement, Scope, TrustMode
from node.projections.sources import History
from node.projections.trust_lists import Listed
from node.projections.view import View
from node.times import parse_rfc3339
from node.uris import authority_of, is_informal, origin_of

_FAILURE_SHARE = 0.05


def judge(
    view: View,
    rules: Rules,
    *,
    node_id: str,
    source: str,
    origin: str,
    scope: Scope,
    now_ms: int,
    is_attested: bool,
    is_by_admin: bool,
    is_by_token: bool,
    is_by_key: bool = False,
) -> Judgement:
    """Score a source, given in normal form, for a fact that `origin` wrote first; every term is 0..1."""
    organisation = origin_of(source, origin)
    # Every read of a foreign fact comes by here, and most nodes list nobody.
    listed = None if rules.lists.is_empty else listed_as(view, rules, source, organisation)
    rule = _rule(view, rules, organisation, node_id, listed)
    return _weigh(
        _identity(view, source, organisation, node_id, now_ms, is_by_token=is_by_token, is_by_key=is_by_key),
        0.0 if rule == "blocked" else history_of(view, source, organisation, now_ms),
        _scope_authority(view, source, organisation, node_id, scope, now_ms, is_by_admin),
        1.0 if is_attested else 0.2,
        rules.weights,
        rule,
        rules.mode,
        0.0 if listed is not None and listed.decision == "always" else rules.threshold,
    )


def listed_as(view: View, rules: Rules, source: str, organisation: str) -> Listed | None:
    """What the block list, or else a rule, says of a source in normal form."""
    listed = rules.lists.listed(source, organisation)
    if listed is None or listed.decision != "always":
        return listed
    # Of an organisation that is only introduced, or was removed, nobody here has checked whose key speaks: a relay that forges one
    # would speak in the name that is always let in.
    peer = view.peers.of_node(organisation)
    return listed if peer is not None and peer.status == "active" else None


def is_covered_by_manifest(view: View, organisation: str, node_id: str, now_ms: int) -> bool:
    """Whether a manifest that was accepted and has not expired stands for the organisation."""
    if organisation == node_id:
        return view.identity.has_manifest()
    peer = view.peers.of_node(organisation)
    return peer is not None and peer.status == "active" and peer.manifest_expires_ms > now_ms


def _rule(view: View, rules: Rules, organisation: str, node_id: str, listed: Listed | None) -> str:
    if listed is not None:
        return "weighted" if listed.decision == "always" else "blocked"
    is_foreign = organisation != node_id
    if rules.mode == "strict" and is_foreign and not view.sources.of_organisation(organisation).is_admitted:
        return "first_contact"
    return "weighted"


# Every term takes one of a handful of values, so most writes are scored alike.
@lru_cache(maxsize=256)
def _weigh(
    identity: float,
    history: float,
    scope_authority: float,
    attestation: float,
    weights: tuple[float, float, float, float],
    rule: str,
    mode: TrustMode,
    threshold: float,
) -> Judgement:
    terms = (identity, history, scope_authority, attestation)
    if rule == "blocked":
        t = 0.0
    elif rule == "first_contact":
        t = weights[1] * history
    else:
        t = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    return Judgement(
        # Six decimals: sums of binary fractions would show as 0.15000000000000002.
        t=round(min(1.0, max(0.0, t)), 6),
        identity=identity,
        history=history,
        scope_authority=scope_authority,
        attestation=attestation,
        weights=weights,
        rule=rule,
        mode=mode,
        threshold=threshold,
    )


def _identity(
    view: View, source: str, organisation: str, node_id: str, now_ms: int, *, is_by_token: bool, is_by_key: bool
) -> float:
    if organisation == node_id:
        if is_informal(source):
            return 0.4
        return 1.0 if view.identity.has_manifest() else 0.4
    if is_covered_by_manifest(view, organisation, node_id, now_ms):
        return 1.0 if view.peers.of_node(organisation).is_manifest_proven else 0.7
    if is_by_token:
        return 0.5
    return 0.4 if is_by_key else 0.1


def history_of(view: View, source: str, organisation: str, now_ms: int) -> float:
    """The worse of the source's and its organisation's: else who has failed under one name would begin anew under another."""
    own = _history_term(view.sources.of_source(organisation, source), now_ms)
    return min(own, _history_term(view.sources.of_organisation(organisation), now_ms))


def _history_term(history: History, now_ms: int) -> float:
    admitted, failed = history.within(now_ms)
    if failed and failed >= _FAILURE_SHARE * (admitted + failed):
        return 0.3
    if admitted >= 100 and not failed:
        return 1.0
    return 0.7 if admitted >= 10 else 0.5


def _scope_authority(
    view: View, source: str, organisation: str, node_id: str, scope: Scope, now_ms: int, is_by_admin: bool
) -> float:
    if _has_write_token(view, source, scope, now_ms):
        return 1.0
    if is_by_admin:
        return 0.9
    if organisation == node_id:
        return 0.7
    peer = view.peers.of_node(organisation)
    is_granted = peer is not None and peer.status == "active" and scope in peer.allowed_scopes
    return 0.5 if is_granted else 0.2


def _has_write_token(view: View, source: str, scope: Scope, now_ms: int) -> bool:
    if not view.tokens.is_any_issued():
        return False
    subjects = [source]
    authority = authority_of(source)
    while authority is not None and subjects[-1] != authority:
        subjects.append(subjects[-1].rpartition("/")[0])
    return any(
        token.revoked_at is None
        and token.grant.verb == "write"
        and parse_rfc3339(token.grant.expiry) > now_ms
        and covers_scope(token.grant.object, scope)
        for subject in subjects
        for token in view.tokens.of_subject(subject)
    )
