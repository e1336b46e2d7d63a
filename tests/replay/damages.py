"""What can go wrong with a data folder, each done to a sound one behind the node's back, and where it is to be named.

Always: the log has `SIZE` entries, of which the one at `AT` asserts a fact. What needs the node's key is done without it.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import lmdb

from node.events.entry import Entry
from node.events.event import Event
from node.events.facts import Fact, FactAsserted
from node.events.identity import NodeCreated
from node.events.log import Head, Log
from node.events.log_file import DATA_FILE, structural_problem
from node.keys import Signer
from tests.clocks import START_MS, fixed_clock
from tests.events.logs import signed
from tests.events.samples import NODE_ID, PEER_SIGNER, SIGNER
from tests.replay.folders import edit, flip, fold, key, node
from tests.replay.sound import sound_fact

SIZE, AT = 60, 20
_PAGE_BYTES = 4096
_SIGNER_ID = bytes.fromhex(SIGNER.key_id)

Do = Callable[[Path], object]


# What a command says of a damage: the offset that it names; or that something is wrong, and not where; or nothing, because it
# gives or checks only what is sound all the same.
SOMEWHERE, NOTHING = -1, -2


@dataclass(frozen=True)
class Damage:
    """What is done to a folder, the offset at which its log is bad then, and which commands say something else of it."""

    do: Do
    offset: int
    says: Mapping[str, int] = field(default_factory=dict)

    def said_by(self, command: str) -> int:
        return self.says.get(command, self.offset)


def _says(what: int, *commands: str) -> dict[str, int]:
    return dict.fromkeys(commands, what)


class _Forger(Signer):
    """Somebody who gives out their signatures for the node's."""

    def __init__(self) -> None:
        super().__init__(PEER_SIGNER._signing_key)
        self.public_key, self.key_id = SIGNER.public_key, SIGNER.key_id


def write(data_dir: Path, entries: list[Entry]) -> None:
    """A data folder with this log, and live views at its head."""
    _write_log(data_dir, entries)
    fold(data_dir, len(entries))


def sound_entries(signer: Signer = SIGNER) -> list[Entry]:
    return signed(_events(signer), clock=fixed_clock(step_ms=7), signer=signer)


def true_facts() -> list[Fact]:
    return [entry.event.fact for entry in sound_entries()[1:]]


def _events(signer: Signer = SIGNER) -> list[Event]:
    birth = NodeCreated(node_id=NODE_ID, public_key=signer.public_key_b64, software="damage drill")
    return [birth, *map(_assertion, range(1, SIZE))]


def _assertion(number: int) -> FactAsserted:
    # Apart from each other, so that none contradicts another.
    fact = sound_fact(number, entity=f"{NODE_ID}/thing/{number}", scope="public", seal=None)
    return FactAsserted(judgement=None, fact=fact)


def _write_log(data_dir: Path, entries: list[Entry]) -> None:
    log = Log(data_dir / "log")
    log.append(0, entries)
    log.close()


def replace_log(data_dir: Path, entries: list[Entry]) -> None:
    shutil.rmtree(data_dir / "log")
    _write_log(data_dir, entries)


def _in(table: str, change: Callable[[lmdb.Transaction], object]) -> Do:
    return lambda data_dir: edit(data_dir / "log", table, change)


def _delete(at: bytes) -> Callable[[lmdb.Transaction], object]:
    return lambda txn: txn.delete(at)


def _swap(txn: lmdb.Transaction) -> None:
    one, other = txn.get(key(AT)), txn.get(key(AT + 1))
    txn.put(key(AT), other)
    txn.put(key(AT + 1), one)


def _spliced(signer: Signer, data_dir: Path) -> None:
    """An entry more between AT - 1 and AT, and all behind it moved on and signed anew, by somebody else than the node."""
    events = _events()
    _forge(data_dir, [*events[:AT], _assertion(SIZE + 1), *events[AT:]], signer)


def _edited(signer: Signer, data_dir: Path) -> None:
    """Another fact at AT, and the chain and the tree as if it had always been so."""
    events = _events()
    _forge(data_dir, [*events[:AT], _assertion(SIZE + 1), *events[AT + 1 :]], signer)


def _removed(data_dir: Path) -> None:
    """No entry where AT was, and those behind it moved up."""
    events = _events()
    _forge(data_dir, [*events[:AT], *events[AT + 1 :]], _Forger())


def _forge(data_dir: Path, events: list[Event], signer: Signer) -> None:
    true = sound_entries()[:AT]
    head = Head(size=AT, root=b"", leaf=true[-1].leaf)
    later = fixed_clock(start_ms=START_MS + 60_000, step_ms=7)
    replace_log(data_dir, [*true, *signed(events[AT:], head, clock=later, signer=signer)])


def _fold_what_is_there(data_dir: Path) -> None:
    """Views as whoever changed the log would have made them."""
    shutil.rmtree(data_dir / "views")
    fold(data_dir, SIZE)


