"""`DATA_DIR/at-rest.key`: the file key, wrapped under the operator's secret (PROTOCOL §12, docs/log-format.md).

Always: it is replaced whole, by rename, never written over; a new one waits beside it as `at-rest.key.new` until the log says
by its id that it is the one.
Always: an unwrapped key is in memory alone. Whoever has the file and not the secret has nothing; whoever has an older file and its
secret has nothing of what was erased since, because the log's keys are then wrapped under another (see `item_keys.py`).

Does not know where the secret comes from (see node/at_rest.py).
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs
from nacl.pwhash import argon2id

from node.at_rest import AtRestError, Secret, fingerprint
from node.durable import replace_file
from node.events.cipher import KEY_BYTES, new_key, seal, unseal

KEY_FILE, NEXT_KEY_FILE = "at-rest.key", "at-rest.key.new"
ID_BYTES = 16
_BOUND_TO = b"stigmem-at-rest/v1"
_SALT_BYTES = 16
# For one start of a node: 3 passes over 256 MiB, about half a second, and as much for whoever tries a passphrase.
_PASSES, _MEMORY_BYTES = argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_MODERATE
Hex = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{2})*\Z", max_length=512)]


class FileKey(Struct, frozen=True):
    """The keys of one data folder: that of the key table in the log, named by `id`, and that of the views."""

    id: bytes
    items: bytes
    views: bytes

    def __repr__(self) -> str:
        return f"FileKey({self.id.hex()})"

    def __rich_repr__(self) -> tuple[object, ...]:
        return (self.id.hex(),)

    @property
    def views_mark(self) -> str:
        """What tells views under this key from others."""
        return fingerprint(self.views, "views")


class _Wrap(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file key under one secret; `salt`, `passes` and `memory_bytes` are of Argon2id, for a passphrase alone."""

    source: Literal["key_file", "passphrase", "node_key"]
    salt: Hex
    passes: Annotated[int, Meta(ge=0, le=16)]
    memory_bytes: Annotated[int, Meta(ge=0, le=1 << 30)]
    sealed: Hex


