"""What operators set and look at: the configuration, what a restore left asleep, the trust in a source (PROTOCOL §6.2, §7, §12)."""

from typing import Annotated, Literal

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from node.commands.decision import rules_in_force
from node.commands.identity import ChangeSettings
from node.commands.restores import ConfirmRestore
from node.commands.trust import judge
from node.errors import (
    FieldTooLong,
    GardenNotFound,
    GardenNotQuarantine,
    InvalidParameter,
    InvalidUri,
    MissingField,
    NothingToConfirm,
    UnsupportedParameter,
)
from node.events.facts import Scope, TrustMode
from node.http.auth import operator_of
from node.http.body import decode_query, json_response, read_json
from node.http.describe import ADMIN, describes
from node.http.forms import Count, Share, Uuid
from node.http.keys import NODE
from node.http.moments import refuse_as_of
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.uris import normal_uri

MAX_SETTINGS_BYTES = 1 << 20
Weights = Annotated[tuple[Annotated[float, Meta(ge=0.0, le=1.0)], ...], Meta(min_length=4, max_length=4)]


class SettingsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What PATCH /v1/admin/config may change; null goes back to the configuration at start."""

    quarantine_garden_id: str | None | UnsetType = UNSET
    trust_mode: Literal["strict", "relaxed", "off"] | None | UnsetType = UNSET
    quarantine_trust_threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None | UnsetType = UNSET
    trust_weights: Weights | None | UnsetType = UNSET
    blocked_sources: tuple[str, ...] | UnsetType = UNSET


class TrustQuery(Struct, frozen=True, kw_only=True):
    source: str
    scope: Scope = "public"


class Settings(Struct, frozen=True, kw_only=True):
    """The configuration in force, what was changed at run time included."""

    quarantine_garden_id: Uuid | None
    trust_mode: TrustMode
    quarantine_trust_threshold: Share
    trust_weights: Weights
    blocked_sources: tuple[str, ...]
    entity_uri: str
    node_url: str
    federation_enabled: bool
    federation_allow_team: bool
    federation_pull_interval_s: int
    federation_push_enabled: bool
    attestation_policy: str


class ConfirmedRestore(Struct, frozen=True, kw_only=True):
    restored_at_offset: Count
    status: Literal["confirmed"] = "confirmed"


class TrustScore(Struct, frozen=True, kw_only=True):
    """A source's score `t`, and the terms it comes from, unweighted (PROTOCOL §7)."""

    source: str
    scope: Scope
    t: Share
    identity: Share
    history: Share
    scope_authority: Share
    attestation: Share
    weights: Weights
    rule: Literal["weighted", "first_contact", "blocked"]
    mode: TrustMode
    threshold: Share


@describes("the whole configuration", who=ADMIN, answers={200: Settings}, refuses=(UnsupportedParameter,))
async def get_settings(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    refuse_as_of(request, "the configuration is shown as it is now; the audit log has its changes")
    with node.view() as view:
        return json_response(_settings(node, view))


@describes(
    "change settings at run time",
    who=ADMIN,
    body=SettingsRequest,
    answers={200: Settings},
    refuses=(GardenNotFound, GardenNotQuarantine, InvalidUri, FieldTooLong),
)
async def patch_settings(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    body = decode(await read_json(request, max_bytes=MAX_SETTINGS_BYTES), SettingsRequest)
    changes = {name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET}
    await node.execute(ChangeSettings(principal=principal, changes=changes))
    with node.view() as view:
        return json_response(_settings(node, view))


@describes(
    "credentials issued before a restore count again",
    who=ADMIN,
    answers={200: ConfirmedRestore},
    refuses=(NothingToConfirm,),
)
async def confirm_restore(request: web.Request) -> web.Response:
    """An admin stands in for what a restore may have lost: credentials issued before it count again (PROTOCOL §12)."""
    node, principal = request.app[NODE], operator_of(request)
    outcome = await node.execute(ConfirmRestore(principal=principal))
    return json_response(ConfirmedRestore(restored_at_offset=outcome.reply))


@describes(
    "a source's trust score, term by term",
    who=ADMIN,
    query=TrustQuery,
    answers={200: TrustScore},
    refuses=(MissingField, UnsupportedParameter),
)
async def explain_trust(request: web.Request) -> web.Response:
    """A source's score now, term by term (PROTOCOL §7), for a fact of `scope` without an attestation."""
    node, _ = request.app[NODE], operator_of(request)
    refuse_as_of(request, "this is the score of now; a fact's record holds the trust it was given then")
    asked = decode_query(request, TrustQuery)
    try:
        source = normal_uri(asked.source)
    except InvalidUri as error:
        raise InvalidParameter("source: not a name that a fact can carry") from error
    with node.view() as view:
        rules = rules_in_force(view, node.config)
        judgement = judge(
            view,
            rules,
            node_id=node.node_id,
            source=source,
            origin=node.node_id,
            scope=asked.scope,
            now_ms=node.clock.at_ms(),
            is_attested=False,
            is_by_admin=False,
            is_by_token=False,
        )
    return json_response(TrustScore(source=source, scope=asked.scope, **structs.asdict(judgement)))


def _settings(node: Node, view: View) -> Settings:
    rules = rules_in_force(view, node.config)
    return Settings(
        quarantine_garden_id=rules.quarantine_garden_id,
        trust_mode=rules.mode,
        quarantine_trust_threshold=rules.threshold,
        trust_weights=rules.weights,
        blocked_sources=rules.blocked_sources,
        entity_uri=node.node_id,
        node_url=node.config.node_url,
        federation_enabled=node.config.federation_enabled,
        federation_allow_team=node.config.federation_allow_team,
        federation_pull_interval_s=node.config.federation_pull_interval_s,
        federation_push_enabled=node.config.federation_push_enabled,
        attestation_policy=node.config.attestation_policy,
    )
