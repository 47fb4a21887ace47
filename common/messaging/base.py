"""The contracts of messaging: Link (a connection to a broker) and MessageLayer (messages over it).

A Link moves bytes between topics and remembers nothing over a reconnect: what was not confirmed when the connection
ended is handed back as not sent, and its owner decides. A MessageLayer moves typed messages and matches replies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from common.errors import RefusedError
from common.message import RESPONSE, Message, MessageRoute

REPLY_TIMEOUT_S = 30.0  # default of send_sync, as in KubeEdge (P7.3)

# What became of a publish: an MQTT 5 reason code, or NOT_SENT. Version 3.1.1 brokers always say 0.
PUBLISHED = 0x00
NOBODY_LISTENS = 0x10
NOT_AUTHORISED = 0x87
NOT_SENT = -1  # the connection ended before the broker confirmed; it may have the message or not


class Properties(msgspec.Struct, frozen=True, gc=False):
    """MQTT 5 properties of one message; a 3.1.1 connection drops them (architecture decision 6)."""

    content_type: str = ""
    utf8: bool = False  # payload format indicator
    user: tuple[tuple[str, str], ...] = ()


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What ``Link.ack`` needs of a packet; thousands may wait for a disk, and need not keep their payloads.
    ``generation`` tells the connection.
    """

    mid: int
    qos: int
    generation: int


class Inbound(msgspec.Struct, gc=False):
    """A packet as it came from the broker. ``mid`` is its packet id, ``generation`` tells the connection."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    mid: int = 0
    generation: int = 0
    properties: Properties | None = None

    def receipt(self) -> Receipt:
        """What acknowledges it."""
        return Receipt(self.mid, self.qos, self.generation)


class Will(NamedTuple):
    """What the broker publishes when the connection is lost (QoS 1)."""

    topic: str
    payload: bytes
    retain: bool = True


class Subscription(NamedTuple):
    """A filter to subscribe to at every connect. ``no_local`` needs MQTT 5 and is dropped on 3.1.1."""

    filter: str
    qos: int = 1
    no_local: bool = False


class Link(Protocol):
    """One connection to a broker, kept up with jittered reconnects. All methods and callbacks belong to the event loop.

    ``generation`` grows by one with each connect. Callbacks must not raise; what they raise is logged and counted.
    """

    on_message: Callable[[Inbound], None]  # never before the connection's on_connect
    on_connect: Callable[[], None]  # after all subscriptions are acknowledged
    on_disconnect: Callable[[str], None]  # once for each on_connect, with the reason in words ("stopped" after stop)

    @property
    def connected(self) -> bool:
        """True between on_connect and on_disconnect."""
        ...

    @property
    def generation(self) -> int: ...

    @property
    def payload_bytes_max(self) -> int:
        """Most bytes that a payload may have here (the broker's MaximumPacketSize less the topic, or the default)."""
        ...

    @property
    def shares(self) -> bool | None:
        """Whether the broker has shared subscriptions; None on version 3.1.1 and before a connect: it does not say."""
        ...

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        properties: Properties | None = None,
        on_done: Callable[[int], None] | None = None,
    ) -> None:
        """Send one packet. ``on_done`` gets the reason code (PUBLISHED, NOBODY_LISTENS, ...) or NOT_SENT, exactly once.

        At QoS 0 done means written. More than the window (64 in flight) waits in a bounded queue.
        Raises NotConnectedError or QueueFullError: nothing was taken, ``on_done`` is not called.
        Raises TopicError or CodecError (``too_large``) for what a broker would answer by closing the connection.
        """
        ...

    def ack(self, receipt: Receipt) -> bool:
        """Acknowledge a QoS 1 packet (links with manual acknowledgement). False when it came on an older connection."""
        ...

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Replace the set of subscriptions: now if connected, and again at every connect."""
        ...

    async def start(self) -> None:
        """Begin to connect, in the background; returns at once. Raises ConfigError for what can never work."""
        ...

    async def stop(self) -> None:
        """Write what is queued (at most 2 s), disconnect cleanly (no will), and end."""
        ...

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name."""
        ...


class Refused(NamedTuple):
    """A packet that could not become a message: for counting, dead letters and the error reply (P5.9).

    ``node`` and ``route`` come from the topic, ``msg_id`` from the body; each is empty when it could not be read.
    """

    topic: str
    payload: bytes
    error: RefusedError
    node: str = ""
    route: MessageRoute | None = None
    msg_id: str = ""


class MessageLayer(ABC):
    """Typed messages over some link: KubeEdge's MessageLayer (``Send``, ``Receive``, ``Response``) plus ``send_sync``.

    Every implementation is held to one contract suite, ``tests/messaging/test_layer_contract.py``.
    """

    @abstractmethod
    async def send(self, message: Message[Any], *, qos: int = 1) -> None:
        """Send one message. At QoS 1 returns when the broker has it, at QoS 0 when it is written.

        Raises NotConnectedError (also when the connection ends before the broker confirms), QueueFullError,
        RefusedError (its route makes no topic, or it is too large), TransportError (the broker refused it, as with
        0x87 not authorised). Not for what must survive: that is the uplink's.
        """

    @abstractmethod
    async def receive(self) -> Message[Any]:
        """Wait for the next message that no ``send_sync`` waits for. Its content is typed by resource type."""

    @abstractmethod
    async def send_sync(self, message: Message[Any], timeout: float = REPLY_TIMEOUT_S) -> Message[Any]:
        """Send a request (header ``sync``) and wait for the reply whose parent is its id.

        Raises RequestTimeoutError after ``timeout`` seconds, sending included; the late reply is then counted and
        dropped (P7.3). Raises RemoteError when the reply's operation is ``error``. Cancellation leaves nothing behind.
        """

    @abstractmethod
    async def respond(self, request: Message[Any], content: Any, *, operation: str = RESPONSE, qos: int = 0) -> None:
        """Answer ``request`` in this layer's own name (P1.2). Raises as ``send``."""

    @abstractmethod
    async def start(self) -> None:
        """Begin to connect; returns at once."""

    @abstractmethod
    async def stop(self) -> None:
        """Disconnect cleanly. ``send_sync`` calls that wait end with NotConnectedError."""

    @abstractmethod
    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name: sent, received, refused, overflowed, late_replies, ..."""
