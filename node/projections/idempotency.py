"""Idempotency keys, kept for a day, with what was asked under them and what it came to (PROTOCOL §2.7).

Always: a key is in `by_name` if and only if it is in `by_expiry`.
Keys leave by the time in the entry being folded, so a replay evicts at the same offsets as the live node did.

Does not make answers (see `node/http/idempotency.py`).
"""

import struct
from hashlib import sha256
from itertools import islice
from typing import ClassVar

from msgspec import Struct

from node.events.entry import Entry
from node.events.event import Actor, Event
from node.events.idempotency import IdempotencyKeyTaken
from node.projections.base import Projection, TableSpec

LIFETIME_MS = 86_400_000
EVICTED_AT_ONCE = 64
_MS = struct.Struct(">Q")


class Taken(Struct, frozen=True, array_like=True):
    """What a key was used for: entries [first, end) are what the request did, `answer` what was said where those do not tell."""

    request_hash: str
    first: int
    end: int
    answer: str | None
    forget_ms: int


_BY_NAME = TableSpec("idempotency/by_name", Taken, hashed=((0, 32),))
_BY_EXPIRY = TableSpec("idempotency/by_expiry", bytes, hashed=((8, 40),))


class Idempotency(Projection):
    name: ClassVar[str] = "idempotency"
    version: ClassVar[int] = 1
    events: ClassVar[tuple[type[Event], ...]] = (IdempotencyKeyTaken,)
    tables: ClassVar[tuple[TableSpec, ...]] = (_BY_NAME, _BY_EXPIRY)

    def taken(self, name: bytes, now_ms: int) -> Taken | None:
        """What was done under a key that still lives."""
        row = self.table(_BY_NAME).get(name)
        return row if row is not None and now_ms < row.forget_ms else None

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case IdempotencyKeyTaken() as event:
                self._evict_before(entry.at_ms)
                self._take(key_name(entry.actor, event.route), event, entry)
            case _:
                pass  # no other event takes a key

    def _take(self, name: bytes, event: IdempotencyKeyTaken, entry: Entry) -> None:
        before = self.table(_BY_NAME).get(name)
        if before is not None:
            self.table(_BY_EXPIRY).delete(_MS.pack(before.forget_ms) + name)
        forget_ms = entry.at_ms + LIFETIME_MS
        row = Taken(event.request_hash, entry.offset - event.entries, entry.offset, event.answer, forget_ms)
        self.table(_BY_NAME).put(name, row)
        self.table(_BY_EXPIRY).put(_MS.pack(forget_ms) + name, b"")

    def _evict_before(self, now_ms: int) -> None:
        # More than one at a time, so that they are gone in the end; not all at once, for there may be any number.
        oldest = (key for key, _ in self.table(_BY_EXPIRY).scan())
        gone = [key for key in islice(oldest, EVICTED_AT_ONCE) if _MS.unpack(key[:8])[0] <= now_ms]
        for key in gone:
            self.table(_BY_EXPIRY).delete(key)
            self.table(_BY_NAME).delete(key[8:])


def key_name(actor: Actor, route: str) -> bytes:
    """What a key belongs to: the credential where the caller has one of its own, else whom it speaks for, and the route."""
    parts = (actor.via, actor.credential or actor.principal or "", route, actor.idempotency_key or "")
    # Each part by its length: no two callers can be spelled alike.
    return sha256(b"".join(len(part := text.encode()).to_bytes(4) + part for text in parts)).digest()
