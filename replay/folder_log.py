"""The log of a data folder, read offline for `stigmem log`: head, single entries, and proofs.

Always: works on a private copy whose structure was checked first, and writes nothing into the folder.
Always: a bundle is checked as its receiver will check it before it is given out; nothing is signed before the whole tree was
recomputed from the entries: a signature over a damaged root would be evidence of a fork.

Does not check the whole log (see `verify.py`): only what an answer rests on.
"""

import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Struct

from node.errors import LogDamaged
from node.events.checkpoint import Checkpoint, log_key, note_text, origin_of, sign_checkpoint
from node.events.entry import Entry, Header, is_signed_by, open_header
from node.events.identity import NodeCreated, NodeRestored
from node.events.log import Log
from node.events.log_file import structural_problem
from node.events.own_keys import OwnKeys, own_keys_of
from node.events.peers import CheckpointCosigned
from node.events.proof_bundle import Bundle, LogKey, check_bundle, check_note, fact_in, make_bundle
from node.events.rotations import RotationEvent
from node.events.tree import Frontier, leaf_hash, root_at
from node.keys import Signer, key_id_of
from node.times import format_ms
from replay.chain import Damaged, damage_of, require_format
from replay.copying import copy_environment
from replay.log_source import DoesNotHold, LogHead, LogLine, NotDone, Wanted
from replay.opening import open_log, require_unlocked
from replay.verify import require_log

_COSIGNED = ("checkpoint.cosigned.1",)
_RESTORED = b'"type":"node.restored.1"'
# Witnesses sign one size soon after each other, so the lines of one size stand close together.
_COSIGNATURES_READ = 64
_NO_LIMIT = 2**62


class ShownItem(Struct, frozen=True, kw_only=True):
    """An item as it lies in the folder. `content` is its JSON, or else base64; `problem` says why it does not hold."""

    index: int
    commitment: str
    content: object
    problem: str | None


class ShownEntry(Struct, frozen=True, kw_only=True):
    """One entry. `problems` is empty where signature, place, leaf and commitments hold."""

    offset: int
    header: Header
    leaf_hash: str
    items: tuple[ShownItem, ...]
    problems: tuple[str, ...]


@contextmanager
def folder_log(data_dir: Path, signer: Signer | None) -> Iterator["FolderLog"]:
    """The log of `data_dir`; `signer` signs its checkpoints. Raises NotALog, CopyFailed, Damaged, NotDone."""
    require_log(data_dir)
    require_unlocked(data_dir)
    with tempfile.TemporaryDirectory(prefix="stigmem-log-") as scratch:
        copy = Path(scratch) / "log"
        copy_environment(data_dir / "log", copy)
        problem = structural_problem(copy)
        if problem is not None:
            raise Damaged(None, f"the file is damaged: {problem}")
        require_format(copy)
        try:
            log = open_log(copy)
            try:
                yield FolderLog(log, signer)
            finally:
                log.close()
        except LogDamaged as refusal:
            raise damage_of(refusal) from refusal


