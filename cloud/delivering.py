"""Sending desired rules and endpoints to nodes: one worker a node, in order, each version once (protocol P6.1)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from cloud.stores import syncing
from cloud.stores.base import Store
from cloud.stores.desired import words_of
from cloud.stores.syncing import Outgoing
from common.clock import Clock
from common.errors import QueueFullError, RefusedError, StorageError, TransportError
from common.message import EDGECONTROLLER, RESOURCE_GROUP, Message, new
from common.messaging.base import MessageLayer
from common.resource import RULE, RULEENDPOINT, build_resource
from common.rules import ENDPOINT_KIND, RULE_KIND
from common.rulesync import sync_version
from common.tasks import Tasks

log = logging.getLogger(__name__)

SENDERS = 8  # nodes that are sent to at the same time

TYPE_OF = {RULE_KIND: RULE, ENDPOINT_KIND: RULEENDPOINT}  # kind of an object -> type of its resource


class Delivery:
    """Sends to nodes what the store says that they lack. ``sent`` and ``failed`` count messages."""

    def __init__(self, layer: MessageLayer, store: Store, clock: Clock) -> None:
        self._layer, self._store, self._clock = layer, store, clock
        self._due: dict[str, Sequence[Outgoing]] = {}  # nodes in order, and what goes before all else
        self._sending: set[str] = set()
        self._more = asyncio.Event()
        self.sent = self.failed = 0

    def start(self, tasks: Tasks) -> None:
        """Run the workers among the owner's tasks."""
        for number in range(SENDERS):
            tasks.start(f"send-{number}", self._work)

    @property
    def waiting(self) -> int:
        """Nodes that wait for a worker."""
        return len(self._due)

    def wake(self, nodes: Iterable[str], first: Sequence[Outgoing] = ()) -> None:
        """Look soon what these nodes lack, and send ``first`` before it. Each node waits at most once."""
        for node in nodes:
            self._due[node] = first or self._due.get(node, ())
        self._more.set()

    async def _work(self) -> None:
        while True:
            node, first = await self._next()
            try:
                if await self._deliver(first):
                    await self._send_to(node)
            except (StorageError, QueueFullError) as exc:  # its next nodestatus brings it again
                log.warning("node %s was not sent its rules: %s", node, exc)
            finally:
                self._sending.discard(node)
                self._more.set()

    async def _next(self) -> tuple[str, Sequence[Outgoing]]:
        """The next node that is due and that no other worker sends to: so order is kept for each."""
        while True:
            node = next((node for node in self._due if node not in self._sending), None)
            if node is not None:
                self._sending.add(node)
                return node, self._due.pop(node)
            self._more.clear()
            await self._more.wait()

    async def _send_to(self, node: str) -> None:
        while True:
            at = self._clock.time()
            claimed = await self._store.write(lambda conn: syncing.claim(conn, node, at))  # noqa: B023
            if not await self._deliver(claimed) or len(claimed) < syncing.CLAIM_MAX:
                return

    async def _deliver(self, messages: Sequence[Outgoing]) -> bool:
        """Send in order; False when the connection failed, and the rest is left for later."""
        for at, outgoing in enumerate(messages):
            try:
                await self._layer.send(_message(outgoing))
                self.sent += 1
            except TransportError as exc:
                left = messages[at:]
                log.info("node %s: %d messages of rules wait: %s", outgoing.node, len(left), exc)
                self.failed += len(left)
                await self._store.write(lambda conn: syncing.unsent(conn, left))  # noqa: B023
                return False
            except RefusedError as exc:  # its size was checked before it was taken; this connection allows less
                self.failed += 1
                log.error("%s cannot be sent to node %s: %s", words_of(outgoing.key), outgoing.node, exc)
        return True


def _message(outgoing: Outgoing) -> Message[Any]:
    resource = build_resource(outgoing.node, outgoing.key.namespace, TYPE_OF[outgoing.key.kind], outgoing.key.name)
    message = new(
        source=EDGECONTROLLER,
        group=RESOURCE_GROUP,
        operation=outgoing.operation,
        resource=resource,
        content=outgoing.content,
    )
    message.header.resourceversion = sync_version(outgoing.uid, outgoing.version)
    return message
