"""Our own MQTT client against a broker played by the test, byte for byte."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.errors import TransportError
from common.messaging import native, wire
from common.messaging.base import Inbound, Subscription
from common.messaging.connection import Session
from common.messaging.native import NativeConnection
from common.messaging.stream import Stream
from common.messaging.window import Outgoing
from tests.support.wait import eventually

SESSION = Session("edge-1", 5, 15, "", "", None, 0, False)
CONNACK = bytes.fromhex("20 03 00 00 00")


class Receiver:
    """Notes what a connection reports."""

    def __init__(self) -> None:
        self.messages: list[Inbound] = []
        self.undecodable: list[str] = []
        self.pubacks: list[tuple[int, int]] = []
        self.subacks: list[tuple[int, list[int]]] = []
        self.count_written = 0
        self.ends: list[str] = []

    def message_came(self, inbound: Inbound) -> None:
        self.messages.append(inbound)

    def undecodable_came(self, error: Exception) -> None:
        self.undecodable.append(str(error))

    def puback_came(self, mid: int, code: int) -> None:
        self.pubacks.append((mid, code))

    def written(self, count: int) -> None:
        self.count_written += count

    def suback_came(self, mid: int, codes: Any) -> None:
        self.subacks.append((mid, list(codes)))

    def connection_ended(self, connection: Any, reason: str) -> None:
        self.ends.append(reason)


class Pair:
    """A connection, and the other end of its socket."""

    def __init__(self, session: Session) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.theirs.setblocking(False)
        self.receiver = Receiver()
        self.connection = NativeConnection(Stream(ours), session, self.receiver)

    def say(self, *packets: bytes) -> None:
        """What the broker sends, in one piece."""
        self.theirs.send(b"".join(packets))

    async def heard(self, size: int) -> bytes:
        """The next ``size`` bytes that the client sends."""
        got = b""
        async with asyncio.timeout(5):
            while len(got) < size:
                got += await asyncio.get_running_loop().sock_recv(self.theirs, size - len(got))
        return got

    async def reads(self) -> bytes:
        """What one read gives."""
        return await asyncio.get_running_loop().sock_recv(self.theirs, 100_000)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A connection that the broker has accepted."""
    made = Pair(SESSION)
    expected = wire.connect(SESSION)
    assert await made.heard(len(expected)) == expected
    made.say(CONNACK)
    assert (await made.connection.accepted).code == 0
    yield made
    made.connection.drop("end of test")
    made.theirs.close()


async def test_acknowledgements_of_one_read_go_out_in_one_write(pair: Pair) -> None:
    """Many packets in one read are all handed over, and their PUBACKs are one piece, in their order."""
    pair.say(*(wire.publish("t", b"%d" % n, 1, False, n, b"\x00") for n in range(1, 101)))
    assert await pair.reads() == b"".join(wire.puback(n) for n in range(1, 101))
    assert [item.payload for item in pair.receiver.messages] == [b"%d" % n for n in range(1, 101)]


