"""Capability tokens: issued and revoked here, or taken up for countersigning (PROTOCOL §8, §9)."""

from typing import ClassVar, Literal

from msgspec import Struct

from node.events.event import Event

Verb = Literal["read", "write", "admin", "federate", "subscribe", "tombstone:read"]


class Grant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A capability token without its signature: what it grants, to whom, until when (PROTOCOL §8.1). Times are RFC 3339."""

    token_version: int
    token_id: str
    issuer: str
    subject: str
    verb: Verb
    object: str
    issued_at: str
    expiry: str
    nonce: str
    key_id: str


class CapabilityIssued(Event, tag="capability.issued.1"):
    parts: ClassVar[tuple[str, ...]] = ("grant",)
    grant: Grant


class Revocation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the public may see of a revocation (PROTOCOL §10.2)."""

    token_id: str
    revoked_at: str


class CapabilityRevoked(Event, tag="capability.revoked.1"):
    """The revocation is an item apart from its reason, because it alone is public."""

    parts: ClassVar[tuple[str, ...]] = ("revocation",)
    reason: str
    revocation: Revocation


class CapabilityAccepted(Event, tag="capability.accepted.1"):
    """An admin here lets this node countersign what is written under another organisation's token (PROTOCOL §9)."""

    token_id: str
