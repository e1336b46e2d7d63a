"""What a source's retractions and replacements withdraw, and what stands then, is what a plain walk over all it said finds.

And what comes on one page disputes each other as it would on pages of its own.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.clock import parse_hlc
from node.events.event import Event
from node.events.facts import Fact, FactAsserted, Value
from node.events.gardens import FactPromoted, FactQuarantined, FactRejected
from node.events.peers import BatchReceived, PushReceived, Receipt, Receipts
from node.projections.apply import apply_all
from node.projections.base import Place
from node.projections.conflicts import At
from node.projections.fact_rows import digest_of, speech_of
from node.projections.view import View
from node.projections.views import Views
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.events.samples import FORGET_MS, NODE_ID, PEER_NODE_ID, QUARANTINE_ID, fact, fact_id

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
OWN_WALL_MS = 1_777_896_000_000
NONE_REFUSED = Receipts(refused=())


@dataclass
class Said:
    """A fact as the walk knows it."""

    place: Place
    fact: Fact
    shown_from: Place | None
    withdrawn: tuple[Place, str] | None = None


class Walk:
    """Every fact there is in a list, and each rule a walk over all of it (PROTOCOL §2.2)."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self._superseded: dict[tuple[str, str, tuple[str, ...]], Place] = {}

    def fold(self, offset: int, event: Event) -> None:
        match event:
            case FactAsserted(fact=one):
                self._add((offset, 0), one, is_held=False)
            case FactQuarantined(fact=one):
                self._add((offset, 0), one, is_held=True)
            case BatchReceived(receipts=receipts) | PushReceived(receipts=receipts):
                for index, receipt in enumerate(receipts):
                    self._add((offset, index), receipt.fact, is_held=receipt.quarantine_garden_id is not None)
            case FactPromoted(fact_id=promoted, origin=origin):
                for said in self.said:
                    if (said.fact.id, said.fact.origin) == (promoted, origin):
                        said.shown_from = (offset, 0)
                        self._show(said)

    def standing(self, speech: tuple[str, ...]) -> list[Place]:
        shown = [said for said in self.said if said.shown_from is not None and said.withdrawn is None]
        return sorted((said.place for said in shown if speech_of(said.fact) == speech), reverse=True)

    def _add(self, place: Place, one: Fact, *, is_held: bool) -> None:
        self.said.append(Said(place, one, None if is_held else place))
        if not is_held:
            self._show(self.said[-1])

    def _show(self, shown: Said) -> None:
        speech, here = speech_of(shown.fact), shown.shown_from
        superseded_from = self._superseded.get((shown.fact.id, speech[0], speech[3:]))
        if superseded_from is not None:
            self._withdraw(shown, superseded_from, "superseded")
        shown_before = [said for said in self.said if said.shown_from is not None and said is not shown]
        for other in sorted(shown_before, key=lambda said: (parse_hlc(said.fact.hlc), said.place)):
            if retracts(other.fact, shown.fact):
                self._withdraw(shown, other.shown_from, "retracted")
        for other in shown_before:
            if retracts(shown.fact, other.fact):
                self._withdraw(other, here, "retracted")
        for replaced in shown.fact.supersedes:
            self._superseded[(replaced, speech[0], speech[3:])] = here
            for other in self.said:
                said = speech_of(other.fact)
                if other is not shown and other.fact.id == replaced and (said[0], said[3:]) == (speech[0], speech[3:]):
                    self._withdraw(other, here, "superseded")

    def _withdraw(self, said: Said, by: Place, kind: str) -> None:
        if said.withdrawn is None:
            said.withdrawn = (by, kind)


def retracts(by: Fact, said: Fact) -> bool:
    is_later = (parse_hlc(said.hlc), said.id) < (parse_hlc(by.hlc), by.id)
    says_the_same = (by.value.type, by.value.v) == (said.value.type, said.value.v)
    is_of_anything = by.value.type == "null" or (by.value.type, by.value.v) == ("string", "retracted")
    return by.confidence == 0 and speech_of(by) == speech_of(said) and is_later and (is_of_anything or says_the_same)


def page(*receipts: Receipt) -> BatchReceived:
    return BatchReceived(node_id=PEER_NODE_ID, cursor="c", known=0, outcome=NONE_REFUSED, receipts=receipts)


