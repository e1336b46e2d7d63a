"""The independent verifier finds sound logs sound, and names what is wrong with each spoilt one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.independent.merkle import root_of
from tests.independent.sample_log import ACTOR, KEY_ID, SampleLog, compact, sound_log
from tests.independent.verifier import check_log, read_log

ROW_2 = (2).to_bytes(8)
ITEM_2_1 = ROW_2 + (1).to_bytes(4)
FACT = b'{"entity":"stigmem://org-a.example/user/9"}'


def _flip(table: dict[bytes, bytes], key: bytes, position: int) -> None:
    value = bytearray(table[key])
    value[position] ^= 1
    table[key] = bytes(value)


def _rewrite_header(log: SampleLog, old: bytes, new: bytes) -> None:
    """Change the last header and sign it again, so that only its form is wrong."""
    offset = len(log.headers) - 1
    header = log.headers[offset.to_bytes(8)][:-64]
    assert old in header
    log.put_header(offset, header.replace(old, new))


def _swap_members(log: SampleLog) -> None:
    offset = len(log.headers) - 1
    header = log.headers[offset.to_bytes(8)][:-64]
    start, rest = header.split(b',"prev"', 1)
    log.put_header(offset, b'{"prev"' + rest[:-1] + b"," + start[1:] + b"}")


def _remove_entry_2(log: SampleLog) -> None:
    del log.headers[ROW_2]
    log.items = {k: v for k, v in log.items.items() if k[:8] != ROW_2}
    log.hash_tree()


SPOILT = {
    "meta: format": lambda log: log.meta.update({b"format": b"2"}),
    "keys: ": lambda log: log.keys.update({KEY_ID: bytes(32)}),
    "signature: its key": lambda log: log.keys.clear(),
    "signature: does not verify": lambda log: _flip(log.headers, ROW_2, -1),
    "chain: prev": lambda log: log.append(compact(ACTOR), prev="0" * 64),
    "chain: offset": lambda log: log.append(compact(ACTOR), offset=4),
    "chain: offset 3 in row 3 at position 2": _remove_entry_2,
    "chain: hlc": lambda log: log.append(compact(ACTOR), hlc="1777896000004.000"),
    "chain: at": lambda log: log.append(compact(ACTOR), at="2026-05-04T12:00:00.003Z"),
    "header: not compact JSON of the eight members": _swap_members,
    "header: not compact": lambda log: _rewrite_header(log, b'"v":1', b'"v": 1'),
    "header: not compact JSON": lambda log: _rewrite_header(log, b'"v":1', b'"v":2,"v":1'),
    "header: v": lambda log: log.append(compact(ACTOR), v=2),
    "header: hlc": lambda log: log.append(compact(ACTOR), hlc="1777896000009.0"),
    "header: at": lambda log: log.append(compact(ACTOR), at="2026-05-04T12:00:09Z"),
    "header: type": lambda log: log.append(compact(ACTOR), type="fact"),
    "header: items": lambda log: log.append(compact(ACTOR), items=["00"]),
    "items: 1 is not what the header commits to": lambda log: _flip(log.items, ITEM_2_1, -1),
    "items: 1 is not what the header commits": lambda log: _flip(log.items, ITEM_2_1, 5),
    "items: 1 has the unknown form": lambda log: log.items.update({ITEM_2_1: b"\x03" + bytes(20)}),
    "items: 2 commitments": lambda log: log.items.pop(ITEM_2_1),
    "items: 2 commitments, rows [0, 1, 2]": lambda log: log.items.update({ROW_2 + (2).to_bytes(4): bytes(20)}),
    "items: row": lambda log: log.items.update({(9).to_bytes(8) + bytes(4): bytes(20)}),
    "items: 0 is not an actor": lambda log: log.append(FACT),
    "items: 0 is not an": lambda log: log.append(compact(ACTOR | {"via": "nobody"})),
    "tree: row 010000000000000001": lambda log: _flip(log.tree, b"\x01" + (1).to_bytes(8), 0),
    "tree: row 020000000000000001": lambda log: log.tree.update({b"\x02" + (1).to_bytes(8): bytes(32)}),
    "tree: row 000000000000000004": lambda log: log.tree.pop(b"\x00" + (4).to_bytes(8)),
}


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9])
def test_a_sound_log_has_no_faults(tmp_path, size):
    assert check_log(sound_log(size).write(tmp_path / "data")) == []


@pytest.mark.parametrize("claim", SPOILT)
def test_a_spoilt_log_is_reported_as(tmp_path, claim):
    log = sound_log(5)
    SPOILT[claim](log)
    faults = check_log(log.write(tmp_path / "data"))
    assert any(fault.claim.startswith(claim) for fault in faults), faults


@pytest.mark.parametrize("form", [1, 2], ids=["encrypted", "erased"])
def test_an_item_that_cannot_be_read_leaves_the_log_sound(tmp_path, form):
    log = sound_log(3)
    log.items[ITEM_2_1] = bytes([form]) + bytes(16)
    assert check_log(log.write(tmp_path / "data")) == []


def test_read_log_gives_back_what_was_written(tmp_path):
    log = sound_log(3)
    entries = read_log(log.write(tmp_path / "data"))
    assert [entry.leaf_hash for entry in entries] == log.leaves()
    assert [entry.header["offset"] for entry in entries] == [0, 1, 2]
    assert entries[2].items[1].data == b'{"entity":"stigmem://org-a.example/user/2"}'


def test_reading_a_log_changes_no_byte_of_it(tmp_path):
    data_dir = sound_log(5).write(tmp_path / "data")
    before = (data_dir / "log" / "data.mdb").read_bytes()
    check_log(data_dir)
    assert (data_dir / "log" / "data.mdb").read_bytes() == before


def test_the_command_prints_size_and_root_and_fails_on_a_fault(tmp_path):
    log = sound_log(5)
    sound = _run(log.write(tmp_path / "sound"))
    _flip(log.headers, ROW_2, -1)
    spoilt = _run(log.write(tmp_path / "spoilt"))

    assert sound.returncode == 0
    assert sound.stdout == f"size 5 root {root_of(sound_log(5).leaves()).hex()} faults 0\n"
    assert spoilt.returncode == 1
    assert "2: signature: does not verify\n" in spoilt.stdout


def _run(data_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.independent.verifier", str(data_dir)]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
