"""How large a packet may be: ours and the broker's limits, checked before anything is queued.

A packet above the broker's maximum is answered with a closed connection; a client that sends it again after each
reconnect never gets past it (reliability R2).
"""

from __future__ import annotations

from common.codec import PAYLOAD_BYTES_MAX
from common.errors import CodecError
from common.messaging.base import Properties
from common.topics import TOPIC_BYTES_MAX

PROPERTY_BYTES_MAX = 512  # room that ``payload_bytes_max`` leaves for properties
_TEXT_BYTES_MAX = 0xFFFF
_HEADER_BYTES = 1 + 4 + 2 + 2 + 1  # command, length, topic length, packet id, properties length


def payload_bytes_max(packet_bytes_max: int) -> int:
    """Return the most bytes for a payload when the broker takes packets of ``packet_bytes_max`` (0: no limit)."""
    if not packet_bytes_max:
        return PAYLOAD_BYTES_MAX
    beside = min(TOPIC_BYTES_MAX + PROPERTY_BYTES_MAX, packet_bytes_max // 2)
    return min(PAYLOAD_BYTES_MAX, packet_bytes_max - beside)


def check_size(topic: str, payload: bytes, properties: Properties | None, packet_bytes_max: int) -> None:
    """Raise CodecError: ``too_large``, or ``undecodable`` for property texts that MQTT cannot carry."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise CodecError("too_large", f"payload of {len(payload)} bytes, at most {PAYLOAD_BYTES_MAX}")
    size = _HEADER_BYTES + len(payload) + (_properties_bytes(properties) if properties else 0)
    if packet_bytes_max and size + len(topic.encode()) > packet_bytes_max:
        size += len(topic.encode())
        raise CodecError("too_large", f"packet of up to {size} bytes, the broker takes {packet_bytes_max}")


def _properties_bytes(properties: Properties) -> int:
    size = 2 + 2 + 3 + _text_bytes(properties.content_type)  # format indicator, length, content type
    for name, value in properties.user:
        size += 5 + _text_bytes(name) + _text_bytes(value)
    return size


def _text_bytes(text: str) -> int:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise CodecError("undecodable", f"property {text[:80]!r} holds a lone surrogate") from None
    if size > _TEXT_BYTES_MAX or "\x00" in text:
        raise CodecError("undecodable", f"property {text[:80]!r} is too long or holds NUL")
    return size
