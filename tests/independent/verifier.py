"""A second reader of the log, written from docs/log-format.md and PROTOCOL §10 alone.

Always: nothing of node/ or replay/ is imported here or below, so a mistake made there is not repeated here.
A fault is reported, never repaired, and checking goes on to the end: `check_log` answers with all faults, or none.

Of an encrypted log without its secret it checks what can be told of rows that do not open: that each is there and has the form
and the name of one. With it, every item is opened.

Does not check: what the events say (an item's members), seals and attestations inside items, or the views.

Use: `python -m tests.independent.verifier DATA_DIR [KEY_FILE]` prints the faults, then size and root; KEY_FILE is that of
STIGMEM_AT_REST_KEY_FILE. While a node in this process has the folder open, run it as a process of its own: LMDB allows one handle
on an environment per process.
"""

import base64
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tests.independent.log_rows import (
    IN_CLEAR,
    Entry,
    Item,
    Keys,
    Tables,
    compact_object,
    entries_in,
    keys_of_items,
    read_log,
    read_tables,
)
from tests.independent.merkle import (
    check_consistency,
    check_inclusion,
    consistency_proof,
    hash_children,
    inclusion_proof,
    root_of,
)
from tests.independent.notes import EVENT_PREFIX, check_log_entry, is_signed_by, parse_checkpoint
from tests.independent.sealed import NAME_BYTES, SEALED, SHORTEST_ROW, Secret

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
VIAS = ("node", "admin", "anonymous", "capability", "peer", "key")
ERASING_TYPE, PLACES_ITEM, PLACE_BYTES = "entity.erased.1", 2, 20
HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
HLC = re.compile(r"\d{13}\.\d{3}", re.ASCII)
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
TYPE = re.compile(r"[a-z][a-z_]*(\.[a-z_]+)+\.[1-9]\d*", re.ASCII)


@dataclass(frozen=True)
class Fault:
    """Something that the format rules out. `offset` is None where it belongs to no entry."""

    offset: int | None
    claim: str


# By offset, the items of the entry there that a later one erases.
Erased = dict[int, set[int]]


def check_log(data_dir: Path | str, secret: Secret | None = None) -> list[Fault]:
    """Everything that is wrong with the log in `data_dir`; empty when it is sound."""
    tables = read_tables(data_dir)
    item_keys, key_faults = keys_of_items(data_dir, tables, secret)
    entries, keys = entries_in(tables, item_keys), dict(tables["keys"])
    faults = [Fault(None, claim) for claim in (*key_faults, *_table_faults(tables, keys, entries))]
    erased = _erased(entries)
    before: Entry | None = None
    for position, entry in enumerate(entries):
        claims = list(_header_faults(entry)) or [
            *_item_faults(entry, item_keys, erased.get(entry.offset, set())),
            *_places_faults(entry),
            *_chain_faults(entry, before, position),
            *_signature_faults(entry, keys),
        ]
        faults += [Fault(entry.offset, claim) for claim in claims]
        before = entry
    return faults


def _erased(entries: list[Entry]) -> Erased:
    """What entries that are themselves whole say is erased: of entries before them, and never an actor."""
    erased: Erased = {}
    for entry in entries:
        for offset, index in _places(entry) or ():
            if offset < entry.offset and index > 0:
                erased.setdefault(offset, set()).add(index)
    return erased


def _places(entry: Entry) -> list[tuple[int, int]] | None:
    """Offset and item of each place that an entry erases; None where it cannot be told."""
    item, commitments = entry.items.get(PLACES_ITEM), entry.header.get("items")
    if entry.header.get("type") != ERASING_TYPE:
        return []
    if item is None or item.form != IN_CLEAR or not isinstance(commitments, list):
        return None
    if commitments[PLACES_ITEM : PLACES_ITEM + 1] != [sha256(item.salt + item.data).hexdigest()]:
        return None
    try:
        packed = base64.b64decode(item.data, validate=True)
    except ValueError:
        return None
    if len(packed) % PLACE_BYTES:
        return None
    rows = (packed[at : at + PLACE_BYTES] for at in range(0, len(packed), PLACE_BYTES))
    return [(int.from_bytes(row[:8]), int.from_bytes(row[8:12])) for row in rows]


def _table_faults(tables: Tables, keys: dict[bytes, bytes], entries: list[Entry]) -> Iterator[str]:
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


def _item_faults(entry: Entry, keys: Keys | None, erased: set[int]) -> Iterator[str]:
    commitments = list(entry.header["items"])
    # An item that is erased may still lie there: its entry comes first, then its row goes.
    missing = set(range(len(commitments))) - entry.items.keys() - erased
    if missing or entry.items.keys() - set(range(len(commitments))):
        yield f"items: {len(commitments)} commitments, rows {sorted(entry.items)}, erased {sorted(erased)}"
    for index, item in entry.items.items():
        if (fault := _form_fault(entry, index, item, keys)) is not None:
            yield f"items: {index} {fault}"
        elif _is_read(item, keys) and sha256(item.salt + item.data).hexdigest() not in commitments[index : index + 1]:
            yield f"items: {index} is not what the header commits to"
    actor = entry.items.get(0)
    if actor is None or (_is_read(actor, keys) and not _is_actor(actor.data)):
        yield "items: 0 is not an actor"


def _form_fault(entry: Entry, index: int, item: Item, keys: Keys | None) -> str | None:
    """What is wrong with the form of an item, for a log that is encrypted, or is not."""
    is_list_of_places = entry.header["type"] == ERASING_TYPE and index == PLACES_ITEM
    if item.form not in (IN_CLEAR, SEALED):
        return f"has the unknown form {item.form}"
    if (item.form == SEALED) != (keys is not None and not is_list_of_places):
        return (
            "lies encrypted where it must be in clear" if item.form == SEALED else "lies in clear in an encrypted log"
        )
    if item.form == IN_CLEAR or keys is None:
        return None
    if len(item.row) < SHORTEST_ROW or item.row[1 : 1 + NAME_BYTES] not in keys.names:
        return "is sealed under no key of this log"
    return "does not open" if keys.opened and not item.salt else None


def _is_read(item: Item, keys: Keys | None) -> bool:
    return item.form == IN_CLEAR or (keys is not None and bool(keys.opened))


def _places_faults(entry: Entry) -> Iterator[str]:
    places = _places(entry)
    if places is None:
        yield "erased: item 2 is not the list of places that the header commits to"
        return
    for offset, index in places:
        if not index > 0 or not offset < entry.offset:
            yield f"erased: item {index} of {offset} is none that may be erased here"


def _is_actor(data: bytes) -> bool:
    actor = compact_object(data)
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


def main(data_dir: str, key_file: str | None = None) -> int:
    secret = None if key_file is None else ("key_file", bytes.fromhex(Path(key_file).read_text()))
    faults = check_log(data_dir, secret)
    for fault in faults:
        print(f"{'log' if fault.offset is None else fault.offset}: {fault.claim}")
    leaves = [entry.leaf_hash for entry in read_log(data_dir)]
    print(f"size {len(leaves)} root {root_of(leaves).hex()} faults {len(faults)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
