"""Erasing an entity: from its tombstone on the tables are those of a log that never held what was erased (PROTOCOL §12)."""

import os
import random
from pathlib import Path

import pytest

from node.events.event import Event
from node.events.facts import FactsSealed
from node.events.log import Log
from node.events.tombstones import EntityErased, EntityTombstoned, packed_places
from node.projections.apply import apply_all
from node.projections.erased_items import items_about
from node.projections.views import Views
from node.uris import normal_uri, origin_of
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import NODE_ID, SIGNER, tombstone
from tests.projections.test_plain_facts import ENTITIES, _rows, _Writer

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
SEEDS = range(60) if LONG else range(6)


class History:
    """A log that grows by random events about few entities, with its views live beside it."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._folder, self._rng, self._writer = folder, rng, _Writer(rng)
        self._clock = fixed_clock(step_ms=7)
        self.log, self.views = Log(folder / "log"), Views(folder / "views")
        self._sealed: set[str] = set()
        self.erased: list[tuple[int, int]] = []

    def grow(self, count: int) -> None:
        events = [event for event in (self._writer.event() for _ in range(count)) if self._is_told_once(event)]
        self._clock.advance(self._rng.choice([1, 20 * 86_400_000]))
        self.take(*events)

    def take(self, *events: Event) -> None:
        entries = signed(events, self.log.head(), clock=self._clock)
        self.log.append(self.log.head().size, entries)
        with self.views.begin(write=True) as txn:
            apply_all(txn, self.views.handles, entries)

    def entomb(self, entity: str) -> None:
        buried = tombstone(f"tomb_{self.log.head().size:032x}", entity, SIGNER)
        self.take(EntityTombstoned(tombstone=buried, reason="t", shared_scopes=()))
        with self.views.reading() as view:
            places = list(items_about(entity, view, self.log))
            decided = [row.fact for row in view.facts.about(entity) if row.decided_from is not None]
            organisations = {origin_of(normal_uri(fact.source), fact.origin) for fact in decided}
            told = tuple((name, view.sources.of_organisation(name).is_admitted) for name in sorted(organisations))
        self.take(
            EntityErased(tombstone_id=buried.id, entity_uri=entity, organisations=told, places=packed_places(places))
        )
        self.erased += [(place.offset, place.item) for place in places]

    def rows(self) -> dict[str, list[tuple[bytes, bytes]]]:
        return _rows(self._folder, self.views)

    def folded_from_what_is_left(self) -> dict[str, list[tuple[bytes, bytes]]]:
        self.log.erase(self.erased)
        views = Views(self._folder / "anew")
        views.fold_forward(self.log, self.log.head().size)
        rows = _rows(self._folder, views)
        views.close()
        return rows

    def close(self) -> None:
        self.views.close()
        self.log.close()

    def _is_told_once(self, event: Event) -> bool:
        # No node seals a fact twice, and then what it served under the first seal would stay.
        if not isinstance(event, FactsSealed):
            return True
        is_new = event.seals[0].fact_id not in self._sealed
        self._sealed.add(event.seals[0].fact_id)
        return is_new


@pytest.mark.parametrize("seed", SEEDS)
def test_from_an_erasure_on_the_tables_are_those_of_a_log_without_what_was_erased(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    history = History(tmp_path, rng)
    entities = [f"{NODE_ID}/thing/{number}" for number in range(ENTITIES)] + [f"{NODE_ID}/item/0", f"{NODE_ID}/item/1"]
    for _ in range(3):
        history.grow(150)
        history.entomb(rng.choice(entities))
    history.grow(60)

    live, anew = history.rows(), history.folded_from_what_is_left()

    assert len(history.erased) > 10
    for name, rows in live.items():
        assert rows == anew[name], name
    history.close()
