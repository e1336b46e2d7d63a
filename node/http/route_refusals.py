"""What a route can be refused with: what it names itself, and what any route of its kind can be refused with.

Does not refuse anything (see the handlers, `auth.py`, `body.py`).
"""

from aiohttp import web

from node import errors
from node.errors import Refusal
from node.http.describe import CAPABILITY, KEY, WRITES, Description

_ALWAYS = (errors.WrongHost, errors.Internal, errors.Overloaded)
_NODE = (errors.NotReady, errors.LogDamaged, errors.StorageFailed)
_BODY = (
    errors.MalformedJson,
    errors.RequestTimeout,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
    errors.UnsupportedEncoding,
    errors.MissingField,
    errors.UnknownField,
    errors.InvalidField,
)
_QUERY = (errors.InvalidParameter,)
_CREDENTIAL = (errors.AuthenticationRequired, errors.InvalidCredentials, errors.QuotaExceeded)
_PEER = (
    errors.FederationDisabled,
    errors.MalformedToken,
    errors.PeerTokenExpired,
    errors.UnknownOrInactivePeer,
    errors.InvalidSignature,
    errors.InvalidSub,
    errors.IatInFuture,
    errors.PeerTokenLifetimeExceeded,
    errors.TokenBeforeRestore,
    errors.MissingNonce,
    errors.NonceAlreadySeen,
    errors.ClientCertificateRequired,
    errors.ClientCertificateRefused,
)


def refusals_of(route: web.RouteDef, said: Description) -> set[type[Refusal]]:
    """Everything that a route can be refused with: its own refusals, and those of its kind."""
    found = {*_ALWAYS, *said.refuses}
    if said.reads_node:
        found.update(_NODE)
    if "{" in route.path:
        # A name with braces in it leads to no route.
        found.add(errors.RouteNotFound)
    if route.method != "GET" and "public" not in said.who:
        found.update(WRITES)
    if said.body is not None:
        found.update(_BODY)
    if said.query is not None:
        found.update(_QUERY)
    if "public" not in said.who:
        found.update(_CREDENTIAL)
        if "peer" in said.who:
            found.update(_PEER)
        if said.who != ("peer",):
            found.update((*KEY, *CAPABILITY))
        if "peer" not in said.who:
            found.add(errors.InsufficientPermission)
    return found
