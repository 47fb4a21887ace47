"""MqttLink over real brokers: lost connections, silent brokers, and the traps of paho (reliability R2)."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest

from common.errors import NotConnectedError, QueueFullError
from common.messaging.base import (
    NOBODY_LISTENS,
    NOT_SENT,
    PUBLISHED,
    Will,
)
from common.settings import BrokerSettings
from tests.support.brokers import Mosquitto
from tests.support.proxy import TcpProxy
from tests.support.wait import eventually

log = logging.getLogger(__name__)


async def test_publish_while_disconnected_takes_nothing(mosquitto: Mosquitto, links: Any) -> None:
    """paho would queue and send later what it calls failed; here it raises, and nothing comes after the connect."""
    watched = links(mosquitto.settings())
    with pytest.raises(NotConnectedError):
        watched.publish("t/early")
    await watched.up("t/#")
    assert await watched.published("t/now") == PUBLISHED
    await eventually(lambda: watched.messages)
    assert [item.topic for item in watched.messages] == ["t/now"]
    assert watched.codes == [PUBLISHED]


async def test_nothing_is_replayed_at_a_reconnect(mosquitto: Mosquitto, proxy: TcpProxy, links: Any) -> None:
    """What is not confirmed when the connection ends is NOT_SENT, once each, and the link never sends it again."""
    watched, reader = links(mosquitto.settings(url=proxy.url)), links(mosquitto.settings(), "reader")
    await reader.up("t/#")
    await watched.up()
    proxy.discard_pubacks = True
    for number in range(150):  # more than the window
        watched.publish(f"t/{number}")
    await eventually(lambda: len(reader.messages) == 20)  # Mosquitto's Receive Maximum
    assert watched.link.statistics()["in_flight"] == 20
    proxy.discard_pubacks = False
    proxy.cut()
    await watched.connected(2)
    assert watched.codes == [NOT_SENT] * 150
    assert await watched.published("t/after") == PUBLISHED
    await eventually(lambda: len(reader.messages) == 21)
    assert reader.messages[-1].topic == "t/after"
    assert watched.events == ["up", "down", "up"]


async def test_exceptions_in_callbacks_kill_nothing(mosquitto: Mosquitto, links: Any) -> None:
    """paho's thread would die of it while ``is_connected()`` stays True; here it is counted and the link goes on."""
    watched = links(mosquitto.settings())

    def fail(*_: Any) -> None:
        raise RuntimeError("owner's fault")

    watched.link.on_connect = watched.link.on_message = fail
    await watched.up("t/#")
    watched.link.publish("t/1", b"x", on_done=fail)
    await eventually(lambda: watched.link.statistics()["callback_errors"] == 3)
    watched.link.on_message = watched.messages.append
    assert await watched.published("t/2") == PUBLISHED
    await eventually(lambda: watched.messages)
    assert watched.link.generation == 1


async def test_an_ack_of_an_older_connection_is_dropped(mosquitto: Mosquitto, proxy: TcpProxy, links: Any) -> None:
    """Packet ids start again with each connection: an old one would acknowledge another message, unprocessed."""
    watched = links(mosquitto.settings(url=proxy.url), manual_ack=True, session_expiry_s=60)
    await watched.up("t/#")
    await watched.published("t/1")
    await eventually(lambda: watched.messages)
    first = watched.messages.pop()
    proxy.cut()
    await watched.connected(2)
    await eventually(lambda: watched.messages)  # not acknowledged, so it comes again
    again = watched.messages[0]
    assert (again.topic, again.dup, again.generation) == ("t/1", True, 2)
    assert watched.link.ack(first.receipt()) is False
    assert watched.link.ack(again.receipt()) is True
    assert watched.link.statistics()["stale_acks"] == 1
    await watched.published("t/2")  # behind the PUBACK on the same connection
    proxy.cut()
    await watched.connected(3)
    await watched.published("t/3")
    await eventually(lambda: {"t/3"} <= {item.topic for item in watched.messages if item.generation == 3})
    assert "t/1" not in {item.topic for item in watched.messages if item.generation == 3}


