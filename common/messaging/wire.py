"""The MQTT wire, versions 3.1.1 and 5, as pure functions: what a client sends, and what a broker may send to it.

Theory of operation. Encoders return the bytes of one packet. ``Framer`` cuts what comes into packets, each a first
byte and a body; the ``read_*`` functions take a body apart. Nothing here does I/O, and whatever bytes come, the one
exception is WireError. A packet larger than PACKET_BYTES_MAX never enters memory: of a PUBLISH the head is kept, so
that it can be acknowledged and counted (it must not come again for ever); anything else that large is not MQTT.

Numbers in brackets are sections of the OASIS MQTT 5.0 specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from common.errors import CodecError, WireError
from common.memory import remembering
from common.messaging.base import Inbound, Properties, Subscription
from common.messaging.connection import RECEIVE_MAXIMUM, Accepted, Session

# First bytes of what a broker sends, flags included; PUBLISH alone has flags that vary.
CONNACK, PUBLISH, PUBACK, PUBREL, SUBACK, UNSUBACK = 0x20, 0x30, 0x40, 0x62, 0x90, 0xB0
PINGRESP, DISCONNECT = 0xD0, 0xE0
_CONNECT, _SUBSCRIBE, _UNSUBSCRIBE = 0x10, 0x82, 0xA2

V5 = 5
PING = b"\xc0\x00"
GOODBYE = b"\xe0\x00"  # DISCONNECT without a reason, the same bytes in both versions
NO_PROPERTIES = b"\x00"

PACKET_BYTES_MAX = 1024 * 1024  # of a packet that comes; the payload limit (P4.2) is far below, its judge is the reader
TEXT_BYTES_MAX = 0xFFFF
PROPERTIES_MAX = 1024  # in one packet that comes
OVERSIZE = 0x100  # set in the first byte of a PUBLISH of which only the head was kept
_HEAD_BYTES = 2 + TEXT_BYTES_MAX + 2  # topic and packet id of a PUBLISH: enough to acknowledge it

_UTF8, _CONTENT_TYPE, _USER = 0x01, 0x03, 0x26
_SERVER_KEEPALIVE, _REASON, _RECEIVE_MAXIMUM, _PACKET_MAXIMUM, _SHARES = 0x13, 0x1F, 0x21, 0x27, 0x2A
_TEXT, _PAIR, _VARINT = 0, -1, -2
_KINDS = {  # property -> bytes of its number, or what kind of value it has [2.2.2.2]; binary data is skipped like text
    0x01: 1, 0x02: 4, 0x03: _TEXT, 0x08: _TEXT, 0x09: _TEXT, 0x0B: _VARINT, 0x11: 4, 0x12: _TEXT, 0x13: 2,
    0x15: _TEXT, 0x16: _TEXT, 0x1A: _TEXT, 0x1C: _TEXT, 0x1F: _TEXT, 0x21: 2, 0x22: 2, 0x23: 2, 0x24: 1, 0x25: 1,
    0x26: _PAIR, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1,
}  # fmt: skip
_RETAIN_TO_NEW = 0x10  # retained messages come once to a session that has the filter already [3.8.3.1]
_CODES_OF_3_1_1 = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}  # of a CONNACK, as codes of version 5

_REASONS = {  # [2.4]
    0x80: "Unspecified error", 0x81: "Malformed packet", 0x82: "Protocol error",
    0x83: "Implementation specific error", 0x84: "Unsupported protocol version",
    0x85: "Client identifier not valid", 0x86: "Bad user name or password", 0x87: "Not authorized",
    0x88: "Server unavailable", 0x89: "Server busy", 0x8A: "Banned", 0x8B: "Server shutting down",
    0x8C: "Bad authentication method", 0x8D: "Keep alive timeout", 0x8E: "Session taken over",
    0x90: "Topic name invalid", 0x93: "Receive maximum exceeded", 0x94: "Topic alias invalid",
    0x95: "Packet too large", 0x96: "Message rate too high", 0x97: "Quota exceeded", 0x98: "Administrative action",
    0x99: "Payload format invalid", 0x9A: "Retain not supported", 0x9B: "QoS not supported", 0x9C: "Use another server",
    0x9D: "Server moved", 0x9F: "Connection rate exceeded", 0xA0: "Maximum connect time",
}  # fmt: skip


# What is sent


def connect(session: Session) -> bytes:
    """Return a CONNECT. Clean start and session expiry are always stated; a will has QoS 1."""
    v5, will = session.version == V5, session.will
    flags = 0x02 if session.session_expiry_s == 0 else 0
    fields = [_field(session.client_id)]
    if will:
        flags |= 0x2C if will.retain else 0x0C
        fields += [NO_PROPERTIES if v5 else b"", _field(will.topic), _sized(will.payload)]
    if session.username:
        flags |= 0x80
        fields.append(_field(session.username))
        if session.password:
            flags |= 0x40
            fields.append(_field(session.password))
    head = _field("MQTT") + bytes((session.version, flags)) + session.keepalive_s.to_bytes(2, "big")
    if v5:
        properties = b"\x11" + session.session_expiry_s.to_bytes(4, "big")
        properties += b"\x21" + RECEIVE_MAXIMUM.to_bytes(2, "big")
        head += _with_length(properties)
    return bytes((_CONNECT,)) + _with_length(head + b"".join(fields))


def publish(topic: str, payload: bytes, qos: int, retain: bool, mid: int, properties: bytes) -> bytes:
    """Return a PUBLISH. ``mid`` counts above QoS 0 only; ``properties`` are as ``pack`` made them, b"" on 3.1.1."""
    name = _topic_field(topic)
    after = mid.to_bytes(2, "big") + properties if qos else properties
    size = len(name) + len(after) + len(payload)
    return b"".join((bytes((PUBLISH | qos << 1 | retain,)), _varint(size), name, after, payload))


def puback(mid: int) -> bytes:
    """Return the acknowledgement of a QoS 1 packet; success is the same bytes in both versions."""
    return b"\x40\x02" + mid.to_bytes(2, "big")


def pubrec(mid: int) -> bytes:
    """Return the acknowledgement of a QoS 2 packet: after it the broker sends that packet no more."""
    return b"\x50\x02" + mid.to_bytes(2, "big")


def pubcomp(mid: int) -> bytes:
    """Return the answer to a PUBREL."""
    return b"\x70\x02" + mid.to_bytes(2, "big")


def subscribe(mid: int, subscriptions: Sequence[Subscription], version: int) -> bytes:
    """Return a SUBSCRIBE. ``no_local`` and when retained messages come can be said in version 5 only."""
    parts = [mid.to_bytes(2, "big"), NO_PROPERTIES if version == V5 else b""]
    for item in subscriptions:
        options = item.qos | (_RETAIN_TO_NEW | item.no_local << 2 if version == V5 else 0)
        parts += [_field(item.filter), bytes((options,))]
    return bytes((_SUBSCRIBE,)) + _with_length(b"".join(parts))


def unsubscribe(mid: int, filters: Sequence[str], version: int) -> bytes:
    """Return an UNSUBSCRIBE."""
    parts = [mid.to_bytes(2, "big"), NO_PROPERTIES if version == V5 else b"", *map(_field, filters)]
    return bytes((_UNSUBSCRIBE,)) + _with_length(b"".join(parts))


def pack(properties: Properties) -> bytes:
    """Return the properties of a PUBLISH with their length. Raises CodecError for texts that MQTT cannot carry."""
    raw = _format(properties.content_type, properties.utf8)
    for name, value in properties.user:
        raw += _user_name(name) + _field(value)
    return _with_length(raw)


@lru_cache(maxsize=64)
def _format(content_type: str, utf8: bool) -> bytes:
    kind = bytes((_CONTENT_TYPE,)) + _field(content_type) if content_type else b""
    return kind + bytes((_UTF8, 1)) if utf8 else kind


@lru_cache(maxsize=256)
def _user_name(name: str) -> bytes:
    return bytes((_USER,)) + _field(name)


@remembering(4096)
def _topic_field(topic: str) -> bytes:
    return _field(topic)


def _field(text: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise CodecError("undecodable", f"text {text[:80]!r} holds a lone surrogate") from None
    if len(raw) > TEXT_BYTES_MAX or "\x00" in text:  # to look for it in the bytes takes five times as long
        raise CodecError("undecodable", f"text {text[:80]!r} is longer than {TEXT_BYTES_MAX} bytes or holds NUL")
    return len(raw).to_bytes(2, "big") + raw


def _sized(raw: bytes) -> bytes:
    if len(raw) > TEXT_BYTES_MAX:
        raise CodecError("too_large", f"will of {len(raw)} bytes, at most {TEXT_BYTES_MAX}")
    return len(raw).to_bytes(2, "big") + raw


def _with_length(raw: bytes) -> bytes:
    return _varint(len(raw)) + raw


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


# What comes


class Framer:
    """Cuts a stream of bytes into packets. ``fault`` says why it is not MQTT; then nothing more comes out."""

    def __init__(self) -> None:
        self.fault = ""
        self._rest = bytearray()
        self._wanted = 0  # bytes of ``_rest`` before another look at it can find anything
        self._skip = 0  # bytes to come of a packet that is too large

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take more bytes; return the packets that are whole now: first byte, body.

        Of a PUBLISH above PACKET_BYTES_MAX the body is only its head, and OVERSIZE is set in the first byte.
        """
        if self.fault:
            return []
        if self._skip:
            gone = min(self._skip, len(data))
            self._skip -= gone
            data = data[gone:]
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        found: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        self._wanted = 2
        while end - at >= 2 and not self.fault:
            length, body = data[at + 1], at + 2
            if length > 0x7F:
                length, body = self._long(data, at)
                if not body:
                    break
            stop = body + length
            if length > PACKET_BYTES_MAX:
                at = self._oversize(data, at, body, length, found)
                break
            if stop > end:
                self._wanted = stop - at
                break
            found.append((data[at], data[body:stop]))
            at = stop
        if at < end:
            self._rest += data[at:]
        return found

    def _long(self, data: bytes, at: int) -> tuple[int, int]:
        """Read a length of several bytes behind ``at``; returns it and where the body begins, 0 if that is to come."""
        length = 0
        for place in range(4):
            where = at + 1 + place
            if where >= len(data):
                self._wanted = where + 1 - at
                return 0, 0
            length |= (data[where] & 0x7F) << (7 * place)
            if data[where] < 0x80:
                return length, where + 1
        self.fault = "a length of more than four bytes"
        return 0, 0

    def _oversize(self, data: bytes, at: int, body: int, length: int, found: list[tuple[int, bytes]]) -> int:
        """Keep the head of a PUBLISH that is too large, skip the rest; returns where to go on."""
        if data[at] & 0xF0 != PUBLISH:
            self.fault = f"a packet of {length} bytes that is no PUBLISH"
            return at
        if len(data) - body < _HEAD_BYTES:
            self._wanted = body - at + _HEAD_BYTES
            return at
        found.append((data[at] | OVERSIZE, data[body : body + _HEAD_BYTES]))
        here = min(length, len(data) - body)
        self._skip = length - here
        if not self._skip:  # another packet may be behind it
            found += self.feed(data[body + here :])
        return len(data)


