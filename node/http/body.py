"""The door for request bodies and query strings, and the one way to write a JSON answer.

Always: a body that reaches a struct has passed `scan_json` (PROTOCOL §16), so no reader behind the door can take it for
something else: msgspec silently keeps the last of two equal keys, and other readers keep the first.
What all bodies under way hold in memory is bounded, whoever sends them and however slowly.
A refusal names the field or parameter, never its value: values may be secrets.

Does not check: what a value means (see node/commands), or who is asking (see node/http/auth.py).
Relies on `auto_decompress` being off (see node/http/connections.py): the size limit is on the bytes that arrive.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import cache, lru_cache
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE
from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy

from node.errors import (
    BodyTooLarge,
    InvalidParameter,
    MalformedJson,
    MissingField,
    Overloaded,
    RequestTimeout,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from node.strict_json import decode, refusal_of_validation, scan_json
from node.times import parse_rfc3339

T = TypeVar("T")

BODY_TIMEOUT_S = 30.0
# What large bodies hold together. A body holds its first bytes for nothing, so that whoever fills the rest up keeps no fact out.
ROOM_BYTES = 128 << 20
ROOMLESS_BYTES = 1 << 14
NO_MEMBERS_BYTES = 1 << 16
# Not to be changed, so that whoever makes an answer of it takes a copy.
_JSON_HEADERS = CIMultiDictProxy(CIMultiDict({"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}))
_encode = msgspec.json.Encoder().encode
_HEAD = "\r\n".join(
    ["HTTP/1.1 200 OK", *map(": ".join, _JSON_HEADERS.items()), f"Server: {SERVER_SOFTWARE}", "Content-Length: "]
).encode()
_CONTENT_TYPE = re.compile(r'application/json(?:[ \t]*;[ \t]*charset=(?:utf-8|"utf-8"))?[ \t]*', re.IGNORECASE)
_NUMBER = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
_INTEGER = re.compile(r"-?[0-9]{1,20}")
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


class NoMembers(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing is said in it; it may be left out."""


class BodyRoom:
    """Memory for the bodies of all requests under way. Belongs to the loop's thread."""

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self.left_bytes = room_bytes

    def take(self, request: web.Request, size: int) -> None:
        """Let the request hold so many bytes in all. Raises Overloaded where there is no room."""
        more = size - request.get(_HELD_BYTES, 0)
        if more > self.left_bytes:
            raise Overloaded("too many large bodies are under way")
        self.left_bytes -= more
        request[_HELD_BYTES] = size

    def leave(self, request: web.Request) -> None:
        """The request holds nothing any more."""
        self.left_bytes += request.pop(_HELD_BYTES, 0)


ROOM: web.AppKey[BodyRoom] = web.AppKey("room", BodyRoom)
_HELD_BYTES: web.RequestKey[int] = web.RequestKey("held_bytes", int)