class FolderLog:
    """A Source. Its first key and name are those that the first entry gives; its later keys those that it was rotated to."""

    def __init__(self, log: Log, signer: Signer | None) -> None:
        self._log = log
        self._size = log.head().size
        self._keys = _keys(log)
        self._public_key = self._keys.current
        self._rotations = [msgspec.json.decode(document, type=RotationEvent) for document in self._keys.rotations]
        self._origin = origin_of(self._keys.node_id)
        if signer is not None and signer.public_key != self._public_key:
            raise NotDone("the key is not the one that signs this log")
        self._signer = signer

    def head(self) -> LogHead:
        self._require_tree()
        head, (size, lines) = self._log.head(), self._cosigned()
        return LogHead(
            size=head.size,
            root=head.root,
            key=log_key(self._name_at(head.size), self._public_key),
            note=None if self._signer is None else self._note(head.size),
            cosigned=None if size == 0 else self._note(size, lines),
        )

    def tail(self, count: int, *, follow: bool) -> Iterator[LogLine]:
        if follow:
            raise NotDone("--follow is of a running node: leave out --data-dir")
        yield from map(_line, self._log.scan(max(0, self._size - count), self._size))

    def bundle(self, wanted: Wanted) -> Bundle:
        offset, item = self._place(wanted)
        self._require_tree()
        checkpoint, note = self._checkpoint_for(offset, wanted)
        if wanted.goes_on_from is not None and not 0 < wanted.goes_on_from <= checkpoint.size:
            raise NotDone(f"--consistency-from is a size from 1 to {checkpoint.size}")
        try:
            bundle = make_bundle(
                self._log,
                offset,
                checkpoint,
                note,
                item=item,
                goes_on_from=wanted.goes_on_from,
                rotations=self._rotations,
            )
            check_bundle(bundle, LogKey(public_key=self._public_key, origin=self._origin))
        except LogDamaged as damage:
            raise Damaged(offset, damage.detail) from damage
        except ValueError as error:
            raise Damaged(offset, str(error)) from error
        return bundle

    def show(self, wanted: Wanted) -> ShownEntry:
        """The entry with all its items, and what is wrong with it."""
        offset, _ = self._place(wanted)
        header, stored = self._header(offset), self._log.stored(offset)
        leaf = leaf_hash(stored)
        with self._log.tree() as read:
            is_in_tree = read(0, offset) == leaf
        items = tuple(self._shown_item(offset, index, said) for index, said in enumerate(header.items))
        holds = {
            "the signature does not verify": is_signed_by(stored, self._keys.at(offset)),
            "key_id is not that of the log's key": header.key_id == key_id_of(self._keys.at(offset)),
            f"the header says offset {header.offset}": header.offset == offset,
            "the tree has another leaf in this place": is_in_tree,
        }
        problems = [*(words for words, is_so in holds.items() if not is_so), *(item.problem for item in items)]
        return ShownEntry(
            offset=offset,
            header=header,
            leaf_hash=leaf.hex(),
            items=items,
            problems=tuple(words for words in problems if words),
        )

    @cached_property
    def _names(self) -> list[tuple[int, str]]:
        """What the log is called from which offset on: what was signed of it before a restore keeps the name that it had then."""
        found = [offset for offset, stored in enumerate(self._log.all_stored()) if _RESTORED in stored]
        events = [(entry.offset, entry.event) for offset in found for entry in self._log.read(offset, 1)]
        return [(offset, event.origin) for offset, event in events if isinstance(event, NodeRestored)]

    def _name_at(self, size: int) -> str:
        names = [origin for offset, origin in self._names if offset < size]
        return names[-1] if names else self._origin

    def _require_tree(self) -> None:
        """Raise Damaged where the stored tree is not that of the entries, or the last one is not signed by the log's key."""
        frontier, stored = Frontier(0, []), b""
        with self._log.tree() as read:
            for offset, stored in enumerate(self._log.all_stored()):
                for level, index, node in frontier.append(leaf_hash(stored)):
                    if read(level, index) != node:
                        words = f"the tree's hash at level {level}, index {index} is not that of its entries"
                        raise Damaged(offset, words)
        if not is_signed_by(stored, self._keys.at(self._size - 1)):
            raise Damaged(self._size - 1, "the signature does not verify")

    def _place(self, wanted: Wanted) -> tuple[int, int | None]:
        """Offset and item of what is asked for."""
        if wanted.fact_id is not None:
            return self._place_of_fact(wanted.fact_id)
        if not 0 <= wanted.offset < self._size:
            raise NotDone(f"the log has {self._size} entries, the last one at {self._size - 1}")
        count = len(self._header(wanted.offset).items)
        if wanted.item is not None and not 0 <= wanted.item < count:
            raise NotDone(f"the entry has {count} items, the last one is {count - 1}")
        return wanted.offset, wanted.item

    def _header(self, offset: int) -> Header:
        try:
            return open_header(self._log.stored(offset))
        except LogDamaged as damage:
            raise Damaged(offset, damage.detail) from damage

    def _place_of_fact(self, fact_id: str) -> tuple[int, int]:
        """Where the fact first entered this log."""
        # The id as JSON has it: nothing else of an item is read until these bytes are found in it.
        try:
            needle = msgspec.json.encode(fact_id)
        except UnicodeEncodeError as error:
            raise NotDone("a fact's id is text") from error
        for offset in self._log.items_with(needle):
            for entry in self._log.read(offset, 1):
                for index, item in enumerate(entry.items):
                    fact = None if item is None else fact_in(entry.type, item.content)
                    if fact is not None and fact.id == fact_id:
                        return offset, index
        raise NotDone(f"no entry brought a fact {fact_id}")

    def _checkpoint_for(self, offset: int, wanted: Wanted) -> tuple[Checkpoint, str]:
        if wanted.note is not None:
            return self._given(wanted, offset)
        if self._signer is None:
            raise NotDone(
                "a proof needs a signed checkpoint: give the node's (--checkpoint NOTE) or its key (--sign-with KEY)"
            )
        cosigned, lines = self._cosigned()
        size = wanted.size if wanted.size is not None else cosigned if cosigned > offset else self._size
        if not offset < size <= self._size:
            raise NotDone(f"--size is from {offset + 1} to {self._size}")
        return self._checkpoint(size), self._note(size, lines if size == cosigned else [])

    def _given(self, wanted: Wanted, offset: int) -> tuple[Checkpoint, str]:
        """The checkpoint that was handed in, once it is known to be of this log."""
        try:
            checkpoint = check_note(wanted.note, LogKey(public_key=self._public_key, origin=self._origin))
        except ValueError as error:
            raise DoesNotHold(str(error)) from error
        if wanted.size not in (None, checkpoint.size):
            raise NotDone(f"the checkpoint is of {checkpoint.size} entries, --size says {wanted.size}")
        if not offset < checkpoint.size <= self._size:
            raise NotDone(
                f"the checkpoint is of {checkpoint.size} entries, and from {offset + 1} to {self._size} are needed"
            )
        if self._checkpoint(checkpoint.size) != checkpoint:
            raise DoesNotHold(f"the log's first {checkpoint.size} entries have another root than the checkpoint")
        return checkpoint, wanted.note

    def _cosigned(self) -> tuple[int, list[str]]:
        """The newest size that witnesses have signed, and their lines; 0 for none."""
        entries, _ = self._log.read_back(0, self._size, types=_COSIGNED, limit=_COSIGNATURES_READ, max_reads=_NO_LIMIT)
        events = [entry.event for entry in entries if isinstance(entry.event, CheckpointCosigned)]
        size = max((event.size for event in events), default=0)
        return size, [event.cosignature for event in reversed(events) if event.size == size]

    def _checkpoint(self, size: int) -> Checkpoint:
        with self._log.tree() as read:
            return Checkpoint(origin=self._name_at(size), size=size, root=root_at(size, read))

    def _note(self, size: int, lines: list[str] | None = None) -> str:
        """The note of a size: signed where the key is there, and with the witnesses' lines."""
        checkpoint = self._checkpoint(size)
        own = f"{note_text(checkpoint)}\n" if self._signer is None else sign_checkpoint(checkpoint, self._signer)
        return own + "".join(f"{line}\n" for line in lines or [])

    def _shown_item(self, offset: int, index: int, commitment: str) -> ShownItem:
        try:
            item = self._log.item(offset, index)
        except LogDamaged as damage:
            return ShownItem(index=index, commitment=commitment, content=None, problem=damage.detail)
        problem = None if item.commitment() == commitment else f"item {index} does not match its commitment"
        return ShownItem(index=index, commitment=commitment, content=content_of(item.content), problem=problem)


