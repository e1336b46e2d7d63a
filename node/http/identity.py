"""Discovery, and who am I (PROTOCOL §3, §4.1)."""

from typing import Literal

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType, structs

from node.canonical import b64url_encode
from node.commands.api_keys import PERMISSIONS
from node.commands.decision import Principal, rules_in_force
from node.commands.reading import granted_by
from node.events.facts import Scope, TrustMode
from node.events.tokens import Grant
from node.http.auth import principal_of
from node.http.body import json_response
from node.http.describe import PUBLIC, READERS, describes
from node.http.exchange import TOLD_MS
from node.http.forms import Base64Url, Count, Share, Time, Uuid
from node.http.keys import NODE, SYNC
from node.http.quotas import quota_of
from node.projections.access import ALL_SCOPES
from node.projections.view import View
from node.quotas import Standing
from node.runtime import Node
from node.times import format_ms

NAMESPACES = ("stigmem:", "rel:", "memory:", "intent:", "roadmap:", "preference:", "garden:")
API_VERSION = "1.0"
FEDERATION_VERSION = "0.5"
SPEC = "urn:stigmem:protocol:1"


class FederationEndpoints(Struct, frozen=True, kw_only=True):
    """Paths below `node_url`; `push` is null while pushes are off."""

    peers: str
    facts: str
    push: str | None


class TrustWeights(Struct, frozen=True, kw_only=True):
    identity: Share
    history: Share
    scope_authority: Share
    attestation: Share


class FederationTrust(Struct, frozen=True, kw_only=True):
    trust_mode: TrustMode
    sanitizer_mode: Literal["off"] = "off"
    manifest_url: str
    manifest_proof_url: str
    trust_weights: TrustWeights


class LogPlace(Struct, frozen=True, kw_only=True):
    """Where the log's checkpoint is, and the name it has there."""

    checkpoint_url: str
    origin: str


class DiscoveryDocument(Struct, frozen=True, kw_only=True):
    """PROTOCOL §4.1. All that has to do with federation is left out while it is off; `replication_lag_ms` while nothing lags."""

    version: str = API_VERSION
    node_id: str
    node_url: str
    auth: Literal["required", "none"]
    federation: Literal["enabled", "disabled"]
    namespaces: tuple[str, ...] = NAMESPACES
    spec: str = SPEC
    federation_pubkey: Base64Url | UnsetType = UNSET
    federation_version: str | UnsetType = UNSET
    federation_endpoints: FederationEndpoints | UnsetType = UNSET
    federation_trust: FederationTrust | UnsetType = UNSET
    log: LogPlace | UnsetType = UNSET
    replication_lag_ms: Count | UnsetType = UNSET


class QuotaStanding(Struct, frozen=True, kw_only=True):
    """What is left of this minute; null where nothing bounds it."""

    reads: Standing | None
    writes: Standing | None


class Me(Struct, frozen=True, kw_only=True):
    """Whom a credential speaks for, and what it may. `allowed_sources` is null where no list bounds what it may name; `capability`
    is what a token grants."""

    entity_uri: str
    kind: Literal["admin", "anonymous", "capability", "key"]
    permissions: tuple[str, ...]
    key_id: Uuid | None
    allowed_scopes: tuple[Scope, ...]
    allowed_sources: tuple[str, ...] | None
    expires_at: Time | None
    capability: Grant | None
    quota: QuotaStanding


@describes("discovery document", who=PUBLIC, answers={200: DiscoveryDocument})
async def discovery(request: web.Request) -> web.Response:
    node, lag_ms = request.app[NODE], max(request.app[SYNC].lags_ms().values(), default=0)
    with node.view() as view:
        document = _discovery(node, view)
    # Of what relayed facts wait behind; our own never do.
    if node.config.federation_enabled and lag_ms > TOLD_MS:
        document = structs.replace(document, replication_lag_ms=lag_ms)
    return json_response(document)


@describes("whom the credential speaks for", who=READERS, answers={200: Me})
async def me(request: web.Request) -> web.Response:
    """Whom the credential speaks for, and what it may do: `allowed_sources` null where no list bounds what it may name."""
    # For nothing: whoever has used up its reads asks here how long that will be so.
    principal = principal_of(request, is_charged=False)
    rights = _rights_of(principal)
    quota = QuotaStanding(**quota_of(principal, request.app[NODE]))
    return json_response(Me(entity_uri=principal.entity, kind=principal.via, quota=quota, **rights))


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
        "capability": grant,
    }


def _discovery(node: Node, view: View) -> DiscoveryDocument:
    config = node.config
    document = DiscoveryDocument(
        node_id=node.node_id,
        node_url=config.node_url,
        auth="required" if config.auth_required else "none",
        federation="enabled" if config.federation_enabled else "disabled",
    )
    return _with_federation(document, node, view) if config.federation_enabled else document


def _with_federation(document: DiscoveryDocument, node: Node, view: View) -> DiscoveryDocument:
    config, rules = node.config, rules_in_force(view, node.config)
    identity, history, scope_authority, attestation = rules.weights
    return structs.replace(
        document,
        federation_pubkey=b64url_encode(node.signer.public_key),
        federation_version=FEDERATION_VERSION,
        federation_endpoints=FederationEndpoints(
            peers="/v1/federation/peers",
            facts="/v1/federation/facts",
            push="/v1/federation/facts/push" if config.federation_push_enabled else None,
        ),
        federation_trust=FederationTrust(
            trust_mode=rules.mode,
            manifest_url=f"{config.node_url}/.well-known/stigmem-manifest.json",
            manifest_proof_url=f"{config.node_url}/.well-known/stigmem-manifest-proof.json",
            trust_weights=TrustWeights(
                identity=identity, history=history, scope_authority=scope_authority, attestation=attestation
            ),
        ),
        log=LogPlace(
            checkpoint_url=f"{config.node_url}/v1/log/checkpoint",
            origin=node.log_origin(node.log.announced().size),
        ),
    )
