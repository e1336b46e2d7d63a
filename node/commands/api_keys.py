"""API keys: making and revoking them, whether one holds, and what it may write (PROTOCOL §3, §2.1, §8.4, §12).

Always: a key is made for names that are free: none of the node's own, none under a registered peer. Both are looked at again
at each write, since a peer may have been registered since.
Always: each permission stands for itself; `admin` brings neither `read` nor `write` along.
"""

import re
from typing import get_args

from msgspec import Struct

from node.commands.decision import Context, Decision, Principal, require_permission, require_scopes
from node.commands.drafts import Draft, check_stored, principal_name
from node.commands.gardens import require_operator
from node.errors import (
    ApiKeyAlreadyRevoked,
    ApiKeyAsleep,
    ApiKeyExists,
    ApiKeyExpired,
    ApiKeyNotFound,
    ApiKeyRevoked,
    InvalidExpiry,
    InvalidField,
    ReservedNamespace,
    ScopeNotPermitted,
    SourceNotOwned,
)
from node.events import api_keys as events
from node.events.api_keys import KeyGrant, Permission
from node.events.facts import Scope
from node.projections.access import ALL_SCOPES
from node.projections.api_keys import ApiKey
from node.projections.view import View
from node.times import parse_rfc3339
from node.uris import (
    RESERVED_SOURCE,
    authority_of,
    check_plain,
    is_informal,
    lies_under,
)

MAX_SOURCES = 64
MAX_DESCRIPTION_CHARS = 500
PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
_DAY_MS = 86_400_000
# Printable and without a space, as a header carries it. What begins with a brace is read as a capability token.
_RAW_KEY = re.compile(r"(?!\{)[!-~]{32,512}")


class CreateApiKey(Struct, frozen=True, kw_only=True):
    """`key_hash` stands for the key, which no command carries. `expires_at` is RFC 3339; None: as late as a key may.

    The id is chosen before, because a key may follow from it.
    """

    principal: Principal
    key_id: str
    key_hash: str
    entity: str
    permissions: tuple[Permission, ...]
    allowed_scopes: tuple[Scope, ...]
    allowed_sources: tuple[str, ...]
    expires_at: str | None
    description: str


class RevokeApiKey(Struct, frozen=True, kw_only=True):
    principal: Principal
    key_id: str


def decide_create_api_key(command: CreateApiKey, view: View, context: Context) -> Decision:
    """One event; its reply is the key's id."""
    require_operator(command.principal)
    require_scopes(command.principal, command.allowed_scopes, "allowed_scopes")
    if view.api_keys.by_hash(command.key_hash) is not None:
        raise ApiKeyExists("raw_key: it is taken, or was")
    if not command.permissions:
        raise InvalidField("permissions: at least one")
    if len(command.description) > MAX_DESCRIPTION_CHARS:
        raise InvalidField(f"description: more than {MAX_DESCRIPTION_CHARS} characters")
    check_plain(command.description, "description")
    if len(command.allowed_sources) > MAX_SOURCES:
        raise InvalidField(f"allowed_sources: more than {MAX_SOURCES}")
    sources = {_source("allowed_sources", source, view, context) for source in command.allowed_sources}
    grant = KeyGrant(
        key_id=command.key_id,
        entity=_name("entity_uri", command.entity, view, context),
        permissions=tuple(permission for permission in PERMISSIONS if permission in command.permissions),
        allowed_scopes=tuple(scope for scope in ALL_SCOPES if scope in command.allowed_scopes),
        allowed_sources=tuple(sorted(sources)),
        expires_ms=_expiry_ms(command.expires_at, context),
    )
    event = events.ApiKeyCreated(key_hash=command.key_hash, description=command.description, grant=grant)
    return Decision(events=(event,), actor=command.principal.actor(), reply=grant.key_id)


