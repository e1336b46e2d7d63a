"""G(n): how many facts a second plain code can decode, sign and make durable, one commit for each batch of n.

Always: nothing of node/ is imported, so that no mistake of the node's moves the mark it is held against.
Every step a durable signed write cannot do without, and no other: decode the request, build the event, chain and sign
it, put header and items into one environment, commit that with an fsync, put six index keys into another without one,
encode the answer.

Leaves out what a node does besides: HTTP, rights, trust, contradictions, the Merkle tree, seals, hashes of the fact.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal

import lmdb
import msgspec
from nacl.signing import SigningKey

ORIGIN = "stigmem://bench.example"


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["string", "text", "number", "boolean", "datetime", "ref", "null"]
    v: str | float | bool | None = None


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/facts as far as a plain write uses it (PROTOCOL §2.1)."""

    entity: str
    relation: str
    value: Value
    source: str
    confidence: float = 1.0
    scope: Literal["local", "team", "company", "public"] = "local"
    valid_until: str | None = None


class Actor(msgspec.Struct, frozen=True):
    principal: str | None = ORIGIN
    via: str = "admin"
    credential: str | None = None
    idempotency_key: str | None = None
    trace_id: str | None = None


class Fact(msgspec.Struct, frozen=True):
    """The event's one big item, and the answer too."""

    id: str
    entity: str
    relation: str
    value: Value
    source: str
    timestamp: str
    hlc: str
    confidence: float
    scope: str
    valid_until: str | None
    origin: str
    log_offset: int
    garden_id: str | None = None
    received_from: str | None = None
    contradicted: bool = False
    derived_from: tuple[str, ...] = ()
    attestation_chain: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Header(msgspec.Struct, frozen=True):
    """docs/log-format.md 'Header'."""

    v: int
    offset: int
    prev: str
    hlc: str
    at: str
    type: str
    key_id: str
    items: tuple[str, ...]


class Yardstick:
    """A log and its indexes in `folder`, and the one way to write to them."""

    def __init__(self, log: lmdb.Environment, indexes: lmdb.Environment) -> None:
        self._log, self._indexes = log, indexes
        self._headers, self._items = log.open_db(b"headers"), log.open_db(b"items")
        names = ("by_id", "by_entity", "by_source", "by_scope", "by_time", "by_value")
        self._tables = [indexes.open_db(name.encode()) for name in names]
        self._key = SigningKey.generate()
        self._key_id = sha256(self._key.verify_key.encode()).hexdigest()
        self._offset, self._prev, self._wall_ms, self._counter = 0, "0" * 64, 0, 0
        self._decoder, self._encode = msgspec.json.Decoder(Request), msgspec.json.Encoder().encode

    def write_batch(self, bodies: list[bytes]) -> list[bytes]:
        """Write one fact per body with one fsync, and give back the encoded answers."""
        facts = []
        with self._log.begin(write=True) as transaction:
            for body in bodies:
                facts.append(self._fact_of(self._decoder.decode(body)))
                self._append(transaction, facts[-1])
        with self._indexes.begin(write=True) as transaction:
            for fact in facts:
                self._index(transaction, fact)
        return [self._encode(fact) for fact in facts]

    def _fact_of(self, request: Request) -> Fact:
        return Fact(
            id=_fresh_id(),
            entity=request.entity,
            relation=request.relation,
            value=request.value,
            source=request.source,
            timestamp=_rfc3339(time.time_ns() // 1_000_000),
            hlc=self._tick(),
            confidence=request.confidence,
            scope=request.scope,
            valid_until=request.valid_until,
            origin=ORIGIN,
            log_offset=self._offset,
        )

    def _append(self, transaction: lmdb.Transaction, fact: Fact) -> None:
        items = (self._encode(Actor()), self._encode(fact))
        salts = (os.urandom(16), os.urandom(16))
        header = self._encode(
            Header(
                v=1,
                offset=self._offset,
                prev=self._prev,
                hlc=fact.hlc,
                at=fact.timestamp,
                type="fact.asserted.1",
                key_id=self._key_id,
                items=tuple(sha256(salt + item).hexdigest() for salt, item in zip(salts, items, strict=True)),
            )
        )
        entry = header + self._key.sign(b"stigmem-event/v1\n" + header).signature
        row = self._offset.to_bytes(8)
        transaction.put(row, entry, db=self._headers, append=True)
        for index, (salt, item) in enumerate(zip(salts, items, strict=True)):
            transaction.put(row + index.to_bytes(4), b"\x00" + salt + item, db=self._items, append=True)
        self._prev = sha256(b"\x00" + entry).hexdigest()
        self._offset += 1

    def _index(self, transaction: lmdb.Transaction, fact: Fact) -> None:
        row = fact.log_offset.to_bytes(8)
        keys = (
            fact.id.encode(),
            f"{fact.entity}\0{fact.relation}\0".encode() + row,
            f"{fact.source}\0".encode() + row,
            f"{fact.scope}\0".encode() + row,
            fact.timestamp.encode() + row,
            sha256(self._encode(fact.value)).digest() + row,
        )
        for table, key in zip(self._tables, keys, strict=True):
            transaction.put(key, row, db=table)

    def _tick(self) -> str:
        now_ms = time.time_ns() // 1_000_000
        if now_ms > self._wall_ms:
            self._wall_ms, self._counter = now_ms, 0
        elif self._counter < 999:
            self._counter += 1
        else:
            self._wall_ms, self._counter = self._wall_ms + 1, 0
        return f"{self._wall_ms:013d}.{self._counter:03d}"


@contextmanager
def open_yardstick(folder: Path) -> Iterator[Yardstick]:
    with (
        lmdb.open(str(folder / "log"), max_dbs=2, map_size=1 << 36) as log,
        lmdb.open(str(folder / "indexes"), max_dbs=6, map_size=1 << 36, sync=False) as indexes,
    ):
        yield Yardstick(log, indexes)


def facts_per_second(folder: Path, batch_size: int, seconds: float) -> float:
    """G(batch_size), measured for `seconds` of writing; making up the bodies is not counted."""
    written, spent = 0, 0.0
    with open_yardstick(folder) as yardstick:
        while spent < seconds:
            bodies = [request_body(written + i) for i in range(batch_size)]
            start = time.perf_counter()
            yardstick.write_batch(bodies)
            spent += time.perf_counter() - start
            written += batch_size
    return written / spent


def request_body(number: int) -> bytes:
    """The body that write.lua sends to the node, with another entity for each number."""
    return (
        b'{"entity":"%(o)s/user/r-1-%(n)d","relation":"memory:role","value":{"type":"string",'
        b'"v":"maintainer of the billing service, on call in May"},"source":"%(o)s/agent/writer",'
        b'"confidence":0.9,"scope":"company"}'
    ) % {b"o": ORIGIN.encode(), b"n": number}


def _fresh_id() -> str:
    """A UUIDv7."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _rfc3339(wall_ms: int) -> str:
    moment = datetime.fromtimestamp(wall_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{wall_ms % 1000:03d}Z"
