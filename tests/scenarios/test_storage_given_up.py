"""A log whose file LMDB has given up, in the test's own process: nobody reads it, and mending it waits for whoever still does."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from node.errors import LogDamaged, StorageFailed
from node.events.log import Log
from node.log_watch import LogWatch
from tests.clocks import fixed_clock
from tests.events.logs import signed
from tests.replay.sound import sound_events
from tests.scenarios.faults import failing_calls
from tests.scenarios.nodes import eventually


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log")
    log.append(0, signed(sound_events()[:20], clock=fixed_clock()))
    yield log
    log.close()


def give_up(log: Log) -> None:
    """Have the very write fail that makes a commit valid: the one after as many as the commit has pages."""
    for place in range(2, 8):
        calls = failing_calls(os.getpid(), log.store.path / "data.mdb", "pwrite64", f"error=EIO:when={place}")
        with calls, suppress(StorageFailed):
            log.require_writable()
        try:
            log.store.begin().abort()
        except StorageFailed:
            return
    raise AssertionError("LMDB did not give it up")


def test_a_log_given_up_answers_nothing_until_it_is_mended_and_then_has_what_it_had(log):
    before = log.head()
    give_up(log)
    with pytest.raises(StorageFailed, match="MDB_PANIC"):
        log.read(0, 1)

    log.require_writable()

    assert log.refresh() == before
    assert len(log.read(0, 1000)) == before.size


def test_a_log_given_up_is_not_mended_under_somebody_who_reads_it(log):
    with log.tree() as read:
        give_up(log)
        with pytest.raises(StorageFailed, match="still read"):
            log.require_writable()
        assert read(0, 0)

    log.require_writable()
    assert len(log.read(0, 1000)) == log.head().size


def test_looking_through_the_log_begins_again_when_the_disk_answers(log):
    give_up(log)
    closing, damages = threading.Event(), list[LogDamaged]()
    watch = LogWatch(log, damages.append, closing, retry_s=0.05)
    with capture_logs() as lines:
        watch.start()
        try:
            eventually(lambda: "log_not_checked" in events(lines), within_s=10, what="it was looked at in vain")
            log.require_writable()
            eventually(lambda: "log_checked" in events(lines), within_s=10, what="it was looked through")
        finally:
            closing.set()
            watch.join()
    assert damages == []


def events(lines: list) -> set[str]:
    return {line["event"] for line in lines}
