"""Which facts of a node stand, and which contradict each other: PROTOCOL §2.2 and §2.6 told again for what schedules write.

Always: only facts are looked at, in no order: what came when makes no difference to what stands in the end.

Leaves out what no schedule writes: gardens, facts that expire, groups of more than 32.
"""

from itertools import combinations
from uuid import NAMESPACE_URL, uuid5

from node.clock import parse_hlc
from node.events.facts import Fact, Value
from node.projections.conflicts import At
from tests.simulation.nodes import SimulatedNode

Identity = tuple[str, str]
# What takes back everything that a source said there.
_NOTHING = Value(type="null", v=None, interpret_as="content")


def check_disputes(at: SimulatedNode, facts: list[Fact]) -> None:
    """Hold a node's conflicts against those that the facts it shows make."""
    settled = _settled(facts, at.node_id)
    standing = [fact for fact in facts if identity_of(fact) not in settled and _stands(fact, facts)]
    expected = {_conflict_id(one, other) for one, other in combinations(standing, 2) if _contradict(one, other)}
    disputed = {identity_of(fact) for fact in standing if any(_contradict(fact, other) for other in standing)}
    with at.node.view() as view:
        now = At(size=at.size, now_ms=at.clock.now_ms())
        conflicts = list(view.conflicts.newest_first())
        rows = [view.facts.of_origin(fact.origin, fact.id) for fact in facts]
        live = {identity_of(row.fact) for row in rows if view.conflicts.is_live(row, now)}
        contradicted = {identity_of(row.fact) for row in rows if view.conflicts.standing(row, now).is_contradicted}
        is_open = {conflict.conflict_id: view.conflicts.is_open(conflict, now) for conflict in conflicts}
        sides = {
            conflict.conflict_id: [identity_of(view.facts.at(place).fact) for place in conflict.facts]
            for conflict in conflicts
        }
    assert live == {identity_of(fact) for fact in standing}, f"conflict: {at.name} takes other facts for live"
    assert contradicted - settled == disputed, f"conflict: {at.name} shows other facts as contradicted"
    found = {conflict_id for conflict_id, is_so in is_open.items() if is_so}
    assert found == expected, f"conflict: {at.name} has {sorted(found)} open, and its facts make {sorted(expected)}"
    for conflict in conflicts:
        is_settled = settled >= set(sides[conflict.conflict_id])
        assert (conflict.resolved_by is not None) == is_settled, f"conflict: {at.name} has another end of {conflict}"


def identity_of(fact: Fact) -> Identity:
    return fact.origin, fact.id


def _group_of(fact: Fact) -> tuple[str, str, str]:
    return fact.entity, fact.relation, fact.scope


def _contradict(one: Fact, other: Fact) -> bool:
    return _group_of(one) == _group_of(other) and one.value != other.value


def _conflict_id(one: Fact, other: Fact) -> str:
    return f"stigmem:conflict:{uuid5(NAMESPACE_URL, ' '.join(sorted((one.id, other.id))))}"


def _stands(fact: Fact, facts: list[Fact]) -> bool:
    """Whether it says something, and its own source has not taken it back or put another in its place."""
    return fact.confidence > 0 and not any(_takes_back(by, fact) for by in facts)


def _takes_back(by: Fact, fact: Fact) -> bool:
    if (by.origin, by.source) != (fact.origin, fact.source):
        return False
    is_later = (parse_hlc(by.hlc), by.id) > (parse_hlc(fact.hlc), fact.id)
    is_retracted = by.confidence == 0 and is_later and by.value in (fact.value, _NOTHING)
    return fact.id in by.supersedes or (is_retracted and _group_of(by) == _group_of(fact))


def _settled(facts: list[Fact], node_id: str) -> set[Identity]:
    """What resolutions that count here name: the node's own, and those of whoever the entity belongs to."""
    return {
        identity_of(fact)
        for by in facts
        if by.resolves is not None and (by.origin == node_id or by.entity.startswith(f"{by.origin}/"))
        for fact in facts
        if fact.id in by.resolves.superseded and _group_of(fact) == _group_of(by)
    }
