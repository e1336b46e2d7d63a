"""Processes that read a log for the verifier: what damage to the file does to a reader ends that process alone.

Always: a worker has one task at a time; what it tells is how far it has come, and what came of it. A worker that is gone is
an answer too. The process that asks never opens the file with LMDB.
"""

import faulthandler
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from msgspec import Struct

from node.errors import LogDamaged, Refusal
from node.events.log import UnknownFormat
from replay.chain import Damaged, NotALog, damage_of

# A fork has the modules loaded: starting an interpreter for each would take longer than checking a small log.
_FORK = multiprocessing.get_context("fork")

_OF_THE_FILE = ("SIGBUS", "SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL")

Tell = Callable[[int], None]
# Made in the worker, because what LMDB has open does not survive a fork; given a task and a way to tell of progress.
Job = Callable[[], Callable[[Any, Tell], Any]]


class Progress(Struct, frozen=True):
    """How far a task has come, in entries, since it was told last."""

    entries: int


class Gone(Struct, frozen=True):
    """The worker ended before its task did, by a signal of the kind that a torn file sends."""

    how: str


class Failed(Struct, frozen=True):
    """The task met what nobody foresaw in bytes that hold otherwise; `offset` where the reader could name one."""

    offset: int | None
    words: str


class Trouble(Struct, frozen=True):
    """The task could not be done, and that says nothing of the log: no room, or no log at all."""

    words: str


class NotDone(Exception):
    """The same as an exception; the message is one line for the operator."""


class Worker:
    """One process that does one kind of job."""

    def __init__(self, job: Job) -> None:
        self._connection, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(job, theirs), daemon=True)
        self._process.start()
        # Ours of the two ends: only when the worker's closes too does its end show.
        theirs.close()
        self.task: Any = None

    def give(self, task: Any) -> None:
        self.task = task
        self._connection.send(task)

    def hear(self) -> Any:
        """Progress, Gone, Failed, or what the job made of the task; waits for it. Raises NotDone."""
        try:
            heard = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return Gone(how_it_ended(self._process.exitcode))
        if isinstance(heard, Trouble):
            raise NotDone(heard.words)
        return heard

    def result(self) -> Any:
        """What came of the task; progress is passed over."""
        while isinstance(heard := self.hear(), Progress):
            continue
        return heard

    def is_silent_for(self, seconds: float) -> bool:
        return not self._connection.poll(seconds)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def whoever_speaks(workers: list[Worker]) -> list[Worker]:
    """Those of the workers that have something to tell; waits until one has."""
    by_connection = {worker._connection: worker for worker in workers}
    return [by_connection[connection] for connection in wait(list(by_connection))]


def _serve(job: Job, connection: Connection) -> None:
    end_as_others_say()
    threading.Thread(target=_end_with_the_one_that_asked, daemon=True).start()
    faulthandler.disable()
    expect_many_rows()
    do = None
    try:
        while True:
            task = connection.recv()
            try:
                do = do or job()
                answer = do(task, lambda entries: connection.send(Progress(entries)))
            except Exception as error:  # whatever the bytes are: an answer, never a traceback
                answer = _failure_of(error)
            connection.send(answer)
    except (EOFError, BrokenPipeError):
        return


def expect_many_rows() -> None:
    """In a process that works through a log: rows are held by the thousand and no cycles are made, and the collector of cycles
    would look through them all in vain.
    """
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def end_as_others_say() -> None:
    """In a process that works for another: an interrupt at the keyboard reaches all, and the one that asked ends the others.

    How it ends is told by that one too, in a line: LMDB prints one of its own before a torn page takes it down.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _end_with_the_one_that_asked() -> None:
    """Nobody waits for a worker whose parent was killed, and it holds what it inherited: the lock of a folder among it."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _failure_of(error: Exception) -> Failed | Trouble:
    match error:
        case LogDamaged():
            damage = damage_of(error)
            return Failed(damage.offset, damage.words)
        case Damaged(offset=offset, words=words):
            return Failed(offset, words)
        case Refusal():
            return Trouble(error.detail)
        case NotALog() | UnknownFormat() | OSError() | MemoryError():
            return Trouble(str(error) or type(error).__name__)
        case _:
            return Failed(None, f"{type(error).__name__}: {error}")


def how_it_ended(code: int | None) -> str:
    """The signal that a file sent which is not what it should be. Raises NotDone for what says nothing of the file."""
    name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    if name not in _OF_THE_FILE:
        raise NotDone(f"a process that reads the log was ended: {name}")
    return name
