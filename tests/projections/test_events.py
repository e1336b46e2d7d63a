"""Which events a projection declares: `apply` passes it no others, so what it leaves out must be nothing to it."""

from pathlib import Path

import pytest

from node.events import EVENT_TYPES
from node.projections import PROJECTIONS
from node.projections.base import Projection
from node.projections.views import Views
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import samples


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda projection: projection.name)
def test_an_event_that_a_projection_does_not_declare_leaves_its_tables_as_they_were(
    projection: type[Projection], tmp_path: Path
):
    entries = signed(samples(), clock=fixed_clock(step_ms=1))
    views = Views(tmp_path / "views")
    assert {type(entry.event) for entry in entries} == set(EVENT_TYPES.values())

    with views.begin(write=True) as txn:
        folded = getattr(views.view(txn), projection.name)
        for entry in entries:
            before = folded.digest()
            folded.fold(entry)
            assert type(entry.event) in projection.events or folded.digest() == before, entry.type
    views.close()
