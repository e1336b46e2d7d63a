"""Folding a log into views for `stigmem replay`: the node's own fold, and a name for the entry at which it ends; from the log
itself, or from what other processes made ready (see portions.py).

Always: an entry that is sound in form and says what no node would have logged is a damage at its offset.
Seals that were given to facts later are checked here, where the facts are at hand.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, groupby, islice

from node.errors import LogDamaged, Refusal
from node.events.entry import Entry
from node.events.facts import FactAsserted, FactsSealed
from node.events.log import Log
from node.events.signed_inside import check_later_seal
from node.events.store import storage_errors
from node.projections.apply import Checkpoint, apply, move_checkpoint, portion, put_checkpoint
from node.projections.base import DAY_MS
from node.projections.plain_facts import Asserted, PlainFacts, fold_plain, is_plain, worth_folding_together
from node.projections.view import View
from node.projections.views import Views
from replay.chain import Damaged
from replay.portions import Lying, OneByOne, Portion

# In one transaction: as many entries as `portion` takes.
_PORTIONS_AT_ONCE = 2


def _nothing_erased() -> bool:
    return False


def fold_to(
    views: Views, log: Log, end: int, tell: Callable[[int], None], *, only: Collection[str] | None = None
) -> None:
    """Fold what the views do not hold yet of the first `end` entries; `tell` is told of each so many that are done.

    With `only`, into the projections of these names alone: what one of them reads is to be among them.

    Raises Damaged at the entry that cannot be folded, LogDamaged at one that cannot be read.
    """
    while (start := views.checkpoint().size) < end:
        try:
            _fold(views, portion(log.scan(start, end)), only, log.has_erasures)
        except (ValueError, LookupError, ArithmeticError):
            _fold_singly(views, portion(log.scan(start, end)), only, log.has_erasures)
        reached = views.checkpoint().size
        if reached == start:
            raise Damaged(start, "the entry is missing")
        tell(reached - start)


def fold_portions(
    views: Views,
    ready: Iterator[Portion],
    tell: Callable[[int], None],
    *,
    has_erasures: Callable[[], bool] = _nothing_erased,
) -> int:
    """Fold what was made ready from where the views stand on; `tell` as above. Returns how many items the entries have.

    Where the whole log `has_erasures`, facts may be missing that something later is about: asked only then.

    Raises Damaged where it is damaged; ValueError, LookupError, ArithmeticError where an entry cannot be folded: `fold_to`
    goes on from where this came to, and names it.
    """
    items = 0
    for first in ready:
        with storage_errors(), views.begin(write=True) as txn:
            view = views.view(txn)
            for last in chain((first,), islice(ready, _PORTIONS_AT_ONCE - 1)):
                _fold_portion(view, last, has_erasures)
                items += last.items
            view.flush()
            put_checkpoint(txn, views.handles, Checkpoint(size=last.end, leaf=last.leaf))
        tell(last.end - first.first)
    return items


def _fold_portion(view: View, portion: Portion, has_erasures: Callable[[], bool]) -> None:
    for part in portion.parts:
        match part:
            case PlainFacts():
                fold_plain(view, part)
            case OneByOne(first=first, entries=lying):
                for offset, entry in enumerate(lying, start=first):
                    _fold_entry(view, _opened(offset, entry), has_erasures)
    if portion.damage is not None:
        raise Damaged(portion.damage.offset, portion.damage.words)


def _opened(offset: int, lying: Lying) -> Entry:
    try:
        return lying.open()
    except LogDamaged as damage:
        raise Damaged(offset, damage.detail) from damage


def _fold_entry(view: View, entry: Entry, has_erasures: Callable[[], bool]) -> None:
    if isinstance(entry.event, FactsSealed):
        _check_seals(entry, entry.event, view, has_erasures)
    apply(view, entry)


def _fold_singly(
    views: Views, entries: Iterable[Entry], only: Collection[str] | None, has_erasures: Callable[[], bool]
) -> None:
    """Fold entries of which one cannot be, each in a transaction of its own, so that it is named."""
    for entry in entries:
        try:
            _fold(views, (entry,), only, has_erasures)
        except (ValueError, LookupError, ArithmeticError) as error:
            raise Damaged(entry.offset, f"the entry cannot be folded: {error}") from error


def _fold(
    views: Views, entries: Iterable[Entry], only: Collection[str] | None, has_erasures: Callable[[], bool]
) -> None:
    with views.begin(write=True) as txn:
        view = views.view(txn)
        last = _fold_all(view, entries, has_erasures) if only is None else _fold_into(view, entries, only)
        if last is not None:
            view.flush()
            move_checkpoint(txn, views.handles, last)


def _fold_all(view: View, entries: Iterable[Entry], has_erasures: Callable[[], bool]) -> Entry | None:
    """Fold plain facts that come one after the other together, and all else one by one; the last of the entries."""
    last = None
    for day, run in groupby(entries, key=_day_of_plain):
        gathered = list(run)
        plain = None if day is None else worth_folding_together([_asserted(entry) for entry in gathered])
        if plain is not None:
            fold_plain(view, plain)
        else:
            for entry in gathered:
                _fold_entry(view, entry, has_erasures)
        last = gathered[-1]
    return last


def _day_of_plain(entry: Entry) -> int | None:
    event = entry.event
    try:
        return entry.at_ms // DAY_MS if isinstance(event, FactAsserted) and is_plain(event.fact) else None
    except (ValueError, Refusal):
        # What is wrong with it is said when it is folded by itself.
        return None


def _asserted(entry: Entry) -> Asserted:
    return Asserted(entry.offset, entry.hlc, entry.at_ms, entry.leaf, entry.event.fact)


def _fold_into(view: View, entries: Iterable[Entry], only: Collection[str]) -> Entry | None:
    last = None
    for last in entries:
        for projection in view.folding(type(last.event)):
            if projection.name in only:
                projection.fold(last)
    return last


def _check_seals(entry: Entry, event: FactsSealed, view: View, has_erasures: Callable[[], bool]) -> None:
    for seal in event.seals:
        row = view.facts.of_origin(event.origin, seal.fact_id)
        if row is None and has_erasures():
            continue
        if row is None:
            raise Damaged(entry.offset, f"it seals fact {seal.fact_id}, which the log does not hold")
        try:
            check_later_seal(row.fact, seal, entry.public_key)
        except LogDamaged as damage:
            raise Damaged(entry.offset, damage.detail) from damage