async def test_what_is_sent_in_one_turn_is_one_write(pair: Pair) -> None:
    """Packets of one turn of the loop go out together, in order; QoS 0 is reported when the kernel has it."""
    for n in range(50):
        pair.connection.publish(Outgoing("t", b"%d" % n, n % 2, False))
    assert pair.receiver.count_written == 0
    framer = wire.Framer()
    packets = framer.feed(await pair.reads())
    got = [wire.read_publish(first, body, 5) for first, body in packets]
    assert [(item.payload, item.qos, item.mid) for item in got] == [
        (b"%d" % n, n % 2, (n + 1) // 2 if n % 2 else 0) for n in range(50)
    ]
    assert pair.receiver.count_written == 25


async def test_qos_0_is_not_written_before_the_kernel_takes_it(pair: Pair) -> None:
    """A broker that does not read holds the report back, and it comes in order when it reads again."""
    size = 100_000
    for _ in range(40):
        pair.connection.publish(Outgoing("t", b"x" * size, 0, False))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pair.receiver.count_written < 40
    await pair.heard(40 * (size + 8))
    await eventually(lambda: pair.receiver.count_written == 40)


async def test_reason_codes_and_packet_ids(pair: Pair) -> None:
    """A PUBACK's reason reaches the link; an id that is in use is not given again, and when none is free it raises."""
    first = pair.connection.publish(Outgoing("t", b"", 1, False))
    pair.connection._mid = native.PACKET_ID_MAX - 1
    assert pair.connection.publish(Outgoing("t", b"", 1, False)) == native.PACKET_ID_MAX
    assert pair.connection.subscribe([Subscription("t")]) == first + 1
    pair.say(bytes.fromhex("40 03 0001 10"), bytes.fromhex("90 04 0002 00 01"))
    await eventually(lambda: pair.receiver.subacks)
    assert pair.receiver.pubacks == [(first, 0x10)]
    assert pair.receiver.subacks == [(2, [1])]
    pair.connection._mids = set(range(1, native.PACKET_ID_MAX + 1))
    with pytest.raises(TransportError, match="no packet id"):
        pair.connection.publish(Outgoing("t", b"", 1, False))


async def test_qos_2_is_acknowledged_in_both_steps(pair: Pair) -> None:
    """A QoS 2 packet is handed over once, and PUBREC and PUBCOMP are sent."""
    pair.say(wire.publish("t", b"x", 2, False, 7, b"\x00"))
    assert await pair.heard(4) == wire.pubrec(7)
    pair.say(bytes.fromhex("62 02 0007"))
    assert await pair.heard(4) == wire.pubcomp(7)
    assert [(item.payload, item.qos) for item in pair.receiver.messages] == [(b"x", 2)]


async def test_what_cannot_be_read_is_left_out_and_acknowledged(pair: Pair) -> None:
    """An oversize packet, a wild topic and torn properties are counted and acknowledged; the next packet comes."""
    pair.say(wire.publish("a/#", b"", 1, False, 1, b"\x00"), wire.publish("t", b"", 1, False, 2, b"\x02\x26\x00"))
    assert await pair.heard(8) == wire.puback(1) + wire.puback(2)
    huge = wire.publish("t", bytes(wire.PACKET_BYTES_MAX + 1), 1, False, 3, b"\x00")
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(pair.theirs, huge))
    assert await pair.heard(4) == wire.puback(3)
    await sending
    pair.say(wire.publish("t", b"next", 1, False, 4, b"\x00"))
    assert await pair.heard(4) == wire.puback(4)
    assert [item.payload for item in pair.receiver.messages] == [b"next"]
    assert len(pair.receiver.undecodable) == 3


@pytest.mark.parametrize(
    "packet", ["f0 00", "40 01 00", "36 05 0001 61 0001", "41 02 0001", "32 02 0001", "e0 02 00 05"]
)
async def test_a_broken_packet_ends_the_connection(pair: Pair, packet: str) -> None:
    """What no broker may send ends the connection, once, and says why; what came before is handed over."""
    pair.say(wire.publish("t", b"x", 0, False, 0, b"\x00"), bytes.fromhex(packet))
    await pair.connection.ended
    assert len(pair.receiver.messages) == 1
    assert len(pair.receiver.ends) == 1
    assert "not MQTT" in pair.receiver.ends[0]


async def test_nothing_comes_before_the_connack() -> None:
    """A packet before the CONNACK ends the connection: a broker cannot fill memory before it has accepted."""
    made = Pair(SESSION)
    made.say(wire.publish("t", b"x", 0, False, 0, b"\x00"))
    assert await made.connection.accepted is None
    assert made.receiver.messages == []
    made.theirs.close()


async def test_a_disconnect_says_why(pair: Pair) -> None:
    """The broker's reason, in its words or those of its code, is the connection's end."""
    pair.say(bytes.fromhex("e0 02 8e 00"))
    assert await pair.connection.ended == "Session taken over"


async def test_an_idle_connection_pings_and_a_silent_broker_is_noticed(pair: Pair) -> None:
    """After the keepalive without traffic a ping goes out; without its answer for as long the connection ends."""
    connection = pair.connection
    connection.tick()
    connection._wrote_at -= 15
    connection.tick()
    assert await pair.heard(2) == wire.PING
    pair.say(bytes.fromhex("d0 00"))
    await eventually(lambda: not connection._pinged_at)
    connection._heard_at -= 15
    connection.tick()
    connection._pinged_at -= 15
    connection.tick()
    assert await connection.ended == "no PINGRESP for 15 s"


async def test_the_brokers_keepalive_counts() -> None:
    """What the CONNACK says of the keepalive replaces our own [3.2.2.3.14]."""
    made = Pair(SESSION)
    made.say(bytes.fromhex("20 06 00 00 03 13 0005"))
    await made.connection.accepted
    made.connection._wrote_at -= 5
    made.connection.tick()
    hello = len(wire.connect(SESSION))
    assert (await made.heard(hello + 2))[hello:] == wire.PING
    made.connection.drop("end of test")
    made.theirs.close()


async def test_finish_sends_a_disconnect_behind_everything(pair: Pair) -> None:
    """A clean end writes what is queued, then DISCONNECT, and the broker sees the end of the stream."""
    pair.connection.publish(Outgoing("t", b"last", 0, False))
    await asyncio.gather(pair.connection.finish(0.05), asyncio.sleep(0))
    got = await pair.reads()
    assert got.endswith(b"last" + wire.GOODBYE)
    assert await pair.reads() == b""
    assert pair.receiver.ends == ["stopped"]
