"""The one file that imports paho: a connection over its client, driven by the event loop.

How paho is tamed (each trap of reliability R2 is a test in ``tests/messaging/test_transport_faults.py``):

- A fresh ``Client`` per connection, and ``publish`` only while connected: paho queues what is published while
  disconnected, and at a reconnect re-sends everything at once.
- It never has more than our window: its in-flight limit is off, so no PUBACK costs a scan of what is outstanding.
- No thread of its own, hence none that an exception in a callback can kill while ``is_connected()`` stays True. Its
  callbacks only convert and hand over; whatever still raises in it ends this connection, and the next one begins.
- The socket is ours (``stream``), given to it through ``_create_socket``: TCP_NODELAY, no ``select`` with its limit of
  1,000 descriptors, buffered reads and writes. This is the one private name of paho that is used.
- Clean start and session expiry are always stated. Manual acknowledgements are checked for their connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import (
    MQTT_CLEAN_START_FIRST_ONLY,
    MQTT_ERR_QUEUE_SIZE,
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from common.errors import TransportError
from common.messaging.base import Inbound, Properties, Subscription
from common.messaging.connection import RECEIVE_MAXIMUM, Accepted, Connection, Receiver, Session
from common.messaging.stream import Stream
from common.messaging.window import Outgoing
from common.messaging.wire import GOODBYE, V5

_PACKET_IDS = 65_535
_RETAIN = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB  # to a session that has the filter already they come only once


class _Client(Client):
    """paho's client on a stream that is open already."""

    stream: Stream

    def _create_socket(self) -> Any:
        return self.stream


class _Packed(PahoProperties):
    """Properties of a PUBLISH that are bytes already: what paho's own class does for each costs as much as the rest."""

    def __init__(self, packed: bytes) -> None:
        vars(self)["packed"] = packed  # paho's __setattr__ takes no names but its own

    def pack(self) -> bytes:
        packed: bytes = vars(self)["packed"]
        return packed


