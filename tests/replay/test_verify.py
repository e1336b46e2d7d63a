"""`replay verify`: a sound folder passes, and each kind of damage is named at its first offset."""

import json
import os
import pty
import random
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import lmdb
import pytest
from msgspec import structs

from node.clock import Clock
from node.events.entry import Entry, sign_entry
from node.events.event import NODE_ITSELF
from node.events.facts import FactAsserted
from node.events.identity import RequestRefused
from node.events.log import Log
from node.events.tree import EMPTY_ROOT, Frontier, leaf_hash
from node.projections.views import Views
from replay.chain import Damaged
from replay.verify import WHOLE, Extent, verify
from tests.clocks import fixed_clock
from tests.events.logs import signed, write_log
from tests.events.samples import PEER_SIGNER, SIGNER, fact
from tests.replay.folders import REPOSITORY, Result, edit, files_of, flip, fold, key, make_folder, node, replay
from tests.replay.sound import sound_events

SAMPLES = sound_events()
SIZE = len(SAMPLES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound folder that no test changes."""
    data_dir = tmp_path_factory.mktemp("sound") / "data"
    make_folder(data_dir)
    return data_dir


@pytest.fixture
def data_dir(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound folder, to be spoilt."""
    return Path(shutil.copytree(sound, tmp_path / "data"))


def _roots() -> list[bytes]:
    frontier, roots = Frontier(0, []), [EMPTY_ROOT]
    for entry in signed(SAMPLES, clock=fixed_clock(step_ms=7)):
        frontier.append(entry.leaf)
        roots.append(frontier.root())
    return roots


ROOTS = _roots()


def _assert_damaged(data_dir: Path, offset: int | str, *words: str) -> None:
    found = replay("verify", data_dir)
    assert found.code == 6, found
    assert found.last_line.startswith(f"damaged at offset {offset}: "), found
    assert f"offset {offset}: {found.last_line.partition(': ')[2]}" in found.stderr.splitlines()
    assert all(word in found.last_line for word in words), found.last_line


def test_a_sound_folder_passes_and_its_head_is_the_last_line(sound):
    found = replay("verify", sound)
    assert (found.code, found.stderr) == (0, "")
    assert found.last_line == f"head {SIZE}:{ROOTS[-1].hex()}"
    assert f"views: at {SIZE} of {SIZE} entries, as the log folds to" in found.stdout


def test_verifying_writes_nothing_into_the_folder(sound):
    before = files_of(sound)
    replay("verify", sound)
    assert files_of(sound) == before


def test_a_log_passes_beside_views_that_are_not_there_or_stand_behind(data_dir):
    fold(data_dir, SIZE - 5)
    found = replay("verify", data_dir)
    assert (found.code, found.last_line) == (0, f"head {SIZE}:{ROOTS[-1].hex()}")
    assert f"views: at {SIZE - 5} of {SIZE} entries" in found.stdout
    shutil.rmtree(data_dir / "views")
    assert replay("verify", data_dir).code == 0


def test_a_log_that_extends_the_expected_head_passes(sound):
    for size in (0, 1, 2, SIZE - 1, SIZE):
        found = replay("verify", sound, "--expect-head", f"{size}:{ROOTS[size].hex()}")
        assert (found.code, found.last_line) == (0, f"head {SIZE}:{ROOTS[-1].hex()}")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(f"{SIZE}:{ROOTS[SIZE - 1].hex()}", id="another root at the head"),
        pytest.param(f"3:{ROOTS[4].hex()}", id="another root at an earlier size"),
        pytest.param(f"0:{ROOTS[1].hex()}", id="a root of nothing that is another"),
        pytest.param(f"{SIZE + 1}:{ROOTS[-1].hex()}", id="a longer log"),
    ],
)
def test_a_log_that_does_not_extend_the_expected_head_does_not_pass(sound, head):
    found = replay("verify", sound, "--expect-head", head)
    assert found.code == 6
    assert f"does not extend the expected head {head}" in found.last_line
    assert f"does not extend the expected head {head}" in found.stderr


