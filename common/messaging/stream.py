"""A non-blocking socket with buffers on both sides: one system call for many small MQTT packets.

An MQTT library reads a packet as one byte, one or more length bytes, then the rest, and writes each packet by itself.
Here one ``recv`` fills a buffer for many of those reads, and what is written in one turn of the loop goes out in one
``send``. TCP_NODELAY is set: with Nagle's algorithm QoS 1 costs 44 ms a message at low rates (performance hints).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

READ_BYTES = 64 * 1024
UNSENT_BYTES_MAX = 256 * 1024  # above that the library keeps its packets until the kernel takes some

_AGAIN = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Stream:
    """The socket as the MQTT library sees it (``recv``, ``send``, ``close``); ``fill`` and ``flush`` are the loop's."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fault = ""  # why it ended, in words, once it has
        self.sent = 0  # bytes that the kernel has taken
        self.written_qos0 = 0  # QoS 0 PUBLISH packets taken so far; they get no other confirmation
        self._read = b""
        self._at = 0
        self._ended = False
        self._unsent = bytearray()
        self._closed = False

    def fileno(self) -> int:
        return self.sock.fileno()

    def setblocking(self, flag: bool) -> None:
        self.sock.setblocking(flag)

    @property
    def pending(self) -> bool:
        """True while ``recv`` has something to give: bytes, or the end."""
        return self._at < len(self._read) or self._ended

    @property
    def unsent(self) -> int:
        """Bytes taken by ``send`` that the kernel does not have yet."""
        return len(self._unsent)

    def fill(self) -> None:
        """Read once from the socket. A fault is given to the reader after the bytes that came before it."""
        try:
            data = self.sock.recv(READ_BYTES)
        except _AGAIN:
            return
        except OSError as exc:
            self.fault, self._ended = str(exc), True
            return
        if not data:
            self.fault, self._ended = "closed by the broker", True
        self._read = self._read[self._at :] + data
        self._at = 0

    @property
    def ended(self) -> bool:
        """True when nothing more can be read: ``fault`` says why."""
        return self._ended

    def take(self) -> bytes:
        """Give all buffered bytes at once."""
        data, self._read, self._at = self._read[self._at :], b"", 0
        return data

    def write(self, data: bytes) -> None:
        """Take bytes, whatever is unsent; ``flush`` writes them."""
        self._unsent += data

    def recv(self, size: int) -> bytes:
        """Give up to ``size`` buffered bytes, ``b""`` at the end. Raises BlockingIOError when there are none."""
        at = self._at
        if at < len(self._read):
            data = self._read[at : at + size]
            self._at = at + len(data)
            return data
        if self._ended or self._closed:
            return b""
        raise BlockingIOError

    def send(self, data: bytes | bytearray) -> int:
        """Take one whole packet, or raise BlockingIOError; ``flush`` writes it."""
        if len(self._unsent) >= UNSENT_BYTES_MAX:
            raise BlockingIOError
        self._unsent += data
        if data[0] & 0xF6 == 0x30:
            self.written_qos0 += 1
        return len(data)

    def flush(self) -> bool:
        """Write what the kernel takes. True when nothing is left; raises OSError when the connection is gone."""
        if self._unsent:
            try:
                sent = self.sock.send(self._unsent)
                del self._unsent[:sent]
                self.sent += sent
            except _AGAIN:
                return False
        return not self._unsent

    def close(self) -> None:
        """What the library calls: nothing yet, the descriptor must be taken off the loop first. See ``shut``."""

    def shut(self) -> None:
        """Close at once; twice is once."""
        if not self._closed:
            self._closed = True
            self.sock.close()

    async def finish(self, last: bytes, timeout: float) -> None:
        """Write ``last`` behind everything, say that no more comes, read what the other side still sends.

        A close with unread bytes is a TCP reset: the broker might lose ``last`` (the DISCONNECT) and publish the will.
        """
        self._unsent += last
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(timeout):
                while not self.flush():
                    await _ready(self.sock, write=True)
                self.sock.shutdown(socket.SHUT_WR)
                while not self._ended:
                    await _ready(self.sock, write=False)
                    self.fill()


async def open_stream(host: str, port: int, context: ssl.SSLContext | None, timeout: float) -> Stream:
    """Connect, with the TLS handshake if there is a context. Raises OSError (ssl.SSLError is one) or TimeoutError.

    Nothing of it blocks the loop or holds a thread (but for looking up a name), so a cancel ends it at once.
    """
    async with asyncio.timeout(timeout):
        loop = asyncio.get_running_loop()
        failure: OSError = OSError(f"{host} has no address")
        for family, kind, proto, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return Stream(await _connect(socket.socket(family, kind, proto), address, host, context))
            except OSError as exc:
                failure = exc
        raise failure


async def _connect(
    sock: socket.socket, address: tuple[object, ...], host: str, context: ssl.SSLContext | None
) -> socket.socket:
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
        if context:
            sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            await _handshake(sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def _handshake(sock: ssl.SSLSocket) -> None:
    while True:
        try:
            return sock.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(sock, write=False)
        except ssl.SSLWantWriteError:
            await _ready(sock, write=True)


async def _ready(sock: socket.socket, *, write: bool) -> None:
    """Wait until the socket can be written or read."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    add: Callable[..., None] = loop.add_writer if write else loop.add_reader
    descriptor = sock.fileno()
    add(descriptor, lambda: None if done.done() else done.set_result(None))
    try:
        await done
    finally:
        (loop.remove_writer if write else loop.remove_reader)(descriptor)
