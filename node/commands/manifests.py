"""Manifests: their form and the checks a manifest passes before it is believed, ours or a peer's (PROTOCOL §4.2).

Always: the signature is checked over the document as received; what is logged is its canonical JSON.

Does not know whose manifest it should be: the caller compares `entity_uri` and key with what it expects.
"""

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from node.canonical import b64url_decode, canonical_json
from node.errors import (
    InvalidField,
    KeyForked,
    KeyIdMismatch,
    KeyMismatch,
    ManifestEntityForeign,
    ManifestRolledBack,
    ManifestRotationChainInvalid,
    ManifestSignatureInvalid,
    ManifestValidity,
    WeakKey,
)
from node.events.rotations import (
    MAX_ROTATIONS,
    ChainBroken,
    ChainForked,
    KeyChain,
    Rotation,
    RotationEvent,
    chain_of,
    open_rotation,
)
from node.keys import is_sound_public_key, key_id_of, verify
from node.strict_json import scan_json
from node.times import parse_rfc3339
from node.uris import is_normal, lies_under

MIN_VALIDITY_MS = 86_400_000
MAX_VALIDITY_MS = 398 * 86_400_000
MAX_ENTITIES = 256
# A peer's clock may be ahead of ours by as much as its facts' clocks may.
ROTATED_AHEAD_MS = 300_000


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An organisation's statement of its key and entities."""

    manifest_version: int
    entity_uri: str
    public_key: str
    key_id: str
    entities: tuple[str, ...]
    rotation_events: tuple[RotationEvent, ...]
    issued_at: str
    expires_at: str
    signature: str

    def raw_key(self) -> bytes:
        return b64url_decode(self.public_key)

    def signed_bytes(self, *, without: tuple[str, ...] = ("signature",)) -> bytes:
        members = msgspec.to_builtins(self)
        return canonical_json({name: value for name, value in members.items() if name not in without})

    def signed_forms(self) -> tuple[bytes, ...]:
        """Every body that its signature may be over."""
        return (self.signed_bytes(),)

    def canonical(self) -> bytes:
        return canonical_json(msgspec.to_builtins(self))


class ForeignManifest(Manifest, frozen=True, kw_only=True):
    """A manifest as a peer serves it. Reference nodes neither sign `manifest_version` nor need it (INTEROP §11).

    `said` is the whole document: what this version does not know of it is ignored, and signed like the rest (PROTOCOL §1).
    """

    manifest_version: int | UnsetType = UNSET
    rotation_events: tuple[dict[str, object], ...]
    said: dict[str, object] = {}

    def signed_bytes(self, *, without: tuple[str, ...] = ("signature",)) -> bytes:
        return canonical_json({name: value for name, value in self.said.items() if name not in without})

    def signed_forms(self) -> tuple[bytes, ...]:
        return (self.signed_bytes(), self.signed_bytes(without=("signature", "manifest_version")))

    def canonical(self) -> bytes:
        return canonical_json(self.said)


def check_form(manifest: Manifest) -> None:
    """Form, key, key_id and validity, in the protocol's order; everything but the signature and what came before."""
    if manifest.manifest_version not in (1, UNSET):
        raise InvalidField("manifest_version: only 1 is known")
    if len(manifest.entities) > MAX_ENTITIES:
        raise InvalidField(f"entities: more than {MAX_ENTITIES}")
    if len(manifest.rotation_events) > MAX_ROTATIONS:
        raise InvalidField(f"rotation_events: more than {MAX_ROTATIONS}")
    issued_ms, expires_ms = _time(manifest.issued_at, "issued_at"), _time(manifest.expires_at, "expires_at")
    _check_entities(manifest)
    _check_key(manifest)
    if not MIN_VALIDITY_MS <= expires_ms - issued_ms <= MAX_VALIDITY_MS:
        raise ManifestValidity("expires_at: at least a day and at most 398 days after issued_at")


