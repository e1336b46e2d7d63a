"""The node itself: its birth, manifest and settings, and the refusals it owes a record of (PROTOCOL §3, §4, §6.2, §16)."""

from typing import ClassVar, Literal

from msgspec import Struct

from node.events.event import Event


class NodeCreated(Event, tag="node.created.1"):
    """Always the first entry of a log: whose it is. `public_key` is base64url."""

    node_id: str
    public_key: str
    software: str


class NodeRestored(Event, tag="node.restored.1"):
    """The log goes on from a snapshot of its first `size` entries, under a new name; what came behind them may be lost.

    Always the first entry behind a restore. `root` (hex) is over those entries, `origin` the log's name from here on.
    """

    size: int
    root: str
    origin: str


class RestoreConfirmed(Event, tag="restore.confirmed.1"):
    """An admin stands in for what was lost by the restore at `offset`: credentials issued before it count again."""

    offset: int


class AdminKeyCreated(Event, tag="admin_key.created.1"):
    """The node made its own admin key; `key_hash` is a keyed hash of it, hex."""

    key_hash: str


class ManifestPublished(Event, tag="manifest.published.1"):
    """`manifest` is the canonical JSON with its signature: what inclusion proofs are served for (PROTOCOL §10.2)."""

    parts: ClassVar[tuple[str, ...]] = ("manifest",)
    manifest_id: str
    manifest: bytes


class KeyRotated(Event, tag="key.rotated.1"):
    """The last entry under one key: from the next one on, the key that `rotation` names signs (PROTOCOL §11).

    `rotation` is the canonical JSON that manifests carry, signed by the old key. `kept` is base64url: what followed from the old
    key and must outlive it, sealed under the new one (node/kept_secrets.py).
    """

    parts: ClassVar[tuple[str, ...]] = ("rotation",)
    kept: str
    rotation: bytes


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may change at run time (PROTOCOL §6.2). None: as configured at start."""

    quarantine_garden_id: str | None
    trust_mode: str | None
    quarantine_trust_threshold: float | None
    trust_weights: tuple[float, float, float, float] | None
    blocked_sources: tuple[str, ...]


class SettingsChanged(Event, tag="settings.changed.1"):
    """All settings as they stand from here on, in logs of before there were rules; `TrustSettingsChanged` is made now."""

    parts: ClassVar[tuple[str, ...]] = ("settings",)
    settings: Settings


class BlockedSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An identity that scores 0 (PROTOCOL §7): `source` in normal form, or a node_id, with all that lies under it.

    `origin` is whose it is; None, in settings of before there was one, for that name whoever says it.
    """

    origin: str | None
    source: str


class TrustRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done with the sources of an organisation, `origin`, that lie under `source`, or begin with it where it ends in `:`
    or `/`; all of them where it is the organisation's own name.

    `never`: they score 0. `always`: no first contact, and no threshold; what else holds a fact back holds theirs too.
    """

    decision: Literal["always", "never"]
    origin: str
    source: str


class TrustSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may change at run time, rules included (PROTOCOL §6.2, §7). None: as configured at start."""

    quarantine_garden_id: str | None
    trust_mode: str | None
    quarantine_trust_threshold: float | None
    trust_weights: tuple[float, float, float, float] | None
    blocked_sources: tuple[BlockedSource, ...]
    trust_rules: tuple[TrustRule, ...]


class TrustSettingsChanged(Event, tag="settings.changed.2"):
    """All settings as they stand from here on."""

    parts: ClassVar[tuple[str, ...]] = ("settings",)
    settings: TrustSettings


class RequestRefused(Event, tag="request.refused.1"):
    """A request of a known principal that it may not make; `subject` is the method and route asked for."""

    code: str
    detail: str
    subject: str


class RefusalsCounted(Event, tag="refusals.counted.1"):
    """Refusals of one principal and code beyond those recorded singly, in the minute that began at `minute`."""

    principal: str
    code: str
    count: int
    minute: str
