"""An aiohttp server whose handlers do nothing: the reference of the bench. POST takes JSON and answers 201, GET 200, both `{}`.

`python -m bench.plain_server PORT`. On the loop that a node runs on. Ends on SIGTERM.
"""

import sys

import msgspec
import uvloop
from aiohttp import web


async def take(request: web.Request) -> web.Response:
    msgspec.json.decode(await request.read())
    return web.Response(body=b"{}", status=201, content_type="application/json")


async def answer(request: web.Request) -> web.Response:
    return web.Response(body=b"{}", content_type="application/json")


def main(port: int) -> None:
    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/facts", take),
            web.get("/v1/facts", answer),
            web.get("/v1/facts/{fact_id}", answer),
            web.get("/readyz", answer),
        ]
    )
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main(int(sys.argv[1]))
