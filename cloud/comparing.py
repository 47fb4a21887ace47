"""Comparing what nodes have with what they are to have, by hash, and asking those that differ (protocol P6.2).

The hash that is expected of a node is kept in memory, with the revision of the node's row that it is of: one query
tells of a thousand nodes which hashes are still right, so a nodestatus costs next to nothing while nothing changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from cloud.delivering import Delivery
from cloud.selection import Selection
from cloud.stores import desired, syncing
from cloud.stores.assigning import assign_nodes
from cloud.stores.base import Store
from cloud.stores.syncing import Expected
from common.clock import Clock
from common.errors import QueueFullError, RefusedError, StorageError, TransportError
from common.message import EDGECONTROLLER, ERROR, QUERY, RESOURCE_GROUP, Message, new
from common.messaging.base import MessageLayer
from common.resource import DEFAULT_NAMESPACE, RULE, build_resource
from common.rulesync import ITEMS_MAX, NO_RULES, SyncedObject, rules_version
from common.tasks import Tasks

log = logging.getLogger(__name__)

NODES_MAX = 100_000  # nodes of which something is remembered here
HEARD_AT_ONCE = 1024  # nodes that are compared in one query
QUERY_BACKOFF_S = 10.0  # between two queries of one node; doubles while its hash stays wrong
QUERY_BACKOFF_S_MAX = 300.0


class Chosen:
    """The Selection as of the last time that somebody read it, for the next one who does."""

    selection: Selection | None = None


class _Heard(NamedTuple):
    rules_version: str
    born: bool
    at: float  # unix seconds


class _Peer(msgspec.Struct):
    """What is remembered of a node: the hash expected of it, and when it may be asked again (monotonic seconds)."""

    expected: Expected | None = None
    asked: str = ""  # id of the query that is open
    pages: list[SyncedObject] = []  # what came of its list so far
    listing: str = ""  # the hash that its pages name
    asked_at: float = 0.0  # unix seconds
    next_at: float = 0.0
    backoff_s: float = 0.0


class Comparison:
    """Takes the hashes that nodes send, and brings those right that differ.

    ``counts`` tells what was done, for the owner's statistics.
    """

    def __init__(self, layer: MessageLayer, store: Store, clock: Clock, delivery: Delivery, chosen: Chosen) -> None:
        self._layer, self._store, self._clock, self._delivery = layer, store, clock, delivery
        self._chosen = chosen
        self._peers: dict[str, _Peer] = {}
        self._heard: dict[str, _Heard] = {}
        self._hearing = asyncio.Event()
        names = (
            "compared",
            "queries",
            "lists",
            "lists_ignored",
            "lists_unreadable",
            "lists_changed",
            "settled",
            "nodes_assigned",
            "heard_overflow",
        )
        self.counts = dict.fromkeys(names, 0)

    def start(self, tasks: Tasks) -> None:
        """Run among the owner's tasks."""
        tasks.start("compare", self._run)

    def heard(self, node: str, rules_version: str, *, born: bool) -> None:
        """Compare the hash of a node soon. A birth asks at once, whatever was asked before. Never waits."""
        before = self._heard.get(node)
        if before is None and len(self._heard) >= NODES_MAX:
            self.counts["heard_overflow"] += 1  # its next nodestatus says the same
            return
        self._heard[node] = _Heard(rules_version, born or (before is not None and before.born), self._clock.time())
        self._hearing.set()

    async def _run(self) -> None:
        while True:
            await self._hearing.wait()
            self._hearing.clear()
            while self._heard:
                some = {node: self._heard.pop(node) for node in list(self._heard)[:HEARD_AT_ONCE]}
                try:
                    await self._compare(some)
                except (StorageError, QueueFullError) as exc:  # the next nodestatus brings them again
                    log.warning("the rules of %d nodes were not compared: %s", len(some), exc)

    async def _compare(self, heard: Mapping[str, _Heard]) -> None:
        seen = await self._store.read(lambda conn: syncing.views(conn, heard.keys()))
        fresh = {node: view.labels for node, view in seen.items() if view.labels is not None and not view.retired}
        if fresh:
            await self._assign(fresh)
            seen = await self._store.read(lambda conn: syncing.views(conn, heard.keys()))
        seen = {node: view for node, view in seen.items() if view.online and not view.retired}
        stale = {node: view.revision for node, view in seen.items() if self._is_stale(node, view.revision)}
        if stale:
            if len(self._peers) + len(stale) > NODES_MAX:
                self._peers.clear()
                stale = {node: view.revision for node, view in seen.items()}
            for node, expected in (await self._store.read(lambda conn: syncing.expected(conn, stale))).items():
                self._peers.setdefault(node, _Peer()).expected = expected
        await self._judge({node: heard[node] for node in seen})

    def _is_stale(self, node: str, revision: int) -> bool:
        peer = self._peers.get(node)
        return peer is None or peer.expected is None or peer.expected.revision != revision

    async def _assign(self, fresh: Mapping[str, Mapping[str, str]]) -> None:
        """Choose the rules of nodes that are new, or have new labels."""
        at, known = self._clock.time(), self._chosen.selection

        def work(conn: Connection) -> Selection:
            desired.lock(conn)
            selection = desired.read_selection(conn, known)
            assign_nodes(conn, fresh, selection, at)
            return selection

        self._chosen.selection = await self._store.write(work)
        self.counts["nodes_assigned"] += len(fresh)

    async def _judge(self, heard: Mapping[str, _Heard]) -> None:
        right: dict[str, int] = {}
        differ = []
        for node, said in heard.items():
            peer = self._peers.get(node)
            if peer is None or peer.expected is None:
                continue
            if said.rules_version != peer.expected.rules_version:
                differ.append(self._differs(node, peer, said))
                continue
            peer.next_at, peer.backoff_s, peer.asked = 0.0, 0.0, ""
            if peer.expected.waiting:
                right[node] = peer.expected.revision
        self.counts["compared"] += len(heard)
        await asyncio.gather(*differ)
        if right:
            at = self._clock.time()
            self.counts["settled"] += await self._store.write(lambda conn: syncing.settle(conn, right, at))
            self._nothing_waits(right)

    def _nothing_waits(self, at: Mapping[str, int]) -> None:
        """Remember that rows of these nodes are settled, where nothing has changed since these revisions."""
        for node, revision in at.items():
            peer = self._peers.get(node)
            if peer is not None and peer.expected is not None and peer.expected.revision == revision:
                peer.expected = peer.expected._replace(waiting=False)

    async def _differs(self, node: str, peer: _Peer, said: _Heard) -> None:
        now = self._clock.monotonic()
        if now < peer.next_at and not said.born:
            return
        peer.backoff_s = min(max(2 * peer.backoff_s, QUERY_BACKOFF_S), QUERY_BACKOFF_S_MAX)
        peer.next_at = now + peer.backoff_s
        if said.rules_version == NO_RULES:  # its list is empty: no need to ask
            await self._listed(node, [], said.at if said.born else 0.0)
            return
        peer.asked_at, peer.pages, peer.listing = self._clock.time(), [], ""
        await self._ask(node, peer)

    async def _ask(self, node: str, peer: _Peer) -> None:
        """Ask for the list, or for what follows the pages that came."""
        last = peer.pages[-1] if peer.pages else None
        query = new(
            source=EDGECONTROLLER,
            group=RESOURCE_GROUP,
            operation=QUERY,
            resource=build_resource(node, DEFAULT_NAMESPACE, RULE),
            content={"after": [last.kind, last.namespace, last.name]} if last is not None else None,
        )
        peer.asked = query.header.msg_id
        try:
            await self._layer.send(query)  # QoS 1 as the rules: so it comes after those that were sent before it
            self.counts["queries"] += 1
        except (TransportError, RefusedError) as exc:
            log.debug("node %s was not asked for its rules: %s", node, exc)

    async def take_list(self, node: str, message: Message[Any]) -> None:
        """Take the answer to a query of this controller's; others' and late ones are passed over, and counted."""
        peer = self._peers.get(node)
        if peer is None or not peer.asked or message.header.parent_msg_id != peer.asked:
            self.counts["lists_ignored"] += 1
            return
        peer.asked = ""
        try:
            if message.route.operation == ERROR:
                raise msgspec.ValidationError(f"it answers {str(message.content)[:256]}")
            page = msgspec.convert(message.content, list[SyncedObject])
            if len(peer.pages) + len(page) > ITEMS_MAX:
                raise msgspec.ValidationError(f"more than {ITEMS_MAX} items")
        except msgspec.ValidationError as exc:
            self.counts["lists_unreadable"] += 1
            log.warning("node %s does not say which rules it has: %s", node, exc)
            return
        listing = message.header.resourceversion
        peer.pages = [*peer.pages, *page]
        if not listing or listing == rules_version(peer.pages):
            items, peer.pages = peer.pages, []
            await self._listed(node, items, peer.asked_at)
        elif page and peer.listing in ("", listing):
            peer.listing = listing
            await self._ask(node, peer)
        else:  # it changed meanwhile: the next nodestatus has it compared again
            self.counts["lists_changed"] += 1

    async def _listed(self, node: str, items: Sequence[SyncedObject], since: float) -> None:
        """Take a list; what was sent before ``since`` (unix seconds) and is not in it was lost."""
        at, known = self._clock.time(), self._chosen.selection
        foreign = await self._store.write(
            lambda conn: syncing.take_list(conn, node, items, desired.read_selection(conn, known), at, since)
        )
        self.counts["lists"] += 1
        self._delivery.wake([node], foreign)
