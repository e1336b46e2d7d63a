"""Logs and views as the commands open them: with the keys of the folder that the command is about, where it is encrypted.

Always: keys are in the memory of the command and of the processes it forks, never in an argument, a task or a file. A command
is about one log, so they are set once around it, by `unlocked`; without them an encrypted log can be counted and its
chain, signatures and tree checked.

Does not read settings (see node/cli.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from msgspec import Struct

from node.at_rest import AtRestError, Secret
from node.events.at_rest_folder import is_changing, is_encrypted
from node.events.item_keys import Items, LogLocked, items_in
from node.events.key_file import FileKey, opened, unlock
from node.events.log import Log
from node.events.store import Store, storage_errors
from node.projections.views import Views

# What the settings name, read only where something is encrypted: with a passphrase it takes half a second.
SecretOf = Callable[[], Secret | None]


class _Unlocked(Struct, frozen=True):
    secret_of: SecretOf
    file_keys: Sequence[FileKey]


def _no_secret() -> None:
    """Nothing is set."""


def _now() -> _Unlocked:
    return _unlocked.get() or _Unlocked(_no_secret, ())


# Not passed down by hand: what opens a log is a process that was forked for it, at the end of a dozen calls.
_unlocked: ContextVar[_Unlocked | None] = ContextVar("unlocked", default=None)


@contextmanager
def unlocked(secret_of: SecretOf, file_keys: Sequence[FileKey] = ()) -> Iterator[None]:
    """Open what is opened meanwhile, here and in processes begun meanwhile, with these keys."""
    token = _unlocked.set(_Unlocked(secret_of, file_keys))
    try:
        yield
    finally:
        _unlocked.reset(token)


@contextmanager
def unlocked_folder(data_dir: Path, secret_of: SecretOf) -> Iterator[None]:
    """The same with the keys of a data folder, if it is encrypted. Raises AtRestError where the secret is another one's."""
    with unlocked(secret_of, _keys_of(data_dir, secret_of)):
        yield


@contextmanager
def unlocked_by(key_file: bytes | None) -> Iterator[None]:
    """The same with the keys in the bytes of a key file, opened by the secret that is set, if one is."""
    key = None if key_file is None else key_in(key_file)
    with unlocked(_now().secret_of, () if key is None else (key,)):
        yield


def key_in(key_file: bytes) -> FileKey | None:
    """The key in the bytes of a key file, where a secret is set. Raises AtRestError where that is another one's."""
    secret = _now().secret_of()
    return None if secret is None else opened(key_file, secret)


def file_keys() -> Sequence[FileKey]:
    """The keys that are set."""
    return _now().file_keys


def _keys_of(data_dir: Path, secret_of: SecretOf) -> Sequence[FileKey]:
    if not is_encrypted(data_dir):
        return ()
    secret = secret_of()
    keys = () if secret is None else unlock(data_dir, secret)
    if len({key.views for key in keys}) > 1 or (keys and is_changing(data_dir)):
        raise AtRestError(
            f"{data_dir}: a change of its keys is under way: try again, or start the node, which finishes it"
        )
    return keys


def is_locked(data_dir: Path) -> bool:
    """Whether the folder is encrypted and its key was not given."""
    return is_encrypted(data_dir) and not _now().file_keys


def require_unlocked(data_dir: Path) -> None:
    """Raise LogLocked where it is."""
    if is_locked(data_dir):
        raise LogLocked


def open_log(log_dir: Path) -> Log:
    """The log in a folder, to be read."""
    return Log(log_dir, is_readonly=True, file_keys=_now().file_keys)


def open_items(store: Store) -> Items:
    """How the items lie in an environment that is open already."""
    with storage_errors(), store.begin() as txn:
        return items_in(txn, store, _now().file_keys)


def open_views(folder: Path, *, is_readonly: bool = False) -> Views:
    """Views in a folder, or new ones in a new folder: encrypted where the log is that they were or will be folded from."""
    return Views(folder, is_readonly=is_readonly, file_key=views_key())


def views_key() -> FileKey | None:
    """What the views are under."""
    keys = _now().file_keys
    return keys[0] if keys else None
