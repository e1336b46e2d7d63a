"""What a fact was derived from, and what that was derived from: a graph of facts that name their parents by id or hash.

Always: a parent that may not be read is the same as one that nobody knows, and nothing is followed through it.
Always: each fact once, nearest first, within the bounds that are given; a cycle, which no honest facts make, ends where it began.
"""

from collections.abc import Callable, Iterable
from functools import cache

from msgspec import Struct

from node.projections.access import Access, readable_at
from node.projections.base import Place
from node.projections.conflicts import At
from node.projections.fact_rows import FactRow
from node.projections.view import View
from node.uris import is_uuid


class Parent(Struct, frozen=True, kw_only=True):
    """A parent as it is named, and the fact of that name; None for none that may be read."""

    name: str
    row: FactRow | None


class Ancestor(Struct, frozen=True, kw_only=True):
    """A fact, how many steps away it is (0: the one that was asked for), and its parents."""

    row: FactRow
    depth: int
    parents: tuple[Parent, ...]


class Ancestry(Struct, frozen=True, kw_only=True):
    """The fact that was asked for, its ancestors as far as the bounds let them be followed, and whether there are more."""

    fact: Ancestor
    ancestors: tuple[Ancestor, ...]
    is_truncated: bool

    def rows(self) -> Iterable[FactRow]:
        """Every fact of which something is shown, once."""
        shown: dict[Place, FactRow] = {}
        for found in (self.fact, *self.ancestors):
            shown[found.row.place] = found.row
            shown |= {parent.row.place: parent.row for parent in found.parents if parent.row is not None}
        return shown.values()


def ancestry_of(row: FactRow, view: View, access: Access, at: At, *, max_depth: int, max_ancestors: int) -> Ancestry:
    """The graph above a fact, breadth first."""
    # Whatever is named often is looked for once: any number of facts may bear one hash, and none of them be readable.
    named = cache(lambda name: _named(name, view, access, at))
    first = Ancestor(row=row, depth=0, parents=_parents(row, named))
    found, seen, is_truncated = [first], {row.place}, False
    # The list grows while it is walked: what is found is looked at in its turn.
    for child in found:
        for parent in child.parents:
            if parent.row is None or parent.row.place in seen:
                continue
            if child.depth == max_depth or len(found) > max_ancestors:
                is_truncated = True
                continue
            seen.add(parent.row.place)
            parents = _parents(parent.row, named)
            found.append(Ancestor(row=parent.row, depth=child.depth + 1, parents=parents))
    return Ancestry(fact=first, ancestors=tuple(found[1:]), is_truncated=is_truncated)


def _parents(row: FactRow, named: Callable[[str], FactRow | None]) -> tuple[Parent, ...]:
    return tuple(Parent(name=name, row=named(name)) for name in row.fact.derived_from)


def _named(name: str, view: View, access: Access, at: At) -> FactRow | None:
    stored = view.facts.all_by_id(name) if is_uuid(name) else view.facts.by_hash(name)
    readable = (readable_at(row, access, at.size) for row in stored)
    return next((row for row in readable if row is not None), None)
