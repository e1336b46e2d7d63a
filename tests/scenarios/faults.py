"""What goes wrong with a machine, done to a running node and taken back: a failing or full disk, few descriptors, another time.

Always: a fault holds within its `with` and is gone after it; the node goes on as the same process.

What cannot be done here fails the test that needs it and names what is missing; only mounting, which takes privileges that
no package brings, lets it be skipped.
"""

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.scenarios.nodes import RunningNode, eventually

# All that LMDB writes and syncs with.
WRITING_CALLS = "pwrite64,pwritev,writev,write"
SYNCING_CALLS = "fdatasync,fsync"


@contextmanager
def failing_calls(pid: int, files: Path | Sequence[Path], calls: str, how: str) -> Iterator[None]:
    """These calls of a process on this file, or these, fail as `strace` puts it: `error=EIO`, or `error=EIO:when=2`."""
    command = ["strace", "-f", "-p", str(pid), "-o", os.devnull]
    for file in [files] if isinstance(files, Path) else files:
        command += ["-P", str(file.resolve())]
    command += ["-e", f"trace={calls}", "-e", f"inject={calls}:{how}"]
    try:
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.fail("strace is not installed; `make test` installs it")
    said = tracer.stderr.readline()
    try:
        assert "attached" in said, f"strace cannot trace here (ptrace must be permitted): {said}"
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=10)


@contextmanager
def limited(node: RunningNode, what: int, limit: int) -> Iterator[None]:
    """A resource limit of the running node (`resource.RLIMIT_...`)."""
    before = resource.prlimit(node.process.pid, what)
    resource.prlimit(node.process.pid, what, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(node.process.pid, what, before)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount (root, in a container --cap-add=SYS_ADMIN): {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path, *, leave_bytes: int = 0) -> Iterator[None]:
    """The disk that `folder` lies on is full but for so many bytes."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        free = shutil.disk_usage(folder).free
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave_bytes))
    try:
        yield
    finally:
        filler.unlink()


def libfaketime() -> str:
    """Where the library lies that gives a process another time."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.fail("faketime is not installed; `make test` installs it")
    return str(found[0])


def await_ready(node: RunningNode) -> None:
    """The node takes writes again, by itself."""
    eventually(
        lambda: node.get("/readyz", bearer=None).status, lambda status: status == 200, within_s=10, what="ready again"
    )


def await_refusing(node: RunningNode, code: str) -> None:
    """Readiness says why writes are not taken."""
    eventually(
        lambda: node.get("/readyz", bearer=None),
        lambda answer: answer.status == 503 and answer.json["error"] == code,
        within_s=10,
        what=f"not ready, for {code}",
    )


def said_with(node: RunningNode, event: str) -> list[str]:
    """The node's log lines about this."""
    return [line for line in node.said().splitlines() if re.search(rf'"event": ?"{event}"', line)]
