"""Rebuild the views: fold the whole log into a new folder beside the old one, then point at it.

Always: no node has the folder open meanwhile; a damaged log leaves the old views as they were.

Does not verify the log beyond what reading it takes (see verify.py).
"""

from pathlib import Path

from node.errors import LogDamaged
from node.events.log import Log
from node.folder_lock import FolderLock
from node.projections.views import close_current, rebuild
from replay.chain import Damaged, damage_of, require_format
from replay.copying import structural_problem
from replay.verify import SizeAndRoot, require_log


def rebuild_views(data_dir: Path) -> tuple[dict[str, str], SizeAndRoot]:
    """Make the views of a data folder anew; each projection's digest, and the head that they stand at.

    Raises FolderInUse where a node runs on the folder, NotALog where there is no log, Damaged where it does not hold.
    """
    require_log(data_dir)
    with FolderLock(data_dir / "lock"):
        problem = structural_problem(data_dir / "log")
        if problem is not None:
            raise Damaged(None, f"the file is damaged: {problem}")
        require_format(data_dir / "log")
        try:
            return _rebuild(data_dir)
        except LogDamaged as refusal:
            raise damage_of(refusal) from refusal
        except (ValueError, LookupError) as error:
            raise Damaged(None, f"an entry cannot be folded: {error}; `stigmem replay verify` names it") from error


def _rebuild(data_dir: Path) -> tuple[dict[str, str], SizeAndRoot]:
    log = Log(data_dir / "log", is_readonly=True)
    try:
        views = rebuild(data_dir / "views", log)
        digests = views.digests()
        close_current(data_dir / "views", views)
        return digests, SizeAndRoot(log.head().size, log.head().root)
    finally:
        log.close()
