"""A data folder as it is encrypted or not: whether that is what the settings say, and a change of it that was cut off.

Always: what does not fit is said before anything in the folder is touched.
Always: a change is made in a folder of its own, `log.rekeyed`, and takes place by one rename, of its `data.mdb` to `log/data.mdb`.
Before it nothing happened; after it the rest follows from what lies there: the key file that the log names, no other, and
no views of before.

Does not make the change (see replay/storage.py).
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from node.at_rest import AtRestError, Secret, node_secret
from node.durable import sync
from node.events.item_keys import AT_REST, ClearItems, LockedItems
from node.events.key_file import (
    KEY_FILE,
    NEXT_KEY_FILE,
    FileKey,
    add_secret,
    id_of,
    keep_only,
    new_file_key,
    unlock,
    write_file_key,
)
from node.events.log import Log, open_store
from node.events.log_file import DATA_FILE
from node.events.store import storage_errors
from node.keys import Signer

# Not the name under which a log is compacted (see log.py): that is cleared away by other rules.
LOG_FOLDER, VIEWS_FOLDER, NEW_LOG_FOLDER = "log", "views", "log.rekeyed"
_SETTINGS = "set STIGMEM_AT_REST_ENCRYPTION=on and its key, or decrypt the folder with `stigmem storage decrypt`"


class FolderKeys:
    """The file key of a folder that a node has open, and the secret it lies under; both None, and nothing to do, for one in clear.

    Used by one at a time: an erasure and a rotation of the node key both write the key file. `log_id` reads under which file key
    the log lies: where a failing disk left the key that the log names waiting, that one takes its place first, or the next would
    be written over it.
    """

    def __init__(
        self, data_dir: Path, secret: Secret | None, file_key: FileKey | None, log_id: Callable[[], bytes | None]
    ) -> None:
        self._data_dir, self._secret, self._file_key, self._log_id = data_dir, secret, file_key, log_id

    def prepare(self) -> FileKey | None:
        """For an erasure, have another file key wait beside the one that is; views stay under theirs."""
        if self._file_key is None or self._secret is None:
            return None
        settle_key_files(self._data_dir, self._log_id())
        key = new_file_key(self._file_key.views)
        write_file_key(self._data_dir / NEXT_KEY_FILE, key, self._secret)
        return key

    def finish(self, key: FileKey) -> None:
        """The log is under that one now: it takes the place of the one before."""
        settle_key_files(self._data_dir, key.id)
        self._file_key = key

    def admit(self, successor: Signer) -> None:
        """Let the folder be opened with what is derived from the next node key too, where it is from this one."""
        if self._secret is not None and self._secret.source == "node_key":
            settle_key_files(self._data_dir, self._log_id())
            add_secret(self._data_dir, self._secret, node_secret(successor))

    def admit_only(self, signer: Signer) -> None:
        """And with what is derived from another no longer: the node key's file holds this one now."""
        if self._secret is None or self._secret.source != "node_key":
            return
        own = node_secret(signer)
        if own != self._secret:
            add_secret(self._data_dir, self._secret, own)
        keep_only(self._data_dir, own)
        self._secret = own


def is_encrypted(data_dir: Path) -> bool:
    return (data_dir / KEY_FILE).exists()


def keys_for(data_dir: Path, secret: Secret | None) -> tuple[FileKey, ...]:
    """The file keys of a folder as it lies there; none where it has no log and no key yet, or is not encrypted. Only reads.

    Raises AtRestError where the folder is encrypted and there is no secret, another one, or the other way round.
    """
    if secret is None:
        if is_encrypted(data_dir):
            raise AtRestError(f"{data_dir} is encrypted: {_SETTINGS}")
        return ()
    if is_encrypted(data_dir):
        return unlock(data_dir, secret)
    if (data_dir / LOG_FOLDER / DATA_FILE).exists():
        raise AtRestError(
            f"STIGMEM_AT_REST_ENCRYPTION: {data_dir} has no {KEY_FILE}: it lies in clear, and `stigmem storage encrypt` "
            "encrypts it, or that file is missing"
        )
    return ()


def found_keys(data_dir: Path, secret: Secret | None, keys: tuple[FileKey, ...]) -> tuple[FileKey, ...]:
    """The same once the folder is ours: a folder that has no log gets its key file now."""
    if secret is None or keys:
        return keys
    key = new_file_key()
    write_file_key(data_dir / KEY_FILE, key, secret)
    return (key,)


def require_as_said(log: Log, file_keys: Sequence[FileKey]) -> FileKey | None:
    """The key that the log is under; None for one in clear. Raises AtRestError where that is not what its key file says."""
    if isinstance(log.items, LockedItems):
        raise AtRestError(f"the log is encrypted under another key than the one in {KEY_FILE}: bring back its own")
    if isinstance(log.items, ClearItems):
        if file_keys:
            raise AtRestError(
                f"the log lies in clear, and {KEY_FILE} beside it says that it is encrypted: remove that file"
            )
        return None
    return log.items.file_key


def is_changing(data_dir: Path) -> bool:
    """Whether a change of keys is under way, or was cut off."""
    return (data_dir / NEXT_KEY_FILE).exists() or (data_dir / NEW_LOG_FOLDER).exists()


def finish_change(data_dir: Path) -> None:
    """Finish a change that was cut off, or undo it; done twice it is done once. For whoever holds the folder's lock."""
    new_log = data_dir / NEW_LOG_FOLDER
    has_taken_place = new_log.exists() and not (new_log / DATA_FILE).exists()
    settle_key_files(data_dir, _file_key_id(data_dir / LOG_FOLDER))
    if has_taken_place and (data_dir / VIEWS_FOLDER).exists():
        shutil.rmtree(data_dir / VIEWS_FOLDER)
    if new_log.exists():
        shutil.rmtree(new_log)
    sync(data_dir)


def settle_key_files(data_dir: Path, log_id: bytes | None) -> None:
    """Leave the one key file that the log names by its id; none for a log in clear, where that is None."""
    path, waiting = data_dir / KEY_FILE, data_dir / NEXT_KEY_FILE
    if waiting.exists():
        if id_of(waiting) == log_id:
            waiting.replace(path)
        else:
            waiting.unlink()
    if log_id is None:
        path.unlink(missing_ok=True)
    sync(data_dir)


def _file_key_id(log_dir: Path) -> bytes | None:
    store = open_store(log_dir, is_readonly=True)
    try:
        with storage_errors(), store.begin() as txn:
            return txn.get(AT_REST, db=store.table("meta"))
    finally:
        store.close()
