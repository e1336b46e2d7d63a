"""Plain facts, many at a time: nearly every entry of a log asserts one, and what its fold writes follows from the fact alone.

A fact is plain where it is our own word and withdraws, replaces and settles nothing. Its rows can be made anywhere and in any
order, by another process too, and are put into the tables in the order of their keys. What depends on the facts before it is
left: one that is not the first of its entity and relation also stands beside others, and may contradict them.

Always: `fold_plain` leaves the tables as folding each entry does (tests/projections/test_plain_facts.py).
"""

from collections import Counter
from collections.abc import Sequence
from operator import add

from msgspec import Struct

from node.errors import Refusal
from node.events.facts import Fact
from node.projections.base import Place, place_key, text_key, text_keys
from node.projections.fact_indexes import (
    BY_ID,
    BY_PLACE,
    INDEXES,
    SERVABLE,
    UNSEALED,
    hex_keys,
    own_word_row,
)
from node.projections.fact_rows import is_own_word, new_row, relation_of
from node.projections.view import View
from node.uris import normal_uri, uuids_bytes

# For fewer it takes longer to hand each table its rows than to fold one by one.
_FEW = 8


class Asserted(Struct, frozen=True, gc=False):
    """What the fold takes from an entry that asserts a fact."""

    offset: int
    hlc: str
    at_ms: int
    leaf: bytes
    fact: Fact


class Moment(Struct, frozen=True):
    """The place and time of an entry."""

    offset: int
    hlc: str
    at_ms: int


class PlainFacts(Struct, frozen=True, array_like=True, tag=True):
    """The plain facts of consecutive entries of one day, the first of them at `first`: when each entry was made; by table and
    in the order of the keys, the rows that have a value and the keys of those that have none; and how many facts each
    (source, origin) stated.
    """

    first: int
    hlcs: list[str]
    at_ms: list[int]
    rows: dict[str, list[tuple[bytes, bytes]]]
    keys: dict[str, list[bytes]]
    counts: list[tuple[str, str, int]]

    def moment(self, place: Place) -> Moment:
        index = place[0] - self.first
        return Moment(place[0], self.hlcs[index], self.at_ms[index])


def is_plain(fact: Fact) -> bool:
    """Whether a fact that was asserted here is plain. Raises Refusal for a name that no node would have written."""
    return fact.confidence != 0.0 and not fact.supersedes and fact.resolves is None and is_own_word(fact)


def plain_facts(asserted: Sequence[Asserted]) -> PlainFacts:
    """The plain facts of consecutive entries of one day, at least one. Raises ValueError or Refusal where one of them has an
    id, a hash or a name that no node would have written.
    """
    facts = [one.fact for one in asserted]
    rows = [new_row((one.offset, 0), one.fact, None) for one in asserted]
    places = [place_key(row.place) for row in rows]
    entered = [found for found in map(own_word_row, rows, [one.leaf for one in asserted]) if found is not None]
    keys = {spec.name: sorted(map(add, found, places)) for spec, found in zip(INDEXES, _prefixes(facts), strict=True)}
    stated = Counter([(fact.source, fact.origin) for fact in facts])
    return PlainFacts(
        first=asserted[0].offset,
        hlcs=[one.hlc for one in asserted],
        at_ms=[one.at_ms for one in asserted],
        rows={
            BY_PLACE.name: list(zip(places, map(BY_PLACE.encode, rows), strict=True)),
            BY_ID.name: sorted(dict(zip(_id_keys(facts), places, strict=True)).items()),
            SERVABLE.name: sorted([(key, spec.encode(row)) for spec, key, row in entered if spec is SERVABLE]),
        },
        keys=keys | {UNSEALED.name: [key for spec, key, _ in entered if spec is UNSEALED]},
        counts=[(source, origin, count) for (source, origin), count in stated.items()],
    )


def worth_folding_together(asserted: Sequence[Asserted]) -> PlainFacts | None:
    """`plain_facts` of them; None where they are few, or where one of them is what no node would have written, and is named when
    each is folded by itself.
    """
    try:
        return plain_facts(asserted) if len(asserted) >= _FEW else None
    except (ValueError, Refusal):
        return None


def fold_plain(view: View, plain: PlainFacts) -> None:
    """Bring the views from the state before the first of these entries to the one behind the last."""
    beside_others = view.facts.take(plain.rows, plain.keys)
    for source, origin, count in plain.counts:
        view.sources.count_admitted(plain.at_ms[0], source, origin, count)
    for place in beside_others:
        view.facts.stand_beside(place)
        view.conflicts.fold(plain.moment(place))


def _prefixes(facts: list[Fact]) -> tuple[list[bytes], ...]:
    """`index_prefixes` of each, index by index."""
    relations = [text_key(relation_of(fact)) for fact in facts]
    return (
        hex_keys([fact.cid.removeprefix("sha256:") for fact in facts]),
        hex_keys([fact.fact_hash for fact in facts]),
        list(map(add, text_keys(normal_uri(fact.entity) for fact in facts), relations)),
        relations,
        [text_key(normal_uri(fact.source)) for fact in facts],
    )


def _id_keys(facts: list[Fact]) -> list[bytes]:
    origins = [text_key(fact.origin) for fact in facts]
    return list(map(add, uuids_bytes([fact.id for fact in facts]), origins))
