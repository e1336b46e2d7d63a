"""Node: everything of one running node, opened in order and closed in reverse.

Always: one process holds the folder; the log's first entry says whose it is, and another identity refuses to start.

Does not speak HTTP (see `node/http/`, `node/sync.py`) and does not read the environment (see `node/cli.py`).
"""

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TypeVar

import structlog
from msgspec import Struct

from node.at_rest import Secret, secret_of
from node.clock import Clock
from node.commands.decision import Context, Principal
from node.commands.gardens import require_operator
from node.commands.identity import CreateAdminKey, FoundNode, RecordRefusal, RecordRefusalCount, RenewManifest
from node.commands.peers import RecordTlsRefusal
from node.commands.restores import RecordRestore
from node.commands.rotations import RotateKey
from node.commands.seals import SealFacts
from node.config import Config
from node.durable import make_folder
from node.erasing import Eraser
from node.errors import KeyFileUnwritable, LogDamaged, NotReady, Refusal, StorageFailed
from node.events.at_rest_folder import FolderKeys, finish_change, found_keys, is_changing, keys_for, require_as_said
from node.events.checkpoint import origin_of
from node.events.entry import Entry
from node.events.evidence import damage_at
from node.events.key_file import FileKey
from node.events.log import Log, finish_compaction
from node.events.own_keys import OwnKeys, own_keys_of
from node.events.rotations import RotationEvent
from node.events.store import LOG_MAP_BYTES, storage_errors
from node.folder_lock import FolderLock
from node.kept_answers import Kept, KeptAnswers, Question
from node.kept_secrets import NONCE_BYTES, KeptSecrets, first_secrets, open_kept_secrets
from node.key_files import KeyFile
from node.keys import KeyFileError, KeyInUse, Signer, hashes_to, key_id_of, keyed_hash
from node.log_watch import RECENT_ENTRIES, LogWatch, recent_damage, require_chain, require_file
from node.projections.fact_rows import FactRow
from node.projections.told_facts import is_told
from node.projections.view import View
from node.projections.views import StaleViews, Views, close_current, entries_missing, open_live, open_stale, rebuild
from node.quotas import Quota
from node.refusals import MinuteShare, RefusalLimiter
from node.storage_watch import StorageWatch
from node.writer import Prepare, Writer

# PROTOCOL §9: signatures that one peer may ask for.
ATTESTATIONS_PER_MINUTE = 60
Read = TypeVar("Read")

_log = structlog.get_logger("stigmem.node")


class StartupError(Exception):
    """What keeps a node from starting, in one line for the terminal."""


