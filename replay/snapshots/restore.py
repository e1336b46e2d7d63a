"""From snapshots back to a log: materialise, verify whole, restore into an empty folder (docs/snapshots.md).

Always: a folder is restored only from what has passed `verify_snapshots`, and the log appears in it at once, by one rename, on
disk before it has its name: an interrupted restore leaves `log.partial`, which no node starts on and the next restore replaces.
Always: the bytes written are those verified: each chunk is read again under the hash that its signed manifest names.

How a log is checked is known to replay/verify.py alone. Views are left to the node, which folds them at its start.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb

from node.canonical import b64url_decode
from node.durable import sync
from node.errors import LogDamaged, StorageFailed
from node.events.checkpoint import Checkpoint, open_checkpoint, origin_of
from node.events.erasures import NOTE
from node.events.event import type_of
from node.events.identity import NodeRestored
from node.events.item_keys import AT_REST, ITEM_KEYS, LogLocked, rewrapped
from node.events.key_file import KEY_FILE, FileKey, id_in, write_content
from node.events.log import FORMAT, ITEM_KEY, NODE_KEY, OFFSET_KEY, PARTIAL_FOLDER, RESTORED, Log, open_store
from node.events.own_keys import OwnKeys, own_keys_of
from node.events.store import Store, storage_errors
from node.events.tree import Frontier, leaf_hash
from node.folder_lock import FolderLock
from node.keys import key_id_of
from replay.chain import Damaged, damage_of
from replay.opening import file_keys, key_in, open_log, unlocked_by
from replay.snapshots.container import SnapshotFile
from replay.snapshots.manifest import Head, Manifest, NotASnapshot, NotTrusted, require_trusted
from replay.snapshots.rows import unpack_keys, unpack_rows
from replay.verify import SizeAndRoot, verify

# What a folder may hold and still count as empty: the node's own key, what a failed restore left, what file systems put there.
_HARMLESS = frozenset({"node.key", "lock", KEY_FILE, PARTIAL_FOLDER, NOTE, "lost+found"})
_RESTORED_MARK = f'"type":"{type_of(NodeRestored)}"'.encode()
Note = Callable[[str], None]


@contextmanager
def opened(files: Sequence[Path]) -> Iterator[list[SnapshotFile]]:
    """The snapshots in the order in which they follow one another, a full one first.

    Raises NotASnapshot where one is none or they do not follow, Damaged where a manifest does not hold.
    """
    with ExitStack() as stack:
        snapshots = [stack.enter_context(SnapshotFile(path)) for path in files]
        snapshots.sort(key=lambda snapshot: snapshot.manifest.first)
        _require_chain(snapshots)
        yield snapshots


def verify_snapshots(snapshots: Sequence[SnapshotFile], trusted: Collection[str], note: Note) -> SizeAndRoot:
    """The head of a chain of snapshots that holds: manifests, contents, and the whole log that they make.

    Raises NotTrusted where a signer's word is not taken, Damaged at the first offset where something is wrong.
    """
    with _scratch(snapshots, trusted) as data_dir:
        note(f"files: {len(snapshots)}, manifests signed, contents as they name them")
        return verify(data_dir, None, note)


@contextmanager
def materialised(files: Sequence[Path]) -> Iterator[Path]:
    """A data folder with the log of these snapshots, gone afterwards. Manifests and contents hold; the log is not yet checked."""
    with opened(files) as snapshots, _scratch(snapshots, ()) as data_dir:
        yield data_dir


def restore(data_dir: Path, files: Sequence[Path], trusted: Collection[str], note: Note) -> SizeAndRoot:
    """Restore a log into a folder that is empty or not there; nothing is written before everything has been verified.

    Raises what `opened` and `verify_snapshots` raise, NotASnapshot where the folder is not empty, FolderInUse.
    """
    require_empty(data_dir)
    with opened(files) as snapshots, unlocked_by(snapshots[-1].manifest.key_file):
        if snapshots[-1].manifest.key_file is not None and not file_keys():
            raise LogLocked
        head = verify_snapshots(snapshots, trusted, note)
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FolderLock(data_dir / "lock"):
            # Again: a node may have begun here while we verified.
            require_empty(data_dir)
            _build(data_dir, snapshots)
    return head


def require_empty(data_dir: Path) -> None:
    """Raise NotASnapshot unless a log may be restored into the folder."""
    if not data_dir.exists():
        return
    if not data_dir.is_dir():
        raise NotASnapshot(f"{data_dir} is not a folder")
    held = sorted({path.name for path in data_dir.iterdir()} - _HARMLESS)
    if held:
        raise NotASnapshot(f"{data_dir} is not empty: it holds {held[0]}; restore into a folder of its own")


def write_log(snapshots: Sequence[SnapshotFile], log_dir: Path, *, is_durable: bool) -> int | None:
    """Write the snapshots' log into the new folder `log_dir`; the offset of its last `node.restored.1`, None for none.

    Raises Damaged where a chunk does not hold, or the entries do not lead to the roots that the manifests name.
    """
    log_dir.mkdir(parents=True, mode=0o700)
    key_file = snapshots[-1].manifest.key_file
    with storage_errors():
        store = open_store(log_dir, is_synced=False)
    try:
        if key_file is not None:
            store.make_table(ITEM_KEYS)
        writing = _Writing(store, key_file)
        for snapshot in snapshots:
            writing.take(snapshot)
        writing.finish(snapshots[-1].manifest.size)
        if is_durable:
            store.sync()
    finally:
        store.close()
    return writing.restored_at


class _Writing:
    """The rows of a log, chunk by chunk, with the tree over them."""

    def __init__(self, store: Store, key_file: bytes | None) -> None:
        """With `key_file`, of an encrypted log; keys that lie under an earlier one are wrapped under this, where that can be."""
        self._store, self._key_file = store, key_file
        self._frontier = Frontier(0, [])
        self.restored_at: int | None = None

    def take(self, snapshot: SnapshotFile) -> None:
        manifest = snapshot.manifest
        self._put("keys", [(bytes.fromhex(key_id_of(key)), key) for key in map(b64url_decode, manifest.keys)])
        wrapping = self._wrapping(manifest)
        for index, chunk in enumerate(manifest.chunks):
            try:
                raw = snapshot.chunk(index)
                self._take_chunk(raw if manifest.key_file is None else self._take_keys(raw, wrapping))
            except ValueError as error:
                raise Damaged(chunk.first, f"{snapshot.path}: {error}") from error
            if self._frontier.size != chunk.first + chunk.entries:
                raise Damaged(
                    chunk.first, f"{snapshot.path}: a chunk holds another number of entries than its manifest says"
                )
        if self._frontier.root().hex() != manifest.root:
            raise Damaged(None, f"{snapshot.path}: its entries do not lead to the root that its manifest names")

    def finish(self, size: int) -> None:
        self._put("meta", [(b"format", FORMAT), (RESTORED, OFFSET_KEY.pack(size))])
        if self._key_file is not None:
            self._put("meta", [(AT_REST, id_in(self._key_file))])

    def _wrapping(self, manifest: Manifest) -> tuple[FileKey, FileKey] | None:
        """From which file key to which a snapshot's keys are to be wrapped; None where they stay as they are."""
        if self._key_file is None or manifest.key_file in (None, self._key_file):
            return None
        old, new = key_in(manifest.key_file), key_in(self._key_file)
        # Without the key nobody reads them, so nothing is lost.
        return None if old is None or new is None else (old, new)

    def _take_keys(self, raw: bytes, wrapping: tuple[FileKey, FileKey] | None) -> bytes:
        """Put the keys that a chunk begins with; the rest of it."""
        keys, rest = unpack_keys(raw)
        self._put(ITEM_KEYS, keys if wrapping is None else rewrapped(keys, *wrapping))
        return rest

    def _take_chunk(self, raw: bytes) -> None:
        headers, items, tree = [], [], []
        for stored, rows in unpack_rows(raw):
            offset = self._frontier.size
            headers.append((OFFSET_KEY.pack(offset), stored))
            items += [(ITEM_KEY.pack(offset, index), row) for index, row in enumerate(rows) if row is not None]
            tree += [(NODE_KEY.pack(level, at), node) for level, at, node in self._frontier.append(leaf_hash(stored))]
            if _RESTORED_MARK in stored:
                self.restored_at = offset
        with storage_errors(), self._store.begin(write=True) as txn:
            for table, found in (("headers", headers), ("items", items), ("tree", tree)):
                self._put_in(txn, table, found)

    def _put(self, table: str, rows: list[tuple[bytes, bytes]]) -> None:
        with storage_errors(), self._store.begin(write=True) as txn:
            self._put_in(txn, table, rows)

    def _put_in(self, txn: lmdb.Transaction, table: str, rows: list[tuple[bytes, bytes]]) -> None:
        with txn.cursor(db=self._store.table(table)) as cursor:
            consumed, _ = cursor.putmulti(rows)
        if consumed != len(rows):
            raise StorageFailed(f"{table}: {len(rows) - consumed} rows were not taken")


