"""Connections that ask or take nothing: the limits that aiohttp leaves open, and what is logged when HTTP itself is broken.

Always (PROTOCOL §16): a header has `header_timeout_s` from its first byte to its last, and MAX_HEADER_BYTES in all;
then 408 or 400 and closed. At most `max_idle` connections wait without a request; beyond that the longest waiting are closed.
An answer that is not read is given up after `answer_timeout_s` without progress, and all that wait to be read hold
`answers_room_bytes` at the most: a large one beyond that is not given.
Bodies arrive as they were sent: a compressed one is never inflated here, so its size limit cannot be fooled.
What is no HTTP gets a bare 400, a method or target that no route can have its refusal; both are closed and one log line, without
the bytes, which are the stranger's.

A connection that is being closed still takes the rest of the body that a handler waits for: SIGTERM finishes what is under way.

A request that need not wait is answered past aiohttp's task of the connection (see node/http/prompt.py), one at a time: what is
sent in one go, or by somebody who does not take the answers, is left to that task.

Rests on private names of aiohttp's RequestHandler: `_waiter`, set while a connection waits for its next request, as its own
keep-alive timer does; `_messages`, what is still to be answered; `_close` and `_force_close`,
set once it shuts down; for prompt answers `_parser`, `_paused`, `_next_keepalive_close_time`, what it makes and handles requests
with, and a request's `_match_info`. The tests fail when one goes.

Does not limit: the time a body takes, or what bodies hold (see node/http/body.py).
"""

import asyncio
import heapq
import re
from functools import cached_property
from typing import Any

import structlog
from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMethod, InvalidURLError

from node.certificates import Certificate
from node.errors import InvalidUri, MethodNotAllowed, Overloaded
from node.http.body import json_response, written_answer
from node.http.errors import refusal_response
from node.http.prompt import PROMPT, Awaited, PromptHandler, PromptRoutes, begin
from node.tls import certificate_in

HEADER_TIMEOUT_S = 30.0
# Beyond what credentials and all that proxies add can come to; aiohttp bounds the fields and their number, not their sum.
MAX_HEADER_BYTES = 1 << 16
# How long one that sends more is still listened to, so that it can read why it was refused.
LINGER_S = 1.0
ANSWER_TIMEOUT_S = 30.0
# What a reader must take within that time.
ANSWER_STEP_BYTES = 1 << 14
# Each lies there twice: what aiohttp hands on is a copy, header and body in one.
ANSWERS_ROOM_BYTES = 128 << 20
MAX_IDLE = 1000
# Twice the longest credential: one that is somewhat longer is answered as what it is, 401, not as broken HTTP.
MAX_FIELD_BYTES = 1 << 14
# aiohttp waits this long for handlers and again for what it cancelled; twice it must fit the 10 s of PROTOCOL §13.
SHUTDOWN_TIMEOUT_S = 3.0
SWEEP_INTERVAL_S = 1.0

_log = structlog.get_logger(__name__)


class GuardedRunner(web.AppRunner):
    """An AppRunner whose connections keep the limits above. Everything else is aiohttp's default."""

    def __init__(
        self,
        app: web.Application,
        *,
        header_timeout_s: float = HEADER_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        answers_room_bytes: int = ANSWERS_ROOM_BYTES,
        max_idle: int = MAX_IDLE,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
        shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
    ) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout_s)
        self._limits = {
            "header_timeout_s": header_timeout_s,
            "answer_timeout_s": answer_timeout_s,
            "answers_room_bytes": answers_room_bytes,
            "max_idle": max_idle,
            "sweep_interval_s": sweep_interval_s,
        }

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return GuardedServer(
            plain.request_handler,
            request_factory=plain.request_factory,
            prompt=self.app.get(PROMPT) or PromptRoutes(self.app, None),
            **self._limits,
        )


