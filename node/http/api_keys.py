"""/v1/auth/keys: making, listing and revoking API keys (PROTOCOL §3).

Always: a key is in one answer, the one to its making; from then on it is known by its id. Under an idempotency key that answer is
told again.
"""

import secrets
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Literal

from aiohttp import web
from msgspec import Meta, Struct, structs

from node.commands.api_keys import CreateApiKey, RevokeApiKey, check_raw_key, find_api_key, is_asleep
from node.commands.decision import Principal
from node.errors import (
    ApiKeyAlreadyRevoked,
    ApiKeyExists,
    ApiKeyNotFound,
    ApiKeyNotTold,
    FieldTooLong,
    IdempotencyKeyReused,
    InvalidCursor,
    InvalidExpiry,
    InvalidUri,
    ReservedNamespace,
    ScopeNotPermitted,
    SourceNotOwned,
)
from node.events.api_keys import Permission
from node.events.entry import Entry
from node.events.facts import Scope
from node.http.auth import operator_of
from node.http.body import decode_query, json_response, read_json
from node.http.cursors import FOREIGN, cursor_text, opened_cursor
from node.http.describe import ADMIN, describes
from node.http.forms import AsOf, Count, Entity, Name, RawKey, Time, Uuid
from node.http.idempotency import HEADER, TAKES_KEY, TURNS, carry_out
from node.http.keys import NODE
from node.http.moments import AsOfQuery, Moment, asked_moment, check_moment, moment_of
from node.keys import equal_secrets
from node.projections.access import ALL_SCOPES
from node.projections.api_keys import ApiKey, key_made_by
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode
from node.times import format_ms

MAX_BYTES = 1 << 16
RAW_KEY_BYTES = 32


class CreateKeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without `raw_key` the node makes one; without `expires_at` the key lives as long as the settings allow."""

    entity_uri: Entity
    permissions: Annotated[tuple[Permission, ...], Meta(extra_json_schema={"minItems": 1})]
    raw_key: RawKey | None = None
    allowed_scopes: tuple[Scope, ...] = ALL_SCOPES
    allowed_sources: tuple[Name, ...] = ()
    expires_at: Time | None = None
    description: str = ""


class KeysQuery(Struct, frozen=True, kw_only=True):
    as_of: AsOf | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ShownKey(Struct, frozen=True, kw_only=True):
    """A key as operators are shown it, with what became of it: never the key itself."""

    key_id: Uuid
    entity_uri: str
    permissions: tuple[Permission, ...]
    allowed_scopes: tuple[Scope, ...]
    allowed_sources: tuple[str, ...]
    description: str
    created_at: Time
    created_by: str | None
    expires_at: Time
    revoked_at: Time | None
    status: Literal["active", "asleep", "expired", "revoked"]
    log_offset: Count


class NewKey(ShownKey, frozen=True, kw_only=True):
    """A key that was made just now: `raw_key` is the bearer credential, in this answer alone."""

    raw_key: str


class ShownKeys(Struct, frozen=True, kw_only=True):
    keys: list[ShownKey]
    cursor: str | None
    has_more: bool


class KeysCursor(Struct, frozen=True, array_like=True):
    """Where the page before ended, by offset, and what the first page looked at."""

    before: int
    moment: Moment


@describes(
    "make an API key; it is in this answer alone",
    who=ADMIN,
    body=CreateKeyRequest,
    answers={201: NewKey},
    headers=TAKES_KEY,
    refuses=(
        IdempotencyKeyReused,
        ApiKeyExists,
        ApiKeyNotTold,
        FieldTooLong,
        InvalidExpiry,
        InvalidUri,
        ReservedNamespace,
        ScopeNotPermitted,
        SourceNotOwned,
    ),
)
async def create_key(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    raw = await read_json(request, max_bytes=MAX_BYTES)
    body = decode(raw, CreateKeyRequest)
    new_key = f"sk_{secrets.token_urlsafe(RAW_KEY_BYTES)}"

    def raw_key_of(key_id: str) -> str:
        if body.raw_key is not None:
            return body.raw_key
        # Under an idempotency key it may have to be told again, and it is kept nowhere.
        return f"sk_{request.app[TURNS].secret_of(key_id)}" if HEADER in request.headers else new_key

    def made(key_id: str, key_hash: str) -> str:
        """What was made of it, also where the node's key was rotated since."""
        told = [f"sk_{secret}" for secret in request.app[TURNS].secrets_of(key_id)]
        for raw in (raw_key_of(key_id), *told):
            if equal_secrets(node.api_key_hash(raw), key_hash):
                return raw
        raise ApiKeyNotTold(
            "the key was made, and cannot be told again: the node's own key was rotated too often since"
        )

    def command(principal: Principal) -> CreateApiKey:
        key_id = node.clock.new_id()
        raw_key = raw_key_of(key_id)
        check_raw_key(raw_key)
        if node.is_admin_key(raw_key):
            raise ApiKeyExists("raw_key: it is taken, or was")
        return CreateApiKey(
            principal=principal,
            key_id=key_id,
            key_hash=node.api_key_hash(raw_key),
            entity=body.entity_uri,
            permissions=body.permissions,
            allowed_scopes=body.allowed_scopes,
            allowed_sources=body.allowed_sources,
            expires_at=body.expires_at,
            description=body.description,
        )

    def answer(entries: Sequence[Entry], view: View) -> web.Response:
        shown = _shown(key_made_by(entries[0]), "active")
        return json_response(
            NewKey(**structs.asdict(shown), raw_key=made(shown.key_id, entries[0].event.key_hash)), 201
        )

    return await carry_out(request, raw, command, answer)


