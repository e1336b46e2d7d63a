"""What a stretch of the log folds to, as far as that can be made beforehand: by other processes, while one folds.

Always: what is made ready was checked: chain and tree, the log's last signature, and items against commitments. Plain facts
come as the rows that they make (`node/projections/plain_facts.py`), every other entry as it lies in the log.

Does not fold (see folding.py).
"""

from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

from msgspec import Struct, msgpack

from node.errors import Refusal
from node.events.entry import SALT_BYTES, Entry, Item, actor_of, open_entry
from node.events.event import plain_members, type_of
from node.events.facts import FactAsserted
from node.events.log_check import Damage, LogCheck, Stretch
from node.projections.base import DAY_MS
from node.projections.plain_facts import Asserted, PlainFacts, is_plain, worth_folding_together
from node.times import parse_rfc3339
from replay.chain import Damaged, log_check
from replay.probe import first_unreadable_offset
from replay.workers import Failed, Gone, Tell, Worker

# What one message holds: enough for its rows to lie close together in the tables.
_STRETCH = 4096
_STRETCH_BYTES = 16 << 20
_ASSERTED = type_of(FactAsserted)


class Lying(Struct, frozen=True, array_like=True):
    """An entry as it lies in the log, with the key that it names; items are salt ‖ content, None where they were erased."""

    stored: bytes
    items: list[bytes | None]
    public_key: bytes

    def open(self) -> Entry:
        items = tuple(None if item is None else Item(item[:SALT_BYTES], item[SALT_BYTES:]) for item in self.items)
        return open_entry(self.stored, items, self.public_key)


class OneByOne(Struct, frozen=True, array_like=True, tag=True):
    """Entries that are folded each by itself, the first of them at `first`."""

    first: int
    entries: list[Lying]


class Portion(Struct, frozen=True, array_like=True):
    """The entries of [first, end) in parts, as far as they hold; `leaf` is the hash of the last, `items` how many they have."""

    first: int
    end: int
    leaf: bytes
    items: int
    parts: list[PlainFacts | OneByOne]
    damage: Damage | None


class _Task(Struct, frozen=True):
    first: int
    end: int


class Portions:
    """The first `size` entries of a log, made ready by so many processes, which are at work as soon as this is there.

    To be gone through once, in order, and closed by `with`. Raises NotDone, and Damaged where a reader is ended by the file.
    """

    def __init__(self, log_dir: Path, size: int, processes: int) -> None:
        self._log_dir = log_dir
        self._tasks = deque(_Task(first, min(first + _STRETCH, size)) for first in range(0, size, _STRETCH))
        # Each has one task, in the order of these.
        self._workers = deque(Worker(partial(_make_preparer, log_dir)) for _ in range(min(processes, len(self._tasks))))
        for worker in self._workers:
            worker.give(self._tasks.popleft())

    def __iter__(self) -> Iterator[Portion]:
        while self._workers:
            worker = self._workers[0]
            portion = _portion_of(worker, self._log_dir)
            if portion.damage is None and portion.end < worker.task.end:
                worker.give(_Task(portion.end, worker.task.end))
            elif self._tasks:
                self._workers.rotate(-1)
                worker.give(self._tasks.popleft())
            else:
                self._workers.popleft().end()
            yield portion

    def __enter__(self) -> "Portions":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()


def make_ready(log: LogCheck, first: int, end: int) -> Portion:
    """The entries of [first, end), or of them as many as one message takes."""
    stretch = log.read(first, end, _STRETCH_BYTES)
    return Portion(
        first=first,
        end=stretch.end,
        leaf=stretch.leaves[-1] if stretch.leaves else b"",
        items=sum(item is not None for items in stretch.committed for item in items),
        parts=list(_parts_of(stretch, log)),
        damage=stretch.damage,
    )


def _portion_of(worker: Worker, log_dir: Path) -> Portion:
    match worker.hear():
        case bytes(message):
            return _decode(message)
        case Gone(how=how):
            offset = first_unreadable_offset(log_dir, worker.task.first, worker.task.end)
            raise Damaged(worker.task.first if offset is None else offset, f"reading it ends the reader: {how}")
        case Failed(offset=offset, words=words):
            raise Damaged(offset, words)


def _make_preparer(log_dir: Path) -> object:
    return partial(_prepare, log_check(log_dir))


def _prepare(log: LogCheck, task: _Task, _: Tell) -> bytes:
    return _encode(make_ready(log, task.first, task.end))


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(Portion).decode


def _parts_of(stretch: Stretch, log: LogCheck) -> Iterator[PlainFacts | OneByOne]:
    plain = [_plain(stretch, index) for index in range(len(stretch.stored))]
    first = reached = 0
    for day, run in groupby(plain, key=_day_of):
        asserted = list(run)
        found = None if day is None else worth_folding_together(asserted)
        if found is not None:
            yield from _one_by_one(stretch, log, first, reached)
            yield found
            first = reached + len(asserted)
        reached += len(asserted)
    yield from _one_by_one(stretch, log, first, reached)


def _day_of(asserted: Asserted | None) -> int | None:
    return None if asserted is None else asserted.at_ms // DAY_MS


def _plain(stretch: Stretch, index: int) -> Asserted | None:
    """What an entry asserts, where that is a plain fact."""
    header, items = stretch.headers[index], stretch.committed[index]
    if header.type != _ASSERTED or len(items) != 2 or None in items:
        return None
    try:
        actor_of(items[0][SALT_BYTES:])
        fact = plain_members(FactAsserted, items[1][SALT_BYTES:]).fact
        at_ms = parse_rfc3339(header.at)
        return Asserted(header.offset, header.hlc, at_ms, stretch.leaves[index], fact) if is_plain(fact) else None
    except (ValueError, Refusal):
        # What is wrong with it is said when it is opened by itself.
        return None


def _one_by_one(stretch: Stretch, log: LogCheck, start: int, end: int) -> Iterator[OneByOne]:
    if start < end:
        lying = [
            Lying(stretch.stored[index], stretch.committed[index], log.key_of(stretch.headers[index]))
            for index in range(start, end)
        ]
        yield OneByOne(stretch.first + start, lying)