async def test_one_disconnect_per_connection(mosquitto: Mosquitto, proxy: TcpProxy, links: Any) -> None:
    """paho can report a disconnect twice; the owner hears of each connection's end once."""
    watched = links(mosquitto.settings(url=proxy.url))
    await watched.up()
    for generation in (2, 3, 4):
        proxy.cut()
        await watched.connected(generation)
    await watched.link.stop()
    assert watched.events == ["up", "down"] * 4
    assert watched.link.statistics()["disconnects"] == 4
    assert not watched.link.connected


async def test_watchdog_reconnects_without_progress(mosquitto: Mosquitto, proxy: TcpProxy, links: Any) -> None:
    """Messages in flight and no PUBACK for ``stall_s``: the connection is dropped, counted, and made anew."""
    watched = links(mosquitto.settings(url=proxy.url, stall_s=0.4))
    await watched.up()
    proxy.discard_pubacks = True
    watched.publish("t/1")
    await eventually(lambda: watched.codes == [NOT_SENT])
    proxy.discard_pubacks = False
    await watched.connected(2)
    assert watched.link.statistics()["stalls"] == 1
    assert await watched.published("t/2") in (PUBLISHED, NOBODY_LISTENS)


async def test_a_partition_is_noticed_by_the_keepalive(mosquitto: Mosquitto, proxy: TcpProxy, links: Any) -> None:
    """A connection over which nothing comes any more ends within about twice the keepalive, and heals by itself."""
    watched = links(mosquitto.settings(url=proxy.url, keepalive_s=5))
    await watched.up("t/#")
    await proxy.half_open()
    await eventually(lambda: not watched.link.connected, timeout=13)
    await proxy.pass_()
    await watched.connected(2)
    assert await watched.published("t/1") == PUBLISHED


