"""API keys made here and what became of them, to be found by their keyed hash (PROTOCOL §3).

Always: a key's row is found by its id and by its hash, and a key once made stays on record, so no hash is taken twice.

Does not judge whether a key holds now (see `node/commands/api_keys.py`), and never sees a key itself.
"""

import struct
from collections.abc import Iterator
from typing import ClassVar

from msgspec import Struct, structs

from node.events.api_keys import ApiKeyCreated, ApiKeyRevoked, KeyGrant
from node.events.entry import Entry
from node.events.event import Event
from node.keys import equal_secrets
from node.projections.base import Projection, TableSpec, text_key


class ApiKey(Struct, frozen=True, array_like=True):
    """A key's grant; made at `offset`, revoked at `revoked_from`; times are epoch ms."""

    offset: int
    grant: KeyGrant
    key_hash: str
    description: str
    created_by: str | None
    created_ms: int
    revoked_ms: int | None
    revoked_from: int | None

    def at(self, size: int) -> "ApiKey | None":
        """The key as the first `size` entries of the log make it; None where they do not make it."""
        if self.offset >= size:
            return None
        if self.revoked_from is None or self.revoked_from < size:
            return self
        return structs.replace(self, revoked_ms=None, revoked_from=None)


def key_made_by(entry: Entry) -> ApiKey:
    """The key as the entry of an ApiKeyCreated makes it."""
    made = entry.event
    return ApiKey(
        entry.offset, made.grant, made.key_hash, made.description, entry.actor.principal, entry.at_ms, None, None
    )


_MADE = TableSpec("api_keys/made", ApiKey)
_BY_ID = TableSpec("api_keys/by_id", bytes, hashed=((0, 16),), is_open=True)
_BY_HASH = TableSpec("api_keys/by_hash", bytes, hashed=((0, 16),), is_open=True)
_OFFSET = struct.Struct(">Q")


class ApiKeys(Projection):
    name: ClassVar[str] = "api_keys"
    version: ClassVar[int] = 1
    events: ClassVar[tuple[type[Event], ...]] = (ApiKeyCreated, ApiKeyRevoked)
    tables: ClassVar[tuple[TableSpec, ...]] = (_MADE, _BY_ID, _BY_HASH)

    def by_id(self, key_id: str) -> ApiKey | None:
        return self._named(_BY_ID, key_id)

    def by_hash(self, key_hash: str) -> ApiKey | None:
        key = self._named(_BY_HASH, key_hash)
        # The table is found by a part of a hash of the hash; whether it is the one that was made is asked in constant time.
        return key if key is not None and equal_secrets(key.key_hash, key_hash) else None

    def newest_first(self, before: int) -> Iterator[ApiKey]:
        """Keys made before that offset."""
        for _, key in self.table(_MADE).scan_back(b"", before=_OFFSET.pack(before)):
            yield key

    def fold(self, entry: Entry) -> None:
        match entry.event:
            case ApiKeyCreated(grant=grant, key_hash=key_hash):
                offset = _OFFSET.pack(entry.offset)
                self.table(_MADE).put(offset, key_made_by(entry))
                self.table(_BY_ID).put(text_key(grant.key_id), offset)
                self.table(_BY_HASH).put(text_key(key_hash), offset)
            case ApiKeyRevoked(key_id=key_id):
                key = self.by_id(key_id)
                if key is not None:
                    revoked = structs.replace(key, revoked_ms=entry.at_ms, revoked_from=entry.offset)
                    self.table(_MADE).put(_OFFSET.pack(key.offset), revoked)
            case _:
                pass  # no other event is about API keys

    def _named(self, index: TableSpec[bytes], name: str) -> ApiKey | None:
        offset = self.table(index).get(text_key(name))
        return None if offset is None else self.table(_MADE).get(offset)
