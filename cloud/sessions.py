"""Who is there: nodes' presence on top of the store, and the other controllers (protocol P3.4, P7.2)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from cloud.stores.base import NodeRow, Store
from common.clock import Clock
from common.errors import RefusedError
from common.message import Message, new_id
from common.messaging.inbound import RETAINED
from common.models import ControllerPresence, Epoch, NodeBirth, NodeStatus, parse_version

log = logging.getLogger(__name__)

ONLINE, OFFLINE, UNKNOWN, CONFLICT = "online", "offline", "unknown", "conflict"
CONTROLLERS_MAX = 64
ALARM_AGAIN_S = 60.0  # between two words in the log about another controller
NODES_WATCHED_MAX = 100_000  # whose last sequence is remembered, for the judgement of their next birth
SETTLED_S = 60.0  # a message that came so long before a birth was not overtaken by it, whatever the broker
_COUNTS = ("births", "offlines", "ignored", "reports", "replaced", "twins", "sinks_differ")


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


class _Last:
    """The highest sequence of a node's present epoch that came, as text, and when (monotonic seconds)."""

    __slots__ = ("at", "epoch", "sequence")

    def __init__(self, epoch: str, sequence: str, at: float) -> None:
        self.epoch, self.sequence, self.at = epoch, sequence, at