async def test_reconnects_are_jittered(links: Any) -> None:
    """Clients of a broker that turns all away come back at different times, drawn from the injected randomness."""
    attempts: list[float] = []
    loop = asyncio.get_running_loop()

    def turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(loop.time())
        writer.close()

    server = await asyncio.start_server(turn_away, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = BrokerSettings(url=f"mqtt://127.0.0.1:{port}", protocol="5")
    for n in range(12):
        await links(settings, f"c-{n}", rng=random.Random(n)).link.start()
    await eventually(lambda: len(attempts) >= 48)
    server.close()
    fourth = attempts[36:48]  # after three waits of 0.1 to 0.2, 0.2 to 0.4 and 0.4 to 0.8 seconds
    assert max(fourth) - min(fourth) > 0.1


async def test_will_and_clean_stop(mosquitto: Mosquitto, proxy: TcpProxy, links: Any) -> None:
    """A lost connection publishes the will, made anew for each connect; a clean stop does not."""
    wills = iter([b"first", b"second", b"third"])
    watched = links(mosquitto.settings(url=proxy.url), will=lambda: Will("t/will", next(wills), False))
    reader = links(mosquitto.settings(), "reader")
    await reader.up("t/#")
    await watched.up("noise/#")
    proxy.cut()
    await watched.connected(2)
    await eventually(lambda: reader.messages)
    for number in range(100):
        watched.publish("t/last", str(number).encode())
    await watched.link.stop()
    assert watched.codes == [PUBLISHED] * 100
    await reader.published("t/end")
    await eventually(lambda: reader.messages[-1].topic == "t/end")
    assert [item.payload for item in reader.messages if item.topic == "t/will"] == [b"first"]


async def test_stop_during_an_outage_is_quick(mosquitto: Mosquitto, proxy: TcpProxy, links: Any) -> None:
    """``stop`` waits for what is in flight, but not longer than two seconds and a bit."""
    watched = links(mosquitto.settings(url=proxy.url))
    await watched.up()
    await proxy.half_open()
    watched.publish("t/1")
    before = asyncio.get_running_loop().time()
    await watched.link.stop()
    assert asyncio.get_running_loop().time() - before < 4
    assert watched.codes == [NOT_SENT]
    with pytest.raises(NotConnectedError):
        watched.publish("t/2")


async def test_bytes_that_are_not_mqtt_end_only_the_connection(links: Any) -> None:
    """A server that sends garbage, or closes without a word, costs a failed connect; the link tries on."""
    versions: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connect = await reader.read(100)
        versions.append(connect[8])
        writer.write([b"\x20\x03\x00\x00\xff", b"", b"\xf0\xff\xff\xff\xff\xff", b"\x20\x00"][len(versions) % 4])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    watched = links(BrokerSettings(url=f"mqtt://127.0.0.1:{port}", reconnect_max_s=0.05))
    await watched.link.start()
    await eventually(lambda: len(versions) >= 9)
    server.close()
    assert versions[:6] == [5, 4, 5, 4, 5, 4]  # no answer at all: one attempt with 3.1.1, and nothing is concluded
    assert watched.events == []
    assert watched.link.statistics()["restarts"] == 0


async def test_a_topic_that_is_not_utf8_is_left_out(links: Any) -> None:
    """A packet that cannot be converted is counted, and the next one comes."""
    packets = b"\x20\x02\x00\x00" + b"\x30\x04\x00\x02\xff\xfe" + b"\x30\x04\x00\x01ab"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(packets)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    watched = links(BrokerSettings(url=f"mqtt://127.0.0.1:{port}", protocol="3.1.1"))
    await watched.up()
    await eventually(lambda: watched.messages)
    assert (watched.messages[0].topic, watched.messages[0].payload) == ("a", b"b")
    assert watched.link.statistics()["undecodable"] == 1
    server.close()


async def test_a_list_of_addresses_fails_over(mosquitto: Mosquitto, links: Any) -> None:
    """Of several addresses in the URL the next has its turn after a failure (P5.12)."""
    watched = links(BrokerSettings(url=f"mqtt://127.0.0.1:1,{mosquitto.url}", reconnect_max_s=0.5))
    await watched.up()
    assert watched.link.statistics()["connect_failures"] == 1


async def test_every_packet_is_done_exactly_once_through_random_cuts(
    mosquitto: Mosquitto, proxy: TcpProxy, links: Any
) -> None:
    """Whatever moment a connection ends at, each packet taken gets one code, and what was published arrived."""
    seed = random.randrange(2**32)
    log.warning("seed %d", seed)
    rng = random.Random(seed)
    watched, reader = links(mosquitto.settings(url=proxy.url, reconnect_max_s=0.05)), links(mosquitto.settings(), "r")
    await reader.up("t/#")
    await watched.link.start()
    codes: dict[int, list[int]] = {}
    taken: list[int] = []  # those of QoS 1
    number = 0
    for _ in range(12):
        await eventually(lambda: watched.link.connected)
        for _ in range(rng.randrange(1, 400)):
            number, qos = number + 1, rng.randrange(2)
            codes[number] = []
            try:
                watched.link.publish(f"t/{number}", b"x" * rng.randrange(300), qos=qos, on_done=codes[number].append)
            except (NotConnectedError, QueueFullError):
                del codes[number]
            else:
                if qos:
                    taken.append(number)
            if rng.random() < 0.02:
                await asyncio.sleep(rng.random() * 0.01)
        proxy.cut()
        await eventually(lambda: not watched.link.connected)
    await eventually(lambda: all(codes.values()))
    assert {len(each) for each in codes.values()} == {1}
    assert watched.link.statistics()["in_flight"] == watched.link.statistics()["queued"] == 0
    assert watched.link.statistics()["restarts"] == 0
    assert (await reader.published("t/end")) == PUBLISHED
    await eventually(lambda: reader.messages[-1].topic == "t/end")
    arrived = {item.topic for item in reader.messages if item.qos == 1}
    assert {f"t/{each}" for each in taken if codes[each] == [PUBLISHED]} <= arrived
