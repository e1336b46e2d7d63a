"""How far a log can be read whose file is damaged: found by a process of its own, which the damage may take down.

Always: this process stays alive, and waits no longer than a deadline for the next sign of progress.

Does not say what is wrong (see `node/events/log_file.py`): only which offset the reader did not get past.
"""

from functools import partial
from pathlib import Path

from node.events.log_check import LogCheck
from replay.chain import log_check
from replay.workers import Failed, Gone, Job, NotDone, Progress, Tell, Worker

_PROGRESS_DEADLINE_S = 30.0
_STRIDE = 256


def first_unreadable_offset(log_dir: Path, first: int = 0, end: int | None = None) -> int | None:
    """The offset of [first, end) at which reading ends, or None where every entry can be read all the same."""
    offset = _reached(log_dir, first, end, _STRIDE)
    if offset is None:
        return None
    nearer = _reached(log_dir, offset, offset + _STRIDE if end is None else min(offset + _STRIDE, end), 1)
    return offset if nearer is None else nearer


def _reached(log_dir: Path, first: int, end: int | None, stride: int) -> int | None:
    reader, reached = Worker(_reading(log_dir)), first
    try:
        reader.give((first, end, stride))
        while not reader.is_silent_for(_PROGRESS_DEADLINE_S):
            match reader.hear():
                case Progress(entries=entries):
                    reached += entries
                case Gone() | Failed():
                    return reached
                case offset:
                    return offset
        return reached
    except NotDone:
        return reached
    finally:
        reader.end()


def _reading(log_dir: Path) -> Job:
    return partial(_make_reader, log_dir)


def _make_reader(log_dir: Path) -> object:
    return partial(_read_through, log_check(log_dir))


def _read_through(log: LogCheck, task: tuple[int, int | None, int], tell: Tell) -> int | None:
    first, end, stride = task
    for start in range(first, log.size if end is None else min(end, log.size), stride):
        damage = log.check(start, min(start + stride, log.size)).damage
        if damage is not None:
            return damage.offset
        tell(stride)
    return None
