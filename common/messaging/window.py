"""The outgoing window of one connection: what is in flight, what waits, what is being written. No I/O, no clock.

The window is ours because paho's is not usable: its queue survives a disconnect and is re-sent all at once, whatever
the in-flight limit and the broker's Receive Maximum say (reliability R2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from common.errors import QueueFullError


class Outgoing(msgspec.Struct, eq=False):
    """One packet on its way. ``properties`` are bytes of the wire with their length; none on 3.1.1."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: bytes = b""
    on_done: Callable[[int], None] | None = None


class Window:
    """At most ``limit`` QoS 1 packets between send and PUBACK, at most ``queue_max`` that wait for a place.

    QoS 0 packets do not wait for PUBACKs; they only count against ``queue_max`` until they are written.
    """

    def __init__(self, limit: int, queue_max: int) -> None:
        self.limit, self.queue_max = limit, queue_max
        self.in_flight: dict[int, Outgoing] = {}
        self.waiting: deque[Outgoing] = deque()
        self.writing: deque[Outgoing] = deque()  # QoS 0, in the order in which they are written
        self.confirmed_total = 0  # grows with each PUBACK: the watchdog looks for this progress

    def __len__(self) -> int:
        return len(self.in_flight) + len(self.waiting) + len(self.writing)

    def admit(self, packet: Outgoing) -> bool:
        """Take a packet. True: send it now, then call ``sent``; False: it waits. Raises QueueFullError: not taken."""
        if packet.qos == 0:
            if len(self.writing) >= self.queue_max:
                raise QueueFullError("publish queue", self.queue_max)
            return True
        if not self.waiting and len(self.in_flight) < self.limit:
            return True
        if len(self.waiting) >= self.queue_max:
            raise QueueFullError("publish queue", self.queue_max)
        self.waiting.append(packet)
        return False

    def sent(self, mid: int, packet: Outgoing) -> None:
        """Note that a packet was handed over under the packet id ``mid``."""
        if packet.qos == 0:
            self.writing.append(packet)
        else:
            self.in_flight[mid] = packet

    def next(self) -> Outgoing | None:
        """Return the next packet that may be sent now, or None."""
        if self.waiting and len(self.in_flight) < self.limit:
            return self.waiting.popleft()
        return None

    def confirmed(self, mid: int) -> Outgoing | None:
        """Take the packet that a PUBACK names out of the window; None when there is none of that id."""
        packet = self.in_flight.pop(mid, None)
        if packet:
            self.confirmed_total += 1
        return packet

    def written(self) -> Outgoing | None:
        """Take the oldest QoS 0 packet, after it was written."""
        return self.writing.popleft() if self.writing else None

    def drain(self) -> list[Outgoing]:
        """Take everything out, in the order in which it came, because the connection ended."""
        packets = [*self.in_flight.values(), *self.waiting, *self.writing]
        self.in_flight.clear()
        self.waiting.clear()
        self.writing.clear()
        return packets
