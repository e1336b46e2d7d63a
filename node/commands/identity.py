"""The node itself: its first event, its manifest, and the record of refusals (PROTOCOL §3, §4.2, §16)."""

import msgspec
from msgspec import Struct

from node import VERSION
from node.canonical import b64url_encode
from node.commands.decision import Context, Decision, Principal
from node.commands.gardens import require_operator
from node.commands.manifests import (
    Manifest,
    check_form,
    check_signature,
    check_succession,
    followed,
    parse_stored,
)
from node.errors import (
    EntityNotOwned,
    KeyMismatch,
    ManifestRotationChainInvalid,
    SelfSignForeignKey,
)
from node.events.event import NODE_ITSELF
from node.events.identity import (
    AdminKeyCreated,
    ManifestPublished,
    NodeCreated,
    RefusalsCounted,
    RequestRefused,
)
from node.events.rotations import RotationEvent
from node.keys import Signer
from node.projections.view import View
from node.times import format_ms, parse_rfc3339

SELF_SIGN = "__self_sign__"
MANIFEST_LIFE_MS = 365 * 86_400_000
_DAY_MS = 86_400_000


class FoundNode(Struct, frozen=True, kw_only=True):
    """Begin an empty log."""


class CreateAdminKey(Struct, frozen=True, kw_only=True):
    """Store the keyed hash of an admin key that the node made."""

    key_hash: str


class PublishManifest(Struct, frozen=True, kw_only=True):
    """An operator's manifest; `signature` may be SELF_SIGN."""

    principal: Principal
    manifest: Manifest


class RenewManifest(Struct, frozen=True, kw_only=True):
    """The node publishes a manifest itself: its first, or the standing one again with new dates."""


class RecordRefusal(Struct, frozen=True, kw_only=True):
    """`refused` is who was refused; the command is the node's own, whatever has become of that principal's credential."""

    refused: Principal
    code: str
    detail: str
    subject: str


class RecordRefusalCount(Struct, frozen=True, kw_only=True):
    principal: str
    code: str
    count: int
    minute_ms: int


def decide_found_node(command: FoundNode, view: View, context: Context) -> Decision:
    event = NodeCreated(
        node_id=context.node_id, public_key=context.signer.public_key_b64, software=f"stigmem-node {VERSION}"
    )
    return Decision(events=(event,), actor=NODE_ITSELF)


def decide_create_admin_key(command: CreateAdminKey, view: View, context: Context) -> Decision:
    return Decision(events=(AdminKeyCreated(key_hash=command.key_hash),), actor=NODE_ITSELF)


def decide_publish_manifest(command: PublishManifest, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    manifest = command.manifest
    if manifest.entity_uri != context.node_id:
        raise EntityNotOwned("entity_uri: this node publishes its own manifest alone")
    check_form(manifest)
    _require_own_key(manifest, context)
    manifest = _signed(manifest, context.signer) if manifest.signature == SELF_SIGN else manifest
    check_signature(manifest)
    chain = followed(manifest, view.identity.keys(), context.at_ms)
    if len(manifest.rotation_events) != len(chain) - 1 or chain != view.identity.keys():
        raise ManifestRotationChainInvalid("rotation_events: not those of this node's own log")
    check_succession(manifest, _standing(view))
    event = ManifestPublished(manifest_id=context.clock.new_id(), manifest=manifest.canonical())
    return Decision(events=(event,), actor=command.principal.actor())


def decide_renew_manifest(command: RenewManifest, view: View, context: Context) -> Decision:
    return Decision(events=(renewed_manifest(view, context, context.signer),), actor=NODE_ITSELF)


def renewed_manifest(view: View, context: Context, signer: Signer, *rotations: RotationEvent) -> ManifestPublished:
    """The manifest that stands, or the first one, with new dates, this signer's key, and these rotations behind its own."""
    standing = _standing(view)
    # Dated to the start of the day: an operator's own manifest, with its clock a little behind or cut to seconds, is not older.
    issued_ms = context.at_ms - context.at_ms % _DAY_MS
    if standing is not None:
        issued_ms = max(issued_ms, parse_rfc3339(standing.issued_at))
    manifest = _signed(
        Manifest(
            manifest_version=1,
            entity_uri=context.node_id,
            public_key=signer.public_key_b64,
            key_id=signer.key_id,
            entities=standing.entities if standing else (context.node_id,),
            rotation_events=(*(standing.rotation_events if standing else ()), *rotations),
            issued_at=format_ms(issued_ms),
            expires_at=format_ms(issued_ms + MANIFEST_LIFE_MS),
            signature="",
        ),
        signer,
    )
    return ManifestPublished(manifest_id=context.clock.new_id(), manifest=manifest.canonical())


def decide_record_refusal(command: RecordRefusal, view: View, context: Context) -> Decision:
    event = RequestRefused(code=command.code, detail=command.detail, subject=command.subject)
    return Decision(events=(event,), actor=command.refused.actor())


def decide_record_refusal_count(command: RecordRefusalCount, view: View, context: Context) -> Decision:
    event = RefusalsCounted(
        principal=command.principal, code=command.code, count=command.count, minute=format_ms(command.minute_ms)
    )
    return Decision(events=(event,), actor=NODE_ITSELF)


def _require_own_key(manifest: Manifest, context: Context) -> None:
    if manifest.raw_key() == context.signer.public_key:
        return
    if manifest.signature == SELF_SIGN:
        raise SelfSignForeignKey("public_key: the node signs for its own key alone")
    raise KeyMismatch("public_key: not this node's; it changes by rotation alone")


def _signed(manifest: Manifest, signer: Signer) -> Manifest:
    signature = b64url_encode(signer.sign(manifest.signed_bytes()))
    return msgspec.structs.replace(manifest, signature=signature)


def _standing(view: View) -> Manifest | None:
    own = view.identity.manifest()
    return None if own is None else parse_stored(own.manifest)
