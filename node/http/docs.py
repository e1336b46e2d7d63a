"""/openapi.json, and /docs, a page that shows it (PROTOCOL §13). For anybody.

Always: the page runs no inline script and asks no other host for anything; its files come with this package.
"""

import asyncio
import hashlib
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files

from aiohttp import web

from node.errors import RouteNotFound
from node.http.describe import PUBLIC, Content, Header, describes
from node.http.keys import DOCUMENT, Document

_HELD = {"If-None-Match": Header(what="The ETag of what is held; 304 where it is still the same.")}
_KEPT = {"ETag": "What is sent, by name.", "Cache-Control": "`no-cache`: ask each time whether it is still the same."}
_SENDS = {200: {**_KEPT, "Content-Security-Policy": "What the page may load: files of this node."}, 304: _KEPT}
_PAGE = "page.html"
_TYPES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
}
# Icons of the style sheet are data: URLs; a page in a frame could be clicked through.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@describes(
    "this document",
    who=PUBLIC,
    headers=_HELD,
    sends=_SENDS,
    answers={200: Content("application/json", "object"), 304: None},
    reads_node=False,
)
async def openapi(request: web.Request) -> web.Response:
    return await _sent(request, request.app[DOCUMENT], "application/json")


@describes(
    "a page that shows this document",
    who=PUBLIC,
    headers=_HELD,
    sends=_SENDS,
    answers={200: Content("text/html"), 304: None},
    reads_node=False,
)
async def page(request: web.Request) -> web.Response:
    return await _sent(request, partial(_asset, _PAGE), "text/html; charset=utf-8")


@describes(
    "a file of that page",
    who=PUBLIC,
    headers=_HELD,
    sends=_SENDS,
    answers={200: (Content("text/css"), Content("text/javascript")), 304: None},
    reads_node=False,
)
async def asset(request: web.Request) -> web.Response:
    name = request.match_info["asset"]
    if name not in _TYPES:
        raise RouteNotFound("there is no such file")
    return await _sent(request, partial(_asset, name), f"{_TYPES[name]}; charset=utf-8")


def etagged(body: bytes) -> Document:
    return Document(body=body, etag=hashlib.sha256(body).hexdigest()[:32])


@cache
def _asset(name: str) -> Document:
    return etagged((files("node.http") / "assets" / name).read_bytes())


async def _sent(request: web.Request, made: Callable[[], Document], content_type: str) -> web.Response:
    # The first one who asks has it made, or read from a disk.
    document = await asyncio.to_thread(made)
    headers = {"ETag": f'"{document.etag}"', "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    if any(held.value in (document.etag, "*") for held in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    headers |= {"Content-Type": content_type, "Content-Security-Policy": _POLICY}
    return web.Response(body=document.body, headers=headers)
