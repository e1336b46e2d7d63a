"""The append-only log on a real LMDB folder: append, read, follow, reopen, and what it does when it cannot."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from node.errors import LogDamaged
from node.events import EVENT_TYPES
from node.events.entry import Entry
from node.events.event import Event
from node.events.identity import RequestRefused
from node.events.log import Head, Log, UnknownFormat, WrongOffset
from node.events.tree import EMPTY_ROOT
from tests.clocks import fixed_clock
from tests.events.logs import signed, write_log
from tests.events.samples import samples
from tests.independent.verifier import check_log, read_log, root_of

SAMPLES = samples()
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[Callable[[], Log]]:
    opened: list[Log] = []

    def open_again() -> Log:
        while opened:
            opened.pop().close()
        opened.append(Log(tmp_path / "log"))
        return opened[-1]

    yield open_again
    while opened:
        opened.pop().close()


@pytest.fixture
def log(open_log: Callable[[], Log]) -> Log:
    return open_log()


def _entries(log: Log, events: list[Event], clock=None) -> list[Entry]:
    return signed(events, log.head(), clock=clock or fixed_clock())


def _refused(number: int) -> Event:
    return RequestRefused(code="example", detail=str(number), subject="GET /")


def test_an_empty_log_has_the_head_of_nothing(log):
    assert log.head() == log.announced() == Head(size=0, root=EMPTY_ROOT, leaf=bytes(32))
    assert log.read(0, 10) == []


def test_what_was_appended_is_read_back_entry_by_entry(log):
    entries = _entries(log, SAMPLES)
    head = log.append(0, entries)
    assert head == log.head() == Head(size=len(entries), root=head.root, leaf=entries[-1].leaf)
    assert log.read(0, len(entries)) == entries
    assert list(log.scan(0, len(entries))) == entries
    assert [log.stored(entry.offset) for entry in entries] == [entry.stored for entry in entries]
    assert [log.item(4, index) for index in range(len(entries[4].items))] == list(entries[4].items)


def test_a_read_ends_at_its_limit_and_at_the_end_of_the_log(log):
    entries = _entries(log, SAMPLES)
    log.append(0, entries)
    assert log.read(3, 2) == entries[3:5]
    assert log.read(len(entries) - 1, 10) == entries[-1:]
    assert log.read(len(entries), 10) == []


def test_a_read_ends_with_the_entry_that_fills_its_bytes_and_has_at_least_one(log):
    entries = _entries(log, SAMPLES)
    log.append(0, entries)
    two = entries[3].stored_bytes + entries[4].stored_bytes
    assert log.read(3, 5, max_bytes=1) == entries[3:4]
    assert log.read(3, 5, max_bytes=two) == entries[3:5]
    assert log.read(3, 5, max_bytes=two + 1) == entries[3:6]


def test_a_scan_longer_than_a_batch_misses_nothing(log):
    clock = fixed_clock()
    entries = _entries(log, [_refused(number) for number in range(600)], clock)
    log.append(0, entries)
    assert [entry.offset for entry in log.scan(1, 599)] == list(range(1, 599))
    assert [entry.offset for entry in log.scan(590, 5000)] == list(range(590, 600))


@pytest.mark.parametrize("expected", [0, 1, 3, 2**40])
def test_an_append_at_a_wrong_offset_is_refused_and_writes_nothing(log, expected):
    clock = fixed_clock()
    log.append(0, _entries(log, SAMPLES[:2], clock))
    before, entries = log.head(), _entries(log, SAMPLES[2:4], clock)
    with pytest.raises(WrongOffset):
        log.append(expected, entries)
    assert log.head() == before
    assert len(log.read(0, 10)) == 2
    assert log.append(2, entries).size == 4


def test_entries_that_were_made_for_another_place_are_refused_and_nothing_is_written(log):
    clock = fixed_clock()
    first, second, third = _entries(log, SAMPLES[:3], clock)
    for misplaced in ([second], [first, third], [first, first]):
        with pytest.raises(WrongOffset):
            log.append(0, misplaced)
        assert (log.head().size, log.read(0, 10)) == (0, [])
    assert log.append(0, [first, second, third]).size == 3


def test_an_append_of_no_entries_changes_nothing(log):
    log.append(0, _entries(log, SAMPLES[:3]))
    before = log.head()
    assert log.append(3, []) == log.head() == before


def test_a_reopened_log_stands_where_it_stood_and_goes_on(open_log):
    log, clock = open_log(), fixed_clock()
    for start in range(0, len(SAMPLES), 3):
        log.append(start, _entries(log, SAMPLES[start : start + 3], clock))
        before = log.head()
        log = open_log()
        assert log.head() == log.announced() == before
    leaves = [entry.leaf for entry in log.read(0, len(SAMPLES))]
    assert log.head().root == root_of(leaves)


def test_the_log_on_disk_is_sound_to_the_independent_verifier(tmp_path):
    entries = write_log(tmp_path, SAMPLES)
    assert check_log(tmp_path) == []
    assert [entry.leaf_hash for entry in read_log(tmp_path)] == [entry.leaf for entry in entries]


async def test_followers_see_entries_when_they_are_announced_and_not_before(log):
    clock = fixed_clock()
    log.announce(log.append(0, _entries(log, SAMPLES[:2], clock)))
    following = log.follow(1, types=EVENT_TYPES)
    assert (await anext(following)).offset == 1
    news = asyncio.ensure_future(anext(following))
    head = log.append(2, _entries(log, SAMPLES[2:4], clock))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not news.done()
    assert log.announced().size == 2
    log.announce(head)
    assert (await news).offset == 2
    assert (await anext(following)).offset == 3
    await following.aclose()


async def test_a_follower_sees_the_types_it_asked_for_and_no_others(log):
    clock = fixed_clock()
    log.announce(log.append(0, _entries(log, [*SAMPLES[:1], *map(_refused, range(300)), *SAMPLES[1:3]], clock)))
    following = log.follow(0, types={"node.created.1", "manifest.published.1"})
    assert [(await anext(following)).offset for _ in range(2)] == [0, 302]
    news = asyncio.ensure_future(anext(following))
    for event, is_asked_for in [(_refused(300), False), (SAMPLES[2], True)]:
        log.announce(log.append(log.head().size, _entries(log, [event], clock)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert news.done() == is_asked_for
    assert (await news).offset == 304
    await following.aclose()


async def test_a_follower_that_gave_up_is_forgotten(log):
    log.announce(log.append(0, _entries(log, SAMPLES[:1])))
    following = log.follow(0, types=EVENT_TYPES)
    assert (await anext(following)).offset == 0
    await following.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(following)


def test_a_log_of_another_format_is_not_opened_and_says_what_to_do(tmp_path):
    write_log(tmp_path, SAMPLES[:1])
    _edit(tmp_path / "log", "meta", lambda txn: txn.put(b"format", b"2"))
    for is_readonly in (True, False):
        with pytest.raises(UnknownFormat, match="open it with the version that wrote it"):
            Log(tmp_path / "log", is_readonly=is_readonly)


@pytest.mark.parametrize(
    ("table", "edit", "words"),
    [
        pytest.param("headers", lambda txn: txn.delete(_key(2)), "missing", id="entry missing"),
        pytest.param("headers", lambda txn: txn.put(_key(2), txn.get(_key(1))), "says offset 1", id="entry of another"),
        pytest.param("headers", lambda txn: txn.put(_key(2), b"short"), "cannot be read", id="entry cut short"),
        pytest.param("headers", lambda txn: _flip(txn, _key(2), 20, 0x80), "cannot be read", id="header not UTF-8"),
        pytest.param("items", lambda txn: txn.delete(_key(2, 1)), "item 1 is missing", id="item missing"),
        pytest.param("items", lambda txn: txn.put(_key(2, 1), b""), "form none", id="item empty"),
        pytest.param("items", lambda txn: _flip(txn, _key(2, 1), 0, 0x02), "form 02", id="item of another form"),
        pytest.param("items", lambda txn: _flip(txn, _key(2, 1), -1, 0x01), "item 1 does not match", id="item changed"),
    ],
)
def test_reading_a_damaged_entry_names_its_offset(tmp_path, table, edit, words):
    write_log(tmp_path, SAMPLES)
    _edit(tmp_path / "log", table, edit)
    log = Log(tmp_path / "log", is_readonly=True)
    try:
        assert len(log.read(0, 2)) == 2
        with pytest.raises(LogDamaged, match=f"offset 2: .*{words}") as damage:
            log.read(0, 10)
        assert damage.value.data == {"offset": 2}
    finally:
        log.close()


def test_a_missing_key_is_damage(tmp_path):
    write_log(tmp_path, SAMPLES)
    _edit(tmp_path / "log", "keys", lambda txn: txn.delete(next(iter(txn.cursor().iternext(values=False)))))
    log = Log(tmp_path / "log")
    try:
        with pytest.raises(LogDamaged, match="offset 0: the public key"):
            log.read(0, 1)
    finally:
        log.close()


# In a process of its own, because the limit on file sizes holds for all files of a process.
_FULL_DISK = """
import resource, sys
from pathlib import Path
from node.errors import Unavailable
from node.events.identity import RequestRefused
from node.events.log import Log
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import samples

