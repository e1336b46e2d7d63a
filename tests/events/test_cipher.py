"""Sealing: it is libsodium's XChaCha20-Poly1305 to the byte, and holds for one key, one place and one content."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)

from node.events.cipher import NONCE_BYTES, derive, new_key, seal, seal_all, unseal

KEY = bytes(range(32))


@given(message=st.binary(max_size=5000), place=st.binary(max_size=40))
def test_what_is_sealed_is_what_libsodium_opens_and_the_other_way_round(message, place):
    sealed = seal(KEY, place, message)
    nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]

    assert crypto_aead_xchacha20poly1305_ietf_decrypt(content, place, nonce, KEY) == message
    assert unseal(KEY, place, nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(message, place, nonce, KEY)) == message


def test_many_are_sealed_as_one_is_each_under_a_nonce_of_its_own():
    jobs = [(derive(KEY, str(number)), b"%d" % number, bytes(number)) for number in range(50)]

    sealed = seal_all(jobs)

    assert [unseal(*job[:2], one) for job, one in zip(jobs, sealed, strict=True)] == [job[2] for job in jobs]
    assert len({one[:NONCE_BYTES] for one in sealed}) == len(jobs)
    assert seal_all([]) == []


@pytest.mark.parametrize(
    ("key", "place", "index"),
    [(new_key(), b"here", None), (KEY, b"there", None), (KEY, b"here", 0), (KEY, b"here", 30), (KEY, b"here", -1)],
    ids=["another key", "another place", "another nonce", "another content", "another tag"],
)
def test_whatever_is_another_does_not_open(key, place, index):
    sealed = bytearray(seal(KEY, b"here", b"a message"))
    if index is not None:
        sealed[index] ^= 1

    with pytest.raises(ValueError, match="not sealed under this key"):
        unseal(key, place, bytes(sealed))


@pytest.mark.parametrize("size", [0, 1, NONCE_BYTES, NONCE_BYTES + 15])
def test_what_is_too_short_is_refused(size):
    with pytest.raises(ValueError, match="too short"):
        unseal(KEY, b"", bytes(size))


def test_a_key_of_another_length_seals_nothing():
    with pytest.raises(ValueError, match="32 bytes"):
        seal(KEY[:31], b"", b"a message")
