"""Rebuild the views: fold the log into a new folder beside the old one, then point at it by one rename.

Always: no node has the folder open meanwhile; whatever ends it before that rename, a damaged log or a power cut, leaves the old
views as they were, and what it left behind is cleared away by the next attempt.
What is folded is checked: the chain of hashes up to the signed last entry, the tree, and items against commitments. Processes
of their own read and check the log and make ready what this one folds (see portions.py); the rename waits for all of it.

Does not check each entry's own signature, nor what is signed inside items (see verify.py).
"""

import os
import struct
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path

import lmdb
from msgspec import Struct

from node.errors import LogDamaged
from node.events.log import Log
from node.events.log_file import startup_problem, structural_problem
from node.events.store import VIEWS_MAP_BYTES, Store, storage_errors
from node.events.tree import EMPTY_ROOT
from node.folder_lock import FolderLock
from node.projections import PROJECTIONS
from node.projections.apply import CHECKPOINT_TABLE, Checkpoint, read_checkpoint
from node.projections.views import Views, is_trusted, new_folder, point_at, read_current
from replay.chain import Damaged, damage_of
from replay.digests import Digests
from replay.folding import fold_portions, fold_to
from replay.live_views import differing_projections
from replay.log_run import LogRun, Rest, rest_of, survey
from replay.opening import open_log, open_views, require_unlocked, views_key
from replay.portions import Portions
from replay.progress import Bar
from replay.verify import FolderCopy, SizeAndRoot, copy_folder, require_log, unless_damage
from replay.workers import Failed, Gone, NotDone, Progress, Tell, Trouble, Worker, expect_many_rows

# What a projection reads besides its own tables (docs/architecture.md): it can be made anew only together with those.
_READS = dict.fromkeys(("conflicts", "sources", "gardens", "peers"), ("facts",))
_ROWS_AT_ONCE = 2000


class Rebuilt(Struct, frozen=True):
    """Each projection's digest as the log folds to it, and the head that it stands at.

    `changes` says of each whether that differs from the live one; None where there is none to compare with, or nobody asked.
    """

    digests: dict[str, str]
    head: SizeAndRoot
    changes: dict[str, bool] | None = None


def rebuild_views(data_dir: Path, only: str | None = None) -> Rebuilt:
    """Make the views of a data folder anew, or with `only` those of one projection and what it reads.

    Raises FolderInUse where a node runs on the folder, NotALog where there is no log, Damaged where it does not hold,
    NotDone where the live views are nothing that the others could be carried over from.
    """
    require_log(data_dir)
    require_unlocked(data_dir)
    with FolderLock(data_dir / "lock"), Bar() as bar:
        folder = new_folder(data_dir / "views")
        with _structure_first(data_dir / "log"):
            found = _made_anew(data_dir, folder, only, bar)
        point_at(folder, is_closed=True, file_key=views_key())
        return found


def try_rebuild(data_dir: Path, only: str | None = None) -> Rebuilt:
    """What a rebuild would change, found on copies: beside a running node too, and nothing in the folder is touched."""
    require_unlocked(data_dir)
    with tempfile.TemporaryDirectory(prefix="stigmem-rebuild-") as scratch, Bar() as bar:
        copy = copy_folder(data_dir, Path(scratch))
        with _structure_first(copy.log):
            _require_sound(copy.log, bar)
        try:
            return _try(copy, only, bar)
        except LogDamaged as refusal:
            raise damage_of(refusal) from refusal


@contextmanager
def _structure_first(log_dir: Path) -> Iterator[None]:
    """What is wrong with the structure of the log's file is told first, whoever stumbled over it.

    Before anybody reads a long file only a glance is cast at it, as at every start of the node: who reads is a process
    that a torn page may take down, what it reads is checked, and to walk through all pages would take as long as that.
    """
    _require(startup_problem(log_dir))
    try:
        yield
    except (Damaged, NotDone):
        _require(structural_problem(log_dir))
        raise


def _require(problem: str | None) -> None:
    if problem is not None:
        raise Damaged(None, f"the file is damaged: {problem}")


