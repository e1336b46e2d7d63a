"""The log of a node that erased something, in clear and encrypted, judged by the verifier that shares no code with it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from msgspec import structs

from node.keys import Signer
from tests.clocks import fixed_clock
from tests.independent.sample_log import row_key
from tests.independent.verifier import check_log, read_log
from tests.served import NODE_ID, SEED, Served, config_for, encrypted

ALICE = f"{NODE_ID}/user/alice"
SECRET = ("key_file", b"\x5e" * 32)
Rows = dict[bytes, bytes]


@pytest.fixture(params=["in_clear", "encrypted"])
async def erased(request, tmp_path: Path) -> tuple[Path, dict[str, int], bool]:
    """A copy of the folder of a node that erased one entity; where what stays was said, by whom it is about; if it is encrypted."""
    is_encrypted = request.param == "encrypted"
    config = config_for(tmp_path / "data")
    config = encrypted(config, tmp_path / "data") if is_encrypted else structs.replace(config, at_rest_encryption=False)
    http = await Served(tmp_path / "data", fixed_clock(), Signer.from_seed(SEED), config).start()
    stays = {}
    for name in ("bob", "carol"):
        stays[name] = (await http.write(entity=f"{NODE_ID}/user/{name}"))["log_offset"]
        await http.write(entity=ALICE, relation=f"knows:{name}")
    buried = {"entity_uri": ALICE, "scope": "*", "reason": "asked to be forgotten"}
    (await http.post("/v1/tombstones", buried)).expect(201)
    await http.write(entity=f"{NODE_ID}/user/dave")
    copied = tmp_path / "copy"
    shutil.copytree(http.folder / "log", copied / "log")
    if http.config.at_rest_encryption:
        shutil.copy(http.folder / "at-rest.key", copied)
    await http.closed()
    return copied, stays, http.config.at_rest_encryption


def _change_items(data_dir: Path, change: Callable[[Rows], object]) -> None:
    with lmdb.open(str(data_dir / "log"), max_dbs=16) as environment:
        table = environment.open_db(b"items")
        with environment.begin(db=table, write=True) as transaction:
            rows = {key: bytes(row) for key, row in transaction.cursor()}
            changed = dict(rows)
            change(changed)
            for key in rows.keys() - changed.keys():
                transaction.delete(key)
            for key, row in changed.items():
                transaction.put(key, row)


def _flip_last_bit(rows: Rows, key: bytes) -> None:
    rows[key] = rows[key][:-1] + bytes([rows[key][-1] ^ 1])


async def test_a_log_with_an_erasure_is_sound(erased):
    data_dir, _, is_encrypted = erased
    assert check_log(data_dir) == []
    assert check_log(data_dir, SECRET if is_encrypted else None) == []
    gone = [entry for entry in read_log(data_dir) if len(entry.items) < len(entry.header["items"])]
    assert [sorted(entry.items) for entry in gone] == [[0], [0]]


async def test_an_item_that_is_missing_and_that_no_entry_erases_is_a_fault(erased):
    data_dir, stays, is_encrypted = erased
    _change_items(data_dir, lambda rows: rows.pop(row_key(stays["bob"], 1)))
    for secret in (None, SECRET) if is_encrypted else (None,):
        assert [fault.offset for fault in check_log(data_dir, secret)] == [stays["bob"]]


async def test_an_item_that_was_changed_or_lies_in_another_place_or_under_another_key_is_a_fault(erased):
    data_dir, stays, is_encrypted = erased
    bob, carol = (row_key(stays[name], 1) for name in ("bob", "carol"))
    spoilt = {
        "changed": lambda rows: _flip_last_bit(rows, bob),
        "moved": lambda rows: rows.update({bob: rows[carol], carol: rows[bob]}),
    }
    if is_encrypted:
        spoilt["renamed"] = lambda rows: rows.update({bob: rows[bob][:1] + rows[carol][1:17] + rows[bob][17:]})
    for name, change in spoilt.items():
        copied = data_dir.with_name(name)
        shutil.copytree(data_dir, copied)
        _change_items(copied, change)
        faults = check_log(copied, SECRET if is_encrypted else None)
        expected = {stays["bob"], stays["carol"]} if name == "moved" else {stays["bob"]}
        assert {fault.offset for fault in faults} == expected, name
