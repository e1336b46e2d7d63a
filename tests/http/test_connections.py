"""Real sockets that send too slowly, too little or no HTTP at all."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
from aiohttp import web

from node.http.connections import GuardedRunner

SLOW_S = 0.15
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=(await request.read()).decode("latin-1") or "hello")


@asynccontextmanager
async def serving(handler=hello, **limits) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = GuardedRunner(app, **limits)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Socket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return int(head.split()[1]), await self.reader.readexactly(int(lengths[0].split(b":")[1]))

    async def rest(self) -> bytes:
        """All bytes until the other side closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()


@asynccontextmanager
async def connected(port: int, count: int = 1) -> AsyncIterator[list[Socket]]:
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    try:
        yield [Socket(*pair) for pair in pairs]
    finally:
        for _, writer in pairs:
            writer.close()


async def trickle(socket: Socket, data: bytes, every_s: float) -> None:
    for byte in data:
        socket.send(bytes([byte]))
        await asyncio.sleep(every_s)


async def test_a_header_that_trickles_in_is_answered_with_408_and_closed():
    async with serving(header_timeout_s=SLOW_S) as port, connected(port) as [socket]:
        trickling = asyncio.ensure_future(trickle(socket, REQUEST, SLOW_S / 5))
        answer = await socket.rest()
        trickling.cancel()

    head, body = answer.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"X-Content-Type-Options: nosniff" in head
    assert json.loads(body)["error"] == "request_timeout"


async def test_a_header_that_stops_half_way_is_answered_with_408_and_closed():
    async with serving(header_timeout_s=SLOW_S) as port, connected(port) as [socket]:
        socket.send(REQUEST[:-2])
        assert (await socket.rest()).startswith(b"HTTP/1.1 408 ")


