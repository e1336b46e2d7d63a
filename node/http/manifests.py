"""Manifests: this node's own, with its proof, and those that are held of others (PROTOCOL §4.2)."""

from typing import ClassVar

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from node.commands.identity import PublishManifest
from node.commands.introductions import held_manifest
from node.commands.manifests import Manifest, parse_stored
from node.errors import (
    EntityNotOwned,
    InvalidUri,
    KeyForked,
    KeyIdMismatch,
    KeyMismatch,
    ManifestEntityForeign,
    ManifestNotFound,
    ManifestRolledBack,
    ManifestRotationChainInvalid,
    ManifestSignatureInvalid,
    ManifestValidity,
    SelfSignForeignKey,
    UnsupportedParameter,
    WeakKey,
)
from node.events.manifest_proof import LogEntry, manifest_log_entry
from node.http.auth import operator_of
from node.http.body import json_response, read_json
from node.http.describe import ADMIN, PUBLIC, describes
from node.http.forms import Base64Url, Sha256, Time
from node.http.keys import NODE
from node.http.moments import refuse_as_of
from node.http.paths import uri_in_path
from node.projections.identity import OwnManifest
from node.runtime import Node
from node.strict_json import decode
from node.uris import normal_uri

MAX_MANIFEST_BYTES = 1 << 20


class PublishedManifest(Struct, frozen=True, kw_only=True):
    """The manifest that stands now, and where its proof is."""

    manifest_id: str
    entity_uri: str
    key_id: Sha256
    issued_at: Time
    expires_at: Time
    log_entry_url: str
    log_entry: LogEntry


class HeldRotation(Struct, frozen=True, kw_only=True):
    """What every rotation says; a reference node calls the old key `previous_key_id` and names no entity."""

    is_open: ClassVar[bool] = True

    new_key_id: Sha256
    new_public_key: Base64Url
    rotated_at: Time


class HeldManifest(Struct, frozen=True, kw_only=True):
    """A manifest as it was signed; another organisation's may say more. `log_entry` comes with this node's own."""

    is_open: ClassVar[bool] = True

    manifest_version: int | UnsetType = UNSET
    entity_uri: str
    public_key: Base64Url
    key_id: Sha256
    entities: list[str]
    rotation_events: list[HeldRotation]
    issued_at: Time
    expires_at: Time
    signature: Base64Url
    log_entry: LogEntry | UnsetType = UNSET


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
        KeyForked,
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
    refuses=(InvalidUri, ManifestNotFound, UnsupportedParameter),
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
