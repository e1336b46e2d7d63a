"""The manifest of a snapshot: what the file holds, signed (docs/snapshots.md 'The manifest').

Always: what is parsed here has its form checked, every number within its bounds, and its signature verified; the bytes that
were signed are kept as they stood.

Does not check the content that it names (see restore.py), nor whose word is taken (see `require_trusted`'s callers).
"""

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from node.canonical import b64url_decode, canonical_json
from node.errors import Refusal
from node.keys import Signer, is_sound_public_key, key_id_of, verify
from node.strict_json import decode, scan_json
from node.times import parse_rfc3339

FORMAT = "stigmem-snapshot/1"
# Of an encrypted log: chunks begin with the keys of their items.
SEALED_FORMAT = "stigmem-snapshot/2"
SIGNED_PREFIX = b"stigmem-snapshot/v1\n"
# A chunk is closed once it holds this much, so it is larger by one entry at most; 65,536 of them are a log of 256 GiB.
CHUNK_BYTES = 4 << 20
MAX_CHUNK_BYTES = 64 << 20
MAX_CHUNKS = 1 << 16
MAX_MANIFEST_BYTES = 16 << 20

Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Key = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z")]
Size = Annotated[int, Meta(ge=0, le=2**53)]


class NotASnapshot(Exception):
    """There is no snapshot here that this version reads, or not one that can be used so; one line for the operator."""


class NotTrusted(Exception):
    """The manifest's signer is nobody whose word is taken; one line for the operator."""


class Head(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a log stood: how many entries, and the root over them in hex."""

    size: Size
    root: Hash


class Chunk(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run of entries: the first one's offset, how many, and the chunk's bytes as stored and as they inflate.

    `sha256` is of the stored bytes.
    """

    first: Size
    entries: Annotated[int, Meta(ge=1, le=2**32)]
    bytes: Annotated[int, Meta(ge=1, le=MAX_CHUNK_BYTES)]
    raw_bytes: Annotated[int, Meta(ge=1, le=MAX_CHUNK_BYTES)]
    sha256: Hash


class AtRest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an encrypted snapshot is opened with: its log's `at-rest.key` as it lay there, and a mark of the log's own key."""

    key_file: Annotated[str, Meta(max_length=1 << 14)]
    mark: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a snapshot holds: the entries [first, size) of one log, in chunks.

    `log_key` is the key that the log's first entry names, `signed_by` the manifest's; `continues` is None for a snapshot
    from the beginning. `checkpoint` is the signed note of (size, root), or None where another key than the log's last one signed
    the manifest. `at_rest` is there for an encrypted log alone.
    """

    format: Literal["stigmem-snapshot/1", "stigmem-snapshot/2"]
    node_id: Annotated[str, Meta(max_length=512)]
    log_key: Key
    origin: Annotated[str, Meta(max_length=1024)]
    first: Size
    size: Annotated[int, Meta(ge=1, le=2**53)]
    root: Hash
    checkpoint: Annotated[str, Meta(max_length=4096)] | None
    continues: Head | None
    created_at: str
    signed_by: Key
    keys: Annotated[tuple[Key, ...], Meta(max_length=4096)]
    chunks: Annotated[tuple[Chunk, ...], Meta(max_length=MAX_CHUNKS)]
    at_rest: AtRest | UnsetType = UNSET

    @property
    def key_file(self) -> bytes | None:
        """The `at-rest.key` of an encrypted log."""
        return None if self.at_rest is UNSET else self.at_rest.key_file.encode()

    @property
    def mark(self) -> str | None:
        return None if self.at_rest is UNSET else self.at_rest.mark


def encode_manifest(manifest: Manifest) -> bytes:
    return canonical_json(msgspec.to_builtins(manifest))


def sign_manifest(raw: bytes, signer: Signer) -> bytes:
    return signer.sign(SIGNED_PREFIX + raw)


def open_manifest(raw: bytes, signature: bytes) -> Manifest:
    """The manifest in `raw`. ValueError, in words, where its form or its own signer's signature does not hold."""
    try:
        # A log of any length has as many chunks as it needs; what is read of a manifest is bounded by its bytes.
        scan_json(raw, max_values=MAX_MANIFEST_BYTES)
        manifest = decode(raw, Manifest)
    except Refusal as refusal:
        raise ValueError(f"the manifest cannot be read: {refusal.detail}") from refusal
    public_key = _sound_key(manifest.signed_by)
    if not verify(public_key, SIGNED_PREFIX + raw, signature):
        raise ValueError("the manifest's signature does not verify")
    _check_numbers(manifest)
    return manifest


def require_trusted(manifest: Manifest, trusted: Collection[str]) -> None:
    """Raise NotTrusted unless the signer is one that was named, or, where none was, the log's own key.

    `trusted` are public keys (base64url) or their key_ids (hex). The log's own keys are the one that its first entry names and
    those that it was rotated to: which they are the manifest says, and the log itself whether that is so (see restore.py).
    """
    key_id = key_id_of(_sound_key(manifest.signed_by))
    if trusted:
        if not {manifest.signed_by, key_id} & set(trusted):
            raise NotTrusted(f"the snapshot is signed by {manifest.signed_by} (key_id {key_id}), no key that was named")
    elif manifest.signed_by != manifest.log_key and manifest.signed_by not in manifest.keys:
        raise NotTrusted(
            f"the snapshot is signed by {manifest.signed_by}, not by the log's own key: "
            "`stigmem snapshot verify --trust-key` takes its word"
        )


def _sound_key(text: str) -> bytes:
    key = b64url_decode(text)
    if not is_sound_public_key(key):
        raise ValueError("the manifest names a key under which anybody can sign")
    return key


def _check_numbers(manifest: Manifest) -> None:
    parse_rfc3339(manifest.created_at)
    if (manifest.format == SEALED_FORMAT) != (manifest.at_rest is not UNSET):
        raise ValueError("the manifest does not say whether the log is encrypted")
    if (manifest.continues is None) != (manifest.first == 0):
        raise ValueError("the manifest does not say what it continues")
    if manifest.continues is not None and manifest.continues.size != manifest.first:
        raise ValueError("the manifest continues another size than it begins at")
    reached = manifest.first
    for chunk in manifest.chunks:
        if chunk.first != reached:
            raise ValueError("the manifest's chunks leave a gap")
        reached += chunk.entries
    if reached != manifest.size or not manifest.chunks:
        raise ValueError("the manifest's chunks do not add up to its size")