def read_publish(first: int, body: bytes, version: int, with_properties: bool = True) -> Inbound:
    """Take a PUBLISH apart. Raises WireError; ``read_mid`` may still tell the packet id.

    Without ``with_properties`` they are passed over by their length, unread.
    """
    try:
        at = 2 + (body[0] << 8 | body[1])
        topic = _topic(body[2:at])
        qos, mid = first >> 1 & 3, 0
        if qos:
            mid = body[at] << 8 | body[at + 1]
            at += 2
            if qos == 3 or not mid:
                raise WireError(f"a PUBLISH with QoS {qos} and packet id {mid}")
        properties = None
        if version == V5:
            if with_properties and body[at]:
                properties, at = _message_properties(body, at)
            else:
                size, at = (body[at], at + 1) if body[at] < 0x80 else _read_varint(body, at)
                at += size
        if at > len(body):
            raise WireError("a PUBLISH that ends too early")
        return Inbound(topic, body[at:], qos, bool(first & 1), bool(first & 8), mid, 0, properties)
    except IndexError:
        raise WireError("a PUBLISH that ends too early") from None
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-8") from None


def read_mid(first: int, body: bytes) -> tuple[int, int]:
    """Return packet id and QoS of a PUBLISH, whatever else is in it. Raises WireError when it lacks one."""
    qos, at = first >> 1 & 3, 2 + int.from_bytes(body[:2], "big")
    if not qos:
        return 0, 0
    mid = int.from_bytes(body[at : at + 2], "big")
    if qos == 3 or len(body) < at + 2 or not mid:
        raise WireError(f"a PUBLISH with QoS {qos} and no packet id")
    return mid, qos


