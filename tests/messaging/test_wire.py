"""The MQTT codec: bytes as the specification gives them, and hostile bytes that must raise nothing but WireError."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import CodecError, WireError
from common.messaging import wire
from common.messaging.base import Inbound, Properties, Subscription, Will
from common.messaging.connection import Accepted, Session

SESSION = Session("edge-1", 5, 15, "", "", None, 0, False)
TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=50)
TOPICS = TEXTS.filter(lambda text: text and not {"+", "#"} & set(text))
VERSIONS = st.sampled_from([4, 5])


def framed(data: bytes) -> list[tuple[int, bytes]]:
    framer = wire.Framer()
    found = framer.feed(data)
    assert not framer.fault
    return found


def test_connect_says_everything() -> None:
    """CONNECT of both versions, byte for byte: flags, keep alive, expiry, receive maximum, will, user and password."""
    assert wire.connect(SESSION) == bytes.fromhex(
        "10 1b 0004 4d515454 05 02 000f 08 11 00000000 21 ffff 0006 656467652d31"
    )
    will = Will("w", b"\xff", True)
    assert wire.connect(SESSION._replace(version=4, will=will, username="u", password="p")) == bytes.fromhex(
        "10 1e 0004 4d515454 04 ee 000f 0006 656467652d31 0001 77 0001 ff 0001 75 0001 70"
    )
    full = SESSION._replace(will=will._replace(retain=False), username="u", session_expiry_s=258)
    assert wire.connect(full) == bytes.fromhex(
        "10 25 0004 4d515454 05 8c 000f 08 11 00000102 21 ffff 0006 656467652d31 00 0001 77 0001 ff 0001 75"
    )


def test_subscriptions_say_what_their_version_can() -> None:
    """Options of a filter: QoS alone on 3.1.1; no local, and retained messages once, in version 5."""
    items = [Subscription("a/#", 1, True), Subscription("b", 0)]
    assert wire.subscribe(258, items, 4) == bytes.fromhex("82 0c 0102 0003 612f23 01 0001 62 00")
    assert wire.subscribe(258, items, 5) == bytes.fromhex("82 0d 0102 00 0003 612f23 15 0001 62 10")
    assert wire.unsubscribe(1, ["a/#"], 4) == bytes.fromhex("a2 07 0001 0003 612f23")
    assert wire.unsubscribe(1, ["a/#"], 5) == bytes.fromhex("a2 08 0001 00 0003 612f23")


def test_acknowledgements() -> None:
    """PUBACK, PUBREC and PUBCOMP carry the packet id and mean success by having no code."""
    assert wire.puback(258) == bytes.fromhex("40 02 0102")
    assert wire.pubrec(258) == bytes.fromhex("50 02 0102")
    assert wire.pubcomp(258) == bytes.fromhex("70 02 0102")
    assert wire.read_acknowledged(bytes.fromhex("0102")) == (258, 0)
    assert wire.read_acknowledged(bytes.fromhex("0102 10 00")) == (258, 0x10)
    with pytest.raises(WireError):
        wire.read_acknowledged(b"\x01")


def test_answers_of_a_broker() -> None:
    """CONNACK, SUBACK and DISCONNECT of both versions; codes of 3.1.1 come out as those of version 5."""
    assert wire.read_connack(bytes.fromhex("01 00"), 4) == Accepted(0, "Success", session_present=True)
    assert wire.read_connack(bytes.fromhex("00 01"), 5) == Accepted(0x84, "Unsupported protocol version")
    assert wire.read_connack(bytes.fromhex("00 05"), 4).text == "Not authorized"
    assert wire.read_connack(bytes.fromhex("00 77"), 4).code >= 0x80
    full = bytes.fromhex("00 00 0e 21 0014 27 00004e20 13 003c 22 000a")
    assert wire.read_connack(full, 5) == Accepted(0, "Success", 20, 20_000, False, 60, shares=True)
    assert not wire.read_connack(bytes.fromhex("00 00 02 2a 00"), 5).shares
    assert wire.read_connack(bytes.fromhex("00 87 05 1f 0002 6e6f"), 5) == Accepted(0x87, "no", shares=True)
    assert wire.read_suback(bytes.fromhex("0102 01 80"), 4) == (258, [1, 0x80])
    assert wire.read_suback(bytes.fromhex("0102 05 1f 0002 6e6f 01 80"), 5) == (258, [1, 0x80])
    assert wire.read_disconnect(b"") == "disconnected by the broker"
    assert wire.read_disconnect(b"\x8e") == "Session taken over"
    assert wire.read_disconnect(bytes.fromhex("8b 05 1f 0002 6e6f")) == "no"
    assert wire.read_disconnect(b"\xfe") == "reason 0xfe"


@given(
    TOPICS, st.binary(max_size=300), st.sampled_from([0, 1, 2]), st.booleans(), st.integers(1, 65_535), VERSIONS,
    st.builds(Properties, TEXTS, st.booleans(), st.lists(st.tuples(TEXTS, TEXTS), max_size=5).map(tuple)),
)  # fmt: skip
def test_a_publish_is_read_as_it_was_sent(
    topic: str, payload: bytes, qos: int, retain: bool, mid: int, version: int, properties: Properties
) -> None:
    """What ``publish`` makes, ``Framer`` and ``read_publish`` give back: topic, payload, marks, properties."""
    packed = wire.pack(properties) if version == 5 else b""
    [(first, body)] = framed(wire.publish(topic, payload, qos, retain, mid, packed))
    expected = properties if version == 5 and properties != Properties() else None
    mid = mid if qos else 0
    assert wire.read_publish(first, body, version) == Inbound(topic, payload, qos, retain, False, mid, 0, expected)
    assert wire.read_publish(first, body, version, False).payload == payload
    assert wire.read_mid(first, body) == (mid, qos)


@given(st.lists(st.binary(max_size=400), max_size=12), st.data())
def test_packets_come_whole_however_they_are_cut(payloads: list[bytes], data: st.DataObject) -> None:
    """The packets of a stream do not depend on how the stream is cut into reads."""
    stream = b"".join(wire.publish("t", payload, 0, False, 0, b"") for payload in payloads)
    framer, found, at = wire.Framer(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 500))
        found += framer.feed(stream[at : at + size])
        at += size
    assert found == [(wire.PUBLISH, b"\x00\x01t" + payload) for payload in payloads]


@pytest.mark.parametrize("read", [1, 7, 1000, 65_536, 10_000_000])
def test_an_oversize_publish_is_skipped_and_can_be_acknowledged(read: int) -> None:
    """Of a packet above the limit only the head is kept; the packet behind it comes, wherever the reads are cut."""
    payload = b"x" * (wire.PACKET_BYTES_MAX + (5 if read > 1 else 0))
    if read == 1:
        payload = b"x" * wire.PACKET_BYTES_MAX
    stream = wire.publish("t/1", payload, 1, False, 258, b"\x00") + wire.publish("t/2", b"y", 0, False, 0, b"\x00")
    framer, found = wire.Framer(), []
    for at in range(0, len(stream), read):
        found += framer.feed(stream[at : at + read])
    [(first, head), (_, body)] = found
    assert first & wire.OVERSIZE
    assert len(head) < 70_000
    assert wire.read_mid(first, head) == (258, 1)
    assert body == b"\x00\x03t/2\x00y"
    assert not framer.fault


def test_faults_of_a_stream_are_said_and_end_it() -> None:
    """A length of five bytes, or a huge packet that is no PUBLISH: what came before comes out, nothing after."""
    for bad in (b"\x30\xff\xff\xff\xff\x01", b"\x90\xff\xff\xff\x7f"):
        framer = wire.Framer()
        assert framer.feed(b"\xd0\x00" + bad) == [(wire.PINGRESP, b"")]
        assert framer.fault
        assert framer.feed(b"\xd0\x00") == []


def test_texts_that_mqtt_cannot_carry_are_refused() -> None:
    """Surrogates, NUL and more than 65,535 bytes raise CodecError before anything is sent."""
    for text in ("\ud800", "\x00", "x" * 65_536):
        for properties in (Properties(text), Properties(user=((text, ""),)), Properties(user=(("", text),))):
            with pytest.raises(CodecError, match="undecodable"):
                wire.pack(properties)
    assert len(wire.pack(Properties(user=(("n", "x" * 65_535),)))) == 3 + 1 + 3 + 2 + 65_535


@pytest.mark.parametrize(
    "body", [
        "", "00", "0000", "0001 2b", "0001 23", "0001 00", "0002 c328", "0005 6162", "0001 61 00",
        "0001 61 0001 05 26 0001 61", "0001 61 0001 03 03 0005 61", "0001 61 0001 01 04", "0001 61 0001 ffffffff01",
        "0001 61 0001 07 26 0001 00 0001 61", "0001 61 0001 03 02 0000", "0001 61 0001",
    ],
)  # fmt: skip
def test_malformed_publishes(body: str) -> None:
    """Empty, wild or cut topics, texts that are not UTF-8, cut or unknown properties: WireError, each."""
    with pytest.raises(WireError):
        wire.read_publish(0x32, bytes.fromhex(body), 5)


def read_all(first: int, body: bytes) -> None:
    """Call every reader; WireError is an answer, anything else is a failure."""
    readers: list[Callable[[], Any]] = [
        lambda: wire.read_mid(first, body),
        lambda: wire.read_acknowledged(body),
        lambda: wire.read_disconnect(body),
    ]
    for version in (4, 5):
        readers += [
            partial(wire.read_publish, first, body, version),
            partial(wire.read_publish, first, body, version, False),
            partial(wire.read_connack, body, version),
            partial(wire.read_suback, body, version),
        ]
    for reader in readers:
        with suppress(WireError):
            reader()


@given(st.integers(0, 255), st.binary(max_size=200))
@example(0x36, b"\x00\x01a\x00\x01\x00")
def test_hostile_bodies_raise_only_wire_errors(first: int, body: bytes) -> None:
    """No bytes make a reader raise anything but WireError."""
    read_all(first, body)


@given(TOPICS, st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
def test_a_flipped_byte_raises_only_wire_errors(topic: str, payload: bytes, at: int, byte: int) -> None:
    """A good packet with one byte changed is read, or is a WireError."""
    properties = wire.pack(Properties("application/json", True, (("msg_id", "1"), ("resourceversion", "2"))))
    packet = bytearray(wire.publish(topic, payload, 1, False, 7, properties))
    packet[at % len(packet)] = byte
    for first, body in wire.Framer().feed(bytes(packet)):
        read_all(first, body)


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_hostile_streams_never_raise(reads: list[bytes]) -> None:
    """Whatever comes, a framer raises nothing and holds at most a packet."""
    framer = wire.Framer()
    for data in reads:
        for first, body in framer.feed(data):
            read_all(first & 0xFF, body)
