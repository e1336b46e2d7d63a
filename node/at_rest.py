"""Where the secret comes from that everything at rest is sealed under (PROTOCOL §12): a key file, a passphrase, or the node key.

Always: one source and no other. The node key is one only where its file lies outside the data folder: a key beside what it
locks locks nothing.

Does not seal anything (see node/events/cipher.py and key_file.py).
"""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from msgspec import Struct

from node.config import Config
from node.keys import Signer
from node.private_files import why_not_private

PURPOSE = "at-rest"
_KEY = re.compile(r"[0-9a-f]{64}")
_HOW_TO = "set STIGMEM_AT_REST_KEY_FILE, STIGMEM_AT_REST_KEY_PASSPHRASE_ENV, or STIGMEM_NODE_PRIVATE_KEY_FILE to a file outside it"


class AtRestError(Exception):
    """What is encrypted cannot be opened, or what is asked for does not fit what is there; one line for the operator."""


class Secret(Struct, frozen=True):
    """What a file key is wrapped under: 32 bytes, or the passphrase they are made from. Shows itself to nobody."""

    source: Literal["key_file", "passphrase", "node_key"]
    value: bytes

    def __repr__(self) -> str:
        return f"Secret({self.source})"

    def __rich_repr__(self) -> tuple[object, ...]:
        return (self.source,)


def require_source(config: Config) -> None:
    """Raise AtRestError where encryption is on and there is nothing to derive a key from that lies elsewhere."""
    if not config.at_rest_encryption or config.at_rest_passphrase is not None:
        return
    if config.at_rest_key_file is not None:
        if lies_within(config.at_rest_key_file, config.data_dir):
            raise AtRestError(
                "STIGMEM_AT_REST_KEY_FILE: it lies in the data folder, beside what it would lock: move it"
            )
        return
    if config.node_private_key_file is None or lies_within(config.node_private_key_file, config.data_dir):
        raise AtRestError(
            "STIGMEM_AT_REST_ENCRYPTION: the node key lies in the data folder, beside what it would lock: " + _HOW_TO
        )


def secret_of(config: Config, signer: Callable[[], Signer]) -> Secret | None:
    """The secret that the settings name, the node key only where it is that; None where encryption is off. Raises AtRestError."""
    if not config.at_rest_encryption:
        return None
    require_source(config)
    if config.at_rest_key_file is not None:
        return read_key_file(Path(config.at_rest_key_file))
    if config.at_rest_passphrase is not None:
        return Secret("passphrase", config.at_rest_passphrase.encode("utf-8", "surrogateescape"))
    return node_secret(signer())


def node_secret(signer: Signer) -> Secret:
    """What is derived from a node key: the same at every start with this key."""
    return Secret("node_key", signer.derive_secret(PURPOSE))


def read_key_file(path: Path) -> Secret:
    """The 32 bytes that stand as 64 hex digits in a file that is private. Raises AtRestError."""
    try:
        with path.open("rb") as file:
            reason, content = why_not_private(path, os.fstat(file.fileno())), file.read(128)
    except OSError as error:
        raise AtRestError(f"STIGMEM_AT_REST_KEY_FILE: {path} cannot be read ({error.strerror})") from error
    if reason is not None:
        raise AtRestError(f"STIGMEM_AT_REST_KEY_FILE: {reason}")
    text = content.decode("ascii", "replace").strip()
    if not _KEY.fullmatch(text.lower()):
        raise AtRestError(f"STIGMEM_AT_REST_KEY_FILE: {path} does not hold 64 hex digits")
    return Secret("key_file", bytes.fromhex(text))


def fingerprint(secret: bytes, purpose: str) -> str:
    """16 hex digits that tell one key from another and nothing of it."""
    return hashlib.blake2b(b"fingerprint of " + purpose.encode(), key=secret, digest_size=8).hexdigest()


def lies_within(file: str | Path, folder: str | Path) -> bool:
    """Whether a file lies in a folder or anywhere below it, links followed."""
    return Path(folder).resolve() in Path(file).resolve().parents