def read_acknowledged(body: bytes) -> tuple[int, int]:
    """Return packet id and reason code of a PUBACK or PUBREL; no code means success. Raises WireError."""
    if len(body) < 2:
        raise WireError("an acknowledgement without packet id")
    return body[0] << 8 | body[1], body[2] if len(body) > 2 else 0


def read_connack(body: bytes, version: int) -> Accepted:
    """Take a CONNACK apart. Raises WireError.

    One of two bytes is of version 3.1.1, also as an answer to version 5: then its code says "unsupported version".
    """
    if len(body) < 2 or (version != V5 and len(body) != 2):
        raise WireError(f"a CONNACK of {len(body)} bytes")
    code = body[1]
    if len(body) == 2:
        code = _CODES_OF_3_1_1.get(code, code and max(code, 0x80))
        return Accepted(code, reason_text(code), session_present=bool(body[0] & 1))
    found = _numbers_and_reason(body, 2)
    return Accepted(
        code,
        found.get(_REASON) or reason_text(code),
        found.get(_RECEIVE_MAXIMUM, 0),
        found.get(_PACKET_MAXIMUM, 0),
        bool(body[0] & 1),
        found.get(_SERVER_KEEPALIVE, 0),
        found.get(_SHARES, 1) == 1,
    )


def read_suback(body: bytes, version: int) -> tuple[int, list[int]]:
    """Return packet id and codes of a SUBACK or UNSUBACK. Raises WireError."""
    mid, _ = read_acknowledged(body)
    at = 2
    if version == V5:
        _, at = _properties(body, at)
    return mid, list(body[at:])


