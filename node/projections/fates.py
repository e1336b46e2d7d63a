"""What became of a fact after it came: promoted or rejected, retracted, superseded, settled, expired.

Always: each of these once, at the place from which it counts, as the first entries of the log make it.

Does not say who may know of it (see `access.py`).
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from node.projections.base import Place
from node.projections.conflicts import At
from node.projections.fact_rows import FactRow
from node.projections.view import View
from node.times import parse_rfc3339

What = Literal["promoted", "rejected", "retracted", "superseded", "settled", "expired"]


class Fate(Struct, frozen=True, kw_only=True):
    """Something that happened to a fact: from a place in the log on, or, where it expired, at a time (epoch ms)."""

    what: What
    place: Place | None
    at_ms: int | None


def fates_of(row: FactRow, view: View, at: At) -> Iterator[Fate]:
    """What has happened to a fact, as `at` has it; in no order. The row is of `at` too."""
    if row.decided_from is not None and row.quarantine_status in ("promoted", "rejected"):
        yield Fate(what=row.quarantine_status, place=row.decided_from, at_ms=None)
    # A fact that is promoted later comes to be withdrawn from where an earlier one withdrew it: not before it is shown.
    if row.shown_from is not None:
        yield from _put_aside(row, view, at)
    expires_ms = None if row.fact.valid_until is None else parse_rfc3339(row.fact.valid_until)
    if expires_ms is not None and expires_ms <= at.now_ms:
        yield Fate(what="expired", place=None, at_ms=expires_ms)


def _put_aside(row: FactRow, view: View, at: At) -> Iterator[Fate]:
    withdrawal = view.facts.withdrawal(row.place)
    if withdrawal is not None and withdrawal.by[0] < at.size:
        yield Fate(what=withdrawal.kind, place=withdrawal.by, at_ms=None)
    settled_from = view.conflicts.settled_from(row.place)
    if settled_from is not None and settled_from[0] < at.size:
        yield Fate(what="settled", place=settled_from, at_ms=None)