class Node:
    """One organisation's node: its log, views, writer, clock and key."""

    def __init__(
        self, *, config: Config, clock: Clock, signer: Signer, node_id: str, key_file: KeyFile | None = None
    ) -> None:
        self.config, self.clock, self.node_id = config, clock, node_id
        self._secrets = {signer.key_id: first_secrets(signer)}
        self._key, self._key_file, self._rotating = KeyInUse(signer), key_file, asyncio.Lock()
        self.made_admin_key: str | None = None
        self._folder = Path(config.data_dir)
        self._refusals = RefusalLimiter()
        self._lock: FolderLock
        # What the folder is encrypted under; None for one in clear.
        self._secret: Secret | None = None
        self._file_keys: tuple[FileKey, ...] = ()
        self._file_key: FileKey | None = None
        self._keys: FolderKeys
        self.log: Log
        # None while they are being made anew; then `_stale` holds what can be read meanwhile, if anything can.
        self._views: Views | None = None
        self._kept = KeptAnswers()
        self._stale: StaleViews | None = None
        self._folded = 0
        self._begun: asyncio.Task[None] | None = None
        self._is_closing = threading.Event()
        self._writer: Writer | None = None
        self._eraser: Eraser | None = None
        self._damage: LogDamaged | None = None
        self._watch: LogWatch | None = None
        self._storage_watch: StorageWatch | None = None
        self._admin_hash: str | None = None
        self._attestations = MinuteShare(ATTESTATIONS_PER_MINUTE)
        self.read_quota = Quota(config.quota_reads_per_minute, clock.monotonic_ns)
        self.write_quota = Quota(config.quota_writes_per_minute, clock.monotonic_ns)
        self._sign_of_life: dict[str, asyncio.Event] = {}
        # From which offset on the log has which name: one for each restore.
        self._origins: list[tuple[int, str]] | None = None

    @classmethod
    async def open(
        cls,
        *,
        config: Config,
        clock: Clock,
        signer: Signer,
        key_file: KeyFile | None = None,
        log_map_bytes: int = LOG_MAP_BYTES,
    ) -> "Node":
        """Open the folder and the log, and found it where it is empty; the node then begins by itself (see `begun`).

        `key_file` is where `signer` came from: a rotation that was cut off is finished there. Without it no key is rotated.

        A node whose last entries do not hold comes up and takes no writes. Raises StartupError, AtRestError, FolderInUse,
        UnknownFormat, or LogDamaged where it cannot even do that: the file, its first entry or its last one is not to be read.
        """
        node = cls(
            config=config,
            clock=clock,
            signer=signer,
            node_id=config.entity_uri or f"stigmem://node-{signer.key_id[:12]}",
            key_file=key_file,
        )
        secret = secret_of(config, lambda: signer)
        if not is_changing(node._folder):
            # Before the folder is touched at all: a key that does not fit is to leave no trace.
            keys_for(node._folder, secret)
        make_folder(node._folder)
        node._lock = FolderLock(node._folder / "lock")
        node._lock.acquire()
        try:
            node._secret = secret
            node._unlock()
            node._open_storage(log_map_bytes)
            node._begun = asyncio.create_task(node._begin(), name="stigmem-begin")
            if node._views is not None or node._damage is not None:
                await node.begun()
        except BaseException:
            await node.close()
            raise
        return node

    async def begun(self) -> None:
        """Wait until the views stand at the log's head and writes are taken, or the log is found damaged.

        That is at once unless the views are made anew from the log: then the node answers what it can meanwhile.
        """
        await asyncio.shield(self._begun)

    @property
    def has_begun(self) -> bool:
        """Whether `begun` would not wait."""
        return self._begun is not None and self._begun.done()

    @property
    def signer(self) -> Signer:
        """The key that is current."""
        return self._key.signer

    @property
    def secrets(self) -> KeptSecrets:
        """What the hashes of credentials are under, and what is told again."""
        return self._secrets[self.signer.key_id]

    async def rotate_key(self, principal: Principal, *, is_compromised: bool, since_ms: int | None) -> RotationEvent:
        """Go on under a new key, from the answer on; raises KeyFileUnwritable, or what RotateKey is refused with.

        However far this comes, the next start, or `keep_up`, makes the key file follow the log.
        """
        require_operator(principal)
        self.require_ready()
        if self._key_file is None:
            raise KeyFileUnwritable("this node's key lies in no file that could be replaced")
        async with self._rotating:
            successor = await self._written_successor(self._key_file)
            kept = self._secrets[successor.key_id] = self.secrets.after_rotation(successor)
            command = RotateKey(
                principal=principal,
                successor=successor,
                kept=kept.sealed_for(successor, self.clock.random_bytes(NONCE_BYTES)),
                is_compromised=is_compromised,
                since_ms=since_ms,
            )
            try:
                rotation = (await self.execute(command)).reply
            finally:
                await self._settle_key_file()
        _log.info("key_rotated", key_id=self.signer.key_id)
        return rotation

    def execute(self, command: Struct, prepare: Prepare | None = None) -> asyncio.Future:
        """Carry out a command: its Outcome, or what `prepare` made of it, once that is on disk. Raises its refusal."""
        if self._damage is not None or self._writer is None or self._writer.storage_failure is not None:
            raise self._why_not()
        return self._writer.execute(command, prepare)

    def view(self) -> AbstractContextManager[View]:
        """What the log folds to now. Open it, read it and close it in one `with`, never across an await."""
        if self._views is not None:
            return self._views.reading()
        if self._stale is None:
            raise self._why_not()
        return self._stale.view()

    def vouch_for(self, rows: Iterable[FactRow]) -> None:
        """Raise LogDamaged where what the views say of a fact is not what the log has of it; from then on the node is not ready.

        Whatever facts leave this node have passed here, and so has nothing that a bad disk made of them.
        """
        try:
            with self.log.evidence() as evidence:
                for row in rows:
                    if self._damage is not None:
                        self.require_undamaged(row.place[0])
                    if not is_told(row):
                        evidence.require(row.place, row.fact)
        except LogDamaged as damage:
            self.note_damage(damage)
            raise

    def given_again(self, question: Question | None) -> bytes | None:
        """What was answered to it, where all that it tells still stands and the log still has its facts; else None. On the loop."""
        if question is None or self._damage is not None or (kept := self._kept.find(question)) is None:
            return None
        with self.log.evidence() as evidence:
            for place in kept.places:
                if not evidence.still_has(place):
                    return None
        return kept.answer

    def is_worth_keeping(self, question: Question | None) -> bool:
        """Whether what is answered to it now is asked for again and again. On the loop."""
        # Views that are being made anew are behind.
        return question is not None and self._writer is not None and self._kept.is_worth_keeping(question)

    def keep_answer(self, question: Question, kept: Kept) -> None:
        """Have an answer given again that was made in this turn of the loop."""
        self._kept.keep(question, kept)

    def vouched_entries(self, first: int, end: int) -> list[Entry]:
        """Entries [first, end), from which an answer is made anew. Raises LogDamaged as `vouch_for` does."""
        try:
            entries = self.log.read(first, end - first)
            with self.log.evidence() as evidence:
                for entry in entries:
                    self.require_undamaged(entry.offset)
                    evidence.require_entry(entry.offset)
        except LogDamaged as damage:
            self.note_damage(damage)
            raise
        return entries

    def require_undamaged(self, offset: int) -> None:
        """Raise LogDamaged where this entry is the one that was found not to hold, whatever can be read of it."""
        if self._damage is not None and self._damage.data.get("offset") == offset:
            raise self._damage.with_traceback(None)

    def watch_log(self) -> None:
        """Look through the whole log in the background, from now until the node closes or a damage is found; call it once."""
        self._watch = LogWatch(self.log, self.note_damage, self._is_closing)
        self._watch.start()

    def note_damage(self, damage: LogDamaged) -> None:
        """Take no more writes: what is decided on a damaged log would be built on it."""
        if self._damage is None:
            self._damage = damage
            _log.error("log_damaged", detail=damage.detail)

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

    def log_origin(self, size: int) -> str:
        """The name of the log at that size: what was signed of it before a restore keeps the name that it had then.

        Nothing is signed of a log that is damaged, so it has no name: LogDamaged.
        """
        if self._damage is not None or self._origins is None:
            raise self._why_not()
        names = [origin for offset, origin in self._origins if offset < size]
        return names[-1] if names else origin_of(self.node_id)

    def is_admin_key(self, key: str) -> bool:
        """Compared in constant time, and as keyed hashes, so that neither length nor prefix shows."""
        if self._admin_hash is None and self._views is None:
            raise self._why_not()
        return self._admin_hash is not None and hashes_to(self.secrets.admin_key, key, self._admin_hash)

    def api_key_hash(self, key: str) -> str:
        """What stands for an API key in the log and in the views."""
        return keyed_hash(self.secrets.api_keys, key)

    @property
    def is_ready(self) -> bool:
        """Whether writes are taken: the disk takes them, and the writer runs, once the views stand at the log's head."""
        return (
            self._writer is not None
            and self._writer.is_running
            and self._writer.storage_failure is None
            and self._damage is None
        )

    def require_ready(self) -> None:
        """Raise why writes are not taken: NotReady, with how far the node is, LogDamaged, with where, or the disk's failure."""
        if not self.is_ready:
            raise self._why_not()

    def sign_of_life(self, node_id: str) -> asyncio.Event:
        """Set whenever a peer makes an authenticated request: whoever waits out a backoff towards it may stop waiting."""
        return self._sign_of_life.setdefault(node_id, asyncio.Event())

    async def record_refusal(self, principal: Principal, refusal: Refusal, subject: str) -> None:
        """Make a known principal's refusal an event, unless it has had its share of them this minute."""
        if not self._refusals.admit(principal.entity, refusal.code, self.clock.now_ms()):
            return
        await self.execute(RecordRefusal(refused=principal, code=refusal.code, detail=refusal.detail, subject=subject))

    async def record_tls_refusal(self, node_id: str, refusal: Refusal) -> None:
        """Make an event of it that no TLS came about with a peer. A node that takes no writes leaves it at its own words."""
        if self.is_ready:
            await self.execute(RecordTlsRefusal(node_id=node_id, refusal=refusal))

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
        if self._key_file is not None and self._key_file.is_unsettled:
            # Beside a rotation under way the key that it has just written would look like one that never came into use.
            async with self._rotating:
                await self._settle_key_file()
        await self.erase()

    def unfinished_erasures(self) -> frozenset[str]:
        """The ids of tombstones of whose entities the files may still hold something, though the log says that it is erased."""
        return frozenset() if self._eraser is None else self._eraser.unfinished

    async def erase(self) -> None:
        """Erase what tombstones hide and no hold keeps. Where that fails it is tried again with the next upkeep, or start."""
        if self._eraser is not None:
            # The key file is rewrapped by both: a rotation of the node key, and an erasure.
            async with self._rotating:
                await self._eraser.catch_up()

    async def close(self) -> None:
        """Finish what was taken on, flush, and let go of the folder."""
        self._is_closing.set()
        if self._begun is not None:
            await asyncio.gather(self._begun, return_exceptions=True)
        if self._eraser is not None:
            await self._eraser.close()
        if self._storage_watch is not None:
            await self._storage_watch.close()
        if self._writer is not None:
            await self._writer.close()
        if self._watch is not None:
            await asyncio.to_thread(self._watch.join)
        if self._views is not None:
            self._close_views(self._views)
        if self._stale is not None:
            self._stale.retire()
        if hasattr(self, "log"):
            self.log.close()
        self._lock.release()

    def _close_views(self, views: Views) -> None:
        try:
            with storage_errors():
                close_current(self._folder / "views", views)
        except Refusal as refusal:
            # Nothing is lost: they are looked at by the next start as those of a node that was killed.
            _log.error("views_not_closed", code=refusal.code, detail=refusal.detail)

    def _unlock(self) -> None:
        finish_compaction(self._folder / "log")
        if is_changing(self._folder):
            require_file(self._folder / "log")
            finish_change(self._folder)
        self._file_keys = found_keys(self._folder, self._secret, keys_for(self._folder, self._secret))

    def _open_storage(self, log_map_bytes: int) -> None:
        require_file(self._folder / "log")
        try:
            self.log = Log(self._folder / "log", map_bytes=log_map_bytes, file_keys=self._file_keys)
            self._file_key = require_as_said(self.log, self._file_keys)
            self._keys = FolderKeys(self._folder, self._secret, self._file_key, self.log.file_key_id)
            self._open_log()
        except LogDamaged as damage:
            raise damage_at(damage.data.get("offset"), damage.detail) from damage
        views_dir, size = self._folder / "views", self.log.head().size
        # Nothing is folded that was not looked at: views that stand far behind are made anew, once the whole chain holds.
        max_behind = RECENT_ENTRIES if self._damage is None else 0
        self._views = open_live(views_dir, self.log, max_behind, self._file_key) if size else None
        if self._views is not None:
            return
        told = entries_missing(views_dir, self.log)
        if told is not None:
            # Going on would be a second line of what peers may have seen. `stigmem replay rebuild` says that this is meant.
            self.note_damage(damage_at(size, f"the entry is missing: the views hold {told} entries, the log {size}"))
        elif size:
            self._stale = open_stale(views_dir, self.log, self._file_key)
        else:
            self._views = rebuild(views_dir, self.log, file_key=self._file_key)

    def _open_log(self) -> None:
        """Raises LogDamaged where the node cannot run: what says whose log it is, or where it stands, is not to be read."""
        size, damage = self.log.head().size, recent_damage(self.log)
        if size:
            if damage is not None:
                self.note_damage(damage)
            self._check_identity()
            last = self.log.read(size - 1, 1)[0]
            try:
                self.clock.resume(last.hlc, last.at_ms)
            except ValueError as error:
                raise LogDamaged(f"the entry's time cannot be read: {error}", offset=size - 1) from error
        elif damage is not None:
            raise damage

    async def _begin(self) -> None:
        if self._damage is None and self._views is None:
            await self._make_views()
        if self._damage is not None:
            # What is sound can be read, as far as there are views; nothing is written, not even what is owed.
            self._read_admin_key()
            return
        await self._take_writes()

    async def _make_views(self) -> None:
        """Make the views anew, unless the log is found damaged: then those that can be read meanwhile stay all there is."""
        self._read_admin_key()
        try:
            views = await asyncio.to_thread(self._made_anew)
        except LogDamaged as damage:
            self.note_damage(damage_at(damage.data.get("offset"), damage.detail))
        else:
            # No await between the two: whoever asks for a view gets the old ones or the new ones.
            self._views, stale, self._stale = views, self._stale, None
            if stale is not None:
                stale.retire()

    async def _kept_views(self, views: Views) -> Views:
        """The views, after the disk failed: made anew where it did not keep them; the old ones are read until then."""
        try:
            await asyncio.to_thread(views.require_kept)
        except StorageFailed as failure:
            _log.warning("making_views", log_size=self.log.head().size, reason=failure.detail)
            views = await asyncio.to_thread(self._made_anew)
            # Whoever still reads the old ones keeps them open.
            self._go_on_with(views)
        return views

    def _made_anew(self) -> Views:
        require_chain(self.log, lambda: self._note_folded(0))
        return rebuild(self._folder / "views", self.log, self._note_folded, self._file_key)

    async def _take_writes(self) -> None:
        self._writer = Writer(
            log=self.log,
            views=self._views,
            clock=self.clock,
            key=self._key,
            config=self.config,
            node_id=self.node_id,
            refusals=self._refusals,
            attestations=self._attestations,
            kept=self._kept,
        )
        self._views.keep_readings()
        if not self.log.head().size:
            await self.execute(FoundNode())
        # Before anything else is written behind a snapshot, and again at the next start if this one goes down first.
        head = self.log.head()
        if self.log.restored_size() == head.size:
            await self.execute(RecordRestore(size=head.size, root=head.root.hex()))
        with self.view() as view:
            self._origins = [(restore.offset, restore.origin) for restore in view.identity.restores()]
        await self._set_up_admin_key()
        while self.config.federation_enabled and (await self.execute(SealFacts())).reply:
            pass  # each turn seals one batch of what was written while federation was off
        if self._is_manifest_due():
            await self.execute(RenewManifest())
        self._storage_watch = StorageWatch(
            self.log, self._writer, kept_views=self._kept_views, note_damage=self.note_damage
        )
        # What was cut off is finished before anything is served.
        self._eraser = Eraser(
            folder=self._folder,
            log=self.log,
            writer=self._writer,
            read=self.read,
            replace=self._go_on_with,
            keys=self._keys,
        )
        await self.erase()

    def _go_on_with(self, views: Views) -> None:
        self._views.let_go()
        self._kept.clear()
        self._views = views
        views.keep_readings()

    def _note_folded(self, size: int) -> None:
        # On the folding thread, between two of its transactions.
        self._folded = size
        if self._is_closing.is_set():
            raise NotReady("the node is stopping")

    def _why_not(self) -> Refusal:
        # Raised again and again: each time would add to the traceback, and keep what its frames hold.
        if self._damage is not None:
            return self._damage.with_traceback(None)
        if self._writer is not None and self._writer.storage_failure is not None:
            return self._writer.storage_failure.with_traceback(None)
        if self._views is None:
            return NotReady(f"the views are being made anew: {self._folded} of {self.log.head().size} entries")
        return NotReady("writes are not taken")

    def _check_identity(self) -> None:
        own = own_keys_of(self.log)
        if own.current != self.signer.public_key:
            self._finish_rotation(own)
        elif self._key_file is not None and self._key_file.is_unsettled:
            self._key_file.settle(own.current)
        if self.config.entity_uri is None:
            self.node_id = own.node_id
        elif own.node_id != self.node_id:
            raise StartupError(f"STIGMEM_ENTITY_URI: {self.node_id} is not {own.node_id}, whose log this is")
        if own.current == self.signer.public_key:
            self._secrets = {self.signer.key_id: self._kept_secrets(own)}
            self._lock_for_signer_alone()

    def _finish_rotation(self, own: OwnKeys) -> None:
        """Take the key that the log was rotated to before the files followed. Raises StartupError where it is nowhere."""
        settled = None if self._key_file is None else self._key_file.settle(own.current)
        if settled is not None and settled.public_key == own.current:
            self._key = KeyInUse(settled)
            _log.info("rotation_finished", key_id=settled.key_id)
            return
        ours, current = self.signer.key_id[:12], key_id_of(own.current)[:12]
        if self.signer.key_id in own.key_ids:
            raise StartupError(
                f"key_mismatch: the log in {self._folder} was rotated from the key {ours} to {current}: name that key's file"
            )
        if self.log.read(own.size - 1, 1)[0].public_key != self.signer.public_key or self._damage is None:
            raise StartupError(
                f"key_mismatch: the log in {self._folder} goes on under the key {current}, not {ours}: name that key's file"
            )

    def _kept_secrets(self, own: OwnKeys) -> KeptSecrets:
        if len(own.chain) == 1:
            return first_secrets(self.signer)
        offset = own.firsts[-1] - 1
        event = self.log.read(offset, 1)[0].event
        try:
            return open_kept_secrets(event.kept, self.signer)
        except ValueError as error:
            raise LogDamaged(f"the rotation: {error}", offset=offset) from error

    async def _written_successor(self, key_file: KeyFile) -> Signer:
        if not self._key.is_known:
            raise NotReady("it is not known yet what the log holds")
        try:
            # Its files may not have followed the last rotation: then NAME.next is all that there is of the key in use.
            await asyncio.to_thread(key_file.settle, self.signer.public_key)
            successor = await asyncio.to_thread(key_file.write_successor, self.clock.random_bytes(32))
            await asyncio.to_thread(self._keys.admit, successor)
        except (KeyFileError, OSError) as error:
            raise KeyFileUnwritable(str(error)) from error
        return successor

    def _lock_for_signer_alone(self) -> None:
        try:
            self._keys.admit_only(self.signer)
        except OSError as error:
            # It opens with either, and the next start tries again.
            _log.error("old_key_still_opens", detail=str(error))

    async def _settle_key_file(self) -> None:
        """Have the key file hold the key that is current, once that is known."""
        if self._key_file is None or not self._key.is_known:
            return
        try:
            await asyncio.to_thread(self._key_file.settle, self.signer.public_key)
            await asyncio.to_thread(self._lock_for_signer_alone)
        except KeyFileError as error:
            # The log goes on under the new key, which lies beside; the next turn or start tries again.
            _log.error("key_file_not_replaced", detail=str(error))

    def _read_admin_key(self) -> None:
        if self.config.admin_key is not None:
            self._admin_hash = keyed_hash(self.secrets.admin_key, self.config.admin_key)
            return
        with suppress(NotReady, LogDamaged), self.view() as view:
            self._admin_hash = view.identity.admin_key_hash()

    async def _set_up_admin_key(self) -> None:
        self._read_admin_key()
        if self._admin_hash is None and self.config.auth_required:
            self.made_admin_key = secrets.token_urlsafe(32)
            self._admin_hash = keyed_hash(self.secrets.admin_key, self.made_admin_key)
            await self.execute(CreateAdminKey(key_hash=self._admin_hash))

    def _is_manifest_due(self) -> bool:
        with self.view() as view:
            own = view.identity.manifest()
        if own is None:
            return True
        return self.clock.now_ms() > own.expires_ms - (own.expires_ms - own.issued_ms) // 3
