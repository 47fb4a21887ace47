"""A broker that may do all that brokers do to messages, and the links of its clients.

A connection is TCP: what is written arrives in order, and when it breaks, a part of what was under way has arrived.
Everything else is the broker's fault: it drops, doubles, overtakes, keeps old messages for later, acknowledges and
discards, is restarted empty, and closes connections. Presence is no exception: within a topic every broker should keep
the order (MQTT 4.6), but not all bridges do. Sessions are clean, as both sides of the uplink use them.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache

import msgspec

from common.codec import PAYLOAD_BYTES_MAX
from common.errors import NotConnectedError
from common.messaging.base import NOBODY_LISTENS, NOT_SENT, PUBLISHED, Inbound, Properties, Receipt, Subscription, Will
from common.topics import matches

GHOSTS_MAX = 64  # old messages that the broker may deliver once more, much later


class SimLink:
    """One client's connection; implements ``Link``."""

    def __init__(self, broker: Broker, client_id: str, filters: Sequence[str], will: Callable[[], Will | None]) -> None:
        self._broker, self.client_id, self.filters, self._make_will = broker, client_id, tuple(filters), will
        self.connected = False
        self.generation = 0
        self.payload_bytes_max = PAYLOAD_BYTES_MAX
        self.will: Will | None = None
        self.outbox: deque[tuple[Inbound, Callable[[int], None]]] = deque()  # under way to the broker
        self.acks: deque[tuple[Callable[[int], None], int]] = deque()  # PUBACKs under way from it
        self.inbox: list[Inbound] = []  # messages under way from it
        self.on_message: Callable[[Inbound], None] = lambda inbound: None
        self.on_connect: Callable[[], None] = lambda: None
        self.on_disconnect: Callable[[str], None] = lambda reason: None

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
        if not self.connected:
            raise NotConnectedError("not connected")
        self.outbox.append((Inbound(topic, payload, qos, retain), on_done or _nobody))

    def connect(self) -> None:
        """Connect, if the broker takes connections and there is none."""
        if self.connected or not self._broker.up:
            return
        self.connected = True
        self.generation += 1
        self.will = self._make_will()
        self._broker.attach(self)
        self.on_connect()

    def lost(self, reason: str) -> None:
        """The connection is over."""
        if self.connected:
            self.connected = False
            waiting = [on_done for _, on_done in self.outbox] + [on_done for on_done, _ in self.acks]
            self.outbox.clear()
            self.acks.clear()
            self.inbox.clear()
            for on_done in waiting:
                on_done(NOT_SENT)
            self.on_disconnect(reason)

    def dead(self) -> None:
        """The process of this client is gone: nobody hears the callbacks."""
        self.on_message = self.on_connect = self.on_disconnect = lambda *_: None  # type: ignore[assignment]
        self.outbox = deque((inbound, _nobody) for inbound, _ in self.outbox)
        self.acks.clear()

    def acknowledge(self) -> bool:
        """Deliver the next PUBACK."""
        if not self.acks:
            return False
        on_done, code = self.acks.popleft()
        on_done(code)
        return True

    def deliver(self, at: int = 0) -> bool:
        """Deliver a message, the oldest or any."""
        if not self.inbox:
            return False
        self.on_message(self.inbox.pop(at % len(self.inbox)))
        return True

    def ack(self, receipt: Receipt) -> bool:
        return True

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def statistics(self) -> dict[str, int]:
        return {}


