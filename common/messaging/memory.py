"""A broker inside the process: MemoryHub, its MemoryLink, and the message layer over it.

For tests and simulations that need control, and for edge and cloud in one process. It keeps the contract of ``Link``:
retained messages, wills, filters, shared ones too, the reason code for nobody listening. Nothing of it survives the
process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from common.codec import PAYLOAD_BYTES_MAX
from common.errors import CodecError, NotConnectedError
from common.messaging.base import NOBODY_LISTENS, NOT_SENT, PUBLISHED, Inbound, Properties, Receipt, Subscription, Will
from common.messaging.mqtt import MqttLayer, Side
from common.topics import check_filter, check_topic, matches

log = logging.getLogger(__name__)


class MemoryHub:
    """Passes packets between its links. ``set_available(False)`` is a broker that is down."""

    def __init__(self) -> None:
        self.available = True
        self._links: list[MemoryLink] = []
        self._turns: Counter[str] = Counter()  # whose turn it is in each group of shared subscriptions
        self._retained: dict[str, bytes] = {}

    def link(self, client_id: str, *, will: Callable[[], Will | None] = lambda: None) -> MemoryLink:
        """Make a link to this hub."""
        return MemoryLink(self, client_id, will)

    def set_available(self, available: bool) -> None:
        """Go down, which ends every connection (and publishes the wills), or come back, which restores them."""
        self.available = available
        for link in list(self._links):
            if available:
                link.come_up()
            else:
                link.cut("the hub went down")

    def attach(self, link: MemoryLink) -> None:
        """Know a link from its start to its stop."""
        self._links.append(link)

    def detach(self, link: MemoryLink) -> None:
        """Forget a link."""
        if link in self._links:
            self._links.remove(link)

    def route(self, inbound: Inbound) -> int:
        """Deliver to every connected link with a filter that matches; return the reason code for the sender."""
        if inbound.retain:
            if inbound.payload:
                self._retained[inbound.topic] = inbound.payload
            else:
                self._retained.pop(inbound.topic, None)
        takers = [link for link in self._links if link.wants(inbound.topic)]
        groups: dict[str, list[MemoryLink]] = {}
        for link in self._links:
            for group in link.groups(inbound.topic):
                groups.setdefault(group, []).append(link)
        for group, members in groups.items():
            self._turns[group] += 1
            takers.append(members[self._turns[group] % len(members)])
        for link in takers:
            link.deliver(Inbound(inbound.topic, inbound.payload, inbound.qos, properties=inbound.properties))
        return PUBLISHED if takers else NOBODY_LISTENS

    def retained(self, filters: Sequence[str]) -> list[Inbound]:
        """Return the retained messages that match any of the filters."""
        return [
            Inbound(topic, payload, 1, True)
            for topic, payload in self._retained.items()
            if any(matches(name, topic) for name in filters)
        ]


class MemoryLink:
    """``base.Link`` to a hub. Deliveries and ``on_done`` come in later turns of the loop, as over a network."""

    def __init__(self, hub: MemoryHub, client_id: str, will: Callable[[], Will | None]) -> None:
        self.on_message: Callable[[Inbound], None] = lambda inbound: None
        self.on_connect: Callable[[], None] = lambda: None
        self.on_disconnect: Callable[[str], None] = lambda reason: None
        self._hub, self._client_id, self._make_will = hub, client_id, will
        self._will: Will | None = None
        self._filters: list[str] = []
        self._connected = False
        self._generation = 0
        self._unconfirmed: dict[int, tuple[Inbound, Callable[[int], None]]] = {}
        self._last = 0
        self._counts = dict.fromkeys(("connects", "disconnects", "published", "received", "callback_errors"), 0)

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def payload_bytes_max(self) -> int:
        return PAYLOAD_BYTES_MAX

    @property
    def shares(self) -> bool | None:
        return True

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
        check_topic(topic)
        if not self._connected:
            raise NotConnectedError("not connected to the hub")
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise CodecError("too_large", f"payload of {len(payload)} bytes, at most {PAYLOAD_BYTES_MAX}")
        self._last += 1
        inbound = Inbound(topic, payload, qos, retain, properties=properties)
        self._unconfirmed[self._last] = (inbound, on_done or (lambda code: None))
        asyncio.get_running_loop().call_soon(self._send, self._last)

    def _send(self, number: int) -> None:
        if number not in self._unconfirmed:  # the connection ended first
            return
        inbound, on_done = self._unconfirmed.pop(number)
        code = self._hub.route(inbound)
        self._counts["published"] += 1
        self._call(on_done, code if inbound.qos else PUBLISHED)

    def ack(self, receipt: Receipt) -> bool:
        return self._connected and receipt.generation == self._generation

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        before = self._filters
        self._filters = [check_filter(item.filter) for item in subscriptions]
        if self._connected:
            self._deliver_retained([name for name in self._filters if name not in before])

    async def start(self) -> None:
        self._hub.attach(self)
        asyncio.get_running_loop().call_soon(self.come_up)

    async def stop(self) -> None:
        for number in list(self._unconfirmed):
            self._send(number)
        self._will = None
        self._hub.detach(self)
        self.cut("stopped")

    def statistics(self) -> dict[str, int]:
        return {**self._counts, "connected": int(self._connected), "in_flight": len(self._unconfirmed)}

    def wants(self, topic: str) -> bool:
        """True when a packet of this topic is for this link."""
        return self._connected and any(matches(name, topic) for name in self._filters)

    def groups(self, topic: str) -> set[str]:
        """The groups of which this link is a member, and in which one gets a packet of this topic."""
        shared = (name.split("/", 2)[1:] for name in self._filters if self._connected and name.startswith("$share/"))
        return {group for group, name in shared if matches(name, topic)}

    def deliver(self, inbound: Inbound) -> None:
        """Pass a packet on in a later turn of the loop, unless the connection ends before."""
        inbound.generation = self._generation
        asyncio.get_running_loop().call_soon(self._hand_over, inbound)

    def _hand_over(self, inbound: Inbound) -> None:
        if self._connected and inbound.generation == self._generation:
            self._counts["received"] += 1
            self._call(self.on_message, inbound)

    def _deliver_retained(self, filters: Sequence[str]) -> None:
        for inbound in self._hub.retained(filters):
            self.deliver(inbound)

    def come_up(self) -> None:
        """Connect, if the hub is there and this link was started."""
        if self._connected or not self._hub.available:
            return
        self._connected = True
        self._generation += 1
        self._counts["connects"] += 1
        self._will = self._make_will()
        self._deliver_retained(self._filters)
        self._call(self.on_connect)

    def cut(self, reason: str) -> None:
        """End the connection as a network fault would: unconfirmed packets are NOT_SENT, the will is published."""
        if not self._connected:
            return
        self._connected = False
        self._counts["disconnects"] += 1
        if self._will:
            self._hub.route(Inbound(self._will.topic, self._will.payload, 1, self._will.retain))
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for _, on_done in unconfirmed.values():
            self._call(on_done, NOT_SENT)
        self._call(self.on_disconnect, reason)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            self._counts["callback_errors"] += 1
            log.exception("%s: callback %r failed", self._client_id, callback)


class MemoryLayer(MqttLayer):
    """The message layer over a hub in this process; arguments as for MqttLayer, with a hub instead of a link."""

    def __init__(self, hub: MemoryHub, *, side: Side, node: str = "", source: str, **options: Any) -> None:
        super().__init__(hub.link(node or source), side=side, node=node, source=source, **options)
