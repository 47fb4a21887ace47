"""MqttLink over real brokers: what it promises when nothing fails."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from common.codec import PAYLOAD_BYTES_MAX
from common.errors import CodecError, QueueFullError, TopicError
from common.messaging.base import (
    NOBODY_LISTENS,
    NOT_AUTHORISED,
    PUBLISHED,
    Properties,
    Subscription,
)
from tests.support.brokers import Broker, Embedded, Mosquitto
from tests.support.wait import eventually


async def test_packets_pass_with_their_marks(any_broker: Broker, links: Any) -> None:
    """Topic, payload, QoS and, on MQTT 5, properties arrive as they were sent; on_done says published."""
    watched = links(any_broker.settings())
    await watched.up("t/#")
    properties = Properties("application/json", True, (("msg_id", "1"), ("msg_id", "2")))
    assert await watched.published("t/1", b"\x00\xff", properties=properties) == PUBLISHED
    assert await watched.published("t/0", b"", qos=0) == PUBLISHED
    await eventually(lambda: len(watched.messages) == 2)
    first = next(item for item in watched.messages if item.topic == "t/1")
    assert (first.payload, first.qos, first.retain, first.dup, first.generation) == (b"\x00\xff", 1, False, False, 1)
    assert first.properties == (properties if any_broker.protocol == "5" else None)


async def test_subscriptions_follow_the_last_set(any_broker: Broker, links: Any) -> None:
    """A new set takes effect at once, without what is not in it any more, and holds over a reconnect."""
    watched, other = links(any_broker.settings()), links(any_broker.settings(), "other")
    await watched.up("a/#", "b/#")
    await other.up()
    watched.link.subscribe([Subscription("b/#"), Subscription("c/#")])
    assert await watched.published("c/own") == PUBLISHED  # behind the SUBSCRIBE on the same connection
    await other.published("a/1")
    await other.published("b/1")
    await eventually(lambda: {item.topic for item in watched.messages} == {"c/own", "b/1"})
    await any_broker.kill()
    await any_broker.start()
    await watched.connected(2)
    await other.connected(2)
    for topic in ("a/2", "b/2", "c/2"):
        await other.published(topic)
    await eventually(lambda: {"b/2", "c/2"} <= {item.topic for item in watched.messages})
    assert not [item for item in watched.messages if item.topic.startswith("a/")]


async def test_the_window_holds_without_a_limit_of_the_broker(any_broker: Broker, links: Any) -> None:
    """At most ``window_messages`` are in flight; the rest waits in order, and above the queue's bound is refused."""
    watched = links(any_broker.settings(window_messages=4, queue_messages_max=10))
    await watched.up("t/#")
    for number in range(14):
        watched.publish("t/x", str(number).encode())
    with pytest.raises(QueueFullError):
        watched.publish("t/x")
    assert watched.link.statistics()["in_flight"] == 4
    await eventually(lambda: watched.codes == [PUBLISHED] * 14 and len(watched.messages) == 14)
    assert [item.payload for item in watched.messages] == [str(number).encode() for number in range(14)]


async def test_session_options_are_explicit(any_broker: Broker, links: Any) -> None:
    """A persistent session keeps messages for a new process of the same id, a clean one does not, in both versions."""
    for persistent in (True, False):
        client_id, topic = f"keeper-{persistent}", f"t/{persistent}"
        first = links(any_broker.settings(), client_id, session_expiry_s=60 if persistent else 0)
        await first.up(topic)
        await first.link.stop()
        sender = links(any_broker.settings(), f"sender-{persistent}")
        await sender.up()
        await sender.published(topic, b"while away")
        second = links(any_broker.settings(), client_id, session_expiry_s=60 if persistent else 0)
        await second.up(topic)
        await sender.published(topic, b"now")
        await eventually(lambda: second.messages and second.messages[-1].payload == b"now")  # noqa: B023
        assert [item.payload for item in second.messages] == [b"while away"] * persistent + [b"now"]
        assert {item.generation for item in second.messages} == {1}


async def test_reason_codes_reach_the_owner(tmp_path: Path, links: Any) -> None:
    """MQTT 5 tells that nobody listens and that a topic is not allowed; paho calls both published."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\n")
    acl.chmod(0o600)
    broker = Mosquitto(tmp_path / "mosquitto", config_lines=[f"acl_file {acl}"])
    async with broker:
        watched = links(broker.settings())
        await watched.up("open/1")
        assert await watched.published("open/1") == PUBLISHED
        assert await watched.published("open/2") == NOBODY_LISTENS
        assert await watched.published("shut/1") == NOT_AUTHORISED
        counts = watched.link.statistics()
        assert (counts["published"], counts["nobody_listens"], counts["refused_by_broker"]) == (2, 1, 1)


async def test_a_refused_subscription_is_counted(
    embedded: Embedded, links: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A SUBACK with a failure code is an error in the log and a count; the connection and the others work."""
    watched = links(embedded.settings())
    await watched.up("$MQTT/sub/x", "t/#")
    assert watched.link.statistics()["subscribe_refused"] == 1
    assert "refuses the subscription $MQTT/sub/x (0x80)" in caplog.text
    await watched.published("t/1")
    await eventually(lambda: watched.messages)


