"""Strict JSON: bytes from outside, checked before they become a struct (PROTOCOL §16).

Always: what reaches a struct has passed `scan_json`, so no reader behind it can take it for something else: msgspec silently keeps
the last of two equal keys, and other readers keep the first.
A refusal names the field, never its value: values may be secrets.
However deep what comes is nested, nobody's stack runs out; and a megabyte of brackets is refused unread, because the objects they
would become cost a hundred times that, in memory and in time that no other thread gets.

Does not check what a value means.
"""

import json
import math
import re
from functools import cache
from typing import TypeVar

import msgspec

from node.errors import InvalidField, MalformedJson, MissingField, Refusal, UnknownField

T = TypeVar("T")

MAX_DEPTH = 32
MAX_INT_CHARS = 40
# A fact, a setting or a manifest has hundreds of values at the most; a list of 1,000 facts with all that each can hold has 180,000.
MAX_VALUES = 20_000
MAX_LIST_VALUES = 250_000

# A string, closed or not, or a bracket outside of one: nothing in it backtracks, whatever the text.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{\]}]', re.DOTALL)
_MISSING = re.compile(r"Object missing required field `([^`]*)`(?: - at `([^`]*)`)?")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `([^`]*)`)?", re.DOTALL)
_INVALID = re.compile(r"(.*?)(?: - at `([^`]*)`)?", re.DOTALL)


def scan_json(raw: bytes, *, max_values: int = MAX_VALUES) -> object:
    """Parse strictly and return what was parsed; callers that decode into a struct may drop it."""
    require_few_values(raw, max_values)
    try:
        # The scanner would guess UTF-16 and UTF-32 from bytes; from text it cannot.
        scanned = _scan(raw.decode())
        # A nesting of 33 takes 33 brackets, so most bodies need no walk.
        if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
            _check_depth(scanned)
        # Only an escape can bring in a lone surrogate: UTF-8 has none. Every one of them begins so.
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(scanned, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise MalformedJson(f"not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise MalformedJson("a lone surrogate") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"{error.msg.rstrip(': ').removesuffix(' at')} at character {error.pos}") from None
    except RecursionError:
        raise MalformedJson(f"nested deeper than {MAX_DEPTH}") from None
    return scanned


def require_few_values(raw: bytes, max_values: int) -> None:
    """Raises MalformedJson where JSON holds more than that."""
    if holds_more_values(raw, max_values):
        raise MalformedJson(f"more than {max_values} values")


def holds_more_values(raw: bytes, max_values: int) -> bool:
    """Each value but the first of a document follows a comma or a bracket."""
    # What is shorter has no room for so many.
    if len(raw) <= max_values or _beginnings(raw) <= max_values:
        return False
    return _beginnings(_without_strings(raw)) > max_values


def without_depth(text: str) -> str:
    """JSON text in which `NaN`, which no scan passes, stands for whatever is nested deeper than MAX_DEPTH."""
    kept, depth, start, cut = [], 0, 0, 0
    for token in _TOKEN.finditer(text):
        match text[token.start()]:
            case "{" | "[":
                depth += 1
                cut = token.start() if depth == MAX_DEPTH + 1 else cut
            case "}" | "]":
                if depth == MAX_DEPTH + 1:
                    kept += (text[start:cut], "NaN")
                    start = token.end()
                depth -= 1
    # What is never closed is nested too deep up to the end.
    rest = (text[start:cut], "NaN") if depth > MAX_DEPTH else (text[start:],)
    return "".join((*kept, *rest))


def decode(raw: bytes, type: type[T]) -> T:
    """Bytes that passed `scan_json`, as a struct."""
    try:
        return _decoder(type).decode(raw)
    except msgspec.ValidationError as error:
        raise refusal_of_validation(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedJson("not JSON") from None


def _beginnings(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _without_strings(raw: bytes) -> bytes:
    # Exact up to where the text stops being JSON, and no reader gets beyond that.
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(plain.split(b'"')[::2])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise MalformedJson(f"duplicate key {key[:64]!a}")
        seen.add(key)
    return found


def _finite(literal: str) -> float:
    number = float(literal)
    if math.isinf(number):
        raise MalformedJson("a number too large")
    return number


def _bounded(literal: str) -> int:
    # Canonical JSON writes doubles up to 1e21 as integers, so those must be read. By length: int() of more takes quadratic time.
    if len(literal) > MAX_INT_CHARS:
        raise MalformedJson(f"an integer of more than {MAX_INT_CHARS} characters")
    return int(literal)


def _refuse_constant(name: str) -> object:
    raise MalformedJson(f"{name} is not JSON")


_SCANNER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_bounded, parse_constant=_refuse_constant
)


def _scan(text: str) -> object:
    # What JSONDecoder.decode does, without its regular expressions for the space that bodies seldom have around them.
    try:
        scanned, end = _SCANNER.scan_once(text, 0)
    except StopIteration:
        return _SCANNER.decode(text)
    return _SCANNER.decode(text) if text[end:].strip(" \t\n\r") else scanned


def _check_depth(scanned: object) -> None:
    level = [scanned]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise MalformedJson(f"nested deeper than {MAX_DEPTH}")


@cache
def _decoder(type: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(type)


def refusal_of_validation(message: str) -> Refusal:
    """What msgspec found, under our codes and without the value that it may quote."""
    if match := _MISSING.fullmatch(message):
        return MissingField(_path(match[2], match[1]))
    if match := _UNKNOWN.fullmatch(message):
        return UnknownField(_path(match[2], match[1][:64]))
    match = _INVALID.fullmatch(message)
    reason = "not an allowed value" if match[1].startswith("Invalid ") else match[1]
    return InvalidField(f"{_path(match[2])}: {reason}")


def _path(parent: str | None, field: str = "") -> str:
    inside = (parent or "$").removeprefix("$").removeprefix(".")
    return ".".join(part for part in (inside, field) if part) or "body"
