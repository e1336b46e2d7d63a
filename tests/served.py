"""A node in the test's own process, served over a real socket, with a fixed clock and a known key.

Always: storage, signatures and HTTP are real; only the clock with its ids and random bytes is counted, so a log is reproducible.
`closed` compares the live tables with a fresh fold of the log: every test that used a node ends with that.
"""

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from typing import Any

from aiohttp import ClientSession, TCPConnector, web
from msgspec import structs
from yarl import URL

from node.commands.decision import Principal
from node.config import Config
from node.events.entry import Entry
from node.http.app import make_app
from node.http.connections import GuardedRunner
from node.http.tls_door import TlsSite
from node.key_files import KeyFile
from node.keys import Signer, create_key_file
from node.peer_client import PeerClient
from node.projections.views import Views
from node.runtime import Node
from node.sync import Sync
from node.tls import Tls
from tests.clocks import CountedClock
from tests.documented import check_answer

ADMIN_KEY = "the-admin-key-of-the-tests-0123456789"
NODE_ID = "stigmem://org-a.example"
SEED = bytes(range(32))
# Every node of the tests encrypted at rest: what a test sees must be the same (`make test-encrypted`).
ENCRYPTED = bool(os.environ.get("STIGMEM_TEST_ENCRYPTED"))


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `json` decodes its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def expect(self, status: int) -> Any:
        assert self.status == status, f"expected {status}, was answered {self.status}: {self.body[:2000]!r}"
        return self.json if self.body else None

    def refused(self, status: int, code: str) -> dict[str, Any]:
        body = self.expect(status)
        assert body["error"] == code, body
        self.assert_well_formed()
        return body

    def assert_well_formed(self) -> None:
        """What every answer owes (PROTOCOL §1, §16): nosniff, and a JSON body with words where it is no success."""
        assert self.headers["X-Content-Type-Options"] == "nosniff"
        if self.status >= 400 and self.body:
            assert self.headers["Content-Type"] == "application/json"
            assert isinstance(self.json["error"], str) and isinstance(self.json["detail"], str) and self.json["detail"]


