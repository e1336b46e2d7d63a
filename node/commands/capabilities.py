"""Capability tokens: their form, whether one holds, and what it allows (PROTOCOL §8).

Always: checks run in the protocol's order, and a token counts only at its issuer.

Does not issue or revoke (see `tokens.py`).
"""

import msgspec
from msgspec import Struct

from node.canonical import b64url_decode, canonical_json
from node.commands.decision import Context
from node.errors import (
    CapabilityExpired,
    CapabilityLifetimeExceeded,
    InsufficientCapability,
    SubjectNotDelegated,
    TimestampFutureDated,
    TokenAsleep,
    TokenMalformed,
    TokenRevoked,
    TokenSignatureInvalid,
    UnknownIssuer,
)
from node.events.facts import Scope
from node.events.rotations import CAPABILITY_TRUST_MS, KeyChain, keys_trusted_on
from node.events.tokens import Grant
from node.keys import Signer, key_id_of, verify
from node.projections.view import View
from node.times import parse_rfc3339
from node.uris import authority_of, lies_under

MAX_LIFETIME_MS = 90 * 86_400_000
SHARED_SCOPES: tuple[Scope, ...] = ("company", "public")
_NAMED_SCOPES: dict[str, tuple[Scope, ...]] = {
    "local": ("local",),
    "team": ("team",),
    "company": ("company",),
    "public": ("public",),
    "shared": SHARED_SCOPES,
}
_HEX = set("0123456789abcdef")


class CapabilityToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token as it travels: the grant and the issuer's signature over its canonical JSON."""

    token_version: int
    token_id: str
    issuer: str
    subject: str
    verb: str
    object: str
    issued_at: str
    expiry: str
    nonce: str
    key_id: str
    signature: str

    def signed_bytes(self) -> bytes:
        members = msgspec.structs.asdict(self)
        del members["signature"]
        return canonical_json(members)


def sign_grant(grant: Grant, signer: Signer) -> bytes:
    """The 64-byte signature that makes a grant a token."""
    return signer.sign(canonical_json(msgspec.to_builtins(grant)))


def parse_token(text: bytes | str) -> CapabilityToken:
    """A token from its JSON text. Raises TokenMalformed."""
    try:
        token = msgspec.json.decode(text, type=CapabilityToken)
        parse_rfc3339(token.issued_at), parse_rfc3339(token.expiry)
        signature = b64url_decode(token.signature)
    except (msgspec.MsgspecError, ValueError) as error:
        raise TokenMalformed("not a capability token") from error
    if token.token_version != 1:
        raise TokenMalformed("token_version: only 1 is known")
    if len(token.nonce) != 64 or not set(token.nonce) <= _HEX:
        raise TokenMalformed("nonce: 64 lower-case hex digits")
    if len(signature) != 64:
        raise TokenMalformed("signature: 64 bytes")
    return token


def check_token(token: CapabilityToken, view: View, context: Context) -> Grant:
    """The grant of a token of this node's that holds now, for whoever bears it. Raises what PROTOCOL §8.2 says, in its order."""
    issued = view.tokens.issued(token.token_id)
    if token.issuer != context.node_id or issued is None:
        raise UnknownIssuer("this node did not issue that token")
    if token.object != "*" and authority_of(token.object) != context.node_id:
        raise UnknownIssuer("the token's object lies outside this node's authority")
    own = view.identity.manifest()
    if own is None or own.expires_ms <= context.at_ms:
        raise UnknownIssuer("this node's manifest has expired")
    if not _is_signed(token, issued.grant, view, context):
        raise TokenSignatureInvalid("the token's signature does not hold")
    check_dates(token, context.at_ms)
    check_standing(issued.grant, view, context.at_ms, context.node_id)
    return issued.grant


