"""Discovery, manifests, settings, and who am I (PROTOCOL §3, §4, §6.2)."""

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from node.canonical import b64url_encode
from node.commands.api_keys import PERMISSIONS
from node.commands.decision import Principal, rules_in_force
from node.commands.identity import ChangeSettings, PublishManifest
from node.commands.introductions import held_manifest
from node.commands.manifests import Manifest, parse_stored
from node.commands.reading import granted_by
from node.commands.restores import ConfirmRestore
from node.commands.trust import judge
from node.errors import InvalidParameter, InvalidUri, ManifestNotFound, MissingField
from node.events.facts import Scope
from node.events.manifest_proof import LogEntry, manifest_log_entry
from node.http.auth import operator_of, principal_of
from node.http.body import decode_query, json_response, read_json
from node.http.exchange import TOLD_MS
from node.http.keys import NODE, SYNC
from node.http.moments import refuse_as_of
from node.http.quotas import quota_of
from node.projections.access import ALL_SCOPES
from node.projections.identity import OwnManifest
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.times import format_ms
from node.uris import normal_uri

MAX_MANIFEST_BYTES = 1 << 20
MAX_SETTINGS_BYTES = 1 << 20
NAMESPACES = ("stigmem:", "rel:", "memory:", "intent:", "roadmap:", "preference:", "garden:")
API_VERSION = "1.0"
FEDERATION_VERSION = "0.5"
SPEC = "urn:stigmem:protocol:1"
Weight = Annotated[float, Meta(ge=0.0, le=1.0)]


class SettingsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What PATCH /v1/admin/config may change; null goes back to the configuration at start."""

    quarantine_garden_id: str | None | UnsetType = UNSET
    trust_mode: Literal["strict", "relaxed", "off"] | None | UnsetType = UNSET
    quarantine_trust_threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None | UnsetType = UNSET
    trust_weights: tuple[Weight, Weight, Weight, Weight] | None | UnsetType = UNSET
    blocked_sources: tuple[str, ...] | UnsetType = UNSET


class TrustQuery(Struct, frozen=True, kw_only=True):
    source: str | None = None
    scope: Scope = "public"


async def discovery(request: web.Request) -> web.Response:
    node, lag_ms = request.app[NODE], max(request.app[SYNC].lags_ms().values(), default=0)
    with node.view() as view:
        document = _discovery(node, view)
    # Of what relayed facts wait behind; our own never do.
    is_told = node.config.federation_enabled and lag_ms > TOLD_MS
    return json_response(document | ({"replication_lag_ms": lag_ms} if is_told else {}))


async def own_manifest(request: web.Request) -> web.Response:
    node = request.app[NODE]
    return json_response(msgspec.Raw(_standing(node).manifest))


async def own_manifest_proof(request: web.Request) -> web.Response:
    node = request.app[NODE]
    return json_response(_log_entry(_standing(node), node))


async def put_manifest(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    manifest = decode(await read_json(request, max_bytes=MAX_MANIFEST_BYTES), Manifest)
    await node.execute(PublishManifest(principal=principal, manifest=manifest))
    standing = _standing(node)
    published = parse_stored(standing.manifest)
    return json_response(
        {
            "manifest_id": standing.manifest_id,
            "entity_uri": published.entity_uri,
            "key_id": published.key_id,
            "issued_at": published.issued_at,
            "expires_at": published.expires_at,
            "log_entry_url": f"{node.config.node_url}/.well-known/stigmem-manifest-proof.json",
            "log_entry": _log_entry(standing, node),
        }
    )


async def get_manifest(request: web.Request) -> web.Response:
    """The manifest held of an entity: our own, with its proof, a registered peer's, or the one that all relays agree on."""
    refuse_as_of(request, "a manifest is shown as it is held now")
    node, entity_uri = request.app[NODE], request.match_info["entity_uri"]
    if entity_uri == node.node_id:
        standing = _standing(node)
        members = msgspec.json.decode(standing.manifest)
        return json_response({**members, "log_entry": msgspec.to_builtins(_log_entry(standing, node))})
    with node.view() as view:
        manifest = held_manifest(entity_uri, view, node.context())
    if manifest is None:
        raise ManifestNotFound("no manifest of that entity is held here")
    return json_response(msgspec.Raw(manifest))


