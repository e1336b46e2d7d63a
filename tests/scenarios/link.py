"""A TCP link to a node that a test can cut: a proxy on a port of its own that passes, swallows or refuses.

Always: a mode holds from the moment its method returns; whatever the mode, the port stays this link's.
A swallowed connection is lost for good: its bytes were taken and go nowhere, and its end is never told, as behind a
firewall that drops. A refused one is reset at once, as by a machine without the service.

Does not read what passes, but for counting it.
"""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from typing import Any

COMMAND_DEADLINE_S = 10.0
_PART_BYTES = 1 << 14


class Link:
    """Leads from its own `url` to a port on this machine. Its loop runs in a thread of its own."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self._socket = _bound_socket(0)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://localhost:{self.port}"
        # Counted since the start: bytes that came back from the node and were passed, and bytes taken that went nowhere.
        self.answered_bytes = 0
        self.swallowed_bytes = 0
        self._swallows = False
        self._budget: int | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"link-{self.port}", daemon=True)

    def start(self) -> "Link":
        self._thread.start()
        self.let_pass()
        return self

    def close(self) -> None:
        self._do(self._refuse())
        self._do(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(COMMAND_DEADLINE_S)
        self._loop.close()
        self._socket.close()

    def let_pass(self, *, answer_bytes: int | None = None) -> None:
        """Heal; with a number, until that many bytes more have been answered: the rest is swallowed."""
        self._do(self._let_pass(answer_bytes))

    def black_hole(self) -> None:
        """Accept and swallow: no byte arrives, no connection ends."""
        self._do(self._black_hole())

    def refuse(self) -> None:
        """Reset every connection, and accept none."""
        self._do(self._refuse())

    @property
    def is_spent(self) -> bool:
        """Whether the bytes given to `let_pass` are used up."""
        return self._budget == 0

    def _do(self, command: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(command, self._loop).result(COMMAND_DEADLINE_S)

    async def _let_pass(self, answer_bytes: int | None) -> None:
        self._swallows, self._budget = False, answer_bytes
        await self._listen()

    async def _black_hole(self) -> None:
        self._swallows = True
        await self._listen()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            # A socket that is bound and does not listen keeps the port and refuses every connection.
            self._server, self._socket = None, _bound_socket(self.port)
        for writer in list(self._connections):
            writer.transport.abort()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, sock=self._socket)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._connections.add(writer)
        try:
            await self._carry(reader, writer)
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._swallows:
            await self._swallow(reader)
            return
        try:
            there, away = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            return  # the node is down: the connection ends, as its own would
        self._connections.add(away)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, away, is_answer=False))
                both.create_task(self._pump(there, writer, is_answer=True))
        finally:
            self._connections.discard(away)
            away.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        while part := await _read(reader):
            passed = part if not self._swallows else b""
            if is_answer and self._budget is not None:
                passed = passed[: self._budget]
                self._budget -= len(passed)
            self.answered_bytes += len(passed) if is_answer else 0
            writer.write(passed)
            if len(passed) < len(part):
                self.swallowed_bytes += len(part) - len(passed)
                await self._swallow(reader)
                return
        if self._swallows:
            await asyncio.get_running_loop().create_future()
        writer.close()

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        """Take what comes and let nobody know, until the link itself ends the connection."""
        while part := await _read(reader):
            self.swallowed_bytes += len(part)
        await asyncio.get_running_loop().create_future()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_PART_BYTES)
    except OSError:
        return b""


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
