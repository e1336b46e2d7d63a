"""Ed25519 against Wycheproof and against keys that prove nothing; key files as openssl writes them."""

import base64
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add

from node.keys import (
    KeyFileError,
    Signer,
    create_key_file,
    equal_secrets,
    is_sound_public_key,
    key_id_of,
    keyed_hash,
    load_signer,
    verify,
)

WYCHEPROOF = json.loads((Path(__file__).parent / "vectors" / "wycheproof" / "ed25519_test.json").read_bytes())
VERDICTS = [
    pytest.param(group["publicKey"]["pk"], case, id=f"{case['tcId']}-{case['result']}")
    for group in WYCHEPROOF["testGroups"]
    for case in group["tests"]
]
SEED = bytes(range(32))
ORDER = 2**252 + 27742317777372353535851937790883648493
PRIME = 2**255 - 19
ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


def encoded(y: int, sign: int) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


SMALL_ORDER_Y = {
    "identity": 1,
    "order 2": PRIME - 1,
    "order 4": 0,
    "order 8": ORDER_8_Y,
    "order 8 negated": PRIME - ORDER_8_Y,
}
SECOND_SPELLING_Y = {"identity": PRIME + 1, "order 4": PRIME, "y of 3": PRIME + 3, "the highest": 2**255 - 1}
UNSOUND_KEYS = [
    pytest.param(encoded(y, sign), id=f"{kind} {name}, sign {sign}")
    for kind, table in (("small", SMALL_ORDER_Y), ("non-canonical", SECOND_SPELLING_Y))
    for name, y in table.items()
    for sign in (0, 1)
]


def test_wycheproof_is_whole():
    assert len(VERDICTS) == WYCHEPROOF["numberOfTests"] == 151


