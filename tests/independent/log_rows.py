"""The rows of a log as they lie, and its items opened where they are in clear or the secret is known, for verifier.py to judge.

Always: written from docs/log-format.md alone; nothing of node/ or replay/ is imported.

Checks nothing but the keys of items.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import lmdb

from tests.independent.merkle import hash_leaf
from tests.independent.notes import SIGNATURE_BYTES
from tests.independent.sealed import NAME_BYTES, OWN_NAME, SEALED, WRAPPED_BYTES, Secret, item_keys, item_of, items_key

IN_CLEAR = 0
# By name of a table, its rows in order of their keys.
Tables = dict[str, list[tuple[bytes, bytes]]]


@dataclass(frozen=True)
class Item:
    """One part of an event's data as it is stored; `salt` and `data` are empty where it lies encrypted and was not opened."""

    form: int
    salt: bytes
    data: bytes
    row: bytes


@dataclass(frozen=True)
class Entry:
    """One row of `headers` with its items by index. `header` is empty where its bytes are no JSON object."""

    offset: int
    header_bytes: bytes
    signature: bytes
    header: dict[str, object]
    items: dict[int, Item]

    @property
    def leaf_hash(self) -> bytes:
        return hash_leaf(self.header_bytes + self.signature)


@dataclass(frozen=True)
class Keys:
    """What of an encrypted log's table `item_keys` is known: the names that it has, and the keys that the secret opened."""

    names: frozenset[bytes]
    opened: dict[bytes, bytes]


def read_log(data_dir: Path | str, secret: Secret | None = None) -> list[Entry]:
    """All entries as they stand, in order of their keys; nothing is checked."""
    tables = read_tables(data_dir)
    keys, _ = keys_of_items(data_dir, tables, secret)
    return entries_in(tables, keys)


def read_tables(data_dir: Path | str) -> Tables:
    """Every table as rows in order of their keys, all read from one state of the log."""
    names = ["meta", "keys", "headers", "items", "tree"]
    with lmdb.open(str(Path(data_dir) / "log"), readonly=True, create=False, max_dbs=16) as environment:
        with environment.begin() as snapshot:
            names += ["item_keys"] if snapshot.get(b"item_keys") is not None else []
        handles = {name: environment.open_db(name.encode(), create=False) for name in names}
        with environment.begin() as snapshot:
            return {"item_keys": []} | {name: list(snapshot.cursor(db)) for name, db in handles.items()}


def keys_of_items(data_dir: Path | str, tables: Tables, secret: Secret | None) -> tuple[Keys | None, list[str]]:
    """The keys of an encrypted log, None of one in clear; and what is wrong with them."""
    file_key_id, rows = dict(tables["meta"]).get(b"at_rest"), dict(tables["item_keys"])
    if file_key_id is None:
        return None, ["item_keys: the log is not encrypted"] if rows else []
    faults = [
        f"item_keys: row {name.hex()} is no key under a name"
        for name, row in rows.items()
        if len(name) != NAME_BYTES or len(row) != WRAPPED_BYTES
    ]
    faults += [] if OWN_NAME in rows else ["item_keys: the log's own key is missing"]
    faults += [] if len(file_key_id) == 16 else ["meta: at_rest is no id"]
    if secret is None:
        return Keys(frozenset(rows), {}), faults
    try:
        opened, shut = item_keys(rows, items_key(Path(data_dir), file_key_id, secret))
    except ValueError as error:
        return Keys(frozenset(rows), {}), [*faults, f"at-rest.key: {error}"]
    return Keys(frozenset(rows), opened), [*faults, *(f"item_keys: row {name.hex()} does not open" for name in shut)]


def entries_in(tables: Tables, keys: Keys | None) -> list[Entry]:
    items: dict[int, dict[int, Item]] = {}
    for key, value in tables["items"]:
        items.setdefault(int.from_bytes(key[:8]), {})[int.from_bytes(key[8:])] = _item(key, value, keys)
    return [_entry(int.from_bytes(key), value, items) for key, value in tables["headers"]]


def _item(place: bytes, row: bytes, keys: Keys | None) -> Item:
    form, committed = row[0], b""
    if form == IN_CLEAR:
        committed = row[1:]
    elif form == SEALED and keys is not None:
        try:
            committed = item_of(keys.opened, place, row)
        except ValueError:
            committed = b""  # that it does not open is said where the entry is checked
    return Item(form=form, salt=committed[:16], data=committed[16:], row=row)


def _entry(offset: int, value: bytes, items: dict[int, dict[int, Item]]) -> Entry:
    header_bytes, signature = value[:-SIGNATURE_BYTES], value[-SIGNATURE_BYTES:]
    return Entry(offset, header_bytes, signature, compact_object(header_bytes), items.get(offset, {}))


def compact_object(data: bytes) -> dict[str, object]:
    """The JSON object that `data` spells compactly and without repeated members; empty if it does not."""
    try:
        parsed = json.loads(data)
        is_compact = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode() == data
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) and is_compact else {}