def decide_revoke_api_key(command: RevokeApiKey, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    key = find_api_key(command.key_id, view)
    if key.revoked_from is not None:
        raise ApiKeyAlreadyRevoked("it was revoked before")
    return Decision(events=(events.ApiKeyRevoked(key_id=key.grant.key_id),), actor=command.principal.actor())


def find_api_key(key_id: str, view: View) -> ApiKey:
    """Raises ApiKeyNotFound."""
    key = view.api_keys.by_id(key_id)
    if key is None:
        raise ApiKeyNotFound("there is no such key")
    return key


def check_raw_key(raw_key: str) -> None:
    """Raises InvalidField for what cannot be an API key."""
    if not _RAW_KEY.fullmatch(raw_key):
        raise InvalidField("raw_key: 32 to 512 printable ASCII characters without a space, the first no brace")


def check_key(key: ApiKey, view: View, now_ms: int) -> None:
    """What can change while a key lives: its revocation, its expiry, a restore. Checked again in the writer."""
    if key.revoked_from is not None:
        raise ApiKeyRevoked("the key was revoked")
    if key.grant.expires_ms <= now_ms:
        raise ApiKeyExpired("the key has expired")
    if is_asleep(key, view):
        raise ApiKeyAsleep("the node was restored since the key was made: an admin confirms that first")


def is_asleep(key: ApiKey, view: View) -> bool:
    """PROTOCOL §12: what revoked it may be what the snapshot does not hold."""
    restore = view.identity.last_restore()
    return restore is not None and not restore.is_confirmed and key.offset < restore.offset


def require_key_write(key: KeyGrant, draft: Draft, view: View, context: Context) -> None:
    """Raises the refusal unless the key may assert this fact."""
    require_permission(key, "write")
    if draft.value.interpret_as == "instruction":
        require_permission(key, "instruction:write")
    if draft.scope not in key.allowed_scopes:
        raise ScopeNotPermitted(f"scope: the key does not write {draft.scope} facts")
    if not owns_source(key, draft.normal_source):
        raise SourceNotOwned("source: neither under the key's entity nor among its allowed sources")
    require_no_peer_name("source", draft.normal_source, view, context)


def owns_source(key: KeyGrant, source: str) -> bool:
    """Whether a source, in normal form, is the key's to name (PROTOCOL §2.1)."""
    return lies_under(source, key.entity) or any(_covers(allowed, source) for allowed in key.allowed_sources)


def require_no_peer_name(field: str, name: str, view: View, context: Context) -> None:
    """Raises SourceNotOwned for what lies under a registered peer.

    Federation stands or falls with this: who could write in a peer's name, an admin too, could forge its history here.
    """
    owner = authority_of(name) or name
    peer = None if owner == context.node_id else view.peers.of_node(owner)
    if peer is not None and peer.status != "revoked":
        raise SourceNotOwned(f"{field}: it lies under a registered peer")


def _covers(allowed: str, source: str) -> bool:
    return source.startswith(allowed) if _is_prefix(allowed) else lies_under(source, allowed)


def _is_prefix(name: str) -> bool:
    """Of informal names alone: what lies under a URI is said by the URI itself."""
    return name[-1] in ":/" and is_informal(name)


def _source(field: str, text: str, view: View, context: Context) -> str:
    source = _name(field, text, view, context)
    # A prefix such as `system:` would take in what is refused by its full name.
    if _is_prefix(source) and RESERVED_SOURCE.startswith(source.lower()):
        raise ReservedNamespace(f"{field}: the prefix covers names of the node's own")
    return source


def _name(field: str, text: str, view: View, context: Context) -> str:
    name = principal_name(field, text)
    check_stored(**{field: name})
    if field == "entity_uri" and _is_prefix(name):
        raise InvalidField("entity_uri: one name, not a prefix")
    require_no_peer_name(field, name, view, context)
    return name


def _expiry_ms(expires_at: str | None, context: Context) -> int:
    days = context.config.api_key_max_age_days
    latest_ms = context.at_ms + days * _DAY_MS
    if expires_at is None:
        return latest_ms
    try:
        expires_ms = parse_rfc3339(expires_at)
    except ValueError as error:
        raise InvalidField("expires_at: not an RFC 3339 time") from error
    if not context.at_ms < expires_ms <= latest_ms:
        raise InvalidExpiry(f"expires_at: the key must expire within {days} days from now")
    return expires_ms
