"""The views on disk: one folder after another, the live one named by CURRENT, any of them free to be deleted.

Always: views whose state is in doubt are folded again rather than trusted: another boot without a clean close, another version
of a projection, a leaf hash that is not the log's, or more entries than the log has.

Recovery is not a second code path: a fresh start, a crash and a rebuild all fold forward with `apply`.
"""

import shutil
import struct
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import lmdb
import msgspec
from msgspec import Struct

from node.durable import replace_file
from node.errors import LogDamaged, NotReady
from node.events.evidence import damage_at
from node.events.key_file import FileKey
from node.events.log import Log
from node.events.log_file import DATA_FILE, fill_up, startup_problem
from node.events.store import VIEWS_MAP_BYTES, Store, storage_errors
from node.projections import PROJECTIONS
from node.projections.apply import CHECKPOINT_TABLE, Checkpoint, apply_all, portion, read_checkpoint
from node.projections.base import Handles, TableSpec
from node.projections.sealed_tables import SealedHandles
from node.projections.view import View

MAX_READINGS = 1000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Current(Struct, frozen=True, kw_only=True):
    """CURRENT: which folder is live, in which run of the machine it was opened, whether it was closed cleanly since.

    `under` tells the key that it is encrypted under from others; None where it lies in clear.
    """

    folder: int
    boot_id: str
    closed: bool
    versions: dict[str, int]
    under: str | None = None


# Told how many entries are folded, from time to time; what it raises ends the folding.
Progress = Callable[[int], None]


def no_progress(size: int) -> None:
    """Nobody waits to be told."""


class Views:
    """The LMDB environment of one views folder."""

    def __init__(
        self,
        path: Path,
        *,
        is_readonly: bool = False,
        map_bytes: int = VIEWS_MAP_BYTES,
        file_key: FileKey | None = None,
    ) -> None:
        """With `file_key`, views that are encrypted under it."""
        if not is_readonly:
            path.mkdir(parents=True, exist_ok=True)
        self.folder, self._is_readonly, self.file_key = path, is_readonly, file_key
        names = [spec.name for spec in table_specs()] + [CHECKPOINT_TABLE]
        self._store = Store(path, tables=names, map_bytes=map_bytes, is_synced=False, is_readonly=is_readonly)
        self.handles = Handles() if file_key is None else SealedHandles(file_key.views)
        self.handles.update({name: self._store.table(name) for name in names})
        self._kept = KeptReading(self._store, self.handles)
        self._reader: int | None = None

    def begin(self, *, write: bool = False) -> lmdb.Transaction:
        return self._store.begin(write=write)

    def view(self, txn: lmdb.Transaction) -> View:
        return View(txn, self.handles)

    def commit(self, txn: lmdb.Transaction) -> None:
        """Commit what was written; from then on `reading` is of that. On the thread that reads are kept for."""
        self.let_go()
        txn.commit()

    def keep_readings(self) -> None:
        """From now on this thread is the one that reads most, and is not to begin anew for each reading."""
        self._reader = threading.get_ident()

    def reading(self) -> "Reading | KeptReading":
        """A view of what is committed, for one `with`."""
        return self._kept if threading.get_ident() == self._reader else Reading(self)

    def let_go(self) -> None:
        """Close what is kept for the next `reading`."""
        self._kept.let_go()

    def checkpoint(self) -> Checkpoint:
        with self.begin() as txn:
            return read_checkpoint(txn, self.handles)

    def digests(self) -> dict[str, str]:
        with self.begin() as txn:
            return self.view(txn).digests()

    def fold_forward(self, log: Log, to_offset: int, progress: Progress = no_progress) -> None:
        """Fold what the log holds beyond the checkpoint, up to an offset."""
        while (start := self.checkpoint().size) < to_offset:
            progress(start)
            with storage_errors(), self.begin(write=True) as txn:
                apply_all(txn, self.handles, portion(log.scan(start, to_offset)))
            self.let_go()
            if self.checkpoint().size == start:
                raise LogDamaged(f"offset {start}: the log ends before its head")

    def written_anew(self) -> "Views":
        """The same rows in a new folder beside this one, whose file holds nothing of what was deleted. Nobody writes meanwhile.

        To be pointed at (`point_at`); whoever still reads here reads on.
        """
        folder = new_folder(self.folder.parent)
        self._store.copy_to(folder)
        return Views(folder, file_key=self.file_key)

    def require_kept(self) -> None:
        """Raise StorageFailed where LMDB has given them up, or the disk has not kept all that was written to them.

        It says so once: the pages it lost then count as written, and are read back as they were before.
        """
        with storage_errors(), self.begin():
            self._store.sync()

    def close(self) -> None:
        self.let_go()
        try:
            if not self._is_readonly:
                self._store.sync()
        finally:
            self._store.close()


