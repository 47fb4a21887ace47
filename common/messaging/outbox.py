"""What a link has to send: the window, who is told what became of each packet, and whether it makes progress."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from common.clock import Clock
from common.messaging.base import NOBODY_LISTENS, NOT_SENT, PUBLISHED
from common.messaging.connection import FAILED, Connection
from common.messaging.window import Outgoing, Window

log = logging.getLogger(__name__)

COUNTERS = ("published", "not_sent", "nobody_listens", "refused_by_broker")


class Outbox:
    """The outgoing half of a link. Every packet that it takes gets exactly one code, by ``call(on_done, code)``."""

    def __init__(self, window: Window, clock: Clock, counts: dict[str, int], call: Callable[..., None]) -> None:
        """``counts`` is the link's, with COUNTERS in it; ``call`` calls the owner and never raises."""
        self._window, self._clock, self._counts, self._call = window, clock, counts, call
        self._connection: Connection | None = None
        self._progress_at = 0.0
        self._empty: asyncio.Event | None = None  # while somebody waits in flush

    def begin(self, connection: Connection, limit: int) -> None:
        """Send over this connection from now on, with at most ``limit`` packets in flight."""
        self._connection, self._window.limit = connection, limit

    def put(self, connection: Connection, packet: Outgoing) -> None:
        """Send, or keep until the window has a place. Raises QueueFullError: not taken."""
        if self._window.admit(packet):
            self._hand_over(connection, packet)

    def _hand_over(self, connection: Connection, packet: Outgoing) -> None:
        if not self._window.in_flight:
            self._progress_at = self._clock.monotonic()
        self._window.sent(connection.publish(packet), packet)

    def confirmed(self, mid: int, code: int) -> None:
        """A PUBACK came: tell the owner, give the place to the next."""
        packet = self._window.confirmed(mid)
        if packet is None:
            return
        self._progress_at = self._clock.monotonic()
        self._done(packet, code)
        if self._window.waiting:
            self._send_waiting()

    def _send_waiting(self) -> None:
        while self._connection and (following := self._window.next()):
            try:
                self._hand_over(self._connection, following)
            except Exception:  # the library does not take it; its owner is told, the others go on
                log.exception("cannot publish to %s", following.topic)
                self._done(following, NOT_SENT)

    def written(self, count: int) -> None:
        """``count`` more QoS 0 packets were written."""
        for _ in range(count):
            packet = self._window.written()
            if packet:
                self._done(packet, PUBLISHED)

    def stalled(self, seconds: float) -> bool:
        """True when packets are in flight and no PUBACK came for so long."""
        return bool(self._window.in_flight) and self._clock.monotonic() - self._progress_at > seconds

    def end(self) -> None:
        """The connection is over: everything that is not confirmed is given back as NOT_SENT."""
        self._connection = None
        for packet in self._window.drain():
            self._done(packet, NOT_SENT)

    async def flush(self, timeout: float) -> None:
        """Wait until nothing is left, at most ``timeout`` seconds."""
        if not len(self._window):
            return
        self._empty = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        self._empty = None

    def gauges(self) -> dict[str, int]:
        """What is in flight and what waits."""
        window = self._window
        return {"in_flight": len(window.in_flight), "queued": len(window.waiting) + len(window.writing)}

    def _done(self, packet: Outgoing, code: int) -> None:
        name = "not_sent" if code == NOT_SENT else "refused_by_broker" if code >= FAILED else "published"
        self._counts[name] += 1
        if code == NOBODY_LISTENS:
            self._counts["nobody_listens"] += 1
        if packet.on_done:
            self._call(packet.on_done, code)
        if self._empty and not len(self._window):
            self._empty.set()
