"""The live views against a fresh fold of the same log, as the work of one process.

Always: the fold goes on to the log's head, so that an entry which cannot be folded is named also behind the live views.
The live views are opened for comparing only once the structure of their file was checked.

Does not check the log (see `node/events/log_check.py`): where that is damaged, what is found there comes first.
"""

import struct
from itertools import zip_longest
from pathlib import Path

import lmdb
from msgspec import Struct

from node.errors import LogDamaged
from node.events.log import Log
from node.events.log_check import Damage
from node.projections.base import Projection
from node.projections.views import Views
from replay.chain import Damaged
from replay.folding import fold_to
from replay.opening import open_log, open_views
from replay.workers import Tell

REMEDY = "`stigmem replay rebuild` makes them anew"


class FoldTask(Struct, frozen=True):
    """Copies of the log and, where there are any, of the live views; `note` says why not. `fresh` is where to fold: what is
    folded there already is not folded again.

    With `end`, the first so many entries are folded and nothing is compared. Else `problem` is what is wrong with the structure
    of the live views' file.
    """

    log: Path
    live: Path | None
    note: str
    fresh: Path
    end: int | None = None
    problem: str | None = None


class Folded(Struct, frozen=True):
    """What the views were found to be, in words; or a damage of the log that only the fold can see, or one of the views."""

    words: str
    of_log: Damage | None = None
    of_views: Damage | None = None


class _ViewsDamaged(Exception):
    def __init__(self, offset: int | None, words: str) -> None:
        super().__init__(words)
        self.damage = Damage(offset, words)


def fold_and_compare(task: FoldTask, tell: Tell) -> Folded:
    """Fold afresh, and compare with the live views where they stand."""
    log, fresh = open_log(task.log), open_views(task.fresh)
    try:
        if task.end is not None:
            fold_to(fresh, log, task.end, tell)
            return Folded("")
        compared = Folded(task.note) if task.live is None else _compared(task, fresh, log, tell)
        # Also behind damaged views: what is wrong with the log comes first.
        fold_to(fresh, log, log.head().size, tell)
        return compared
    except Damaged as error:
        return Folded("", of_log=Damage(error.offset, error.words))
    finally:
        fresh.close()
        log.close()


def standing(task: FoldTask, _: Tell) -> int:
    """How many of the log's entries the live views say that they hold; their file is not checked, and may end the process."""
    log, live = open_log(task.log), open_views(task.live, is_readonly=True)
    try:
        return min(live.checkpoint().size, log.head().size)
    finally:
        live.close()
        log.close()


def _compared(task: FoldTask, fresh: Views, log: Log, tell: Tell) -> Folded:
    try:
        return Folded(_compare(task, fresh, log, tell))
    except _ViewsDamaged as error:
        return Folded("", of_views=error.damage)


def _compare(task: FoldTask, fresh: Views, log: Log, tell: Tell) -> str:
    if task.problem is not None:
        raise _ViewsDamaged(None, f"the file of the live views is damaged: {task.problem}; {REMEDY}")
    try:
        live = open_views(task.live, is_readonly=True)
    except (LogDamaged, lmdb.Error) as error:
        raise _ViewsDamaged(None, f"the live views cannot be opened: {error}; {REMEDY}") from error
    try:
        return _compare_opened(live, fresh, log, tell)
    finally:
        live.close()


def _compare_opened(live: Views, fresh: Views, log: Log, tell: Tell) -> str:
    try:
        checkpoint = live.checkpoint()
    except struct.error as error:
        raise _ViewsDamaged(None, f"the live views do not say where they stand; {REMEDY}") from error
    size = log.head().size
    if checkpoint.size > size:
        words = f"the entry is missing: the live views hold {checkpoint.size} entries, the log {size}"
        raise _ViewsDamaged(size, words)
    fold_to(fresh, log, checkpoint.size, tell)
    if fresh.checkpoint() != checkpoint:
        raise _ViewsDamaged(checkpoint.size - 1, f"the live views were folded from another entry; {REMEDY}")
    differing = differing_projections(live, fresh)
    if differing:
        # A digest says that rows differ, not since when: the last entry folded is where they are seen to.
        where = max(checkpoint.size - 1, 0)
        words = f"the live views of {', '.join(differing)} are not what the log folds to; {REMEDY}"
        raise _ViewsDamaged(where, words)
    return f"at {checkpoint.size} of {size} entries, as the log folds to"


def differing_projections(live: Views, fresh: Views) -> list[str]:
    """The projections whose rows in the live views are others than in the fresh ones, or cannot be read."""
    with live.begin() as old, fresh.begin() as new:
        pairs = zip(live.view(old).projections, fresh.view(new).projections, strict=True)
        return [
            ours.name
            for ours, expected in pairs
            # Bytes that are equal are equal rows, and to see that takes a seventh of what two digests do.
            if not _has_same_bytes(ours, (old, live), (new, fresh)) and not _has_same_digest(ours, expected)
        ]


def _has_same_bytes(
    projection: Projection, one: tuple[lmdb.Transaction, Views], other: tuple[lmdb.Transaction, Views]
) -> bool:
    for spec in projection.tables:
        rows = [txn.cursor(db=views.handles[spec.name]) for txn, views in (one, other)]
        if any(found != expected for found, expected in zip_longest(*rows)):
            return False
    return True


def _has_same_digest(ours: Projection, expected: Projection) -> bool:
    try:
        return ours.digest() == expected.digest()
    except ValueError:  # a row cannot be read
        return False
