"""Contradictions after any history of writes, retractions, replacements, resolutions and time are those that a plain walk finds."""

import itertools
import os
import random

import pytest

from node.projections.conflicts import At
from node.times import format_ms, parse_rfc3339
from tests.served import NODE_ID, Served

LONG = bool(os.environ.get("STIGMEM_TEST_LONG"))
RELATION = "memory:state"


def text(v: str) -> dict[str, object]:
    return {"type": "string", "v": v}


async def do_something(http: Served, rng: random.Random) -> None:
    entity, source = f"{NODE_ID}/service/{rng.randrange(2)}", f"agent:{rng.randrange(3)}"
    scope = rng.choice(("local", "public"))
    fields = {"entity": entity, "relation": RELATION, "source": source, "scope": scope}
    match rng.randrange(8):
        case 0:
            await http.write(**fields, value=text(rng.choice("ab")), confidence=0.0)
        case 1:
            await http.write(**fields, value=text(rng.choice("abc")), supersedes=True)
        case 2:
            until_ms = http.clock.now_ms() + rng.randrange(1, 20_000)
            await http.write(**fields, value=text(rng.choice("abc")), valid_until=format_ms(until_ms))
        case 3:
            http.clock.advance(rng.randrange(10_000))
        case 4:
            found = (await http.get("/v1/conflicts", status="unresolved")).expect(200)["conflicts"]
            if found:
                path = f"/v1/conflicts/{rng.choice(found)['conflict_id']}/resolve"
                (await http.post(path, {"new_value": text(rng.choice("abd"))})).expect(200)
        case _:
            await http.write(**fields, value=text(rng.choice("abc")), confidence=rng.choice((0.5, 0.9)))


def check(http: Served) -> None:
    """Every fact's standing, and every record's status, against a walk over all facts."""
    now_ms = http.clock.now_ms()
    with http.node.view() as view:
        at = At(size=2**63, now_ms=now_ms)
        rows = list(view.facts.indexed(entity=None, relation=None, source=None, before=(2**63, 0)))
        settled = {fact_id for row in rows if row.fact.resolves for fact_id in row.fact.resolves.superseded}
        groups: dict[tuple[str, str], list] = {}
        for row in rows:
            fact = row.fact
            is_expired = fact.valid_until is not None and parse_rfc3339(fact.valid_until) <= now_ms
            stands = fact.confidence > 0 and view.facts.withdrawal(row.place) is None and fact.id not in settled
            if stands and not is_expired:
                groups.setdefault((fact.entity, fact.scope), []).append(row)
        live = {row.fact.id: row for group in groups.values() for row in group}
        for row in rows:
            group = groups.get((row.fact.entity, row.fact.scope), [])
            best = max(((other.fact.confidence, other.fact.hlc) for other in group), default=None)
            is_contradicted = row.fact.id in live and any(other.fact.value != row.fact.value for other in group)
            standing = view.conflicts.standing(row, at)
            if row.fact.id in settled:
                assert (standing.is_contradicted, standing.is_shown) == (True, False)
            else:
                assert standing.is_contradicted == is_contradicted, row
                assert standing.is_shown == (not is_contradicted or (row.fact.confidence, row.fact.hlc) == best), row
        recorded = {conflict.facts: conflict for conflict in view.conflicts.newest_first()}
        for conflict in recorded.values():
            sides = [view.facts.at(place).fact.id for place in conflict.facts]
            assert view.conflicts.is_open(conflict, at) == all(side in live for side in sides)
        for group in groups.values():
            for one, other in itertools.combinations(group, 2):
                if one.fact.value != other.fact.value:
                    pair = tuple(row.place for row in sorted((one, other), key=lambda row: row.fact.id))
                    assert pair in recorded


@pytest.mark.parametrize("seed", range(60 if LONG else 8))
async def test_standing_and_records_are_those_of_a_walk_over_all_facts(http: Served, seed: int):
    rng = random.Random(seed)
    for _ in range(60):
        await do_something(http, rng)
        check(http)
