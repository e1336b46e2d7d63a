"""How far a log can be read whose file is damaged: found by a process of its own, which the damage may take down.

Always: this process stays alive, and waits no longer than a deadline for the next sign of progress.

Does not say what is wrong (see copying.py): only which offset the reader did not get past.
"""

import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import lmdb

from node.errors import Refusal
from replay.chain import Damaged, NotALog, checked_sizes

_PROGRESS_DEADLINE_S = 30.0
_FORK = multiprocessing.get_context("fork")


def first_unreadable_offset(log_dir: Path) -> int | None:
    """The offset at which reading ends, or None where every entry can be read all the same."""
    receiver, sender = _FORK.Pipe(duplex=False)
    reader = _FORK.Process(target=_read_through, args=(log_dir, sender))
    reader.start()
    # Ours of the two ends: only when the reader's closes too does receiving end.
    sender.close()
    reached: int | None = 0
    with receiver, suppress(EOFError):
        while receiver.poll(_PROGRESS_DEADLINE_S):
            reached = receiver.recv()
    reader.kill()
    reader.join()
    return reached


def _read_through(log_dir: Path, progress: Connection) -> None:
    # What stops the reader was told before, by where it had got to; its own words would be the same damage twice.
    with suppress(Damaged, NotALog, Refusal, lmdb.Error):
        for frontier in checked_sizes(log_dir):
            progress.send(frontier.size)
        progress.send(None)
