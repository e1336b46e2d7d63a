"""XChaCha20-Poly1305 over what lies at rest: items, the keys of items, rows of views (PROTOCOL §12).

Always: every nonce is 24 random bytes, drawn for that one sealing. One made from the place would be free of charge and would come
again: a place is written twice, with other content and under the same key, where an append that was never acknowledged is
lost in a crash, where a copy of the folder goes on by itself, where views are folded anew. Of random nonces of this length two
are alike once in 2^80 sealings.
Always: what is sealed is bound to its place by the associated data, so that a row cannot be moved to another.

Does not know whose keys they are (see `item_keys.py`, `key_file.py`).
"""

import hashlib
import os
from collections.abc import Sequence

# As nacl.bindings does, but for its wrapper, which takes three times as long as the cipher: 4 us against 1, for every item and row.
from nacl._sodium import ffi, lib

KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 24, 16

# Key, associated data, message.
Job = tuple[bytes, bytes, bytes]

_encrypt, _decrypt = (
    lib.crypto_aead_xchacha20poly1305_ietf_encrypt,
    lib.crypto_aead_xchacha20poly1305_ietf_decrypt,
)
_new, _buffer, _NULL = ffi.new, ffi.buffer, ffi.NULL


def seal(key: bytes, place: bytes, message: bytes) -> bytes:
    """Nonce ‖ ciphertext ‖ tag."""
    return seal_all([(key, place, message)])[0]


def seal_all(jobs: Sequence[Job]) -> list[bytes]:
    """`seal` of each."""
    if not jobs:
        return []
    _require_keys(jobs)
    # One buffer for all, and one draw: a call costs as much as a small message.
    out = _new("unsigned char[]", max(len(message) for _, _, message in jobs) + TAG_BYTES)
    taken, nonces, sealed = _buffer(out), os.urandom(NONCE_BYTES * len(jobs)), []
    for number, (key, place, message) in enumerate(jobs):
        nonce, size = nonces[number * NONCE_BYTES : (number + 1) * NONCE_BYTES], len(message)
        _encrypt(out, _NULL, message, size, place, len(place), _NULL, nonce, key)
        sealed.append(nonce + taken[: size + TAG_BYTES])
    return sealed


def unseal(key: bytes, place: bytes, sealed: bytes) -> bytes:
    """The inverse of `seal`. Raises ValueError where key, place or a bit of it is another."""
    size = len(sealed) - NONCE_BYTES
    if size < TAG_BYTES or len(key) != KEY_BYTES:
        raise ValueError("too short to be sealed")
    out = _new("unsigned char[]", size)
    nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    if _decrypt(out, _NULL, _NULL, content, size, place, len(place), nonce, key) != 0:
        raise ValueError("it was not sealed under this key, for this place")
    return _buffer(out)[: size - TAG_BYTES]


def derive(key: bytes, purpose: str, size: int = KEY_BYTES) -> bytes:
    """A key for one purpose, from which neither this key nor that of another purpose follows."""
    return hashlib.blake2b(purpose.encode(), key=key, digest_size=size).digest()


def new_key() -> bytes:
    return os.urandom(KEY_BYTES)


def _require_keys(jobs: Sequence[Job]) -> None:
    # libsodium reads 32 bytes whatever it is given.
    if any(len(key) != KEY_BYTES for key, _, _ in jobs):
        raise ValueError("a key has 32 bytes")