class Served:
    """A node and everything around it that `stigmem serve` would start, except for the pulling tasks."""

    def __init__(self, folder: Path, clock: CountedClock, signer: Signer, config: Config) -> None:
        self.folder, self.clock, self.signer = folder, clock, signer
        self.config = encrypted(config, folder) if ENCRYPTED and not config.at_rest_encryption else config
        self.key_file = KeyFile(folder / "node.key", None)
        self.node: Node
        self.sync: Sync
        self.tls: Tls
        self.site: TlsSite
        # What `send` shows and trusts, where the node speaks TLS.
        self.trust: ssl.SSLContext | bool = True
        self.port = 0
        self._client: PeerClient
        self._runner: GuardedRunner
        self._session: ClientSession

    async def start(self, *, waits_for_views: bool = True) -> "Served":
        socket = create_server(("127.0.0.1", 0))
        self.port = socket.getsockname()[1]
        # Once: a restart finds another port, and the settings as they were.
        if self.config.node_url == Config().node_url:
            self.config = structs.replace(self.config, node_url=f"{self.scheme}://localhost:{self.port}")
        self.node = await self.opened(waits_for_views=waits_for_views)
        self.tls = Tls.opened(self.config)
        self._client = PeerClient(
            allow_loopback=True,
            allow_private=False,
            allow_insecure_http=False,
            tls=self.tls,
            tell=self.node.record_tls_refusal,
        )
        await self._client.start()
        self.sync = Sync(self.node, self._client)
        self._runner = GuardedRunner(make_app(node=self.node, client=self._client, sync=self.sync))
        await self._runner.setup()
        if self.config.tls_cert_file is None:
            await web.SockSite(self._runner, socket).start()
        else:
            socket.close()
            self.site = TlsSite(self._runner, self.tls, "127.0.0.1", self.port)
            await self.site.start()
        self._session = ClientSession(connector=TCPConnector(ssl=self.trust))
        return self

    @property
    def scheme(self) -> str:
        return "http" if self.config.tls_cert_file is None else "https"

    def keep_key(self, seed: bytes = SEED, passphrase: str | None = None) -> "Served":
        """Have the node's key lie in a file, which it takes to rotate it; `seed` is what it was made of."""
        create_key_file(self.folder / "node.key", seed, passphrase)
        return self

    async def opened(self, *, waits_for_views: bool) -> Node:
        if (self.folder / "node.key").exists():
            self.signer = self.key_file.load()
        node = await Node.open(config=self.config, clock=self.clock, signer=self.signer, key_file=self.key_file)
        if waits_for_views:
            await node.begun()
        return node

    async def stop(self) -> None:
        await self._leave()
        await self.node.close()

    async def _leave(self) -> None:
        """Answer and ask nobody any more; whatever was being answered is done."""
        await self._session.close()
        await self._runner.cleanup()
        await self._client.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def closed(self) -> None:
        """Stop; live tables and a fresh fold of the log must be equal."""
        # What still pulls, or is asked by others, would write between the two.
        await self.sync.close()
        await self._leave()
        live, folded = await self.digests(), self.folded_anew()
        await self.node.close()
        assert live == folded

    @property
    def admin(self) -> Principal:
        return Principal(via="admin", entity=self.node.node_id)

    @property
    def size(self) -> int:
        return self.node.log.head().size

    def entries(self, start: int) -> list[Entry]:
        return self.node.log.read(start, 10_000)

    async def digests(self) -> dict[str, str]:
        return await self.node.read(lambda view: view.digests())

    def folded_anew(self) -> dict[str, str]:
        folders = len(list(self.folder.glob("fresh-*")))
        views = Views(self.folder / f"fresh-{folders}")
        try:
            views.fold_forward(self.node.log, self.size)
            return views.digests()
        finally:
            views.close()

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        bearer: str | None = ADMIN_KEY,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`body` is sent as it is where it is bytes, else as JSON; `path` is sent as it stands."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        sent |= {"Authorization": f"Bearer {bearer}"} if bearer is not None else {}
        sent |= headers or {}
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        url = URL(f"{self.scheme}://127.0.0.1:{self.port}{path}", encoded=True)
        skipped = () if "Content-Type" in sent else ("Content-Type",)
        async with self._session.request(
            method, url, data=content, headers=sent, skip_auto_headers=skipped, allow_redirects=False
        ) as answer:
            content = await answer.read()
            check_answer(method, path, answer.status, answer.headers, content)
            return Answer(answer.status, dict(answer.headers), content)

    async def get(self, path: str, **query: object) -> Answer:
        words = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in query.items()}
        url = URL(path).with_query(words)
        return await self.send("GET", str(url))

    async def post(self, path: str, body: object, *, bearer: str | None = ADMIN_KEY) -> Answer:
        return await self.send("POST", path, body, bearer=bearer)

    async def write(self, *, bearer: str | None = ADMIN_KEY, **fields: object) -> dict[str, Any]:
        """Assert a fact and expect it to stand; returns its record."""
        return (await self.post("/v1/facts", fact(**fields), bearer=bearer)).expect(201)


def config_for(folder: Path, **settings: object) -> Config:
    given = {"data_dir": str(folder), "entity_uri": NODE_ID, "admin_key": ADMIN_KEY, "federation_enabled": True}
    return Config(**given | settings)


def encrypted(config: Config, folder: Path) -> Config:
    """The same with encryption at rest, under a key file beside the node's folder."""
    key_file = folder.with_name(f"{folder.name}.at-rest")
    if not key_file.exists():
        key_file.parent.mkdir(parents=True, exist_ok=True)
        key_file.touch(mode=0o600)
        key_file.write_text("5e" * 32)
    return structs.replace(config, at_rest_encryption=True, at_rest_key_file=str(key_file))


def fact(**fields: object) -> dict[str, object]:
    """The body of a plain assertion, with what a test wants otherwise."""
    plain = {
        "entity": f"{NODE_ID}/project/apollo",
        "relation": "memory:status",
        "value": {"type": "string", "v": "green"},
        "source": f"{NODE_ID}/agent/scribe",
    }
    return plain | fields