async def read_json(request: web.Request, *, max_bytes: int, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """The body's bytes, known to be strict JSON."""
    raw = await read_body(request, max_bytes=max_bytes, timeout_s=timeout_s)
    scan_json(raw)
    return raw


async def decode_optional(request: web.Request, type: type[T], *, max_bytes: int) -> T:
    """The body as a struct whose members may all be left out: no body at all is one that says nothing."""
    _check_codings(request, max_bytes)
    raw = await _read_whole(request, max_bytes, BODY_TIMEOUT_S)
    if not raw:
        # Chunks may turn out to be none only in a later packet than the header, and mean the same then.
        return decode(b"{}", type)
    _check_type(request, is_body_there=True)
    scan_json(raw)
    return decode(raw, type)


async def require_no_members(request: web.Request) -> None:
    """For a route that takes no body. What somebody sends all the same must not look as if it had been heeded."""
    await decode_optional(request, NoMembers, max_bytes=NO_MEMBERS_BYTES)


async def read_body(request: web.Request, *, max_bytes: int, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """The body's bytes, said to be JSON; whether they are is for the caller to see to."""
    _check_codings(request, max_bytes)
    _check_type(request, is_body_there=request.can_read_body)
    return await _read_whole(request, max_bytes, timeout_s)


def decode_query(request: web.Request, type: type[T]) -> T:
    """The query parameters that the struct knows; others are ignored (PROTOCOL §1)."""
    readers = _readers(type)
    values: dict[str, object] = {}
    for name, text in request.query.items():
        if name in values:
            raise InvalidParameter(f"{name}: given more than once")
        if name in readers:
            if "\ufffd" in text:
                _require_utf8(name, request.rel_url.raw_query_string)
            values[name] = readers[name](name, text)
    try:
        return msgspec.convert(values, type)
    except msgspec.ValidationError as error:
        refusal = refusal_of_validation(str(error))
        raise (refusal if isinstance(refusal, MissingField) else InvalidParameter(refusal.detail)) from None


def _require_utf8(name: str, query: str) -> None:
    """What is no UTF-8 was read as U+FFFD, which a name may hold as well."""
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"{name}: not UTF-8") from error


def time_asked(parameter: str, text: str | None) -> int | None:
    """The milliseconds of a parameter that is an RFC 3339 time; None where it was not given. Raises InvalidParameter."""
    try:
        return None if text is None else parse_rfc3339(text)
    except ValueError as error:
        raise InvalidParameter(f"{parameter}: not an RFC 3339 time") from error


def encoded(obj: object) -> bytes:
    """The one way to write JSON that is answered."""
    return _encode(obj)


def json_response(obj: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return encoded_response(encoded(obj), status, headers)


def encoded_response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer that is JSON already: a large one is encoded off the loop."""
    sent = _JSON_HEADERS
    if headers:
        sent = CIMultiDict(_JSON_HEADERS)
        sent.update(headers)
    return web.Response(body=body, status=status, headers=sent)


def written_answer(body: bytes) -> bytes:
    """A 200 that is JSON already, as it goes over a connection that is kept open: what comes of `encoded_response(body)`."""
    return b"%b%d\r\n%b\r\n\r\n%b" % (_HEAD, len(body), _date_at(int(time.time())), body)


@lru_cache(maxsize=1)
def _date_at(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}".encode()


def _check_codings(request: web.Request, max_bytes: int) -> None:
    encodings = request.headers.getall("Content-Encoding", ())
    # A transfer coding may compress too; and whoever stands before us reads a body of HTTP/1.0 by another rule than this one.
    if "Transfer-Encoding" in request.headers and not _is_chunked_alone(request):
        raise UnsupportedEncoding("Transfer-Encoding: only chunked, in HTTP/1.1")
    if any(encoding.strip().lower() != "identity" for encoding in encodings):
        raise UnsupportedEncoding("Content-Encoding: only identity")
    if (request.content_length or 0) > max_bytes:
        raise BodyTooLarge(f"at most {max_bytes} bytes")


def _check_type(request: web.Request, *, is_body_there: bool) -> None:
    types = request.headers.getall("Content-Type", ())
    is_plain = types == ["application/json"]
    if not is_plain and (types or is_body_there) and (len(types) != 1 or not _CONTENT_TYPE.fullmatch(types[0])):
        raise UnsupportedMediaType("Content-Type: only application/json in UTF-8")


def _is_chunked_alone(request: web.Request) -> bool:
    codings = request.headers.getall("Transfer-Encoding")
    return [coding.strip().lower() for coding in codings] == ["chunked"] and request.version >= (1, 1)


async def _read_whole(request: web.Request, max_bytes: int, timeout_s: float) -> bytes:
    # Most bodies come along with their header, and a timer costs as much as the scan.
    is_here = request.content.is_eof()
    return await (_read(request, max_bytes) if is_here else _read_in_time(request, max_bytes, timeout_s))


async def _read_in_time(request: web.Request, max_bytes: int, timeout_s: float) -> bytes:
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, max_bytes)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {timeout_s:g} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise MalformedJson("the body ended early or its transfer coding is broken") from None


async def _read(request: web.Request, max_bytes: int) -> bytes:
    content, parts, size = request.content, [], 0
    while part := await content.readany():
        size += len(part)
        if size > max_bytes:
            raise BodyTooLarge(f"at most {max_bytes} bytes")
        if size > ROOMLESS_BYTES:
            request.app[ROOM].take(request, size)
        parts.append(part)
    return b"".join(parts)


def _read_text(_: str, text: str) -> str:
    return text


def _read_int(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise InvalidParameter(f"{name}: not a whole number")
    return int(text)


def _read_float(name: str, text: str) -> float:
    if not _NUMBER.fullmatch(text) or math.isinf(number := float(text)):
        raise InvalidParameter(f"{name}: not a number")
    return number


def _read_bool(name: str, text: str) -> bool:
    if text not in _BOOLS:
        raise InvalidParameter(f"{name}: neither true nor false")
    return _BOOLS[text]


_READERS: dict[type, Callable[[str, str], object]] = {
    msgspec.inspect.IntType: _read_int,
    msgspec.inspect.FloatType: _read_float,
    msgspec.inspect.BoolType: _read_bool,
}


@cache
def _readers(struct: type) -> dict[str, Callable[[str, str], object]]:
    return {field.encode_name: _reader(field.type) for field in msgspec.inspect.type_info(struct).fields}


def _reader(info: msgspec.inspect.Type) -> Callable[[str, str], object]:
    if isinstance(info, msgspec.inspect.Metadata):
        return _reader(info.type)
    members = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    return next((_READERS[type(member)] for member in members if type(member) in _READERS), _read_text)
