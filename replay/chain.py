"""What `stigmem replay` says of a log that does not hold, and of a folder that holds none.

Does not check anything but the format (see `node/events/log_check.py`).
"""

from pathlib import Path

from node.errors import LogDamaged
from node.events.log import FORMAT, open_store
from node.events.log_check import LogCheck
from node.events.store import LOG_MAP_BYTES, Store, storage_errors
from replay.opening import open_items


class Damaged(Exception):
    """A damage that ends what was asked for."""

    def __init__(self, offset: int | None, words: str) -> None:
        super().__init__(words)
        self.offset, self.words = offset, words


class NotALog(Exception):
    """There is no log here that this version reads; the message is one line for the operator."""


def damage_of(refusal: LogDamaged) -> Damaged:
    """The damage that the node's own reader met."""
    offset = refusal.data.get("offset")
    if not isinstance(offset, int):
        return Damaged(None, refusal.detail)
    return Damaged(offset, refusal.detail.removeprefix(f"offset {offset}: "))


def log_check(log_dir: Path) -> LogCheck:
    """A look at the log in `log_dir`, which nobody changes meanwhile and this process has not open."""
    store = open_store(log_dir, is_readonly=True)
    return LogCheck(store, open_items(store))


def require_format(log_dir: Path) -> None:
    """Raise NotALog where the LMDB file in `log_dir` is not a log of our format."""
    try:
        with storage_errors():
            found = _format_of(log_dir)
    except LogDamaged as error:
        raise NotALog(f"{log_dir} holds no log: {error.detail}") from error
    if found != FORMAT:
        raise NotALog(f"{log_dir} holds a log of format {found!r}; this version reads {FORMAT.decode()}")


def _format_of(log_dir: Path) -> bytes | None:
    store = Store(log_dir, tables=("meta",), map_bytes=LOG_MAP_BYTES, is_readonly=True)
    try:
        with store.begin() as txn:
            return txn.get(b"format", db=store.table("meta"))
    finally:
        store.close()
