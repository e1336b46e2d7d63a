"""A log made ready in portions, wherever they are cut, folds to what it folds to entry by entry."""

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from node.events.facts import FactAsserted
from node.events.log import Log
from node.events.log_check import LogCheck
from node.projections.views import Views
from replay.chain import Damaged, log_check
from replay.folding import fold_portions, fold_to
from replay.portions import OneByOne, PlainFacts, Portion, Portions, make_ready
from tests.events.logs import write_log
from tests.events.samples import NODE_ID, fact
from tests.replay.folders import edit, flip, key, replay
from tests.replay.sound import sound_events, sound_fact

SAMPLES = sound_events()
# More than one message takes.
LONG = 5000


def _events(count: int) -> list[object]:
    """The samples, and facts of which some are about the same thing."""
    more = (sound_fact(1000 + n, entity=f"{NODE_ID}/thing/{n % (count // 2)}", supersedes=()) for n in range(count))
    return [*SAMPLES, *(FactAsserted(judgement=None, fact=one) for one in more)]


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("long")
    write_log(data_dir, _events(LONG))
    return data_dir / "log"


@pytest.fixture(scope="module")
def expected(long_log: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every row of the views that the node's own fold makes of it."""
    log, views = Log(long_log, is_readonly=True), Views(tmp_path_factory.mktemp("expected"))
    views.fold_forward(log, log.head().size)
    log.close()
    rows = _rows(views)
    views.close()
    return rows


def _rows(views: Views) -> dict[str, list[tuple[bytes, bytes]]]:
    with views.begin() as txn:
        return {name: list(txn.cursor(db=handle)) for name, handle in views.handles.items()}


def _folded(folder: Path, ready: Iterator[Portion]) -> dict[str, list[tuple[bytes, bytes]]]:
    views = Views(folder)
    try:
        fold_portions(views, ready, lambda _: None)
        return _rows(views)
    finally:
        views.close()


def _cut(log: LogCheck, size: int, rng: random.Random) -> Iterator[Portion]:
    first = 0
    while first < size:
        portion = make_ready(log, first, min(size, first + rng.randrange(1, 1500)))
        # As another process would hand it on.
        yield msgspec.msgpack.decode(msgspec.msgpack.encode(portion), type=Portion)
        first = portion.end


def test_portions_that_other_processes_make_ready_fold_to_the_same_rows(long_log, expected, tmp_path):
    with Portions(long_log, LONG + len(SAMPLES), 2) as ready:
        assert _folded(tmp_path / "views", iter(ready)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_portions_cut_anywhere_fold_to_the_same_rows(long_log, expected, tmp_path, seed):
    log = log_check(long_log)
    assert _folded(tmp_path / "views", _cut(log, log.size, random.Random(seed))) == expected
    log.close()


def test_the_log_itself_folds_to_the_same_rows(long_log, expected, tmp_path):
    log, views = Log(long_log, is_readonly=True), Views(tmp_path / "views")
    fold_to(views, log, log.head().size, lambda _: None)
    assert _rows(views) == expected
    views.close()
    log.close()


def test_plain_facts_come_as_their_rows_and_all_else_as_it_lies_in_the_log(long_log):
    log = log_check(long_log)
    portion = make_ready(log, 0, len(SAMPLES) + 500)
    assert [type(part) for part in portion.parts] == [OneByOne, PlainFacts]
    assert [entry.open().event for entry in portion.parts[0].entries] == SAMPLES[: len(portion.parts[0].entries)]
    log.close()


def test_a_reading_ends_where_its_items_come_to_the_bytes_that_were_asked_for(long_log):
    log = log_check(long_log)
    sizes = [sum(map(len, items)) for items in log.read(0, 4, 1 << 20).committed]
    assert [log.read(0, 9, most).end for most in (1, sizes[0], sizes[0] + 1, sum(sizes[:3]))] == [1, 1, 2, 3]
    log.close()


@pytest.mark.parametrize(("table", "row"), [("headers", key(LONG)), ("items", key(LONG, 1))], ids=["header", "item"])
def test_nothing_is_made_ready_from_the_first_damage_on(tmp_path, table, row):
    write_log(tmp_path, _events(LONG))
    edit(tmp_path / "log", table, flip(row, 30))
    views = Views(tmp_path / "views")
    with pytest.raises(Damaged) as damaged, Portions(tmp_path / "log", LONG + len(SAMPLES), 2) as ready:
        fold_portions(views, iter(ready), lambda _: None)
    assert damaged.value.offset == LONG
    assert views.checkpoint().size <= LONG
    views.close()


def test_an_entry_that_cannot_be_folded_is_named_by_a_rebuild(tmp_path):
    foreign = fact(1, seal=None, hlc="no clock", source="stigmem://elsewhere.example/agent")
    write_log(tmp_path, [*SAMPLES[:7], FactAsserted(judgement=None, fact=foreign), *SAMPLES[7:]])
    found = replay("rebuild", tmp_path)
    assert (found.code, found.last_line.startswith("damaged at offset 7: the entry cannot be folded")) == (6, True)
