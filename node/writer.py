"""The one writer: take what waits, decide, sign, apply, append, commit, answer.

While the log syncs, rows of the views are handed over and answers are made; nobody is given one before the append has returned.

Always: the append to the log is the commit point. Before it nothing happened; after it everything did, and only then are the
views committed and the callers answered.
Always: the views transaction begins, commits and aborts on the loop's thread; the log's lives within one call on a thread of its
own.

Batches are natural: whatever arrived while the last append was on its way to disk. No timer, one fsync each;
the writer only lets the loop turn until nobody new comes.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import lmdb
import structlog
from msgspec import Struct

from node.clock import Clock
from node.commands import DECIDE_IN_STEPS, decide
from node.commands.decision import Context, Decision, Outcome
from node.config import Config
from node.errors import Internal, Overloaded, Refusal, StorageFailed, StorageFull, Unavailable
from node.events.entry import Entry, salt_bytes_for, sign_entry
from node.events.identity import KeyRotated
from node.events.log import Head, Log
from node.events.store import storage_errors
from node.kept_answers import KeptAnswers
from node.keys import KeyInUse
from node.projections.apply import apply, move_checkpoint
from node.projections.view import View
from node.projections.views import Views, meaning_of
from node.refusals import MinuteShare, RefusalLimiter

MAX_WAITING = 10_000
MAX_BATCH = 512
MAX_BATCH_S = 0.05
MAX_ARRIVAL_S = 0.005
# A turn of the loop reads what arrived; the next two start the handler and bring its body.
QUIET_TURNS = 3
# How long the steps of one command go on before the loop gets a turn.
MAX_STEPS_S = 0.01

_log = structlog.get_logger("stigmem.writer")


# What a caller makes of an outcome, and of the views it leads to, while it goes to disk: seen by nobody before it is there.
Prepare = Callable[[Outcome, View], object]


class _Waiting(Struct):
    command: Struct
    prepare: Prepare | None
    answer: asyncio.Future


class _Done(Struct):
    waiting: _Waiting
    decision: Decision
    entries: tuple[Entry, ...]
    result: object = None
    failure: Exception | None = None


class _TakenBack(Exception):
    """The last of so many commands ended in a refusal after it had done something: what they did is not to be kept."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


