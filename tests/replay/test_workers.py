"""A reader in a process of its own: what it tells, and that its end is an answer and not ours."""

import os
import signal

import pytest

from node.errors import LogDamaged, StorageFull
from replay.workers import Failed, Gone, NotDone, Progress, Worker


def _told(task: object) -> list[object]:
    worker = Worker(lambda: _do)
    try:
        worker.give(task)
        return [worker.hear(), worker.hear()]
    finally:
        worker.end()


def _do(task, tell):
    tell(3)
    if isinstance(task, int):
        os.kill(os.getpid(), task)
    if isinstance(task, Exception):
        raise task
    return task


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT])
def test_a_reader_that_the_file_takes_down_is_an_answer(number):
    assert _told(int(number)) == [Progress(3), Gone(number.name)]


def test_a_reader_that_somebody_killed_says_nothing_of_the_file():
    with pytest.raises(NotDone, match="SIGKILL"):
        _told(int(signal.SIGKILL))


def test_what_nobody_foresaw_is_an_answer_and_no_traceback(capfd):
    assert _told(RecursionError("deep")) == [Progress(3), Failed(None, "RecursionError: deep")]
    assert _told(LogDamaged("offset 7: torn", offset=7)) == [Progress(3), Failed(7, "torn")]
    assert capfd.readouterr().err == ""


def test_no_room_is_no_damage():
    with pytest.raises(NotDone, match="full"):
        _told(StorageFull("disk full"))
