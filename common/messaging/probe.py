"""Does a broker take connections and messages? Asked with a few bytes of MQTT 3.1.1, without a client library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time

CONNACK, PUBACK = 0x20, 0x40
PROBE_TOPIC = "$fieldpost/probe"  # the filter # does not match what begins with $


async def answers_mqtt(host: str, port: int, timeout: float = 2.0, *, stores: bool = False) -> bool:
    """True when a CONNECT (3.1.1, clean session, own client id) is answered with CONNACK 0 within ``timeout``.

    ``stores`` asks for more: a QoS 1 message to a subscription of its own must be acknowledged.
    """
    client = _text(f"fieldpost-probe-{os.getpid()}-{time.monotonic_ns()}")
    topic = _text(PROBE_TOPIC)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(_packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x0a" + client))
            answer = await reader.readexactly(4)
            if answer[0] != CONNACK or answer[3]:
                return False
            if stores:
                writer.write(_packet(0x82, b"\x00\x01" + topic + b"\x01"))  # SUBSCRIBE
                writer.write(_packet(0x32, topic + b"\x00\x02"))  # PUBLISH, QoS 1
                while (await _read_packet(reader)) != PUBACK:
                    pass
            writer.write(b"\xe0\x00")  # DISCONNECT
            await writer.drain()
            return True
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first, len(body))) + body


async def _read_packet(reader: asyncio.StreamReader) -> int:
    """Read one packet of less than 128 bytes and return its first byte."""
    first, length = await reader.readexactly(2)
    await reader.readexactly(length)
    return first
