"""The door of a node that speaks TLS: connections come in, and those whose handshake succeeds are handed to the server.

Always: a handshake has `handshake_timeout_s`, and at most `max_handshakes` are under way, the oldest closed beyond that: who
connects and says nothing holds nothing for long. Each connection gets the context in force when it came, so new certificates need
no restart. A stranger's failed handshake is one log line and a count, with nothing of what was sent; never an event (PROTOCOL §16).

Not aiohttp's own sites: they leave the handshake to the event loop, which drops a failed one without a word, and keeps one
context for ever.
"""

import asyncio
import socket
import ssl
from contextlib import suppress

import structlog
from aiohttp import web

from node.http.connections import MAX_IDLE
from node.tls import Tls, words_for

HANDSHAKE_TIMEOUT_S = 10.0
# A burst beyond it waits a second and more: the system drops what it has no room for, and the client tries again.
BACKLOG = 1024
# As asyncio rests where a process has no more file descriptors.
ACCEPT_REST_S = 1.0

_log = structlog.get_logger(__name__)


class TlsSite(web.BaseSite):
    """Listens on every address of a host."""

    def __init__(
        self,
        runner: web.AppRunner,
        tls: Tls,
        host: str,
        port: int,
        *,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        max_handshakes: int = MAX_IDLE,
    ) -> None:
        super().__init__(runner)
        self._host, self._port, self._tls = host, port, tls
        self._handshake_timeout_s, self._max_handshakes = handshake_timeout_s, max_handshakes
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        # In the order in which they came.
        self._handshakes: dict[asyncio.Task[None], None] = {}
        # How many handshakes came to nothing.
        self.refused = 0

    @property
    def name(self) -> str:
        return f"https://{self._host}:{self.port}"

    @property
    def port(self) -> int:
        """The port it listens on, where it was asked for any (0) the one it got."""
        return self._sockets[0].getsockname()[1] if self._sockets else self._port

    async def start(self) -> None:
        """Raises OSError where it cannot listen."""
        await super().start()
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            self._sockets.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
        for listener in self._sockets:
            listener.setblocking(False)
            self._accepting.append(loop.create_task(self._accept(listener), name="stigmem-accept"))

    async def stop(self) -> None:
        await super().stop()
        tasks = [*self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._sockets:
            listener.close()

    def let_go(self) -> None:
        """Close every connection that is there, one under way behind its request: for who came in under other certificates."""
        for handshake in self._handshakes:
            handshake.cancel()
        self._runner.server.let_go()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                _log.error("accept_failed", reason=error.strerror)
                await asyncio.sleep(ACCEPT_REST_S)
                continue
            try:
                await self._make_room()
            except asyncio.CancelledError:
                connection.close()
                raise
            task = loop.create_task(self._greet(connection, address[0]), name="stigmem-handshake")
            self._handshakes[task] = None
            task.add_done_callback(self._handshakes.pop)
            # Of a burst the next one is there at once, and would be taken before this one began: then nobody had its socket.
            await asyncio.sleep(0)

    async def _make_room(self) -> None:
        """Close the oldest handshake where there are as many as there may be, and wait until it is gone: a cancelled one counts
        until then, and would be the oldest again for whoever comes next.
        """
        while len(self._handshakes) >= self._max_handshakes:
            oldest = next(iter(self._handshakes))
            oldest.cancel()
            await asyncio.wait({oldest})

    async def _greet(self, connection: socket.socket, remote: str) -> None:
        try:
            # The loop closes the socket of a failed handshake, with the alert that says why still unsent.
            spare = connection.dup()
        except OSError as error:
            connection.close()
            _log.error("accept_failed", reason=error.strerror)
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._runner.server,
                connection,
                ssl=self._tls.server,
                ssl_handshake_timeout=self._handshake_timeout_s,
            )
        except OSError as error:
            self.refused += 1
            cause = "closed, or not done in time"
            if isinstance(error, ssl.SSLError):
                cause = words_for(error)
                with suppress(OSError):
                    spare.send(getattr(error, "alert", b""))
            _log.info("tls_refused", remote=remote, cause=cause, refused=self.refused)
        finally:
            spare.close()
