"""What lies on a disk when the power goes: files rebuilt, call by call, from a trace of the system calls of a node.

Always: the disk promises no more than POSIX does. A file's bytes are safe once a sync of that file has returned, or a write
through a descriptor opened with O_DSYNC; a name is safe once its folder was synced. Of everything else any part may be there:
some sectors of a write, later writes without earlier ones, a name without its file's bytes.

Knows the calls that a node makes, and fails at any other that changes files. Pages written as memory are not seen: of a node's
files that is LMDB's lock file, which means nothing after a restart of the machine.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
CHANGING = "openat,mkdir,rename,link,unlink,rmdir,pwrite64,pwritev,write,writev,ftruncate,fallocate"
CALLS = f"{CHANGING},renameat,renameat2,linkat,unlinkat,lseek,fsync,fdatasync,close,sendto,sendmsg"
# -D keeps the node our own child; data whole, and in hex.
STRACE = ("strace", "-D", "-f", "-v", "-xx", "-s", str(1 << 24), "-e", f"trace={CALLS}", "-e", "signal=none")

_CALL = re.compile(r"^(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_RESULT = re.compile(r"\) += (-?\d+)")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Call:
    """One system call: the bytes it was given, its other words, and what it returned."""

    name: str
    texts: list[bytes]
    words: str
    result: int

    @property
    def descriptor(self) -> int:
        return self.number(0)

    def number(self, place: int) -> int:
        """The number at this place among its numbers."""
        return int(_NUMBER.findall(self.words)[place])


@dataclass
class _File:
    safe: bytearray = field(default_factory=bytearray)
    # Offset and bytes of what was written since, in order; None for bytes stands for a file cut to that length.
    unsafe: list[tuple[int, bytes | None]] = field(default_factory=list)


@dataclass
class _Open:
    path: Path
    file: _File | None
    is_synced: bool
    position: int = 0


def calls_of(trace: Path) -> Iterator[tuple[Call, bool]]:
    """The calls in the order in which things happened: each as it began (False) and as it returned (True)."""
    begun: dict[str, tuple[str, str]] = {}
    with trace.open() as lines:
        for line in lines:
            if (match := _CALL.match(line)) is None:
                continue
            pid, resumed, name, rest = match.groups()
            if rest.endswith("<unfinished ...>"):
                begun[pid] = name, rest.removesuffix("<unfinished ...>")
                yield _call(name, begun[pid][1]), False
                continue
            if resumed is None:
                yield _call(name, rest), False
            else:
                name, before = begun.pop(pid)
                rest = before + rest
            yield _call(name, rest), True


def _call(name: str, rest: str) -> Call:
    result = _RESULT.search(rest)
    texts = [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(rest)]
    return Call(name, texts, _TEXT.sub('""', rest), int(result[1]) if result else 0)


class Disk:
    """The files under `folder` and what of them is safe, after the calls that `take` was given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # By name what is there, and what is safe; None for a folder.
        self._files: dict[Path, _File | None] = {folder: None}
        self._safe_names: dict[Path, _File | None] = {folder: None}
        self._open: dict[int, _Open] = {}

    def begin(self, call: Call) -> None:
        """A call has begun: what it writes may be on the disk from now on."""
        opened = self._open.get(call.descriptor) if call.name in _WRITES else None
        if opened is None or opened.file is None:
            return
        if call.name == "pwrite64":
            offset = call.number(2)
        else:
            assert call.name in ("write", "writev"), f"unknown: {call.name}"
            offset = opened.position
        content = b"".join(call.texts)
        opened.file.unsafe.append((offset, content))
        if call.name != "pwrite64":
            opened.position = offset + len(content)

    def end(self, call: Call) -> None:
        """A call has returned."""
        if call.result < 0:
            return
        if call.name not in _WRITES:
            getattr(self, f"_{call.name}", self._unknown)(call)
        elif self.makes_safe(call):
            # Only this write: the one writer of that file makes no other before it has returned.
            file = self._open[call.descriptor].file
            offset, content = file.unsafe.pop()
            _write(file.safe, offset, content)

    def makes_safe(self, call: Call) -> bool:
        """Whether something is to be safe once this call returns."""
        opened = self._open.get(call.descriptor) if call.name in (*_WRITES, "fsync", "fdatasync") else None
        return opened is not None and (call.name not in _WRITES or opened.is_synced)

    def picture(self, torn: random.Random | None, *, but_for: str | None = None) -> dict[Path, bytes | None]:
        """Each file's bytes, by its path within the folder; None for a folder. Without what lies in folders called `but_for`.

        With `torn` any part of what is not safe is there too; without it nothing of that.
        """
        names = self._safe_names
        if torn is not None and torn.random() < 0.5:
            names = self._files
        found: dict[Path, bytes | None] = {}
        contents: dict[int, bytes] = {}
        for path in sorted(names.keys() - {self._folder}):
            inside = path.relative_to(self._folder)
            if but_for in inside.parts or (inside.parent != Path() and inside.parent not in found):
                continue
            file = names[path]
            if file is not None and id(file) not in contents:
                contents[id(file)] = _content(file, torn)
            found[inside] = None if file is None else contents[id(file)]
        return found

    def _openat(self, call: Call) -> None:
        path = Path(call.texts[0].decode())
        if not path.is_relative_to(self._folder):
            self._open.pop(call.result, None)
            return
        if path not in self._files and "O_CREAT" in call.words:
            self._files[path] = _File()
        file = self._files.get(path)
        if file is not None and "O_TRUNC" in call.words:
            file.unsafe.append((0, None))
        self._open[call.result] = _Open(path, file, is_synced="O_DSYNC" in call.words)

    def _close(self, call: Call) -> None:
        self._open.pop(call.descriptor, None)

    def _lseek(self, call: Call) -> None:
        if (opened := self._open.get(call.descriptor)) is not None:
            opened.position = call.result

    def _mkdir(self, call: Call) -> None:
        path = Path(call.texts[0].decode())
        if path.is_relative_to(self._folder):
            self._files.setdefault(path, None)

    def _link(self, call: Call) -> None:
        old, new = self._two_paths(call)
        if old in self._files:
            self._files[new] = self._files[old]

    def _rename(self, call: Call) -> None:
        old, new = self._two_paths(call)
        if old in self._files:
            assert self._files[old] is not None, "a folder is renamed"
            self._files[new] = self._files.pop(old)

    def _unlink(self, call: Call) -> None:
        self._files.pop(Path(call.texts[0].decode()), None)

    def _unlinkat(self, call: Call) -> None:
        path = Path(call.texts[0].decode())
        if not path.is_absolute():
            path = self._open[call.descriptor].path / path
        self._files.pop(path, None)

    _rmdir, _linkat, _renameat, _renameat2 = _unlink, _link, _rename, _rename

    def _two_paths(self, call: Call) -> list[Path]:
        return [Path(text.decode()) for text in call.texts]

    def _ftruncate(self, call: Call) -> None:
        opened = self._open.get(call.descriptor)
        if opened is not None and opened.file is not None:
            opened.file.unsafe.append((call.number(1), None))

    def _fallocate(self, call: Call) -> None:
        """Only the lock file gets its blocks that way, of which nothing is kept."""
        opened = self._open.get(call.descriptor)
        assert opened is None or opened.path.name == "lock.mdb"

    def _fsync(self, call: Call) -> None:
        opened = self._open.get(call.descriptor)
        if opened is None:
            return
        if opened.file is not None:
            for offset, content in opened.file.unsafe:
                _write(opened.file.safe, offset, content)
            opened.file.unsafe.clear()
            return
        inside = [path for path in {*self._files, *self._safe_names} if path.parent == opened.path]
        for path in inside:
            if path in self._files:
                self._safe_names[path] = self._files[path]
            else:
                del self._safe_names[path]

    _fdatasync = _fsync

    def _sendto(self, call: Call) -> None:
        """Not about files."""

    _sendmsg = _sendto

    def _unknown(self, call: Call) -> None:
        raise AssertionError(f"a call that is not known here: {call.name}")


_WRITES = frozenset({"pwrite64", "pwritev", "write", "writev"})


def _write(content: bytearray, offset: int, written: bytes | None) -> None:
    if written is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(written)] = written


def _content(file: _File, torn: random.Random | None) -> bytes:
    if torn is None:
        return bytes(file.safe)
    content = bytearray(file.safe)
    for offset, written in file.unsafe:
        if written is None:
            if torn.random() < 0.5:
                _write(content, offset, None)
            continue
        for start, end in _sectors(offset, len(written)):
            if torn.random() < 0.5:
                _write(content, start, written[start - offset : end - offset])
    return bytes(content)


def _sectors(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """The parts of a write that a disk writes whole, by their beginnings and ends."""
    start, last = offset, offset + length
    while start < last:
        end = min(last, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield start, end
        start = end
