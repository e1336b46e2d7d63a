"""A private copy of an LMDB file, at rest, so that it can be checked before LMDB itself opens it (`node/events/log_file.py`).

Always: the copied folder is only read (beside a node that commits, a reader's slot in LMDB's lock file is taken and given
back).
Always: the copy is one committed state of the file, also while a node commits to it.

Does not know what lies in the tables (see chain.py, verify.py).
"""

import mmap
import os
import shutil
import struct
from pathlib import Path

import lmdb

from node.events.log_file import DATA_FILE, META_BYTES
from node.events.store import LOG_MAP_BYTES

_TXNID = _PAGE_NUMBER = struct.Struct("=Q")
# Behind the page header (16) and magic, version, address, map size, two tables and the last page of LMDB's format 1.
_TXNID_AT = 16 + 24 + 96 + 8
_PIN_ATTEMPTS = 20


class CopyFailed(Exception):
    """The file could not be copied in one state; the message is one line for the operator."""


def copy_environment(source: Path, target: Path) -> None:
    """Copy the LMDB file of folder `source` into the new folder `target`, in one committed state."""
    target.mkdir(parents=True)
    if not _copy_unchanged(source / DATA_FILE, target / DATA_FILE):
        _copy_pinned(source, target / DATA_FILE)


def _copy_unchanged(source: Path, target: Path) -> bool:
    """Copy, and say whether nothing was committed meanwhile."""
    before = _metas(source)
    shutil.copyfile(source, target)
    return _metas(source) == before


def _copy_pinned(source: Path, target: Path) -> None:
    """Copy while holding a reader's slot, so that no page of its state is reused; then point the copy at that state."""
    try:
        # Room for what the node appends meanwhile: else beginning to read is refused once the file has outgrown the map.
        environment = lmdb.open(os.fsencode(source), readonly=True, create=False, max_dbs=0, map_size=LOG_MAP_BYTES)
    except lmdb.Error as error:
        raise CopyFailed(f"{source} changes while it is read, and cannot be held still: {error}") from error
    try:
        metas = _pin(environment, source / DATA_FILE, target)
    finally:
        environment.close()
    with target.open("r+b") as copy:
        copy.write(metas)


def _pin(environment: lmdb.Environment, source: Path, target: Path) -> bytes:
    for _ in range(_PIN_ATTEMPTS):
        # Beginning to read touches no page but the two metas, so it is safe before the structure was checked.
        with environment.begin() as snapshot:
            # Commits write the two by turns: the pinned state's own is there until the second commit after it.
            meta = _meta_of(snapshot.id(), _metas(source))
            if meta is not None:
                shutil.copyfile(source, target)
                return _metas_at(snapshot.id(), meta)
    raise CopyFailed(f"{source} changes too fast to be copied: try again, or stop the node")


def _metas(source: Path) -> bytes:
    with source.open("rb") as file:
        return file.read(META_BYTES)


def _meta_of(txnid: int, metas: bytes) -> bytes | None:
    """The meta page of one state, if it is still there."""
    for start in (0, mmap.PAGESIZE):
        if _TXNID.unpack_from(metas, start + _TXNID_AT)[0] == txnid:
            return metas[start : start + mmap.PAGESIZE]
    return None


def _metas_at(txnid: int, meta: bytes) -> bytes:
    """Both meta pages of a file that stands at one state: its own where its number puts it, beside it one that is older."""
    pages = []
    for number in (0, 1):
        page = bytearray(meta)
        _PAGE_NUMBER.pack_into(page, 0, number)
        _TXNID.pack_into(page, _TXNID_AT, txnid if txnid % 2 == number else txnid - 1)
        pages.append(bytes(page))
    return b"".join(pages)
