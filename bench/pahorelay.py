"""The yardstick of B2: a relay ``in/#`` -> ``out/#`` as one writes it with paho on an event loop.

Buffered reads and TCP_NODELAY; no rules, no chain, no status, no disk. ``python -m bench.pahorelay PORT QOS`` prints
``ready`` when it is subscribed and runs until SIGTERM. At QoS 1 it acknowledges when ``on_message`` returns, as paho
does.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

INFLIGHT = 100
READ_BYTES = 1 << 16


class _Buffered:
    """A socket that reads once for many small reads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._data, self._at = sock, b"", 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        if self._at == len(self._data):
            self._data, self._at = self._sock.recv(READ_BYTES), 0
        data = self._data[self._at : self._at + size]
        self._at += len(data)
        return data

    def pending(self) -> int:
        return len(self._data) - self._at


class _Client(mqtt.Client):
    def _create_socket(self) -> Any:
        sock = super()._create_socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Buffered(sock)


async def relay(port: int, qos: int) -> None:
    """Relay until SIGTERM."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    client = _Client(CallbackAPIVersion.VERSION2, client_id="bare-relay", protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(INFLIGHT)

    def readable() -> None:
        client.loop_read()
        while client.socket() is not None and client.socket().pending():
            client.loop_read()

    client.on_socket_open = lambda c, u, sock: loop.add_reader(sock.fileno(), readable)
    client.on_socket_close = lambda c, u, sock: loop.remove_reader(sock.fileno())
    client.on_socket_register_write = lambda c, u, sock: loop.add_writer(sock.fileno(), client.loop_write)
    client.on_socket_unregister_write = lambda c, u, sock: loop.remove_writer(sock.fileno())
    client.on_connect = lambda *_: client.subscribe("in/#", qos)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.on_message = lambda c, u, m: client.publish("out/" + m.topic[3:], m.payload, qos)
    client.connect("127.0.0.1", port)
    while not stopping.is_set():
        client.loop_misc()
        try:
            async with asyncio.timeout(1):
                await stopping.wait()
        except TimeoutError:
            pass


if __name__ == "__main__":
    asyncio.run(relay(int(sys.argv[1]), int(sys.argv[2])))
