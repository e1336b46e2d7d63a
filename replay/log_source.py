"""What `stigmem log` asks of a log, whether of a folder or of a running node, and how the answers look.

Always: what stems from others is shown in printable characters alone.

Does not read a log (see `folder_log.py`; the running node's side is `node/log_console.py`).
"""

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from node.events.proof_bundle import Bundle
from node.events.signed_note import VerifierKey


class NotDone(Exception):
    """What was asked cannot be done; the message is one line for whoever asked."""


class DoesNotHold(Exception):
    """Something is proven not to be as it should; the message is one line that says what."""


class LogHead(Struct, frozen=True, kw_only=True):
    """Where a log stands. `key` is None where a running node does not tell it.

    `note` is the signed checkpoint, None without the key; `cosigned` the newest one that witnesses signed.
    """

    size: int
    root: bytes
    key: VerifierKey | None
    note: str | None
    cosigned: str | None


class LogLine(Struct, frozen=True, kw_only=True):
    """One entry in one line. `about` names what it is about: a fact, a peer, a code."""

    offset: int
    at: str
    type: str
    via: str
    principal: str | None
    about: str


class Wanted(Struct, frozen=True, kw_only=True):
    """The bundle that is asked for: of an offset, or of the entry that brought a fact. The rest may be left to the log."""

    offset: int | None
    fact_id: str | None
    item: int | None
    size: int | None
    goes_on_from: int | None
    note: str | None


class Source(Protocol):
    """A log that answers."""

    def head(self) -> LogHead:
        """Where it stands."""

    def tail(self, count: int, *, follow: bool) -> Iterator[LogLine]:
        """Its newest entries, oldest of them first; with `follow` also each one that comes after."""

    def bundle(self, wanted: Wanted) -> Bundle:
        """A bundle that was checked before it is given out."""


def plain(text: str) -> str:
    """The text with every character escaped that a terminal might obey, or that hides or turns others."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def head_text(head: LogHead) -> str:
    notes = [note for note in (head.note, head.cosigned) if note is not None]
    key = "not told by the node: its federation is off" if head.key is None else str(head.key)
    lines = [f"size {head.size}", f"root {head.root.hex()}", f"key {key}", *(f"\n{note.rstrip()}" for note in notes)]
    return "\n".join(plain(line) for line in "\n".join(lines).split("\n"))


def line_text(line: LogLine) -> str:
    parts = (str(line.offset), line.at, line.type, line.via, line.principal or "-", line.about)
    return plain("  ".join(part for part in parts if part))
