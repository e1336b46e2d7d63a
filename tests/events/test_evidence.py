"""What is held against the log: every fact that any event can bring, and each way in which it can differ."""

from pathlib import Path

import pytest
from msgspec import structs

from node.errors import LogDamaged
from node.events.facts import Fact
from node.events.log import Log
from node.projections.fact_rows import FactRow
from node.projections.views import Views
from tests.events.logs import write_log
from tests.events.samples import samples


@pytest.fixture
def log(tmp_path: Path):
    write_log(tmp_path, samples())
    opened = Log(tmp_path / "log", is_readonly=True)
    yield opened
    opened.close()


@pytest.fixture
def rows(log: Log, tmp_path: Path) -> list[FactRow]:
    """Every fact that the samples bring."""
    views = Views(tmp_path / "views")
    views.fold_forward(log, log.head().size)
    with views.begin() as txn:
        found = list(
            views.view(txn).facts.indexed_forward(entity=None, relation=None, source=None, after=(0, 0), end=1 << 62)
        )
    views.close()
    return found


def _logged(log: Log, row: FactRow) -> Fact:
    event = log.read(row.place[0], 1)[0].event
    return event.fact if hasattr(event, "fact") else event.receipts[row.place[1]].fact


def test_whatever_an_event_brought_is_what_the_log_has(log, rows):
    types = {log.read(row.place[0], 1)[0].type for row in rows}
    assert len(types) == 5, types
    with log.evidence() as evidence:
        for row in rows:
            evidence.require(row.place, row.fact)


def test_a_fact_that_differs_in_any_member_is_not_what_the_log_has(log, rows):
    with log.evidence() as evidence:
        for row in rows:
            # A fact written while nothing was exchanged gets its seal later, in an entry of its own.
            came_later = {"seal"} if _logged(log, row).seal is None else set()
            for name in set(row.fact.__struct_fields__) - came_later:
                changed = structs.replace(row.fact, **{name: "another"})
                with pytest.raises(LogDamaged, match=f"offset {row.place[0]}: "):
                    evidence.require(row.place, changed)


def test_a_fact_at_another_place_is_not_what_the_log_has(log, rows):
    with log.evidence() as evidence:
        for row in rows:
            for place in ((row.place[0], row.place[1] + 1), (0, 0)):
                with pytest.raises(LogDamaged):
                    evidence.require(place, row.fact)
