"""The views on disk: trusted where they can be, folded again where not, always to the same tables."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from node.events.log import Log
from node.projections import PROJECTIONS
from node.projections.apply import apply_all, portion
from node.projections.views import Current, Views, close_current, open_live, read_current, rebuild
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import samples

SAMPLES = samples()
CUT = 20


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = Log(tmp_path / "log")
    opened.append(0, signed(SAMPLES, clock=fixed_clock(step_ms=7)))
    yield opened
    opened.close()


@pytest.fixture
def expected(log: Log, tmp_path: Path) -> dict[str, str]:
    """The digests of the whole log, folded where no test looks."""
    views = Views(tmp_path / "expected")
    views.fold_forward(log, len(SAMPLES))
    digests = views.digests()
    views.close()
    return digests


@pytest.fixture
def views_dir(log: Log, tmp_path: Path) -> Path:
    """Live views at the head, closed cleanly, in folder 1."""
    close_current(tmp_path / "views", rebuild(tmp_path / "views", log))
    return tmp_path / "views"


def _reopen(views_dir: Path, log: Log) -> tuple[int, int, dict[str, str]]:
    """Open and close the live views: in which folder they lie, where they stand, what they hold."""
    views = open_live(views_dir, log, 1000) or rebuild(views_dir, log)
    found = read_current(views_dir).folder, views.checkpoint().size, views.digests()
    close_current(views_dir, views)
    return found


def _rewrite(views_dir: Path, **changed: object) -> None:
    current = msgspec.structs.replace(read_current(views_dir), **changed)
    (views_dir / "CURRENT").write_bytes(msgspec.json.encode(current))


def _set_back(views_dir: Path, log: Log) -> None:
    shutil.rmtree(views_dir / "1")
    behind = Views(views_dir / "1")
    behind.fold_forward(log, CUT)
    behind.close()


def test_views_are_made_where_there_are_none(log, expected, tmp_path):
    assert _reopen(tmp_path / "new", log) == (1, len(SAMPLES), expected)


def test_views_closed_cleanly_are_opened_as_they_are(views_dir, log, expected):
    before = (views_dir / "1" / "data.mdb").stat().st_ino
    assert _reopen(views_dir, log) == (1, len(SAMPLES), expected)
    assert (views_dir / "1" / "data.mdb").stat().st_ino == before


def test_views_behind_the_log_are_folded_forward_in_place(views_dir, log, expected):
    _set_back(views_dir, log)
    assert _reopen(views_dir, log) == (1, len(SAMPLES), expected)


def test_views_not_closed_in_this_run_of_the_machine_are_folded_forward_in_place(views_dir, log, expected):
    _set_back(views_dir, log)
    _rewrite(views_dir, closed=False)
    assert _reopen(views_dir, log) == (1, len(SAMPLES), expected)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            lambda views_dir: _rewrite(views_dir, closed=False, boot_id="earlier"), id="the machine went down"
        ),
        pytest.param(
            lambda views_dir: _rewrite(views_dir, versions={"facts": 0}), id="another version of a projection"
        ),
        pytest.param(lambda views_dir: (views_dir / "CURRENT").unlink(), id="no CURRENT"),
        pytest.param(lambda views_dir: (views_dir / "CURRENT").write_bytes(b"{"), id="CURRENT cut short"),
        pytest.param(lambda views_dir: (views_dir / "CURRENT").write_bytes(b""), id="CURRENT empty"),
        pytest.param(
            lambda views_dir: (views_dir / "CURRENT").write_bytes(b'{"boot_id":"\xff"}'), id="CURRENT not UTF-8"
        ),
        pytest.param(lambda views_dir: shutil.rmtree(views_dir / "1"), id="the folder is gone"),
        pytest.param(lambda views_dir: (views_dir / "1" / "data.mdb").write_bytes(b"x" * 9999), id="not an LMDB file"),
        pytest.param(lambda views_dir: (views_dir / "1" / "data.mdb").write_bytes(b""), id="file emptied"),
    ],
)
def test_views_whose_state_is_in_doubt_are_made_anew(views_dir, log, expected, spoil: Callable[[Path], object]):
    _rewrite(views_dir, closed=True)
    spoil(views_dir)
    folder, size, digests = _reopen(views_dir, log)
    assert (size, digests) == (len(SAMPLES), expected)
    assert [path.name for path in views_dir.iterdir() if path.is_dir()] == [str(folder)]


def test_views_ahead_of_the_log_or_of_another_log_are_made_anew(views_dir, tmp_path):
    for name, events in (("shorter", SAMPLES[:CUT]), ("other", [*SAMPLES[:CUT], *SAMPLES[CUT:][::-1]])):
        other = Log(tmp_path / name)
        other.append(0, signed(events, clock=fixed_clock(step_ms=7)))
        folder = tmp_path / f"views-of-{name}"
        shutil.copytree(views_dir, folder)
        number, size, _ = _reopen(folder, other)
        assert (number, size) == (2, len(events))
        other.close()


def test_current_says_whether_the_views_are_open_and_of_which_versions(views_dir, log):
    versions = {projection.name: projection.version for projection in PROJECTIONS}
    views = open_live(views_dir, log, 1000) or rebuild(views_dir, log)
    opened = read_current(views_dir)
    close_current(views_dir, views)
    closed = read_current(views_dir)
    assert opened == Current(folder=1, boot_id=closed.boot_id, closed=False, versions=versions)
    assert closed == msgspec.structs.replace(opened, closed=True)


@pytest.mark.parametrize("step", [1, 3, 7])
def test_views_folded_in_steps_are_those_folded_at_once(log, expected, tmp_path, step):
    views = Views(tmp_path / "in-steps")
    for size in [*range(0, len(SAMPLES), step), len(SAMPLES)]:
        views.fold_forward(log, size)
        views.fold_forward(log, size)
        assert views.checkpoint().size == size
    assert views.digests() == expected
    views.close()


def test_a_transaction_takes_in_entries_until_they_fill_its_bytes_and_at_least_one(log):
    entries = log.read(0, len(SAMPLES))
    two = entries[0].stored_bytes + entries[1].stored_bytes
    assert [len(list(portion(entries, max_bytes=room))) for room in (1, two, two + 1)] == [1, 2, 3]


def test_a_fold_that_is_dropped_leaves_tables_and_checkpoint_alone(log, tmp_path):
    views = Views(tmp_path / "dropped")
    views.fold_forward(log, CUT)
    before = views.checkpoint(), views.digests()
    txn = views.begin(write=True)
    apply_all(txn, views.handles, log.read(CUT, 5))
    txn.abort()
    assert (views.checkpoint(), views.digests()) == before
    views.close()