clock, log = fixed_clock(), Log(Path(sys.argv[1]) / "log")
log.append(0, signed(samples(), clock=clock))
before = log.head()
size = (Path(sys.argv[1]) / "log" / "data.mdb").stat().st_size
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
large = [RequestRefused(code="c", detail="x" * 300_000, subject="s")]
resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[2]), unlimited[1]))
for _ in range(3):
    try:
        log.append(before.size, signed(large, before, clock=clock))
    except Unavailable as refusal:
        print(refusal.code)
    assert log.head() == before
    assert len(log.read(0, 1000)) == before.size
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
assert log.append(before.size, signed(large, before, clock=clock)).size == before.size + 1
log.close()
"""


@pytest.mark.parametrize(
    ("room_bytes", "code"),
    [
        pytest.param(0, "storage_full", id="no room at all"),
        # LMDB calls a write that was cut short an input/output error, whatever cut it short.
        pytest.param(65536, "storage_failed", id="room for a part of it"),
    ],
)
def test_an_append_to_a_full_disk_is_refused_whole_and_passes_when_there_is_room(tmp_path, room_bytes, code):
    script = [sys.executable, "-c", _FULL_DISK, str(tmp_path), str(room_bytes)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    assert (done.returncode, done.stdout.splitlines()) == (0, [code] * 3), done.stderr
    assert check_log(tmp_path) == []


def _key(offset: int, index: int | None = None) -> bytes:
    return offset.to_bytes(8) + (b"" if index is None else index.to_bytes(4))


def _flip(txn: lmdb.Transaction, key: bytes, index: int, mask: int) -> None:
    value = bytearray(txn.get(key))
    value[index] ^= mask
    txn.put(key, bytes(value))


def _edit(path: Path, table: str, edit: Callable[[lmdb.Transaction], object]) -> None:
    with lmdb.open(str(path), max_dbs=8, map_size=1 << 30) as environment:
        db = environment.open_db(table.encode())
        with environment.begin(db=db, write=True) as txn:
            edit(txn)
