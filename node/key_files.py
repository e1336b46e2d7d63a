"""The node's key file and its replacement: NAME, NAME.next while a rotation is under way, NAME.KEYID12 for each key before.

Always: which of two keys is the node's is said by its log, never by what files are there: `settle` makes the files follow it,
however far it came before. A key is deleted only where the log never knew it.
"""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from node.durable import sync
from node.keys import KeyFileError, Signer, create_key_file, is_encrypted_key_file, load_signer


class KeyFile:
    """One key file. `passphrase` opens it where it is encrypted; its successor is encrypted where it is."""

    def __init__(self, path: str | os.PathLike[str], passphrase: str | None) -> None:
        # Behind a symbolic link a rename would leave the old key in place.
        self._path = Path(path).resolve()
        self._next = self._path.with_name(f"{self._path.name}.next")
        self._passphrase = passphrase

    def load(self) -> Signer:
        """Raises KeyFileError."""
        return load_signer(self._path, self._passphrase)

    def write_successor(self, seed: bytes) -> Signer:
        """Write a new key beside the old one, once the files are settled. Raises KeyFileError where another lies there still."""
        passphrase = self._passphrase if is_encrypted_key_file(self._path) else None
        return create_key_file(self._next, seed, passphrase)

    @property
    def is_unsettled(self) -> bool:
        """Whether a rotation is under way, or was cut off."""
        return self._next.exists() or any(self._drafts())

    def settle(self, current: bytes) -> Signer:
        """The signer of the node's key, in NAME from here on, where either file has it; else that of NAME. Raises KeyFileError."""
        signer = self.load()
        self._discard_drafts()
        if not self._next.exists():
            return signer
        successor = load_signer(self._next, self._passphrase)
        if successor.public_key != current:
            # Where neither is, the log is not the one that these files belong to: another may know the key.
            if signer.public_key == current:
                _delete(self._next)
            return signer
        self._take(signer)
        return successor

    def _take(self, old: Signer) -> None:
        kept = self._path.with_name(f"{self._path.name}.{old.key_id[:12]}")
        try:
            if not kept.exists():
                os.link(self._path, kept)
                sync(self._path.parent)
            os.replace(self._next, self._path)
            sync(self._path.parent)
        except OSError as error:
            raise KeyFileError(f"key file {self._path}: cannot be replaced ({error.strerror})") from error

    def _discard_drafts(self) -> None:
        for draft in self._drafts():
            _delete(draft)

    def _drafts(self) -> Iterator[Path]:
        """What a key that was being written as the process ended left behind (see `create_key_file`)."""
        return self._next.parent.glob(f".{glob.escape(self._next.name)}.*")


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise KeyFileError(f"key file {path}: cannot be deleted ({error.strerror})") from error
