"""Verify a data folder: the log entry by entry, then the live views against a fresh fold of the same log.

Always: works on private copies and writes nothing into the folder, so a running node goes on undisturbed.
The views are copied before the log: a node commits the log first, so copied views are never ahead of the copied log.

Does not check seals and attestations inside items, nor that the log is the one that others saw: that takes a head that
somebody else kept (`expect`).
"""

import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import lmdb
from msgspec import Struct

from node.errors import LogDamaged
from node.events.log import Log
from node.events.tree import EMPTY_ROOT
from node.projections.views import Views, is_trusted, read_current
from replay.chain import Damaged, NotALog, checked_sizes, damage_of, require_format
from replay.copying import DATA_FILE, copy_environment, structural_problem
from replay.probe import first_unreadable_offset

_REMEDY = "`stigmem replay rebuild` makes them anew"


class SizeAndRoot(Struct, frozen=True):
    """A head as people hand it on: how many entries, and the root over them."""

    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.size}:{self.root.hex()}"


class NotExtended(Exception):
    """The log is sound and is not a continuation of the head that was expected; the message is one line."""


def verify(data_dir: Path, expect: SizeAndRoot | None, note: Callable[[str], None]) -> SizeAndRoot:
    """The head of a sound data folder; `note` is told what was found on the way.

    Raises Damaged at the first offset where something is wrong, NotExtended where the log does not continue `expect`,
    NotALog where there is none.
    """
    with tempfile.TemporaryDirectory(prefix="stigmem-verify-") as scratch:
        copy = _copy(data_dir, Path(scratch))
        try:
            return _verify_copy(copy, expect, note)
        except LogDamaged as refusal:
            raise damage_of(refusal) from refusal


def require_log(data_dir: Path) -> None:
    """Raise NotALog where the folder holds none."""
    if not data_dir.is_dir():
        raise NotALog(f"{data_dir} is not there, or is not a folder")
    if not (data_dir / "log" / DATA_FILE).is_file():
        raise NotALog(f"{data_dir} holds no log")


class _Copy(Struct, frozen=True):
    """Copies of the log and, where there are live views, of them; `fresh` is where to fold."""

    log: Path
    views: Path | None
    views_note: str
    fresh: Path


def _copy(data_dir: Path, scratch: Path) -> _Copy:
    require_log(data_dir)
    views, note = _copy_views(data_dir / "views", scratch / "views")
    copy_environment(data_dir / "log", scratch / "log")
    return _Copy(scratch / "log", views, note, scratch / "fresh")


def _copy_views(views_dir: Path, target: Path) -> tuple[Path | None, str]:
    current = read_current(views_dir)
    if current is None:
        return None, "no live views"
    if not is_trusted(current):
        return None, "the live views are of another version or went down with the machine: the node will make them anew"
    try:
        copy_environment(views_dir / str(current.folder), target)
    except FileNotFoundError:
        return None, "the live views are gone: the node will make them anew"
    return target, ""


def _verify_copy(copy: _Copy, expect: SizeAndRoot | None, note: Callable[[str], None]) -> SizeAndRoot:
    problem = structural_problem(copy.log)
    if problem is not None:
        raise Damaged(first_unreadable_offset(copy.log), f"the file is damaged: {problem}")
    require_format(copy.log)
    head, root_then = _check_chain(copy.log, expect)
    note(f"log: {head.size} entries, chain, signatures, items and tree hold")
    log = Log(copy.log, is_readonly=True)
    try:
        note(_check_views(copy, log))
    finally:
        log.close()
    if expect is not None and root_then != expect.root:
        raise NotExtended(f"the log, at {head}, does not extend the expected head {expect}")
    return head


def _check_chain(log_dir: Path, expect: SizeAndRoot | None) -> tuple[SizeAndRoot, bytes | None]:
    """The head, and the root at the expected size or None where the log is shorter."""
    head, root_then = SizeAndRoot(0, EMPTY_ROOT), EMPTY_ROOT if expect is not None and expect.size == 0 else None
    frontier = None
    for frontier in checked_sizes(log_dir):
        if expect is not None and frontier.size == expect.size:
            root_then = frontier.root()
    if frontier is not None:
        head = SizeAndRoot(frontier.size, frontier.root())
    return head, root_then


def _check_views(copy: _Copy, log: Log) -> str:
    """Fold the log afresh and compare with the live views where they stand; then fold to the head."""
    fresh = Views(copy.fresh)
    try:
        said = copy.views_note if copy.views is None else _compare(copy.views, fresh, log)
        _fold(fresh, log, log.head().size)
        return f"views: {said}"
    finally:
        fresh.close()


def _fold(fresh: Views, log: Log, to_offset: int) -> None:
    """Fold on; where an entry is sound in form and says what no node would have logged, name it."""
    try:
        fresh.fold_forward(log, to_offset)
    except (ValueError, LookupError):
        for offset in range(fresh.checkpoint().size, to_offset):
            _fold_one(fresh, log, offset)


def _fold_one(fresh: Views, log: Log, offset: int) -> None:
    try:
        fresh.fold_forward(log, offset + 1)
    except (ValueError, LookupError) as error:
        raise Damaged(offset, f"the entry cannot be folded: {error}") from error


def _compare(live_dir: Path, fresh: Views, log: Log) -> str:
    problem = structural_problem(live_dir)
    if problem is not None:
        raise Damaged(None, f"the file of the live views is damaged: {problem}; {_REMEDY}")
    try:
        live = Views(live_dir, is_readonly=True)
    except (LogDamaged, lmdb.Error) as error:
        raise Damaged(None, f"the live views cannot be opened: {error}; {_REMEDY}") from error
    try:
        return _compare_opened(live, fresh, log)
    finally:
        live.close()


def _compare_opened(live: Views, fresh: Views, log: Log) -> str:
    try:
        checkpoint = live.checkpoint()
    except struct.error as error:
        raise Damaged(None, f"the live views do not say where they stand; {_REMEDY}") from error
    size = log.head().size
    if checkpoint.size > size:
        raise Damaged(size, f"the entry is missing: the live views hold {checkpoint.size} entries, the log {size}")
    _fold(fresh, log, checkpoint.size)
    if fresh.checkpoint() != checkpoint:
        raise Damaged(checkpoint.size - 1, f"the live views were folded from another entry; {_REMEDY}")
    differing = _differing(live, fresh)
    if differing:
        # A digest says that rows differ, not since when: the last entry folded is where they are seen to.
        where = max(checkpoint.size - 1, 0)
        raise Damaged(where, f"the live views of {', '.join(differing)} are not what the log folds to; {_REMEDY}")
    return f"at {checkpoint.size} of {size} entries, as the log folds to"


def _differing(live: Views, fresh: Views) -> list[str]:
    expected, names = fresh.digests(), []
    with live.begin() as txn:
        for projection in live.view(txn).projections:
            try:
                found = projection.digest()
            except ValueError:
                found = "a row cannot be read"
            if found != expected[projection.name]:
                names.append(projection.name)
    return names