@contextmanager
def _scratch(snapshots: Sequence[SnapshotFile], trusted: Collection[str]) -> Iterator[Path]:
    for snapshot in snapshots:
        require_trusted(snapshot.manifest, trusted)
    with tempfile.TemporaryDirectory(prefix="stigmem-snapshot-") as scratch:
        key_file = snapshots[-1].manifest.key_file
        with unlocked_by(key_file):
            restored_at = write_log(snapshots, Path(scratch) / "log", is_durable=False)
            if key_file is not None:
                write_content(Path(scratch) / KEY_FILE, key_file)
            _require_said(snapshots, Path(scratch) / "log", restored_at, trusted)
            yield Path(scratch)


def _require_chain(snapshots: Sequence[SnapshotFile]) -> None:
    before: Manifest | None = None
    for snapshot in snapshots:
        manifest = snapshot.manifest
        if before is None:
            if manifest.continues is not None:
                raise NotASnapshot(
                    f"{snapshot.path} continues a log from offset {manifest.first} on: name the files before it too"
                )
        elif (manifest.node_id, manifest.log_key) != (before.node_id, before.log_key):
            raise NotASnapshot(f"{snapshot.path} is of another log than the files before it")
        elif manifest.continues != Head(size=before.size, root=before.root):
            raise NotASnapshot(f"{snapshot.path} does not continue the file before it, which ends at {before.size}")
        elif manifest.mark != before.mark:
            raise NotASnapshot(f"{snapshot.path} is of the log under other keys than the file before it")
        before = manifest


