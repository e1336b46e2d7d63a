"""Folding a log into views for `stigmem replay`: the node's own fold, and a name for the entry at which it ends.

Always: an entry that is sound in form and says what no node would have logged is a damage at its offset.
Seals that were given to facts later are checked here, where the facts are at hand.
"""

from collections.abc import Callable, Collection, Sequence

from node.errors import LogDamaged
from node.events.entry import Entry
from node.events.facts import FactsSealed
from node.events.log import Log
from node.events.signed_inside import check_later_seal
from node.projections.apply import apply, move_checkpoint
from node.projections.view import View
from node.projections.views import Views
from replay.chain import Damaged

_BATCH = 512


def fold_to(
    views: Views, log: Log, end: int, tell: Callable[[int], None], *, only: Collection[str] | None = None
) -> None:
    """Fold what the views do not hold yet of the first `end` entries; `tell` is told of each so many that are done.

    With `only`, into the projections of these names alone: what one of them reads is to be among them.

    Raises Damaged at the entry that cannot be folded, LogDamaged at one that cannot be read.
    """
    while (start := views.checkpoint().size) < end:
        entries = log.read(start, min(_BATCH, end - start))
        if not entries:
            raise Damaged(start, "the entry is missing")
        _fold(views, entries, only)
        tell(len(entries))


def _fold(views: Views, entries: Sequence[Entry], only: Collection[str] | None) -> None:
    try:
        _fold_batch(views, entries, only)
    except (ValueError, LookupError, ArithmeticError) as error:
        if len(entries) == 1:
            raise Damaged(entries[0].offset, f"the entry cannot be folded: {error}") from error
        for entry in entries:
            _fold(views, (entry,), only)


def _fold_batch(views: Views, entries: Sequence[Entry], only: Collection[str] | None) -> None:
    with views.begin(write=True) as txn:
        view = views.view(txn)
        for entry in entries:
            if only is None:
                if isinstance(entry.event, FactsSealed):
                    _check_seals(entry, entry.event, view)
                apply(view, entry)
            else:
                _fold_into(view, entry, only)
        view.flush()
        move_checkpoint(txn, views.handles, entries[-1])


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
