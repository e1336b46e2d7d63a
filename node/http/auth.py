"""Bearer to Principal: the admin key, an API key, a capability token, or nobody where authentication is off (PROTOCOL §3, §8.2).

Always: secrets are compared in constant time, and a credential that is not understood is refused, never taken for another kind.

Peer tokens are taken on the exchange routes alone (`peer_claims`).
"""

import re

from aiohttp import web
from msgspec import structs

from node.commands.api_keys import check_key
from node.commands.capabilities import check_token, parse_token
from node.commands.decision import Principal
from node.commands.gardens import require_operator
from node.commands.peer_tokens import Claims, PeerToken, authenticate, parse_peer_token
from node.commands.reading import require_reader
from node.errors import (
    AuthenticationRequired,
    Forbidden,
    InvalidCredentials,
    InvalidSignature,
    MalformedJson,
    TokenMalformed,
)
from node.http.keys import FOLLOWER, NODE, PRINCIPAL
from node.http.quotas import charge
from node.runtime import Node
from node.strict_json import scan_json

# Where the reference node takes the token of a capability write.
CAPABILITY_HEADER = "X-Stigmem-Capability"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


def principal_of(request: web.Request, *, is_charged: bool = True) -> Principal:
    """Whoever the request speaks for; kept on the request. Raises what PROTOCOL §3 or §8.2 says."""
    node, bearer = request.app[NODE], bearer_of(request)
    principal = _recognised(request, node, bearer)
    if "traceparent" in request.headers:
        trace = _TRACEPARENT.fullmatch(request.headers["traceparent"])
        principal = structs.replace(principal, trace_id=trace[1] if trace else None)
    request[PRINCIPAL] = principal
    if is_charged:
        charge(request, principal)
    return principal


def operator_of(request: web.Request) -> Principal:
    """The request's principal, who must be an admin of this node."""
    principal = principal_of(request)
    require_operator(principal)
    return principal


def reader_of(request: web.Request) -> Principal:
    """The request's principal, whose credential must grant reading; what it may read is `readable_by` of the view that is read."""
    principal = principal_of(request)
    require_reader(principal)
    return principal


async def peer_claims(request: web.Request) -> Claims:
    """The claims of a peer token whose signature holds; what follows is checked where its nonce is taken.

    A key that is not known may be what the peer's was rotated to (PROTOCOL §11): what it says of it is asked for once.
    """
    bearer, node = bearer_of(request), request.app[NODE]
    if bearer is None:
        raise AuthenticationRequired("a peer token is required")
    token = parse_peer_token(bearer)
    try:
        claims = _authenticated(token, node)
    except InvalidSignature:
        if not await _has_rotated(token.claims.iss, request):
            raise
        claims = _authenticated(token, node)
    # Before its nonce is taken: the peer comes again with the same page in mind, and nothing was done for it.
    charge(request, Principal(via="peer", entity=claims.iss))
    return claims


def _authenticated(token: PeerToken, node: Node) -> Claims:
    with node.view() as view:
        return authenticate(token, view, node.clock.at_ms())


async def _has_rotated(node_id: str, request: web.Request) -> bool:
    with request.app[NODE].view() as view:
        known = view.peers.of_node(node_id).public_key
    return await request.app[FOLLOWER].follow(node_id, known) is not None


def is_capability_write(request: web.Request) -> bool:
    """Whether the request comes with a capability token, by its form: nothing of it is verified."""
    bearer = bearer_of(request)
    if CAPABILITY_HEADER in request.headers:
        return True
    if bearer is None or not bearer.startswith("{"):
        return False
    try:
        _parsed(bearer)
    except TokenMalformed:
        return False
    return True


def bearer_of(request: web.Request) -> str | None:
    """The bearer's text, None where there is none."""
    headers = request.headers.getall("Authorization", ())
    if not headers:
        return None
    scheme, _, rest = headers[0].partition(" ")
    bearer = rest.strip()
    if len(headers) > 1 or scheme.lower() != "bearer" or not bearer:
        raise InvalidCredentials("Authorization: one Bearer credential")
    return bearer


def _recognised(request: web.Request, node: Node, bearer: str | None) -> Principal:
    if bearer is not None and bearer.startswith("{"):
        return _by_capability(request, node, bearer)
    if not node.config.auth_required:
        return Principal(via="anonymous", entity=node.node_id)
    if bearer is None:
        raise AuthenticationRequired("a bearer credential is required")
    if node.is_admin_key(bearer):
        return Principal(via="admin", entity=node.node_id)
    return _by_key(request, node, bearer)


def _by_key(request: web.Request, node: Node, bearer: str) -> Principal:
    with node.view() as view:
        key = view.api_keys.by_hash(node.api_key_hash(bearer))
        if key is None:
            raise InvalidCredentials("the credential is not known here")
        # Already here, so that what is asked for with a key that no longer holds is on record against it.
        principal = request[PRINCIPAL] = Principal(via="key", entity=key.grant.entity, key=key.grant)
        check_key(key, view, node.clock.at_ms())
    return principal


def _by_capability(request: web.Request, node: Node, bearer: str) -> Principal:
    token = _parsed(bearer)
    with node.view() as view:
        try:
            grant = check_token(token, view, node.context())
        except Forbidden:
            # Its signature held and it was issued here: what it may no longer do is on record against it.
            issued = view.tokens.issued(token.token_id)
            request[PRINCIPAL] = Principal(via="capability", entity=issued.grant.subject, grant=issued.grant)
            raise
    return Principal(via="capability", entity=grant.subject, grant=grant)


def _parsed(bearer: str):
    try:
        raw = bearer.encode()
        scan_json(raw)
    except (MalformedJson, UnicodeEncodeError) as error:
        raise TokenMalformed("not a capability token") from error
    return parse_token(raw)
