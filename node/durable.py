"""Files and names that are still there after a power cut.

Always: a file that is replaced is the old one or the new one, whole; while it is written nobody but its owner may open it.

Does not speak of LMDB: what its commits have on disk is its own affair (see node/events/store.py).
"""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a folder, on disk: without the second a file is safe and its name is not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True, mode=0o700)
        sync(folder.parent)


def replace_file(path: Path, content: bytes, *, draft: Path) -> None:
    """Put a file into its place, by one rename of `draft`, which lies beside it. Raises OSError that names the draft."""
    draft.unlink(missing_ok=True)
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(draft)) from error
    draft.replace(path)
    sync(path.parent)
