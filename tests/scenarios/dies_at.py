"""`stigmem serve` that kills itself, by signal, before one of the steps by which its key file is replaced.

    python tests/scenarios/dies_at.py STEP

Steps: `written` (the new key is about to get its name), `appended` (the rotation is in the log, no file has changed), `kept` (the
old key lies under both names), `replaced` (all is done, the node has not answered yet), `never`.
Only while a file `armed` lies in the folder that it runs in: finishing an earlier rotation takes the same steps.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from node.cli import main

ARMED = Path("armed")


def dying(step: str, call: Callable[..., None], steps: Callable[[str], tuple[str, str]]) -> Callable[..., None]:
    """The system call with its two moments: `steps` names those before and behind it, by the file it is about."""

    def called(source: object, target: object, **options: object) -> None:
        before, behind = steps(str(target))
        if step == before and ARMED.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        call(source, target, **options)
        if step == behind and ARMED.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    return called


def steps_of_link(target: str) -> tuple[str, str]:
    if ".next" in target:
        return "", "written"
    return ("appended", "kept") if "signing.key." in target else ("", "")


def steps_of_replace(target: str) -> tuple[str, str]:
    return ("", "replaced") if target.endswith("signing.key") else ("", "")


if __name__ == "__main__":
    os.link = dying(sys.argv[1], os.link, steps_of_link)
    os.replace = dying(sys.argv[1], os.replace, steps_of_replace)
    sys.argv = ["stigmem", "serve"]
    sys.exit(main())