@pytest.mark.parametrize(("public_key", "case"), VERDICTS)
def test_the_verdict_is_that_of_wycheproof(public_key, case):
    verdict = verify(bytes.fromhex(public_key), bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
    assert verdict == (case["result"] == "valid")


@pytest.mark.parametrize("public_key", UNSOUND_KEYS)
def test_a_key_of_small_order_or_second_spelling_is_not_sound(public_key):
    assert not is_sound_public_key(public_key)


@pytest.mark.parametrize("public_key", UNSOUND_KEYS)
def test_nothing_verifies_under_a_key_of_small_order_or_second_spelling(public_key):
    # R = r*B and S = r satisfy the equation under such a key whenever the hash is a multiple of the key's order.
    r_scalar, r_point = scalar_and_point()
    forged = r_point + r_scalar
    hits = [n for n in range(200) if challenge(r_point, public_key, message_of(n)) % 8 == 0]
    assert hits
    assert not any(verify(public_key, message_of(n), forged) for n in range(200))


def test_a_key_of_mixed_order_is_not_sound():
    mixed = crypto_core_ed25519_add(Signer.from_seed(SEED).public_key, encoded(ORDER_8_Y, 0))
    assert not is_sound_public_key(mixed)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_length_is_neither_sound_nor_verifies(size):
    signature = Signer.from_seed(SEED).sign(b"m")
    assert not is_sound_public_key(bytes(size))
    assert not verify(bytes(size), b"m", signature)


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_no_bytes_make_verify_raise(public_key, signature):
    assert not verify(public_key, b"m", signature)


def test_a_signature_holds_for_its_message_and_key_alone():
    signer, other = Signer.from_seed(SEED), Signer.from_seed(bytes(32))
    signature = signer.sign(b"m")
    assert len(signature) == 64
    assert verify(signer.public_key, b"m", signature)
    assert not verify(signer.public_key, b"n", signature)
    assert not verify(other.public_key, b"m", signature)


def test_a_signature_with_s_beyond_the_group_order_is_refused():
    signer = Signer.from_seed(SEED)
    signature = signer.sign(b"m")
    raised = int.from_bytes(signature[32:], "little") + ORDER
    assert not verify(signer.public_key, b"m", signature[:32] + raised.to_bytes(32, "little"))


def test_a_signer_is_sound_and_names_itself_by_the_hash_of_its_public_key():
    signer = Signer.from_seed(SEED)
    assert is_sound_public_key(signer.public_key)
    assert signer.key_id == key_id_of(signer.public_key) == hashlib.sha256(signer.public_key).hexdigest()
    assert base64.urlsafe_b64decode(signer.public_key_b64 + "=") == signer.public_key
    assert "=" not in signer.public_key_b64


def test_derived_secrets_differ_by_purpose_and_by_key_and_stay_the_same():
    signer, other = Signer.from_seed(SEED), Signer.from_seed(bytes(32))
    secrets = {signer.derive_secret("api-keys"), signer.derive_secret("cursors"), other.derive_secret("api-keys")}
    assert len(secrets) == 3
    assert {len(secret) for secret in secrets} == {32}
    assert signer.derive_secret("api-keys") == Signer.from_seed(SEED).derive_secret("api-keys")


def test_a_keyed_hash_depends_on_the_secret_and_on_the_text():
    hashes = {keyed_hash(b"a" * 32, "sk_1"), keyed_hash(b"b" * 32, "sk_1"), keyed_hash(b"a" * 32, "sk_2")}
    assert {len(bytes.fromhex(one)) for one in hashes} == {32}
    assert len(hashes) == 3


@pytest.mark.parametrize("presented", ["", "secre", "secret2", "sécret", "\udcff"], ids=repr)
def test_only_the_secret_itself_is_equal_to_it(presented):
    assert equal_secrets("secret", "secret")
    assert not equal_secrets("secret", presented)
    assert keyed_hash(b"k" * 32, presented) != keyed_hash(b"k" * 32, "secret")


def test_a_created_key_file_is_private_pem_and_loads_as_the_same_key(tmp_path):
    path = tmp_path / "node.key"
    created = create_key_file(path, SEED)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == openssl_pem(Ed25519PrivateKey.from_private_bytes(SEED))
    assert created.key_id == load_signer(path, None).key_id == Signer.from_seed(SEED).key_id
    assert os.listdir(tmp_path) == ["node.key"]


def test_a_key_file_is_never_written_over(tmp_path):
    path = tmp_path / "node.key"
    path.write_text("the only copy")
    with pytest.raises(KeyFileError, match="exists already"):
        create_key_file(path, SEED)
    assert path.read_text() == "the only copy"
    assert os.listdir(tmp_path) == ["node.key"]


def test_a_key_file_in_a_folder_that_is_not_there_is_a_key_file_error(tmp_path):
    with pytest.raises(KeyFileError, match="cannot be written"):
        create_key_file(tmp_path / "nowhere" / "node.key", SEED)


def test_a_key_file_created_with_a_passphrase_opens_with_it_alone(tmp_path):
    path = tmp_path / "node.key"
    create_key_file(path, SEED, "correct horse")
    assert load_signer(path, "correct horse").key_id == Signer.from_seed(SEED).key_id
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        load_signer(path, "wrong horse")


def test_a_passphrase_that_the_file_does_not_need_is_left_unused(tmp_path):
    create_key_file(tmp_path / "node.key", SEED)
    assert load_signer(tmp_path / "node.key", "unneeded").key_id == Signer.from_seed(SEED).key_id


def test_a_key_file_as_openssl_writes_it_loads(tmp_path):
    path = tmp_path / "openssl.pem"
    # `openssl genpkey -algorithm ed25519`
    path.write_text(
        "-----BEGIN PRIVATE KEY-----\n"
        "MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n"
        "-----END PRIVATE KEY-----\n"
    )
    assert load_signer(path, None).key_id == Signer.from_seed(SEED).key_id


BAD_FILES = {
    "no PEM": (b"\x00\x01binary", None, "is not PEM"),
    "empty": (b"", None, "is not PEM"),
    "torn": (b"-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n", None, "holds no private key"),
    "not Ed25519": (lambda: openssl_pem(ec.generate_private_key(ec.SECP256R1())), None, "not Ed25519"),
    "public half only": (lambda: public_pem(ed25519()), None, "holds no private key"),
    "encrypted, no passphrase": (lambda: openssl_pem(ed25519(), b"right"), None, "no passphrase is set"),
    "encrypted, empty passphrase": (lambda: openssl_pem(ed25519(), b"right"), "", "no passphrase is set"),
    "encrypted, wrong passphrase": (lambda: openssl_pem(ed25519(), b"right"), "wrong", "passphrase is wrong"),
}


@pytest.mark.parametrize(("content", "passphrase", "cause"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_key_file_that_does_not_serve_is_named_with_its_cause_in_one_line(tmp_path, content, passphrase, cause):
    path = tmp_path / "bad.pem"
    path.write_bytes(content() if callable(content) else content)
    with pytest.raises(KeyFileError, match=cause) as caught:
        load_signer(path, passphrase)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_file_that_is_not_there_cannot_be_read(tmp_path):
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_signer(tmp_path / "absent.pem", None)


def ed25519() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(SEED)


def openssl_pem(key, passphrase: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def scalar_and_point() -> tuple[bytes, bytes]:
    """A scalar below the group order and that multiple of the base point: both halves of a key."""
    digest = bytearray(hashlib.sha512(SEED).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    scalar = int.from_bytes(digest, "little") % ORDER
    return scalar.to_bytes(32, "little"), Signer.from_seed(SEED).public_key


def message_of(n: int) -> bytes:
    return n.to_bytes(2, "big")


def challenge(r_point: bytes, public_key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(r_point + public_key + message).digest(), "little") % ORDER
