"""What only the node's own user may read: the data folder, the key in it, files that hold secrets.

Always: a folder or file of the node's own is closed to everybody else before anything in it is used, whatever the umask was.

Does not close what is not the node's own: of an operator's file it says what is wrong.
"""

import os
import resource
import stat
from pathlib import Path

_BEYOND_OWNER = stat.S_IRWXG | stat.S_IRWXO


class Exposed(Exception):
    """Others can read it, and that cannot be changed from here; the message is one line for the operator."""


def close_to_others(path: Path) -> bool:
    """Leave a folder or file to its owner alone; whether anybody else had a right to it. Raises Exposed, OSError."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & _BEYOND_OWNER:
        return False
    try:
        path.chmod(mode & ~_BEYOND_OWNER)
    except OSError as error:
        raise Exposed(
            f"{path}: others may use it (mode {mode:04o}), and that cannot be changed: {error.strerror}. "
            "Name a folder that this user owns, such as one inside it: the node makes it"
        ) from error
    return True


def is_open_to_others(path: Path) -> bool:
    """Whether somebody who is neither its owner nor of its group may do anything with it. Raises OSError."""
    return bool(path.stat().st_mode & stat.S_IRWXO)


def why_not_private(path: Path, opened: os.stat_result | None = None) -> str | None:
    """What is wrong with the mode of an operator's secret file, in words; None where it is its owner's alone. Raises OSError.

    `opened` is what the system says of the file that was opened under that name.
    """
    found = path.stat() if opened is None else opened
    # Secrets that a supervisor hands to a service are root's, and the service reads them as its group.
    may_be_shared = found.st_uid == 0 and os.geteuid() != 0
    if stat.S_IMODE(found.st_mode) & (0o037 if may_be_shared else 0o077):
        return f"{path} is open to others than its owner (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600"
    return None


def leave_no_core() -> None:
    """Have a crash leave no copy of this process's memory, where its keys are."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
