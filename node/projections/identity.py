"""The node itself: whose log this is, its keys, its manifest, its settings, the hash of an admin key it made, and when it was
restored (PROTOCOL §3, §4, §6.2, §12)."""

import struct
from typing import ClassVar

from msgspec import Struct

from node.canonical import b64url_decode
from node.events.entry import Entry
from node.events.event import Event
from node.events.identity import (
    AdminKeyCreated,
    KeyRotated,
    ManifestPublished,
    NodeCreated,
    NodeRestored,
    RestoreConfirmed,
    SettingsChanged,
    TrustSettings,
    TrustSettingsChanged,
)
from node.events.rotations import KeyChain, first_key, read_rotation, rotated
from node.projections.base import Handles, Projection, TableSpec
from node.projections.manifest_dates import dates_of
from node.projections.trust_lists import TrustLists, lists_of, settings_of

DEFAULT_SETTINGS = TrustSettings(
    quarantine_garden_id=None,
    trust_mode=None,
    quarantine_trust_threshold=None,
    trust_weights=None,
    blocked_sources=(),
    trust_rules=(),
)


class Birth(Struct, frozen=True, array_like=True):
    """The log's first entry: whose it is, under which key (base64url), and how its leaf hash starts."""

    node_id: str
    public_key: str
    leaf_start: bytes


class OwnManifest(Struct, frozen=True, array_like=True):
    """The manifest that stands: canonical JSON with signature, and where in the log it was published."""

    offset: int
    manifest_id: str
    manifest: bytes
    published_ms: int
    issued_ms: int
    expires_ms: int


class OwnChain(Struct, frozen=True, array_like=True):
    """This node's keys, oldest first, and what followed from the former ones and lives on, sealed (`KeyRotated.kept`)."""

    keys: KeyChain
    kept: str


class Restore(Struct, frozen=True, array_like=True):
    """The log went on from a snapshot at `offset`, under the name `origin`; `is_confirmed` once an admin stood in for it."""

    offset: int
    at_ms: int
    origin: str
    is_confirmed: bool


_BIRTH = TableSpec("identity/birth", Birth)
_MANIFEST = TableSpec("identity/manifest", OwnManifest)
_SETTINGS = TableSpec("identity/settings", TrustSettings)
_ADMIN_KEY = TableSpec("identity/admin_key", str)
_RESTORES = TableSpec("identity/restores", Restore)
_KEYS = TableSpec("identity/keys", OwnChain)
_ONLY = b"only"
_OFFSET = struct.Struct(">Q")
_AFTER_ALL = b"\xff" * 9


class Identity(Projection):
    name: ClassVar[str] = "identity"
    version: ClassVar[int] = 4
    events: ClassVar[tuple[type[Event], ...]] = (
        NodeCreated,
        ManifestPublished,
        SettingsChanged,
        TrustSettingsChanged,
        AdminKeyCreated,
        NodeRestored,
        RestoreConfirmed,
        KeyRotated,
    )
    tables: ClassVar[tuple[TableSpec, ...]] = (_BIRTH, _MANIFEST, _SETTINGS, _ADMIN_KEY, _RESTORES, _KEYS)

    def __init__(self, txn: object, handles: Handles) -> None:
        super().__init__(txn, handles)
        # Every decision asks for these; one view reads them once.
        self._settings: TrustSettings | None = None
        self._trust_lists: TrustLists | None = None
        self._has_manifest: bool | None = None
        self._chain: KeyChain | None = None

    def birth(self) -> Birth | None:
        return self.table(_BIRTH).get(_ONLY)

    def keys(self) -> KeyChain:
        """This node's own keys, oldest first; none before its first entry."""
        if self._chain is None:
            row = self.table(_KEYS).get(_ONLY)
            self._chain = () if row is None else row.keys
        return self._chain

    def manifest(self) -> OwnManifest | None:
        return self.table(_MANIFEST).get(_ONLY)

    def has_manifest(self) -> bool:
        if self._has_manifest is None:
            self._has_manifest = self.table(_MANIFEST).has(_ONLY)
        return self._has_manifest

    def settings(self) -> TrustSettings:
        if self._settings is None:
            self._settings = self.table(_SETTINGS).get(_ONLY) or DEFAULT_SETTINGS
        return self._settings

    def trust_lists(self) -> TrustLists:
        """The block list and the rules of the settings that stand, made ready to be asked."""
        if self._trust_lists is None:
            self._trust_lists = lists_of(self.settings())
        return self._trust_lists

    def admin_key_hash(self) -> str | None:
        return self.table(_ADMIN_KEY).get(_ONLY)

    def restores(self) -> list[Restore]:
        """Every restore that this log went through, in order."""
        return [restore for _, restore in self.table(_RESTORES).scan()]

    def last_restore(self) -> Restore | None:
        return next((restore for _, restore in self.table(_RESTORES).scan_back(b"", before=_AFTER_ALL)), None)

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case NodeCreated(node_id=node_id, public_key=public_key):
                self.table(_BIRTH).put(_ONLY, Birth(node_id, public_key, entry.leaf[:8]))
                self._keep_chain(first_key(b64url_decode(public_key)), "")
            case KeyRotated(rotation=rotation, kept=kept):
                self._keep_chain(rotated(self.keys(), read_rotation(rotation)), kept)
            case ManifestPublished(manifest_id=manifest_id, manifest=manifest):
                dates = dates_of(manifest)
                row = OwnManifest(entry.offset, manifest_id, manifest, entry.at_ms, *dates)
                self.table(_MANIFEST).put(_ONLY, row)
                self._has_manifest = True
            case SettingsChanged() | TrustSettingsChanged() as changed:
                self._settings, self._trust_lists = settings_of(changed), None
                self.table(_SETTINGS).put(_ONLY, self._settings)
            case NodeRestored(origin=origin):
                restore = Restore(entry.offset, entry.at_ms, origin, False)
                self.table(_RESTORES).put(_OFFSET.pack(entry.offset), restore)
            case RestoreConfirmed():
                # Whoever confirms the last restore has looked at all that the ones before it lost, too.
                for restore in self.restores():
                    confirmed = Restore(restore.offset, restore.at_ms, restore.origin, True)
                    self.table(_RESTORES).put(_OFFSET.pack(restore.offset), confirmed)
            case AdminKeyCreated(key_hash=key_hash):
                self.table(_ADMIN_KEY).put(_ONLY, key_hash)
            case _:
                pass  # no other event is about the node itself

    def _keep_chain(self, chain: KeyChain, kept: str) -> None:
        self._chain = chain
        self.table(_KEYS).put(_ONLY, OwnChain(chain, kept))
