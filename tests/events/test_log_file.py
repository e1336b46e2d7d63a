"""The file of an LMDB environment, before LMDB opens it."""

import os
from pathlib import Path

import pytest

from node.errors import LogDamaged
from node.events.log_file import DATA_FILE, fill_up, startup_problem
from node.events.store import Store, storage_errors

PAGE_BYTES = 4096
ROWS = 17_000
LAST = b"%05d" % (ROWS - 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An environment too large to be walked at every start."""
    store = Store(tmp_path, tables=("rows",), map_bytes=1 << 30)
    with store.begin(write=True) as txn:
        for number in range(ROWS):
            txn.put(b"%05d" % number, b"x" * 1000, db=store.table("rows"))
    store.close()
    return tmp_path


def read(folder: Path) -> bytes | None:
    store = Store(folder, tables=("rows",), map_bytes=1 << 30)
    try:
        with store.begin() as txn:
            return txn.get(LAST, db=store.table("rows"))
    finally:
        store.close()


def test_a_file_whose_last_pages_are_gone_does_not_end_whoever_reads_them(folder: Path):
    file = folder / DATA_FILE
    whole_bytes = file.stat().st_size
    os.truncate(file, whole_bytes - 18 * PAGE_BYTES - 1900)
    assert startup_problem(folder) is None

    fill_up(folder)

    assert file.stat().st_size == whole_bytes
    with pytest.raises(LogDamaged), storage_errors():
        read(folder)


def test_a_whole_file_is_left_as_it_is(folder: Path):
    before = (folder / DATA_FILE).read_bytes()

    fill_up(folder)

    assert (folder / DATA_FILE).read_bytes() == before
    assert read(folder) == b"x" * 1000
