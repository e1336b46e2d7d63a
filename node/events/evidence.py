"""What views say of a fact, held against the log: the item that brought it, and the entry that commits to that item.

Always: a fact that passes is, but for a seal that came later, the one in the log's item; that item is the one its entry
commits to, and that entry the one whose leaf hash stands in the tree.

Does not check signatures, chain or the tree above its leaves: those hold for every entry at once (see `log_check.py`).
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Protocol

import msgspec
from msgspec import Struct, structs

from node.errors import LogDamaged
from node.events.conflicts import ConflictResolved
from node.events.entry import SALT_BYTES, SIGNATURE_BYTES
from node.events.event import type_of
from node.events.facts import Fact, FactAsserted
from node.events.gardens import FactQuarantined
from node.events.peers import BatchReceived, PushReceived
from node.events.tree import leaf_hash


class Stored(Protocol):
    """What one snapshot of a log holds under an offset: the entry, its leaf hash in the tree, its items, each salt ‖ content."""

    def entry(self, offset: int) -> bytes: ...

    def leaf(self, offset: int) -> bytes: ...

    def committed(self, offset: int, index: int) -> bytes: ...


# By a fact's place: the item that brought it, the hash that its entry commits to, and where in the item the fact began. Entries
# never change, so it holds for good.
Proven = dict[tuple[int, int], tuple[int, str, int]]
# Some 300 bytes each.
MAX_PROVEN = 1 << 15
_REMEDY = "; `stigmem replay verify` tells what is damaged"

_encode = msgspec.json.Encoder().encode


def damage_at(offset: int | None, words: str) -> LogDamaged:
    """A damage as an operator needs it told, once: where, and what tells more. `offset` None where none can be told."""
    words = words.removesuffix(_REMEDY)
    if offset is None:
        return LogDamaged(words + _REMEDY)
    return LogDamaged(f"offset {offset}: {words.removeprefix(f'offset {offset}: ')}{_REMEDY}", offset=offset)


class _Header(Struct, frozen=True):
    """What is looked at of a header."""

    type: str
    items: tuple[str, ...]


_NO_HEADER = _Header("", ())


class _Bringing(Struct, frozen=True):
    """An item that holds a fact beside what was thought of it."""

    fact: Fact


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_fact = msgspec.json.Decoder(Fact).decode
_decode_bringing = msgspec.json.Decoder(_Bringing).decode


def _within(item: bytes) -> Fact:
    return _decode_bringing(item).fact


# By event type: the first item that holds a fact, and how it is read from there.
FACT_ITEMS: dict[str, tuple[int, Callable[[bytes], Fact]]] = {
    type_of(FactAsserted): (1, _within),
    type_of(ConflictResolved): (2, _decode_fact),
    type_of(FactQuarantined): (2, _decode_fact),
    type_of(BatchReceived): (3, _within),
    type_of(PushReceived): (3, _within),
}


class Evidence:
    """One snapshot of a log, for holding facts against it.

    `proven` is what was held against the tree before.
    """

    __slots__ = ("_header", "_offset", "_proven", "_stored")

    def __init__(self, stored: Stored, proven: Proven) -> None:
        self._stored, self._proven = stored, proven
        self._offset, self._header = -1, _NO_HEADER

    def require(self, place: tuple[int, int], fact: Fact) -> None:
        """Raise LogDamaged, with the offset, where the fact is not what the log has at that place."""
        offset, index = place
        try:
            proven = self._proven.get(place)
            if proven is None or not self._still_holds(offset, *proven, fact):
                self._require(offset, index, fact)
        except LogDamaged as damage:
            raise damage_at(offset, damage.detail) from damage

    def still_has(self, place: tuple[int, int]) -> bool:
        """Whether the item that brought a fact is what its entry was found to commit to, when that fact was held against it."""
        proven = self._proven.get(place)
        if proven is None:
            return False
        number, commitment, _ = proven
        try:
            return sha256(self._stored.committed(place[0], number)).hexdigest() == commitment
        except LogDamaged:  # whoever holds the fact against it again is told where, and what tells more
            return False

    def require_entry(self, offset: int) -> None:
        """Raise LogDamaged, with the offset, where the entry is not the one whose leaf hash stands in the tree."""
        try:
            self._header_at(offset)
        except LogDamaged as damage:
            raise damage_at(offset, damage.detail) from damage

    def _still_holds(self, offset: int, number: int, commitment: str, start: int, fact: Fact) -> bool:
        """Whether the item is, as it lies there now, what its entry was found to commit to, and has the fact word for word."""
        item = self._stored.committed(offset, number)
        return sha256(item).hexdigest() == commitment and item.startswith(_encode(fact), start)

    def _header_at(self, offset: int) -> _Header:
        # A page of a peer's brought its facts in one entry.
        if offset != self._offset:
            stored = self._stored.entry(offset)
            if leaf_hash(stored) != self._stored.leaf(offset):
                raise LogDamaged("the entry's leaf hash is not the one in the tree")
            try:
                self._header, self._offset = _decode_header(stored[:-SIGNATURE_BYTES]), offset
            except ValueError as error:  # MsgspecError is one; bytes that are not UTF-8 raise another
                raise LogDamaged(f"the header cannot be read: {error}") from error
        return self._header

    def _require(self, offset: int, index: int, fact: Fact) -> None:
        header = self._header_at(offset)
        if header.type not in FACT_ITEMS:
            raise LogDamaged(f"a {header.type} brings no fact, and the views have one")
        first, read = FACT_ITEMS[header.type]
        number = first + index
        if number >= len(header.items):
            raise LogDamaged("the entry brought fewer facts than the views have")
        item = self._stored.committed(offset, number)
        if sha256(item).hexdigest() != header.items[number]:
            raise LogDamaged(f"item {number} does not match its commitment")
        # In JSON every quote within a text is escaped: behind the salt, these bytes can stand there for the fact alone.
        start = item.find(_encode(fact), SALT_BYTES)
        if start >= 0:
            self._note((offset, index), (number, header.items[number], start))
            return
        try:
            logged = read(item[SALT_BYTES:])
        except ValueError as error:
            raise LogDamaged(f"item {number} cannot be read: {error}") from error
        if logged not in (fact, structs.replace(fact, seal=None)):
            raise LogDamaged("the views say something else than the log (`stigmem replay rebuild` makes them anew)")

    def _note(self, place: tuple[int, int], proven: tuple[int, str, int]) -> None:
        # All at once: which of them are asked for again is not known, and other threads read it meanwhile.
        if len(self._proven) >= MAX_PROVEN:
            self._proven.clear()
        self._proven[place] = proven
