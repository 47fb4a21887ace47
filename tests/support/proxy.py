"""A TCP proxy in the test's own process that breaks connections in the ways that networks do (reliability R3)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from typing import Any

CHUNK_BYTES_MAX = 65536
CHUNKS_HELD_MAX = 256
PUBLISH, PUBACK = 3, 4
_Held = asyncio.Queue[tuple[float, bytes]]  # bytes on their way, and when they are due


def take_packets(buffer: bytearray) -> list[bytes]:
    """Remove the complete MQTT packets from the front of ``buffer`` and return them; an incomplete one stays.

    Raises ValueError for a length of more than four bytes: this is not MQTT.
    """
    packets: list[bytes] = []
    while True:
        length, shift, at = 0, 0, 1
        while at < len(buffer):
            length |= (buffer[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not buffer[at - 1] & 0x80:
                break
            if shift == 28:
                raise ValueError("not an MQTT packet: the length has more than four bytes")
        else:
            return packets
        end = at + length
        if len(buffer) < end:
            return packets
        packets.append(bytes(buffer[:end]))
        del buffer[:end]


def puback_for(packet: bytes) -> bytes:
    """The PUBACK that a QoS 1 PUBLISH asks for (the same bytes in both versions); empty for any other packet."""
    if packet[0] >> 4 != PUBLISH or not packet[0] & 0x02:
        return b""
    at = 1
    while packet[at] & 0x80:
        at += 1
    at += 1
    at += 2 + int.from_bytes(packet[at : at + 2], "big")
    return bytes((PUBACK << 4, 2)) + packet[at : at + 2]


class TcpProxy:
    """Forwards ``port`` to a target and misbehaves on demand. The mode holds for open and for new connections.

    ``pass_()`` forwards. ``half_open()`` accepts, keeps everything open and forwards nothing: bytes and closes wait, as
    in a partition, and arrive after ``pass_()``. ``delay(s)`` forwards each byte that much later. ``rate(n)`` forwards
    n bytes per second each way. ``cut()`` resets the open connections and leaves the mode. ``refuse()`` resets them
    and stops listening until another mode is set; the port stays the proxy's.

    ``discard_pubacks = True`` drops what the broker confirms, PUBACK packets to the client, and forwards all else.
    ``lying = True`` is the broker that acknowledges and discards: QoS 1 messages of the client are confirmed to it and
    go nowhere.
    Arguments: ``mqtt=False`` for other protocols, which are then not cut into packets.
    """

    def __init__(self, target_host: str, target_port: int, *, mqtt: bool = True) -> None:
        self._target = (target_host, target_port)
        self._mqtt = mqtt
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._delay_s, self._rate = 0.0, 0.0
        self.port = 0
        self.discard_pubacks = False
        self.accepted = 0
        self.pubacks_discarded = 0
        self.lying = False
        self.publishes_discarded = 0
        self.bytes_forwarded = 0

    @property
    def url(self) -> str:
        """MQTT URL of the proxy."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    async def start(self) -> None:
        """Listen; the first time on a free port, later on the same."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK_BYTES_MAX)
            self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listener and reset every connection."""
        await self._stop_listening()
        self.cut()
        await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)

    async def pass_(self) -> None:
        """Forward everything at once."""
        await self._set()

    async def half_open(self) -> None:
        """Keep connections, accept new ones, forward nothing."""
        await self._set(forward=False)

    async def delay(self, seconds: float) -> None:
        """Forward every byte ``seconds`` later."""
        await self._set(delay_s=seconds)

    async def rate(self, bytes_per_s: float) -> None:
        """Forward at most ``bytes_per_s`` in each direction of each connection."""
        await self._set(rate=bytes_per_s)

    async def refuse(self) -> None:
        """Reset all connections and refuse new ones."""
        await self._stop_listening()
        self.cut()

    def cut(self) -> None:
        """Reset (RST) every open connection on both sides."""
        for link in tuple(self._links):
            link.reset()

    async def _set(self, *, forward: bool = True, delay_s: float = 0.0, rate: float = 0.0) -> None:
        self._delay_s, self._rate = delay_s, rate
        if forward:
            self._open.set()
        else:
            self._open.clear()
        await self.start()

    async def _stop_listening(self) -> None:
        # Not wait_closed: from Python 3.12 on it waits for the connections too.
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        link = _Link(task, writer)
        self._links.add(link)
        try:
            await self._open.wait()
            target_reader, target_writer = await asyncio.open_connection(*self._target, limit=CHUNK_BYTES_MAX)
            link.writers.append(target_writer)
            async with asyncio.TaskGroup() as group:
                to_client, to_broker = _Held(CHUNKS_HELD_MAX), _Held(CHUNKS_HELD_MAX)
                group.create_task(self._read_client(reader, to_broker, to_client))
                group.create_task(self._read_broker(target_reader, to_client))
                group.create_task(self._write(target_writer, to_broker))
                group.create_task(self._write(writer, to_client))
        except* OSError:
            pass  # one side is gone: the other is reset below
        except* asyncio.CancelledError:
            pass  # reset() ends the link; the task is nobody else's to cancel
        finally:
            self._links.discard(link)
            link.close()

    async def _read_broker(self, reader: asyncio.StreamReader, to_client: _Held) -> None:
        rest = bytearray()
        while chunk := await reader.read(CHUNK_BYTES_MAX):
            if self._mqtt:
                rest += chunk
                chunk = b"".join(packet for packet in take_packets(rest) if not self._discards(packet))
            await self._hold(to_client, chunk)
        await to_client.put((time.monotonic() + self._delay_s, b""))

    async def _read_client(self, reader: asyncio.StreamReader, to_broker: _Held, to_client: _Held) -> None:
        rest = bytearray()
        while chunk := await reader.read(CHUNK_BYTES_MAX):
            if self._mqtt:
                rest += chunk
                honest = []
                for packet in take_packets(rest):
                    puback = puback_for(packet) if self.lying else b""
                    self.publishes_discarded += bool(puback)
                    await self._hold(to_client, puback)
                    if not puback:
                        honest.append(packet)
                chunk = b"".join(honest)
            await self._hold(to_broker, chunk)
        await to_broker.put((time.monotonic() + self._delay_s, b""))

    async def _hold(self, held: _Held, chunk: bytes) -> None:
        if chunk:
            await held.put((time.monotonic() + self._delay_s, chunk))

    def _discards(self, packet: bytes) -> bool:
        discard = self.discard_pubacks and packet[0] >> 4 == PUBACK
        self.pubacks_discarded += discard
        return discard

    async def _write(self, writer: asyncio.StreamWriter, held: _Held) -> None:
        while True:
            due, chunk = await held.get()
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if not chunk:
                await self._open.wait()
                raise ConnectionError("one side closed")
            while chunk:
                await self._open.wait()
                size = max(1, int(self._rate / 20)) if self._rate else len(chunk)
                part, chunk = chunk[:size], chunk[size:]
                writer.write(part)
                await writer.drain()
                self.bytes_forwarded += len(part)
                if self._rate:
                    await asyncio.sleep(len(part) / self._rate)


class _Link:
    """One proxied connection: its task and the writers of both sides."""

    def __init__(self, task: asyncio.Task[Any], writer: asyncio.StreamWriter) -> None:
        self.task = task
        self.writers = [writer]

    def reset(self) -> None:
        """Send RST to both sides and end the task."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self.task.cancel()

    def close(self) -> None:
        """Close both sides; what was written is still sent."""
        for writer in self.writers:
            writer.close()
