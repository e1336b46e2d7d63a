"""The file that LMDB keeps an environment in, looked at before LMDB itself opens it: what a torn file holds can end the process.

Always: looked at as bytes, by Python alone. Nobody else writes the file meanwhile.

Does not know what lies in the tables (see log_check.py).
"""

import mmap
import os
import struct
from pathlib import Path

from lmdb.verify import VerifyError
from lmdb.verify import verify as problems_of
from msgspec import Struct

DATA_FILE = "data.mdb"
META_BYTES = 2 * mmap.PAGESIZE
# What is walked page by page at every start: more would take seconds.
_WALKED_BYTES = 16 << 20
# The last pages of a file may have been given back before they were ever written.
_UNWRITTEN_PAGES = 64
_MAGIC, _VERSION, _META_FLAG = 0xBEEFC0DE, 1, 0x08
# A meta page: its number and flags; magic, version, address and map size; page size and the rest of two tables with their
# roots; last page and transaction.
_META = struct.Struct("=Q2xH4x II8xQ I36xQ 40xQ QQ")
_NO_PAGE = 2**64 - 1
_STUMBLES = (VerifyError, struct.error, ArithmeticError, LookupError, ValueError)


class _Meta(Struct, frozen=True):
    """What a meta page says of the file."""

    page: int
    flags: int
    magic: int
    version: int
    map_size: int
    page_size: int
    free_root: int
    main_root: int
    last_page: int
    transaction: int


def structural_problem(folder: Path) -> str | None:
    """The first thing wrong with the structure of the LMDB file in `folder`, or None: a walk over all of its pages."""
    try:
        problems = problems_of(str(folder), subdir=True)
    except _STUMBLES as error:
        # The walker reports what it foresaw; on bytes that nobody foresaw it stumbles, which says as much.
        return str(error)
    return problems[0] if problems else None


def startup_problem(folder: Path) -> str | None:
    """`structural_problem` of a file that is small enough to be walked at every start; of another, what a glance shows."""
    path = folder / DATA_FILE
    size = path.stat().st_size
    if size <= _WALKED_BYTES:
        return structural_problem(folder)
    with path.open("rb") as file:
        return _glance(file.read(META_BYTES), size)


def fill_up(folder: Path) -> None:
    """Make a file in which nothing was found as long as its pages say, with zeros for the last ones where those are not there.

    Nobody misses pages that were never written. But where they are gone, to read them ends the process, and zeros are an error.
    """
    path = folder / DATA_FILE
    with path.open("rb") as file:
        whole_bytes = _pages(_metas(file.read(META_BYTES))) * mmap.PAGESIZE
    if path.stat().st_size < whole_bytes:
        os.truncate(path, whole_bytes)


def _glance(head: bytes, size: int) -> str | None:
    """Whether both meta pages can be believed, and the file is as long as the newer one says."""
    metas = _metas(head)
    for number, meta in enumerate(metas):
        if not _is_sane(meta, number):
            return f"meta page {number} is not one of an LMDB file"
    pages = _pages(metas)
    if size < (pages - _UNWRITTEN_PAGES) * mmap.PAGESIZE:
        return f"the file has {size // mmap.PAGESIZE} pages of {pages}"
    return None


def _metas(head: bytes) -> list[_Meta]:
    return [_Meta(*_META.unpack_from(head, start)) for start in (0, mmap.PAGESIZE)]


def _pages(metas: list[_Meta]) -> int:
    return max(metas, key=lambda meta: meta.transaction).last_page + 1


def _is_sane(meta: _Meta, number: int) -> bool:
    roots = (meta.free_root, meta.main_root)
    return (
        (meta.page, meta.flags, meta.magic, meta.version) == (number, _META_FLAG, _MAGIC, _VERSION)
        and meta.page_size == mmap.PAGESIZE
        and all(root == _NO_PAGE or 1 < root <= meta.last_page for root in roots)
    )
