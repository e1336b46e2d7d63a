"""`stigmem replay audit`: every event of a log told as who did what to whom and when, filtered and written (docs/audit.md).

Always: names are compared in normal form; filters are combined, and an event is told when it passes all of them.
Always: one pass, and memory that does not grow with the log: a filter is judged by the event and the view behind it.

Does not tell one fact's life (see `trace.py`).
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Protocol

import msgspec
from msgspec import Struct

from node.canonical import canonical_json
from node.errors import InvalidUri
from node.events import EVENT_TYPES
from node.events.entry import Entry
from node.projections.base import text_key
from node.projections.gardens import Gardens
from node.projections.view import View
from node.times import format_ms
from node.uris import normal_uri
from replay.acts import Act, act_of
from replay.checked_log import Evidence, folded
from replay.opening import open_views
from replay.shown import Output
from replay.things import Thing


class Filters(Struct, frozen=True, kw_only=True):
    """What is asked for; None, or an empty `types`, for all. `first` and `end` are offsets, times epoch ms, ends excluded."""

    first: int
    end: int
    actor: str | None = None
    source: str | None = None
    entity: str | None = None
    peer: str | None = None
    garden: str | None = None
    types: frozenset[str] = frozenset()


class Writer(Protocol):
    """Writes what was found, in one format."""

    def begin(self) -> None: ...

    def event(self, entry: Entry, act: Act, view: View) -> None: ...

    def end(self) -> None: ...


def audit(evidence: Evidence, filters: Filters, writer: Writer) -> None:
    """Tell the log, as far as it passes the filters."""
    writer.begin()
    views = open_views(evidence.scratch / "views")
    try:
        with closing(folded(views, evidence, filters.end)) as steps:
            for entry, view in steps:
                if entry.offset >= filters.first and (act := _told(entry, view, filters, evidence)) is not None:
                    writer.event(entry, act, view)
    finally:
        views.close()
    writer.end()


def types_named(name: str) -> frozenset[str]:
    """The event types of a name, with or without its version. ValueError for a name of none."""
    found = frozenset(known for known in EVENT_TYPES if name in (known, known.rpartition(".")[0]))
    if not found:
        raise ValueError(f"{name}: no event type; docs/audit.md lists them")
    return found


def in_normal_form(name: str) -> str:
    """The name as names are compared: what has no normal form is compared as it stands."""
    try:
        return normal_uri(name)
    except InvalidUri:
        # A foreign node's id may be no URI of ours, and is the same byte for byte.
        return name


class NdjsonWriter:
    """One event a line, canonical JSON."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def begin(self) -> None:
        """There is no heading."""

    def event(self, entry: Entry, act: Act, view: View) -> None:
        self._output.raw(canonical_json(event_record(entry, act)))

    def end(self) -> None:
        """The last event is the last line."""


def event_record(entry: Entry, act: Act) -> dict[str, object]:
    """The members of one line (docs/audit.md)."""
    return {
        "offset": entry.offset,
        "at": format_ms(entry.at_ms),
        "hlc": entry.hlc,
        "type": entry.type,
        "actor": msgspec.to_builtins(entry.actor),
        "verb": act.verb,
        "things": msgspec.to_builtins(act.things),
        "data": act.data,
        "leaf_hash": entry.leaf.hex(),
    }


def _told(entry: Entry, view: View, asked: Filters, evidence: Evidence) -> Act | None:
    """What the entry says, where all filters let it pass."""
    if asked.types and entry.type not in asked.types:
        return None
    # What the node does by itself it does in its own name.
    if asked.actor is not None and in_normal_form(entry.actor.principal or evidence.node_id) != asked.actor:
        return None
    act = act_of(entry, view)
    things = act.things
    if asked.source is not None and asked.source not in _names(thing.source for thing in things):
        return None
    if asked.entity is not None and asked.entity not in _names(thing.entity for thing in things):
        return None
    if asked.peer is not None and not _is_with(asked.peer, entry, things, view):
        return None
    if asked.garden is not None and not _is_in(asked.garden, things, view, evidence.node_id):
        return None
    return act


def _names(found: Iterator[str | None]) -> set[str]:
    return {in_normal_form(name) for name in found if name is not None}


def _is_with(asked: str, entry: Entry, things: tuple[Thing, ...], view: View) -> bool:
    """Whether a peer, by its node_id or the id it was registered under, has to do with the event."""
    known = view.peers.by_id(asked)
    wanted = asked if known is None else in_normal_form(known.node_id)
    named = [thing.id for thing in things if thing.kind in ("peer", "principal")] + [
        thing.received_from for thing in things
    ]
    if entry.actor.via == "peer":
        named.append(entry.actor.principal)
    return wanted in _names(iter(named))


def _is_in(asked: str, things: tuple[Thing, ...], view: View, node_id: str) -> bool:
    """Whether a garden, by its id, slug or URI, has to do with the event."""
    ids = {thing.garden_id for thing in things} | {thing.id for thing in things if thing.kind == "garden"}
    slug = asked.removeprefix(f"{node_id}/garden/")
    return asked in ids or any(_slug_of(garden_id, view) == slug for garden_id in ids if garden_id is not None)


def _slug_of(garden_id: str, view: View) -> str | None:
    # From the table itself: a garden that was deleted has a name all the same.
    spec = next(spec for spec in Gardens.tables if spec.name == "gardens/by_id")
    garden = view.gardens.table(spec).get(text_key(garden_id))
    return None if garden is None else garden.slug
