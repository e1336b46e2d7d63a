"""/openapi.json: the API's document, for anybody (PROTOCOL §13)."""

from aiohttp import web

from node.http.body import encoded_response
from node.http.describe import PUBLIC, Content, describes
from node.http.keys import DOCUMENT


@describes(
    "this document",
    who=PUBLIC,
    headers={"If-None-Match": "The ETag of the document held; 304 where it is the same."},
    answers={200: Content("application/json", "object"), 304: None},
    reads_node=False,
)
async def openapi(request: web.Request) -> web.Response:
    document = request.app[DOCUMENT]()
    headers = {"Etag": f'"{document.etag}"', "Cache-Control": "no-cache"}
    if any(held.value in (document.etag, "*") for held in request.if_none_match or ()):
        return web.Response(status=304, headers={**headers, "X-Content-Type-Options": "nosniff"})
    return encoded_response(document.body, headers=headers)
