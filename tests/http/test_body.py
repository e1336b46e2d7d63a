"""Bodies and query strings at the door, over real HTTP where a socket is involved."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import msgspec
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.errors import (
    InvalidField,
    InvalidParameter,
    MalformedJson,
    MissingField,
    Refusal,
    UnknownField,
)
from node.http.body import ROOM, BodyRoom, decode_query, json_response, read_body, read_json
from node.http.connections import GuardedRunner
from node.strict_json import MAX_VALUES, decode, scan_json

MAX_BYTES = 100


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["string", "number"]
    v: str


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    entity: str
    value: Value
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    parents: list[Value] = []


class Query(msgspec.Struct, frozen=True, kw_only=True):
    entity: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    min_confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    is_live: bool = True
    order: Literal["new", "old"] = "new"


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


HOSTILE = {
    "duplicate_keys": b'{"a":1,"a":1}',
    "duplicate_keys_by_escape": b'{"a":1,"\\u0061":2}',
    "duplicate_keys_deep_inside": b'[{"x":{"a":1,"a":2}}]',
    "nan": b"[NaN]",
    "infinity": b"[-Infinity]",
    "number_that_overflows": b"[1e400]",
    "number_that_overflows_by_digits": b"[" + b"9" * 400 + b".0]",
    "integer_of_41_digits": b"[1" + b"0" * 40 + b"]",
    "integer_of_a_million_digits": b"9" * 1_000_000,
    "lone_high_surrogate": b'"\\ud800"',
    "lone_low_surrogate_in_capitals": b'"\\uDC00 "',
    "lone_surrogate_in_a_key": b'{"\\ud800":1}',
    "surrogates_in_the_wrong_order": b'"\\ude00\\ud83d"',
    "surrogate_in_the_bytes": b'"\xed\xa0\x80"',
    "latin_1": b'"\xe9"',
    "overlong_utf_8": b'"\xc0\xaf"',
    "byte_order_mark": b"\xef\xbb\xbf{}",
    "utf_16": "{}".encode("utf-16"),
    "utf_16_without_mark": "{}".encode("utf-16-le"),
    "utf_32": "{}".encode("utf-32-be"),
    "depth_33": nested(33),
    "depth_33_of_objects": b'{"a":' * 33 + b"1" + b"}" * 33,
    "depth_of_half_a_million": b"[" * 500_000,
    "empty": b"",
    "white_space": b" \n",
    "two_documents": b"{}{}",
    "trailing_comma": b"[1,]",
    "single_quotes": b"{'a':1}",
    "comment": b"{}//",
    "leading_zero": b"[01]",
    "raw_control_character": b'"\x00"',
    "other_white_space": "{\u00a0}".encode(),
    "cut_off": b'{"a":',
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json_is_refused_as_malformed_in_few_words(raw):
    with pytest.raises(MalformedJson) as refused:
        scan_json(raw)

    assert len(refused.value.detail) < 100


def full_of(text: bytes, count: int) -> bytes:
    """A list of so many of these."""
    return b"[" + b",".join([text] * count) + b"]"


CROWDED = {
    "lists": full_of(b"[]", MAX_VALUES // 2 + 1),
    "objects": full_of(b"{}", MAX_VALUES // 2 + 1),
    "numbers": full_of(b"1", MAX_VALUES + 1),
    "texts": full_of(b'""', MAX_VALUES + 1),
    "members": b"{" + b",".join(b'"%d":1' % number for number in range(MAX_VALUES + 1)) + b"}",
    "nests": full_of(nested(30), MAX_VALUES // 30),
    "texts that end in backslashes": full_of(b'"\\\\"', MAX_VALUES + 1),
    "texts of quotes": full_of(b'"\\""', MAX_VALUES + 1),
    "never closed": b"[1," * (MAX_VALUES // 2 + 1),
}


@pytest.mark.parametrize("raw", CROWDED.values(), ids=CROWDED.keys())
def test_more_values_than_any_document_has_are_refused_before_they_are_made(raw):
    with pytest.raises(MalformedJson, match=f"more than {MAX_VALUES} values"):
        scan_json(raw)


def test_commas_and_brackets_in_a_text_are_no_values():
    text = ',[{"\\' * MAX_VALUES

    assert scan_json(json.dumps([text, text]).encode()) == [text, text]


def test_a_document_of_just_the_most_values_passes():
    assert len(scan_json(full_of(b"1", MAX_VALUES))) == MAX_VALUES


@pytest.mark.parametrize(
    "raw",
    [
        nested(32),
        b"[" + b"{}," * 100 + b"{}]",
        b'"\\ud83d\\ude00"',
        b'"' + b"{" * 100 + b'"',
        b'"\\\\ud800"',
        b"[18446744073709551615,-9223372036854775808]",
        b"[1e308,-0.0,5e-324]",
        b'{"a":1,"A":2,"":3}',
        b" null\n",
    ],
    ids=["depth_32", "wide", "pair", "braces_in_text", "backslash", "64_bits", "floats", "unequal_keys", "null"],
)
def test_strict_json_passes(raw):
    assert scan_json(raw) == json.loads(raw)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FINITE | st.text()


def _containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(inner) | st.dictionaries(st.text(), inner)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.recursive(SCALARS, _containers))
def test_whatever_json_writes_is_scanned_to_itself(value):
    assert scan_json(json.dumps(value).encode()) == value
    assert scan_json(msgspec.json.encode(value)) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_either_scanned_or_refused(raw):
    try:
        scan_json(raw)
    except MalformedJson as refusal:
        assert refusal.detail


def test_a_whole_body_becomes_its_struct():
    raw = b'{"entity":"a","value":{"type":"string","v":"x"},"confidence":1}'

    assert decode(raw, Request) == Request(entity="a", value=Value(type="string", v="x"), confidence=1.0)


VALUE = '"value":{"type":"string","v":"x"}'


@pytest.mark.parametrize(
    ("raw", "refusal", "detail"),
    [
        ("{" + VALUE + "}", MissingField, "entity"),
        ('{"entity":"a","value":{"v":"x"}}', MissingField, "value.type"),
        ('{"entity":"a",' + VALUE + ',"colour":1}', UnknownField, "colour"),
        ('{"entity":"a","value":{"type":"string","v":"x","w":1}}', UnknownField, "value.w"),
        ('{"entity":"a",' + VALUE + ',"parents":[{"type":"string","v":"x","w":1}]}', UnknownField, "parents[0].w"),
        ('{"entity":7,' + VALUE + "}", InvalidField, "entity: Expected `str`, got `int`"),
        ('{"entity":"a",' + VALUE + ',"confidence":2}', InvalidField, "confidence: Expected `float` <= 1.0"),
        ('{"entity":"a","value":{"type":"secret","v":"x"}}', InvalidField, "value.type: not an allowed value"),
        ("[]", InvalidField, "body: Expected `object`, got `array`"),
    ],
    ids=["missing", "missing_inside", "unknown", "unknown_inside", "in_a_list", "type", "range", "word", "top"],
)
def test_a_body_against_the_struct_is_refused_by_the_path_of_the_field_and_without_its_value(raw, refusal, detail):
    with pytest.raises(Refusal) as refused:
        decode(raw.encode(), Request)

    assert (type(refused.value), refused.value.detail) == (refusal, detail)


def test_the_name_of_an_unknown_field_is_cut_short():
    with pytest.raises(UnknownField) as refused:
        decode(b'{"%b":1}' % (b"x" * 10_000), Request)

    assert len(refused.value.detail) == 64


def test_decoding_what_is_no_json_is_malformed():
    with pytest.raises(MalformedJson):
        decode(b'{"entity":"\xff"}', Request)


@asynccontextmanager
async def door(timeout_s: float = 5.0) -> AsyncIterator[int]:
    """A server that answers the decoded query, the body it read, or the code of the refusal."""

    async def handle(request: web.Request) -> web.Response:
        try:
            if request.path == "/query":
                return json_response(decode_query(request, Query))
            return json_response({"read": len(await read_json(request, max_bytes=MAX_BYTES, timeout_s=timeout_s))})
        except Refusal as refusal:
            return json_response({"error": refusal.code, "detail": refusal.detail}, status=400)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = GuardedRunner(app, shutdown_timeout_s=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def exchange(port: int, *sent: bytes) -> dict:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in sent:
            writer.write(part)
            await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return json.loads(await reader.readexactly(int(length.split(b":")[1])))
    finally:
        writer.close()


def post(*headers: str, body: bytes = b"{}", length: bool = True) -> bytes:
    lines = ["POST / HTTP/1.1", "Host: a", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


JSON = "Content-Type: application/json"


@pytest.mark.parametrize(
    "headers",
    [
        [JSON],
        ["Content-Type: application/json; charset=utf-8"],
        ['content-type: Application/JSON ;charset="UTF-8"'],
        [JSON, "Content-Encoding: identity"],
    ],
    ids=["plain", "charset", "quoted_charset", "identity"],
)
async def test_json_in_utf_8_is_read(headers):
    async with door() as port:
        assert await exchange(port, post(*headers)) == {"read": 2}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "unsupported_media_type"),
        (["Content-Type: text/plain"], "unsupported_media_type"),
        (["Content-Type: application/x-www-form-urlencoded"], "unsupported_media_type"),
        (["Content-Type: application/json; charset=latin-1"], "unsupported_media_type"),
        (["Content-Type: application/json; charset=utf-8; charset=utf-16"], "unsupported_media_type"),
        (["Content-Type: application/jsonx"], "unsupported_media_type"),
        (["Content-Type: application/json, text/plain"], "unsupported_media_type"),
        ([JSON, "Content-Encoding: gzip"], "unsupported_encoding"),
        ([JSON, "Content-Encoding: identity, br"], "unsupported_encoding"),
    ],
    ids=["none", "text", "form", "latin_1", "two_charsets", "longer", "two_types", "gzip", "list_of_encodings"],
)
async def test_another_type_or_encoding_is_refused_unread(headers, code):
    async with door() as port:
        assert (await exchange(port, post(*headers)))["error"] == code


async def test_no_body_at_all_is_malformed_json():
    async with door() as port:
        assert (await exchange(port, post(body=b"")))["error"] == "malformed_json"


async def test_a_body_of_just_the_limit_is_read_and_one_byte_more_is_refused():
    async with door() as port:
        assert await exchange(port, post(JSON, body=b"1" + b" " * (MAX_BYTES - 1))) == {"read": MAX_BYTES}
        assert (await exchange(port, post(JSON, body=b"1" + b" " * MAX_BYTES)))["error"] == "body_too_large"


async def test_a_stated_length_above_the_limit_is_refused_before_the_body_comes():
    async with door() as port:
        stated = post(JSON, "Content-Length: 101", body=b"", length=False)
        assert (await exchange(port, stated))["error"] == "body_too_large"


async def test_a_chunked_body_is_refused_as_soon_as_it_passes_the_limit():
    async with door() as port:
        endless = post(JSON, "Transfer-Encoding: chunked", body=b"40\r\n" + b"1" * 64 + b"\r\n", length=False)
        assert (await exchange(port, endless, b"40\r\n" + b"1" * 64 + b"\r\n"))["error"] == "body_too_large"


async def test_a_chunked_body_within_the_limit_is_read():
    async with door() as port:
        whole = post(JSON, "Transfer-Encoding: chunked", body=b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", length=False)
        assert await exchange(port, whole) == {"read": 2}


@pytest.mark.parametrize(
    ("version", "coding"),
    [("1.1", "gzip, chunked"), ("1.1", "deflate,chunked"), ("1.0", "chunked")],
    ids=["gzip", "deflate", "HTTP_1_0"],
)
async def test_a_transfer_coding_beyond_plain_chunks_is_refused(version, coding):
    async with door() as port:
        sent = post(JSON, f"Transfer-Encoding: {coding}", body=b"2\r\n{}\r\n0\r\n\r\n", length=False)
        answer = await exchange(port, sent.replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
        assert answer["error"] == "unsupported_encoding"


async def test_a_body_that_does_not_come_is_refused_after_the_timeout():
    async with door(timeout_s=0.1) as port:
        assert (await exchange(port, post(JSON, "Content-Length: 50", length=False)))["error"] == "request_timeout"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)


async def test_bodies_beyond_the_room_for_all_are_refused_and_leave_the_room_they_held():
    room, entered = BodyRoom(100_000), asyncio.Semaphore(0)

    @web.middleware
    async def leaving(request: web.Request, handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            room.leave(request)

    async def handle(request: web.Request) -> web.Response:
        entered.release()
        try:
            return json_response({"read": len(await read_body(request, max_bytes=1 << 20))})
        except Refusal as refusal:
            return json_response({"error": refusal.code}, status=503)

    app = web.Application(middlewares=[leaving])
    app[ROOM] = room
    app.router.add_post("/", handle)
    runner = GuardedRunner(app, shutdown_timeout_s=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    _, slow = await asyncio.open_connection("127.0.0.1", port)
    slow.write(post(JSON, "Content-Length: 90000", body=b" " * 60_000, length=False))
    await entered.acquire()
    await until(lambda: room.left_bytes == 40_000)

    assert await exchange(port, post(JSON, body=b" " * 50_000)) == {"error": "overloaded"}
    assert await exchange(port, post(JSON, body=b" " * 30_000)) == {"read": 30_000}
    assert await exchange(port, post(JSON, body=b" " * 10_000)) == {"read": 10_000}
    slow.close()
    await until(lambda: room.left_bytes == 100_000)
    await runner.cleanup()


async def test_an_answer_is_json_and_forbids_sniffing():
    answer = json_response({"a": "ä"}, status=201, headers={"Location": "/x"})

    assert (answer.status, answer.body) == (201, '{"a":"ä"}'.encode())
    assert dict(answer.headers) == {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "Location": "/x",
    }


async def ask(query: str) -> dict:
    async with door() as port:
        return await exchange(port, f"GET /query?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1"))


DEFAULTS = {"entity": None, "limit": 100, "min_confidence": None, "is_live": True, "order": "new"}


@pytest.mark.parametrize(
    ("query", "changed"),
    [
        ("", {}),
        ("unknown=1&unknown=2", {}),
        ("entity=a%2Fb+c", {"entity": "a/b c"}),
        ("entity=null&limit=7", {"entity": "null", "limit": 7}),
        ("min_confidence=0.5", {"min_confidence": 0.5}),
        ("min_confidence=1", {"min_confidence": 1.0}),
        ("is_live=false", {"is_live": False}),
        ("is_live=0&order=old", {"is_live": False, "order": "old"}),
    ],
)
async def test_a_query_becomes_its_struct(query, changed):
    assert await ask(query) == DEFAULTS | changed


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=1&limit=2", "limit"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("limit=null", "limit"),
        ("min_confidence=nan", "min_confidence"),
        ("min_confidence=inf", "min_confidence"),
        ("min_confidence=1e999", "min_confidence"),
        ("min_confidence=1.5", "min_confidence"),
        ("min_confidence=0x1", "min_confidence"),
        ("is_live=True", "is_live"),
        ("is_live=yes", "is_live"),
        ("order=sideways", "order"),
    ],
)
async def test_a_parameter_out_of_form_or_range_is_refused_by_name_and_without_its_value(query, name):
    answer = await ask(query)

    assert answer["error"] == InvalidParameter.code
    assert answer["detail"].startswith(f"{name}: ")
    assert "sideways" not in answer["detail"]


async def test_a_query_that_is_not_utf_8_is_refused_by_name():
    answer = await ask("entity=%FF")

    assert (answer["error"], answer["detail"]) == (InvalidParameter.code, "entity: not UTF-8")
    assert (await ask("entity=%EF%BF%BD"))["entity"] == "\ufffd"
