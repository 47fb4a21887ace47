"""The library-neutral half of the MQTT link: connecting again and again, the window, subscriptions, the watchdog.

Theory of operation. One supervised task makes one ``Connection`` after the other; each is a fresh object of the MQTT
client (``native`` or ``pahoclient``), so nothing of the client's memory outlives a connection. The connection reports
through the ``Receiver`` methods below, on the event loop; they only keep books and hand over. Whatever ends a
connection comes through ``connection_ended`` once, and everything not confirmed is given back there as NOT_SENT.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from common.backoff import Backoff
from common.clock import Clock, SystemClock
from common.errors import ConfigError, ConnectError, NotConnectedError
from common.memory import remembering
from common.messaging import outbox, wire
from common.messaging.base import Inbound, Properties, Receipt, Subscription, Will
from common.messaging.connection import Accepted, Connection, Session
from common.messaging.dialer import Dialer
from common.messaging.limits import check_size, payload_bytes_max
from common.messaging.stream import Stream
from common.messaging.subscriptions import Subscriptions
from common.messaging.window import Outgoing, Window
from common.settings import BrokerSettings
from common.tasks import Tasks
from common.topics import check_topic

log = logging.getLogger(__name__)

SUBSCRIBE_TIMEOUT_S = 10.0  # for all SUBACKs after a connect
SUBSCRIBE_AGAIN_S = 1.0  # after a refusal; then doubling to reconnect_max_s
FLUSH_TIMEOUT_S = 2.0
FINISH_TIMEOUT_S = 0.5
TICK_S = 1.0
RECONNECT_FIRST_S = 0.2
GOOD_CONNECTION_S = 1.0  # one that lasted so long begins the backoff anew; two clients that kick each other never do
EARLY_MESSAGES_MAX = 1000  # packets held back until the SUBACKs are in

COUNTERS = (
    "connects", "connect_failures", "disconnects", "stalls", "received", "callback_errors", "subscribe_refused",
    "stale_acks", "undecodable",
)  # fmt: skip

_checked_topic = remembering(16384)(check_topic)


class ReconnectingLink(ABC):
    """``base.Link`` over connections that ``connection`` makes. See there for the contract of the public methods."""

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        *,
        will: Callable[[], Will | None] = lambda: None,
        manual_ack: bool = False,
        session_expiry_s: int = 0,
        with_properties: bool = True,
        rng: random.Random | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``will`` is asked at each connect. ``session_expiry_s`` 0 is a clean session, more a persistent one.
        ``with_properties`` False: the owner does not look at the properties of what comes, so they are None.
        """
        self.on_message: Callable[[Inbound], None] = lambda inbound: None
        self.on_connect: Callable[[], None] = lambda: None
        self.on_disconnect: Callable[[str], None] = lambda reason: None
        self._settings, self._client_id, self._will = settings, client_id, will
        self._manual_ack, self._session_expiry_s = manual_ack, session_expiry_s
        self._with_properties = with_properties
        self._clock = clock or SystemClock()
        self._dialer = Dialer(settings, client_id, self._session, self._new_connection)
        self._backoff = Backoff(RECONNECT_FIRST_S, settings.reconnect_max_s, rng)
        self._asking = Backoff(SUBSCRIBE_AGAIN_S, settings.reconnect_max_s, rng)
        self._ask_at = 0.0
        self._told: set[str] = set()  # filters whose refusal is in the log
        self._tasks = Tasks(f"mqtt link {client_id}")
        self._subscriptions = Subscriptions()
        self._connection: Connection | None = None
        self._established = False
        self._early: list[Inbound] = []
        self._generation = 0
        self._begun_at = 0.0
        self._packet_bytes_max = 0
        self._shares: bool | None = None
        self._last_failure = ""
        self._stopping = False
        self._counts = dict.fromkeys((*COUNTERS, *outbox.COUNTERS), 0)
        window = Window(settings.window_messages, settings.queue_messages_max)
        self._outbox = outbox.Outbox(window, self._clock, self._counts, self._call)

    @abstractmethod
    def connection(self, stream: Stream, session: Session) -> Connection:
        """Begin a connection: send CONNECT. It reports to this object from now on."""

    # What the owner calls.

    @property
    def connected(self) -> bool:
        return self._established

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def payload_bytes_max(self) -> int:
        return payload_bytes_max(self._packet_bytes_max)

    @property
    def shares(self) -> bool | None:
        return self._shares

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
        if qos not in (0, 1):
            raise ValueError(f"qos is 0 or 1, not {qos}")
        _checked_topic(topic)
        connection = self._connection
        if connection is None:
            raise NotConnectedError(f"not connected to {self._settings.url}")
        packed = wire.pack(properties) if properties and connection.version == wire.V5 else b""
        check_size(topic, payload, packed, self._packet_bytes_max)
        self._outbox.put(connection, Outgoing(topic, payload, qos, retain, packed, on_done))

    def ack(self, receipt: Receipt) -> bool:
        if self._connection is None or receipt.generation != self._generation:
            self._counts["stale_acks"] += 1
            return False
        if self._manual_ack and receipt.qos:
            self._connection.ack(receipt.mid, receipt.qos)
        return True

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        gone, new = self._subscriptions.replace(subscriptions)
        if self._connection and gone:
            self._connection.unsubscribe(gone)
        if self._connection and new:
            self._subscriptions.send(new, self._connection.subscribe)

    async def start(self) -> None:
        await self._dialer.check()
        self._stopping = False
        self._tasks.start("connection", self._keep_connected)
        self._tasks.start("tick", self._keep_ticking)

    async def stop(self) -> None:
        self._stopping = True
        if self._connection:
            await self._outbox.flush(FLUSH_TIMEOUT_S)
        if self._connection:
            await self._connection.finish(FINISH_TIMEOUT_S)
        await self._tasks.stop()

    def statistics(self) -> dict[str, int]:
        return {
            **self._counts, **self._outbox.gauges(), "connected": int(self._established),
            "generation": self._generation, "restarts": self._tasks.restarts,
        }  # fmt: skip

    # Connecting, in one task.

    async def _keep_connected(self) -> None:
        while True:
            try:
                connection, accepted = await self._dialer.dial()
                await self._serve(connection, accepted)
            except (ConnectError, ConfigError) as exc:
                self._note_failure(str(exc))
            await asyncio.sleep(self._backoff.next())

    async def _serve(self, connection: Connection, accepted: Accepted) -> None:
        """Use a connection until it ends."""
        try:
            if connection.ended.done():
                raise ConnectError(f"the broker accepted and closed: {connection.ended.result()}")
            self._begin(connection, accepted)
            await connection.ended
        finally:
            connection.drop("stopped")
        if self._clock.monotonic() - self._begun_at >= GOOD_CONNECTION_S:
            self._backoff.reset()

    def _session(self, version: int, password: str) -> Session:
        settings = self._settings
        return Session(
            self._client_id, version, settings.keepalive_s, settings.username, password,
            self._will(), self._session_expiry_s, self._manual_ack, self._with_properties,
        )  # fmt: skip

    def _new_connection(self, stream: Stream, session: Session) -> Connection:
        self._early.clear()
        self._begun_at = self._clock.monotonic()
        return self.connection(stream, session)

    def _note_failure(self, text: str) -> None:
        """Log a failed connect: once for each new reason, so that an hour of outage is one line."""
        self._counts["connect_failures"] += 1
        if text != self._last_failure:
            self._last_failure = text
            log.error("%s: %s; trying again until it works", self._client_id, text)

    async def _keep_ticking(self) -> None:
        interval = min(TICK_S, self._settings.stall_s / 4)
        while True:
            await asyncio.sleep(interval)
            if self._connection:
                self._tick(self._connection)

    def _tick(self, connection: Connection) -> None:
        if not self._established and self._clock.monotonic() - self._begun_at > SUBSCRIBE_TIMEOUT_S:
            connection.drop("the broker does not answer SUBSCRIBE")
        elif self._outbox.stalled(self._settings.stall_s):
            self._counts["stalls"] += 1
            connection.drop(f"no PUBACK for {self._settings.stall_s:g} s")
        else:
            connection.tick()
            self._ask_again(connection)

    def _ask_again(self, connection: Connection) -> None:
        """Subscribe once more to what was refused: a cluster without a leader, or an ACL that a person mends, takes it
        later, and nobody else would notice.
        """
        now = self._clock.monotonic()
        if self._established and now >= self._ask_at and (refused := self._subscriptions.refused()):
            self._ask_at = now + self._asking.next()
            self._subscriptions.send(refused, connection.subscribe)

    def _begin(self, connection: Connection, accepted: Accepted) -> None:
        self._connection = connection
        self._generation += 1
        self._counts["connects"] += 1
        self._begun_at = self._clock.monotonic()
        self._last_failure = ""
        self._told.clear()
        self._asking.reset()
        self._ask_at = self._begun_at + self._asking.next()
        limit = self._settings.window_messages
        self._outbox.begin(connection, min(limit, accepted.receive_maximum or limit))
        self._packet_bytes_max = accepted.packet_bytes_max
        self._shares = accepted.shares if connection.version == wire.V5 else None
        self._subscriptions.begin(connection.subscribe, connection.unsubscribe, accepted.session_present)
        if self._subscriptions.complete:
            self._establish()

    def _establish(self) -> None:
        self._established = True
        self._call(self.on_connect)
        early, self._early = self._early, []
        for inbound in early:
            inbound.generation = self._generation  # it may have come in the same read as the CONNACK
            self._call(self.on_message, inbound)

    # What a connection reports (Receiver). These run inside the library's callbacks.

    def message_came(self, inbound: Inbound) -> None:
        # What comes before the SUBACKs waits, so that the owner sees on_connect first.
        self._counts["received"] += 1
        inbound.generation = self._generation
        if self._established:
            return self._call(self.on_message, inbound)
        self._early.append(inbound)
        if self._connection and len(self._early) > EARLY_MESSAGES_MAX:
            self._establish()

    def puback_came(self, mid: int, code: int) -> None:
        self._outbox.confirmed(mid, code)

    def written(self, count: int) -> None:
        self._outbox.written(count)

    def suback_came(self, mid: int, codes: Sequence[int]) -> None:
        # A refused filter is an error in the log and a count; the connection goes on with the others, and asks again.
        for name, code in self._subscriptions.answered(mid, codes):
            self._counts["subscribe_refused"] += 1
            if name not in self._told:
                self._told.add(name)
                log.error("%s: the broker refuses the subscription %s (0x%02x)", self._client_id, name, code)
        if self._subscriptions.complete and not self._established and self._connection:
            self._establish()

    def undecodable_came(self, error: Exception) -> None:
        self._counts["undecodable"] += 1
        log.warning("%s: packet left out: %s", self._client_id, error)

    def connection_ended(self, connection: Connection, reason: str) -> None:
        if connection is not self._connection:
            return
        self._connection, established, self._established = None, self._established, False
        self._early.clear()
        self._counts["disconnects"] += 1
        log.log(logging.INFO if self._stopping else logging.WARNING, "%s: disconnected: %s", self._client_id, reason)
        self._outbox.end()
        if established:
            self._call(self.on_disconnect, reason)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        """Call the owner. An exception must not get into the library: paho would stop reading for ever."""
        try:
            callback(*args)
        except Exception:
            self._counts["callback_errors"] += 1
            log.exception("%s: callback %r failed", self._client_id, callback)
