"""Our own MQTT client: one connection over ``wire``, driven by the event loop.

Theory of operation. One read of the socket is cut into all packets that it holds, and each is handed over at once. What
is sent in one turn of the loop, acknowledgements too, goes out in one write in the next. There are no queues here: the
window, its queue and their bounds are the link's. Packet ids are taken round robin, leaving out those in use.

QoS 2 packets are taken as they come and acknowledged with PUBREC when they are acknowledged, so they come at least
once: a client that forgets all with its connection can promise no more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from common.errors import TransportError, WireError
from common.messaging import wire
from common.messaging.base import Subscription
from common.messaging.connection import Connection, Receiver, Session
from common.messaging.stream import Stream
from common.messaging.window import Outgoing

PACKET_ID_MAX = 65_535


class NativeConnection(Connection):
    """From CONNECT to the end of its socket. Arguments: an open stream; what CONNECT says; to whom to report."""

    def __init__(self, stream: Stream, session: Session, receiver: Receiver) -> None:
        self._loop = asyncio.get_running_loop()
        self.version = session.version
        self.accepted = self._loop.create_future()
        self.ended = self._loop.create_future()
        self._stream, self._receiver = stream, receiver
        self._manual_ack, self._keepalive_s = session.manual_ack, session.keepalive_s
        self._with_properties = session.with_properties
        self._no_properties = wire.NO_PROPERTIES if session.version == wire.V5 else b""
        self._framer = wire.Framer()
        self._mid = 0
        self._mids: set[int] = set()  # packet ids in use
        self._qos0_ends: deque[int] = deque()  # where in the stream each QoS 0 packet that is not written ends
        self._flush_due = self._waits_for_write = False
        self._heard_at = self._wrote_at = self._loop.time()
        self._pinged_at = 0.0  # 0: no answer is awaited
        self._send(wire.connect(session))
        self._loop.add_reader(stream.fileno(), self._readable)

    # What the link calls.

    def publish(self, packet: Outgoing) -> int:
        qos = packet.qos
        mid = self._next_mid() if qos else 0
        properties = packet.properties or self._no_properties
        self._send(wire.publish(packet.topic, packet.payload, qos, packet.retain, mid, properties))
        if not qos:
            self._qos0_ends.append(self._stream.sent + self._stream.unsent)
        return mid

    def subscribe(self, subscriptions: Sequence[Subscription]) -> int:
        mid = self._next_mid()
        self._send(wire.subscribe(mid, subscriptions, self.version))
        return mid

    def unsubscribe(self, filters: Sequence[str]) -> None:
        self._send(wire.unsubscribe(self._next_mid(), filters, self.version))

    def ack(self, mid: int, qos: int) -> None:
        self._send(wire.puback(mid) if qos == 1 else wire.pubrec(mid))

    def tick(self) -> None:
        now = self._loop.time()
        if self._pinged_at:
            if now - self._pinged_at >= self._keepalive_s:
                self.drop(f"no PINGRESP for {self._keepalive_s} s")
        elif now - min(self._heard_at, self._wrote_at) >= self._keepalive_s:
            self._pinged_at = now
            self._send(wire.PING)

    async def finish(self, timeout: float) -> None:
        self._flush()
        if not self.ended.done():
            self._detach()
            await self._stream.finish(wire.GOODBYE, timeout)
            self.drop("stopped")

    def _next_mid(self) -> int:
        for _ in range(PACKET_ID_MAX):
            self._mid = self._mid % PACKET_ID_MAX + 1
            if self._mid not in self._mids:
                self._mids.add(self._mid)
                return self._mid
        raise TransportError("no packet id is free")

    def _send(self, data: bytes) -> None:
        self._stream.write(data)
        if not self._flush_due and not self._waits_for_write:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    # What the event loop calls.

    def _flush(self) -> None:
        self._flush_due = False
        if self.ended.done():
            return
        try:
            done = self._stream.flush()
        except OSError as exc:
            self._readable()  # the broker's last words, if there are any, say more
            return self.drop(str(exc))
        self._wrote_at = self._loop.time()
        if done == self._waits_for_write:
            self._wait_for_write(not done)
        if self._qos0_ends:
            self._report_written()

    def _wait_for_write(self, wait: bool) -> None:
        self._waits_for_write = wait
        if wait:
            self._loop.add_writer(self._stream.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._stream.fileno())

    def _report_written(self) -> None:
        ends, count = self._qos0_ends, 0
        while ends and ends[0] <= self._stream.sent:
            ends.popleft()
            count += 1
        if count:
            self._receiver.written(count)

    def _readable(self) -> None:
        self._stream.fill()
        self._heard_at = self._loop.time()
        try:
            for first, body in self._framer.feed(self._stream.take()):
                if not self.accepted.done() and first != wire.CONNACK:
                    raise WireError(f"a packet that begins with 0x{first:02x}, before the CONNACK")
                if first & 0xF0 == wire.PUBLISH:
                    self._take(first, body)
                elif first == wire.PUBACK:
                    mid, code = wire.read_acknowledged(body)
                    self._mids.discard(mid)
                    self._receiver.puback_came(mid, code)
                else:
                    self._control(first, body)
                if self.ended.done():
                    return
        except WireError as exc:
            return self.drop(f"not MQTT: {exc}")
        except Exception as exc:  # a fault of ours ends this connection, never the link
            return self.drop(f"{type(exc).__name__}: {exc}")
        if self._framer.fault:
            self.drop(f"not MQTT: {self._framer.fault}")
        elif self._stream.ended:
            self.drop(self._stream.fault)

    def _take(self, first: int, body: bytes) -> None:
        """Hand a message over. One that cannot be read is left out, and acknowledged: it must not come again."""
        try:
            if first & wire.OVERSIZE:
                raise WireError(f"a PUBLISH of more than {wire.PACKET_BYTES_MAX} bytes")
            inbound = wire.read_publish(first, body, self.version, self._with_properties)
        except WireError as exc:
            mid, qos = wire.read_mid(first, body)
            self._receiver.undecodable_came(exc)
        else:
            mid, qos = inbound.mid, inbound.qos
            self._receiver.message_came(inbound)
            if self._manual_ack:
                return
        if qos and not self.ended.done():
            self.ack(mid, qos)

    def _control(self, first: int, body: bytes) -> None:
        if first == wire.CONNACK and not self.accepted.done():
            accepted = wire.read_connack(body, self.version)
            self._keepalive_s = accepted.keepalive_s or self._keepalive_s
            self.accepted.set_result(accepted)
        elif first == wire.SUBACK:
            mid, codes = wire.read_suback(body, self.version)
            self._mids.discard(mid)
            self._receiver.suback_came(mid, codes)
        elif first == wire.UNSUBACK:
            self._mids.discard(wire.read_acknowledged(body)[0])
        elif first == wire.PUBREL:
            self._send(wire.pubcomp(wire.read_acknowledged(body)[0]))
        elif first == wire.PINGRESP:
            self._pinged_at = 0.0
        elif first == wire.DISCONNECT and self.version == wire.V5:
            self.drop(wire.read_disconnect(body))
        else:
            raise WireError(f"a packet that begins with 0x{first:02x}")

    def _detach(self) -> None:
        self._loop.remove_reader(self._stream.fileno())
        self._loop.remove_writer(self._stream.fileno())
        self._waits_for_write = False
