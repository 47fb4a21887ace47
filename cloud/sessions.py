"""Who is there: nodes' presence on top of the store, and the other controllers (protocol P3.4, P7.2)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cloud.stores.base import NodeRow, Store
from common.clock import Clock
from common.models import ControllerPresence, Epoch, NodeBirth, NodeStatus

ONLINE, OFFLINE, UNKNOWN, CONFLICT = "online", "offline", "unknown", "conflict"
CONTROLLERS_MAX = 64


def state_of(row: NodeRow, now: float, stale_s: float, connected: bool) -> str:
    """Say whether a node is online, offline, unknown or in conflict. ``now`` is the wall clock, as ``last_seen`` is.

    Unknown: it was never born here, or it said online but was not heard for ``stale_s``, or this controller itself is
    not connected and could not have heard it. A ``last_seen`` far ahead means that a clock jumped: unknown too, until
    the node's next word. Conflict: two spools claim the id (P5.8); a person must look.
    """
    if row.conflict:
        return CONFLICT
    if not row.epoch:
        return UNKNOWN
    if not row.online:
        return OFFLINE
    return ONLINE if connected and abs(now - row.last_seen) <= stale_s else UNKNOWN


class Sessions:
    """Takes births, offline notices and statistics into the store, and tells the state of each node."""

    def __init__(self, store: Store, clock: Clock, stale_s: float, connected: Callable[[], bool]) -> None:
        self._store, self._clock, self._stale_s, self._connected = store, clock, stale_s, connected
        self._controllers: dict[str, ControllerPresence] = {}
        self._counts = dict.fromkeys(("births", "offlines", "ignored", "reports"), 0)

    async def take(self, birth: NodeBirth) -> bool:
        """Take a birth or offline; False when it is older than what is known. Raises RefusedError for a bad epoch."""
        epoch = Epoch.parse(birth.epoch)
        for text in birth.previous:
            Epoch.parse(text)
        taken = await self._store.presence(birth, epoch, self._clock.time())
        self._counts["ignored" if not taken else "births" if birth.online else "offlines"] += 1
        return taken

    async def report(self, node: str, status: NodeStatus) -> None:
        """Take a node's own statistics."""
        await self._store.report(node, status, self._clock.time())
        self._counts["reports"] += 1

    def controller(self, presence: ControllerPresence) -> None:
        """Note what a controller (this one too) says of itself."""
        if presence.controller in self._controllers or len(self._controllers) < CONTROLLERS_MAX:
            self._controllers[presence.controller] = presence

    def controllers(self) -> list[ControllerPresence]:
        """The controllers that were heard of, by id."""
        return [self._controllers[name] for name in sorted(self._controllers)]

    async def nodes(self) -> list[NodeRow]:
        """All nodes with their state, by id."""
        now, connected = self._clock.time(), self._connected()
        return [
            msgspec.structs.replace(row, state=state_of(row, now, self._stale_s, connected))
            for row in await self._store.nodes()
        ]

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return dict(self._counts)
