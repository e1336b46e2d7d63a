"""The rows that follow from a fact alone: its place, what it can be found by, and what peers may be given of our own word.

Always: index keys end in the fact's place, so each index lists in log order.
What else becomes of a fact depends on those before it, and is the fold's business (see `facts.py`).
"""

from msgspec import Struct

from node.events.facts import Fact, Scope
from node.projections.base import Place, TableSpec, place_key, text_key
from node.projections.fact_rows import FactRow, may_travel, relation_of
from node.uris import normal_uri, uuid_bytes

SCOPE_KEYS: dict[Scope, bytes] = {"local": b"l", "team": b"t", "company": b"c", "public": b"p"}


class Servable(Struct, frozen=True, array_like=True):
    """A fact that peers may be given, with the start of the leaf hash of the event that made it so (PROTOCOL §5.3)."""

    place: Place
    leaf_start: bytes


BY_PLACE = TableSpec("facts/by_place", FactRow)
BY_ID = TableSpec("facts/by_id", bytes, hashed=((0, 32),), is_open=True)
BY_CID = TableSpec("facts/by_cid", bytes, hashed=((0, 16),))
BY_HASH = TableSpec("facts/by_hash", bytes, hashed=((0, 16),))
BY_SUBJECT = TableSpec("facts/by_entity_relation", bytes, hashed=((0, 32),))
BY_RELATION = TableSpec("facts/by_relation", bytes, hashed=((0, 16),))
BY_SOURCE = TableSpec("facts/by_source", bytes, hashed=((0, 16),))
SERVABLE = TableSpec("facts/servable", Servable)
UNSEALED = TableSpec("facts/unsealed", bytes)
# In the order of `index_prefixes`.
INDEXES = (BY_CID, BY_HASH, BY_SUBJECT, BY_RELATION, BY_SOURCE)


def index_prefixes(fact: Fact) -> tuple[bytes, ...]:
    """What the fact's keys begin with in each of INDEXES. Raises ValueError or Refusal where it has no such keys."""
    relation_key = text_key(relation_of(fact))
    return (
        _hex_key(fact.cid.removeprefix("sha256:")),
        _hex_key(fact.fact_hash),
        text_key(normal_uri(fact.entity)) + relation_key,
        relation_key,
        text_key(normal_uri(fact.source)),
    )


def id_key(fact: Fact) -> bytes | None:
    """The fact's key in BY_ID; None where its id is no UUID, and it cannot be found by it."""
    key = uuid_bytes(fact.id)
    return None if key is None else key + text_key(fact.origin)


def own_word_row(row: FactRow, leaf: bytes) -> tuple[TableSpec, bytes, object] | None:
    """Where our own word is entered from where it is shown, by the entry of that leaf hash: what peers may be given,
    or what may travel once it is sealed; None for what stays here.
    """
    if not may_travel(row):
        return None
    if row.fact.seal is None:
        return UNSEALED, place_key(row.place), b""
    return servable_row(row, row.shown_from, leaf)


def servable_row(row: FactRow, servable_from: Place, leaf: bytes) -> tuple[TableSpec, bytes, Servable]:
    return SERVABLE, SCOPE_KEYS[row.fact.scope] + place_key(servable_from), Servable(row.place, leaf[:8])


def hex_key(digest: str) -> bytes | None:
    """The first half of a SHA-256 in hex, enough for an index; None for what cannot be one. Callers compare the whole."""
    try:
        return _hex_key(digest)
    except ValueError:
        return None


def hex_keys(digests: list[str]) -> list[bytes]:
    """`hex_key` of each. Raises ValueError where one is no SHA-256 in hex."""
    raw = bytes.fromhex("".join(digests))
    # What is skipped between digits makes it shorter.
    if len(raw) != 32 * len(digests) or set(map(len, digests)) != {64}:
        raise ValueError("not SHA-256 in hex")
    return [raw[start : start + 16] for start in range(0, len(raw), 32)]


def _hex_key(digest: str) -> bytes:
    if len(digest) != 64 or not digest.isalnum():
        raise ValueError("not a SHA-256 in hex")
    return bytes.fromhex(digest[:32])
