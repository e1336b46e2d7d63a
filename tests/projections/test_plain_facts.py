"""Plain facts folded many at a time leave every table as folding each entry does, byte for byte."""

import random
from pathlib import Path

import pytest
from msgspec import structs

from node.errors import Refusal
from node.events.conflicts import ConflictResolved
from node.events.entry import Entry
from node.events.event import Event
from node.events.facts import Fact, FactAsserted, FactsSealed, Resolution, Seal, Value
from node.projections.apply import apply_all
from node.projections.base import DAY_MS
from node.projections.plain_facts import Asserted, fold_plain, is_plain, plain_facts
from node.projections.views import Views
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import NODE_ID, fact, fact_id, samples
from tests.projections.test_standing_against_model import Teller

ENTITIES = 12


class _Writer:
    """Events of a node that mostly asserts plain facts, among few names, and now and then something else about them."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._teller = rng, Teller(rng)
        self._ours: list[Fact] = []

    def event(self) -> Event:
        match self._rng.randrange(30):
            case 0 | 1:
                return self._teller.event()
            case 2 if self._ours:
                return self._sealed()
            case 3 if self._ours:
                told = {"conflict_id": fact_id(1), "winning_fact_id": None, "note": "", "judgement": None}
                return ConflictResolved(**told, fact=self._resolving())
            case 4:
                return FactAsserted(judgement=None, fact=self._fact(confidence=0.0))
            case 5:
                return FactAsserted(judgement=None, fact=self._fact(supersedes=(self._some().id,)))
            case _:
                return FactAsserted(judgement=None, fact=self._fact())

    def _fact(self, **changed: object) -> Fact:
        rng = self._rng
        given = {
            "entity": f"{NODE_ID}/thing/{rng.randrange(ENTITIES)}",
            "relation": rng.choice(["memory:status", "Memory:status", "stigmem:x"]),
            "source": rng.choice([f"{NODE_ID}/agent/a", "agent:x", "stigmem://org-b.example/agent/crm"]),
            "scope": rng.choice(["local", "company", "public"]),
            "value": Value(type="number", v=float(rng.randrange(3)), interpret_as="content"),
            "confidence": 0.9,
            "garden_id": rng.choice([None, None, "den"]),
            "seal": rng.choice([None, "c2VhbA"]),
            "valid_until": rng.choice([None, "2026-05-04T12:00:01.000Z", "2027-01-01T00:00:00.000Z"]),
            "supersedes": (),
            "hlc": f"{1_777_896_000_000 + len(self._ours)}.000",
        }
        self._ours.append(fact(5000 + len(self._ours), **given | changed))
        return self._ours[-1]

    def _some(self) -> Fact:
        return self._rng.choice(self._ours) if self._ours else fact(1)

    def _sealed(self) -> FactsSealed:
        return FactsSealed(origin=NODE_ID, seals=(Seal(fact_id=self._some().id, seal="c2VhbA"),))

    def _resolving(self) -> Fact:
        settled = (self._some().id, fact_id(9999))
        return self._fact(resolves=Resolution(conflict_id=fact_id(1), superseded=settled), entity=self._some().entity)


def _rows(folder: Path, views: Views) -> dict[str, list[tuple[bytes, bytes]]]:
    with views.begin() as txn:
        return {name: list(txn.cursor(db=handle)) for name, handle in views.handles.items() if name != "checkpoint"}


def _folded_one_by_one(folder: Path, entries: list[Entry]) -> dict[str, list[tuple[bytes, bytes]]]:
    views = Views(folder)
    with views.begin(write=True) as txn:
        apply_all(txn, views.handles, entries)
    found = _rows(folder, views)
    views.close()
    return found


def _folded_in_runs(folder: Path, entries: list[Entry], rng: random.Random) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every run of plain facts of one day together, however short; runs and transactions end anywhere besides."""
    views, left = Views(folder), list(entries)
    while left:
        with views.begin(write=True) as txn:
            view = views.view(txn)
            for _ in range(rng.randrange(1, 6)):
                run = _plain_run(left)[: rng.randrange(1, 20)]
                if run:
                    fold_plain(view, plain_facts(run))
                elif left:
                    for projection in view.folding(type(left[0].event)):
                        projection.fold(left[0])
                del left[: len(run) or 1]
            view.flush()
    found = _rows(folder, views)
    views.close()
    return found


def _plain_run(entries: list[Entry]) -> list[Asserted]:
    run: list[Asserted] = []
    for entry in entries:
        event = entry.event
        if not isinstance(event, FactAsserted) or not is_plain(event.fact):
            break
        if run and run[0].at_ms // DAY_MS != entry.at_ms // DAY_MS:
            break
        run.append(Asserted(entry.offset, entry.hlc, entry.at_ms, entry.leaf, event.fact))
    return run


@pytest.mark.parametrize("seed", range(8))
def test_runs_of_plain_facts_leave_the_tables_of_one_by_one(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    writer = _Writer(rng)
    events = [*samples(), *(writer.event() for _ in range(400))]
    # Some days in every log.
    entries = signed(events, clock=fixed_clock(step_ms=DAY_MS // 100))

    expected = _folded_one_by_one(tmp_path / "one-by-one", entries)
    found = _folded_in_runs(tmp_path / "runs", entries, rng)

    assert [name for name in expected if found[name] != expected[name]] == []
    assert all(expected[name] for name in ("facts/standing", "facts/unsealed", "facts/servable", "conflicts/records"))


def test_what_does_more_than_stand_is_not_plain():
    plain = fact(1, supersedes=(), confidence=0.5)
    assert is_plain(plain)
    resolution = Resolution(conflict_id=fact_id(1), superseded=())
    for changed in (
        {"confidence": 0.0},
        {"supersedes": (fact_id(2),)},
        {"resolves": resolution},
        {"received_from": "stigmem://org-b.example"},
        {"source": "stigmem://org-b.example/agent/crm"},
    ):
        assert not is_plain(structs.replace(plain, **changed)), changed


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "1"},
        {"id": "0" * 36},
        {"cid": "sha256:x"},
        {"fact_hash": "g" * 64},
        {"fact_hash": "a" * 62 + "  "},
        {"entity": " "},
    ],
)
def test_a_fact_that_no_node_would_have_written_has_no_rows(changed: dict[str, str]):
    odd = structs.replace(fact(1, supersedes=()), **changed)
    with pytest.raises((ValueError, Refusal)):
        plain_facts([Asserted(7, "1777896000000.000", 0, bytes(32), odd)])
