"""A log as evidence: a private copy of it, checked whole before a word of it is told, and folded entry by entry.

Always: the folder is only read; liblmdb opens the copy after its structure was checked, and nothing is shown of a log whose
chain, signatures, items or tree do not hold: Damaged names the first bad offset, as `replay verify` does.
Always: memory does not grow with the log; views are folded into scratch, by the function that the node folds with.

Does not look at the folder's own views (see `verify.py`).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from node.errors import LogDamaged
from node.events.entry import Entry
from node.events.identity import NodeCreated
from node.events.log import Log
from node.events.store import storage_errors
from node.events.tree import inclusion_path
from node.projections.apply import apply, move_checkpoint
from node.projections.view import View
from node.projections.views import Views
from node.times import parse_rfc3339
from replay.chain import Damaged, damage_of
from replay.copying import copy_environment
from replay.opening import open_log, require_unlocked
from replay.verify import check_log, require_log

# Entries in memory at once: a page of a peer's facts is one entry and may have 8 MiB.
_BATCH = 32


class NoSuchPlace(Exception):
    """The log has no such offset; the message is one line."""


class Evidence(Struct, frozen=True, kw_only=True):
    """A checked log: its number of entries, the root over them, whose it is, and a folder to fold into.

    `node_id` is empty for a log without entries.
    """

    log: Log
    size: int
    root: bytes
    node_id: str
    scratch: Path

    def heading(self) -> list[str]:
        """How every text about it begins."""
        whose = self.node_id or "nobody yet"
        return [f"log of {whose}", f"head {self.size}:{self.root.hex()}; chain, signatures, items and tree hold"]


class InclusionProof(Struct, frozen=True, kw_only=True):
    """RFC 6962 §2.1.1: that the entry at `log_index` is one of `tree_size` under `root_hash`. Hashes in hex."""

    log_index: int
    leaf_hash: str
    tree_size: int
    root_hash: str
    hashes: tuple[str, ...]


@contextmanager
def checked_evidence(data_dir: Path) -> Iterator[Evidence]:
    """The log of a data folder, once all of it was found to hold.

    Raises NotALog where there is none, NotDone where it could not be checked, Damaged at the first offset where something is
    wrong, also while it is read.
    """
    require_log(data_dir)
    require_unlocked(data_dir)
    with tempfile.TemporaryDirectory(prefix="stigmem-audit-") as folder:
        scratch = Path(folder)
        copy_environment(data_dir / "log", scratch / "log")
        try:
            with _opened(scratch) as evidence:
                yield evidence
        except LogDamaged as refusal:
            raise damage_of(refusal) from refusal


def entries_of(evidence: Evidence, first: int, end: int) -> Iterator[Entry]:
    """The entries of [first, end), not folded."""
    return evidence.log.scan(first, end)


def folded(views: Views, evidence: Evidence, end: int) -> Iterator[tuple[Entry, View]]:
    """Fold from where the views stand up to `end`; each entry with the view behind it, to be read before going on.

    Raises Damaged at an entry that is sound in form and says what no node would have logged.
    """
    while (start := views.checkpoint().size) < end:
        entries = evidence.log.read(start, min(_BATCH, end - start))
        with storage_errors(), views.begin(write=True) as txn:
            view = views.view(txn)
            for entry in entries:
                _fold(view, entry)
                yield entry, view
            view.flush()
            move_checkpoint(txn, views.handles, entries[-1])


def offset_of(text: str, evidence: Evidence) -> int:
    """An offset, or the first one at or after an RFC 3339 time: the state before that entry. Raises NoSuchPlace, ValueError."""
    if not (text.isascii() and text.isdecimal()):
        return evidence.log.first_at(parse_rfc3339(text), evidence.size)
    offset = int(text) if len(text) <= 18 else evidence.size + 1
    if offset > evidence.size:
        raise NoSuchPlace(f"the log has {evidence.size} entries, there is no place {text}")
    return offset


def proof_of(entry: Entry, evidence: Evidence) -> InclusionProof:
    """That the entry is part of the log as it was found."""
    with evidence.log.tree() as read:
        path = inclusion_path(entry.offset, evidence.size, read)
    return InclusionProof(
        log_index=entry.offset,
        leaf_hash=entry.leaf.hex(),
        tree_size=evidence.size,
        root_hash=evidence.root.hex(),
        hashes=tuple(node.hex() for node in path),
    )


@contextmanager
def _opened(scratch: Path) -> Iterator[Evidence]:
    head = check_log(scratch / "log")
    log = open_log(scratch / "log")
    try:
        yield Evidence(log=log, size=head.size, root=head.root, node_id=_whose(log), scratch=scratch)
    finally:
        log.close()


def _whose(log: Log) -> str:
    """The node's id, which a log's first entry names; a log without entries is nobody's yet."""
    event = next((entry.event for entry in log.read(0, 1)), None)
    return event.node_id if isinstance(event, NodeCreated) else ""


def _fold(view: View, entry: Entry) -> None:
    try:
        apply(view, entry)
    except (ValueError, LookupError) as error:
        raise Damaged(entry.offset, f"the entry cannot be folded: {error}") from error