class _Stored(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: one file key under one secret, or under two while a node key is rotated."""

    v: Literal[1]
    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    wraps: Annotated[tuple[_Wrap, ...], Meta(min_length=1, max_length=4)]


def new_file_key(views: bytes | None = None) -> FileKey:
    """A fresh one; with `views`, it keeps that key: views made under it can still be read."""
    return FileKey(os.urandom(ID_BYTES), new_key(), views or new_key())


def unlock(data_dir: Path, secret: Secret) -> tuple[FileKey, ...]:
    """The file keys that the secret opens: one, or two where a change of it was cut off. Only reads.

    Raises AtRestError where it opens none.
    """
    found = [name for name in (KEY_FILE, NEXT_KEY_FILE) if (data_dir / name).exists()]
    keys = [key for name in found if (key := _opened((data_dir / name).read_bytes(), name, secret)) is not None]
    if not keys:
        raise AtRestError(f"{data_dir} is encrypted under another key than the {_WORDS[secret.source]} that is set")
    return tuple(keys)


def opened(content: bytes, secret: Secret) -> FileKey:
    """The file key in the bytes of a key file. Raises AtRestError where the secret does not open it."""
    key = _opened(content, KEY_FILE, secret)
    if key is None:
        raise AtRestError(f"it is encrypted under another key than the {_WORDS[secret.source]} that is set")
    return key


def id_in(content: bytes) -> bytes:
    """Whose file it is, of the bytes of a key file. Raises AtRestError."""
    return bytes.fromhex(_read(content, KEY_FILE).id)


def id_of(path: Path) -> bytes | None:
    """Whose file it is; None where there is none."""
    return bytes.fromhex(_read(path.read_bytes(), path.name).id) if path.exists() else None


def write_file_key(path: Path, key: FileKey, secret: Secret) -> None:
    """Make the file, on disk before it has its name."""
    _write(path, _Stored(v=1, id=key.id.hex(), wraps=(_wrapped(key, secret),)))


def add_secret(data_dir: Path, old: Secret, new: Secret) -> None:
    """Let the folder be opened with `new` too: the first half of a change of secret. Done twice it is done once."""
    stored, key = _stored_and_key(data_dir, old)
    if not any(_unwrapped(stored, wrap, new) for wrap in stored.wraps):
        _write(data_dir / KEY_FILE, structs.replace(stored, wraps=(*stored.wraps, _wrapped(key, new))))


def keep_only(data_dir: Path, secret: Secret) -> None:
    """Let the folder be opened with this one alone: the second half. What is kept is not written anew."""
    stored, _ = _stored_and_key(data_dir, secret)
    kept = tuple(wrap for wrap in stored.wraps if _unwrapped(stored, wrap, secret))
    if kept != stored.wraps:
        _write(data_dir / KEY_FILE, structs.replace(stored, wraps=kept))


def rewrap(data_dir: Path, old: Secret, new: Secret) -> None:
    """Have the folder opened with `new` and no longer with `old`, where nothing else has to change in between."""
    add_secret(data_dir, old, new)
    keep_only(data_dir, new)


_WORDS = {"key_file": "key file", "passphrase": "passphrase", "node_key": "node key"}


def _stored_and_key(data_dir: Path, secret: Secret) -> tuple[_Stored, FileKey]:
    content = (data_dir / KEY_FILE).read_bytes()
    return _read(content, KEY_FILE), opened(content, secret)


def _opened(content: bytes, name: str, secret: Secret) -> FileKey | None:
    stored = _read(content, name)
    keys = (_unwrapped(stored, wrap, secret) for wrap in stored.wraps)
    return next((key for key in keys if key is not None), None)


def _read(content: bytes, name: str) -> _Stored:
    try:
        return msgspec.json.decode(content, type=_Stored)
    except ValueError as error:  # MsgspecError is one; bytes that are not UTF-8 raise another
        raise AtRestError(f"{name} cannot be read: without it what is encrypted is lost; bring back a copy") from error


def _wrapped(key: FileKey, secret: Secret) -> _Wrap:
    is_passphrase = secret.source == "passphrase"
    salt = os.urandom(_SALT_BYTES) if is_passphrase else b""
    passes, memory_bytes = (_PASSES, _MEMORY_BYTES) if is_passphrase else (0, 0)
    wrapping = _wrapping_key(secret, salt, passes, memory_bytes)
    return _Wrap(
        source=secret.source,
        salt=salt.hex(),
        passes=passes,
        memory_bytes=memory_bytes,
        sealed=seal(wrapping, _BOUND_TO + key.id, key.items + key.views).hex(),
    )


def _unwrapped(stored: _Stored, wrap: _Wrap, secret: Secret) -> FileKey | None:
    if wrap.source != secret.source:
        return None
    own_id = bytes.fromhex(stored.id)
    try:
        wrapping = _wrapping_key(secret, bytes.fromhex(wrap.salt), wrap.passes, wrap.memory_bytes)
        keys = unseal(wrapping, _BOUND_TO + own_id, bytes.fromhex(wrap.sealed))
    except ValueError:
        return None
    return FileKey(own_id, keys[:KEY_BYTES], keys[KEY_BYTES:]) if len(keys) == 2 * KEY_BYTES else None


def _wrapping_key(secret: Secret, salt: bytes, passes: int, memory_bytes: int) -> bytes:
    if secret.source != "passphrase":
        return secret.value
    return argon2id.kdf(KEY_BYTES, secret.value, salt, opslimit=passes, memlimit=memory_bytes)


def _write(path: Path, stored: _Stored) -> None:
    write_content(path, msgspec.json.encode(stored) + b"\n")


def write_content(path: Path, content: bytes) -> None:
    """Put a key file into its place, on disk before it has its name."""
    replace_file(path, content, draft=path.with_name(f".{path.name}.draft"))
