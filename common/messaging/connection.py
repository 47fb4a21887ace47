"""What a link needs of an MQTT library: one connection, from CONNECT to its end. The library-neutral interface."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from common.messaging.base import Inbound, Subscription, Will
from common.messaging.stream import Stream
from common.messaging.window import Outgoing

UNSUPPORTED_VERSION = 0x84
RECEIVE_MAXIMUM = 65_535  # of messages without our PUBACK; of who does not say it, Mosquitto lets 20 be on their way
FAILED = 0x80  # from here on a reason code says failure


class Session(NamedTuple):
    """What one CONNECT says. ``version`` is 5, or 4 for 3.1.1, as on the wire; ``session_expiry_s`` 0 is clean."""

    client_id: str
    version: int
    keepalive_s: int
    username: str
    password: str
    will: Will | None
    session_expiry_s: int
    manual_ack: bool
    with_properties: bool = True  # of messages that come; to read them costs as much as all else


class Accepted(NamedTuple):
    """What the CONNACK says; ``code`` 0 is yes. Limits are 0 when the broker states none.

    ``shares``: the broker has shared subscriptions; version 5 tells, 3.1.1 knows nothing of them and so not either.
    """

    code: int
    text: str = ""
    receive_maximum: int = 0
    packet_bytes_max: int = 0
    session_present: bool = False
    keepalive_s: int = 0
    shares: bool = False


class Receiver(Protocol):
    """To whom a connection reports, on the event loop, from inside the library's callbacks. Nothing here raises."""

    def message_came(self, inbound: Inbound) -> None:
        """A packet for the owner."""

    def undecodable_came(self, error: Exception) -> None:
        """A packet whose topic or properties cannot be converted; it was left out."""

    def puback_came(self, mid: int, code: int) -> None:
        """A QoS 1 packet is confirmed, with a reason code."""

    def written(self, count: int) -> None:
        """``count`` more QoS 0 packets were written, in the order of ``publish``."""

    def suback_came(self, mid: int, codes: Sequence[int]) -> None:
        """The broker's answer to ``subscribe``, one code a filter."""

    def connection_ended(self, connection: Connection, reason: str) -> None:
        """The connection is over. Called once."""


class Connection(ABC):
    """One connection over a stream that is open. It is never used again after it ended."""

    version: int  # of the protocol: a 3.1.1 connection sends no properties
    accepted: asyncio.Future[Accepted | None]  # None: it ended before the broker answered
    ended: asyncio.Future[str]  # why, in words
    _stream: Stream
    _receiver: Receiver

    @abstractmethod
    def publish(self, packet: Outgoing) -> int:
        """Send, and return the packet id."""

    @abstractmethod
    def subscribe(self, subscriptions: Sequence[Subscription]) -> int:
        """Send one SUBSCRIBE, and return its packet id."""

    @abstractmethod
    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Send one UNSUBSCRIBE."""

    @abstractmethod
    def ack(self, mid: int, qos: int) -> None:
        """Acknowledge a packet that came on this connection."""

    @abstractmethod
    def tick(self) -> None:
        """Send a ping if it is time; end the connection if one was not answered."""

    def drop(self, reason: str) -> None:
        """End the connection at once, without DISCONNECT, so the broker publishes the will. Twice is once."""
        if self.ended.done():
            return
        self._detach()
        self._stream.shut()
        self.ended.set_result(reason)
        if not self.accepted.done():
            self.accepted.set_result(None)
        self._receiver.connection_ended(self, reason)

    @abstractmethod
    def _detach(self) -> None:
        """Take the socket off the event loop."""

    @abstractmethod
    async def finish(self, timeout: float) -> None:
        """Send DISCONNECT behind everything else, and end."""
