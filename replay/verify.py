"""Verify a data folder: the log entry by entry, then the live views against a fresh fold of the same log.

Always: works on private copies and writes nothing into the folder, so a running node goes on undisturbed; LMDB opens the
copies in processes of their own, which damage may take down.
The views are copied before the log: a node commits the log first, so copied views are never ahead of the copied log.

Does not check that the log is the one that others saw: that takes a head that somebody else kept (`expect`).
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from node.events.log_check import Damage
from node.events.log_file import DATA_FILE, structural_problem
from node.events.tree import EMPTY_ROOT
from node.projections.views import is_trusted, read_current
from replay.chain import Damaged, NotALog
from replay.copying import copy_environment
from replay.live_views import FoldTask
from replay.log_run import LogRun, Rest, rest_of, survey
from replay.opening import is_locked, views_key
from replay.probe import first_unreadable_offset
from replay.progress import Bar
from replay.workers import NotDone


class SizeAndRoot(Struct, frozen=True):
    """A head as people hand it on: how many entries, and the root over them."""

    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.size}:{self.root.hex()}"


class NotExtended(Exception):
    """The log is sound and is not a continuation of the head that was expected; the message is one line."""


class NoSuchRange(Exception):
    """The log has no such entries; the message is one line for the operator."""


class Extent(Struct, frozen=True):
    """How much to check: the entries of [first, end), `end` None for all there are; with `is_quick`, chain and tree alone."""

    first: int = 0
    end: int | None = None
    is_quick: bool = False


WHOLE = Extent()


def verify(
    data_dir: Path,
    expect: SizeAndRoot | None,
    note: Callable[[str], None],
    *,
    extent: Extent = WHOLE,
    workers: int = 1,
) -> SizeAndRoot:
    """The head of a sound data folder; `note` is told what was found on the way, and what was not looked at.

    Raises Damaged at the first offset where something is wrong, NotExtended where the log does not continue `expect`,
    NotALog where there is none, NotDone where it could not be checked, NoSuchRange for entries that it does not have.
    """
    with tempfile.TemporaryDirectory(prefix="stigmem-verify-") as scratch, Bar() as bar:
        copy, locked = copy_folder(data_dir, Path(scratch)), is_locked(data_dir)
        try:
            return _Verification(copy, expect, note, extent, workers, bar, folds=not locked, is_locked=locked).head()
        except NotDone as error:
            # Of the folder that was asked about, and not of the copy.
            raise NotDone(str(error).replace(str(copy.log), str(data_dir / "log"))) from error


def check_log(log_dir: Path) -> SizeAndRoot:
    """The head of a copied log, once all of it was found to hold. Raises Damaged, NotALog, NotDone.

    Nothing is folded, so seals that were given later are not looked at.
    """
    copy = FolderCopy(log_dir, None, "", log_dir)
    with Bar() as bar:
        return _Verification(copy, None, _tell_nobody, WHOLE, os.cpu_count() or 1, bar, folds=False).head()


def require_log(data_dir: Path) -> None:
    """Raise NotALog where the folder holds none."""
    if not data_dir.is_dir():
        raise NotALog(f"{data_dir} is not there, or is not a folder")
    if not (data_dir / "log" / DATA_FILE).is_file():
        raise NotALog(f"{data_dir} holds no log")


class FolderCopy(Struct, frozen=True):
    """Copies of the log and, where there are live views, of them; `fresh` is where to fold."""

    log: Path
    views: Path | None
    views_note: str
    fresh: Path


def copy_folder(data_dir: Path, scratch: Path) -> FolderCopy:
    """Private copies in `scratch`, each of one committed state, also beside a running node."""
    require_log(data_dir)
    views, note = _copy_views(data_dir / "views", scratch / "views")
    copy_environment(data_dir / "log", scratch / "log")
    return FolderCopy(scratch / "log", views, note, scratch / "fresh")


def _copy_views(views_dir: Path, target: Path) -> tuple[Path | None, str]:
    current = read_current(views_dir)
    if current is None:
        return None, "no live views"
    if not is_trusted(current, views_key()):
        return None, "the live views are of another version or went down with the machine: the node will make them anew"
    try:
        copy_environment(views_dir / str(current.folder), target)
    except FileNotFoundError:
        return None, "the live views are gone: the node will make them anew"
    return target, ""


class _Verification(Struct):
    """One run over the copies."""

    copy: FolderCopy
    expect: SizeAndRoot | None
    note: Callable[[str], None]
    extent: Extent
    workers: int
    bar: Bar
    folds: bool
    is_locked: bool = False

    def head(self) -> SizeAndRoot:
        is_quick = self.extent.is_quick
        run = LogRun(self.copy.log, workers=self.workers, is_quick=is_quick, bar=self.bar, walks=not is_quick)
        try:
            size = unless_damage(survey(self.copy.log))
            first, end = self._range(size)
            is_whole = (first, end) == (0, size)
            run.check(first, end, self._folding() if self.folds and is_whole and not is_quick else None)
        except (Damaged, NotDone, NoSuchRange):
            # The structure of the file is what is told first, whoever stumbled over it.
            self._check_structure()
            raise
        self._require_structure(run.problem)
        unless_damage(run.damage)
        head, root_then = self._rest(run, size, is_whole=is_whole)
        self._tell(first, end, head)
        if run.folded is not None:
            unless_damage(run.folded.of_views)
            self.note(f"views: {run.folded.words}")
        if self.expect is not None and root_then != self.expect.root:
            raise NotExtended(f"the log, at {head}, does not extend the expected head {self.expect}")
        return head

    def _check_structure(self) -> None:
        self._require_structure(structural_problem(self.copy.log))

    def _require_structure(self, problem: str | None) -> None:
        if problem is not None:
            raise Damaged(first_unreadable_offset(self.copy.log), f"the file is damaged: {problem}")

    def _range(self, size: int) -> tuple[int, int]:
        first, end = self.extent.first, size if self.extent.end is None else self.extent.end
        if not (first < end <= size or (first, end) == (0, size)):
            raise NoSuchRange(f"the log has {size} entries: there are none from {first} to {end}")
        return first, end

    def _folding(self) -> FoldTask:
        return FoldTask(self.copy.log, self.copy.views, self.copy.views_note, self.copy.fresh)

    def _rest(self, run: LogRun, size: int, *, is_whole: bool) -> tuple[SizeAndRoot, bytes | None]:
        """The head, and the root at the expected size or None where the log is shorter."""
        then = [self.expect.size] if self.expect is not None and 0 < self.expect.size <= size else []
        items = None if self.extent.is_quick else run.items
        rested = rest_of(self.copy.log, Rest(is_whole, items, tuple(([size] if size else []) + then)))
        unless_damage(rested.damage)
        head = SizeAndRoot(size, rested.roots[0] if size else EMPTY_ROOT)
        if self.expect is None or self.expect.size > size:
            return head, None
        return head, rested.roots[-1] if then else EMPTY_ROOT

    def _tell(self, first: int, end: int, head: SizeAndRoot) -> None:
        what = "chain and tree hold, and the signature of the last"
        if not self.extent.is_quick:
            what = "chain, signatures and tree hold" if self.is_locked else "chain, signatures, items and tree hold"
        elif end != head.size:
            what = "chain and tree hold"
        if (first, end) == (0, head.size):
            self.note(f"log: {head.size} entries, {what}")
        else:
            self.note(f"log: entries {first} to {end - 1} of {head.size}, {what}")
            self.note(
                "not checked: the other entries, so the root is what the tree says and no proof; rows of no entry"
            )
        if self.is_locked:
            self.note("not checked: items against their commitments, what is signed inside them, the views:")
            self.note("the log is encrypted, and no key was given")
        if self.extent.is_quick:
            self.note("not checked: each entry's own signature, items, times, the structure of the file, the views")
        elif (first, end) != (0, head.size) and not self.is_locked:
            self.note("not checked: seals given later, the views")


def unless_damage(found: object) -> object:
    if isinstance(found, Damage):
        raise Damaged(found.offset, found.words)
    return found


def _tell_nobody(words: str) -> None:
    """Somebody else says what was found."""
