"""Key rotations: the document by which one key names the next, and what a chain of them says of each key (PROTOCOL §11).

Always: a chain is believed link by link: each is signed by the key before it, over canonical JSON of all its other members.
Always: no key comes back: a key that was rotated away proves nothing dated after that, whoever signs with it.

Does not know whose manifest a chain came in, nor which key is pinned (see node/commands/manifests.py).
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from node.canonical import b64url_decode, b64url_encode, canonical_json
from node.keys import Signer, is_sound_public_key, key_id_of, verify
from node.times import format_ms, parse_rfc3339

# PROTOCOL §11: how long after its rotation a key's word is still taken for what is dated so; clocks and requests under way.
LEEWAY_MS = 600_000
CAPABILITY_TRUST_MS = 90 * 86_400_000
PEER_TOKEN_TRUST_MS = 300_000
MAX_ROTATIONS = 1024
# A signature names no key: with each one of a long chain a page of signatures that hold under none would take minutes.
MAX_TRIED = 64
_SIGNATURES = ("rotation_sig", "signature")


class RotationEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One change of key, signed by the old one (PROTOCOL §11).

    `old_public_key` lets a newcomer check what was sealed before it; `compromised_since` is there where the old key is not to be
    believed from that time on.
    """

    entity_uri: str
    old_key_id: str
    old_public_key: str | UnsetType = UNSET
    new_key_id: str
    new_public_key: str
    rotated_at: str
    compromised_since: str | UnsetType = UNSET
    rotation_sig: str


class Rotation(Struct, frozen=True, kw_only=True):
    """A rotation as it was read, ours or a reference node's; `old_public_key` None where it does not say.

    `signed` is what `signature` is over; `document` the whole in canonical JSON. Times in epoch ms.
    """

    entity_uri: str | None
    old_key_id: str
    old_public_key: bytes | None
    new_public_key: bytes
    rotated_ms: int
    compromised_since_ms: int | None
    signed: bytes
    signature: bytes
    document: bytes


class ChainKey(Struct, frozen=True, array_like=True):
    """One key of a chain. `rotated_ms` is None for the newest; what is dated after `holds_until_ms` it does not prove.

    `is_trusted_on`: credentials that it signed before it was rotated hold for their window.
    """

    public_key: bytes
    rotated_ms: int | None
    holds_until_ms: int | None
    is_trusted_on: bool


# Oldest first; the last one is current.
KeyChain = tuple[ChainKey, ...]


class ChainBroken(ValueError):
    """The rotations do not lead from the key that is held to the one that is shown."""


class ChainForked(ChainBroken):
    """Two successors of one key: `held` and `shown` are key ids; `rotation` is the document of the second."""

    def __init__(self, held: str, shown: str, rotation: bytes) -> None:
        super().__init__(f"the key has two successors, {held[:12]} and {shown[:12]}")
        self.held, self.shown, self.rotation = held, shown, rotation


def sign_rotation(
    old: Signer, new_public_key: bytes, *, entity_uri: str, rotated_ms: int, compromised_since_ms: int | None
) -> bytes:
    """The rotation from `old` to another key, in canonical JSON."""
    members = {
        "entity_uri": entity_uri,
        "old_key_id": old.key_id,
        "old_public_key": old.public_key_b64,
        "new_key_id": key_id_of(new_public_key),
        "new_public_key": b64url_encode(new_public_key),
        "rotated_at": format_ms(rotated_ms),
    }
    if compromised_since_ms is not None:
        members["compromised_since"] = format_ms(compromised_since_ms)
    return canonical_json(members | {"rotation_sig": b64url_encode(old.sign(canonical_json(members)))})


