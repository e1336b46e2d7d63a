"""Secrets that follow from the node's key and must outlive it: hashes of credentials in the log are under them (PROTOCOL §11).

Always: they are on disk only sealed, under a secret that follows from the key that is current; whoever holds a former key alone
cannot open what came with a later rotation.
Always: what is told again by its name alone follows from a fresh secret after each rotation, so that an old key tells nothing new.

Admin key, API keys and idempotency keys are hashed under the first key's secrets for ever: those hashes stand in the log, and a
secret of their own guesses nothing, as what is hashed is random itself.
"""

import msgspec
from msgspec import Struct, structs
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from node.canonical import b64url_decode, b64url_encode
from node.keys import Signer

NONCE_BYTES = SecretBox.NONCE_SIZE
# Answers are told again for a day; more rotations than this in one day have no answers behind them.
MAX_TOLD = 32
_TOLD_PURPOSE = "secrets-told-again"
_SEALING_PURPOSE = "kept-secrets"


class KeptSecrets(Struct, frozen=True, array_like=True):
    """`told` is newest first: what is made now follows from the first, what was made before from one of the others."""

    admin_key: bytes
    api_keys: bytes
    idempotency: bytes
    told: tuple[bytes, ...]

    def after_rotation(self, successor: Signer) -> "KeptSecrets":
        told = (successor.derive_secret(_TOLD_PURPOSE), *self.told)
        return structs.replace(self, told=told[:MAX_TOLD])

    def sealed_for(self, signer: Signer, nonce: bytes) -> str:
        """base64url; what `open_kept_secrets` opens with that key."""
        box = SecretBox(signer.derive_secret(_SEALING_PURPOSE))
        return b64url_encode(box.encrypt(msgspec.msgpack.encode(self), nonce))


def first_secrets(signer: Signer) -> KeptSecrets:
    """Those of a node whose key was never rotated: all follow from it."""
    return KeptSecrets(
        admin_key=signer.derive_secret("admin-key"),
        api_keys=signer.derive_secret("api-keys"),
        idempotency=signer.derive_secret("idempotency"),
        told=(signer.derive_secret(_TOLD_PURPOSE),),
    )


def open_kept_secrets(sealed: str, signer: Signer) -> KeptSecrets:
    """ValueError where they are not sealed for this key."""
    try:
        plain = SecretBox(signer.derive_secret(_SEALING_PURPOSE)).decrypt(b64url_decode(sealed))
    except CryptoError as error:
        raise ValueError("what is kept was not sealed for this key") from error
    return msgspec.msgpack.decode(plain, type=KeptSecrets)
