"""Discovery, manifests, settings, and who am I (PROTOCOL §3, §4, §6.2)."""

from typing import Annotated, ClassVar, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from node.canonical import b64url_encode
from node.commands.api_keys import PERMISSIONS
from node.commands.decision import Principal, rules_in_force
from node.commands.identity import ChangeSettings, PublishManifest
from node.commands.introductions import held_manifest
from node.commands.manifests import Manifest, RotationEvent, parse_stored
from node.commands.reading import granted_by
from node.commands.restores import ConfirmRestore
from node.commands.trust import judge
from node.errors import (
    EntityNotOwned,
    FieldTooLong,
    GardenNotFound,
    GardenNotQuarantine,
    InvalidParameter,
    InvalidUri,
    KeyIdMismatch,
    KeyMismatch,
    ManifestEntityForeign,
    ManifestNotFound,
    ManifestRolledBack,
    ManifestRotationChainInvalid,
    ManifestSignatureInvalid,
    ManifestValidity,
    MissingField,
    NothingToConfirm,
    SelfSignForeignKey,
    UnsupportedParameter,
    WeakKey,
)
from node.events.facts import Scope, TrustMode
from node.events.manifest_proof import LogEntry, manifest_log_entry
from node.events.tokens import Grant
from node.http.auth import operator_of, principal_of
from node.http.body import decode_query, json_response, read_json
from node.http.describe import ADMIN, PUBLIC, READERS, describes
from node.http.exchange import TOLD_MS
from node.http.forms import Base64Url, Count, Sha256, Share, Time, Uuid
from node.http.keys import NODE, SYNC
from node.http.moments import refuse_as_of
from node.http.paths import uri_in_path
from node.http.quotas import quota_of
from node.projections.access import ALL_SCOPES
from node.projections.identity import OwnManifest
from node.projections.view import View
from node.quotas import Standing
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


class PublishedManifest(Struct, frozen=True, kw_only=True):
    """The manifest that stands now, and where its proof is."""

    manifest_id: str
    entity_uri: str
    key_id: Sha256
    issued_at: Time
    expires_at: Time
    log_entry_url: str
    log_entry: LogEntry


class HeldManifest(Struct, frozen=True, kw_only=True):
    """A manifest as it was signed; another organisation's may say more. `log_entry` comes with this node's own."""

    is_open: ClassVar[bool] = True

    manifest_version: int | UnsetType = UNSET
    entity_uri: str
    public_key: Base64Url
    key_id: Sha256
    entities: list[str]
    rotation_events: list[RotationEvent]
    issued_at: Time
    expires_at: Time
    signature: Base64Url
    log_entry: LogEntry | UnsetType = UNSET


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


@describes("discovery document", who=PUBLIC, answers={200: DiscoveryDocument})
async def discovery(request: web.Request) -> web.Response:
    node, lag_ms = request.app[NODE], max(request.app[SYNC].lags_ms().values(), default=0)
    with node.view() as view:
        document = _discovery(node, view)
    # Of what relayed facts wait behind; our own never do.
    if node.config.federation_enabled and lag_ms > TOLD_MS:
        document = structs.replace(document, replication_lag_ms=lag_ms)
    return json_response(document)


@describes("this node's manifest", who=PUBLIC, answers={200: Manifest}, refuses=(ManifestNotFound,))
async def own_manifest(request: web.Request) -> web.Response:
    node = request.app[NODE]
    return json_response(msgspec.Raw(_standing(node).manifest))


@describes(
    "the proof that its manifest is in its log", who=PUBLIC, answers={200: LogEntry}, refuses=(ManifestNotFound,)
)
async def own_manifest_proof(request: web.Request) -> web.Response:
    node = request.app[NODE]
    return json_response(_log_entry(_standing(node), node))


@describes(
    "publish this node's manifest; signature may be __self_sign__",
    who=ADMIN,
    body=Manifest,
    answers={200: PublishedManifest},
    refuses=(
        EntityNotOwned,
        KeyIdMismatch,
        KeyMismatch,
        ManifestEntityForeign,
        ManifestRolledBack,
        ManifestRotationChainInvalid,
        ManifestSignatureInvalid,
        ManifestValidity,
        SelfSignForeignKey,
        WeakKey,
    ),
)
async def put_manifest(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    manifest = decode(await read_json(request, max_bytes=MAX_MANIFEST_BYTES), Manifest)
    await node.execute(PublishManifest(principal=principal, manifest=manifest))
    standing = _standing(node)
    published = parse_stored(standing.manifest)
    return json_response(
        PublishedManifest(
            manifest_id=standing.manifest_id,
            entity_uri=published.entity_uri,
            key_id=published.key_id,
            issued_at=published.issued_at,
            expires_at=published.expires_at,
            log_entry_url=f"{node.config.node_url}/.well-known/stigmem-manifest-proof.json",
            log_entry=_log_entry(standing, node),
        )
    )


@describes(
    "the manifest held of an entity",
    who=PUBLIC,
    answers={200: HeldManifest},
    refuses=(ManifestNotFound, UnsupportedParameter),
)
async def get_manifest(request: web.Request) -> web.Response:
    """The manifest held of an entity: our own, with its proof, a registered peer's, or the one that all relays agree on."""
    refuse_as_of(request, "a manifest is shown as it is held now")
    node, entity_uri = request.app[NODE], _named(uri_in_path(request, "entity_uri"))
    if entity_uri == node.node_id:
        standing = _standing(node)
        members = msgspec.json.decode(standing.manifest)
        return json_response({**members, "log_entry": msgspec.to_builtins(_log_entry(standing, node))})
    with node.view() as view:
        manifest = held_manifest(entity_uri, view, node.context())
    if manifest is None:
        raise ManifestNotFound("no manifest of that entity is held here")
    return json_response(msgspec.Raw(manifest))


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


@describes("whom the credential speaks for", who=READERS, answers={200: Me})
async def me(request: web.Request) -> web.Response:
    """Whom the credential speaks for, and what it may do: `allowed_sources` null where no list bounds what it may name."""
    principal = principal_of(request)
    rights = _rights_of(principal)
    quota = QuotaStanding(**quota_of(principal, request.app[NODE]))
    return json_response(Me(entity_uri=principal.entity, kind=principal.via, quota=quota, **rights))


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


def _named(text: str) -> str:
    """In normal form; a foreign node's id that has none as it is, byte for byte (PROTOCOL §1)."""
    try:
        return normal_uri(text)
    except InvalidUri:
        return text


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
