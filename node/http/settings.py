"""What operators set: the configuration, and what a restore left asleep (PROTOCOL §6.2, §7, §12)."""

from typing import Literal

from aiohttp import web
from msgspec import Struct

from node.commands.decision import rules_in_force
from node.commands.restores import ConfirmRestore
from node.commands.settings import Changes, ChangeSettings, Weights
from node.errors import (
    FieldTooLong,
    GardenNotFound,
    GardenNotQuarantine,
    InvalidUri,
    NothingToConfirm,
    UnsupportedParameter,
)
from node.events.facts import TrustMode
from node.events.identity import BlockedSource, TrustRule
from node.http.auth import operator_of
from node.http.body import NoMembers, json_response, read_json, require_no_members
from node.http.describe import ADMIN, describes
from node.http.forms import Count, Share, Uuid
from node.http.keys import NODE
from node.http.moments import refuse_as_of
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode

MAX_SETTINGS_BYTES = 1 << 20


class SettingsRequest(Changes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What PATCH /v1/admin/config may change; null goes back to the configuration at start. A whole list comes before what is taken
    from it, and that before what is added. A source is a name, or with its origin where anybody may use that name."""


class Settings(Struct, frozen=True, kw_only=True):
    """The configuration in force, what was changed at run time included."""

    quarantine_garden_id: Uuid | None
    trust_mode: TrustMode
    quarantine_trust_threshold: Share
    trust_weights: Weights
    blocked_sources: tuple[BlockedSource, ...]
    trust_rules: tuple[TrustRule, ...]
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
    changes = decode(await read_json(request, max_bytes=MAX_SETTINGS_BYTES), SettingsRequest)
    await node.execute(ChangeSettings(principal=principal, changes=changes))
    with node.view() as view:
        return json_response(_settings(node, view))


@describes(
    "credentials issued before a restore count again",
    who=ADMIN,
    body=NoMembers,
    is_body_optional=True,
    answers={200: ConfirmedRestore},
    refuses=(NothingToConfirm,),
)
async def confirm_restore(request: web.Request) -> web.Response:
    """An admin stands in for what a restore may have lost: credentials issued before it count again (PROTOCOL §12)."""
    node, principal = request.app[NODE], operator_of(request)
    await require_no_members(request)
    outcome = await node.execute(ConfirmRestore(principal=principal))
    return json_response(ConfirmedRestore(restored_at_offset=outcome.reply))


def _settings(node: Node, view: View) -> Settings:
    rules, changed = rules_in_force(view, node.config), view.identity.settings()
    return Settings(
        quarantine_garden_id=rules.quarantine_garden_id,
        trust_mode=rules.mode,
        quarantine_trust_threshold=rules.threshold,
        trust_weights=rules.weights,
        blocked_sources=changed.blocked_sources,
        trust_rules=changed.trust_rules,
        entity_uri=node.node_id,
        node_url=node.config.node_url,
        federation_enabled=node.config.federation_enabled,
        federation_allow_team=node.config.federation_allow_team,
        federation_pull_interval_s=node.config.federation_pull_interval_s,
        federation_push_enabled=node.config.federation_push_enabled,
        attestation_policy=node.config.attestation_policy,
    )
