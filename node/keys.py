"""Ed25519: the node key and its file, verification of what others signed, and keyed hashes of secrets.

Always: `verify` is RFC 8032 with S below the group order, and refuses keys of small order or of a second spelling:
under them one signature would verify for many messages, or one key would have two key_ids. Any bad input is False.
A key file is there whole or not at all, and is never written over.

Does not decide: whose key it is, or when it was current (see node/projections/peers.py and identity.py).
"""

import base64
import hashlib
import hmac
import os
import tempfile
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign, crypto_sign_open
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from node.durable import sync

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class KeyFileError(Exception):
    """The key file cannot be read or written; the message is one line for the operator."""


class Signer:
    """The private half of one key. Holds it in memory and shows it to nobody."""

    def __init__(self, signing_key: SigningKey) -> None:
        self._signing_key = signing_key
        self._secret_key = bytes(signing_key) + bytes(signing_key.verify_key)
        self.public_key = bytes(signing_key.verify_key)
        self.public_key_b64 = base64.urlsafe_b64encode(self.public_key).rstrip(b"=").decode("ascii")
        self.key_id = key_id_of(self.public_key)

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        return cls(SigningKey(seed))

    def sign(self, message: bytes) -> bytes:
        # Not SigningKey.sign: what it wraps around these bytes costs a fifth of the signature.
        return crypto_sign(message, self._secret_key)[:SIGNATURE_BYTES]

    def derive_secret(self, purpose: str) -> bytes:
        """A secret of 32 bytes for `purpose`: the same at every start with this key, another after a key rotation."""
        return hashlib.blake2b(purpose.encode(), key=bytes(self._signing_key), digest_size=32).digest()


class KeyInUse:
    """The key that the node signs with, and the one that a rotation under way names; the log says when it is in use.

    Always: while there is a `successor`, the log may hold its rotation or not, and neither key's file may be deleted.
    """

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self.successor: Signer | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is known which key the log goes on with."""
        return self.successor is None

    def settle(self, signed_last: bytes) -> None:
        """The log's last entry is signed by this public key: a successor that it is of is in use from now on, another is none."""
        if self.successor is not None and self.successor.public_key == signed_last:
            self.signer = self.successor
        self.successor = None

    def forget_successor(self) -> None:
        """Nothing of the rotation under way was given to the log."""
        self.successor = None


def key_id_of(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()


def is_sound_public_key(public_key: bytes) -> bool:
    """Whether a key may be believed in at all: a point of the prime-order group in its one encoding.

    So small order is refused, and mixed order too: RFC 8032 leaves verifiers free to multiply by the cofactor, and
    under a key of mixed order those who do and those who do not judge the same signature differently.
    """
    return len(public_key) == PUBLIC_KEY_BYTES and crypto_core_ed25519_is_valid_point(public_key)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    # libsodium reads 32 and 64 bytes whatever it is given: a shorter key would be completed from foreign memory.
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def keyed_hash(secret: bytes, text: str) -> str:
    """For credentials at rest: without `secret` a stolen table cannot even be tried against guesses."""
    return hashlib.blake2b(_bytes_of(text), key=secret, digest_size=32).hexdigest()


def hashes_to(secret: bytes, text: str, known_hash: str) -> bool:
    """Whether that is the keyed hash of a text, found in time that does not tell how far they agree."""
    return hmac.compare_digest(keyed_hash(secret, text), known_hash)


def equal_secrets(a: str, b: str) -> bool:
    """In time that does not tell how many characters agree."""
    return hmac.compare_digest(_bytes_of(a), _bytes_of(b))


def load_signer(path: str | os.PathLike[str], passphrase: str | None) -> Signer:
    """The key of a PEM PKCS#8 file, encrypted or not; a passphrase that the file does not need is left unused."""
    pem = _read_key_file(Path(path))
    try:
        return _signer_of(_private_key(pem, passphrase))
    except KeyFileError as error:
        raise KeyFileError(f"key file {path}: {error}") from error


def create_key_file(path: str | os.PathLike[str], seed: bytes, passphrase: str | None = None) -> Signer:
    """Write a new key as PEM PKCS#8, mode 0600, encrypted where there is a passphrase."""
    private_key = Ed25519PrivateKey.from_private_bytes(seed)
    pem = private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption(),
    )
    try:
        _write_new_file(Path(path), pem)
    except FileExistsError as error:
        raise KeyFileError(f"key file {path}: exists already and is never written over") from error
    except OSError as error:
        raise KeyFileError(f"key file {path}: cannot be written ({error.strerror})") from error
    return _signer_of(private_key)


def is_encrypted_key_file(path: str | os.PathLike[str]) -> bool:
    """Raises KeyFileError where it cannot be read."""
    return _is_encrypted(_read_key_file(Path(path)))


def _is_encrypted(pem: bytes) -> bool:
    return b"ENCRYPTED" in pem


def _read_key_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"key file {path}: cannot be read ({error.strerror})") from error


def _private_key(pem: bytes, passphrase: str | None) -> object:
    if b"-----BEGIN " not in pem:
        raise KeyFileError("is not PEM")
    is_encrypted = _is_encrypted(pem)
    if is_encrypted and not passphrase:
        raise KeyFileError("is encrypted, and no passphrase is set")
    try:
        return serialization.load_pem_private_key(pem, passphrase.encode() if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        cause = "the passphrase is wrong or the file is damaged" if is_encrypted else "holds no private key"
        raise KeyFileError(cause) from error


def _signer_of(private_key: object) -> Signer:
    if not isinstance(private_key, Ed25519PrivateKey):
        raise KeyFileError("holds a key that is not Ed25519")
    return Signer.from_seed(private_key.private_bytes_raw())


def _write_new_file(path: Path, content: bytes) -> None:
    # mkstemp opens with O_EXCL and 0600; link, unlike rename, fails where the name is taken.
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    finally:
        os.unlink(draft)
    sync(path.parent)


def _bytes_of(text: str) -> bytes:
    # A header's undecodable bytes arrive as lone surrogates; a wrong secret is to be unequal, not an error.
    return text.encode("utf-8", "surrogatepass")