class Teller:
    """Makes events of few names, values and clocks, so that much of it meets."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._used: set[tuple[str, str]] = set()
        self._held: list[Fact] = []
        self._wall_ms = OWN_WALL_MS
        self._ours = 999

    def event(self) -> Event:
        match self._rng.randrange(9):
            case 0 | 1:
                return FactAsserted(judgement=None, fact=self._fact())
            case 2:
                held = self._fact(source=f"{PEER_NODE_ID}/agent/crm")
                self._held.append(held)
                return FactQuarantined(garden_id=QUARANTINE_ID, reason="t", judgement=None, fact=held)
            case 3 | 4 if self._held:
                held = self._held.pop(self._rng.randrange(len(self._held)))
                names = {"fact_id": held.id, "origin": held.origin, "garden_id": QUARANTINE_ID, "reason": ""}
                is_promoted = self._rng.randrange(4)
                return FactPromoted(**names, target_garden_id=None) if is_promoted else FactRejected(**names)
            case 5:
                receipts = self.receipts(self._rng.randrange(1, 5))
                return PushReceived(
                    node_id=PEER_NODE_ID,
                    nonce=str(self._wall_ms),
                    forget_ms=FORGET_MS,
                    known=0,
                    outcome=NONE_REFUSED,
                    receipts=receipts,
                )
            case _:
                return page(*self.receipts(self._rng.randrange(1, 5)))

    def receipts(self, count: int) -> tuple[Receipt, ...]:
        return tuple(self._receipt() for _ in range(count))

    def _receipt(self) -> Receipt:
        hlc = f"{OWN_WALL_MS - self._rng.randrange(1, 9)}.{self._rng.randrange(2):03d}"
        received = self._fact(origin=PEER_NODE_ID, received_from=PEER_NODE_ID, hlc=hlc)
        is_held = self._rng.randrange(4) == 0
        if is_held:
            self._held.append(received)
        return Receipt(
            fact=received,
            judgement=None,
            quarantine_garden_id=QUARANTINE_ID if is_held else None,
            quarantine_reason="t" if is_held else None,
        )

    def _fact(self, **changed: object) -> Fact:
        rng = self._rng
        self._wall_ms += 1
        kind, v = rng.choice(
            [
                *(("string", "a"), ("string", "b"), ("string", "retracted"), ("null", None)),
                *(("number", 1.0), ("number", 0.0), ("number", -0.0), ("boolean", False)),
            ]
        )
        given = {
            "entity": f"{NODE_ID}/item/{rng.randrange(2)}",
            "source": rng.choice(["agent:x", "agent:y", f"{PEER_NODE_ID}/agent/crm"]),
            "scope": rng.choice(["company", "public", "public"]),
            "value": Value(type=kind, v=v, interpret_as="content"),
            "confidence": rng.choice([0.0, 0.9, 0.9]),
            "supersedes": tuple(fact_id(number) for number in rng.sample(self._numbers(), rng.choice([0, 0, 0, 1, 4]))),
            "hlc": f"{self._wall_ms}.000",
            "seal": None,
        }
        made = fact(self._number(str(changed.get("origin", NODE_ID))), **given | changed)
        self._used.add((made.origin, made.id))
        return made

    def _number(self, origin: str) -> int:
        if origin == NODE_ID:
            # Ours are new: nobody can have named one before.
            self._ours += 1
            return self._ours
        # Theirs from anywhere among few: what is superseded may come later, and both nodes may use one id.
        return self._rng.choice([number for number in self._numbers() if (origin, fact_id(number)) not in self._used])

    def _numbers(self) -> list[int]:
        return [*range(100), *range(1000, self._ours + 1)]


def check(view: View, walk: Walk) -> None:
    speeches = {speech_of(said.fact): said.fact for said in walk.said}
    for said in walk.said:
        withdrawal = view.facts.withdrawal(said.place)
        assert (withdrawal and (withdrawal.by, withdrawal.kind)) == said.withdrawn, said
    for (entity, relation, scope, *speaker), one in speeches.items():
        expected = walk.standing((entity, relation, scope, *speaker))
        standing = list(view.facts.standing(entity, relation, scope, tuple(speaker)))
        assert [row.place for row in standing] == expected
        same = [row.place for row in standing if row.fact.value == one.value]
        of_value = view.facts.standing(entity, relation, scope, tuple(speaker), digest_of(one.value))
        assert [row.place for row in of_value] == same


@pytest.mark.parametrize("seed", range(200 if LONG else 25))
def test_what_stands_and_what_is_withdrawn_are_those_of_a_walk_over_all_facts(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    teller, walk = Teller(rng), Walk()
    entries = signed((teller.event() for _ in range(50)), clock=fixed_clock(step_ms=7))
    live, anew = Views(tmp_path / "live"), Views(tmp_path / "anew")
    left = list(entries)

    while left:
        # Entries of one transaction see each other before anybody else does.
        batch, left = left[: (size := rng.randrange(1, 5))], left[size:]
        for entry in batch:
            walk.fold(entry.offset, entry.event)
        with live.begin(write=True) as txn:
            check(apply_all(txn, live.handles, batch), walk)
        with live.begin() as txn:
            check(View(txn, live.handles), walk)

    with anew.begin(write=True) as txn:
        apply_all(txn, anew.handles, entries)
    assert anew.digests() == live.digests()
    assert sum(said.withdrawn is not None for said in walk.said) > 3
    live.close()
    anew.close()


def disputes(folder: Path, events: list[Event]) -> dict[str, object]:
    """After these events, how each fact stands in its group, and each conflict with whether it is open; by id."""
    views = Views(folder)
    with views.begin(write=True) as txn:
        apply_all(txn, views.handles, signed(events, clock=fixed_clock(step_ms=7)))
    with views.begin() as txn:
        view, at = View(txn, views.handles), At(size=2**63, now_ms=OWN_WALL_MS)
        rows = view.facts.indexed(entity=None, relation=None, source=None, before=(2**63, 0))
        found: dict[str, object] = {
            f"{row.fact.origin} {row.fact.id}": view.conflicts.standing(row, at) for row in rows
        }
        found |= {one.conflict_id: view.conflicts.is_open(one, at) for one in view.conflicts.newest_first()}
    views.close()
    return found


@pytest.mark.parametrize("seed", range(200 if LONG else 25))
def test_facts_of_one_page_dispute_each_other_as_they_would_on_pages_of_their_own(tmp_path: Path, seed: int):
    rng = random.Random(seed)
    teller = Teller(rng)
    before, receipts = page(*teller.receipts(3)), teller.receipts(20)

    together = disputes(tmp_path / "together", [before, page(*receipts)])
    apart = disputes(tmp_path / "apart", [before, *(page(receipt) for receipt in receipts)])

    assert together == apart
