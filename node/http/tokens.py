"""/v1/federation/capability-tokens: issue, list, verify, revoke, and accept for countersigning (PROTOCOL §8, §9)."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from node.canonical import b64url_encode
from node.commands.capabilities import check_token, parse_token, sign_grant
from node.commands.tokens import AcceptCapability, IssueCapability, RevokeCapability
from node.errors import (
    CapabilityExpired,
    InvalidField,
    MalformedJson,
    Refusal,
    SubjectNotDelegated,
    TokenAsleep,
    TokenNotFound,
    TokenRevoked,
    TokenSignatureInvalid,
    UnknownIssuer,
)
from node.events.tokens import Grant
from node.http.auth import operator_of
from node.http.body import json_response, read_json
from node.http.keys import NODE
from node.http.moments import asked_moment
from node.projections.tokens import IssuedToken
from node.runtime import Node
from node.strict_json import decode, scan_json

MAX_BYTES = 1 << 16
_REASONS: tuple[tuple[type[Refusal], str], ...] = (
    (TokenRevoked, "revoked"),
    (TokenAsleep, "asleep"),
    (CapabilityExpired, "expired"),
    (TokenSignatureInvalid, "signature"),
    (UnknownIssuer, "unknown_issuer"),
    (SubjectNotDelegated, "subject"),
)


class IssueRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    issuer: str
    subject: str
    verb: str
    object: str
    # Far above 90 days, and far below what would overflow a clock: the exact bound is the command's.
    ttl_seconds: Annotated[int, Meta(ge=1, le=10**10)] | None = None
    expiry: str | None = None


class VerifyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token_json: msgspec.Raw


class RevokeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: str = ""


async def issue_token(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    body = decode(await read_json(request, max_bytes=MAX_BYTES), IssueRequest)
    outcome = await node.execute(
        IssueCapability(
            principal=principal,
            issuer=body.issuer,
            subject=body.subject,
            verb=body.verb,
            object=body.object,
            ttl_s=body.ttl_seconds,
            expiry=body.expiry,
        )
    )
    members = signed_members(outcome.reply, node)
    return json_response({**members, "token_json": msgspec.json.encode(members).decode()}, 201)


async def list_tokens(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    size = asked_moment(request).at.size
    with node.view() as view:
        tokens = (token.at(size) for token in view.tokens.all_issued())
        return json_response({"tokens": [_shown(token) for token in tokens if token is not None]})


async def get_token(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    size = asked_moment(request).at.size
    with node.view() as view:
        token = view.tokens.issued(request.match_info["token_id"])
    then = None if token is None else token.at(size)
    if then is None:
        raise TokenNotFound("this node issued no such token")
    return json_response(_shown(then))


async def verify_token(request: web.Request) -> web.Response:
    node = request.app[NODE]
    body = decode(await read_json(request, max_bytes=MAX_BYTES), VerifyRequest)
    reason = _verdict(bytes(body.token_json), node)
    return json_response({"valid": True} if reason is None else {"valid": False, "reason": reason})


async def revoke_token(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    raw = await read_json(request, max_bytes=MAX_BYTES) if request.can_read_body else b"{}"
    body = decode(raw, RevokeRequest)
    command = RevokeCapability(principal=principal, token_id=request.match_info["token_id"], reason=body.reason)
    revocation = (await node.execute(command)).reply
    return json_response({"token_id": revocation.token_id, "revoked_at": revocation.revoked_at, "status": "revoked"})


async def accept_token(request: web.Request) -> web.Response:
    """Countersign from here on what other nodes ask for under this token (`stigmem tokens accept`)."""
    node, principal = request.app[NODE], operator_of(request)
    token_id = request.match_info["token_id"]
    await node.execute(AcceptCapability(principal=principal, token_id=token_id))
    return json_response({"token_id": token_id, "status": "accepted"})


def token_text(raw: bytes) -> bytes:
    """A token's JSON text from a body that holds it as an object or as a string."""
    if not raw.startswith(b'"'):
        return raw
    text = msgspec.json.decode(raw, type=str).encode()
    scan_json(text)
    return text


def signed_members(grant: Grant, node: Node) -> dict[str, object]:
    """A token's members, in order, the signature last."""
    signature = b64url_encode(sign_grant(grant, node.signer))
    return {**msgspec.to_builtins(grant), "signature": signature}


def _verdict(raw: bytes, node: Node) -> str | None:
    if raw[:1] not in (b"{", b'"'):
        raise InvalidField("token_json: an object or a string")
    try:
        token = parse_token(token_text(raw))
        with node.view() as view:
            check_token(token, view, node.context())
    except MalformedJson:
        return "malformed"
    except Refusal as refusal:
        return next((reason for kind, reason in _REASONS if isinstance(refusal, kind)), "malformed")
    return None


def _shown(token: IssuedToken) -> dict[str, object]:
    status = "revoked" if token.revoked_at else "active"
    return {
        **msgspec.to_builtins(token.grant),
        "issued_by": token.issued_by,
        "status": status,
        "revoked_at": token.revoked_at,
        "log_offset": token.offset,
    }
