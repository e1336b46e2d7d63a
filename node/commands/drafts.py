"""From what a caller wrote to the fact it asserts: every rule about a fact's own fields, and whose it may be (PROTOCOL §2.1).

Always: nothing here depends on who asks, except for the source it may name; `facts.py` decides what becomes of a draft.
Also which names a key or a member may have.
"""

import math
from datetime import datetime

from msgspec import UNSET, Struct, UnsetType

from node.errors import (
    FieldTooLong,
    InvalidField,
    InvalidValue,
    ReservedNamespace,
    TextTooLarge,
    TimestampOutOfWindow,
)
from node.events.facts import Interpretation, Scope, Value, ValueType
from node.times import format_ms, is_rfc3339, parse_rfc3339
from node.uris import (
    check_visible,
    has_prefix,
    is_informal,
    is_normal,
    is_reserved_entity,
    is_reserved_relation,
    is_reserved_source,
    normal_field,
    normal_relation,
)

NAME_BYTES = 2048
# Of at most four bytes each: short names, nearly all, need no encoding to be measured.
_SHORT_CHARS = NAME_BYTES // 4
TEXT_BYTES = 65_536
TIME_CHARS = 64
SIGNED_WINDOW_MS = 300_000


class StatedValue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value as a caller states it; which JSON type `v` must have depends on `type`."""

    type: ValueType
    v: str | int | float | bool | None | UnsetType = UNSET
    interpret_as: Interpretation = "content"


class Draft(Struct, frozen=True, kw_only=True):
    """A fact's own fields, checked and in the form in which they are stored; names once more in normal form for comparing."""

    entity: str
    relation: str
    value: Value
    source: str
    timestamp: str
    confidence: float
    scope: Scope
    valid_until: str | None
    normal_entity: str
    normal_source: str
    warnings: tuple[str, ...]


def draft_of(
    *,
    entity: str,
    relation: str,
    value: StatedValue,
    source: str,
    confidence: float,
    scope: Scope,
    valid_until: str | None,
    timestamp: str | None,
    now_ms: int,
    is_signed: bool,
) -> Draft:
    """Check a caller's fact. A signed one keeps its spelling, because the signature is over it; else names are normalised."""
    for field, text in (("entity", entity), ("relation", relation), ("source", source)):
        check_name(field, text)
    normal_entity, normal_source = normal_field("entity", entity), normal_field("source", source)
    stored_relation = normal_relation(relation)
    if is_signed:
        require_signable(relation, source)
    check_reserved(normal_entity, stored_relation, normal_source)
    return Draft(
        entity=entity if is_signed else normal_entity,
        relation=stored_relation,
        value=value_of(value),
        source=source if is_signed else normal_source,
        timestamp=_timestamp(timestamp, now_ms),
        confidence=confidence + 0.0,
        scope=scope,
        valid_until=None if valid_until is None else format_ms(_time("valid_until", valid_until)),
        normal_entity=normal_entity,
        normal_source=normal_source,
        warnings=_warnings(normal_entity, stored_relation, normal_source),
    )


def check_name(field: str, text: str) -> None:
    """Raises FieldTooLong or InvalidField for a name that no fact may carry."""
    if len(text) > _SHORT_CHARS and len(text.encode()) > NAME_BYTES:
        raise FieldTooLong(f"{field}: more than {NAME_BYTES} bytes")
    check_visible(text, field)


def check_stored(**names: str) -> None:
    """Raises FieldTooLong for names, as they are to be stored, that nobody could send again: escapes count as they stand."""
    for field, name in names.items():
        if len(name) > _SHORT_CHARS and len(name.encode()) > NAME_BYTES:
            raise FieldTooLong(f"{field}: more than {NAME_BYTES} bytes in normal form")


