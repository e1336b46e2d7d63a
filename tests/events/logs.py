"""Logs for tests: entries of given events, signed under a fixed key and clock, so that every byte is known beforehand."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from node.clock import Clock
from node.events.entry import Entry, salt_bytes_for, sign_entry
from node.events.event import NODE_ITSELF, Actor, Event
from node.events.identity import KeyRotated
from node.events.log import Head, Log
from node.events.rotations import read_rotation
from node.keys import Signer
from tests.clocks import fixed_clock
from tests.events.samples import NODE_ID, SIGNER, SUCCESSOR

ADMIN = Actor(
    principal=NODE_ID,
    via="admin",
    credential=None,
    idempotency_key="once-ä",
    trace_id="0af7651916cd43dd8448eb211c80319c",
)
# Whoever signs is changed by the rotations in the log alone.
AS_ROTATED: Mapping[int, Signer] = MappingProxyType({})


def signed(
    events: Iterable[Event],
    head: Head | None = None,
    *,
    clock: Clock,
    signer: Signer = SIGNER,
    signers: Mapping[int, Signer] = AS_ROTATED,
) -> list[Entry]:
    """Entries of the events behind `head`, or at the start of a log; the actors take turns.

    Signed by `signer`, and behind a rotation by the successor; from an offset of `signers` on by the one there instead.
    """
    offset, prev = (0, bytes(32)) if head is None else (head.size, head.leaf)
    entries = []
    for event in events:
        signer = signers.get(offset, signer)
        entry = sign_entry(
            event,
            ADMIN if offset % 2 else NODE_ITSELF,
            offset=offset,
            prev=prev,
            hlc=clock.tick(),
            at_ms=clock.at_ms(),
            signer=signer,
            salts=clock.random_bytes(salt_bytes_for(event)),
        )
        entries.append(entry)
        if isinstance(event, KeyRotated) and read_rotation(event.rotation).new_public_key == SUCCESSOR.public_key:
            signer = SUCCESSOR
        offset, prev = offset + 1, entry.leaf
    return entries


def write_log(data_dir: Path, events: Iterable[Event], signers: Mapping[int, Signer] = AS_ROTATED) -> list[Entry]:
    """A log in `data_dir` with these events, closed again."""
    entries = signed(events, clock=fixed_clock(step_ms=7), signers=signers)
    log = Log(data_dir / "log")
    log.append(0, entries)
    log.close()
    return entries