def read_disconnect(body: bytes) -> str:
    """Return in words why the broker ends the connection (version 5). Raises WireError."""
    if not body:
        return "disconnected by the broker"
    found = _numbers_and_reason(body, 1) if len(body) > 1 else {}
    return str(found.get(_REASON) or reason_text(body[0]))


def reason_text(code: int) -> str:
    """Return a reason code in words."""
    return _REASONS.get(code, f"reason 0x{code:02x}" if code else "Success")


@remembering(4096)
def _topic(raw: bytes) -> str:
    topic = raw.decode()
    if not topic or "\x00" in topic or "+" in topic or "#" in topic:
        raise WireError(f"{topic[:80]!r} is not a topic")
    return topic


def _message_properties(body: bytes, at: int) -> tuple[Properties | None, int]:
    found, at = _properties(body, at)
    content_type, utf8, user = "", False, []
    for kind, value in found:
        if kind == _USER:
            user.append(value)
        elif kind == _CONTENT_TYPE:
            content_type = value.decode()
        elif kind == _UTF8:
            utf8 = value == 1
    return Properties(content_type, utf8, tuple(user)) if user or content_type or utf8 else None, at


def _numbers_and_reason(body: bytes, at: int) -> dict[int, Any]:
    """The properties of a CONNACK or DISCONNECT: numbers, and the reason as text."""
    found = {kind: value for kind, value in _properties(body, at)[0] if kind != _USER}
    if _REASON in found:
        found[_REASON] = found[_REASON].decode("utf-8", "replace")
    return found


def _properties(body: bytes, at: int) -> tuple[list[tuple[int, Any]], int]:
    """Read properties with their length; numbers are int, user properties pairs of text, all else stays bytes."""
    try:
        size, at = _read_varint(body, at)
        stop = at + size
        if stop > len(body):
            raise WireError("properties that end too early")
        found: list[tuple[int, Any]] = []
        while at < stop:
            kind = body[at]
            value, at = _value(body, at + 1, _KINDS.get(kind))
            found.append((kind, value))
            if len(found) > PROPERTIES_MAX:
                raise WireError(f"more than {PROPERTIES_MAX} properties")
    except IndexError:
        raise WireError("a packet that ends too early") from None
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-8") from None
    if at != stop:
        raise WireError("a property that is longer than all of them")
    return found, at


def _value(body: bytes, at: int, kind: int | None) -> tuple[Any, int]:
    if kind is None:
        raise WireError(f"unknown property 0x{body[at - 1]:02x}")
    if kind == _VARINT:
        return _read_varint(body, at)
    if kind > 0:
        return int.from_bytes(body[at : at + kind], "big"), at + kind
    middle = at + 2 + (body[at] << 8 | body[at + 1])
    if kind == _TEXT:
        return body[at + 2 : middle], middle
    stop = middle + 2 + (body[middle] << 8 | body[middle + 1])
    name, value = body[at + 2 : middle].decode(), body[middle + 2 : stop].decode()
    if "\x00" in name or "\x00" in value:
        raise WireError("a text that holds NUL")
    return (name, value), stop


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place in range(4):
        byte = body[at + place]
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise WireError("a number of more than four bytes")
