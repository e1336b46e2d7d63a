"""Whether the node's own log holds: what is looked at before anything is served, and the rest in the background.

Always: the first damage is the one that is told, with its offset, once. What is read is what LMDB has on disk.

Does not know what becomes of a node whose log is damaged (see runtime.py).
"""

import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from node.errors import LogDamaged, Refusal
from node.events.evidence import damage_at
from node.events.log import Log
from node.events.log_check import Checked, Damage, LogCheck
from node.events.log_file import DATA_FILE, fill_up, startup_problem
from node.events.store import storage_errors

# What every start looks at, and how far behind the log views may stand that are folded on: as far as was looked at.
RECENT_ENTRIES = 1000
# A page of a peer's is one entry and may hold 500 signatures.
_STRETCH, _QUICK_STRETCH = 32, 4096
# Idle for so many times as long as a stretch took: about a fifth of one core.
_REST = 4
# When the disk gave no answer.
RETRY_S = 60.0
_STUMBLES = (struct.error, ArithmeticError, LookupError, ValueError)

_log = structlog.get_logger("stigmem.log_watch")


def require_file(log_dir: Path) -> None:
    """Raise LogDamaged where LMDB must not be given the file to open: it could take the process down."""
    if not (log_dir / DATA_FILE).exists():
        return
    problem = startup_problem(log_dir)
    if problem is not None:
        raise damage_at(None, f"the file in {log_dir} is damaged: {problem}")
    with storage_errors():
        fill_up(log_dir)


def recent_damage(log: Log) -> LogDamaged | None:
    """What is wrong with the last entries, the last signature among them, or with rows that belong to no entry.

    What others signed inside the items is left to `LogWatch`: the keys for it stand anywhere before.
    """
    check, size = LogCheck(log.store, log.items), log.head().size
    found = _first_damage(check.check_own, max(0, size - RECENT_ENTRIES), size) if size else None
    return found or _told(check.check_rest(None))


def require_chain(log: Log, go_on: Callable[[], None]) -> None:
    """Raise LogDamaged unless chain and tree hold up to the signed last entry: then each header is one that the node signed.

    `go_on` is called from time to time; what it raises ends the looking.
    """
    check, size = LogCheck(log.store, log.items), log.head().size
    for first in range(0, size, _QUICK_STRETCH):
        go_on()
        damage = _first_damage(check.check_quickly, first, min(first + _QUICK_STRETCH, size))
        if damage is not None:
            raise damage


class LogWatch:
    """One pass over the entries that the log has now, on a thread of its own, from `start` until `closing` is set."""

    def __init__(
        self,
        log: Log,
        note_damage: Callable[[LogDamaged], None],
        closing: threading.Event,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._log, self._size, self._retry_s = log, log.head().size, retry_s
        self._note_damage, self._closing = note_damage, closing
        self._thread = threading.Thread(target=self._run, name="stigmem-log-watch")

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended: at once when `closing` is set, but for the stretch that it is at."""
        self._thread.join()

    def _run(self) -> None:
        while not self._has_looked() and not self._closing.wait(self._retry_s):
            pass

    def _has_looked(self) -> bool:
        """Look once; False where the disk gave no answer, which says nothing of what lies on it."""
        try:
            damage = self._damage()
        except Refusal as refusal:
            _log.error("log_not_checked", detail=refusal.detail)
            return False
        if damage is not None:
            self._note_damage(damage)
        elif not self._closing.is_set():
            _log.info("log_checked", log_size=self._size)
        return True

    def _damage(self) -> LogDamaged | None:
        check = LogCheck(self._log.store, self._log.items)
        for first in range(0, self._size, _STRETCH):
            began = time.monotonic()
            damage = _first_damage(check.check, first, min(first + _STRETCH, self._size))
            if damage is not None or self._closing.wait((time.monotonic() - began) * _REST):
                return damage
        return None


def _first_damage(look: Callable[[int, int], Checked], first: int, end: int) -> LogDamaged | None:
    try:
        return _told(look(first, end).damage)
    except (LogDamaged, *_STUMBLES) as error:
        if end - first > 1:
            # What cannot even be read is named entry by entry.
            found = (_first_damage(look, offset, offset + 1) for offset in range(first, end))
            return next(filter(None, found), None) or damage_at(first, _words(error))
        return damage_at(first, _words(error))


def _told(damage: Damage | None) -> LogDamaged | None:
    return None if damage is None else damage_at(damage.offset, damage.words)


def _words(error: Exception) -> str:
    return error.detail if isinstance(error, LogDamaged) else f"{type(error).__name__}: {error}"