class GuardedServer(web.Server):
    """Makes guarded connections, and looks at them from time to time while there are any."""

    def __init__(
        self,
        handler: Any,
        *,
        request_factory: Any,
        prompt: PromptRoutes,
        header_timeout_s: float,
        answer_timeout_s: float,
        answers_room_bytes: int,
        max_idle: int,
        sweep_interval_s: float,
    ) -> None:
        super().__init__(handler, request_factory=request_factory)
        self.header_timeout_s, self.prompt = header_timeout_s, prompt
        self._answer_timeout_s = answer_timeout_s
        self._answers_room_bytes = answers_room_bytes
        self._max_idle = max_idle
        self._sweep_interval_s = sweep_interval_s
        self._sweep: asyncio.TimerHandle | None = None

    def __call__(self) -> "GuardedConnection":
        return GuardedConnection(self)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._close_idle()
        if self._sweep is None:
            self._sweep_later()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (aiohttp's signature)
        self._stop_sweep()
        await super().shutdown(timeout)

    def require_room(self, answer_bytes: int) -> None:
        """Raise Overloaded where so much more would lie in memory until others read what they asked for."""
        # None of an answer is given back before all of it was taken.
        held_bytes = sum(connection.answer_bytes for connection in self.connections if connection.unread_bytes)
        if held_bytes and held_bytes + answer_bytes > self._answers_room_bytes:
            raise Overloaded("too many large answers wait to be read")

    def let_go(self) -> None:
        """Close every connection: one that waits at once, others behind the request under way."""
        for connection in self.connections:
            if connection.is_idle:
                connection.force_close()
            else:
                connection.close()

    def _sweep_connections(self) -> None:
        """Nobody is told when a connection turns idle, or when an answer is not read: it is looked for."""
        self._sweep = None
        self._close_idle()
        self._end_unread()
        if self.connections:
            self._sweep_later()

    def _close_idle(self) -> None:
        """Close the longest idle beyond the limit."""
        connections = self.connections
        if len(connections) <= self._max_idle:
            return
        idle = [connection for connection in connections if connection.is_idle]
        excess = heapq.nsmallest(len(idle) - self._max_idle, idle, key=lambda connection: connection.last_request_at)
        for connection in excess:
            connection.force_close()
        if excess:
            _log.info("idle_connections_closed", count=len(excess), max_idle=self._max_idle)

    def _end_unread(self) -> None:
        since = asyncio.get_running_loop().time() - self._answer_timeout_s
        stalled = [connection for connection in self.connections if connection.is_unread_since(since)]
        for connection in stalled:
            connection.abort()
        if stalled:
            _log.info("unread_answers_dropped", count=len(stalled), timeout_s=self._answer_timeout_s)

    def _sweep_later(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(self._sweep_interval_s, self._sweep_connections)

    def _stop_sweep(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None


class GuardedConnection(web.RequestHandler):
    """aiohttp's connection, with bounds for each header and answer and words of its own for errors."""

    def __init__(self, server: GuardedServer) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, access_log=None, auto_decompress=False, max_field_size=MAX_FIELD_BYTES)
        self._header_timeout_s, self._prompt = server.header_timeout_s, server.prompt
        self._header_deadline: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._was_asked = self._is_refused = False
        # aiohttp lets go of its transport once it closes it, which what is still to be read puts off.
        self._socket: asyncio.Transport | None = None
        # Of the last large answer.
        self.answer_bytes = 0
        # When there was last so much less to be read.
        self._unread: tuple[float, int] = (loop.time(), 0)
        # Not the last byte: somebody who trickles would look busier than an honest client that waits.
        self.last_request_at = loop.time()

    @cached_property
    def certificate(self) -> Certificate | None:
        """What the client showed of itself; None where that is nothing, or there is no TLS. Its signature held in the handshake.

        Raises SSLCertVerificationError where it cannot be read.
        """
        secured = None if self.transport is None else self.transport.get_extra_info("ssl_object")
        return None if secured is None else certificate_in(secured)

    @property
    def is_idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done() and not self._messages

    @property
    def unread_bytes(self) -> int:
        """What of the answers the other side has not taken yet, but for what the system holds."""
        return 0 if self._socket is None else self._socket.get_write_buffer_size()

    def take_room(self, answer_bytes: int) -> None:
        """Make ready to give a large answer. Raises Overloaded where too much waits to be read already."""
        if self._manager is not None:
            self._manager.require_room(answer_bytes)
            self.answer_bytes = answer_bytes

    def is_unread_since(self, instant: float) -> bool:
        """Whether ANSWER_STEP_BYTES were not taken since then, and there was something to take; to be asked from time to time."""
        unread_bytes, (marked_at, marked_bytes) = self.unread_bytes, self._unread
        if not 0 <= marked_bytes - unread_bytes < ANSWER_STEP_BYTES or not unread_bytes:
            self._unread = self._loop.time(), unread_bytes
            return False
        return marked_at < instant

    def abort(self) -> None:
        """Close without waiting for what is still to be read."""
        if self._socket is not None:
            self._socket.abort()

    def close(self) -> None:
        # A request that was taken and waits for its turn is under way: aiohttp would end its task with the others that wait.
        if self._messages and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        super().close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._close or self._force_close:
            self._take_while_closing(data)
            has_request = not self.is_idle
        elif self.is_idle:
            has_request = self._take_while_idle(data)
        else:
            super().data_received(data)
            # One that was just made is not idle yet: its task has not begun to wait.
            has_request = self._was_asked or bool(self._messages)
        # A connection that still waits after these bytes has got a part of a header and no more.
        if not has_request:
            if data and self._header_deadline is None:
                self._header_deadline = self._loop.call_later(self._header_timeout_s, self._refuse_slow_header)
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refuse_long_header()
            return
        self._was_asked, self._header_bytes = True, 0
        self.last_request_at = self._loop.time()
        # An answer that was given at once, aiohttp has not seen.
        self._next_keepalive_close_time = self.last_request_at + self._keepalive_timeout
        if self._header_deadline is not None:
            self._drop_header_deadline()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._drop_header_deadline()
        super().connection_lost(exc)
        self._socket = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What aiohttp asks for when the bytes are no HTTP (400), or when something got past the error middleware."""
        if status == 400:
            _log.info("malformed_http", remote=request.remote, cause=type(exc).__name__)
            answer = _answer_to_malformed(exc)
        else:
            _log.error("handler_failed", remote=request.remote, exc_info=exc)
            answer = json_response({"error": "internal", "detail": "internal"}, status=500)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is already under way")
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        _log.error("connection_failed", cause=str(args[0]), exc_info=kw.get("exc_info", True))

    def _take_while_idle(self, data: bytes) -> bool:
        """Take bytes; returns whether they brought a request.

        aiohttp's task of this connection sleeps on `_waiter` meanwhile, and is woken for whatever `_answer` does not answer.
        """
        waiter, self._waiter = self._waiter, None
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if not self._messages:
            return False
        found = self._prompt.find(self._messages[0][0]) if _is_plain(*self._messages[0]) else None
        if found is None:
            waiter.set_result(None)
        else:
            # Together with what others have just sent: the processor forgets the code while it reads and writes.
            self._loop.call_soon(self._answer, waiter, *found)
        return True

    def _answer(self, waiter: asyncio.Future[None], match: web.UrlMappingMatchInfo, handler: PromptHandler) -> None:
        """Answer the request that was taken, unless the connection is closed by now, or its task woken for what came behind it."""
        if waiter.done() or self.transport is None:
            return
        # Whoever does not take what was answered, or sends many requests in one go, has them answered one by one by the task.
        if self._paused or not self._answer_at_once(match, handler) or self._messages:
            waiter.set_result(None)

    def _answer_at_once(self, match: web.UrlMappingMatchInfo, handler: PromptHandler) -> bool:
        message, payload = self._messages[0]
        # It writes nothing by itself, so there is no writer.
        request = self._request_factory(message, payload, self, None, self._task_handler)
        request._match_info = match
        answer = begin(handler, request)
        if not isinstance(answer, bytes):
            self._go_on_with(answer)
            return False
        self._messages.popleft()
        self._parser.message_consumed()
        self._manager.requests_count += 1
        self.transport.write(written_answer(answer))
        return True

    def _go_on_with(self, answer: Awaited) -> None:
        """Have the task of this connection await and send what its next request came to."""
        handler = self._request_handler

        async def go_on(_: web.BaseRequest) -> web.StreamResponse:
            self._request_handler = handler
            return await answer

        self._request_handler = go_on

    def _take_while_closing(self, data: bytes) -> None:
        """aiohttp drops what comes once it closes, so the request under way would wait in vain for the end of its body."""
        closing = self._close, self._force_close
        self._close = self._force_close = False
        try:
            super().data_received(data)
        finally:
            # A next request that came along is parsed and never begun: the connection ends with the one under way.
            self._close, self._force_close = closing

    def _refuse_slow_header(self) -> None:
        self._header_deadline = None
        if self.transport is None or not self.is_idle:
            return
        _log.info("slow_header", timeout_s=self._header_timeout_s)
        self.transport.write(_SLOW_HEADER)
        self.force_close()

    def _refuse_long_header(self) -> None:
        _log.info("malformed_http", remote=self.peername and self.peername[0], cause="LongHeader")
        self._is_refused = True
        if self.transport is None:
            return
        self.transport.write(_LONG_HEADER)
        if not self.transport.can_write_eof():
            self.force_close()
            return
        # Closing over bytes that nobody has read yet takes the answer back from who is still sending.
        self.transport.write_eof()
        self._loop.call_later(LINGER_S, self.force_close)

    def _drop_header_deadline(self) -> None:
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None


def _is_plain(message: Any, payload: Any) -> bool:
    """Whether it is a whole request of HTTP/1.1 without a body, after which the connection stays open."""
    return (
        payload is EMPTY_PAYLOAD
        and type(message) is RawRequestMessage
        and message.version == HttpVersion11
        and not message.should_close
        and not message.upgrade
        and "Expect" not in message.headers
    )


# A request line in which aiohttp's parser found a method that it does not know; what it says begins with the reason.
_UNKNOWN_METHOD = re.compile(r".*:\n\n  b'[!#$%&*+.^_`|~0-9A-Za-z-]+ [^ ]+ HTTP/1\.[01]'", re.DOTALL)


def _answer_to_malformed(error: BaseException | None) -> web.Response:
    """PROTOCOL §1: a JSON body where HTTP was understood, a bare 400 where it was not."""
    if isinstance(error, InvalidURLError):
        return refusal_response(InvalidUri("the request's target: not a URI in ASCII"))
    if isinstance(error, BadHttpMethod) and _UNKNOWN_METHOD.match(error.message):
        return refusal_response(MethodNotAllowed("no route takes this method"))
    return web.Response(status=400, headers={"X-Content-Type-Options": "nosniff"})


_SLOW_HEADER_BODY = b'{"error":"request_timeout","detail":"the header did not arrive in time"}'
# Written by hand: without a whole header there is no request that aiohttp could answer.
_SLOW_HEADER = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_SLOW_HEADER_BODY), _SLOW_HEADER_BODY)
)
_LONG_HEADER = (
    b"HTTP/1.1 400 Bad Request\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)
