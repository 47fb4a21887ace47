"""What this controller takes of the uplink: all, a share, or nothing while another one has the lease (P7.2).

Theory of operation. With each connection it is decided anew, because a fail-over may lead to another kind of broker.
Shared subscriptions are the broker's: each message goes to one of the controllers. Where it has none, the controllers
agree by a lease in the store that they share, and whoever has it subscribes to everything. A lease is wanted only while
there is a connection: a holder without one would keep the others from working. That two may take the same messages for
a moment costs duplicates, which are counted once like any others (P5.7).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cloud.settings import Settings, store_url
from cloud.stores.base import Store
from cloud.stores.leases import Lease
from common.clock import Clock
from common.errors import TransportError
from common.messaging.mqtt import MqttLayer, UplinkPart
from common.topics import controller_presence_topic

log = logging.getLogger(__name__)

UPLINK_LEASE = "uplink"
_MODES = {"alone": UplinkPart.ALL, "shared": UplinkPart.SHARED, "standby": UplinkPart.NOTHING}


def first_uplink(settings: Settings) -> UplinkPart | None:
    """What is taken before the broker is known; None when the broker decides."""
    mode = settings.cloud.sharing.mode
    if mode == "auto":
        return UplinkPart.ALL if store_url(settings).startswith("sqlite") else None
    return _MODES[mode]


class Sharing:
    """Subscribes a controller to its part of the uplink; run ``run`` among the owner's tasks.

    Arguments: ``layer`` of the controller; ``store`` with the leases; ``on_change`` is called when it begins or ends to
    take messages, for its presence.
    """

    def __init__(
        self, layer: MqttLayer, store: Store, settings: Settings, clock: Clock, on_change: Callable[[], None]
    ) -> None:
        self._layer, self._store, self._clock, self._on_change = layer, store, clock, on_change
        self._controller, self._settings = settings.cloud.controller, settings.cloud.sharing
        self._probe_topic = controller_presence_topic(settings.root, self._controller) + "/probe"
        self._fixed = first_uplink(settings)
        self.mode = "alone" if self._fixed is UplinkPart.ALL else self._settings.mode
        self._lease: Lease | None = None
        self._connected, self._disconnected = asyncio.Event(), asyncio.Event()
        self._counts = dict.fromkeys(("decisions", "takeovers"), 0)

    @property
    def standing_by(self) -> bool:
        """True while this controller takes nothing of the uplink."""
        return self._layer.uplink is UplinkPart.NOTHING

    def connected(self) -> None:
        """Note a new connection."""
        self._disconnected.clear()
        self._connected.set()

    def disconnected(self) -> None:
        """Note its end."""
        self._connected.clear()
        self._disconnected.set()

    async def run(self) -> None:
        """Decide at each connection, and stand by where it is needed; ends only by cancellation."""
        while self.mode != "alone":
            await self._connected.wait()
            try:
                await self._decide()
            except TransportError as exc:
                log.info("%s: the connection ended before it was known how to share: %s", self._controller, exc)
                self.disconnected()
                continue
            if self.mode == "standby":
                await self._stand_by()
            else:
                self._take(UplinkPart.SHARED)
                await self._disconnected.wait()

    async def _decide(self) -> None:
        mode, why = self._settings.mode, "it is set"
        if mode == "auto":
            shares = await self._layer.probe_shares(self._probe_topic)
            mode, why = ("shared", "the broker has") if shares else ("standby", "the broker lacks")
            why += " shared subscriptions"
        if mode != self.mode or not self._counts["decisions"]:
            log.info("%s: the uplink is taken %s, because %s", self._controller, mode, why)
        self.mode = mode
        self._counts["decisions"] += 1

    async def _stand_by(self) -> None:
        self._take(UplinkPart.NOTHING)
        ttl_s = self._settings.lease_s
        lease = self._lease = Lease(
            self._store, UPLINK_LEASE, self._controller, ttl_s, on_change=self._lease_changed, clock=self._clock
        )
        holding = asyncio.create_task(lease.run(), name="uplink-lease")
        gone = asyncio.create_task(self._disconnected.wait(), name="uplink-gone")
        try:
            await asyncio.wait({gone, holding}, return_when=asyncio.FIRST_COMPLETED)
            if holding.done():
                await holding  # it ends by a fault only: to be told, and tried again with delays
        finally:
            for task in (holding, gone):
                task.cancel()
            await asyncio.wait({holding, gone})
            self._lease = None

    def _lease_changed(self, held: bool) -> None:
        self._counts["takeovers"] += held
        self._take(UplinkPart.ALL if held else UplinkPart.NOTHING)

    def _take(self, uplink: UplinkPart) -> None:
        if self._layer.uplink is not uplink:
            self._layer.take_uplink(uplink)
            self._on_change()

    @property
    def holder(self) -> str:
        """Who has the lease of the uplink, as far as is known; empty where there is none."""
        return self._lease.holder if self._lease is not None else ""

    def statistics(self) -> dict[str, int]:
        """Counters, and the gauge ``standing_by``."""
        return {**self._counts, "standing_by": int(self.standing_by)}
