"""The file of a snapshot: an uncompressed tar (ustar) of deflated chunks, then manifest and signature, and nothing else.

Always: no byte of the file is free. Each header must be the very one that its name and size give, padding is zeros, and the end
is the end: whatever was changed or added anywhere is seen. No name from the file is used as a path.
Always: memory is bounded, whatever the file says: a chunk inflates to the size that its manifest declares and not a byte more.

Does not know what a chunk means (see rows.py) nor whom to believe (see manifest.py).
"""

import re
import tarfile
import zlib
from array import array
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Self

from replay.chain import Damaged
from replay.snapshots.manifest import (
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_MANIFEST_BYTES,
    Chunk,
    Manifest,
    NotASnapshot,
    open_manifest,
)

MANIFEST_NAME, SIGNATURE_NAME = "manifest.json", "manifest.sig"
SIGNATURE_BYTES = 64
BLOCK = 512
_END = bytes(2 * BLOCK)
_SIZE_AT, _SIZE_DIGITS = 124, re.compile(rb"[0-7]{11}\x00")
# The least work: a log is mostly hashes and signatures, which do not shrink however long one tries.
_LEVEL = 1


def chunk_name(index: int) -> str:
    return f"chunks/{index:08d}.z"


def deflate(raw: bytes) -> bytes:
    return zlib.compress(raw, _LEVEL)


def write_member(file: BinaryIO, name: str, content: bytes) -> None:
    file.write(_header(name, len(content)))
    file.write(content)
    file.write(bytes(-len(content) % BLOCK))


def write_end(file: BinaryIO) -> None:
    file.write(_END)


class SnapshotFile:
    """A snapshot opened for reading: its manifest, whose signature holds, and its chunks on demand.

    Raises NotASnapshot where the file is none, Damaged where one does not hold.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise NotASnapshot(f"{path} cannot be read: {error.strerror}") from error
        try:
            self._starts = array("Q")
            self._sizes = array("Q")
            self.manifest = self._open()
        except BaseException:
            self._file.close()
            raise

    def chunk(self, index: int) -> bytes:
        """The inflated bytes of a chunk, as its manifest names them. Raises Damaged where they are others."""
        chunk = self.manifest.chunks[index]
        stored = self._content(self._starts[index], chunk.bytes)
        if sha256(stored).hexdigest() != chunk.sha256:
            raise self._damaged_chunk(index, chunk, "its content is not the one that the manifest names")
        inflater = zlib.decompressobj()
        try:
            raw = inflater.decompress(stored, chunk.raw_bytes)
            rest = inflater.decompress(inflater.unconsumed_tail, 1)
        except zlib.error as error:
            raise self._damaged_chunk(index, chunk, f"it cannot be inflated: {error}") from error
        if len(raw) != chunk.raw_bytes or rest or not inflater.eof or inflater.unused_data:
            raise self._damaged_chunk(index, chunk, "it inflates to another size than the manifest says")
        return raw

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Manifest:
        self._walk_chunks()
        raw = self._content(self._member(MANIFEST_NAME, MAX_MANIFEST_BYTES), self._last_size)
        signature = self._content(self._member(SIGNATURE_NAME, SIGNATURE_BYTES), self._last_size)
        if self._file.read(len(_END) + 1) != _END:
            raise self._damaged("it does not end behind its signature")
        try:
            manifest = open_manifest(raw, signature)
        except ValueError as error:
            raise self._damaged(str(error)) from error
        if [chunk.bytes for chunk in manifest.chunks] != list(self._sizes):
            raise self._damaged("its chunks have other sizes than the manifest says")
        return manifest

    def _walk_chunks(self) -> None:
        while self._peek().startswith(b"chunks/"):
            if len(self._starts) == MAX_CHUNKS:
                raise self._damaged(f"it has more than {MAX_CHUNKS} chunks")
            start = self._member(chunk_name(len(self._starts)), MAX_CHUNK_BYTES)
            self._starts.append(start)
            self._sizes.append(self._last_size)
            self._file.seek(start + self._last_size + -self._last_size % BLOCK)
        if not self._starts:
            raise NotASnapshot(f"{self.path} is no snapshot")

    def _peek(self) -> bytes:
        block = self._file.read(BLOCK)
        self._file.seek(-len(block), 1)
        return block

    def _member(self, name: str, max_bytes: int) -> int:
        """Read the header of the next member, and say where its content begins; its size is in `_last_size`."""
        block = self._file.read(BLOCK)
        digits = block[_SIZE_AT : _SIZE_AT + 12]
        size = int(digits[:11], 8) if _SIZE_DIGITS.fullmatch(digits) else None
        if size is None or block != _header(name, size):
            raise self._damaged(f"{name} is missing, or its header was changed")
        if size > max_bytes:
            raise self._damaged(f"{name} is larger than {max_bytes} bytes")
        self._last_size = size
        return self._file.tell()

    def _content(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        content = self._file.read(size)
        padding = self._file.read(-size % BLOCK)
        if len(content) != size or padding != bytes(-size % BLOCK):
            raise self._damaged(f"it is cut short or changed behind byte {start}")
        return content

    def _damaged(self, words: str) -> Damaged:
        return Damaged(None, f"{self.path}: {words}")

    def _damaged_chunk(self, index: int, chunk: Chunk, words: str) -> Damaged:
        return Damaged(chunk.first, f"{self.path}: {chunk_name(index)}: {words}")


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