def principal_name(field: str, text: str) -> str:
    """The normal form of a name that a key or member may have: any that a fact can carry, but for the node's own.

    Raises FieldTooLong, InvalidField, InvalidUri, ReservedNamespace.
    """
    check_name(field, text)
    name = normal_field(field, text)
    if is_reserved_entity(name) or is_reserved_source(name):
        raise ReservedNamespace(f"{field}: names under stigmem: and system:stigmem are the node's own")
    return name


def require_signable(relation: str, source: str) -> None:
    """Signed facts are stored as they came, so what cannot be stored so is refused (PROTOCOL §1)."""
    if relation != normal_relation(relation):
        raise InvalidField("relation: a signed fact must spell it in normal form")
    if not is_normal(source):
        raise InvalidField("source: a signed fact must spell it in normal form")


def check_reserved(entity: str, relation: str, source: str) -> None:
    """Raises ReservedNamespace for what the node alone says of itself; names in normal form."""
    if is_reserved_relation(relation):
        raise ReservedNamespace("relation: the prefix stigmem: is the node's own")
    if is_reserved_entity(entity):
        raise ReservedNamespace("entity: names under stigmem: are the node's own")
    if is_reserved_source(source):
        raise ReservedNamespace("source: system:stigmem is the node's own")


def value_of(stated: StatedValue) -> Value:
    """The value as it is stored. Raises InvalidValue or TextTooLarge (PROTOCOL §2.1)."""
    return Value(type=stated.type, v=_stored_v(stated), interpret_as=stated.interpret_as)


def _stored_v(stated: StatedValue) -> str | float | bool | None:
    v = stated.v
    if stated.type == "null":
        if v is not UNSET and v is not None:
            raise InvalidValue("value.v: null has none")
        return None
    if v is UNSET or v is None:
        raise InvalidValue("value.v: missing")
    if stated.type == "boolean":
        if not isinstance(v, bool):
            raise InvalidValue("value.v: true or false")
        return v
    if stated.type == "number":
        return _number(v)
    return _text(stated.type, v)


def _number(v: object) -> float:
    if isinstance(v, bool) or not isinstance(v, int | float):
        raise InvalidValue("value.v: a number")
    number = float(v)
    if not math.isfinite(number) or number != v:
        raise InvalidValue("value.v: a double cannot hold this number exactly")
    return number


def _text(value_type: str, v: object) -> str:
    if not isinstance(v, str):
        raise InvalidValue("value.v: text")
    if len(v) > TEXT_BYTES // 4 and len(v.encode()) > TEXT_BYTES:
        raise TextTooLarge(f"value.v: more than {TEXT_BYTES} bytes")
    if value_type == "ref" and not v:
        raise InvalidValue("value.v: a ref names something")
    if value_type == "datetime":
        _check_datetime(v)
    return v


def _check_datetime(v: str) -> None:
    try:
        datetime.fromisoformat(v)
    except ValueError as error:
        # Of RFC 3339, ISO 8601's reader leaves out leap seconds and small letters.
        if not is_rfc3339(v):
            raise InvalidValue("value.v: not an ISO 8601 date and time") from error


def _timestamp(stated: str | None, now_ms: int) -> str:
    if stated is None:
        return format_ms(now_ms)
    if abs(_time("timestamp", stated) - now_ms) > SIGNED_WINDOW_MS:
        raise TimestampOutOfWindow("timestamp: more than five minutes from now")
    return stated


def _time(field: str, text: str) -> int:
    # RFC 3339 bounds no fraction, and a signed fact keeps its time as it came.
    if len(text) > TIME_CHARS:
        raise InvalidField(f"{field}: more than {TIME_CHARS} characters")
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise InvalidField(f"{field}: not an RFC 3339 time") from error


def _warnings(entity: str, relation: str, source: str) -> tuple[str, ...]:
    warnings = []
    if is_informal(entity):
        warnings.append("entity: an informal URI; nobody else can tell whose it is")
    if is_informal(source):
        warnings.append("source: an informal URI; it belongs to the node that first wrote the fact")
    if not has_prefix(relation):
        warnings.append("relation: without a namespace prefix")
    return tuple(warnings)
