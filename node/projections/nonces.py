"""Nonces of peer tokens, kept for their window (PROTOCOL §5.2).

Always: a nonce is in `by_nonce` if and only if it is in `by_expiry`.
Nonces leave by the time in the entry being folded, so a replay evicts at the same offsets as the live node did.

Does not check signatures or expiry of the token itself (see `node/commands/peer_tokens.py`).
"""

import struct
from hashlib import sha256
from typing import ClassVar

from node.events.entry import Entry
from node.events.event import Event
from node.events.peers import AttestationSigned, CheckpointCosigned, ExchangeRefused, PageServed, PushReceived
from node.events.tombstones import TombstonesServed
from node.projections.base import Projection, TableSpec

_BY_NONCE = TableSpec("nonces/by_nonce", int, hashed=((0, 32),))
_BY_EXPIRY = TableSpec("nonces/by_expiry", bytes, hashed=((8, 40),))
_MS = struct.Struct(">Q")


class Nonces(Projection):
    name: ClassVar[str] = "nonces"
    version: ClassVar[int] = 1
    events: ClassVar[tuple[type[Event], ...]] = (
        PageServed,
        PushReceived,
        AttestationSigned,
        CheckpointCosigned,
        ExchangeRefused,
        TombstonesServed,
    )
    tables: ClassVar[tuple[TableSpec, ...]] = (_BY_NONCE, _BY_EXPIRY)

    def is_seen(self, nonce: str, now_ms: int) -> bool:
        """Whether this nonce was used and its window is still open; by nonce value alone, not by token."""
        forget_ms = self.table(_BY_NONCE).get(_nonce_key(nonce))
        return forget_ms is not None and now_ms < forget_ms

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case (
                PageServed(nonce=str(nonce), forget_ms=forget_ms)
                | PushReceived(nonce=str(nonce), forget_ms=forget_ms)
                | AttestationSigned(nonce=str(nonce), forget_ms=forget_ms)
                | CheckpointCosigned(nonce=str(nonce), forget_ms=forget_ms)
                | ExchangeRefused(nonce=str(nonce), forget_ms=forget_ms)
                | TombstonesServed(nonce=str(nonce), forget_ms=forget_ms)
            ):
                self._evict_before(entry.at_ms)
                self._take(_nonce_key(nonce), forget_ms)
            case _:
                pass  # no other event takes a nonce

    def _take(self, key: bytes, forget_ms: int) -> None:
        seen = self.table(_BY_NONCE).get(key)
        if seen is not None:
            self.table(_BY_EXPIRY).delete(_MS.pack(seen) + key)
        self.table(_BY_NONCE).put(key, forget_ms)
        self.table(_BY_EXPIRY).put(_MS.pack(forget_ms) + key, b"")

    def _evict_before(self, now_ms: int) -> None:
        gone = []
        for key, _ in self.table(_BY_EXPIRY).scan():
            if _MS.unpack(key[:8])[0] > now_ms:
                break
            gone.append(key)
        for key in gone:
            self.table(_BY_EXPIRY).delete(key)
            self.table(_BY_NONCE).delete(key[8:])


def _nonce_key(nonce: str) -> bytes:
    return sha256(nonce.encode()).digest()