def check_signature(manifest: Manifest) -> None:
    """Raises ManifestSignatureInvalid unless the manifest's own key signed it."""
    try:
        key, signature = manifest.raw_key(), b64url_decode(manifest.signature)
        is_signed = any(verify(key, form, signature) for form in manifest.signed_forms())
    except ValueError:
        is_signed = False
    if not is_signed:
        raise ManifestSignatureInvalid("signature: it is not the manifest key's over this manifest")


def check_succession(manifest: Manifest, last: Manifest | None) -> None:
    """Whether it may follow the last one accepted of that entity: no older, no history dropped."""
    if last is None:
        return
    if manifest.rotation_events[: len(last.rotation_events)] != last.rotation_events:
        raise ManifestRotationChainInvalid("rotation_events: they do not continue those of the last manifest")
    if parse_rfc3339(manifest.issued_at) < parse_rfc3339(last.issued_at):
        raise ManifestRolledBack("issued_at: before the last manifest's")


def followed(manifest: Manifest, held: KeyChain, now_ms: int) -> KeyChain:
    """All that is known of the entity's keys once this manifest is believed, whose own signature holds; `held` was known before.

    Raises KeyMismatch for another key without a chain, KeyForked, or ManifestRotationChainInvalid.
    """
    key, rotations = manifest.raw_key(), _rotations_of(manifest)
    if held and not rotations and key != held[-1].public_key:
        raise KeyMismatch("public_key: not the one that is held, and no rotation leads to it")
    if rotations and rotations[-1].rotated_ms > now_ms + ROTATED_AHEAD_MS:
        raise ManifestRotationChainInvalid("rotation_events: rotated_at lies in the future")
    try:
        return chain_of(manifest.entity_uri, key, rotations, held)
    except ChainForked as fork:
        raise KeyForked(f"rotation_events: {fork}", rotation=fork.rotation) from fork
    except ChainBroken as broken:
        raise ManifestRotationChainInvalid(str(broken)) from broken


def parse_stored(manifest: bytes) -> Manifest:
    """A manifest as it was logged."""
    return msgspec.json.decode(manifest, type=Manifest)


def parse_foreign(document: bytes) -> ForeignManifest:
    """A manifest as a peer serves it. Raises MalformedJson, or InvalidField for what is no manifest."""
    said = scan_json(document)
    if not isinstance(said, dict):
        raise InvalidField("the manifest is no JSON object")
    try:
        known = {name: said[name] for name in Manifest.__struct_fields__ if name in said}
        return structs.replace(msgspec.convert(known, ForeignManifest), said=said)
    except msgspec.ValidationError as error:
        raise InvalidField(f"the manifest cannot be read: {error}") from error


def _rotations_of(manifest: Manifest) -> list[Rotation]:
    try:
        return [open_rotation(msgspec.to_builtins(event)) for event in manifest.rotation_events]
    except ChainBroken as broken:
        raise ManifestRotationChainInvalid(str(broken)) from broken


def _time(text: str, field: str) -> int:
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise InvalidField(f"{field}: not an RFC 3339 time") from error


def _check_entities(manifest: Manifest) -> None:
    if manifest.entity_uri not in manifest.entities:
        raise ManifestEntityForeign("entities: they must include entity_uri")
    for entity in manifest.entities:
        if not is_normal(entity) or not lies_under(entity, manifest.entity_uri):
            raise ManifestEntityForeign("entities: each must lie under entity_uri")


def _check_key(manifest: Manifest) -> None:
    try:
        key = manifest.raw_key()
    except ValueError as error:
        raise InvalidField("public_key: not base64url") from error
    if len(key) != 32:
        raise InvalidField("public_key: 32 bytes")
    if not is_sound_public_key(key):
        raise WeakKey("public_key: a key under which anybody can sign")
    if key_id_of(key) != manifest.key_id:
        raise KeyIdMismatch("key_id: not the SHA-256 of the public key")
