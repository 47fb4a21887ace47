"""How large a packet may be: ours and the broker's limits, checked before anything is queued.

A packet above the broker's maximum is answered with a closed connection; a client that sends it again after each
reconnect never gets past it (reliability R2).
"""

from __future__ import annotations

from common.codec import PAYLOAD_BYTES_MAX
from common.errors import CodecError
from common.topics import TOPIC_BYTES_MAX

PROPERTY_BYTES_MAX = 512  # room that ``payload_bytes_max`` leaves for properties
_HEADER_BYTES = 1 + 4 + 2 + 2 + 1  # command, length, topic length, packet id, properties length


def payload_bytes_max(packet_bytes_max: int) -> int:
    """Return the most bytes for a payload when the broker takes packets of ``packet_bytes_max`` (0: no limit)."""
    if not packet_bytes_max:
        return PAYLOAD_BYTES_MAX
    beside = min(TOPIC_BYTES_MAX + PROPERTY_BYTES_MAX, packet_bytes_max // 2)
    return min(PAYLOAD_BYTES_MAX, packet_bytes_max - beside)


def check_size(topic: str, payload: bytes, properties: bytes, packet_bytes_max: int) -> None:
    """Raise CodecError ``too_large``. ``properties`` as they go over the wire."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise CodecError("too_large", f"payload of {len(payload)} bytes, at most {PAYLOAD_BYTES_MAX}")
    if packet_bytes_max:
        size = _HEADER_BYTES + len(topic.encode()) + len(payload) + len(properties)
        if size > packet_bytes_max:
            raise CodecError("too_large", f"packet of up to {size} bytes, the broker takes {packet_bytes_max}")
