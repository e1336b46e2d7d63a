"""How a command of the operator's ends, whatever becomes of its output or of whoever started it.

Always: no traceback where the reader of a pipe has gone, where stdout is closed or its disk full, or where the command was
interrupted or told to end. A verdict that was reached keeps its exit code.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from replay.shown import plain

OK, NOT_DONE = 0, 2


def ended(run: Callable[[], int]) -> int:
    """Run the command, and flush what it wrote: its exit code, or NOT_DONE with one line on stderr."""
    _make_writable()
    code = OK
    try:
        with _terminated_like_interrupted():
            code = run()
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has enough.
        _drop_the_rest()
    except KeyboardInterrupt:
        _drop_the_rest()
        return _fail(NOT_DONE, "interrupted")
    except OSError as error:
        _drop_the_rest()
        # What ended otherwise than well has said so.
        return code or _fail(NOT_DONE, str(error))
    return code


def say(text: str) -> None:
    """A line of a verdict, made plain: a reader who has gone changes nothing about the verdict."""
    say_raw(plain(text))


def say_raw(text: str) -> None:
    """The same for JSON, as it stands."""
    try:
        print(text)
    except BrokenPipeError:
        _drop_the_rest()


def _make_writable() -> None:
    """Streams that take anything: one that is closed goes nowhere, and what a locale has no character for is escaped."""
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    sys.stdout.reconfigure(errors="backslashreplace")


def _nowhere() -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt too: private copies of the log are removed on the way out."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _drop_the_rest() -> None:
    """Send what is still to be written nowhere: the interpreter would complain when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(code: int, words: str) -> int:
    print(f"stigmem: {plain(words)}", file=sys.stderr)
    return code
