"""Issuing and revoking capability tokens, and agreeing to countersign under another organisation's (PROTOCOL §8, §9)."""

import re
from typing import get_args

from msgspec import Struct

from node.commands.capabilities import MAX_LIFETIME_MS, is_garden_uri, scopes_of
from node.commands.decision import Context, Decision, Principal, require_scopes
from node.commands.drafts import check_name
from node.commands.gardens import require_operator
from node.commands.reading import granted_by
from node.errors import (
    InvalidExpiry,
    InvalidField,
    InvalidObject,
    TokenAlreadyRevoked,
    TokenNotFound,
)
from node.events.tokens import CapabilityAccepted, CapabilityIssued, CapabilityRevoked, Grant, Revocation, Verb
from node.projections.view import View
from node.times import format_ms, parse_rfc3339
from node.uris import authority_of, is_informal, normal_field

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class IssueCapability(Struct, frozen=True, kw_only=True):
    """Exactly one of `ttl_s` and `expiry` (RFC 3339) is given."""

    principal: Principal
    issuer: str
    subject: str
    verb: str
    object: str
    ttl_s: int | None
    expiry: str | None


class RevokeCapability(Struct, frozen=True, kw_only=True):
    principal: Principal
    token_id: str
    reason: str


class AcceptCapability(Struct, frozen=True, kw_only=True):
    """Countersign what is written under this token of another organisation (`stigmem tokens accept`)."""

    principal: Principal
    token_id: str


def decide_issue_capability(command: IssueCapability, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    if normal_field("issuer", command.issuer) != context.node_id:
        raise InvalidObject("issuer: a token is issued in this node's own name")
    if command.verb not in get_args(Verb):
        raise InvalidField("verb: not a verb that a token can grant")
    check_name("subject", command.subject)
    subject = normal_field("subject", command.subject)
    if is_informal(subject):
        raise InvalidField("subject: a stigmem:// URI")
    grant = Grant(
        token_version=1,
        token_id=context.clock.new_id(),
        issuer=context.node_id,
        subject=subject,
        verb=command.verb,
        object=_object(command.object, view, context),
        issued_at=format_ms(context.at_ms),
        expiry=format_ms(_expiry_ms(command, context.at_ms)),
        nonce=context.clock.random_bytes(32).hex(),
        key_id=context.signer.key_id,
    )
    require_scopes(command.principal, granted_by(grant).scopes, "object")
    return Decision(events=(CapabilityIssued(grant=grant),), actor=command.principal.actor(), reply=grant)


def decide_revoke_capability(command: RevokeCapability, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    issued = view.tokens.issued(command.token_id)
    if issued is None:
        raise TokenNotFound("this node issued no such token")
    if issued.revoked_at is not None:
        raise TokenAlreadyRevoked(f"it was revoked at {issued.revoked_at}")
    revocation = Revocation(token_id=command.token_id, revoked_at=format_ms(context.at_ms))
    event = CapabilityRevoked(reason=command.reason, revocation=revocation)
    return Decision(events=(event,), actor=command.principal.actor(), reply=revocation)


def decide_accept_capability(command: AcceptCapability, view: View, context: Context) -> Decision:
    require_operator(command.principal)
    if not _UUID.fullmatch(command.token_id):
        raise InvalidField("token_id: a UUID")
    if view.tokens.is_accepted(command.token_id):
        return Decision()
    return Decision(events=(CapabilityAccepted(token_id=command.token_id),), actor=command.principal.actor())


def _object(target: str, view: View, context: Context) -> str:
    if target == "*":
        return target
    check_name("object", target)
    normal = normal_field("object", target)
    if authority_of(normal) != context.node_id:
        raise InvalidObject("object: it lies outside this node's authority")
    if normal.startswith(f"{context.node_id}/scope/") and not scopes_of(normal):
        raise InvalidObject("object: no such scope")
    if is_garden_uri(normal) and view.gardens.by_slug(normal.rpartition("/")[2]) is None:
        raise InvalidObject("object: no such garden")
    return normal


def _expiry_ms(command: IssueCapability, now_ms: int) -> int:
    if (command.ttl_s is None) == (command.expiry is None):
        raise InvalidExpiry("give one of ttl_seconds and expiry")
    if command.expiry is not None:
        try:
            expiry_ms = parse_rfc3339(command.expiry)
        except ValueError as error:
            raise InvalidField("expiry: not an RFC 3339 time") from error
    else:
        expiry_ms = now_ms + command.ttl_s * 1000
    if not now_ms < expiry_ms <= now_ms + MAX_LIFETIME_MS:
        raise InvalidExpiry("the token must expire within 90 days from now")
    return expiry_ms
