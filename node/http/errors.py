"""Refusals to answers: the one table from kind to status, and the one middleware that catches everything (PROTOCOL §1).

Always: every answer that is not a success has the body {"error", "detail", ...}; a bug is a 500 that tells nothing.
"""

from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from node.errors import (
    BodyTooLarge,
    Conflict,
    Forbidden,
    Internal,
    Invalid,
    LogDamaged,
    Malformed,
    MalformedJson,
    MethodNotAllowed,
    MethodRefused,
    Misdirected,
    NotFound,
    QuotaExceeded,
    Refusal,
    RouteNotFound,
    TimedOut,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from node.http.body import ROOM, json_response
from node.http.keys import NODE, PRINCIPAL

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: dict[type[Refusal], int] = {
    Malformed: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    MethodRefused: 405,
    TimedOut: 408,
    Conflict: 409,
    TooLarge: 413,
    Unsupported: 415,
    Misdirected: 421,
    Invalid: 422,
    TooMany: 429,
    Unavailable: 503,
}

# Smaller ones are given whoever does not read.
LARGE_ANSWER_BYTES = 1 << 16

_log = structlog.get_logger("stigmem.http")


@web.middleware
async def answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into the protocol's answer."""
    try:
        answer = await handler(request)
        if type(answer) is web.Response and answer.body is not None and len(answer.body) > LARGE_ANSWER_BYTES:
            request.protocol.take_room(len(answer.body))
        return answer
    # One of three places that catch everything: what is no refusal is a bug, and its words may hold secrets.
    except Exception as error:
        return await answer_to(error, request)
    finally:
        request.app[ROOM].leave(request)


async def answer_to(error: Exception, request: web.Request) -> web.Response:
    """The protocol's answer to what a handler raised. It is not raised again: it would hold on to itself, and to what was read."""
    match error:
        case Refusal():
            if isinstance(error, LogDamaged):
                request.app[NODE].note_damage(error)
            await record_refusal(request, error)
            return refusal_response(error)
        case web.HTTPNotFound():
            return refusal_response(RouteNotFound("there is no such route"))
        case web.HTTPMethodNotAllowed(allowed_methods=methods):
            allowed = ", ".join(sorted(_methods_of(request) or methods))
            return refusal_response(MethodNotAllowed(f"this route takes {allowed}"), {"Allow": allowed})
        case web.HTTPRequestEntityTooLarge():
            return refusal_response(BodyTooLarge())
        case web.HTTPException(status=status):
            _log.warning("http_exception", status=status, path=request.path)
            return refusal_response(MalformedJson("the request cannot be understood"))
    _log.error("request_failed", exc_info=error, method=request.method, path=request.path)
    return refusal_response(Internal())


def _methods_of(request: web.Request) -> set[str]:
    """Those of the route that has this very path: `batch` is no fact, though its path would do for the one of a fact's id."""
    resources = (one for one in request.app.router.resources() if one.canonical == request.path)
    return {route.method for resource in resources for route in resource}


async def record_refusal(request: web.Request, refusal: Refusal) -> None:
    """Make an event of what a known principal was refused for want of a right, within its share of them."""
    principal = request.get(PRINCIPAL)
    # What somebody known may not do, or not so often, is an event; what it merely got wrong is none. Strangers leave no trace.
    if principal is None or not isinstance(refusal, Forbidden | Unauthenticated | QuotaExceeded):
        return
    route = request.match_info.route.resource
    subject = f"{request.method} {route.canonical if route else request.path}"
    try:
        await request.app[NODE].record_refusal(principal, refusal, subject)
    except Refusal as failure:
        _log.error("refusal_not_recorded", code=failure.code, refused=refusal.code)


def status_of(refusal: Refusal) -> int:
    return status_of_kind(type(refusal))


def status_of_kind(refused: type[Refusal]) -> int:
    return next((status for kind, status in _STATUS.items() if issubclass(refused, kind)), 500)


def refusal_response(refusal: Refusal, headers: dict[str, str] | None = None) -> web.Response:
    status = status_of(refusal)
    sent = dict(headers or {})
    if status == 405:
        sent.setdefault("Allow", "")
    if status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    wait_s = refusal.data.get("retry_after_s", refusal.data.get("retry_after"))
    if wait_s is not None:
        sent["Retry-After"] = str(wait_s)
    # The rest of a body that was refused unread would be taken for the next request.
    if status in (408, 413, 415):
        sent["Connection"] = "close"
    body = {"error": refusal.code, "detail": refusal.detail, **refusal.data}
    response = json_response(body, status, sent)
    if status in (408, 413, 415):
        response.force_close()
    return response
