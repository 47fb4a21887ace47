"""The TCP proxy does what its modes say: other tests build on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.brokers import Broker, Mosquitto
from tests.support.client import Client
from tests.support.proxy import TcpProxy, take_packets
from tests.support.wait import eventually

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def echo() -> AsyncIterator[TcpProxy]:
    """A proxy in front of a server that sends back what it gets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    proxy = TcpProxy("127.0.0.1", server.sockets[0].getsockname()[1], mqtt=False)
    await proxy.start()
    yield proxy
    await proxy.stop()
    server.close()


async def dial(proxy: TcpProxy) -> Pair:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def ask(pair: Pair, data: bytes) -> bytes:
    pair[1].write(data)
    return await asyncio.wait_for(pair[0].readexactly(len(data)), 10)


async def test_half_open_holds_and_then_delivers(echo: TcpProxy) -> None:
    """Half open, old and new connections stay open and silent; afterwards what was written arrives."""
    old = await dial(echo)
    assert await ask(old, b"one") == b"one"
    await echo.half_open()
    new = await dial(echo)
    for pair in (old, new):
        pair[1].write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pair[0].read(1), 0.1)
    await echo.pass_()
    for pair in (old, new):
        assert await asyncio.wait_for(pair[0].readexactly(3), 10) == b"two"
        pair[1].close()


async def test_cut_resets(echo: TcpProxy) -> None:
    """Cut, a connection ends with a reset; the next one works."""
    pair = await dial(echo)
    assert await ask(pair, b"one") == b"one"
    echo.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(pair[0].read(1), 10)
    await eventually(lambda: echo.connections == 0)
    again = await dial(echo)
    assert await ask(again, b"two") == b"two"
    again[1].close()


async def test_refuse(echo: TcpProxy) -> None:
    """Refusing, nothing listens on the port; afterwards it is the same port."""
    port = echo.port
    await echo.refuse()
    with pytest.raises(ConnectionRefusedError):
        await dial(echo)
    await echo.pass_()
    assert echo.port == port
    pair = await dial(echo)
    assert await ask(pair, b"one") == b"one"
    pair[1].close()


async def test_delay_and_rate(echo: TcpProxy) -> None:
    """Delay adds to each way and does not limit the throughput; rate does."""
    pair = await dial(echo)
    await echo.delay(0.1)
    started = time.monotonic()
    assert await ask(pair, bytes(1_000_000)) == bytes(1_000_000)
    assert 0.2 <= time.monotonic() - started < 10
    await echo.rate(10_000)
    started = time.monotonic()
    assert await ask(pair, bytes(3_000)) == bytes(3_000)
    assert time.monotonic() - started >= 0.25
    pair[1].close()


async def test_pubacks_are_discarded(any_broker: Broker) -> None:
    """The lying network: messages arrive, their confirmations do not, and all else goes through."""
    proxy = TcpProxy("127.0.0.1", any_broker.port)
    await proxy.start()
    async with Client(proxy.port, "reader") as reader, Client(proxy.port, "writer") as writer:
        await reader.subscribe("t")
        await writer.publish("t", b"confirmed")
        proxy.discard_pubacks = True
        info = writer.paho.publish("t", b"x" * 100_000, qos=1)
        assert [len(payload) for _, payload, _ in await reader.wait_for(2)] == [9, 100_000]
        await eventually(lambda: proxy.pubacks_discarded == 1)
        proxy.discard_pubacks = False
        await writer.publish("t", b"confirmed again")
        assert not info.is_published()
    await proxy.stop()


async def test_lying_broker_confirms_and_discards(any_broker: Broker) -> None:
    """Lying, each message is confirmed and none arrives; afterwards they do."""
    proxy = TcpProxy("127.0.0.1", any_broker.port)
    await proxy.start()
    async with Client(proxy.port, "reader") as reader, Client(proxy.port, "writer") as writer:
        await reader.subscribe("t")
        proxy.lying = True
        for payload in (b"gone", b"g" * 300):
            await writer.publish("t", payload)
        assert proxy.publishes_discarded == 2
        proxy.lying = False
        await writer.publish("t", b"kept")
        assert await reader.wait_for(1) == [("t", b"kept", False)]
    await proxy.stop()


def test_packets_are_cut_at_their_ends() -> None:
    """Whatever the pieces in which bytes come, the packets are the same; what is no MQTT is an error."""
    packets = [b"\x20\x02\x00\x00", b"\xd0\x00", b"\x30\x80\x01" + bytes(128), b"\x40\x02\x00\x01"]
    stream = b"".join(packets)
    for size in (1, 2, 3, 7, 200):
        buffer, got = bytearray(), []
        for at in range(0, len(stream), size):
            buffer += stream[at : at + size]
            got += take_packets(buffer)
        assert got == packets
        assert not buffer
    with pytest.raises(ValueError, match="not an MQTT packet"):
        take_packets(bytearray(b"\x30\xff\xff\xff\xff\x01"))


async def test_broker_keeps_its_port_and_loses_its_data(any_broker: Broker) -> None:
    """Killed, wiped and started, a broker has its old port and nothing else."""
    port = any_broker.port
    async with Client(port, "writer") as writer:
        await writer.publish("t", b"kept", retain=True)
    await any_broker.kill()
    assert any_broker.pid == 0
    any_broker.wipe()
    await any_broker.start()
    assert any_broker.port == port
    async with Client(port, "reader") as reader:
        await reader.subscribe("t")
        await reader.publish("t", b"new")
        assert await reader.wait_for(1) == [("t", b"new", False)]


async def test_mosquitto_that_cannot_start_shows_why(mosquitto: Mosquitto) -> None:
    """A configuration that Mosquitto refuses ends in an error with its log."""
    broken = type(mosquitto)(mosquitto.log_file.parent / "broken", config_lines=["no_such_option true"])
    with pytest.raises(RuntimeError, match="no_such_option"):
        await broken.start()
    assert broken.pid == 0