class Reading:
    """A view and its transaction, from the beginning of a `with` to its end. By hand: every request opens one."""

    __slots__ = ("_txn", "_view", "_views")

    def __init__(self, views: Views) -> None:
        self._views = views

    def __enter__(self) -> View:
        self._txn = self._views.begin()
        self._view = View(self._txn, self._views.handles)
        return self._view

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        self._txn.abort()
        self._view.close()
        if isinstance(error, _NO_ROW):
            raise meaning_of(error) from error


# What a row that a disk or somebody changed ends its decoding with.
_NO_ROW = (msgspec.DecodeError, UnicodeDecodeError)


def meaning_of(error: Exception) -> Exception:
    """What ended a reading of the views; LogDamaged, which names no offset, where it was a row that is none."""
    if not isinstance(error, _NO_ROW):
        return error
    return damage_at(None, "the views hold a row that cannot be read; `stigmem replay rebuild` makes them anew")


class KeptReading:
    """One view for all readings of one thread between two commits: what makes a view is as dear as what most ask of it.

    It is let go of with the next commit, so it never keeps pages from being used again; and after `MAX_READINGS`, because views
    remember what they were asked.
    """

    __slots__ = ("_depth", "_handles", "_left", "_store", "_txn", "_view")

    def __init__(self, store: Store, handles: Handles) -> None:
        self._store, self._handles = store, handles
        self._depth = self._left = 0
        self._view: View | None = None
        self._txn: lmdb.Transaction | None = None

    def __enter__(self) -> View:
        if self._left <= 0 and self._depth == 0:
            self.let_go()
            self._txn = self._store.begin()
            self._view, self._left = View(self._txn, self._handles), MAX_READINGS
        self._left -= 1
        self._depth += 1
        return self._view

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._depth -= 1
        if isinstance(error, lmdb.Error):
            self._left = 0
        if isinstance(error, _NO_ROW):
            raise meaning_of(error) from error

    def let_go(self) -> None:
        if self._view is not None:
            self._view.close()
            self._txn.abort()
            self._view, self._txn, self._left = None, None, 0


def table_specs() -> list[TableSpec]:
    return [spec for projection in PROJECTIONS for spec in projection.tables]


class StaleViews:
    """Views of which some projections were folded by another version: the rest can be read until new ones are made."""

    def __init__(self, path: Path, stale: frozenset[str], file_key: FileKey | None) -> None:
        # Creates the tables that the other version did not have, which nobody reads.
        self._views, self.stale = Views(path, file_key=file_key), stale
        self._lock, self._readers, self._is_retired = threading.Lock(), 0, False

    @contextmanager
    def view(self) -> Iterator[View]:
        with self._lock:
            if self._is_retired:
                raise NotReady("the views have just been made anew")
            self._readers += 1
        try:
            with self._views.begin() as txn, closing(View(txn, self._views.handles, self.stale)) as view:
                yield view
        finally:
            self._leave()

    def retire(self) -> None:
        """Close them as soon as nobody reads them any more."""
        with self._lock:
            self._is_retired = True
            is_last = self._readers == 0
        if is_last:
            self._views.close()

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            is_last = self._is_retired and self._readers == 0
        if is_last:
            self._views.close()


def open_live(views_dir: Path, log: Log, max_behind: int, file_key: FileKey | None = None) -> Views | None:
    """The live views, folded up to the log's head; None where there are none that can be trusted.

    Neither are those that stand more than `max_behind` entries behind it.
    """
    views_dir.mkdir(parents=True, exist_ok=True)
    current = read_current(views_dir)
    if current is None or not is_trusted(current, file_key):
        return None
    checkpoint = _sound_checkpoint(views_dir / str(current.folder), log)
    if checkpoint is None or log.head().size - checkpoint.size > max_behind:
        return None
    views = _folded(views_dir / str(current.folder), log, no_progress, file_key)
    _write_current(views_dir, current.folder, is_closed=False, under=current.under)
    return views


def entries_missing(views_dir: Path, log: Log) -> int | None:
    """How many entries live views hold of which the log has only the first: it lost its tail, or was set back; else None.

    The log is on disk before the views are told, so views that nothing took down can never be ahead of it.
    """
    current = read_current(views_dir)
    if current is None or not _is_whole(current):
        return None
    checkpoint = _checkpoint_of(views_dir / str(current.folder))
    return None if checkpoint is None or checkpoint.size <= log.head().size else checkpoint.size


