"""An aiohttp server whose one handler reads a JSON body and answers 201 `{}`: the reference of the bench.

`python -m bench.plain_server PORT`. Ends on SIGTERM.
"""

import sys

import msgspec
from aiohttp import web


async def take(request: web.Request) -> web.Response:
    msgspec.json.decode(await request.read())
    return web.Response(body=b"{}", status=201, content_type="application/json")


async def be_ready(request: web.Request) -> web.Response:
    return web.Response(body=b"{}", content_type="application/json")


def main(port: int) -> None:
    app = web.Application()
    app.add_routes([web.post("/v1/facts", take), web.get("/readyz", be_ready)])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
