"""Where the time of one write goes inside the node, stage by stage, without HTTP and without threads.

Always: the node's own functions on a log and views of their own, a batch of facts at a time, one stage after another; medians
over the batches, in microseconds a fact. Between other stages each costs more: here the processor's caches are warm.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec

from bench.yardstick import ORIGIN, request_body
from node.clock import Clock
from node.commands.decision import Context, Principal
from node.commands.facts import AssertFact, decide_assert_fact, row_of
from node.config import from_environ
from node.events.entry import Entry, salt_bytes_for, sign_entry
from node.events.log import Log
from node.http.facts import FactRequest
from node.http.records import new_record_of
from node.keys import Signer, equal_secrets, keyed_hash
from node.projections.apply import apply, move_checkpoint
from node.projections.view import View
from node.projections.views import Views
from node.refusals import MinuteShare, RefusalLimiter
from node.runtime import Node
from node.strict_json import decode, scan_json

BATCH = 64
BATCHES = 60
_SHARED_FIELDS = set(AssertFact.__struct_fields__) & set(FactRequest.__struct_fields__)
Result = TypeVar("Result")


def stages_us(folder: Path, *, batches: int = BATCHES) -> dict[str, float]:
    """Every stage of a write by name, in the order in which a write meets them."""
    spent: dict[str, list[float]] = {}
    with _open_stages(folder, spent) as stages:
        for number in range(batches):
            stages.write([request_body(number * BATCH + i) for i in range(BATCH)])
    return {f"stage: {name}": median(values) / BATCH for name, values in spent.items()}


class _Stages:
    """A node's parts without its threads: what the HTTP handler and the writer do, one stage after another."""

    def __init__(self, log: Log, views: Views, spent: dict[str, list[float]]) -> None:
        self._log, self._views, self._spent = log, views, spent
        self._clock, self._signer = Clock.system(), Signer.from_seed(os.urandom(32))
        config, _ = from_environ({"STIGMEM_NODE_URL": "http://127.0.0.1:8000"}, None, {})
        self._node = Node(config=config, clock=self._clock, signer=self._signer, node_id=ORIGIN)
        self._principal = Principal(via="admin", entity=ORIGIN)
        self._secret = os.urandom(32)
        self._admin_hash = keyed_hash(self._secret, "the admin key")

    def write(self, bodies: list[bytes]) -> None:
        requests = self._read(bodies)
        txn = self._views.begin(write=True)
        view = View(txn, self._views.handles)
        entries = self._make_entries(requests, view)
        self._time("fold", lambda: [apply(view, entry) for entry in entries])
        self._time("fold: hand over", view.flush)
        move_checkpoint(txn, self._views.handles, entries[-1])
        self._time("log: put and sync", lambda: self._log.append(entries[0].offset, entries))
        self._time("views: commit", txn.commit)
        self._answer(entries)

    def _read(self, bodies: list[bytes]) -> list[FactRequest]:
        self._time("admin key", lambda: [self._is_admin("the admin key") for _ in bodies])
        self._time("strict JSON", lambda: [scan_json(body) for body in bodies])
        return self._time("decode", lambda: [decode(body, FactRequest) for body in bodies])

    def _make_entries(self, requests: list[FactRequest], view: View) -> list[Entry]:
        commands = [self._command(request) for request in requests]
        contexts = [self._context() for _ in commands]
        decisions = self._time(
            "decide, seal included",
            lambda: [decide_assert_fact(c, view, context) for c, context in zip(commands, contexts, strict=True)],
        )
        entries: list[Entry] = []

        def sign_all() -> None:
            head = self._log.head()
            prev = head.leaf
            for decision, context in zip(decisions, contexts, strict=True):
                event = decision.events[0]
                entry = sign_entry(
                    event,
                    decision.actor,
                    offset=head.size + len(entries),
                    prev=prev,
                    hlc=context.hlc,
                    at_ms=context.at_ms,
                    signer=self._signer,
                    salts=self._clock.random_bytes(salt_bytes_for(event)),
                )
                entries.append(entry)
                prev = entry.leaf

        self._time("entry: encode, hash, sign", sign_all)
        return entries

    def _answer(self, entries: list[Entry]) -> None:
        def records() -> list[object]:
            with self._views.begin() as txn:
                view = View(txn, self._views.handles)
                return [new_record_of(row_of(entry.event, entry.offset), view, self._node) for entry in entries]

        shown = self._time("record", records)
        self._time("encode the answer", lambda: [msgspec.json.encode(record) for record in shown])

    def _is_admin(self, key: str) -> bool:
        return equal_secrets(keyed_hash(self._secret, key), self._admin_hash)

    def _command(self, request: FactRequest) -> AssertFact:
        return AssertFact(
            principal=self._principal,
            garden=request.garden_id,
            accepted_ms=self._clock.now_ms(),
            **{name: getattr(request, name) for name in _SHARED_FIELDS},
        )

    def _context(self) -> Context:
        return Context(
            node_id=ORIGIN,
            config=self._node.config,
            signer=self._signer,
            clock=self._clock,
            refusals=RefusalLimiter(),
            attestations=MinuteShare(60),
            at_ms=self._clock.at_ms(),
            hlc=self._clock.tick(),
        )

    def _time(self, name: str, run: Callable[[], Result]) -> Result:
        start = time.perf_counter_ns()
        result = run()
        self._spent.setdefault(name, []).append((time.perf_counter_ns() - start) / 1000)
        return result


@contextmanager
def _open_stages(folder: Path, spent: dict[str, list[float]]) -> Iterator[_Stages]:
    log, views = Log(folder / "log"), Views(folder / "views")
    try:
        yield _Stages(log, views, spent)
    finally:
        views.close()
        log.close()
