"""/v1/federation/capability-tokens: issue, list, verify, revoke, and accept for countersigning (PROTOCOL §8, §9)."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from node.canonical import b64url_encode
from node.commands.capabilities import check_token, parse_token, sign_grant
from node.commands.decision import Principal
from node.commands.tokens import AcceptCapability, IssueCapability, RevokeCapability
from node.errors import (
    CapabilityExpired,
    FieldTooLong,
    IdempotencyKeyReused,
    InvalidExpiry,
    InvalidField,
    InvalidObject,
    InvalidUri,
    MalformedJson,
    Refusal,
    ScopeNotPermitted,
    SubjectNotDelegated,
    TokenAlreadyRevoked,
    TokenAsleep,
    TokenNotFound,
    TokenRevoked,
    TokenSignatureInvalid,
    UnknownIssuer,
)
from node.events.entry import Entry
from node.events.tokens import Grant
from node.http.auth import operator_of
from node.http.body import NoMembers, decode_optional, json_response, read_json, require_no_members
from node.http.describe import ADMIN, PUBLIC, describes
from node.http.forms import Base64Url, Count, Name, Time, Uuid
from node.http.idempotency import TAKES_KEY, carry_out
from node.http.keys import NODE
from node.http.moments import AsOfQuery, asked_moment
from node.projections.tokens import IssuedToken
from node.projections.view import View
from node.runtime import Node
from node.strict_json import decode, scan_json

MAX_BYTES = 1 << 16
# A token as an object, or as the text that it was issued as.
TokenJson = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": ["object", "string"]})]
TokenFault = Literal["malformed", "revoked", "asleep", "expired", "signature", "unknown_issuer", "subject"]
_REASONS: tuple[tuple[type[Refusal], TokenFault], ...] = (
    (TokenRevoked, "revoked"),
    (TokenAsleep, "asleep"),
    (CapabilityExpired, "expired"),
    (TokenSignatureInvalid, "signature"),
    (UnknownIssuer, "unknown_issuer"),
    (SubjectNotDelegated, "subject"),
)


class IssueRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    issuer: Name
    subject: Name
    verb: str
    object: Name
    # Far above 90 days, and far below what would overflow a clock: the exact bound is the command's.
    ttl_seconds: Annotated[int, Meta(ge=1, le=10**10)] | None = None
    expiry: Time | None = None


class VerifyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token_json: TokenJson


class RevokeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: str = ""


class SignedToken(Grant, frozen=True, kw_only=True):
    """A capability token: what it grants, and this node's signature."""

    signature: Base64Url


class NewToken(SignedToken, frozen=True, kw_only=True):
    """`token_json` is the bearer credential, to be sent as it stands."""

    token_json: str


class ShownToken(Grant, frozen=True, kw_only=True):
    """A token as operators are shown it: without its signature, with what became of it."""

    issued_by: str | None
    status: Literal["active", "revoked"]
    revoked_at: Time | None
    log_offset: Count


class ShownTokens(Struct, frozen=True, kw_only=True):
    tokens: list[ShownToken]


class Verdict(Struct, frozen=True, kw_only=True):
    """`reason` where the token is not valid."""

    valid: bool
    reason: TokenFault | UnsetType = UNSET


class RevokedToken(Struct, frozen=True, kw_only=True):
    token_id: Uuid
    revoked_at: Time
    status: Literal["revoked"] = "revoked"


class AcceptedToken(Struct, frozen=True, kw_only=True):
    token_id: str
    status: Literal["accepted"] = "accepted"


