"""Folding a log into views for `stigmem replay`: the node's own fold, and a name for the entry at which it ends.

Always: an entry that is sound in form and says what no node would have logged is a damage at its offset.
Seals that were given to facts later are checked here, where the facts are at hand.
"""

from collections.abc import Callable, Collection, Iterable

from node.errors import LogDamaged
from node.events.entry import Entry
from node.events.facts import FactsSealed
from node.events.log import Log
from node.events.signed_inside import check_later_seal
from node.projections.apply import apply, move_checkpoint, portion
from node.projections.view import View
from node.projections.views import Views
from replay.chain import Damaged


def fold_to(
    views: Views, log: Log, end: int, tell: Callable[[int], None], *, only: Collection[str] | None = None
) -> None:
    """Fold what the views do not hold yet of the first `end` entries; `tell` is told of each so many that are done.

    With `only`, into the projections of these names alone: what one of them reads is to be among them.

    Raises Damaged at the entry that cannot be folded, LogDamaged at one that cannot be read.
    """
    while (start := views.checkpoint().size) < end:
        try:
            _fold(views, portion(log.scan(start, end)), only)
        except (ValueError, LookupError, ArithmeticError):
            _fold_singly(views, portion(log.scan(start, end)), only)
        reached = views.checkpoint().size
        if reached == start:
            raise Damaged(start, "the entry is missing")
        tell(reached - start)


def _fold_singly(views: Views, entries: Iterable[Entry], only: Collection[str] | None) -> None:
    """Fold entries of which one cannot be, each in a transaction of its own, so that it is named."""
    for entry in entries:
        try:
            _fold(views, (entry,), only)
        except (ValueError, LookupError, ArithmeticError) as error:
            raise Damaged(entry.offset, f"the entry cannot be folded: {error}") from error


def _fold(views: Views, entries: Iterable[Entry], only: Collection[str] | None) -> None:
    with views.begin(write=True) as txn:
        view, last = views.view(txn), None
        for last in entries:
            if only is not None:
                _fold_into(view, last, only)
                continue
            if isinstance(last.event, FactsSealed):
                _check_seals(last, last.event, view)
            apply(view, last)
        if last is not None:
            view.flush()
            move_checkpoint(txn, views.handles, last)


def _fold_into(view: View, entry: Entry, only: Collection[str]) -> None:
    for projection in view.folding(type(entry.event)):
        if projection.name in only:
            projection.fold(entry)


def _check_seals(entry: Entry, event: FactsSealed, view: View) -> None:
    for seal in event.seals:
        row = view.facts.of_origin(event.origin, seal.fact_id)
        if row is None:
            raise Damaged(entry.offset, f"it seals fact {seal.fact_id}, which the log does not hold")
        try:
            check_later_seal(row.fact, seal, entry.public_key)
        except LogDamaged as damage:
            raise Damaged(entry.offset, damage.detail) from damage