def open_stale(views_dir: Path, log: Log, file_key: FileKey | None = None) -> StaleViews | None:
    """What can still be read of live views that another version wrote; None where nothing can."""
    current = read_current(views_dir)
    if current is None or not _is_whole(current) or current.under != _mark(file_key):
        return None
    checkpoint = _sound_checkpoint(views_dir / str(current.folder), log)
    if checkpoint is None or checkpoint.size != log.head().size:
        # What is missing can be folded into none of them: one that is stale would have to be folded too.
        return None
    stale = {name for name, version in _versions().items() if current.versions.get(name) != version}
    return StaleViews(views_dir / str(current.folder), frozenset(stale), file_key)


def rebuild(views_dir: Path, log: Log, progress: Progress = no_progress, file_key: FileKey | None = None) -> Views:
    """Fold the whole log into a new folder, then point CURRENT at it and delete the others."""
    folder = new_folder(views_dir)
    views = _folded(folder, log, progress, file_key)
    point_at(folder, is_closed=False, file_key=file_key)
    return views


def new_folder(views_dir: Path) -> Path:
    """Where to make views anew, beside the live ones; what an earlier attempt left behind is deleted."""
    views_dir.mkdir(parents=True, exist_ok=True)
    folder = max([int(path.name) for path in views_dir.iterdir() if path.name.isdecimal()], default=0) + 1
    current = read_current(views_dir)
    _remove_all_but(views_dir, None if current is None else current.folder)
    return views_dir / str(folder)


def point_at(folder: Path, *, is_closed: bool, file_key: FileKey | None = None) -> None:
    """Make the views in `folder` the live ones, by one rename, and delete the others."""
    _write_current(folder.parent, int(folder.name), is_closed=is_closed, under=_mark(file_key))
    _remove_all_but(folder.parent, int(folder.name))


def close_current(views_dir: Path, views: Views) -> None:
    """Flush and close the live views, and note that this was done; those that the disk did not keep are forgotten."""
    current = read_current(views_dir)
    try:
        views.close()
    except lmdb.Error:
        (views_dir / "CURRENT").unlink(missing_ok=True)
        raise
    if current is not None:
        _write_current(views_dir, current.folder, is_closed=True, under=current.under)


def read_current(views_dir: Path) -> Current | None:
    """What CURRENT says, or None where there is none that can be read."""
    try:
        return msgspec.json.decode((views_dir / "CURRENT").read_bytes(), type=Current)
    except (FileNotFoundError, ValueError):  # MsgspecError is one; bytes that are not UTF-8 raise another
        return None


def is_trusted(current: Current, file_key: FileKey | None = None, *, but_for: Collection[str] = ()) -> bool:
    """Whether the live views may be opened: of these projections' versions, under this key, and not gone down with the machine.

    What is said of the projections `but_for` does not count.
    """
    is_of_now = all(
        current.versions.get(name) == version for name, version in _versions().items() if name not in but_for
    )
    is_of_these = current.versions.keys() - set(but_for) <= _versions().keys()
    return is_of_now and is_of_these and _is_whole(current) and current.under == _mark(file_key)


def _folded(folder: Path, log: Log, progress: Progress, file_key: FileKey | None) -> Views:
    views = Views(folder, file_key=file_key)
    try:
        views.fold_forward(log, log.head().size, progress)
    except BaseException:
        views.close()
        raise
    return views


def _mark(file_key: FileKey | None) -> str | None:
    return None if file_key is None else file_key.views_mark


def _is_whole(current: Current) -> bool:
    return current.closed or current.boot_id == _boot_id()


def _sound_checkpoint(folder: Path, log: Log) -> Checkpoint | None:
    """Where the views stand; None where they cannot be opened, or do not stand on the log's own entries."""
    checkpoint = _checkpoint_of(folder)
    if checkpoint is None or checkpoint.size > log.head().size:
        return None
    if checkpoint.size == 0:
        return checkpoint
    with log.tree() as read:
        return checkpoint if read(0, checkpoint.size - 1) == checkpoint.leaf else None


def _remove_all_but(views_dir: Path, folder: int | None) -> None:
    for path in views_dir.iterdir():
        if path.name.isdecimal() and int(path.name) != folder:
            shutil.rmtree(path)


def _checkpoint_of(folder: Path) -> Checkpoint | None:
    """What the views say of where they stand; None where they cannot be opened."""
    if not (folder / DATA_FILE).exists() or startup_problem(folder) is not None:
        return None
    try:
        with storage_errors():
            fill_up(folder)
        with closing(Views(folder)) as views:
            return views.checkpoint()
    except (LogDamaged, struct.error):  # a checkpoint that is none
        return None


def _versions() -> dict[str, int]:
    return {projection.name: projection.version for projection in PROJECTIONS}


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def _write_current(views_dir: Path, folder: int, *, is_closed: bool, under: str | None) -> None:
    current = Current(folder=folder, boot_id=_boot_id(), closed=is_closed, versions=_versions(), under=under)
    replace_file(views_dir / "CURRENT", msgspec.json.encode(current), draft=views_dir / "CURRENT.new")