@describes(
    "issue a capability token",
    who=ADMIN,
    body=IssueRequest,
    answers={201: NewToken},
    headers=TAKES_KEY,
    refuses=(IdempotencyKeyReused, InvalidExpiry, InvalidObject, InvalidUri, FieldTooLong, ScopeNotPermitted),
)
async def issue_token(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    raw = await read_json(request, max_bytes=MAX_BYTES)
    body = decode(raw, IssueRequest)

    def command(principal: Principal) -> IssueCapability:
        return IssueCapability(
            principal=principal,
            issuer=body.issuer,
            subject=body.subject,
            verb=body.verb,
            object=body.object,
            ttl_s=body.ttl_seconds,
            expiry=body.expiry,
        )

    def answer(entries: Sequence[Entry], view: View) -> web.Response:
        # Signed anew where it is told again: one key makes one signature of one message.
        token = signed(entries[0].event.grant, node)
        return json_response(NewToken(**structs.asdict(token), token_json=msgspec.json.encode(token).decode()), 201)

    return await carry_out(request, raw, command, answer)


@describes("tokens issued here, newest first", who=ADMIN, query=AsOfQuery, answers={200: ShownTokens})
async def list_tokens(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    size = asked_moment(request).at.size
    # However many were issued in the node's life: not on the loop.
    return json_response(await node.read(lambda view: _all_issued(size, view)))


def _all_issued(size: int, view: View) -> ShownTokens:
    tokens = (token.at(size) for token in view.tokens.all_issued())
    return ShownTokens(tokens=[_shown(token) for token in tokens if token is not None])


@describes(
    "one token, with its status", who=ADMIN, query=AsOfQuery, answers={200: ShownToken}, refuses=(TokenNotFound,)
)
async def get_token(request: web.Request) -> web.Response:
    node, _ = request.app[NODE], operator_of(request)
    size = asked_moment(request).at.size
    with node.view() as view:
        token = view.tokens.issued(request.match_info["token_id"])
    then = None if token is None else token.at(size)
    if then is None:
        raise TokenNotFound("this node issued no such token")
    return json_response(_shown(then))


@describes("whether a capability token holds", who=PUBLIC, body=VerifyRequest, answers={200: Verdict})
async def verify_token(request: web.Request) -> web.Response:
    node = request.app[NODE]
    body = decode(await read_json(request, max_bytes=MAX_BYTES), VerifyRequest)
    reason = _verdict(bytes(body.token_json), node)
    return json_response(Verdict(valid=True) if reason is None else Verdict(valid=False, reason=reason))


@describes(
    "revoke a token",
    who=ADMIN,
    body=RevokeRequest,
    is_body_optional=True,
    answers={200: RevokedToken},
    refuses=(TokenNotFound, TokenAlreadyRevoked),
)
async def revoke_token(request: web.Request) -> web.Response:
    node, principal = request.app[NODE], operator_of(request)
    body = await decode_optional(request, RevokeRequest, max_bytes=MAX_BYTES)
    command = RevokeCapability(principal=principal, token_id=request.match_info["token_id"], reason=body.reason)
    revocation = (await node.execute(command)).reply
    return json_response(RevokedToken(token_id=revocation.token_id, revoked_at=revocation.revoked_at))


@describes(
    "countersign what is written elsewhere under this token",
    who=ADMIN,
    body=NoMembers,
    is_body_optional=True,
    answers={200: AcceptedToken},
    refuses=(InvalidField,),
)
async def accept_token(request: web.Request) -> web.Response:
    """Countersign from here on what other nodes ask for under this token (`stigmem tokens accept`)."""
    node, principal = request.app[NODE], operator_of(request)
    await require_no_members(request)
    token_id = request.match_info["token_id"]
    await node.execute(AcceptCapability(principal=principal, token_id=token_id))
    return json_response(AcceptedToken(token_id=token_id))


def token_text(raw: bytes) -> bytes:
    """A token's JSON text from a body that holds it as an object or as a string."""
    if not raw.startswith(b'"'):
        return raw
    text = msgspec.json.decode(raw, type=str).encode()
    scan_json(text)
    return text


def signed(grant: Grant, node: Node) -> SignedToken:
    return SignedToken(**structs.asdict(grant), signature=b64url_encode(sign_grant(grant, node.signer)))


def _verdict(raw: bytes, node: Node) -> TokenFault | None:
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


def _shown(token: IssuedToken) -> ShownToken:
    return ShownToken(
        **structs.asdict(token.grant),
        issued_by=token.issued_by,
        status="revoked" if token.revoked_at else "active",
        revoked_at=token.revoked_at,
        log_offset=token.offset,
    )