def _made_anew(data_dir: Path, folder: Path, only: str | None, bar: Bar) -> Rebuilt:
    if only is not None:
        return _fold_aside(data_dir, folder, only, bar)
    try:
        return _fold_ahead(data_dir / "log", folder, bar)
    except (ValueError, LookupError, ArithmeticError):
        # An entry cannot be folded: going on from there, entry by entry, names it.
        return _fold_aside(data_dir, folder, None, bar)


def _fold_ahead(log_dir: Path, folder: Path, bar: Bar) -> Rebuilt:
    """Fold what several processes check and make ready. Raises ValueError, LookupError, ArithmeticError as `fold_portions`."""
    size, processes = unless_damage(survey(log_dir)), len(os.sched_getaffinity(0))
    bar.expect(size)
    expect_many_rows()
    # One that makes ready more than there are cores: while one waits to hand over, no core does.
    with Digests(processes) as digests, Portions(log_dir, size, processes + 1) as ready:
        views = open_views(folder)
        try:
            # It reads every header, and is asked for each seal whose fact is not there.
            has_erasures = cache(partial(_has_erasures, log_dir))
            items = fold_portions(views, iter(ready), bar.advance, has_erasures=has_erasures)
            digests.begin(views)
        finally:
            # The rows are on disk before anything points at them.
            views.close()
        rested = rest_of(log_dir, Rest(True, items, (size,) if size else ()))
        unless_damage(rested.damage)
        return Rebuilt(digests.result(), SizeAndRoot(size, rested.roots[0] if size else EMPTY_ROOT))


def _fold_aside(data_dir: Path, folder: Path, only: str | None, bar: Bar) -> Rebuilt:
    """Fold entry by entry, in a process of its own which a torn file may take down, while others check the log: what it made
    is nothing that anybody looks at before the log is known to hold.
    """
    folding = Worker(_make_folding)
    try:
        folding.give(_Folding(data_dir, folder, only))
        bar.expect(_require_sound(data_dir / "log", bar))
        return _outcome_of(folding, bar)
    finally:
        folding.end()


def _require_sound(log_dir: Path, bar: Bar) -> int:
    """How many entries there are. Raises Damaged unless chain, tree and last signature hold: then every hash in a header is
    one that the node signed.
    """
    size = unless_damage(survey(log_dir))
    run = LogRun(log_dir, workers=len(os.sched_getaffinity(0)), is_quick=True, bar=bar)
    run.check(0, size, None)
    unless_damage(run.damage)
    unless_damage(rest_of(log_dir, Rest(True, None, ())).damage)
    return size


class _Folding(Struct, frozen=True):
    """Asks for the views of `data_dir` in the new folder `folder`."""

    data_dir: Path
    folder: Path
    only: str | None


def _make_folding() -> object:
    return _fold_anew


def _fold_anew(task: _Folding, tell: Tell) -> Rebuilt | Trouble:
    log = open_log(task.data_dir / "log")
    try:
        carried = None
        if task.only is not None:
            carried = _Carried(task.data_dir / "views", log, _with_what_it_reads(task.only))
        views = open_views(task.folder)
        if carried is not None:
            carried.into(views, log, tell)
        found = _folded(views, log, tell)
        # The rows are on disk before anything points at them.
        views.close()
        return found
    except NotDone as refusal:
        return Trouble(str(refusal))
    finally:
        log.close()


def _outcome_of(folding: Worker, bar: Bar) -> Rebuilt:
    """What the process that folds a sound log makes of it. Raises Damaged, NotDone."""
    while True:
        match folding.hear():
            case Progress(entries=entries):
                bar.advance(entries)
            case Failed(offset=offset, words=words):
                raise Damaged(offset, words)
            case Gone(how=how):
                raise NotDone(f"the process that makes the views was ended: {how}")
            case found:
                return found


def _folded(views: Views, log: Log, tell: Tell) -> Rebuilt:
    head = log.head()
    fold_to(views, log, head.size, tell)
    return Rebuilt(views.digests(), SizeAndRoot(head.size, head.root))


