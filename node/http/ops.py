"""/healthz and /readyz: whether the process lives, and whether it can take a write (PROTOCOL §13)."""

from aiohttp import web

from node.http.body import json_response
from node.http.keys import NODE


async def healthz(request: web.Request) -> web.Response:
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """503 where the writer has stopped; it starts only once the views stand at the log's head."""
    node = request.app[NODE]
    node.require_ready()
    return json_response({"status": "ready", "log_size": node.log.announced().size})
