"""The keys that this log's own entries are signed with: from which entry on which, by what the log says (PROTOCOL §11).

Always: the first key is the one that the first entry names; each other one is named by a rotation that its predecessor signed,
in an entry that is the last one under that key.

Finds each rotation by halving, as every entry before it names the old key and none behind it does; where what it finds does not
account for every key that is stored, it looks at every entry. Whether each is signed by the key of its place is for log_check.py.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from node.canonical import b64url_decode
from node.errors import LogDamaged
from node.events.entry import Header, is_signed_by, open_header
from node.events.event import Event, type_of
from node.events.identity import KeyRotated, NodeCreated
from node.events.log import Log
from node.events.rotations import (
    ChainBroken,
    KeyChain,
    Rotation,
    first_key,
    is_signed_by_old,
    read_rotation,
    rotated,
)
from node.keys import key_id_of

# As a header says it, whose bytes have one form.
ROTATED = f'"type":"{type_of(KeyRotated)}"'.encode()
Stored = Callable[[int], bytes]
EventAt = Callable[[int], Event]


class OwnKeys(Struct, frozen=True):
    """Whose log it is, and its keys: that of `chain[n]`, with the id `key_ids[n]`, signs from offset `firsts[n]` on.

    `rotations` are the documents that lead from each to the next; `size` entries were looked at.
    """

    node_id: str
    chain: KeyChain
    key_ids: tuple[str, ...]
    firsts: tuple[int, ...]
    rotations: tuple[bytes, ...]
    size: int

    def place(self, offset: int) -> int:
        """Which of the keys signs the entry at this offset."""
        return bisect_right(self.firsts, offset) - 1

    def at(self, offset: int) -> bytes:
        """The public key that the entry at this offset must be signed by."""
        return self.chain[self.place(offset)].public_key

    def up_to(self, offset: int) -> list[bytes]:
        """The keys that were current at or before an offset."""
        return [key.public_key for key in self.chain[: self.place(offset) + 1]]

    @property
    def current(self) -> bytes:
        return self.chain[-1].public_key


def own_keys_of(log: Log) -> OwnKeys:
    """The keys of a log that has entries. Raises LogDamaged where its first entry does not say whose it is.

    Of an encrypted log without its key it is known by its headers alone (`keys_that_signed`).
    """
    if not log.items.is_readable:
        return keys_that_signed(map(open_header, log.all_stored()), lambda header: log.public_key(header.key_id))
    return find_own_keys(log.head().size, log.key_count, log.stored, lambda offset: log.read(offset, 1)[0].event)


def find_own_keys(size: int, keys: int, stored_at: Stored, event_at: EventAt) -> OwnKeys:
    """The same of what is read by these; `keys` is how many are stored. Each rotation is followed as far as it holds."""
    birth = event_at(0)
    if not isinstance(birth, NodeCreated):
        raise LogDamaged("the first entry does not say whose log it is")
    key = _key_of(birth)
    search = _Search(birth.node_id, size, stored_at, event_at)
    found = search.follow(key, search.by_halving)
    signed = len(found.chain) - (found.firsts[-1] == size)
    # One that was rotated away may have signed the last entry, or one in between.
    is_complete = signed == keys and search.names(size - 1, found.key_ids[signed - 1])
    return found if is_complete else search.follow(key, search.one_by_one)


def keys_that_signed(headers: Iterable[Header], key_of: Callable[[Header], bytes]) -> OwnKeys:
    """As far as headers tell of an encrypted log without its key: each key that they name, from where it is first named. That the
    one before named it in a rotation stands in an item; that it signs nothing once another did is seen here.
    """
    chain: KeyChain = ()
    key_ids: list[str] = []
    firsts: list[int] = []
    size = 0
    for header in headers:
        if header.key_id not in key_ids:
            chain = (*chain, *first_key(key_of(header)))
            key_ids.append(header.key_id)
            firsts.append(header.offset)
        size += 1
    return OwnKeys(node_id="", chain=chain, key_ids=tuple(key_ids), firsts=tuple(firsts), rotations=(), size=size)


class _Search(Struct):
    node_id: str
    size: int
    stored_at: Stored
    event_at: EventAt

    def follow(self, key: bytes, find: Callable[[str, int], Iterator[int]]) -> OwnKeys:
        """The chain from the first key on; `find` gives offsets where a rotation of a key may stand, from an offset on."""
        chain, firsts, documents = first_key(key), [0], []
        while True:
            found = ((offset, self._rotation_at(offset, key)) for offset in find(key_id_of(key), firsts[-1]))
            offset, rotation = next(((at, one) for at, one in found if one is not None), (0, None))
            if rotation is None:
                break
            chain, key = rotated(chain, rotation), rotation.new_public_key
            firsts.append(offset + 1)
            documents.append(rotation.document)
        return OwnKeys(
            node_id=self.node_id,
            chain=chain,
            key_ids=tuple(key_id_of(link.public_key) for link in chain),
            firsts=tuple(firsts),
            rotations=tuple(documents),
            size=self.size,
        )

    def by_halving(self, key_id: str, first: int) -> Iterator[int]:
        """The last entry that names the key, as if all that do stood together."""
        if first >= self.size:
            return
        if self.names(self.size - 1, key_id):
            yield self.size - 1
            return
        low, high = first, self.size - 1
        # `low` names the key, `high` does not.
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.names(middle, key_id) else (low, middle)
        yield low

    def one_by_one(self, key_id: str, first: int) -> Iterator[int]:
        for offset in range(first, self.size):
            if self._has(offset, ROTATED) and self.names(offset, key_id):
                yield offset

    def names(self, offset: int, key_id: str) -> bool:
        return self._has(offset, f'"key_id":"{key_id}"'.encode())

    def _has(self, offset: int, mark: bytes) -> bool:
        try:
            return mark in self.stored_at(offset)
        except LogDamaged:
            return False

    def _rotation_at(self, offset: int, key: bytes) -> Rotation | None:
        try:
            stored = self.stored_at(offset)
            if ROTATED not in stored or not is_signed_by(stored, key):
                return None
            event = self.event_at(offset)
            return require_rotation(event, self.node_id, key) if isinstance(event, KeyRotated) else None
        except (LogDamaged, ChainBroken):
            # Whatever stands behind it is then signed by a key that is not this node's, and is named so.
            return None


def require_rotation(event: KeyRotated, node_id: str, old_public_key: bytes) -> Rotation:
    """The rotation that an event holds. Raises ChainBroken unless that key signed it for this node."""
    rotation = read_rotation(event.rotation)
    if rotation.entity_uri != node_id or rotation.old_key_id != key_id_of(old_public_key):
        raise ChainBroken("the rotation is of another node or key")
    if not is_signed_by_old(rotation, old_public_key):
        raise ChainBroken("the rotation is not signed by the key before it")
    return rotation


def _key_of(birth: NodeCreated) -> bytes:
    try:
        return b64url_decode(birth.public_key)
    except ValueError as error:
        raise LogDamaged("the first entry names no key") from error
