"""Peer tokens: a signed JWT per request between nodes, and the order in which one is checked (PROTOCOL §5.2).

Always: what is checked before the signature names nobody and leaves no trace; what is refused after it is audited.
Always: a nonce is taken by the event that records the request, in the writer, so two racing copies cannot both win.
"""

import msgspec
from msgspec import Struct

from node.canonical import b64url_decode, b64url_encode
from node.clock import Clock
from node.commands.decision import Context
from node.errors import (
    IatInFuture,
    InvalidSignature,
    InvalidSub,
    MalformedJson,
    MalformedToken,
    MissingNonce,
    NonceAlreadySeen,
    PeerTokenExpired,
    PeerTokenLifetimeExceeded,
    TokenBeforeRestore,
    UnknownOrInactivePeer,
)
from node.events.rotations import MAX_TRIED, PEER_TOKEN_TRUST_MS, keys_trusted_on
from node.keys import Signer, verify
from node.projections.peers import Peer
from node.projections.view import View
from node.strict_json import scan_json
from node.uris import is_uuid

TOKEN_LIFE_MS = 300_000
MAX_LIFETIME_MS = 3_600_000
IAT_LEEWAY_MS = 30_000
NONCE_MARGIN_MS = 60_000
MAX_TOKEN_CHARS = 8192
_HEADER = {"alg": "EdDSA", "typ": "JWT"}


class Claims(Struct, frozen=True, kw_only=True):
    """What a peer token says; times in epoch ms. `nonce` is whatever stood there: it is checked late."""

    iss: str
    sub: str
    iat: int
    exp: int
    scopes: tuple[str, ...]
    nonce: object = None


class PeerToken(Struct, frozen=True, kw_only=True):
    """A token taken apart, its signature not yet checked."""

    claims: Claims
    signed: bytes
    signature: bytes


def mint_token(signer: Signer, clock: Clock, *, issuer: str, audience: str, scopes: tuple[str, ...]) -> str:
    """A fresh token for one request to the peer `audience`."""
    now_ms = clock.now_ms()
    claims = Claims(
        iss=issuer, sub=audience, iat=now_ms, exp=now_ms + TOKEN_LIFE_MS, scopes=scopes, nonce=clock.new_id()
    )
    signed = ".".join(b64url_encode(msgspec.json.encode(part)) for part in (_HEADER, claims)).encode()
    return f"{signed.decode()}.{b64url_encode(signer.sign(signed))}"


def parse_peer_token(text: str) -> PeerToken:
    """Raises MalformedToken for any other algorithm or form."""
    parts = text.split(".")
    if len(parts) != 3 or len(text) > MAX_TOKEN_CHARS:
        raise MalformedToken("not a JWT")
    try:
        header, body, signature = map(b64url_decode, parts)
        if scan_json(header) != _HEADER:
            raise MalformedToken("the header is not that of a peer token")
        # Of two equal claims one reader takes the first and another the last: whoever signs that means neither.
        scan_json(body)
        claims = msgspec.json.decode(body, type=Claims)
    except (msgspec.MsgspecError, ValueError, MalformedJson) as error:
        raise MalformedToken("not a peer token") from error
    return PeerToken(claims=claims, signed=text.rpartition(".")[0].encode(), signature=signature)


def authenticate(token: PeerToken, view: View, now_ms: int) -> Claims:
    """The claims of a token that an active peer signed. Raises the first of the checks before and with the signature."""
    claims = token.claims
    if claims.exp <= now_ms:
        raise PeerTokenExpired()
    peer = view.peers.of_node(claims.iss)
    if peer is None or peer.status != "active" or peer.public_key is None:
        raise UnknownOrInactivePeer()
    if not any(verify(key, token.signed, token.signature) for key in _keys_for(claims, peer, now_ms)):
        raise InvalidSignature()
    return claims


def _keys_for(claims: Claims, peer: Peer, now_ms: int) -> tuple[bytes, ...]:
    """The peer's key, and for five minutes the one before it for what it signed before it was rotated (PROTOCOL §11)."""
    former = keys_trusted_on(peer.keys, PEER_TOKEN_TRUST_MS, issued_ms=claims.iat, now_ms=now_ms)
    return (peer.keys[-1].public_key, *former[:MAX_TRIED])


def check_claims(claims: Claims, view: View, context: Context) -> None:
    """The checks behind the signature, in order. Raises; the caller records what is refused here."""
    if claims.sub != context.node_id:
        raise InvalidSub()
    if claims.iat > context.at_ms + IAT_LEEWAY_MS:
        raise IatInFuture()
    if claims.exp - claims.iat > MAX_LIFETIME_MS:
        raise PeerTokenLifetimeExceeded()
    if not isinstance(claims.nonce, str) or not is_uuid(claims.nonce):
        raise MissingNonce()
    restore = view.identity.last_restore()
    if restore is not None and claims.iat <= restore.at_ms:
        # PROTOCOL §12: its nonce may have been taken by an event that the snapshot does not hold.
        raise TokenBeforeRestore("issued before this node was restored from a snapshot")
    # PROTOCOL §5.2: by nonce value alone, not by token.
    if view.nonces.is_seen(claims.nonce, context.at_ms):
        raise NonceAlreadySeen()


def forget_ms(claims: Claims, context: Context) -> int:
    """Until when (epoch ms) the nonce is remembered."""
    window_s = context.config.federation_nonce_window_s
    return claims.exp + NONCE_MARGIN_MS if window_s is None else context.at_ms + window_s * 1000
