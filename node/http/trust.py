"""GET /v1/trust: why a source scores as it does, and what would be done with a fact of it now (PROTOCOL §7)."""

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from node.commands.decision import Principal, rules_in_force
from node.commands.explanations import (
    TERMS,
    ExplainedTerm,
    Explanation,
    FirstContact,
    Rule,
    Tallied,
    Treatment,
    explain,
)
from node.commands.reading import administers_every_scope, reach_of
from node.commands.settings import NamedSource, Weights, named_identity
from node.errors import (
    FieldTooLong,
    InsufficientPermission,
    InvalidField,
    InvalidParameter,
    InvalidUri,
    MissingField,
    UnsupportedParameter,
)
from node.events.facts import Scope, TrustMode
from node.http.auth import principal_of
from node.http.body import decode_query, json_response
from node.http.describe import MODERATORS, describes
from node.http.forms import Name, Share, Source
from node.http.keys import NODE
from node.http.moments import refuse_as_of
from node.projections.view import View


class TrustQuery(Struct, frozen=True, kw_only=True):
    source: Source
    origin: Name | None = None
    scope: Scope = "public"
    attested: bool = False


class Counts(Struct, frozen=True, kw_only=True):
    """Facts of the last 30 days, of the source and of its organisation; the worse of the two is the history."""

    source: Tallied
    origin: Tallied


class TrustScore(Struct, frozen=True, kw_only=True):
    """A source's score `t`, the terms it comes from, unweighted and one by one, and what becomes of its facts (PROTOCOL §7).

    `counts` is there for an admin of all scopes alone: it counts facts of every garden and scope.
    """

    source: str
    origin: str
    scope: Scope
    t: Share
    identity: Share
    history: Share
    scope_authority: Share
    attestation: Share
    weights: Weights
    rule: Rule
    matched: str | None
    mode: TrustMode
    threshold: Share
    terms: tuple[ExplainedTerm, ...]
    first_contact: FirstContact
    now: Treatment
    counts: Counts | UnsetType = UNSET


@describes(
    "a source's trust score, term by term",
    who=MODERATORS,
    query=TrustQuery,
    answers={200: TrustScore},
    refuses=(MissingField, UnsupportedParameter),
)
async def explain_trust(request: web.Request) -> web.Response:
    """A source's score now, and what would be done with a fact of `scope` that a peer brings (PROTOCOL §7)."""
    node, principal = request.app[NODE], principal_of(request)
    with node.view() as view:
        _require_moderator(principal, view, rules_in_force(view, node.config).quarantine_garden_id)
        refuse_as_of(request, "this is the score of now; a fact's record holds the trust it was given then")
        asked = decode_query(request, TrustQuery)
        origin, source = _identity_asked(asked, view, node.node_id)
        explanation = explain(
            view,
            rules_in_force(view, node.config),
            node_id=node.node_id,
            source=source,
            origin=origin,
            scope=asked.scope,
            now_ms=node.clock.at_ms(),
            is_attested=asked.attested,
        )
    return json_response(_score(explanation, is_counted=administers_every_scope(principal)))


def _require_moderator(principal: Principal, view: View, quarantine_garden_id: str | None) -> None:
    """Whoever decides about what is held may see why it is: operators, and moderators of the designated garden."""
    if not principal.is_operator and not (
        principal.may("read") and reach_of(principal, view).is_moderator(quarantine_garden_id)
    ):
        raise InsufficientPermission(
            "only admins of the node and moderators of its quarantine garden see scores explained"
        )


def _identity_asked(asked: TrustQuery, view: View, node_id: str) -> tuple[str, str]:
    """(origin, source). An informal name without an origin is this node's own, as it is where a fact is written here."""
    named = NamedSource(source=asked.source, origin=asked.origin)
    try:
        return named_identity("source", named, view, default_origin=node_id)
    except (FieldTooLong, InvalidField, InvalidUri) as error:
        raise InvalidParameter(error.detail) from error


def _score(explanation: Explanation, *, is_counted: bool) -> TrustScore:
    judgement = explanation.judgement
    return TrustScore(
        source=explanation.source,
        origin=explanation.origin,
        scope=explanation.scope,
        t=judgement.t,
        **{name: getattr(judgement, name) for name in TERMS},
        weights=judgement.weights,
        rule=explanation.rule,
        matched=explanation.matched,
        mode=judgement.mode,
        threshold=judgement.threshold,
        terms=explanation.terms,
        first_contact=explanation.first_contact,
        now=explanation.now,
        counts=Counts(source=explanation.of_source, origin=explanation.of_origin) if is_counted else UNSET,
    )
