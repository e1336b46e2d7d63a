"""A second reader of the log, written from docs/log-format.md and PROTOCOL §10 alone.

Always: nothing of node/ or replay/ is imported here or below, so a mistake made there is not repeated here.
A fault is reported, never repaired, and checking goes on to the end: `check_log` answers with all faults, or none.

Does not check: what the events say (an item's members), seals and attestations inside items, or the views.

Use: `python -m tests.independent.verifier DATA_DIR` prints the faults, then size and root. While a node in this process
has the folder open, run it as a process of its own: LMDB allows one handle on an environment per process.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import lmdb

from tests.independent.merkle import (
    check_consistency,
    check_inclusion,
    consistency_proof,
    hash_children,
    hash_leaf,
    inclusion_proof,
    root_of,
)
from tests.independent.notes import EVENT_PREFIX, SIGNATURE_BYTES, check_log_entry, is_signed_by, parse_checkpoint

__all__ = [
    "Entry",
    "Fault",
    "Item",
    "check_consistency",
    "check_inclusion",
    "check_log",
    "check_log_entry",
    "consistency_proof",
    "inclusion_proof",
    "parse_checkpoint",
    "read_log",
    "root_of",
]

HEADER_MEMBERS = ("v", "offset", "prev", "hlc", "at", "type", "key_id", "items")
ACTOR_MEMBERS = ("principal", "via", "credential", "idempotency_key", "trace_id")
VIAS = ("node", "admin", "anonymous", "capability", "peer")
IN_CLEAR = 0
FORMS = (IN_CLEAR, 1, 2)
HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
HLC = re.compile(r"\d{13}\.\d{3}", re.ASCII)
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
TYPE = re.compile(r"[a-z][a-z_]*(\.[a-z_]+)+\.[1-9]\d*", re.ASCII)


@dataclass(frozen=True)
class Item:
    """One part of an event's data as it is stored."""

    form: int
    salt: bytes
    data: bytes


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
class Fault:
    """Something that the format rules out. `offset` is None where it belongs to no entry."""

    offset: int | None
    claim: str


def read_log(data_dir: Path | str) -> list[Entry]:
    """All entries as they stand, in order of their keys; nothing is checked."""
    tables = _tables(data_dir)
    items: dict[int, dict[int, Item]] = {}
    for key, value in tables["items"]:
        offset, index = int.from_bytes(key[:8]), int.from_bytes(key[8:])
        items.setdefault(offset, {})[index] = Item(form=value[0], salt=value[1:17], data=value[17:])
    return [_entry(int.from_bytes(key), value, items) for key, value in tables["headers"]]


def check_log(data_dir: Path | str) -> list[Fault]:
    """Everything that is wrong with the log in `data_dir`; empty when it is sound."""
    tables, entries = _tables(data_dir), read_log(data_dir)
    keys = dict(tables["keys"])
    faults = [Fault(None, claim) for claim in _table_faults(tables, keys, entries)]
    before: Entry | None = None
    for position, entry in enumerate(entries):
        claims = list(_header_faults(entry)) or [
            *_item_faults(entry),
            *_chain_faults(entry, before, position),
            *_signature_faults(entry, keys),
        ]
        faults += [Fault(entry.offset, claim) for claim in claims]
        before = entry
    return faults


def _tables(data_dir: Path | str) -> dict[str, list[tuple[bytes, bytes]]]:
    """Every table as rows in order of their keys, all read from one state of the log."""
    names = ("meta", "keys", "headers", "items", "tree")
    with lmdb.open(str(Path(data_dir) / "log"), readonly=True, create=False, max_dbs=16) as environment:
        handles = {name: environment.open_db(name.encode(), create=False) for name in names}
        with environment.begin() as snapshot:
            return {name: list(snapshot.cursor(db)) for name, db in handles.items()}


def _entry(offset: int, value: bytes, items: dict[int, dict[int, Item]]) -> Entry:
    header_bytes, signature = value[:-SIGNATURE_BYTES], value[-SIGNATURE_BYTES:]
    return Entry(offset, header_bytes, signature, _object(header_bytes), items.get(offset, {}))


def _object(data: bytes) -> dict[str, object]:
    """The JSON object that `data` spells compactly and without repeated members; empty if it does not."""
    try:
        parsed = json.loads(data)
        is_compact = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode() == data
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) and is_compact else {}


