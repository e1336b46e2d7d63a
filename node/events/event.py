"""The base of every event, and how an event splits into items (docs/log-format.md 'Items').

Always: a member named in `parts` is an item of its own (a tuple: one item per element); the plain members share one before them.
An event struct never changes meaning: a new meaning is a new type, and the old one is read for ever.

Does not sign, store or commit to anything (see `entry.py`).
"""

from functools import cache
from types import NoneType
from typing import ClassVar, Literal, get_args, get_type_hints

import msgspec
from msgspec import Struct, structs


class Actor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who caused an event: item 0 of every entry (docs/log-format.md)."""

    principal: str | None
    via: Literal["node", "admin", "anonymous", "capability", "peer", "key"]
    credential: str | None
    idempotency_key: str | None
    trace_id: str | None


NODE_ITSELF = Actor(principal=None, via="node", credential=None, idempotency_key=None, trace_id=None)


class Event(Struct, frozen=True, kw_only=True):
    """Something that has happened. Subclasses carry their type, name and version, as the msgspec tag."""

    parts: ClassVar[tuple[str, ...]] = ()


class Erased(Event, tag="erased"):
    """What is read in place of an item that was erased (docs/tombstones.md): of a part, or, where the plain members are gone, of
    the event whole. No entry is ever written with it.
    """


ERASED = Erased()


def type_of(event: type[Event] | Event) -> str:
    """The event's type as the header names it, such as `fact.asserted.1`."""
    return event.__struct_config__.tag


def items_of(event: Event) -> list[bytes]:
    """The event's items, without the actor, in order of index."""
    layout = _layout(type(event))
    items = []
    if layout.plain:
        items.append(_encoder.encode(layout.body(**{name: getattr(event, name) for name in layout.plain})))
    for part in layout.parts:
        value = getattr(event, part.name)
        if part.is_many:
            items.extend(map(_encoder.encode, value))
        else:
            items.append(value if part.is_raw else _encoder.encode(value))
    return items


def event_of(event_type: type[Event], items: list[bytes | None]) -> Event:
    """The inverse of `items_of`; None stands for an item that was erased, and ERASED for what it held.

    Raises msgspec.ValidationError or ValueError where the items are not that event's.
    """
    layout = _layout(event_type)
    rest = iter(items)
    values: dict[str, object] = {}
    if layout.plain:
        plain = next(rest, b"")
        if plain is None:
            return ERASED
        values = structs.asdict(layout.decoder.decode(plain))
    for part in layout.parts:
        if part.is_many:
            values[part.name] = tuple([part.read(item) for item in rest])
        else:
            values[part.name] = part.read(next(rest, b""))
    if next(rest, None) is not None:
        raise ValueError("more items than the event has")
    return event_type(**values)


def plain_members(event_type: type[Event], item: bytes) -> Struct:
    """What an item says that holds an event's plain members, by their names. Raises as `event_of` does."""
    return _layout(event_type).decoder.decode(item)


class _Part(Struct, frozen=True):
    name: str
    is_many: bool
    is_raw: bool
    decoder: msgspec.json.Decoder

    def read(self, item: bytes | None) -> object:
        if item is None:
            return ERASED
        return item if self.is_raw else self.decoder.decode(item)


class _Layout(Struct, frozen=True):
    plain: tuple[str, ...]
    body: type[Struct]
    decoder: msgspec.json.Decoder
    parts: tuple[_Part, ...]


_encoder = msgspec.json.Encoder()


@cache
def _layout(event_type: type[Event]) -> _Layout:
    hints = get_type_hints(event_type)
    plain = tuple(name for name in event_type.__struct_fields__ if name not in event_type.parts)
    body = msgspec.defstruct(
        f"{event_type.__name__}Plain",
        [(name, hints[name]) for name in plain],
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    parts = tuple(_part(name, hints[name]) for name in event_type.parts)
    if any(part.is_many for part in parts[:-1]):
        raise TypeError(f"{event_type.__name__}: only its last part can be a list")
    return _Layout(plain=plain, body=body, decoder=msgspec.json.Decoder(body), parts=parts)


def _part(name: str, hint: type) -> _Part:
    arguments = get_args(hint)
    is_many = Ellipsis in arguments
    if NoneType in arguments:
        raise TypeError(f"{name}: a part is always there")
    element = arguments[0] if is_many else hint
    is_raw = element is bytes
    return _Part(name, is_many, is_raw, msgspec.json.Decoder(object if is_raw else element))