def open_rotation(members: object) -> Rotation:
    """A rotation from its JSON members. Raises ChainBroken for what is none; its signature is not checked.

    A reference node says `previous_key_id`, and names no entity (INTEROP §11).
    """
    try:
        signature_name = next(name for name in _SIGNATURES if name in members)
        old_key_id = members.get("old_key_id", members.get("previous_key_id"))
        new_public_key = b64url_decode(members["new_public_key"])
        old_text, since = members.get("old_public_key"), members.get("compromised_since")
        rotation = Rotation(
            entity_uri=members.get("entity_uri"),
            old_key_id=old_key_id,
            old_public_key=None if old_text is None else b64url_decode(old_text),
            new_public_key=new_public_key,
            rotated_ms=parse_rfc3339(members["rotated_at"]),
            compromised_since_ms=None if since is None else parse_rfc3339(since),
            signed=canonical_json({name: value for name, value in members.items() if name != signature_name}),
            signature=b64url_decode(members[signature_name]),
            document=canonical_json(members),
        )
    except (AttributeError, TypeError, LookupError, StopIteration, ValueError) as error:
        raise ChainBroken("rotation_events: what is no rotation") from error
    if members.get("new_key_id") != key_id_of(new_public_key) or not is_sound_public_key(new_public_key):
        raise ChainBroken("rotation_events: new_key_id is not the SHA-256 of a sound new_public_key")
    if rotation.old_public_key is not None and key_id_of(rotation.old_public_key) != old_key_id:
        raise ChainBroken("rotation_events: old_key_id is not the SHA-256 of old_public_key")
    return rotation


def read_rotation(document: bytes) -> Rotation:
    """The same from its JSON text."""
    try:
        return open_rotation(msgspec.json.decode(document))
    except msgspec.MsgspecError as error:
        raise ChainBroken("a rotation that cannot be read") from error


def rotations_in(manifest: bytes) -> list[Rotation]:
    """Those of a manifest's canonical JSON. Raises ChainBroken."""
    members = msgspec.json.decode(manifest)
    listed = members.get("rotation_events") if isinstance(members, dict) else None
    return [open_rotation(one) for one in listed or ()]


def rotated_in(manifest: bytes) -> set[str]:
    """The ids of the keys that a manifest's rotations lead on from, which were read before."""
    told = msgspec.json.decode(manifest).get("rotation_events") or ()
    return {one.get("old_key_id", one.get("previous_key_id")) for one in told}


def is_signed_by_old(rotation: Rotation, old_public_key: bytes) -> bool:
    return verify(old_public_key, rotation.signed, rotation.signature)


def first_key(public_key: bytes) -> KeyChain:
    return (ChainKey(public_key, None, None, True),)


def rotated(chain: KeyChain, rotation: Rotation) -> KeyChain:
    """The chain with its last key closed and the next one behind it.

    Whoever had the last key since some time had the files of those before it too, which lie beside: none proves more from then on.
    """
    closed = (*chain[:-1], _closed(chain[-1].public_key, rotation))
    return (*_compromised(closed, rotation.compromised_since_ms), *first_key(rotation.new_public_key))


def chain_of(entity_uri: str, public_key: bytes, rotations: Sequence[Rotation], held: KeyChain) -> KeyChain:
    """All that is known of an entity's keys once its manifest with `public_key` shows these rotations; `held` was known before.

    Raises ChainForked, or ChainBroken where they do not lead from the last key held to `public_key`.
    """
    shown = _verified(entity_uri, public_key, rotations, {key_id_of(key.public_key): key.public_key for key in held})
    if not held:
        return shown
    _require_no_fork(held, shown, rotations)
    keys = [key.public_key for key in shown]
    if held[-1].public_key not in keys:
        raise ChainBroken("rotation_events: they do not lead from the key that is held")
    # What was told first of a key that was rotated away is what counts.
    first_told = {key.public_key: key for key in held if key.rotated_ms is not None}
    before = [key for key in held if key.public_key not in keys]
    merged: KeyChain = (*before, *(first_told.get(key.public_key, key) for key in shown))
    told = {key_id_of(key) for key in first_told}
    for rotation in rotations:
        if rotation.compromised_since_ms is not None and rotation.old_key_id not in told:
            place = next(n for n, key in enumerate(merged) if key.public_key == rotation.new_public_key)
            merged = (*_compromised(merged[:place], rotation.compromised_since_ms), *merged[place:])
    return merged


