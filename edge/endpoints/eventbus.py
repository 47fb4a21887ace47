"""The eventbus endpoint: MQTT topics of the node's own broker, as source and as target (flow F3).

One connection for each broker, whatever the number of rules. As a source, PUBACK is sent when the arrival is settled;
as a target, delivered means PUBACK. paho is not seen here: a Link is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from common.clock import Clock, SystemClock
from common.errors import CodecError, NotConnectedError, QueueFullError, StorageError, TemplateError, TopicError
from common.memory import remembering
from common.message import new_id
from common.messaging.base import NOBODY_LISTENS, NOT_SENT, PUBLISHED, Inbound, Link, Properties, Receipt, Subscription
from common.templates import TopicTemplate
from common.topics import check_filter, covers, matches
from edge.endpoints.base import Rendering
from edge.endpoints.echoes import Echoes
from edge.messages import DELIVERED, Arrival, Delivery, FlowMessage, Rejected, Retry, hops_of

log = logging.getLogger(__name__)

MSGID_CHARS_MAX = 128
ROUTES_CACHED = 8192  # topics for which the matching sources are remembered


class Bound(NamedTuple):
    """Who gets what: an MQTT filter, the QoS to subscribe with, and the consumer (a rule's binding)."""

    filter: str
    qos: int
    consumer: Any


class Eventbus:
    """One broker as a source of arrivals and a place to publish.

    Arguments: ``on_arrival`` gets each arrival with the consumers whose filter matches, in the order they were bound.
    ``memory`` is the file that tells the next start which filters the session at the broker has: one that is no longer
    bound must be unsubscribed, or a message that an old and a new filter match comes twice.
    """

    def __init__(
        self,
        link: Link,
        on_arrival: Callable[[Arrival, tuple[Any, ...]], None],
        memory: Path | None = None,
        *,
        name: str = "bus",
        clock: Clock | None = None,
    ) -> None:
        self._source = f"source/{name}"
        self.link, self._clock = link, clock or SystemClock()
        self._echoes = Echoes(self._clock)
        self._on_arrival = on_arrival
        self._bound: list[Bound] = []
        self._plain: dict[str, list[int]] = {}  # places in ``_bound`` by filter: without wildcards, and with some
        self._wild: dict[str, list[int]] = {}
        self._paused = False
        self.targets = 0  # that publish here
        self.unmatched = 0
        self.received = 0
        self._route = remembering(ROUTES_CACHED)(self._match)
        self._memory = memory
        self._subscribed = _read(memory)
        link.on_message = self._arrived
        link.on_connect = self._connected
        link.subscribe([Subscription(filter_) for filter_ in self._subscribed])
        link.subscribe([])

    def bind(self, bound: list[Bound]) -> None:
        """Set who gets what. Replaces what was bound before; subscribes at once if connected.

        Raises StorageError when ``memory`` cannot be written: nothing is changed then.
        """
        wanted = _widest(bound)
        filters = [each.filter for each in wanted]
        self._remember([*self._subscribed, *(name for name in filters if name not in self._subscribed)])
        self._bound, self._plain, self._wild = bound, {}, {}
        for place, each in enumerate(bound):
            of_kind = self._wild if {*each.filter} & {*"+#"} else self._plain
            of_kind.setdefault(each.filter, []).append(place)
        self._route.cache_clear()
        self.link.subscribe(wanted)

    @property
    def used(self) -> bool:
        """True while a rule listens or publishes here."""
        return bool(self._bound or self.targets)

    def _connected(self) -> None:
        self._remember([each.filter for each in _widest(self._bound)])

    def _remember(self, filters: list[str]) -> None:
        if self._memory is None or filters == self._subscribed:
            return
        try:
            new = self._memory.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(filters))
            new.replace(self._memory)
        except OSError as exc:
            raise StorageError(f"{self._memory}: {exc.strerror}") from exc
        self._subscribed = filters

    def pause(self) -> None:
        """Take nothing more; what comes is not acknowledged, so the broker keeps it for the next start."""
        self._paused = True

    def _match(self, topic: str) -> tuple[Any, ...]:
        found = set(self._plain.get(topic, ()))
        for filter_, places in self._wild.items():
            if matches(filter_, topic):
                found.update(places)
        return tuple(self._bound[place].consumer for place in sorted(found))

    def _arrived(self, packet: Inbound) -> None:
        if self._paused:
            return
        self.received += 1
        consumers = self._route(packet.topic)
        if not consumers:  # a filter that was just removed: nobody will settle it
            self.unmatched += 1
            self.link.ack(packet.receipt())
            return
        reliable = packet.qos > 0
        settle = partial(self._settle, packet.receipt()) if reliable else None
        message = _message_of(packet, self._echoes.hops(packet), int(self._clock.time() * 1000))
        self._on_arrival(Arrival(message, reliable, settle, source=self._source), consumers)

    def published(self, topic: str, payload: bytes, hops: int) -> None:
        """Remember what may come back: a broker of version 3.1.1 carries no hop count."""
        if self._route(topic):
            self._echoes.sent(topic, payload, hops)

    def _settle(self, receipt: Receipt) -> None:
        self.link.ack(receipt)  # False on a newer connection: the broker sends it again, and that one is settled

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name, with those of the link."""
        return {**self.link.statistics(), "arrivals": self.received, "unmatched": self.unmatched}


class EventbusTarget:
    """Publishes to ``topic`` on one eventbus.

    Arguments: ``known`` are the template's values that do not change from message to message. ``on_close`` is told when
    this target is gone.
    """

    def __init__(
        self,
        bus: Eventbus,
        topic: TopicTemplate,
        known: Rendering,
        *,
        qos: int = 1,
        retain: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._bus, self._qos, self._retain, self._on_close = bus, qos, retain, on_close
        self._closed = False
        bus.targets += 1
        self._topic = topic
        self._names = {"node": known.node, "namespace": known.namespace, "rule": known.rule}
        self._source = ("ce_source", f"{known.node}/{known.namespace}/{known.rule}")

    @property
    def ready(self) -> bool:
        """True while the bus is connected."""
        return self._bus.link.connected

    def deliver(self, message: FlowMessage, done: Callable[[Delivery], None]) -> None:
        """Publish the payload. Done at the PUBACK (QoS 1) or when it is written (QoS 0)."""
        try:
            is_path = bool(message.method)
            topic = self._topic.render(message.key, self._names, message.field, path=is_path)
            payload = message.body()
            self._bus.link.publish(
                topic,
                payload,
                qos=self._qos,
                retain=self._retain,
                properties=Properties(user=self._properties(message)),
                on_done=lambda reason: done(_verdict(reason)),
            )
            self._bus.published(topic, payload, message.hops + 1)
        except (TemplateError, TopicError) as exc:
            done(Rejected("target_topic", exc.detail))
        except CodecError as exc:
            done(Rejected("payload_too_large", exc.detail))
        except NotConnectedError:
            done(Retry("target_unreachable", "no connection to the target's broker"))
        except QueueFullError as exc:
            done(Retry("target_unreachable", str(exc)))

    def close(self) -> None:
        """The bus belongs to all rules; the last one that leaves it ends its connection."""
        if not self._closed:
            self._closed = True
            self._bus.targets -= 1
            self._on_close()

    def _properties(self, message: FlowMessage) -> tuple[tuple[str, str], ...]:
        """CloudEvents attributes, and how many rules the message has passed (F3)."""
        found = (
            ("msg_id", message.msgid),
            self._source,
            ("ce_subject", message.key),
            ("ce_time", str(message.time_ms)),
            ("hops", str(message.hops + 1)),
        )
        trace = message.headers.get("traceparent")
        return found if trace is None else (*found, ("traceparent", trace))


def _verdict(reason: int) -> Delivery:
    if reason in (PUBLISHED, NOBODY_LISTENS):  # that nobody listens now is no fault of the rule
        return DELIVERED
    if reason == NOT_SENT:
        return Retry("target_unreachable", "the connection ended before the broker confirmed")
    return Rejected(f"target_status_{reason}", f"the broker refused with reason 0x{reason:02x}")


def _read(memory: Path | None) -> list[str]:
    """The filters of the last start; none when there is no such file or it is damaged."""
    try:
        filters = msgspec.json.decode(memory.read_bytes(), type=list[str]) if memory else []
        return [check_filter(name) for name in filters]
    except (OSError, msgspec.DecodeError, TopicError) as exc:
        if not isinstance(exc, FileNotFoundError):
            log.warning("%s: %s; filters of an earlier start stay subscribed", memory, exc)
        return []


def _message_of(packet: Inbound, hops: int, time_ms: int) -> FlowMessage:
    """The message in a packet: with version 5 its user properties are the headers (F3)."""
    headers = dict(packet.properties.user) if packet.properties is not None else {}
    msgid = headers.get("msg_id", "")
    if not 0 < len(msgid) <= MSGID_CHARS_MAX:
        msgid = new_id()
    hops = max(hops, hops_of(headers.get("hops", "")))
    return FlowMessage(packet.payload, packet.topic, msgid, headers, hops=hops, time_ms=time_ms)


def _widest(bound: list[Bound]) -> list[Subscription]:
    """One subscription a filter at its highest QoS, without filters that another covers: overlaps come twice."""
    qos: dict[str, int] = {}
    for filter_, wanted, _ in bound:
        qos[filter_] = max(wanted, qos.get(filter_, 0))
    widest = [f for f in qos if not any(other != f and covers(other, f) for other in qos)]
    return [Subscription(f, max(qos[n] for n in qos if covers(f, n))) for f in widest]