def _try(copy: FolderCopy, only: str | None, bar: Bar) -> Rebuilt:
    log, fresh = open_log(copy.log), open_views(copy.fresh)
    try:
        changes = None if copy.views is None else _changes(copy.views, fresh, log, bar)
        if changes is not None and only is not None:
            changes = {name: changes[name] for name in _with_what_it_reads(only)}
        bar.expect(log.head().size - fresh.checkpoint().size)
        found = _folded(fresh, log, bar.advance)
        return Rebuilt(found.digests, found.head, changes)
    finally:
        fresh.close()
        log.close()


def _changes(live_dir: Path, fresh: Views, log: Log, bar: Bar) -> dict[str, bool] | None:
    """Which projections differ where the live views stand; None where those cannot be read."""
    if structural_problem(live_dir) is not None:
        return None
    try:
        live = open_views(live_dir, is_readonly=True)
    except (LogDamaged, lmdb.Error):
        return None
    try:
        fold_to(fresh, log, min(live.checkpoint().size, log.head().size), bar.advance)
        differing = differing_projections(live, fresh)
    except struct.error:  # a checkpoint that is none
        return None
    finally:
        live.close()
    return {projection.name: projection.name in differing for projection in PROJECTIONS}


def _has_erasures(log_dir: Path) -> bool:
    log = open_log(log_dir)
    try:
        return log.has_erasures()
    finally:
        log.close()


def _with_what_it_reads(name: str) -> tuple[str, ...]:
    return (*_READS.get(name, ()), name)


class _Carried:
    """The rows of the live views that stay. Raises NotDone where they are nothing to rely on."""

    def __init__(self, views_dir: Path, log: Log, remade: Collection[str]) -> None:
        self._remade = remade
        self._names = [spec.name for kind in PROJECTIONS if kind.name not in remade for spec in kind.tables]
        current = read_current(views_dir)
        if current is None or not is_trusted(current, views_key(), but_for=remade):
            raise NotDone("there are no live views to carry the others over from: rebuild all, without --only")
        self._store = self._open(views_dir / str(current.folder))
        try:
            self._at = self._checkpoint(log)
        except NotDone:
            self._store.close()
            raise

    def into(self, views: Views, log: Log, tell: Tell) -> None:
        """Bring new views to where the live ones stand: what is remade by folding, the rest by copying."""
        try:
            fold_to(views, log, self._at.size, tell, only=self._remade)
            with self._store.begin() as old:
                for name in self._names:
                    self._copy_table(name, old, views)
        finally:
            self._store.close()

    def _copy_table(self, name: str, old: lmdb.Transaction, views: Views) -> None:
        with old.cursor(db=self._store.table(name)) as rows:
            stream = iter(rows)
            while batch := list(islice(stream, _ROWS_AT_ONCE)):
                with storage_errors(), views.begin(write=True) as txn, txn.cursor(db=views.handles[name]) as cursor:
                    cursor.putmulti(batch, append=True)

    def _open(self, folder: Path) -> Store:
        try:
            problem = structural_problem(folder)
            if problem is None:
                names = [*self._names, CHECKPOINT_TABLE]
                return Store(folder, tables=names, map_bytes=VIEWS_MAP_BYTES, is_readonly=True)
        except (OSError, LogDamaged) as error:
            problem = str(error)
        raise NotDone(f"the live views cannot be read: {problem}; rebuild all, without --only")

    def _checkpoint(self, log: Log) -> Checkpoint:
        with self._store.begin() as txn:
            try:
                found = read_checkpoint(txn, {CHECKPOINT_TABLE: self._store.table(CHECKPOINT_TABLE)})
            except struct.error as error:
                raise NotDone("the live views do not say where they stand: rebuild all, without --only") from error
        with log.tree() as read:
            is_on_log = found.size <= log.head().size and (found.size == 0 or read(0, found.size - 1) == found.leaf)
        if not is_on_log:
            raise NotDone("the live views were folded from another log: rebuild all, without --only")
        return found
