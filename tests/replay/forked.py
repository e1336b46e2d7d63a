"""`stigmem` as a process of its own that is forked from the tests: what takes it down shows, and no interpreter has to start.

Always: every wait has a deadline, and a process that is still there behind it is ended; it has MEMORY_BYTES and no more; and it
sees no STIGMEM_* variable but those that the test gave it.
"""

import contextlib
import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from node.cli import main
from tests.replay.folders import Result

DEADLINE_S = 30.0
# Of its own: the maps of LMDB's files are not counted.
MEMORY_BYTES = 2 << 30


class Forked:
    """One running command; its output goes to files in `folder`."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], settings: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        self._pid = os.fork()
        if self._pid == 0:
            self._become(folder, arguments, settings)
        self._code: int | None = None

    @property
    def is_running(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code is None

    def result(self) -> Result:
        """How it ended; a signal that ended it is a negative code. Never a traceback."""
        deadline = time.monotonic() + DEADLINE_S
        while self.is_running:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            time.sleep(0.005)
        stdout, stderr = self._stdout.read_text(), self._stderr.read_text()
        assert "Traceback" not in stdout + stderr, stdout + stderr
        return Result(self._code, stdout, stderr)

    def send(self, number: signal.Signals) -> None:
        if self.is_running:
            os.kill(self._pid, number)

    def _become(self, folder: Path, arguments: tuple[str, ...], settings: Mapping[str, str]) -> None:
        # Nothing of the tests goes on in this process, whatever happens.
        code = 70
        try:
            for path, descriptor in ((self._stdout, 1), (self._stderr, 2)):
                os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), descriptor)
            sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", closefd=False) for descriptor in (1, 2))
            for name in [name for name in os.environ if name.startswith("STIGMEM_")]:
                del os.environ[name]
            os.environ.update({f"STIGMEM_{name}": value for name, value in settings.items()})
            # As in a process that pytest did not start.
            faulthandler.disable()
            os.chdir(folder)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
            sys.argv = ["stigmem", *arguments]
            code = main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def run(folder: Path, *arguments: object, **settings: str) -> Result:
    """`stigmem ARGUMENTS`, to its end."""
    return Forked(folder, tuple(map(str, arguments)), settings).result()


@contextlib.contextmanager
def running(folder: Path, *arguments: object, **settings: str) -> Iterator[Forked]:
    """`stigmem ARGUMENTS` until the block ends; then it is asked to end, if it has not by then."""
    process = Forked(folder, tuple(map(str, arguments)), settings)
    try:
        yield process
    finally:
        process.send(signal.SIGTERM)
        process.result()