async def test_oversize_is_refused_before_it_is_queued(tmp_path: Path, links: Any) -> None:
    """Above our limit or the broker's MaximumPacketSize: an error, no endless disconnect; just below it passes."""
    broker = Mosquitto(tmp_path / "mosquitto", config_lines=["max_packet_size 20000"])
    async with broker:
        watched = links(broker.settings())
        await watched.up("t/#")
        with pytest.raises(CodecError, match="too_large"):
            watched.publish("t/1", b"x" * PAYLOAD_BYTES_MAX)
        with pytest.raises(CodecError, match="too_large"):
            watched.publish("t/1", b"x" * 20_000, qos=0)
        assert await watched.published("t/1", b"x" * watched.link.payload_bytes_max) == PUBLISHED
        assert await watched.published("t/1", b"x" * (20_000 - 13)) == PUBLISHED
        assert watched.link.generation == 1
        assert 18_000 < watched.link.payload_bytes_max < 20_000


async def test_bad_topics_and_properties_are_refused(mosquitto: Mosquitto, links: Any) -> None:
    """What would make a broker close the connection raises at the caller (P3.2)."""
    watched = links(mosquitto.settings())
    await watched.up()
    for topic in ("", "a b", "a/+", "a/#", "a\x00", "x" * 1025, "\ud800"):
        with pytest.raises(TopicError):
            watched.publish(topic)
    for text in ("\ud800", "\x00", "x" * 70_000):
        with pytest.raises(CodecError):
            watched.publish("t", properties=Properties(user=(("name", text),)))
    with pytest.raises(CodecError, match="too_large"):
        watched.publish("t", b"x" * (PAYLOAD_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="qos"):
        watched.publish("t", qos=2)
    assert await watched.published("t") == NOBODY_LISTENS
    assert watched.codes == [NOBODY_LISTENS]


async def test_nodelay_is_set(mosquitto: Mosquitto, links: Any) -> None:
    """TCP_NODELAY is set on the socket: with Nagle's algorithm a QoS 1 message costs 44 ms at low rates."""
    watched = links(mosquitto.settings())
    await watched.up()
    stream = watched.link._connection._stream
    assert stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_auto_falls_back_on_the_embedded_broker(embedded: Embedded, links: Any) -> None:
    """``auto`` goes on with 3.1.1 where version 5 is refused, at once, and does not ask again (P5.12)."""
    watched = links(embedded.settings(protocol="auto"))
    await watched.up("t/#")
    assert watched.link.statistics()["connect_failures"] == 0
    assert await watched.published("t/1", properties=Properties("application/json")) == PUBLISHED
    await embedded.kill()
    await embedded.start()
    await watched.connected(2)
    assert await watched.published("t/2") == PUBLISHED


async def test_auto_prefers_version_5(mosquitto: Mosquitto, links: Any) -> None:
    """``auto`` speaks version 5 where the broker does: its reason codes are worth having."""
    watched = links(mosquitto.settings(protocol="auto"))
    await watched.up()
    assert await watched.published("t/1") == NOBODY_LISTENS


async def test_a_broker_need_not_wait_for_each_acknowledgement(mosquitto: Mosquitto, links: Any) -> None:
    """More than 20 messages come before the first is acknowledged, though Mosquitto's own limit is 20."""
    watched, other = links(mosquitto.settings(), manual_ack=True), links(mosquitto.settings(), "other")
    await watched.up("t/#")
    await other.up()
    for _ in range(30):
        other.publish("t/x")
    await eventually(lambda: len(watched.messages) == 30)


async def test_version_5_against_3_1_1_is_an_error_that_says_so(
    embedded: Embedded, links: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A fixed version that the broker refuses is logged once, and tried again."""
    watched = links(embedded.settings(protocol="5"))
    await watched.link.start()
    await eventually(lambda: watched.link.statistics()["connect_failures"] >= 2)
    lines = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 1
    assert "Unsupported protocol version" in lines[0]


async def test_large_and_many_packets(any_broker: Broker, links: Any) -> None:
    """Packets of all sizes in a row arrive whole and in order through the buffers."""
    watched = links(any_broker.settings(queue_messages_max=2000))
    await watched.up("t/#")
    sizes = [0, 1, 127, 128, 16_383, 16_384, 70_000, PAYLOAD_BYTES_MAX] + [200] * 400
    for number, size in enumerate(sizes):
        watched.publish("t/x", bytes([number % 256]) * size)
    await eventually(lambda: len(watched.messages) == len(sizes), timeout=30)
    assert [item.payload for item in watched.messages] == [
        bytes([number % 256]) * size for number, size in enumerate(sizes)
    ]


async def test_a_retained_message_comes_once_to_a_session(any_broker: Broker, links: Any) -> None:
    """A persistent session that has its filters is not subscribed again, so its retained messages do not come again."""
    watched, other = links(any_broker.settings(), session_expiry_s=600), links(any_broker.settings(), "other")
    await other.up()
    await other.published("t/1", b"kept", retain=True)
    await watched.up("t/#")
    await eventually(lambda: len(watched.messages) == 1)
    for generation in (2, 3):
        watched.link._connection.drop("by the test")
        await watched.connected(generation)
        assert await other.published("t/2", b"%d" % generation) == PUBLISHED
        await eventually(lambda: watched.messages[-1].payload == b"%d" % generation)  # noqa: B023
    assert [item.payload for item in watched.messages] == [b"kept", b"2", b"3"]
