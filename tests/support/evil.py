"""An HTTP server that misbehaves on purpose, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class EvilServer:
    """A server that reads requests and then behaves as ``behave`` says, on a port or a unix socket."""

    def __init__(self) -> None:
        self.behave: list[Behave] = []
        self.connections = self.open = self.port = 0
        self.requests: list[bytes] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length[0].partition(b":")[2]) if length else 0)
                self.requests.append(head)
                behave = self.behave[0] if len(self.behave) == 1 else self.behave.pop(0)
                await behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    @contextlib.asynccontextmanager
    async def running(self, socket: str = "", tls: ssl.SSLContext | None = None) -> AsyncIterator[EvilServer]:
        """Listen."""
        if socket:
            server = await asyncio.start_unix_server(self._serve, socket)
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
            self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


def says(answer: bytes, *, close: bool = False) -> Behave:
    """Write this, and close the connection then, or go on."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        if close:
            raise ConnectionError

    return behave


def endless(answer: bytes, every_s: float = 0.0, chunk: bytes = b"x") -> Behave:
    """Write this, then a chunk again and again, until the other side goes away; without a chunk: just wait."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        while chunk and not reader.at_eof():
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(every_s)
        await reader.read()
        raise ConnectionError

    return behave
