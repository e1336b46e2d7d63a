"""The independent verifier finds sound logs sound, and names what is wrong with each spoilt one."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.independent.merkle import root_of
from tests.independent.sample_log import (
    ACTOR,
    KEY_ID,
    SECRETS,
    SampleLog,
    compact,
    erase,
    erasing_log,
    row_key,
    seal_item,
    sealed_log,
    sound_log,
)
from tests.independent.sealed import OWN_NAME
from tests.independent.verifier import check_log, read_log

ROW_2 = (2).to_bytes(8)
ITEM_2_1 = ROW_2 + (1).to_bytes(4)
KEY = ("key_file", SECRETS["key_file"])
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


SPOILT_ERASURES = {
    "items: 2 commitments, rows [0], erased []": lambda log: log.items.pop(row_key(2, 1)),
    "items: 2 commitments, rows [], erased [1]": lambda log: log.items.pop(row_key(1, 0)),
    "items: 0 is not an actor": lambda log: log.items.pop(row_key(1, 0)),
    "erased: item 2 is not the list": lambda log: _flip(log.items, row_key(5, 2), -1),
    "items: 3 commitments, rows [0, 1], erased []": lambda log: log.items.pop(row_key(5, 2)),
    "erased: item 1 of 6 is none that may be erased": lambda log: erase(log, (6, 1)),
    "erased: item 0 of 2 is none that may be erased": lambda log: erase(log, (2, 0)),
}


@pytest.mark.parametrize("is_sealed", [False, True], ids=["in_clear", "sealed"])
def test_an_item_that_a_later_entry_erases_may_be_missing(tmp_path, is_sealed):
    log = erasing_log(5, (1, 1), (3, 1))
    if is_sealed:
        sealed_log(log)
    data_dir = log.write(tmp_path / "data")
    assert check_log(data_dir) == []
    assert check_log(data_dir, KEY if is_sealed else None) == []


def test_an_item_that_is_erased_and_still_there_leaves_the_log_sound_unless_it_was_changed(tmp_path):
    log = sound_log(5)
    erase(log, (1, 1))
    assert check_log(log.write(tmp_path / "whole")) == []
    _flip(log.items, row_key(1, 1), -1)
    assert [fault.offset for fault in check_log(log.write(tmp_path / "spoilt"))] == [1]


def test_an_entry_erases_nothing_that_comes_after_it(tmp_path):
    log = sound_log(2)
    erase(log, (3, 1))
    log.append(compact(ACTOR), FACT)
    del log.items[row_key(3, 1)]
    faults = check_log(log.write(tmp_path / "data"))
    assert {fault.offset for fault in faults} == {2, 3}


@pytest.mark.parametrize("claim", SPOILT_ERASURES)
def test_a_spoilt_log_with_an_erasure_is_reported_as(tmp_path, claim):
    log = erasing_log(5, (1, 1))
    SPOILT_ERASURES[claim](log)
    faults = check_log(log.write(tmp_path / "data"))
    assert any(fault.claim.startswith(claim) for fault in faults), faults


@pytest.mark.parametrize("source", SECRETS)
def test_an_encrypted_log_is_sound_with_its_secret_and_without_it(tmp_path, source):
    data_dir = sealed_log(sound_log(5), source).write(tmp_path / "data")
    assert check_log(data_dir) == []
    assert check_log(data_dir, (source, SECRETS[source])) == []
    assert read_log(data_dir, (source, SECRETS[source]))[2].items[1].data == sound_log(3).items[ITEM_2_1][17:]


def _move(log: SampleLog, to: bytes, of: bytes) -> None:
    log.items[to] = log.items[of]


def _reseal(log: SampleLog, *, name: bytes, key: bytes) -> None:
    """Seal an item anew with what it had said, whatever lies under that name."""
    clear = sound_log(5).items[ITEM_2_1]
    log.items[ITEM_2_1] = seal_item(name, key, ITEM_2_1, clear[1:])


def _name(log: SampleLog, place: bytes) -> bytes:
    return log.items[place][1:17]


def _rename(log: SampleLog) -> None:
    row = log.items[ITEM_2_1]
    log.items[ITEM_2_1] = row[:1] + _name(log, row_key(3, 1)) + row[17:]


def _seal_anew_with_other_words(log: SampleLog) -> None:
    log.items[row_key(2, 0)] = seal_item(OWN_NAME, sha256(b"own").digest(), row_key(2, 0), bytes(16) + compact(ACTOR))


# What only whoever has the secret can tell.
SPOILT_SEALS = {
    "items: 1 does not open": lambda log: _flip(log.items, ITEM_2_1, -1),
    "items: 1 does not open (nonce)": lambda log: _flip(log.items, ITEM_2_1, 17),
    "items: 1 does not open (moved)": lambda log: _move(log, ITEM_2_1, row_key(3, 1)),
    "items: 0 does not open (moved)": lambda log: _move(log, row_key(2, 0), row_key(3, 0)),
    "items: 1 does not open (renamed)": _rename,
    "items: 1 does not open (other key)": lambda log: _reseal(log, name=_name(log, ITEM_2_1), key=bytes(32)),
    "items: 0 is not what the header commits to": _seal_anew_with_other_words,
    "item_keys: row 00000000000000000000000000000000 does not open": lambda log: _flip(log.item_keys, OWN_NAME, -1),
    "at-rest.key: the secret does not open": lambda log: setattr(
        log, "key_file", log.key_file.replace(b'"source":"key_file"', b'"source":"node_key"')
    ),
    "at-rest.key: there is no key file": lambda log: setattr(log, "key_file", b""),
}
# What can be told without it.
SPOILT_LOCKS = {
    "items: 2 commitments": lambda log: log.items.pop(ITEM_2_1),
    "items: 1 is sealed under no key": lambda log: log.item_keys.pop(_name(log, ITEM_2_1)),
    "items: 1 is sealed under no": lambda log: log.items.update({ITEM_2_1: log.items[ITEM_2_1][:40]}),
    "items: 1 lies in clear": lambda log: log.items.update({ITEM_2_1: sound_log(3).items[ITEM_2_1]}),
    "items: 0 lies encrypted": lambda log: (log.meta.pop(b"at_rest"), log.item_keys.clear()),
    "item_keys: the log is not encrypted": lambda log: log.meta.pop(b"at_rest"),
    "item_keys: the log's own key": lambda log: log.item_keys.pop(OWN_NAME),
    "item_keys: row ": lambda log: log.item_keys.update({b"x" * 16: bytes(71)}),
    "items: 1 has the unknown form": lambda log: log.items.update({ITEM_2_1: b"\x02" + bytes(80)}),
}


@pytest.mark.parametrize("claim", SPOILT_SEALS | SPOILT_LOCKS)
def test_a_spoilt_encrypted_log_is_reported_with_its_secret_as(tmp_path, claim):
    log = sealed_log(sound_log(5))
    (SPOILT_SEALS | SPOILT_LOCKS)[claim](log)
    faults = check_log(log.write(tmp_path / "data"), KEY)
    assert any(fault.claim.startswith(claim.split(" (")[0]) for fault in faults), faults


@pytest.mark.parametrize("claim", SPOILT_LOCKS)
def test_a_spoilt_encrypted_log_is_reported_without_its_secret_as(tmp_path, claim):
    log = sealed_log(sound_log(5))
    SPOILT_LOCKS[claim](log)
    faults = check_log(log.write(tmp_path / "data"))
    assert any(fault.claim.startswith(claim) for fault in faults), faults


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
