"""Requests that need not wait: answered in the turn of the loop that brings them, past aiohttp's router, tasks and writer.

A handler that is a plain function is prompt: it returns the JSON of a 200, or what has to be awaited. Its route is a GET whose path
is written out, or ends in one variable. Whoever asks for it in another way, with HEAD or with an escaped name, is answered by the
same handler, on the way that all other requests take.

Always: who may ask, what is refused and what is recorded of that is the same on both ways (`errors.py`).
"""

import re
from collections.abc import Awaitable, Callable, Coroutine
from inspect import iscoroutinefunction

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.typedefs import Handler

from node.http.body import encoded_response
from node.http.errors import LARGE_ANSWER_BYTES, answer_refusals, answer_to

PromptHandler = Callable[[web.Request], bytes | Awaitable[web.Response]]
Found = tuple[web.UrlMappingMatchInfo, PromptHandler]
Awaited = Coroutine[None, None, web.StreamResponse]

_VARIABLE = re.compile(r"\{([a-z_]+)\}")
# What no encoding of paths changes: an id, a CID.
_NAME = re.compile(r"[A-Za-z0-9:-]+")


class PromptRoutes:
    """The prompt routes of an application, by path."""

    def __init__(self, app: web.Application, guard: Callable[[web.Request], None] | None) -> None:
        """`guard` raises what no request may come past."""
        self._app, self._guard = app, guard
        # All GETs whose path is written out, with those that are not prompt: a name in a path is none of them.
        self._whole: dict[str, Found | None] = {}
        self._named: dict[str, tuple[web.AbstractRoute, PromptHandler, str]] = {}

    def add(self, path: str, route: web.AbstractRoute, handler: Handler | PromptHandler) -> None:
        """Take in a GET of the application."""
        start, _, last = path.rpartition("/")
        variable = _VARIABLE.fullmatch(last)
        own = handler if self._guard is None else _guarded(handler, self._guard)
        if "{" not in path:
            self._whole[path] = (self._match({}, route), own) if is_prompt(handler) else None
        elif is_prompt(handler) and variable is not None:
            self._named[start] = route, own, variable[1]

    def find(self, message: RawRequestMessage) -> Found | None:
        """Whose request it is, and with which name; None where that is for the router to say."""
        if message.method != "GET":
            return None
        path = message.path.partition("?")[0]
        if path in self._whole:
            return self._whole[path]
        start, _, name = path.rpartition("/")
        if start not in self._named or _NAME.fullmatch(name) is None:
            return None
        route, handler, variable = self._named[start]
        return self._match({variable: name}, route), handler

    def _match(self, names: dict[str, str], route: web.AbstractRoute) -> web.UrlMappingMatchInfo:
        match = web.UrlMappingMatchInfo(names, route)
        match.add_app(self._app)
        return match


PROMPT: web.AppKey[PromptRoutes] = web.AppKey("prompt", PromptRoutes)


def is_prompt(handler: Handler | PromptHandler) -> bool:
    return not iscoroutinefunction(handler)


def patient(handler: PromptHandler) -> Handler:
    """The same handler for the router, which awaits every answer."""

    async def answer(request: web.Request) -> web.StreamResponse:
        answered = handler(request)
        return encoded_response(answered) if isinstance(answered, bytes) else await answered

    return answer


def begin(handler: PromptHandler, request: web.Request) -> bytes | Awaited:
    """The JSON that is answered; where that has to be awaited, is large or a refusal, what is to be awaited."""
    try:
        answered = handler(request)
    # As the middleware does, which this one comes past.
    except Exception as error:
        return answer_to(error, request)
    if not isinstance(answered, bytes):
        return answer_refusals(request, lambda _: answered)
    return answered if len(answered) <= LARGE_ANSWER_BYTES else answer_refusals(request, patient(lambda _: answered))


def _guarded(handler: PromptHandler, guard: Callable[[web.Request], None]) -> PromptHandler:
    def guarded(request: web.Request) -> bytes | Awaitable[web.Response]:
        guard(request)
        return handler(request)

    return guarded