def _table_faults(
    tables: dict[str, list[tuple[bytes, bytes]]], keys: dict[bytes, bytes], entries: list[Entry]
) -> Iterator[str]:
    if dict(tables["meta"]).get(b"format") != b"1":
        yield "meta: format is not 1"
    for key_id, public_key in keys.items():
        if len(public_key) != 32 or sha256(public_key).digest() != key_id:
            yield f"keys: {key_id.hex()} is not the hash of its key"
    offsets = {entry.offset for entry in entries}
    for key, value in tables["items"]:
        if len(key) != 12 or len(value) < 17 or int.from_bytes(key[:8]) not in offsets:
            yield f"items: row {key.hex()} belongs to no entry or is too short"
    yield from _tree_faults(dict(tables["tree"]), [entry.leaf_hash for entry in entries])


def _tree_faults(stored: dict[bytes, bytes], leaves: list[bytes]) -> Iterator[str]:
    expected = {}
    level, hashes = 0, leaves
    while hashes:
        expected |= {level.to_bytes(1) + i.to_bytes(8): h for i, h in enumerate(hashes)}
        # zip drops an odd last one: it is no complete subtree of the next level.
        hashes = [hash_children(a, b) for a, b in zip(hashes[::2], hashes[1::2], strict=False)]
        level += 1
    for key in sorted(stored.keys() | expected.keys()):
        if stored.get(key) != expected.get(key):
            yield f"tree: row {key.hex()} is not the hash of its subtree"


def _header_faults(entry: Entry) -> Iterator[str]:
    header = entry.header
    if tuple(header) != HEADER_MEMBERS:
        yield "header: not compact JSON of the eight members in their order"
        return
    if header["v"] != 1 or isinstance(header["v"], bool):
        yield "header: v is not 1"
    if type(header["offset"]) is not int:
        yield "header: offset is not an integer"
    forms = {"prev": HASH, "key_id": HASH, "hlc": HLC, "at": INSTANT, "type": TYPE}
    for name, form in forms.items():
        if not isinstance(header[name], str) or not form.fullmatch(header[name]):
            yield f"header: {name} has another form"
    items = header["items"]
    if not isinstance(items, list) or not all(isinstance(i, str) and HASH.fullmatch(i) for i in items):
        yield "header: items is not a list of hashes"


def _item_faults(entry: Entry) -> Iterator[str]:
    commitments = list(entry.header["items"])
    if sorted(entry.items) != list(range(len(commitments))):
        yield f"items: {len(commitments)} commitments, rows {sorted(entry.items)}"
    for index, item in entry.items.items():
        if item.form not in FORMS:
            yield f"items: {index} has the unknown form {item.form}"
        if item.form == IN_CLEAR and sha256(item.salt + item.data).hexdigest() not in commitments[index : index + 1]:
            yield f"items: {index} is not what the header commits to"
    actor = entry.items.get(0)
    if actor is None or (actor.form == IN_CLEAR and not _is_actor(actor.data)):
        yield "items: 0 is not an actor"


def _is_actor(data: bytes) -> bool:
    actor = _object(data)
    texts = [v for k, v in actor.items() if k != "via"]
    return (
        tuple(actor) == ACTOR_MEMBERS and actor["via"] in VIAS and all(v is None or isinstance(v, str) for v in texts)
    )


def _chain_faults(entry: Entry, before: Entry | None, position: int) -> Iterator[str]:
    header = entry.header
    if not entry.offset == header["offset"] == position:
        yield f"chain: offset {header['offset']} in row {entry.offset} at position {position}"
    if header["prev"] != ("0" * 64 if before is None else before.leaf_hash.hex()):
        yield "chain: prev is not the leaf hash of the entry before"
    if before is None:
        return
    if not str(header["hlc"]) > str(before.header.get("hlc", "")):
        yield "chain: hlc does not increase"
    if not str(header["at"]) >= str(before.header.get("at", "")):
        yield "chain: at decreases"


def _signature_faults(entry: Entry, keys: dict[bytes, bytes]) -> Iterator[str]:
    public_key = keys.get(bytes.fromhex(str(entry.header["key_id"])))
    if public_key is None:
        yield "signature: its key is not in keys"
    elif not is_signed_by(public_key, entry.signature, EVENT_PREFIX + entry.header_bytes):
        yield "signature: does not verify"


def main(data_dir: str) -> int:
    faults = check_log(data_dir)
    for fault in faults:
        print(f"{'log' if fault.offset is None else fault.offset}: {fault.claim}")
    leaves = [entry.leaf_hash for entry in read_log(data_dir)]
    print(f"size {len(leaves)} root {root_of(leaves).hex()} faults {len(faults)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