class Sessions:
    """Takes births, offline notices and statistics into the store, and tells the state of each node.

    ``note_message`` and ``note_birth`` are called in the order in which messages come; the queues behind keep no order
    between births and messages, and who commits messages first waits until their births are ``settled``.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        stale_s: float,
        connected: Callable[[], bool],
        own_id: str = "",
        sinks: str = "",
    ) -> None:
        self._own_id, self.sinks = own_id, sinks  # of this controller
        self._store, self._clock, self._stale_s, self._connected = store, clock, stale_s, connected
        self._controllers: dict[str, ControllerPresence] = {}
        self._last: dict[str, _Last] = {}
        self._taken: dict[str, tuple[str, int]] = {}  # epoch and session of the last birth that was taken here
        self._pending: Counter[str] = Counter()  # births that came and are not committed, by node
        self._settled = asyncio.Event()
        self._skews: dict[str, float] = {}  # a node's clock less ours, when it was heard last
        self._counts = dict.fromkeys(_COUNTS, 0)
        self.instance = new_id()  # of this process, in its presence
        self._announcements = 0
        self._told_at: dict[str, float] = {}  # when an alarm was logged last

    def note_message(self, message: Message[Any]) -> None:
        """Note that a reliable message has come. Not its node's word alone: the topic has named the node (P3.3)."""
        epoch, _, sequence = message.header.resourceversion.rpartition(".")
        node, now = message.parsed_resource().node, self._clock.monotonic()
        last = self._last.get(node)
        if last is None or last.epoch != epoch:
            if len(self._last) >= NODES_WATCHED_MAX:
                self._last.clear()
            self._last[node] = _Last(epoch, sequence, now)
        elif (len(sequence), sequence) > (len(last.sequence), last.sequence):
            last.sequence, last.at = sequence, now

    def note_birth(self, message: Message[Any]) -> None:
        """Note that a birth or offline has come; its header's resourceversion becomes what had come well before it."""
        node, message.header.resourceversion = message.parsed_resource().node, ""
        last = self._last.get(node)
        if last is not None and self._clock.monotonic() - last.at >= SETTLED_S:
            message.header.resourceversion = f"{last.epoch}.{last.sequence}"
        self._pending[node] += 1

    def birth_done(self, message: Message[Any]) -> None:
        """Say that a noted birth was taken, refused or given up."""
        node = message.parsed_resource().node
        self._pending[node] -= 1
        if self._pending[node] <= 0:
            del self._pending[node]
        self._settled.set()

    async def settled(self, nodes: Iterable[str]) -> None:
        """Wait until no birth of these nodes waits that came before now."""
        while self._pending and any(node in self._pending for node in nodes):
            self._settled.clear()
            await self._settled.wait()

    async def take(self, birth: NodeBirth, *, retained: bool = False, before: str = "") -> bool:
        """Take a birth or offline; False when it is older than what is known, or in conflict.

        ``retained``: a broker kept it. ``before``: the highest version that had come well before it, if any. Raises
        RefusedError for a bad epoch.
        """
        epoch = Epoch.parse(birth.epoch)
        for text in birth.previous:
            Epoch.parse(text)
        if birth.follows:
            parse_version(birth.follows)
        here = (birth.epoch, birth.session)
        received = 0 if self._taken.get(birth.node) == here else _sequence_of(before, birth.epoch)
        taken = await self._store.presence(birth, epoch, self._clock.time(), retained=retained, received=received)
        if taken and not retained and birth.online:
            if len(self._taken) >= NODES_WATCHED_MAX:
                self._taken.clear()
            self._taken[birth.node] = here
        self._counts["ignored" if not taken else "births" if birth.online else "offlines"] += 1
        return taken

    async def report(self, node: str, status: NodeStatus, sent_at: float = 0) -> None:
        """Take a node's own statistics. ``sent_at`` is when, by its clock: these never wait there."""
        now = self._clock.time()
        if sent_at and (node in self._skews or len(self._skews) < NODES_WATCHED_MAX):
            self._skews[node] = round(sent_at - now, 1)
        await self._store.report(node, status, now)
        self._counts["reports"] += 1

    async def replace(self, node: str) -> str:
        """Take the epoch chain that was heard last as the node's own; return its epoch. Raises ControlError."""
        epoch = await self._store.replace(node, self._clock.time())
        self._counts["replaced"] += 1
        return epoch

    def announced(self) -> None:
        """Note that this controller has begun a connection and says its presence on it."""
        self._announcements += 1

    def controller(self, presence: ControllerPresence, *, retained: bool = False) -> None:
        """Note what a controller (this one too) says of itself, and whether it is one that should not be: with our id,
        or with other sinks.
        """
        other = presence.controller == self._own_id and presence.instance not in ("", self.instance)
        # The first connection may find what was kept of an earlier process; our first presence replaces that.
        if other and ((presence.online and not retained) or self._announcements > 1):
            self._alarm(
                "twins",
                "another controller runs with the id %s: the broker lets only one of them be connected, and they end "
                "each other's connection again and again; give each an id of its own (cloud.controller)",
                presence.controller,
            )
        elif presence.online and presence.controller != self._own_id and presence.sinks not in ("", self.sinks):
            self._alarm(
                "sinks_differ",
                "controller %s has other sinks than this one: a sink that not all of them have hears late of what the "
                "others count, or not at all; give all the same cloud.forward and cloud.kubernetes",
                presence.controller,
            )
        if presence.controller in self._controllers or len(self._controllers) < CONTROLLERS_MAX:
            self._controllers[presence.controller] = presence

    def _alarm(self, name: str, text: str, controller: str) -> None:
        """Count, and say it now and then."""
        self._counts[name] += 1
        now = self._clock.monotonic()
        if now - self._told_at.get(name, -ALARM_AGAIN_S) >= ALARM_AGAIN_S:
            self._told_at[name] = now
            log.error(text, controller)

    def controllers(self) -> list[ControllerPresence]:
        """The controllers that were heard of, by id."""
        return [self._controllers[name] for name in sorted(self._controllers)]

    async def nodes(self) -> list[NodeRow]:
        """All nodes with their state, by id."""
        now, connected = self._clock.time(), self._connected()
        return [
            msgspec.structs.replace(
                row, state=state_of(row, now, self._stale_s, connected), clock_skew_s=self._skews.get(row.node)
            )
            for row in await self._store.nodes()
        ]

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return dict(self._counts)


def is_retained(message: Message[Any]) -> bool:
    """True for a presence that the broker had kept: it may be old."""
    return message.header.type == RETAINED


def _sequence_of(version: str, epoch: str) -> int:
    """The sequence of ``version`` if it is of ``epoch`` and well formed, else 0."""
    try:
        of, sequence = parse_version(version)
    except RefusedError:
        return 0
    return sequence if str(of) == epoch else 0