class PahoConnection(Connection):
    """One paho client from CONNECT to the end of its socket."""

    def __init__(self, stream: Stream, session: Session, receiver: Receiver) -> None:
        self._loop = asyncio.get_running_loop()
        self.accepted = self._loop.create_future()
        self.ended = self._loop.create_future()
        self._stream, self._receiver = stream, receiver
        self.version, self._with_properties = session.version, session.with_properties
        self._write_due = self._waits_for_write = False
        self._written = 0
        self._client = self._make_client(session)
        self._client.connect("stream", 1, session.keepalive_s, **_connect_options(session))
        self._loop.add_reader(stream.fileno(), self._readable)

    def _make_client(self, session: Session) -> _Client:
        client = _Client(
            CallbackAPIVersion.VERSION2,
            session.client_id,
            clean_session=None if (self.version == V5) else session.session_expiry_s == 0,
            protocol=MQTTProtocolVersion.MQTTv5 if (self.version == V5) else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,  # with it paho would reconnect inside a callback to try version 3.1
            manual_ack=session.manual_ack,
        )
        client.stream = self._stream
        client.max_inflight_messages_set(0)
        if session.username:
            client.username_pw_set(session.username, session.password or None)
        if session.will:
            client.will_set(session.will.topic, session.will.payload, qos=1, retain=session.will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_socket_register_write = self._on_register_write
        return client

    # What the link calls.

    def publish(self, packet: Outgoing) -> int:
        properties = _Packed(packet.properties) if packet.properties else None
        for _ in range(_PACKET_IDS):
            info = self._client.publish(packet.topic, packet.payload, packet.qos, packet.retain, properties)
            if info.rc != MQTT_ERR_QUEUE_SIZE:  # that one means: the next packet id is still in flight
                return info.mid
        raise TransportError("no packet id is free")

    def subscribe(self, subscriptions: Sequence[Subscription]) -> int:
        items: list[Any]
        if self.version == V5:
            items = [
                (i.filter, SubscribeOptions(i.qos, noLocal=i.no_local, retainHandling=_RETAIN)) for i in subscriptions
            ]
        else:
            items = [(item.filter, item.qos) for item in subscriptions]
        return self._client.subscribe(items)[1] or 0

    def unsubscribe(self, filters: Sequence[str]) -> None:
        self._client.unsubscribe(list(filters))

    def ack(self, mid: int, qos: int) -> None:
        self._client.ack(mid, qos)

    def tick(self) -> None:
        self._guarded(self._client.loop_misc)

    async def finish(self, timeout: float) -> None:
        # paho would close the socket with the DISCONNECT, see Stream.finish.
        self._write()
        if not self.ended.done():
            self._detach()
            await self._stream.finish(GOODBYE, timeout)
            self.drop("stopped")

    # What the event loop calls.

    def _readable(self) -> None:
        self._stream.fill()
        while self._stream.pending and not self.ended.done():
            self._guarded(self._client.loop_read)

    def _write(self) -> None:
        self._write_due = False
        if self.ended.done():
            return
        self._client.on_publish = None  # it would be called for QoS 0 too, at the price of building two objects
        try:
            self._guarded(self._client.loop_write)
            while self._stream.flush() and self._client.want_write() and not self.ended.done():
                self._guarded(self._client.loop_write)
        except OSError as exc:
            self._readable()  # the broker's last words, if there are any, say more
            self.drop(str(exc))
        if self.ended.done():
            return
        self._client.on_publish = self._on_publish
        self._wait_for_write(self._stream.unsent > 0)
        written, self._written = self._stream.written_qos0 - self._written, self._stream.written_qos0
        if written:
            self._receiver.written(written)

    def _wait_for_write(self, wait: bool) -> None:
        if wait != self._waits_for_write:
            self._waits_for_write = wait
            if wait:
                self._loop.add_writer(self._stream.fileno(), self._write)
            else:
                self._loop.remove_writer(self._stream.fileno())

    def _guarded(self, step: Any) -> None:
        try:
            step()
        except Exception as exc:  # a packet that paho cannot digest ends this connection, never the link
            self.drop(f"{type(exc).__name__}: {exc}")

    def _detach(self) -> None:
        self._loop.remove_reader(self._stream.fileno())
        self._loop.remove_writer(self._stream.fileno())
        self._waits_for_write = False

    # What paho calls, inside one of the steps above and with its locks held: convert and hand over, nothing else.

    def _on_register_write(self, *_: Any) -> None:
        if not self._write_due:
            self._write_due = True
            self._loop.call_soon(self._write)

    def _on_connect(
        self, _c: Any, _u: Any, flags: ConnectFlags, code: ReasonCode, properties: PahoProperties | None
    ) -> None:
        if not self.accepted.done():
            self.accepted.set_result(
                Accepted(
                    code.value,
                    str(code),
                    getattr(properties, "ReceiveMaximum", 0),
                    getattr(properties, "MaximumPacketSize", 0),
                    flags.session_present,
                    shares=self.version == V5 and getattr(properties, "SharedSubscriptionAvailable", 1) == 1,
                )
            )

    def _on_disconnect(self, _c: Any, _u: Any, flags: DisconnectFlags, code: ReasonCode, _p: Any = None) -> None:
        from_broker = flags.is_disconnect_packet_from_server
        self.drop(str(code) if from_broker else self._stream.fault or str(code))

    def _on_subscribe(self, _c: Any, _u: Any, mid: int, codes: Sequence[ReasonCode], _p: Any = None) -> None:
        self._receiver.suback_came(mid, [code.value for code in codes])

    def _on_publish(self, _c: Any, _u: Any, mid: int, code: ReasonCode, _p: Any = None) -> None:
        self._receiver.puback_came(mid, code.value)

    def _on_message(self, _c: Any, _u: Any, message: MQTTMessage) -> None:
        try:
            inbound = Inbound(
                message.topic, bytes(message.payload), message.qos, message.retain, message.dup, message.mid
            )
            if message.properties and self._with_properties:
                inbound.properties = _properties_of(vars(message.properties))
        except Exception as exc:  # a topic that is not UTF-8 raises as late as here
            return self._receiver.undecodable_came(exc)
        self._receiver.message_came(inbound)


def _connect_options(session: Session) -> dict[str, Any]:
    """Clean start and expiry are stated in every case: version 5's default wipes the session at each process start."""
    if session.version != 5:
        return {"clean_start": MQTT_CLEAN_START_FIRST_ONLY}
    properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = session.session_expiry_s
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    return {"clean_start": session.session_expiry_s == 0, "properties": properties}


def _properties_of(found: dict[str, Any]) -> Properties | None:
    """Return what we know of a paho Properties object's attributes; its own ``isEmpty`` costs 20 us a message."""
    content_type, user = found.get("ContentType", ""), found.get("UserProperty", ())
    utf8 = found.get("PayloadFormatIndicator", 0) == 1
    if not (content_type or user or utf8):
        return None
    return Properties(content_type, utf8, tuple((str(name), str(value)) for name, value in user))
