"""Data folders for the tests of replay: a sound one, edits of its tables, and the commands as their own process.

Always: a command runs as its own process, so that what would take it down does not take the tests down with it.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lmdb

from node.events.entry import Entry
from node.events.log import Log
from node.projections.views import Views, close_current, rebuild
from tests.events.logs import write_log
from tests.replay.sound import sound_events

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        return (self.stdout.splitlines() or [""])[-1]


def replay(command: str, data_dir: Path, *more: str) -> Result:
    """`python -m replay COMMAND --data-dir DATA_DIR`; never a traceback, whatever the folder holds."""
    arguments = [sys.executable, "-m", "replay", command, "--data-dir", str(data_dir), *more]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


def make_folder(data_dir: Path, *, is_rotated: bool = False) -> list[Entry]:
    """A sound data folder: a log with one of each event, soundly signed, and live views at its head, closed cleanly.

    The rotation of the node's key is among them where it is asked for.
    """
    entries = write_log(data_dir, sound_events(is_rotated=is_rotated))
    fold(data_dir, len(entries))
    return entries


def fold(data_dir: Path, size: int) -> None:
    """Make the live views anew, folded up to `size` entries."""
    log = Log(data_dir / "log", is_readonly=True)
    views = rebuild(data_dir / "views", log)
    close_current(data_dir / "views", views)
    if size < log.head().size:
        live = next(path for path in (data_dir / "views").iterdir() if path.is_dir())
        (live / "data.mdb").unlink()
        shorter = Views(live)
        shorter.fold_forward(log, size)
        shorter.close()
    log.close()


def edit(environment_dir: Path, table: str, change: Callable[[lmdb.Transaction], object]) -> None:
    """Change one table of an environment behind the node's back."""
    with lmdb.open(str(environment_dir), max_dbs=64, map_size=1 << 30) as environment:
        db = environment.open_db(table.encode(), create=False)
        with environment.begin(db=db, write=True) as txn:
            change(txn)


def flip(key: bytes, index: int, mask: int = 0x01) -> Callable[[lmdb.Transaction], object]:
    """A change of one byte of the row under `key`."""

    def change(txn: lmdb.Transaction) -> None:
        value = bytearray(txn.get(key))
        value[index] ^= mask
        txn.put(key, bytes(value))

    return change


def key(offset: int, index: int | None = None) -> bytes:
    """The key of an entry in `headers`, or of an item in `items`."""
    return offset.to_bytes(8) + (b"" if index is None else index.to_bytes(4))


def node(level: int, index: int) -> bytes:
    """The key of a hash in `tree`."""
    return level.to_bytes(1) + index.to_bytes(8)


def files_of(data_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(data_dir.rglob("*")) if path.is_file()}


def stigmem(*arguments: str | Path) -> Result:
    """A `stigmem` command as its own process, without a setting of this machine; never a traceback."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STIGMEM_")}
    command = [sys.executable, "-m", "node.cli", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY, env=inherited
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)
