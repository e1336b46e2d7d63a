"""Items of an encrypted log opened a second time, written from docs/log-format.md alone.

Always: nothing of node/ or replay/ is imported. What does not open is a ValueError with the words for it.

Does not check under which entity's name an item ought to lie: what items say is not read here.
"""

import hashlib
import json
from pathlib import Path

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

# The source of a key file's wrap, and its secret: 32 bytes of the key file, the 32 byte seed of the node key, or the passphrase.
Secret = tuple[str, bytes]

SEALED = 1
NAME_BYTES, WRAPPED_BYTES, NONCE_BYTES, KEY_BYTES, TAG_BYTES = 16, 72, 24, 32, 16
OWN_NAME = bytes(NAME_BYTES)
SHORTEST_ROW = 1 + NAME_BYTES + NONCE_BYTES + TAG_BYTES


def derived(key: bytes, purpose: bytes, size: int = KEY_BYTES) -> bytes:
    return hashlib.blake2b(purpose, key=key, digest_size=size).digest()


def opened(key: bytes, place: bytes, sealed: bytes) -> bytes:
    """The message of Sealed(key, place, message). ValueError where a bit of either is another."""
    if len(key) != KEY_BYTES or len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise ValueError("too short to be sealed")
    try:
        return decrypt(sealed[NONCE_BYTES:], place, sealed[:NONCE_BYTES], key)
    except CryptoError as error:
        raise ValueError("does not open") from error


def items_key(data_dir: Path, file_key_id: bytes, secret: Secret) -> bytes:
    """The key that the rows of `item_keys` are sealed under, out of the key file that the log names."""
    for name in ("at-rest.key", "at-rest.key.new"):
        path = data_dir / name
        stored = json.loads(path.read_bytes()) if path.exists() else {}
        if stored.get("v") == 1 and stored["id"] == file_key_id.hex():
            return _unwrapped(stored, file_key_id, secret)
    raise ValueError("there is no key file of the id that the log names")


def item_keys(rows: dict[bytes, bytes], key: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Of the table `item_keys` the keys by name, and the names of the rows that do not open."""
    keys, shut = {}, []
    for name, row in rows.items():
        try:
            keys[name] = opened(key, b"stigmem-item-key/v1" + name, row)
        except ValueError:
            shut.append(name)
    return keys, shut


def item_of(keys: dict[bytes, bytes], place: bytes, row: bytes) -> bytes:
    """Salt ‖ item of a row in form 1, that lies under `place`, the 12 bytes of its own key."""
    name = row[1 : 1 + NAME_BYTES]
    if name not in keys:
        raise ValueError("no key of its name opens")
    return opened(keys[name], place + name, row[1 + NAME_BYTES :])


def _unwrapped(stored: dict, file_key_id: bytes, secret: Secret) -> bytes:
    source, value = secret
    for wrap in stored["wraps"]:
        if wrap["source"] != source:
            continue
        try:
            keys = opened(_wrapping(wrap, value), b"stigmem-at-rest/v1" + file_key_id, bytes.fromhex(wrap["sealed"]))
        except ValueError:
            continue  # it lies under two secrets while a node key is rotated
        if len(keys) == 2 * KEY_BYTES:
            return keys[:KEY_BYTES]
    raise ValueError("the secret does not open the key file")


def _wrapping(wrap: dict, value: bytes) -> bytes:
    if wrap["source"] == "node_key":
        return derived(value, b"at-rest")
    if wrap["source"] == "passphrase":
        salt = bytes.fromhex(wrap["salt"])
        return argon2id.kdf(KEY_BYTES, value, salt, opslimit=wrap["passes"], memlimit=wrap["memory_bytes"])
    return value