def holds_under(token: CapabilityToken, chain: KeyChain, now_ms: int) -> bool:
    """Whether an issuer's key signed it that still counts: its current one, or one that was rotated since it was issued."""
    message, signature = token.signed_bytes(), b64url_decode(token.signature)
    if verify(chain[-1].public_key, message, signature):
        return True
    issued_ms = parse_rfc3339(token.issued_at)
    former = keys_trusted_on(chain, CAPABILITY_TRUST_MS, issued_ms=issued_ms, now_ms=now_ms)
    return any(key_id_of(key) == token.key_id and verify(key, message, signature) for key in former)


def _is_signed(token: CapabilityToken, grant: Grant, view: View, context: Context) -> bool:
    chain = view.identity.keys()
    if token.key_id == context.signer.key_id:
        return verify(context.signer.public_key, token.signed_bytes(), b64url_decode(token.signature))
    # Who stole a former key could sign any token that it knows by name: it counts only as it was issued.
    return msgspec.structs.asdict(grant).items() <= msgspec.structs.asdict(token).items() and holds_under(
        token, chain, context.at_ms
    )


def check_dates(token: CapabilityToken, now_ms: int) -> None:
    """A token's own dates against now. Raises in the protocol's order."""
    issued_ms, expiry_ms = parse_rfc3339(token.issued_at), parse_rfc3339(token.expiry)
    if issued_ms > now_ms:
        raise TimestampFutureDated("the token was issued in the future")
    if expiry_ms <= now_ms:
        raise CapabilityExpired("the token has expired")
    if expiry_ms - issued_ms > MAX_LIFETIME_MS:
        raise CapabilityLifetimeExceeded("the token lives longer than 90 days")


def check_standing(grant: Grant, view: View, now_ms: int, node_id: str) -> None:
    """What can change while a token lives: expiry, its subject's peer, its revocation, a restore. Checked again in the writer."""
    if parse_rfc3339(grant.expiry) <= now_ms:
        raise CapabilityExpired("the token has expired")
    authority = authority_of(grant.subject)
    if authority != node_id:
        peer = None if authority is None else view.peers.of_node(authority)
        if peer is None or peer.status != "active":
            raise SubjectNotDelegated("the token's subject belongs to no active peer")
    issued = view.tokens.issued(grant.token_id)
    if issued is None or issued.revoked_at is not None:
        raise TokenRevoked("the token was revoked")
    restore = view.identity.last_restore()
    if restore is not None and not restore.is_confirmed and issued.offset < restore.offset:
        # PROTOCOL §12: what revoked it may be what the snapshot does not hold.
        raise TokenAsleep("the node was restored since it was issued: an admin confirms that first")


def require_write(grant: Grant, *, scope: Scope, entity: str, garden_uri: str | None) -> None:
    """Raises InsufficientCapability unless the grant covers writing this fact; `entity` in normal form."""
    if grant.verb != "write":
        raise InsufficientCapability(f"the token grants {grant.verb}, not write")
    if not _covers(grant.object, scope=scope, entity=entity, garden_uri=garden_uri):
        raise InsufficientCapability("the token's object does not cover this fact")


def covers_scope(target: str, scope: Scope) -> bool:
    """Whether a token's object names that scope, or everything."""
    return target == "*" or scope in scopes_of(target)


def scopes_of(target: str) -> tuple[Scope, ...]:
    """The scopes that an object of the form `stigmem://{authority}/scope/{name}` names; none for any other form."""
    authority = authority_of(target)
    name = target.removeprefix(f"{authority}/scope/") if authority else target
    return _NAMED_SCOPES.get(name, ()) if name != target else ()


def is_garden_uri(target: str) -> bool:
    authority = authority_of(target)
    return authority is not None and target.startswith(f"{authority}/garden/")


def _covers(target: str, *, scope: Scope, entity: str, garden_uri: str | None) -> bool:
    if target == "*":
        return True
    if is_garden_uri(target):
        return garden_uri == target
    scopes = scopes_of(target)
    # An entity may be called like a scope: what names a scope grants that scope alone.
    return scope in scopes if scopes else lies_under(entity, target)