class Broker:
    """The broker. Arguments: ``rng``; ``arrived`` is told of every message that it received."""

    def __init__(self, rng: random.Random, arrived: Callable[[Inbound], None]) -> None:
        self._rng, self._arrived = rng, arrived
        self.up = True
        self.discarding = False  # acknowledges and throws away
        self.stuck: set[bytes] = set()  # payloads that never come through
        self.drop = self.double = self.overtake = self.haunt = 0.0  # probabilities per message
        self._retained: dict[str, Inbound] = {}
        self._links: dict[str, SimLink] = {}
        self.ghosts: list[Inbound] = []
        self.late_wills: list[Will] = []

    def attach(self, link: SimLink) -> None:
        """A client is connected: it takes over from an older connection with its id, and gets what is retained."""
        older = self._links.get(link.client_id)
        if older is not None and older is not link:
            self.cut(older.client_id)
        self._links[link.client_id] = link
        link.inbox += [kept for topic, kept in self._retained.items() if _wants(link.filters, topic)]

    def link(self, client_id: str) -> SimLink | None:
        """The connection of this client."""
        return self._links.get(client_id)

    def receive(self, link: SimLink) -> bool:
        """Receive the next packet of this connection: acknowledge it, pass it on."""
        if not link.outbox:
            return False
        inbound, on_done = link.outbox.popleft()
        self._arrived(inbound)
        code = PUBLISHED
        if not self.discarding and inbound.payload not in self.stuck:
            code = PUBLISHED if self._route(inbound) or inbound.retain else NOBODY_LISTENS
        if inbound.qos:
            link.acks.append((on_done, code))
        else:
            on_done(PUBLISHED)
        return True

    def _route(self, inbound: Inbound) -> bool:
        if inbound.retain:
            self._retained[inbound.topic] = inbound
            inbound = msgspec.structs.replace(inbound, retain=False)  # who is subscribed already is not told
        heard = False
        for link in self._links.values():
            if not _wants(link.filters, inbound.topic):
                continue
            heard = True
            if self.drop and self._rng.random() < self.drop:
                continue
            link.inbox.append(inbound)
            if self.double and self._rng.random() < self.double:
                link.inbox.append(inbound)
        if self.haunt and self._rng.random() < self.haunt and len(self.ghosts) < GHOSTS_MAX:
            self.ghosts.append(inbound)
        return heard

    def deliver(self, link: SimLink) -> bool:
        """Deliver the next message of this connection, or any when the broker lets messages overtake each other."""
        if not self.overtake or not link.inbox or self._rng.random() >= self.overtake:
            return link.deliver()
        return link.deliver(self._rng.randrange(len(link.inbox)))

    def haunting(self) -> bool:
        """Deliver one old message again: an old session that comes back."""
        if not self.ghosts:
            return False
        self._route(self.ghosts.pop(self._rng.randrange(len(self.ghosts))))
        return True

    def late_will(self) -> bool:
        """Publish the will of a connection that was lost long ago."""
        if not self.late_wills:
            return False
        self._publish_will(self.late_wills.pop(0))
        return True

    def _publish_will(self, will: Will) -> None:
        self._route(Inbound(will.topic, will.payload, 1, will.retain))

    def cut(self, client_id: str) -> bool:
        """End a connection. Of what was under way a part has arrived; the will is published, now or late."""
        link = self._links.pop(client_id, None)
        if link is None:
            return False
        for _ in range(self._rng.randint(0, len(link.outbox))):
            self.receive(link)
        will, link.will = link.will, None
        link.lost("cut by the seed")
        if will is not None:
            if self._rng.random() < 0.5:
                self._publish_will(will)
            else:
                self.late_wills.append(will)
        return True

    def restart(self, *, wiped: bool) -> None:
        """Go down with all connections; ``wiped``: with all that it kept, too. It comes back when ``up`` is set."""
        self.up = False
        for client_id in list(self._links):
            link = self._links.pop(client_id)
            link.will = None
            link.lost("broker gone")
        if wiped:
            self._retained.clear()
            self.late_wills.clear()
            if self._rng.random() < 0.5:  # the other half: they are in some bridge or queue on the way
                self.ghosts.clear()

    def heal(self) -> None:
        """No more faults from now on."""
        self.up, self.discarding = True, False
        self.stuck.clear()
        self.drop = self.double = self.overtake = self.haunt = 0.0


def _nobody(code: int) -> None:
    """Nobody waits for this acknowledgement."""


@cache
def _wants(filters: tuple[str, ...], topic: str) -> bool:
    return any(matches(name, topic) for name in filters)