class Writer:
    """Executes commands one after another against the log and the views it owns."""

    def __init__(
        self,
        *,
        log: Log,
        views: Views,
        clock: Clock,
        key: KeyInUse,
        config: Config,
        node_id: str,
        refusals: RefusalLimiter,
        attestations: MinuteShare,
        kept: KeptAnswers,
    ) -> None:
        self._log, self._views, self._clock, self._key = log, views, clock, key
        self._config, self._node_id = config, node_id
        self._refusals, self._attestations, self._kept = refusals, attestations, kept
        # Why the disk took nothing the last time, until `resume`.
        self.storage_failure: Refusal | None = None
        # Not asyncio.Queue: its bookkeeping for many takers costs as much as a lookup, and there is one.
        self._waiting: deque[_Waiting] = deque()
        self._news, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._pause = asyncio.Lock()
        self._log_thread = ThreadPoolExecutor(1, thread_name_prefix="stigmem-log")
        self._task = asyncio.create_task(self._run(), name="stigmem-writer")

    def execute(self, command: Struct, prepare: Prepare | None = None) -> asyncio.Future:
        """Carry out a command: its Outcome, or what `prepare` made of it, once its events are on disk.

        Raises the command's refusal, or Overloaded before it queues.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded("too many writes are waiting")
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(command, prepare, answer))
        self._news.set()
        return answer

    async def try_log(self, look: Callable[[], None]) -> None:
        """After the disk failed: raise why the log takes no commits yet, or what `look` then finds, on the log's thread."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._log_thread, self._log.require_writable)
        await loop.run_in_executor(self._log_thread, look)

    async def rewrite(self, work: Callable[[Views], Views]) -> Views:
        """Run `work` on the log's thread while nothing is written, and go on with the views that it makes of these. Writes wait."""
        async with self._pause:
            # Else what an earlier failure left in the log alone would be missing from what is made.
            with storage_errors():
                self._require_in_step()
            made = asyncio.get_running_loop().run_in_executor(self._log_thread, work, self._views)
            self._views = await _outcome_of(made)
            return self._views

    async def resume(self, kept: Callable[[Views], Awaitable[Views]]) -> None:
        """Take writes again, with what `kept` makes of the views, once they stand at the head that the log really has.

        Raises why that does not go.
        """
        async with self._pause:
            self._views = await kept(self._views)
            with storage_errors():
                self._catch_up()
            self.storage_failure = None

    async def close(self) -> None:
        """Finish what waits, then stop."""
        while self._waiting or not self._idle.is_set():
            await self._idle.wait()
            await asyncio.sleep(0)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._log_thread.shutdown()

    @property
    def is_running(self) -> bool:
        return not self._task.done()

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._idle.clear()
            await self._let_arrive()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            rest = batch
            while rest:
                async with self._pause:
                    rest = await self._write(rest)
            if not self._waiting:
                self._news.clear()
                self._idle.set()

    async def _let_arrive(self) -> None:
        """Let requests in that are on their way already: callers just answered ask again together.

        Without it the first of them would go to disk alone and the others wait for it: two fsyncs where one will do.
        """
        deadline, turns_without = time.monotonic() + MAX_ARRIVAL_S, 0
        while turns_without < QUIET_TURNS and len(self._waiting) < MAX_BATCH and time.monotonic() < deadline:
            before = len(self._waiting)
            await asyncio.sleep(0)
            turns_without = turns_without + 1 if len(self._waiting) == before else 0

    async def _write(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Carry out commands of a batch in one append; returns those that its time did not suffice for."""
        txn: lmdb.Transaction | None = None
        try:
            with storage_errors():
                self._require_in_step()
                txn = self._views.begin(write=True)
                view = View(txn, self._views.handles)
                if type(batch[0].command) in DECIDE_IN_STEPS:
                    done, rest = await self._decide_in_steps(view, batch)
                else:
                    done, rest = self._decide_batch(view, batch)
                await self._commit(txn, view, done)
        except _TakenBack as taken_back:
            # Those beside it are sound, and none of them is told of it: each again by itself.
            txn.abort()
            for waiting in batch[: taken_back.count]:
                await self._write([waiting])
            return batch[taken_back.count :]
        # One of three places that catch everything: a bug in one command must not end the writer for all.
        except Exception as error:
            if txn is not None:
                txn.abort()
            await self._recover(batch, meaning_of(error))
            return []
        for item in done:
            _answer(item)
        return rest

    def _require_in_step(self) -> None:
        """Fold what an earlier failure left in the log alone: deciding on views that lack it would be deciding on the past."""
        if not self._is_in_step():
            self._catch_up()

    def _is_in_step(self) -> bool:
        return self._log.head().size == self._log.announced().size

    def _decide_batch(self, view: View, batch: list[_Waiting]) -> tuple[list[_Done], list[_Waiting]]:
        head = self._log.head()
        offset, prev, done = head.size, head.leaf, []
        deadline = time.monotonic() + MAX_BATCH_S
        for index, waiting in enumerate(batch):
            if waiting.answer.cancelled():
                continue
            if type(waiting.command) in DECIDE_IN_STEPS:
                return done, batch[index:]
            decision, entries = self._carry_out(waiting.command, view, offset, prev)
            done.append(_Done(waiting, decision, entries))
            if entries:
                offset, prev = offset + len(entries), entries[-1].leaf
            if decision.successor is not None:
                # What comes behind it is decided, and signed, with the key that is in use only once this is on disk.
                self._key.successor = decision.successor
                return done, batch[index + 1 :]
            if time.monotonic() > deadline:
                return done, batch[index + 1 :]
        return done, []

    async def _decide_in_steps(self, view: View, batch: list[_Waiting]) -> tuple[list[_Done], list[_Waiting]]:
        """Commands of several steps that wait one behind another, in one append like others.

        One that ends in a refusal takes back what it did by having its transaction dropped: raises _TakenBack unless it is alone.
        """
        head = self._log.head()
        offset, prev, done = head.size, head.leaf, []
        deadline = time.monotonic() + MAX_BATCH_S
        for index, waiting in enumerate(batch):
            if type(waiting.command) not in DECIDE_IN_STEPS:
                return done, batch[index:]
            if waiting.answer.cancelled():
                continue
            decision, entries = await self._walk(waiting.command, view, offset, prev)
            if decision.refusal is not None and entries:
                if index:
                    raise _TakenBack(index + 1)
                return [_Done(waiting, decision, ())], batch[1:]
            done.append(_Done(waiting, decision, entries))
            if entries:
                offset, prev = offset + len(entries), entries[-1].leaf
            if time.monotonic() > deadline:
                return done, batch[index + 1 :]
        return done, []

    async def _walk(self, command: Struct, view: View, offset: int, prev: bytes) -> tuple[Decision, tuple[Entry, ...]]:
        """One command, step by step: what it came to in the end, and the entries that were made on the way."""
        entries: list[Entry] = []
        steps = DECIDE_IN_STEPS[type(command)](command, view, self._context())
        outcome, pause = None, time.monotonic() + MAX_STEPS_S
        try:
            while True:
                decision, made = self._carry_out(steps.send(outcome), view, offset, prev)
                outcome = decision.refusal or Outcome(decision.reply, made)
                if made:
                    offset, prev = offset + len(made), made[-1].leaf
                    entries.extend(made)
                if time.monotonic() > pause:
                    await asyncio.sleep(0)
                    pause = time.monotonic() + MAX_STEPS_S
        except StopIteration as end:
            decision = end.value
        except Refusal as refusal:
            decision = Decision(refusal=refusal)
        entries.extend(self._sign(decision, self._context(), view, offset, prev))
        return decision, tuple(entries)

    def _carry_out(self, command: Struct, view: View, offset: int, prev: bytes) -> tuple[Decision, tuple[Entry, ...]]:
        context = self._context()
        try:
            decision = decide(command, view, context)
        except Refusal as refusal:
            decision = Decision(refusal=refusal)
        return decision, self._sign(decision, context, view, offset, prev)

    def _context(self) -> Context:
        return Context(
            node_id=self._node_id,
            config=self._config,
            signer=self._key.signer,
            clock=self._clock,
            refusals=self._refusals,
            attestations=self._attestations,
            at_ms=self._clock.at_ms(),
            hlc=self._clock.tick(),
        )

    def _sign(self, decision: Decision, context: Context, view: View, offset: int, prev: bytes) -> tuple[Entry, ...]:
        """Make the entries of what was decided, and fold them."""
        entries: list[Entry] = []
        signer = context.signer
        for event in decision.events:
            entry = sign_entry(
                event,
                decision.actor,
                offset=offset + len(entries),
                prev=entries[-1].leaf if entries else prev,
                hlc=self._hlc(context, decision, is_first=not entries),
                at_ms=context.at_ms,
                signer=signer,
                salts=self._clock.random_bytes(salt_bytes_for(event)),
            )
            apply(view, entry)
            entries.append(entry)
            if isinstance(event, KeyRotated):
                signer = decision.successor
        return tuple(entries)

    def _hlc(self, context: Context, decision: Decision, *, is_first: bool) -> str:
        if decision.observed_hlc is not None and is_first:
            self._clock.observe(decision.observed_hlc)
            return self._clock.tick()
        return context.hlc if is_first else self._clock.tick()

    async def _commit(self, txn: lmdb.Transaction, view: View, done: list[_Done]) -> None:
        entries = [entry for item in done for entry in item.entries]
        if not entries:
            _prepare(done, view)
            txn.abort()
            return
        move_checkpoint(txn, self._views.handles, entries[-1])
        append = asyncio.get_running_loop().run_in_executor(
            self._log_thread, self._log.append, entries[0].offset, entries, self._log.lay(entries)
        )
        try:
            # What needs no disk is done while the disk is busy.
            view.flush()
            _prepare(done, view)
        finally:
            head = await _outcome_of(append)
        self._key.settle(entries[-1].public_key)
        self._views.commit(txn)
        self._kept.note(entries)
        self._log.announce(head)

    async def _recover(self, batch: list[_Waiting], error: Exception) -> None:
        """Bring views and log back together after a batch failed, then settle each of its commands."""
        waiting = [item for item in batch if not item.answer.done()]
        if isinstance(error, StorageFull | StorageFailed):
            error = self.storage_failure = self._log.store.reason_of(error)
        if isinstance(error, Refusal) or not self._is_in_step():
            # Never run again what the log may have taken.
            _log.error("append_failed", error=repr(error), writes=len(waiting))
            self._try_to_catch_up()
            _refuse_all(waiting, error)
        elif len(batch) > 1:
            # A bug in deciding or folding, before anything was appended: running them one by one tells whose it is.
            self._key.forget_successor()
            _log.warning("batch_split", error=repr(error), commands=len(waiting))
            for item in waiting:
                await self._write([item])
        else:
            self._key.forget_successor()
            _log.error("command_failed", exc_info=error)
            _refuse_all(waiting, Internal())

    def _catch_up(self) -> None:
        """After an append of unknown outcome: what the log holds is true, so fold it. Callers are refused all the same."""
        head = self._log.refresh()
        if head.size:
            self._key.settle(self._log.read(head.size - 1, 1)[0].public_key)
        self._kept.clear()
        self._views.fold_forward(self._log, head.size)
        self._log.announce(head)

    def _try_to_catch_up(self) -> None:
        try:
            self._catch_up()
        except Refusal as refusal:
            # The next batch tries again before it decides anything.
            _log.error("views_behind", code=refusal.code, detail=refusal.detail)


async def _outcome_of(append: asyncio.Future) -> Head:
    # Cancelling whoever waits does not stop the thread: wait to the end, or the views would fall behind the log.
    while not append.done():
        try:
            await asyncio.shield(append)
        except asyncio.CancelledError:
            if append.cancelled():
                raise
    return append.result()


def _prepare(done: list[_Done], view: View) -> None:
    """Make each caller's answer, given out once its entries are on disk."""
    for item in done:
        outcome, prepare = Outcome(item.decision.reply, item.entries), item.waiting.prepare
        try:
            if item.decision.refusal is not None:
                item.failure = item.decision.refusal
            else:
                item.result = outcome if prepare is None else prepare(outcome, view)
        # One of three places that catch everything: one caller's answer must not fail the others, whose entries are under way.
        except Exception as error:
            item.failure = error


def _answer(item: _Done) -> None:
    answer = item.waiting.answer
    if answer.done():
        return
    if item.failure is not None:
        answer.set_exception(item.failure)
    else:
        answer.set_result(item.result)


def _refuse_all(waiting: list[_Waiting], error: Exception) -> None:
    for item in waiting:
        if not item.answer.done():
            item.answer.set_exception(error if isinstance(error, Unavailable | Internal) else Internal())