@describes("API keys, newest first", who=ADMIN, query=KeysQuery, answers={200: ShownKeys}, refuses=(InvalidCursor,))
async def list_keys(request: web.Request) -> web.Response:
    """Newest first."""
    node, _ = request.app[NODE], operator_of(request)
    asked = decode_query(request, KeysQuery)
    moment = moment_of(asked.as_of, node)
    before, moment = (moment.at.size, moment) if not asked.cursor else _opened(asked.cursor, moment, node)
    return json_response(await node.read(lambda view: _listing(before, asked.limit, moment, view)))


@describes(
    "one API key, with its status", who=ADMIN, query=AsOfQuery, answers={200: ShownKey}, refuses=(ApiKeyNotFound,)
)
async def get_key(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    moment = asked_moment(request)
    with node.view() as view:
        key = find_api_key(request.match_info["key_id"], view)
        return json_response(_shown_now(_then(key, moment), view, moment.at.now_ms))


@describes("revoke an API key, at once", who=ADMIN, answers={204: None}, refuses=(ApiKeyNotFound, ApiKeyAlreadyRevoked))
async def revoke_key(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    await node.execute(RevokeApiKey(principal=principal, key_id=request.match_info["key_id"]))
    return web.Response(status=204, headers={"X-Content-Type-Options": "nosniff"})


def _listing(before: int, limit: int, moment: Moment, view: View) -> ShownKeys:
    found = list(islice(view.api_keys.newest_first(before), limit + 1))
    page, has_more = found[:limit], len(found) > limit
    cursor = KeysCursor(page[-1].offset, moment) if has_more else None
    return ShownKeys(
        keys=[_shown_now(_then(key, moment), view, moment.at.now_ms) for key in page],
        cursor=cursor_text(cursor, "keys"),
        has_more=has_more,
    )


def _then(key: ApiKey, moment: Moment) -> ApiKey:
    then = key.at(moment.at.size)
    if then is None:
        raise ApiKeyNotFound("there is no such key")
    return then


def _shown_now(key: ApiKey, view: View, now_ms: int) -> ShownKey:
    return _shown(key, _status(key, view, now_ms))


def _shown(key: ApiKey, status: str) -> ShownKey:
    grant = key.grant
    return ShownKey(
        key_id=grant.key_id,
        entity_uri=grant.entity,
        permissions=grant.permissions,
        allowed_scopes=grant.allowed_scopes,
        allowed_sources=grant.allowed_sources,
        description=key.description,
        created_at=format_ms(key.created_ms),
        created_by=key.created_by,
        expires_at=format_ms(grant.expires_ms),
        revoked_at=None if key.revoked_ms is None else format_ms(key.revoked_ms),
        status=status,
        log_offset=key.offset,
    )


def _status(key: ApiKey, view: View, now_ms: int) -> str:
    """In the order in which the door would refuse it; whether it sleeps is asked of today, like every right."""
    if key.revoked_from is not None:
        return "revoked"
    if key.grant.expires_ms <= now_ms:
        return "expired"
    return "asleep" if is_asleep(key, view) else "active"


def _opened(text: str, asked: Moment, node: Node) -> tuple[int, Moment]:
    cursor = opened_cursor(text, KeysCursor, "keys")
    check_moment(asked, cursor.moment.as_of)
    if not 0 <= cursor.before < cursor.moment.at.size <= node.log.announced().size:
        raise InvalidCursor(FOREIGN)
    return cursor.before, cursor.moment
