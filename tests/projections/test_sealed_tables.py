"""Encrypted views: they answer, and digest, as those in clear do, and no name or text shows in them."""

from collections.abc import Iterator
from pathlib import Path

import lmdb
import msgspec
import pytest

from node.errors import LogDamaged
from node.events.key_file import FileKey, new_file_key
from node.events.log import Log
from node.projections.base import TableSpec, place_key, text_key
from node.projections.views import Views, table_specs
from tests.at_rest import found_in
from tests.events.logs import write_log
from tests.replay.sound import sound_events


@pytest.fixture
def file_key() -> FileKey:
    return new_file_key()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    write_log(tmp_path / "data", sound_events())
    opened = Log(tmp_path / "data" / "log", is_readonly=True)
    yield opened
    opened.close()


def folded(folder: Path, log: Log, file_key: FileKey | None) -> Views:
    views = Views(folder, file_key=file_key)
    views.fold_forward(log, log.head().size)
    return views


def test_they_hold_what_views_in_clear_hold_and_digest_alike(tmp_path, log, file_key):
    clear, sealed = folded(tmp_path / "clear", log, None), folded(tmp_path / "sealed", log, file_key)

    assert sealed.digests() == clear.digests()
    with clear.begin() as one, sealed.begin() as other:
        for spec in table_specs():
            in_clear = dict(clear.handles.open(spec, one).scan())
            assert dict(sealed.handles.open(spec, other).scan()) == in_clear
    clear.close()
    sealed.close()


def test_no_text_that_a_row_holds_and_no_hash_that_a_key_holds_is_in_the_file(tmp_path, log, file_key):
    clear, sealed = folded(tmp_path / "clear", log, None), folded(tmp_path / "sealed", log, file_key)
    with clear.begin() as txn:
        stored = [(spec, key, row) for spec in table_specs() for key, row in txn.cursor(db=clear.handles[spec.name])]
    clear.close()
    sealed.close()

    content = (tmp_path / "sealed" / "data.mdb").read_bytes()
    spans = [key[start:end] for spec, key, _ in stored for start, end in spec.hashed]
    hashes = {span[at : at + 16] for span in spans for at in range(0, len(span), 16)} - {bytes(16)}
    texts = {text for spec, _, row in stored if row for text in texts_of(spec, row)}

    assert len(hashes) > 100 and len(texts) > 100
    assert [one for one in hashes if one in content] == []
    # The names of tables are the same in every folder.
    names = " ".join(spec.name for spec in table_specs())
    assert found_in(tmp_path / "sealed", {text for text in texts if text not in names}) == []


def texts_of(spec: TableSpec, row: bytes) -> Iterator[str]:
    yield from texts_in(row if spec.row_type is bytes else msgspec.msgpack.decode(row))


def texts_in(value: object) -> Iterator[str]:
    match value:
        case bytes():
            if len(value) > 12 and value.isascii():
                yield value.decode()
        case str() if len(value) >= 8:
            yield value
        case list():
            for member in value:
                yield from texts_in(member)
        case dict():
            for member in value.values():
                yield from texts_in(member)


def test_every_table_that_is_open_holds_nothing_but_places_and_numbers(tmp_path, log):
    clear = folded(tmp_path / "clear", log, None)
    with clear.begin() as txn:
        for spec in (spec for spec in table_specs() if spec.is_open):
            rows = [row for _, row in txn.cursor(db=clear.handles[spec.name])]
            assert spec.row_type is not bytes or all(len(row) <= 12 for row in rows), spec.name
            assert spec.row_type is bytes or not [text for row in rows for text in texts_of(spec, row)], spec.name
    clear.close()


def test_no_table_has_a_hash_in_its_keys_that_it_does_not_declare(tmp_path, log):
    clear = folded(tmp_path / "clear", log, None)
    with clear.begin() as txn:
        for spec in table_specs():
            for key, _ in txn.cursor(db=clear.handles[spec.name]):
                rest = b"".join(key[end:start] for end, start in gaps(spec, len(key)))
                windows = (rest[at : at + 16] for at in range(max(1, len(rest) - 15)))
                # Places, times and numbers repeat their bytes, zeros above all; a hash hardly does.
                assert all(len(set(window)) < 13 for window in windows), (spec.name, rest.hex())
    clear.close()


def gaps(spec: TableSpec, size: int) -> list[tuple[int, int]]:
    ends = [0, *(end for _, end in spec.hashed)]
    starts = [*(start for start, _ in spec.hashed), size]
    return list(zip(ends, starts, strict=True))


@pytest.mark.parametrize("change", ["moved", "flipped"])
def test_a_row_in_another_place_or_changed_is_damage(tmp_path, log, file_key, change):
    folded(tmp_path / "sealed", log, file_key).close()
    with lmdb.open(str(tmp_path / "sealed"), max_dbs=64, map_size=1 << 30) as environment:
        db = environment.open_db(b"facts/by_place", create=False)
        with environment.begin(db=db, write=True) as txn:
            (key, row), (_, other) = list(txn.cursor())[:2]
            txn.put(key, other if change == "moved" else row[:-1] + bytes([row[-1] ^ 1]))

    views = Views(tmp_path / "sealed", file_key=file_key)
    with views.reading() as view, pytest.raises(LogDamaged, match="facts/by_place"):
        list(view.facts.table(next(spec for spec in table_specs() if spec.name == "facts/by_place")).scan())
    views.close()


def test_a_prefix_that_ends_within_a_hash_is_no_prefix(tmp_path, log, file_key):
    views = folded(tmp_path / "sealed", log, file_key)
    spec = next(spec for spec in table_specs() if spec.name == "facts/by_source")

    with views.begin() as txn, pytest.raises(ValueError, match="within what is hashed"):
        list(views.handles.open(spec, txn).scan(b"abc"))
    views.close()


def test_keys_that_begin_alike_still_do_and_places_stay_in_order(tmp_path, file_key):
    views = Views(tmp_path / "views", file_key=file_key)
    spec = next(spec for spec in table_specs() if spec.name == "facts/by_source")
    one, other = text_key("stigmem://a.example/one"), text_key("stigmem://a.example/other")
    keys = [name + place_key((number, 0)) for number in (3, 300, 70_000) for name in (one, other)]
    with views.begin(write=True) as txn:
        table = views.handles.open(spec, txn)
        for key in keys:
            table.put(key, b"")
        table.flush()

        assert [key for key, _ in table.scan(one)] == keys[::2]
        assert [key for key, _ in table.scan(other, after=other + place_key((3, 0)))] == keys[3::2]
        assert [key for key, _ in table.scan_back(one, before=one + place_key((70_000, 0)))] == keys[2::-2]
        assert table.stored_keys(one, 2) == keys[:3:2]
        assert list(table.with_prefixes([one, text_key("nobody")])) == [one]
        table.delete(keys[0])
        assert not table.has(keys[0]) and table.has(keys[2])
    views.close()
