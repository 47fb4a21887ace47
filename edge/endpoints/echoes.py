"""Loops over MQTT 3.1.1, which carries no hop count: a short memory of what was published (flow F3)."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from common.clock import Clock
from common.messaging.base import Inbound

MEMORY_S = 10.0
ECHOES_MAX = 10_000  # the oldest are forgotten


class Echoes:
    """What was published to topics that this node itself listens to, with the hops it had, for MEMORY_S."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self.forgotten = 0

    def sent(self, topic: str, payload: bytes, hops: int) -> None:
        """Remember one message."""
        key = _digest(topic, payload)
        self._sent.pop(key, None)
        self._sent[key] = (self._clock.monotonic() + MEMORY_S, hops)
        if len(self._sent) > ECHOES_MAX:
            self._sent.popitem(last=False)
            self.forgotten += 1

    def hops(self, packet: Inbound) -> int:
        """How many rules a message has passed as far as this memory tells; 0 for what it does not know."""
        if not self._sent or (packet.properties is not None and packet.properties.user):
            return 0
        now = self._clock.monotonic()
        while self._sent and next(iter(self._sent.values()))[0] <= now:
            self._sent.popitem(last=False)
        return self._sent.get(_digest(packet.topic, packet.payload), (0.0, 0))[1]


def _digest(topic: str, payload: bytes) -> bytes:
    hashed = blake2b(topic.encode() + b"\0", digest_size=16)
    hashed.update(payload)
    return hashed.digest()