def test_a_log_cut_at_its_end_passes_alone_and_not_against_the_head_it_had(tmp_path):
    write_log(tmp_path, SAMPLES[:-1])
    assert replay("verify", tmp_path).code == 0
    assert replay("verify", tmp_path, "--expect-head", f"{SIZE}:{ROOTS[-1].hex()}").code == 6


@pytest.mark.parametrize("head", ["", "3", "3:ab", f"-1:{ROOTS[1].hex()}", f"03:{ROOTS[3].hex()}"])
def test_what_is_no_head_is_refused_before_anything_is_read(sound, head):
    found = replay("verify", sound, f"--expect-head={head}")
    assert (found.code, found.stdout) == (2, "")
    assert "a head is SIZE:ROOT" in found.stderr


@pytest.mark.parametrize("kind", ["missing", "empty", "a file", "empty log folder", "no tables"])
def test_a_folder_without_a_log_is_one_line_of_trouble(tmp_path, kind):
    data_dir = tmp_path / "data"
    match kind:
        case "empty":
            data_dir.mkdir()
        case "a file":
            data_dir.write_text("not a folder")
        case "empty log folder":
            (data_dir / "log").mkdir(parents=True)
        case "no tables":
            (data_dir / "log").mkdir(parents=True)
            lmdb.open(str(data_dir / "log")).close()
    for command in ("verify", "rebuild"):
        found = replay(command, data_dir)
        assert (found.code, found.stdout, found.stderr.count("\n")) == (2, "", 1), found
        assert str(data_dir) in found.stderr or "data" in found.stderr