async def test_the_second_header_of_a_connection_has_the_same_deadline():
    async with serving(header_timeout_s=SLOW_S) as port, connected(port) as [socket]:
        socket.send(REQUEST)
        assert await socket.answer() == (200, b"hello")
        socket.send(b"GET ")
        assert (await socket.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_header_in_two_pieces_within_the_deadline_is_answered_and_the_connection_stays():
    async with serving(header_timeout_s=SLOW_S) as port, connected(port) as [socket]:
        socket.send(REQUEST[:10])
        await asyncio.sleep(SLOW_S / 3)
        socket.send(REQUEST[10:])
        assert await socket.answer() == (200, b"hello")
        await asyncio.sleep(SLOW_S * 2)
        socket.send(REQUEST)
        assert await socket.answer() == (200, b"hello")


async def test_a_connection_that_has_sent_nothing_is_left_alone_by_the_header_deadline():
    async with serving(header_timeout_s=SLOW_S) as port, connected(port) as [socket]:
        await asyncio.sleep(SLOW_S * 2)
        socket.send(REQUEST)
        assert await socket.answer() == (200, b"hello")


async def test_a_handler_and_a_body_may_take_longer_than_the_header_deadline():
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(SLOW_S * 2)
        return await hello(request)

    async with serving(slow, header_timeout_s=SLOW_S) as port, connected(port) as [socket]:
        socket.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
        await asyncio.sleep(SLOW_S * 3)
        socket.send(b"cd")
        assert await socket.answer() == (200, b"abcd")


async def test_the_longest_idle_connection_is_closed_when_one_too_many_comes():
    async with serving(max_idle=2, sweep_interval_s=0.02) as port, connected(port, 2) as [first, second]:
        first.send(REQUEST)
        await first.answer()
        async with connected(port) as [third]:
            assert await second.rest() == b""
            for socket in (first, third):
                socket.send(REQUEST)
                assert await socket.answer() == (200, b"hello")


LARGE = b"x" * (32 << 20)


class Large:
    """A handler whose answers no socket takes at once; it tells how many were asked for."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)

    async def __call__(self, request: web.Request) -> web.Response:
        self.asked.release()
        return web.Response(body=LARGE)


async def dropped(lines: list[dict], count: int) -> None:
    """Wait for the log lines of so many connections that were ended for an answer they did not read."""
    async with asyncio.timeout(5):
        while sum(line["count"] for line in lines if line["event"] == "unread_answers_dropped") < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_an_answer_that_nobody_reads_is_dropped_with_its_connection():
    large = Large()
    with structlog.testing.capture_logs() as lines:
        async with (
            serving(large.__call__, answer_timeout_s=SLOW_S, sweep_interval_s=0.02) as port,
            connected(port, 3) as sockets,
        ):
            for socket in sockets:
                socket.reader._transport.pause_reading()
                socket.send(REQUEST)
                await large.asked.acquire()
            await dropped(lines, 3)
            for socket in sockets:
                socket.reader._transport.resume_reading()
                assert len(await socket.rest()) < len(LARGE)


async def test_an_answer_that_is_read_slowly_is_given_whole():
    async with (
        serving(Large().__call__, answer_timeout_s=SLOW_S, sweep_interval_s=0.02) as port,
        connected(port) as [socket],
    ):
        socket.send(REQUEST)
        await socket.reader.readuntil(b"\r\n\r\n")
        for _ in range(8):
            await socket.reader.readexactly(len(LARGE) // 8)
            await asyncio.sleep(SLOW_S / 2)


async def test_an_answer_that_is_closed_unread_does_not_keep_its_connection():
    """What a closing connection still has to give is not waited for any longer than in an open one."""

    async def closing(request: web.Request) -> web.Response:
        return web.Response(body=LARGE, headers={"Connection": "close"})

    with structlog.testing.capture_logs() as lines:
        async with (
            serving(closing, answer_timeout_s=SLOW_S, sweep_interval_s=0.02) as port,
            connected(port) as [socket],
        ):
            socket.reader._transport.pause_reading()
            socket.send(REQUEST)
            await dropped(lines, 1)


async def test_a_header_larger_than_any_client_needs_is_refused_while_it_comes():
    field = b"X-%d: " + b"y" * 8000 + b"\r\n"
    async with serving() as port, connected(port) as [socket]:
        socket.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        for number in range(9):
            socket.send(field % number)
            await asyncio.sleep(0.01)
        assert (await socket.rest()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (b"BREW / HTTP/1.1", 405, "method_not_allowed"),
        (b"get / HTTP/1.1", 405, "method_not_allowed"),
        (b"GETTER / HTTP/1.1", 405, "method_not_allowed"),
        (b"GET /f\xc3\xa4cts HTTP/1.1", 422, "invalid_uri"),
        (b"GET /?entity=\xff HTTP/1.1", 422, "invalid_uri"),
        (b"GET /\x01 HTTP/1.1", 422, "invalid_uri"),
        (b"GET http://[::1/ HTTP/1.1", 422, "invalid_uri"),
        (b"GET file:///etc/passwd HTTP/1.1", 422, "invalid_uri"),
    ],
)
async def test_a_method_or_target_that_no_route_can_have_is_refused_in_json_and_closed(line, status, code, caplog):
    with structlog.testing.capture_logs() as lines:
        async with serving() as port, connected(port) as [socket]:
            socket.send(line + b"\r\nHost: a\r\n\r\n")
            head, body = (await socket.rest()).split(b"\r\n\r\n", 1)

    assert int(head.split()[1]) == status and json.loads(body)["error"] == code
    assert b"X-Content-Type-Options: nosniff" in head and b"application/json" in head
    assert [line["event"] for line in lines] == ["malformed_http"]
    assert caplog.records == []


class Held:
    """A handler that tells how many requests have reached it and answers none before it is released."""

    def __init__(self) -> None:
        self.arrived, self.released = asyncio.Semaphore(0), asyncio.Event()

    async def __call__(self, request: web.Request) -> web.Response:
        self.arrived.release()
        await self.released.wait()
        return web.Response(text="done")

    async def take(self, socket: Socket) -> None:
        socket.send(REQUEST)
        await self.arrived.acquire()


async def test_connections_at_work_are_not_closed_until_they_are_idle_and_then_the_longest_idle_are():
    held = Held()
    async with (
        serving(held.__call__, max_idle=1, sweep_interval_s=0.02) as port,
        connected(port) as [first],
    ):
        await held.take(first)
        async with connected(port) as [second]:
            await held.take(second)
            async with connected(port) as [third]:
                await held.take(third)
                held.released.set()
                assert [await socket.answer() for socket in (first, second, third)] == [(200, b"done")] * 3
                assert (await first.rest(), await second.rest()) == (b"", b"")
                third.send(REQUEST)
                assert await third.answer() == (200, b"done")


@pytest.mark.parametrize(
    "junk",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["words", "tls", "bad_length", "long_field", "long_line", "two_lengths", "broken_chunk"],
)
async def test_what_is_no_http_gets_a_bare_400_is_closed_and_leaves_one_line_without_a_traceback(junk, caplog):
    with structlog.testing.capture_logs() as lines:
        async with serving() as port, connected(port) as [socket]:
            socket.send(junk)
            answer = await socket.rest()

    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 400 ") or head.startswith(b"HTTP/1.0 400 ")
    assert body == b""
    assert [(line["event"], line["log_level"]) for line in lines] == [("malformed_http", "info")]
    assert "exc_info" not in lines[0]
    assert caplog.records == []


async def test_a_compressed_body_reaches_the_handler_as_it_was_sent():
    async with serving() as port, connected(port) as [socket]:
        socket.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd")
        assert await socket.answer() == (200, b"abcd")


async def test_an_exception_that_passed_the_middleware_is_a_500_that_tells_nothing():
    async def broken(request: web.Request) -> web.Response:
        raise ValueError("a secret")

    with structlog.testing.capture_logs() as lines:
        async with serving(broken) as port, connected(port) as [socket]:
            socket.send(REQUEST)
            status, body = await socket.answer()

    assert (status, json.loads(body)) == (500, {"error": "internal", "detail": "internal"})
    assert [line["event"] for line in lines] == ["handler_failed"]


async def test_a_request_under_way_at_shutdown_is_answered_and_then_closed():
    held = Held()
    app = web.Application()
    app.router.add_get("/", held.__call__)
    runner = GuardedRunner(app, shutdown_timeout_s=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with connected(runner.addresses[0][1], 2) as [busy, idle]:
        await held.take(busy)
        closing = asyncio.ensure_future(runner.cleanup())
        assert await idle.rest() == b""
        assert not closing.done()
        held.released.set()
        assert await busy.answer() == (200, b"done")
        await closing


async def test_a_request_that_does_not_end_is_cut_off_at_the_shutdown_timeout():
    held = Held()
    app = web.Application()
    app.router.add_get("/", held.__call__)
    runner = GuardedRunner(app, shutdown_timeout_s=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with connected(runner.addresses[0][1]) as [busy]:
        await held.take(busy)
        async with asyncio.timeout(2):
            await runner.cleanup()
        assert await busy.rest() == b""