def content_of(item: bytes) -> object:
    """An item's JSON, or base64 of what is none."""
    try:
        return json.loads(item)
    except (ValueError, RecursionError):
        return base64.b64encode(item).decode()


def _keys(log: Log) -> OwnKeys:
    """The first entry names node and key, and is signed by that key; rotations name the others."""
    first = list(islice(log.scan(0, 1), 1))
    if not first:
        raise NotDone("the log has no entries yet")
    if not isinstance(first[0].event, NodeCreated):
        raise Damaged(0, f"the first entry is {first[0].type}, not node.created.1")
    try:
        keys = own_keys_of(log)
    except LogDamaged as damage:
        raise Damaged(0, damage.detail) from damage
    if not is_signed_by(first[0].stored, keys.at(0)):
        raise Damaged(0, "the signature does not verify")
    return keys


def _line(entry: Entry) -> LogLine:
    return LogLine(
        offset=entry.offset,
        at=format_ms(entry.at_ms),
        type=entry.type,
        via=entry.actor.via,
        principal=entry.actor.principal,
        about=_about(entry),
    )


def _about(entry: Entry) -> str:
    event = entry.event
    fact = getattr(event, "fact", None)
    if fact is not None:
        return f"{fact.id} {fact.entity} {fact.relation}"
    said = (getattr(event, name, None) for name in ("fact_id", "node_id", "token_id", "code", "reason", "detail"))
    return " ".join(text for text in said if isinstance(text, str) and text)