def keys_for(chain: KeyChain, dated_ms: int) -> tuple[bytes, ...]:
    """The keys under which something of that date may be proved, newest first; of many the nearest to what was current then."""
    places = [n for n, key in enumerate(chain) if key.holds_until_ms is None or dated_ms <= key.holds_until_ms]
    if len(places) > MAX_TRIED:
        current = next(n for n, key in enumerate(chain) if key.rotated_ms is None or dated_ms <= key.rotated_ms)
        places = sorted(sorted(places, key=lambda place: abs(place - current))[:MAX_TRIED])
    return tuple(chain[place].public_key for place in reversed(places))


def keys_trusted_on(chain: KeyChain, window_ms: int, *, issued_ms: int, now_ms: int) -> tuple[bytes, ...]:
    """Keys that were rotated away, and whose credential of that date still holds now."""
    return tuple(
        key.public_key
        for key in reversed(chain)
        if key.rotated_ms is not None
        and key.is_trusted_on
        and issued_ms <= key.rotated_ms
        and now_ms <= key.rotated_ms + window_ms
    )


def _compromised(chain: KeyChain, since_ms: int | None) -> KeyChain:
    """Former keys, the last of which was in other hands since then; None: it was not."""
    if since_ms is None:
        return chain
    return tuple(
        structs.replace(key, holds_until_ms=min(key.holds_until_ms, since_ms), is_trusted_on=False) for key in chain
    )


def _closed(public_key: bytes, rotation: Rotation) -> ChainKey:
    since_ms, until_ms = rotation.compromised_since_ms, rotation.rotated_ms + LEEWAY_MS
    return ChainKey(
        public_key=public_key,
        rotated_ms=rotation.rotated_ms,
        holds_until_ms=until_ms if since_ms is None else min(since_ms, until_ms),
        is_trusted_on=since_ms is None,
    )


def _verified(entity_uri: str, public_key: bytes, rotations: Sequence[Rotation], known: dict[str, bytes]) -> KeyChain:
    """The chain that the rotations make, as far back as the public keys are known."""
    _require_in_order(entity_uri, public_key, rotations)
    chain: KeyChain = ()
    for rotation in rotations:
        old = chain[-1].public_key if chain else rotation.old_public_key or known.get(rotation.old_key_id)
        if old is None:
            # A newcomer to a node that does not tell its first key: nothing older than the second can be proved to it.
            chain = first_key(rotation.new_public_key)
            continue
        if not is_sound_public_key(old) or not is_signed_by_old(rotation, old):
            raise ChainBroken("rotation_events: a rotation is not signed by the key before it")
        chain = rotated(chain or first_key(old), rotation)
    return chain or first_key(public_key)


def _require_in_order(entity_uri: str, public_key: bytes, rotations: Sequence[Rotation]) -> None:
    if not rotations:
        return
    if any(rotation.entity_uri not in (None, entity_uri) for rotation in rotations):
        raise ChainBroken("rotation_events: of another entity")
    ids = [rotations[0].old_key_id, *(key_id_of(rotation.new_public_key) for rotation in rotations)]
    if [rotation.old_key_id for rotation in rotations] != ids[:-1] or len(set(ids)) != len(ids):
        raise ChainBroken("rotation_events: each goes on from the key of the one before, and no key comes back")
    times = [rotation.rotated_ms for rotation in rotations]
    if times != sorted(times):
        raise ChainBroken("rotation_events: rotated_at goes back")
    if rotations[-1].new_public_key != public_key:
        raise ChainBroken("rotation_events: the last one does not lead to the manifest's key")


def _require_no_fork(held: KeyChain, shown: KeyChain, rotations: Iterable[Rotation]) -> None:
    successor = {old.public_key: new.public_key for old, new in pairwise(held)}
    by_new = {rotation.new_public_key: rotation.document for rotation in rotations}
    for old, new in pairwise(shown):
        told = successor.get(old.public_key)
        if told is not None and told != new.public_key:
            raise ChainForked(key_id_of(told), key_id_of(new.public_key), by_new[new.public_key])
