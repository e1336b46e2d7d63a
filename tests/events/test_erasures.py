"""What a log knows of the items that its entries erase: all of it, whenever it asks, and whoever asked before."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.errors import LogDamaged, StorageFailed
from node.events.event import Event
from node.events.identity import RequestRefused
from node.events.log import ITEM_KEY, Log
from node.events.log_check import LogCheck
from node.events.tombstones import EntityErased, ErasedPlace, packed_places
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import NODE_ID, samples

REPOSITORY = Path(__file__).parents[2]
PLAIN_ITEM = 1


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log")
    append(log, samples()[0], *(RequestRefused(code="c", detail=str(number), subject="s") for number in range(3)))
    yield log
    log.close()


def append(log: Log, *events: Event) -> None:
    clock = fixed_clock()
    if log.head().size:
        last = log.read(log.head().size - 1, 1)[0]
        clock.resume(last.hlc, last.at_ms)
    log.append(log.head().size, signed(events, log.head(), clock=clock))


def erasing(offset: int) -> EntityErased:
    places = packed_places([ErasedPlace(offset, PLAIN_ITEM, None, None)])
    return EntityErased(tombstone_id="t", entity_uri=NODE_ID, organisations=(), places=places)


def test_nothing_is_deleted_that_no_entry_erases(log):
    with pytest.raises(LogDamaged):
        log.erase([(1, PLAIN_ITEM)])

    append(log, erasing(1))
    log.erase([(1, PLAIN_ITEM)])


def test_what_entries_from_an_offset_on_erase_is_told_alone(log):
    append(log, erasing(1))
    size = log.head().size
    assert log.erasures(0) == {1: {PLAIN_ITEM}}
    assert log.erasures(size) == {}

    append(log, erasing(2))

    assert log.erasures(0) == {1: {PLAIN_ITEM}, 2: {PLAIN_ITEM}}
    assert log.erasures(size) == {2: {PLAIN_ITEM}}


def test_whoever_asks_on_an_older_snapshot_hides_no_erasure_from_others(log):
    with log.store.begin() as older:
        append(log, erasing(1))
        assert not log.is_erased(older, 1, PLAIN_ITEM)

    assert log.erasures(0) == {1: {PLAIN_ITEM}}


def test_a_log_whose_file_cannot_be_exchanged_goes_on_with_the_one_it_has(log, tmp_path):
    copy, in_the_way = tmp_path / "copy", tmp_path / "old"
    log.store.copy_to(copy)
    (in_the_way / "folder").mkdir(parents=True)

    with pytest.raises(StorageFailed):
        log.store.exchange(copy, in_the_way)

    append(log, RequestRefused(code="c", detail="later", subject="s"))
    assert len(log.read(0, 10)) == 5


def test_a_check_of_a_log_that_grows_takes_for_erased_what_was_erased_since(log):
    check = LogCheck(log.store, log.items)
    for offset in (1, 2):
        append(log, erasing(offset))
        log.erase([(offset, PLAIN_ITEM)])
        assert check.check(0, log.head().size).damage is None

    with log.store.begin(write=True) as txn:
        txn.delete(ITEM_KEY.pack(3, PLAIN_ITEM), db=log.store.table("items"))
    assert check.check(0, log.head().size).damage.offset == 3


# An append of unknown outcome: the disk has it, and whoever appended it was told that it failed.
_APPEND = """
import sys
from pathlib import Path
from node.events.log import Log
from tests.events.test_erasures import append, erasing

append(Log(Path(sys.argv[1])), erasing(2))
"""


def test_an_erasure_that_is_in_the_log_after_all_is_known_once_its_head_is_read(log):
    append(log, erasing(1))
    assert log.erasures(0) == {1: {PLAIN_ITEM}}
    script = [sys.executable, "-c", _APPEND, str(log.store.path)]
    subprocess.run(script, check=True, timeout=60, cwd=REPOSITORY)

    log.refresh()

    assert log.erasures(0) == {1: {PLAIN_ITEM}, 2: {PLAIN_ITEM}}