def _edited_with_its_views(data_dir: Path) -> None:
    _edited(_Forger(), data_dir)
    _fold_what_is_there(data_dir)


def _page_with(needle: bytes, data_dir: Path) -> None:
    """Noise over the page that holds this: of several that once did, the one that counts."""
    file = data_dir / "log" / DATA_FILE
    whole = file.read_bytes()
    for start in range(2 * _PAGE_BYTES, len(whole), _PAGE_BYTES):
        if needle in whole[start : start + _PAGE_BYTES]:
            _noise(start, data_dir)
            if structural_problem(data_dir / "log") is not None:
                return
            file.write_bytes(whole)
    raise LookupError(f"no page holds {needle!r}")


def _noise(start: int, data_dir: Path) -> None:
    with (data_dir / "log" / DATA_FILE).open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * _PAGE_BYTES)


def _cut(kept: float, data_dir: Path) -> None:
    file = data_dir / "log" / DATA_FILE
    os.truncate(file, int(file.stat().st_size * kept) // _PAGE_BYTES * _PAGE_BYTES)


def _live_file(data_dir: Path) -> Path:
    return next(path for path in (data_dir / "views").iterdir() if path.is_dir()) / DATA_FILE


def _swap_files(data_dir: Path) -> None:
    shutil.copyfile(_live_file(data_dir), data_dir / "log" / DATA_FILE)


# `--quick` and `rebuild` hold chain and tree against the last signature; the other four look at what they give.
_OF_AN_ITEM = _says(NOTHING, "quick", "head", "proof")
_SHORTER = _says(NOTHING, "head", "show", "proof", "create")


def _forged(last: int) -> dict[str, int]:
    return _says(last, "quick", "rebuild", "head", "proof", "create")


# Of the log's rows: every table, and every way in which an entry can be wrong.
OF_ROWS = {
    "header": Damage(_in("headers", flip(key(AT), 30)), AT),
    "header that is no JSON": Damage(_in("headers", flip(key(AT), 1, 0x80)), AT),
    "signature": Damage(_in("headers", flip(key(AT), -1)), AT),
    "signature of the first": Damage(_in("headers", flip(key(0), -1)), 0),
    "signature of the last": Damage(_in("headers", flip(key(SIZE - 1), -1)), SIZE - 1, _says(NOTHING, "show")),
    "item": Damage(_in("items", flip(key(AT, 1), 60)), AT, _OF_AN_ITEM),
    "item gone": Damage(_in("items", _delete(key(AT, 1))), AT, _OF_AN_ITEM),
    "leaf hash": Damage(_in("tree", flip(node(0, AT), 0)), AT, _says(NOTHING, "create")),
    "inner hash": Damage(_in("tree", flip(node(2, AT >> 2), 0)), AT | 3, _says(NOTHING, "show", "create")),
    "key": Damage(
        _in("keys", flip(_SIGNER_ID, 0)), 0, _says(NOTHING, "head", "show", "proof") | _says(SOMEWHERE, "create")
    ),
    "row of nobody": Damage(_in("meta", lambda txn: txn.put(b"more", b"")), SIZE, _SHORTER),
    "entry gone": Damage(_in("headers", _delete(key(AT))), AT),
    "last entry gone": Damage(_in("headers", _delete(key(SIZE - 1))), SIZE - 1, _SHORTER),
    "entries reordered": Damage(_in("headers", _swap), AT),
    "entry again at the end": Damage(
        _in("headers", lambda txn: txn.put(key(SIZE), txn.get(key(AT)))),
        SIZE,
        _says(SOMEWHERE, "head", "show", "proof", "create"),
    ),
    "removed without the key": Damage(_removed, AT, _forged(SIZE - 2)),
    "edited without the key": Damage(partial(_edited, _Forger()), AT, _forged(SIZE - 1)),
    "edited, and its views": Damage(_edited_with_its_views, AT, _forged(SIZE - 1)),
    "edited under another key": Damage(partial(_edited, PEER_SIGNER), AT, _forged(SIZE - 1)),
    "spliced without the key": Damage(partial(_spliced, _Forger()), AT, _forged(SIZE)),
}

# Of the file that holds them.
OF_THE_FILE: dict[str, Do] = {
    "first meta page": partial(_noise, 0),
    "second meta page": partial(_noise, _PAGE_BYTES),
    "page of headers": partial(_page_with, b'"offset":%d,' % AT),
    "page of items": partial(_page_with, b"/thing/%d" % AT),
    "page of the tree": partial(_page_with, sound_entries()[AT].leaf),
    "page of keys": partial(_page_with, SIGNER.public_key),
    "page of tables": partial(_page_with, b"headers"),
    "cut in the middle": partial(_cut, 0.5),
    "cut to its first pages": partial(_cut, 0.1),
    "emptied": partial(_cut, 0),
    "the file of the views": _swap_files,
}
