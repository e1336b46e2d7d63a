"""Node: everything of one running node, opened in order and closed in reverse.

Always: one process holds the folder; the log's first entry says whose it is, and another identity refuses to start.

Does not speak HTTP (see `node/http/`, `node/sync.py`) and does not read the environment (see `node/cli.py`).
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from node.clock import Clock
from node.commands.decision import Context, Principal
from node.commands.identity import CreateAdminKey, FoundNode, RecordRefusal, RecordRefusalCount, RenewManifest
from node.commands.seals import SealFacts
from node.config import Config
from node.errors import Refusal
from node.events.log import Head, Log
from node.folder_lock import FolderLock
from node.keys import Signer, equal_secrets, keyed_hash
from node.projections.view import View
from node.projections.views import Views, close_current, open_current
from node.refusals import MinuteShare, RefusalLimiter
from node.writer import Prepare, Writer

ADMIN_KEY_PURPOSE = "admin-key"
# PROTOCOL §9: signatures that one peer may ask for.
ATTESTATIONS_PER_MINUTE = 60
Read = TypeVar("Read")


class StartupError(Exception):
    """What keeps a node from starting, in one line for the terminal."""


class Node:
    """One organisation's node: its log, views, writer, clock and key."""

    def __init__(self, *, config: Config, clock: Clock, signer: Signer, node_id: str) -> None:
        self.config, self.clock, self.signer, self.node_id = config, clock, signer, node_id
        self.made_admin_key: str | None = None
        self._folder = Path(config.data_dir)
        self._refusals = RefusalLimiter()
        self._admin_secret = signer.derive_secret(ADMIN_KEY_PURPOSE)
        self._lock: FolderLock
        self.log: Log
        self._views: Views
        self._writer: Writer
        self._admin_hash: str | None = None
        self._attestations = MinuteShare(ATTESTATIONS_PER_MINUTE)
        self._sign_of_life: dict[str, asyncio.Event] = {}

    @classmethod
    async def open(cls, *, config: Config, clock: Clock, signer: Signer) -> "Node":
        """Open the folder, found the log where it is empty, fold the views up to it, and start the writer.

        Raises StartupError, FolderInUse, UnknownFormat, or LogDamaged.
        """
        node = cls(
            config=config,
            clock=clock,
            signer=signer,
            node_id=config.entity_uri or f"stigmem://node-{signer.key_id[:12]}",
        )
        node._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        node._lock = FolderLock(node._folder / "lock")
        node._lock.acquire()
        try:
            node._open_storage()
            await node._begin()
        except BaseException:
            await node._release()
            raise
        return node

    def execute(self, command: Struct, prepare: Prepare | None = None) -> asyncio.Future:
        """Carry out a command: its Outcome, or what `prepare` made of it, once that is on disk. Raises its refusal."""
        return self._writer.execute(command, prepare)

    @contextmanager
    def view(self) -> Iterator[View]:
        """What the log folds to now. Open it, read it and close it in one `with`, never across an await."""
        with self._views.begin() as txn:
            yield View(txn, self._views.handles)

    async def read(self, use: Callable[[View], Read]) -> Read:
        """Run a reading that may take long on a worker thread, over one view."""

        def run() -> Read:
            with self.view() as view:
                return use(view)

        return await asyncio.to_thread(run)

    def context(self) -> Context:
        """What deciding would know now, for judging ahead of the writer; nothing is stamped with it."""
        return Context(
            node_id=self.node_id,
            config=self.config,
            signer=self.signer,
            clock=self.clock,
            refusals=self._refusals,
            attestations=self._attestations,
            at_ms=self.clock.at_ms(),
            hlc="",
        )

    def is_admin_key(self, key: str) -> bool:
        """Compared in constant time, and as keyed hashes, so that neither length nor prefix shows."""
        return self._admin_hash is not None and equal_secrets(keyed_hash(self._admin_secret, key), self._admin_hash)

    @property
    def is_ready(self) -> bool:
        """Whether writes are taken: the writer runs, and it starts only once the views stand at the log's head."""
        return self._writer.is_running

    def sign_of_life(self, node_id: str) -> asyncio.Event:
        """Set whenever a peer makes an authenticated request: whoever waits out a backoff towards it may stop waiting."""
        return self._sign_of_life.setdefault(node_id, asyncio.Event())

    async def record_refusal(self, principal: Principal, refusal: Refusal, subject: str) -> None:
        """Make a known principal's refusal an event, unless it has had its share of them this minute."""
        if not self._refusals.admit(principal.entity, refusal.code, self.clock.now_ms()):
            return
        await self.execute(
            RecordRefusal(principal=principal, code=refusal.code, detail=refusal.detail, subject=subject)
        )

    async def keep_up(self) -> None:
        """What a node owes from time to time: counts of refusals, and a manifest that does not run out."""
        for overflow in self._refusals.take_overflows(self.clock.now_ms()):
            await self.execute(
                RecordRefusalCount(
                    principal=overflow.principal,
                    code=overflow.code,
                    count=overflow.count,
                    minute_ms=overflow.minute_ms,
                )
            )
        if self._is_manifest_due():
            await self.execute(RenewManifest())

    async def close(self) -> None:
        """Finish what was taken on, flush, and let go of the folder."""
        await self._writer.close()
        close_current(self._folder / "views", self._views)
        self.log.close()
        self._lock.release()

    def _open_storage(self) -> None:
        self.log = Log(self._folder / "log")
        head = self.log.head()
        if head.size:
            last = self.log.read(head.size - 1, 1)[0]
            self.clock.resume(last.hlc, last.at_ms)
        self._views = open_current(self._folder / "views", self.log)
        self.log.announce(head)

    async def _begin(self) -> None:
        head: Head = self.log.head()
        if head.size:
            self._check_identity()
        self._writer = Writer(
            log=self.log,
            views=self._views,
            clock=self.clock,
            signer=self.signer,
            config=self.config,
            node_id=self.node_id,
            refusals=self._refusals,
            attestations=self._attestations,
        )
        if not head.size:
            await self.execute(FoundNode())
        await self._set_up_admin_key()
        while self.config.federation_enabled and (await self.execute(SealFacts())).reply:
            pass  # each turn seals one batch of what was written while federation was off
        if self._is_manifest_due():
            await self.execute(RenewManifest())

    def _check_identity(self) -> None:
        with self.view() as view:
            birth = view.identity.birth()
        if birth is None:
            raise StartupError(f"{self._folder}: the log does not begin with the node it belongs to")
        if birth.public_key != self.signer.public_key_b64:
            raise StartupError(
                f"key_mismatch: the log in {self._folder} is signed by another key than {self.signer.key_id[:12]}"
            )
        if self.config.entity_uri is None:
            self.node_id = birth.node_id
        elif birth.node_id != self.node_id:
            raise StartupError(f"STIGMEM_ENTITY_URI: {self.node_id} is not {birth.node_id}, whose log this is")

    async def _set_up_admin_key(self) -> None:
        if self.config.admin_key is not None:
            self._admin_hash = keyed_hash(self._admin_secret, self.config.admin_key)
            return
        with self.view() as view:
            self._admin_hash = view.identity.admin_key_hash()
        if self._admin_hash is None and self.config.auth_required:
            self.made_admin_key = secrets.token_urlsafe(32)
            self._admin_hash = keyed_hash(self._admin_secret, self.made_admin_key)
            await self.execute(CreateAdminKey(key_hash=self._admin_hash))

    def _is_manifest_due(self) -> bool:
        with self.view() as view:
            own = view.identity.manifest()
        if own is None:
            return True
        return self.clock.now_ms() > own.expires_ms - (own.expires_ms - own.issued_ms) // 3

    async def _release(self) -> None:
        """Let go of whatever an interrupted start had taken."""
        if hasattr(self, "_writer"):
            await self._writer.close()
        if hasattr(self, "_views"):
            close_current(self._folder / "views", self._views)
        if hasattr(self, "log"):
            self.log.close()
        self._lock.release()