async def get_settings(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    refuse_as_of(request, "the configuration is shown as it is now; the audit log has its changes")
    with node.view() as view:
        return json_response(_settings(node, view))


async def patch_settings(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    body = decode(await read_json(request, max_bytes=MAX_SETTINGS_BYTES), SettingsRequest)
    changes = {name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET}
    await node.execute(ChangeSettings(principal=principal, changes=changes))
    with node.view() as view:
        return json_response(_settings(node, view))


async def confirm_restore(request: web.Request) -> web.Response:
    """An admin stands in for what a restore may have lost: credentials issued before it count again (PROTOCOL §12)."""
    node, principal = request.app[NODE], operator_of(request)
    outcome = await node.execute(ConfirmRestore(principal=principal))
    return json_response({"restored_at_offset": outcome.reply, "status": "confirmed"})


async def me(request: web.Request) -> web.Response:
    """Whom the credential speaks for, and what it may do: `allowed_sources` null where no list bounds what it may name."""
    principal = principal_of(request)
    quota = quota_of(principal, request.app[NODE])
    about = {"entity_uri": principal.entity, "kind": principal.via, **_rights_of(principal), "quota": quota}
    return json_response(about)


async def explain_trust(request: web.Request) -> web.Response:
    """A source's score now, term by term (PROTOCOL §7), for a fact of `scope` without an attestation."""
    node, _ = request.app[NODE], operator_of(request)
    refuse_as_of(request, "this is the score of now; a fact's record holds the trust it was given then")
    asked = decode_query(request, TrustQuery)
    if asked.source is None:
        raise MissingField("source")
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
    return json_response({"source": source, "scope": asked.scope, **msgspec.to_builtins(judgement)})


def _rights_of(principal: Principal) -> dict[str, object]:
    key, grant = principal.key, principal.grant
    if key is not None:
        return {
            "permissions": key.permissions,
            "key_id": key.key_id,
            "allowed_scopes": key.allowed_scopes,
            "allowed_sources": key.allowed_sources,
            "expires_at": format_ms(key.expires_ms),
            "capability": None,
        }
    rights = {"permissions": PERMISSIONS, "key_id": None, "allowed_scopes": ALL_SCOPES, "allowed_sources": None}
    if grant is None:
        return rights | {"expires_at": None, "capability": None}
    return rights | {
        "permissions": (grant.verb,),
        "allowed_scopes": granted_by(grant).scopes,
        "allowed_sources": (grant.subject,),
        "expires_at": grant.expiry,
        "capability": msgspec.to_builtins(grant),
    }


def _standing(node: Node) -> OwnManifest:
    with node.view() as view:
        standing = view.identity.manifest()
    if standing is None:
        raise ManifestNotFound("no manifest was published yet")
    return standing


def _log_entry(standing: OwnManifest, node: Node) -> LogEntry:
    size = node.log.announced().size
    return manifest_log_entry(
        node.log, standing.offset, size, standing.published_ms, node.log_origin(size), node.signer
    )


def _settings(node: Node, view: View) -> dict[str, object]:
    rules = rules_in_force(view, node.config)
    return {
        "quarantine_garden_id": rules.quarantine_garden_id,
        "trust_mode": rules.mode,
        "quarantine_trust_threshold": rules.threshold,
        "trust_weights": rules.weights,
        "blocked_sources": rules.blocked_sources,
        "entity_uri": node.node_id,
        "node_url": node.config.node_url,
        "federation_enabled": node.config.federation_enabled,
        "federation_allow_team": node.config.federation_allow_team,
        "federation_pull_interval_s": node.config.federation_pull_interval_s,
        "federation_push_enabled": node.config.federation_push_enabled,
        "attestation_policy": node.config.attestation_policy,
    }


def _discovery(node: Node, view: View) -> dict[str, object]:
    config, rules = node.config, rules_in_force(view, node.config)
    document: dict[str, object] = {
        "version": API_VERSION,
        "node_id": node.node_id,
        "node_url": config.node_url,
        "auth": "required" if config.auth_required else "none",
        "federation": "enabled" if config.federation_enabled else "disabled",
        "namespaces": NAMESPACES,
        "spec": SPEC,
    }
    if config.federation_enabled:
        origin = node.log_origin(node.log.announced().size)
        document |= {
            "federation_pubkey": b64url_encode(node.signer.public_key),
            "federation_version": FEDERATION_VERSION,
            "federation_endpoints": {
                "peers": "/v1/federation/peers",
                "facts": "/v1/federation/facts",
                "push": "/v1/federation/facts/push" if config.federation_push_enabled else None,
            },
            "federation_trust": {
                "trust_mode": rules.mode,
                "sanitizer_mode": "off",
                "manifest_url": f"{config.node_url}/.well-known/stigmem-manifest.json",
                "manifest_proof_url": f"{config.node_url}/.well-known/stigmem-manifest-proof.json",
                "trust_weights": dict(
                    zip(("identity", "history", "scope_authority", "attestation"), rules.weights, strict=True)
                ),
            },
            "log": {"checkpoint_url": f"{config.node_url}/v1/log/checkpoint", "origin": origin},
        }
    return document