def test_a_log_of_another_format_is_one_line_of_trouble(data_dir):
    edit(data_dir / "log", "meta", lambda txn: txn.put(b"format", b"2"))
    found = replay("verify", data_dir)
    assert (found.code, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert "format b'2'" in found.stderr


_HEADER_BYTES = len(signed(SAMPLES[:8], clock=fixed_clock(step_ms=7))[7].stored) - 64
_SIGNER_ID = bytes.fromhex(SIGNER.key_id)


@pytest.mark.parametrize(
    ("table", "change", "offset", "words"),
    [
        pytest.param("headers", flip(key(7), 1, 0x80), 7, "cannot be read", id="header not JSON"),
        pytest.param("headers", flip(key(7), 5), 7, "layout version", id="header version"),
        pytest.param("headers", flip(key(7), 16), 7, "says offset", id="header offset"),
        pytest.param("headers", flip(key(7), 30), 7, "prev", id="header prev"),
        pytest.param("headers", flip(key(7), _HEADER_BYTES - 5), 7, "signature", id="header commitment"),
        pytest.param("headers", flip(key(7), -1), 7, "signature", id="signature"),
        pytest.param("headers", flip(key(0), -64), 0, "signature", id="signature of the first entry"),
        pytest.param("headers", flip(key(SIZE - 1), -1), SIZE - 1, "signature", id="signature of the last entry"),
        pytest.param("headers", lambda txn: txn.delete(key(7)), 7, "missing", id="entry deleted"),
        pytest.param("headers", lambda txn: txn.delete(key(0)), 0, "missing", id="first entry deleted"),
        pytest.param("headers", lambda txn: txn.delete(key(SIZE - 1)), SIZE - 1, "missing", id="last entry deleted"),
        pytest.param("headers", lambda txn: txn.put(key(SIZE + 3), b"x"), SIZE, "missing", id="entry behind a gap"),
        pytest.param("headers", lambda txn: _swap(txn, key(7), key(9)), 7, "says offset 9", id="entries swapped"),
        pytest.param("headers", lambda txn: txn.put(key(7), b""), 7, "cannot be read", id="entry emptied"),
        pytest.param("items", flip(key(7, 1), 20), 7, "item 1 does not match", id="item content"),
        pytest.param("items", flip(key(7, 1), 3), 7, "item 1 does not match", id="item salt"),
        pytest.param("items", flip(key(7, 0), 0, 0x02), 7, "form", id="item form"),
        pytest.param("items", lambda txn: txn.delete(key(7, 1)), 7, "1 items are stored", id="item deleted"),
        pytest.param("items", lambda txn: txn.put(key(7, 9), b"\x00" * 17), 7, "belongs to no entry", id="item added"),
        pytest.param("items", lambda txn: txn.put(b"x", b""), SIZE, "items", id="item of nothing"),
        pytest.param("items", lambda txn: _swap(txn, key(7, 0), key(7, 1)), 7, "does not match", id="items swapped"),
        pytest.param("tree", flip(node(0, 7), 0), 7, "level 0, index 7", id="leaf hash"),
        pytest.param("tree", flip(node(2, 1), 0), 7, "level 2, index 1", id="inner hash"),
        pytest.param("tree", lambda txn: txn.delete(node(0, 7)), 7, "level 0, index 7", id="leaf hash deleted"),
        pytest.param("tree", lambda txn: txn.put(node(0, SIZE), b"x" * 32), SIZE, "tree", id="hash of no entry"),
        pytest.param("keys", flip(_SIGNER_ID, 0), 0, "is another one", id="public key"),
        pytest.param("keys", lambda txn: txn.delete(_SIGNER_ID), 0, "is missing", id="public key deleted"),
        pytest.param("keys", lambda txn: txn.put(b"k" * 32, b"k" * 32), SIZE, "table of keys", id="key of nobody"),
        pytest.param("meta", lambda txn: txn.put(b"more", b""), SIZE, "table meta", id="row of meta"),
        pytest.param("items", lambda txn: txn.put(b"\x00", b""), 0, "belongs to no entry", id="item before the first"),
        pytest.param("items", lambda txn: txn.put(key(7), b""), 7, "belongs to no entry", id="item without an index"),
        pytest.param("tree", lambda txn: txn.put(b"\xff", b""), SIZE, "tree has rows", id="hash of no place"),
        pytest.param("tree", flip(node(5, 0), 0), 31, "level 5, index 0", id="hash of many"),
    ],
)
def test_damage_to_the_log_is_named_at_its_first_offset(data_dir, table, change, offset, words):
    edit(data_dir / "log", table, change)
    _assert_damaged(data_dir, offset, words)


def test_a_table_more_than_a_log_has_is_named(data_dir):
    with lmdb.open(str(data_dir / "log"), max_dbs=64, map_size=1 << 30) as environment:
        environment.open_db(b"more")
    _assert_damaged(data_dir, SIZE, "no table b'more'")


@pytest.mark.parametrize(
    ("later", "words"),
    [
        pytest.param({"hlc": "1777896000000.000"}, "hlc does not increase", id="hlc goes back"),
        pytest.param({"hlc": "no clock"}, "no hybrid logical clock", id="hlc malformed"),
        pytest.param({"at_ms": 1_777_000_000_000}, "at goes back", id="at goes back"),
        pytest.param({"signer": PEER_SIGNER}, "not this node's", id="signed by another key"),
        pytest.param({"prev": bytes(32)}, "prev is not the leaf hash", id="forked"),
    ],
)
def test_an_entry_soundly_signed_and_out_of_place_is_named(tmp_path, later, words):
    entries = signed(SAMPLES[:7], clock=fixed_clock(step_ms=7))
    entries.append(_entry_behind(entries[-1], **later))
    _write(tmp_path, entries)
    _assert_damaged(tmp_path, 7, words)


def test_an_hlc_is_compared_as_two_numbers(tmp_path):
    entries = signed(SAMPLES[:7], clock=fixed_clock(step_ms=7))
    entries.append(_entry_behind(entries[-1], hlc="1777896900000.999"))
    entries.append(_entry_behind(entries[-1], hlc="1777896900000.1000"))
    _write(tmp_path, entries)
    assert replay("verify", tmp_path).code == 0


def test_an_entry_replaced_by_one_of_another_key_is_named(data_dir):
    old = signed(SAMPLES, clock=fixed_clock(step_ms=7))
    forged = _entry_behind(old[6], signer=PEER_SIGNER)
    edit(data_dir / "log", "keys", lambda txn: txn.put(bytes.fromhex(PEER_SIGNER.key_id), PEER_SIGNER.public_key))
    edit(data_dir / "log", "headers", lambda txn: txn.put(key(7), forged.stored))
    for index, item in enumerate(forged.items):
        row = b"\x00" + item.salt + item.content
        edit(data_dir / "log", "items", partial(_put, key(7, index), row))
    _assert_damaged(data_dir, 7, "not this node's")


def test_a_whole_log_forged_under_another_key_is_named_at_its_first_entry(tmp_path):
    _write(tmp_path, signed(SAMPLES, clock=fixed_clock(step_ms=7), signer=PEER_SIGNER))
    _assert_damaged(tmp_path, 0, "another key")


def test_a_log_that_does_not_begin_with_the_birth_of_its_node_is_named(tmp_path):
    _write(tmp_path, signed(SAMPLES[1:], clock=fixed_clock(step_ms=7)))
    _assert_damaged(tmp_path, 0, "node.created.1")


def test_an_entry_that_no_node_would_have_logged_is_named_when_it_cannot_be_folded(tmp_path):
    foreign = fact(1, seal=None, hlc="no clock", source="stigmem://elsewhere.example/agent")
    write_log(tmp_path, [*SAMPLES[:7], FactAsserted(judgement=None, fact=foreign), *SAMPLES[7:]])
    _assert_damaged(tmp_path, 7, "cannot be folded")


@pytest.mark.parametrize("is_torn", [False, True], ids=["a row", "the file"])
def test_what_only_the_fold_sees_of_the_log_comes_before_damaged_views(tmp_path, is_torn):
    write_log(tmp_path, SAMPLES[:7])
    fold(tmp_path, 7)
    live = _live_views(tmp_path)
    if is_torn:
        (live / "data.mdb").write_bytes((live / "data.mdb").read_bytes()[:8192] + b"\xff" * 65536)
    else:
        edit(live, "identity/birth", lambda txn: [txn.put(at, b"\xc1" + row) for at, row in list(txn.cursor())])
    before = [_verified(tmp_path, workers=workers)[0] for workers in (1, 2)]
    assert before[0] == before[1] and "live views" in before[0][1]
    shutil.rmtree(tmp_path / "log")
    foreign = fact(1, seal=None, hlc="no clock", source="stigmem://elsewhere.example/agent")
    write_log(tmp_path, [*SAMPLES[:7], FactAsserted(judgement=None, fact=foreign), *SAMPLES[7:]])

    found = [_verified(tmp_path, workers=workers)[0] for workers in (1, 2)]

    assert found[0] == found[1]
    assert (found[0][0], "cannot be folded" in found[0][1]) == (7, True)


def test_an_entry_gone_from_the_end_is_noticed_by_the_views_that_hold_it(data_dir, tmp_path):
    write_log(tmp_path / "shorter", SAMPLES[:-1])
    shutil.rmtree(data_dir / "log")
    shutil.move(tmp_path / "shorter" / "log", data_dir / "log")
    _assert_damaged(data_dir, SIZE - 1, f"views hold {SIZE} entries, the log {SIZE - 1}")


def test_views_folded_from_another_log_are_named(data_dir, tmp_path):
    other = signed([*SAMPLES[:-1], _refusal()], clock=fixed_clock(step_ms=7))
    _write(tmp_path / "other", other)
    shutil.rmtree(data_dir / "log")
    shutil.move(tmp_path / "other" / "log", data_dir / "log")
    _assert_damaged(data_dir, SIZE - 1, "another entry")


@pytest.mark.parametrize(
    ("table", "projection", "change"),
    [
        pytest.param("facts/by_place", "facts", lambda row: row.replace(b"crm", b"cfo"), id="row changed"),
        pytest.param("facts/by_id", "facts", None, id="row deleted"),
        pytest.param("peers/by_node_id", "peers", lambda row: b"\xc1" + row, id="row unreadable"),
        pytest.param(
            "gardens/held", "gardens", lambda row: row.replace(b"promoted", b"rejected"), id="decision changed"
        ),
    ],
)
def test_a_changed_row_of_the_views_is_named_with_its_projection(data_dir, table, projection, change):
    def change_first(txn: lmdb.Transaction) -> None:
        for at, row in txn.cursor():
            if change is None or change(row) != row:
                _ = txn.delete(at) if change is None else txn.put(at, change(row))
                return
        raise LookupError("no row to change")

    edit(_live_views(data_dir), table, change_first)
    _assert_damaged(data_dir, SIZE - 1, f"views of {projection} are not", "replay rebuild")
    assert replay("rebuild", data_dir).code == 0
    assert replay("verify", data_dir).code == 0


def test_views_of_another_version_are_not_compared(data_dir):
    current = data_dir / "views" / "CURRENT"
    current.write_text(current.read_text().replace('"facts":', '"facts":9'))
    found = replay("verify", data_dir)
    assert found.code == 0
    assert "of another version" in found.stdout


@pytest.mark.parametrize("kept_bytes", [0, 1, 100, 4096, 8192, 12288, 40960])
def test_a_log_file_cut_short_is_damage_and_no_crash(data_dir, kept_bytes):
    file = data_dir / "log" / "data.mdb"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    found = replay("verify", data_dir)
    assert found.code == 6, found
    assert "the file is damaged" in found.last_line


@pytest.mark.parametrize("twelfth", range(12))
def test_a_page_of_noise_anywhere_in_the_log_file_is_damage_or_was_free(data_dir, twelfth):
    file = data_dir / "log" / "data.mdb"
    content = bytearray(file.read_bytes())
    pages = len(content) // 4096
    page = twelfth if twelfth < 2 else twelfth * pages // 12
    content[page * 4096 : page * 4096 + 4096] = random.Random(twelfth).randbytes(4096)
    file.write_bytes(content)
    found = replay("verify", data_dir)
    is_unharmed = found.code == 0 and found.last_line == f"head {SIZE}:{ROOTS[-1].hex()}"
    assert found.last_line.startswith("damaged at offset ") == (found.code == 6)
    assert found.code == 6 or (is_unharmed and page >= 2), found


def test_a_file_of_noise_is_damage_and_no_crash(data_dir):
    (data_dir / "log" / "data.mdb").write_bytes(random.Random(1).randbytes(200_000))
    _assert_damaged(data_dir, 0, "the file is damaged")


def test_noise_in_the_file_of_the_views_is_damage_and_no_crash(data_dir):
    file = _live_views(data_dir) / "data.mdb"
    content = bytearray(file.read_bytes())
    content[8192:] = random.Random(1).randbytes(len(content) - 8192)
    file.write_bytes(content)
    _assert_damaged(data_dir, "unknown", "live views", "replay rebuild")
    assert replay("rebuild", data_dir).code == 0
    assert replay("verify", data_dir).code == 0


def test_folding_afresh_to_any_size_gives_what_folding_on_gave_there(sound, tmp_path):
    log, onward = Log(sound / "log", is_readonly=True), Views(tmp_path / "onward")
    for size in range(SIZE + 1):
        onward.fold_forward(log, size)
        afresh = Views(tmp_path / str(size))
        afresh.fold_forward(log, size)
        assert (afresh.checkpoint(), afresh.digests()) == (onward.checkpoint(), onward.digests()), size
        afresh.close()
    onward.close()
    log.close()


@pytest.mark.parametrize("padding_bytes", [0, 40_000_000], ids=["short", "longer to copy than to append to"])
def test_a_log_that_is_written_to_meanwhile_passes(tmp_path, padding_bytes):
    clock, log = fixed_clock(step_ms=1), Log(tmp_path / "log")
    padding = RequestRefused(code="example", detail="x" * padding_bytes, subject="GET /")
    head = log.append(0, signed([SAMPLES[0], padding], clock=clock))
    verifying = partial(replay, "verify", tmp_path)
    for _ in range(3):
        found = _while_appending(log, clock, verifying)
        assert found.code == 0, found
        assert int(found.last_line.removeprefix("head ").split(":")[0]) >= head.size
        head = log.head()
    log.close()


def _while_appending(log: Log, clock: Clock, verifying: Callable[[], Result]) -> Result:
    """Run `verifying` in a thread, and append entry after entry until it is done."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(verifying)
        while not result.done():
            log.append(log.head().size, signed([_refusal()], log.head(), clock=clock))
    return result.result()


def _refusal() -> RequestRefused:
    return RequestRefused(code="example", detail="", subject="GET /")


def _entry_behind(before: Entry, **changed: object) -> Entry:
    members = {
        "offset": before.offset + 1,
        "prev": before.leaf,
        "hlc": "1777896900000.000",
        "at_ms": 1_777_896_900_000,
        "signer": SIGNER,
        "salts": bytes(32),
    }
    return sign_entry(_refusal(), NODE_ITSELF, **(members | changed))


def _write(data_dir: Path, entries: list[Entry]) -> None:
    log = Log(data_dir / "log")
    log.append(0, entries)
    log.close()


def _put(at: bytes, row: bytes, txn: lmdb.Transaction) -> None:
    txn.put(at, row)


def _swap(txn: lmdb.Transaction, one: bytes, other: bytes) -> None:
    first, second = txn.get(one), txn.get(other)
    txn.put(one, second)
    txn.put(other, first)


def _live_views(data_dir: Path) -> Path:
    return next(path for path in (data_dir / "views").iterdir() if path.is_dir())


def _verified(data_dir: Path, extent: Extent = WHOLE, workers: int = 1) -> tuple[object, list[str]]:
    """What `verify` found, as something to compare, and what it noted."""
    notes: list[str] = []
    try:
        return verify(data_dir, None, notes.append, extent=extent, workers=workers), notes
    except Damaged as damage:
        return (damage.offset, damage.words), notes


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of several stretches, without views; no test changes it."""
    data_dir = tmp_path_factory.mktemp("long")
    write_log(data_dir, [SAMPLES[0], *[_refusal()] * 2599])
    return data_dir


def test_any_number_of_workers_finds_the_same(long):
    assert _verified(long, workers=1)[0].size == 2600
    assert _verified(long, workers=1) == _verified(long, workers=2) == _verified(long, workers=5)


@pytest.mark.parametrize(
    ("damages", "offset"),
    [
        pytest.param(
            [("headers", 2500, -1), ("items", 1100, 20), ("headers", 1500, -1)], 1100, id="in three stretches"
        ),
        pytest.param([("headers", 1024, -1), ("headers", 1023, -1)], 1023, id="at a border"),
        pytest.param([("items", 1030, 20), ("headers", 1031, -1)], 1030, id="in one stretch, the later check first"),
    ],
)
def test_the_first_of_several_bad_offsets_is_named_by_any_number_of_workers(long, tmp_path, damages, offset):
    data_dir = Path(shutil.copytree(long, tmp_path / "data"))
    for table, at, index in damages:
        edit(data_dir / "log", table, flip(key(at, 0 if table == "items" else None), index))
    found = [_verified(data_dir, workers=workers)[0] for workers in (1, 2, 5)]
    assert [one[0] for one in found] == [offset] * 3
    assert len(set(found)) == 1


@pytest.mark.parametrize("span", [(0, 1), (1, 2), (7, 2600), (1023, 1025), (1024, 2048), (1, 2599), (2599, 2600)])
def test_any_range_of_a_sound_log_holds(long, span):
    for is_quick in (False, True):
        found, notes = _verified(long, Extent(*span, is_quick))
        assert found.size == 2600
        assert f"entries {span[0]} to {span[1] - 1} of 2600" in notes[0]
        assert any(line.startswith("not checked: the other entries") for line in notes)


def test_a_range_finds_what_lies_in_it_and_nothing_else(long, tmp_path):
    data_dir = Path(shutil.copytree(long, tmp_path / "data"))
    edit(data_dir / "log", "items", flip(key(1500, 0), 20))
    edit(data_dir / "log", "tree", flip(node(3, 200), 0))
    assert _verified(data_dir, Extent(0, 1500))[0].size == 2600
    assert _verified(data_dir, Extent(1501, 1607))[0].size == 2600
    assert _verified(data_dir, Extent(1500, 1501))[0][0] == 1500
    assert _verified(data_dir, Extent(1501, 1608))[0] == (
        1607,
        "the tree's hash at level 3, index 200 is not that of its entries",
    )


def test_a_range_behind_an_entry_that_was_replaced_does_not_hold(long, tmp_path):
    data_dir = Path(shutil.copytree(long, tmp_path / "data"))
    edit(data_dir / "log", "headers", flip(key(1499), -1))
    assert _verified(data_dir, Extent(1500, 1501))[0] == (1500, "prev is not the leaf hash of the entry before")


@pytest.mark.parametrize(
    "options",
    [["--from", str(SIZE)], ["--to", str(SIZE + 1)], ["--from", "3", "--to", "3"], ["--from", "4", "--to", "3"]],
)
def test_a_range_that_the_log_does_not_have_is_one_line_of_trouble(sound, options):
    found = replay("verify", sound, *options)
    assert (found.code, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert f"the log has {SIZE} entries" in found.stderr


@pytest.mark.parametrize("options", [["--from", "-1"], ["--to", "x"], ["--workers", "0"], ["--workers", "1000"]])
def test_what_is_no_number_is_refused_before_anything_is_read(sound, options):
    found = replay("verify", sound, *options)
    assert (found.code, found.stdout) == (2, "")


def test_quick_finds_a_broken_chain_a_broken_tree_and_a_bad_last_signature(long, tmp_path):
    for number, (table, change, offset) in enumerate(
        (
            ("headers", flip(key(1500), 40), 1500),
            ("headers", flip(key(1500), -1), 1500),
            ("tree", flip(node(0, 1500), 0), 1500),
            ("tree", flip(node(11, 0), 0), 2047),
            ("headers", lambda txn: txn.delete(key(1500)), 1500),
            ("headers", flip(key(0), -1), 0),
        )
    ):
        data_dir = Path(shutil.copytree(long, tmp_path / str(number)))
        edit(data_dir / "log", table, change)
        assert _verified(data_dir, Extent(is_quick=True))[0][0] == offset


def test_quick_finds_that_the_last_entry_is_not_signed_as_it_was(tmp_path):
    entries = signed(SAMPLES[:7], clock=fixed_clock(step_ms=7))
    stored = entries[-1].stored[:-1] + bytes([entries[-1].stored[-1] ^ 1])
    _write(tmp_path, [*entries[:-1], structs.replace(entries[-1], stored=stored, leaf=leaf_hash(stored))])
    assert _verified(tmp_path, Extent(is_quick=True))[0] == (6, "the signature does not verify")


def test_quick_says_what_it_did_not_look_at(sound):
    found = replay("verify", sound, "--quick")
    assert (found.code, found.last_line) == (0, f"head {SIZE}:{ROOTS[-1].hex()}")
    assert "not checked: each entry's own signature, items" in found.stdout


@pytest.mark.parametrize("kept_bytes", [8192, 12288, 20480, 40960])
def test_quick_survives_a_file_cut_short_under_it(data_dir, kept_bytes):
    file = data_dir / "log" / "data.mdb"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    found = replay("verify", data_dir, "--quick")
    assert found.code in (2, 6), found
    assert found.stderr.count("\n") == 1


def test_the_whole_answer_is_one_json_document_where_it_is_asked_for(sound, data_dir, tmp_path):
    found = replay("verify", sound, "--json", "--from", "3")
    answer = json.loads(found.stdout)
    assert (found.code, found.stderr) == (0, "")
    assert {name: answer[name] for name in answer if name != "notes"} == {
        "result": "sound",
        "data_dir": str(sound),
        "snapshot": None,
        "from": 3,
        "to": None,
        "quick": False,
        "size": SIZE,
        "root": ROOTS[-1].hex(),
        "offset": None,
        "problem": None,
    }
    edit(data_dir / "log", "headers", flip(key(7), -1))
    found = replay("verify", data_dir, "--json")
    answer = json.loads(found.stdout)
    assert (found.code, answer["result"], answer["offset"]) == (6, "damaged", 7)
    assert answer["problem"] == "the signature does not verify"
    found = replay("verify", sound, "--json", "--expect-head", f"3:{ROOTS[4].hex()}")
    assert (found.code, json.loads(found.stdout)["result"]) == (6, "not_extended")
    found = replay("verify", tmp_path, "--json")
    assert (found.code, json.loads(found.stdout)["result"]) == (2, "not_done")


def test_a_terminal_sees_how_far_it_is_and_nobody_else_does(long):
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "replay", "verify", "--data-dir", str(long)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, cwd=REPOSITORY) as process:
        os.close(slave)
        seen = b""
        while b"entries/s" not in seen and select.select([master], [], [], 20)[0]:
            seen += os.read(master, 4096)
        out, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 0
    assert out.splitlines()[-1].startswith(b"head 2600:")
    assert replay("verify", long).stderr == ""
