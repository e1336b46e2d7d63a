"""A peer that shows whatever log a test wants, under the key of a real organisation; each of its answers can be spoilt.

Always: proofs are those of the leaves it is given, and checkpoints are signed, unless a test says otherwise.
"""

import json
from hashlib import sha256

from aiohttp import web

from node.events.checkpoint import Checkpoint, origin_of, sign_checkpoint
from node.events.tree import Frontier, consistency_path, inclusion_path
from tests.organisations import Organisation

Leaves = list[bytes]


def line(name: str, size: int) -> Leaves:
    return [sha256(f"{name} {index}".encode()).digest() for index in range(size)]


class ShownLog:
    """`spoilt` maps a route's last word (checkpoint, consistency, inclusion) to what is answered there instead, with its status."""

    def __init__(self, organisation: Organisation, leaves: Leaves) -> None:
        self._organisation, self.leaves = organisation, leaves
        self.spoilt: dict[str, tuple[int, str]] = {}
        self.facts: list[dict[str, object]] = []
        self.pages_asked = 0
        self.origin = origin_of(organisation.node_id)
        self.url = ""
        self._runner: web.AppRunner

    async def start(self) -> "ShownLog":
        app = web.Application()
        app.router.add_get("/v1/log/checkpoint", self._checkpoint)
        app.router.add_get("/v1/log/proof/{kind}", self._proof)
        app.router.add_get("/v1/federation/facts", self._page)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        await self._runner.cleanup()

    def note(self, leaves: Leaves | None = None) -> str:
        frontier = Frontier(0, [])
        for leaf in self.leaves if leaves is None else leaves:
            frontier.append(leaf)
        checkpoint = Checkpoint(origin=self.origin, size=frontier.size, root=frontier.root())
        return sign_checkpoint(checkpoint, self._organisation.signer)

    async def _checkpoint(self, request: web.Request) -> web.Response:
        return self._spoilt("checkpoint", "text/plain") or web.Response(text=self.note())

    async def _proof(self, request: web.Request) -> web.Response:
        spoilt = self._spoilt(request.match_info["kind"], "application/json")
        return spoilt or web.json_response(self._true_proof(request))

    def _true_proof(self, request: web.Request) -> dict[str, object]:
        asked, nodes, frontier = request.query, {}, Frontier(0, [])
        for leaf in self.leaves:
            nodes |= {(level, index): node for level, index, node in frontier.append(leaf)}

        def read(level: int, index: int) -> bytes:
            return nodes[level, index]

        if request.match_info["kind"] == "consistency":
            path = consistency_path(int(asked["from"]), int(asked["to"]), read)
            return {"hashes": [node.hex() for node in path]}
        offset = int(asked["offset"])
        path = inclusion_path(offset, int(asked["size"]), read)
        return {"hashes": [node.hex() for node in path], "leaf_hash": self.leaves[offset].hex()}

    async def _page(self, request: web.Request) -> web.Response:
        self.pages_asked += 1
        page = {"facts": self.facts, "cursor": f"page-{self.pages_asked}", "has_more": False}
        return web.Response(text=json.dumps(page), content_type="application/json")

    def _spoilt(self, what: str, media: str) -> web.Response | None:
        if what not in self.spoilt:
            return None
        status, text = self.spoilt[what]
        return web.Response(status=status, text=text, content_type=media)
