"""API keys: made and revoked by an admin (PROTOCOL §3). The key itself is in no event, only a keyed hash of it."""

from typing import ClassVar, Literal

from msgspec import Struct

from node.events.event import Event
from node.events.facts import Scope

Permission = Literal["read", "write", "federate", "admin", "instruction:write"]


class KeyGrant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In whose name an API key speaks, what it may do, and until when (epoch ms).

    `entity` is in normal form, and so is each of `allowed_sources`: a name, or a prefix of informal names that ends in ':' or '/'.
    """

    key_id: str
    entity: str
    permissions: tuple[Permission, ...]
    allowed_scopes: tuple[Scope, ...]
    allowed_sources: tuple[str, ...]
    expires_ms: int


class ApiKeyCreated(Event, tag="api_key.created.1"):
    """`key_hash` is a keyed hash of the key, hex: under a secret of the node, so that guesses cannot even be tried on it."""

    parts: ClassVar[tuple[str, ...]] = ("grant",)
    key_hash: str
    description: str
    grant: KeyGrant


class ApiKeyRevoked(Event, tag="api_key.revoked.1"):
    key_id: str