def _require_said(
    snapshots: Sequence[SnapshotFile], log_dir: Path, restored_at: int | None, trusted: Collection[str]
) -> None:
    """Raise Damaged where the log is not the one that its manifests speak of, NotTrusted where none of its keys signed one."""
    try:
        log = open_log(log_dir)
        try:
            keys = own_keys_of(log)
            is_locked = not log.items.is_readable
            restored = None if restored_at is None or is_locked else log.read(restored_at, 1)[0].event
        finally:
            log.close()
    except LogDamaged as damage:
        raise damage_of(damage) from damage
    last = snapshots[-1].manifest
    # What a log is called stands in its items.
    node_id, name = (last.node_id, last.origin) if is_locked else (keys.node_id, origin_of(last.node_id))
    if (node_id, keys.chain[0].public_key) != (last.node_id, b64url_decode(last.log_key)):
        raise Damaged(0, f"{snapshots[-1].path}: the manifest speaks of another node than the log's first entry")
    origin = restored.origin if isinstance(restored, NodeRestored) else name
    if last.origin != origin:
        raise Damaged(None, f"{snapshots[-1].path}: the manifest gives the log another name than the log itself")
    for snapshot in () if trusted else snapshots:
        _require_own_key(snapshot, keys)
    if last.checkpoint is not None:
        _require_checkpoint(snapshots[-1], last.checkpoint, keys.at(last.size - 1))


def _require_own_key(snapshot: SnapshotFile, keys: OwnKeys) -> None:
    """Raise NotTrusted unless the key signed it that was the log's when it ended there: one rotated away before may be stolen."""
    signed_by = b64url_decode(snapshot.manifest.signed_by)
    if signed_by != keys.at(snapshot.manifest.size - 1):
        raise NotTrusted(
            f"{snapshot.path}: it is not signed by the key that the log had then: "
            "`stigmem snapshot verify --trust-key` takes another's word"
        )


def _require_checkpoint(snapshot: SnapshotFile, note: str, public_key: bytes) -> None:
    manifest = snapshot.manifest
    expected = Checkpoint(origin=manifest.origin, size=manifest.size, root=bytes.fromhex(manifest.root))
    try:
        said = open_checkpoint(note, origin=manifest.origin, public_key=public_key)
    except ValueError as error:
        raise Damaged(None, f"{snapshot.path}: the checkpoint does not hold: {error}") from error
    if said != expected:
        raise Damaged(None, f"{snapshot.path}: the checkpoint is of another size or root")


def _build(data_dir: Path, snapshots: Sequence[SnapshotFile]) -> None:
    partial = data_dir / PARTIAL_FOLDER
    if partial.exists():
        shutil.rmtree(partial)
    write_log(snapshots, partial, is_durable=True)
    sync(partial)
    key_file = snapshots[-1].manifest.key_file
    if key_file is not None:
        # Before the log has its name: a log without its key file would be nobody's.
        write_content(data_dir / KEY_FILE, key_file)
    if _has_erasures(partial):
        # What an earlier snapshot of several holds may have been erased before a later one was made.
        (data_dir / NOTE).touch(mode=0o600)
    partial.rename(data_dir / "log")
    sync(data_dir)
    sync(data_dir.parent)


def _has_erasures(log_dir: Path) -> bool:
    log = Log(log_dir, is_readonly=True)
    try:
        return log.has_erasures()
    finally:
        log.close()
