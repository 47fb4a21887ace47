"""Dispatch of what comes up: one table, one worker loop, a bounded queue per row (protocol P7.1).

A slow or stuck handler fills only its own queue; what does not fit is discarded and counted, and whoever needs it
sends it again (P5.5). The table can be extended through the entry-point group ``fieldpost.handlers`` without touching
this file: an entry point names a function that takes the ``Handlers`` and returns more rows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import msgspec

from cloud.handlers import Handlers
from cloud.settings import QueueSettings
from common.errors import ConfigError, QueueFullError, RefusedError, ResourceError, StorageError
from common.message import ERROR, INSERT, PATCH, QUERY, RESPONSE, UPDATE, Message
from common.messaging.base import MessageLayer
from common.resource import LOSSRECORD, NODE, NODESTATUS, RULE, RULEENDPOINT, RULESTATUS
from common.tasks import Tasks

log = logging.getLogger(__name__)

HANDLER_GROUP = "fieldpost.handlers"
ANY_TYPE = "*"  # a row for an operation on every type that has no row of its own
SMALL_BATCH = 256  # births or statistics that share one transaction when a thousand nodes come back at once
LIGHT_RESULTS = 512  # a batch of less waits while another is in the store
BATCH_RESULTS_MAX = 16_384  # at which a batch ends; what it holds is memory until its commit
CONTROLLER = "controller"  # resource type of a controller's presence
RESULT_BYTES = 512  # of a usual result; a queue of N results holds at most about N times as many bytes
_PACKED = msgspec.msgpack.Encoder()  # its size comes closest to what the values need

Handler = Callable[[Sequence[Message[Any]]], Awaitable[None]]
Pair = tuple[str, str]  # resource type, operation


class Route(NamedTuple):
    """A row of the table. Pairs that share a ``name`` share queue and workers; their rows must be equal."""

    name: str
    handler: Handler
    queue_bound: int = 1024  # what waits or is handled, in messages or as ``weigh`` says; more is discarded, counted
    workers: int = 1
    batch_max: int = 1  # messages that the handler takes at once, of those that wait
    weigh: Callable[[Message[Any]], int] = lambda message: 1
    note: Callable[[Message[Any]], None] | None = None  # called in the order in which messages come, when one is queued
    done: Callable[[Message[Any]], None] | None = None  # called for each after the handler, whatever became of it
    light: int = 0  # weight below which what waits gathers while the handler has a batch
    weight_max: int = 0  # weight at which a batch ends; 0: none


def routes(handlers: Handlers, queues: QueueSettings) -> dict[Pair, Route]:
    """The table: (resource type, operation) -> handler and its bounds (P7.2)."""
    rulestatus = Route(
        "rulestatus",
        handlers.update_rule_status,
        queues.rulestatus_results_max,
        queues.rulestatus_workers,
        queues.rulestatus_batch_max,
        _weigh_results,
        handlers.sessions.note_message,
        light=LIGHT_RESULTS,
        weight_max=BATCH_RESULTS_MAX,
    )
    replies = Route("replies", handlers.take_reply, queues.replies_max, batch_max=SMALL_BATCH)
    queries = Route("queries", handlers.query_rules, queues.queries_max)
    return {
        (RULESTATUS, INSERT): rulestatus,
        (RULESTATUS, UPDATE): rulestatus,
        (RULESTATUS, PATCH): rulestatus,
        (LOSSRECORD, INSERT): rulestatus,  # one order, one progress (P5.8)
        (NODE, UPDATE): Route(
            "node",
            handlers.update_node,
            queues.presence_max,
            batch_max=SMALL_BATCH,
            note=handlers.sessions.note_birth,
            done=handlers.sessions.birth_done,
        ),
        (NODESTATUS, UPDATE): Route(
            "nodestatus", handlers.update_node_status, queues.nodestatus_max, batch_max=SMALL_BATCH
        ),
        (CONTROLLER, UPDATE): Route("controller", handlers.update_controller, queues.presence_max),
        (RULE, QUERY): queries,
        (RULEENDPOINT, QUERY): queries,
        (ANY_TYPE, RESPONSE): replies,
        (ANY_TYPE, ERROR): replies,
    }


def _weigh_results(message: Message[Any]) -> int:
    """Memory of a rulestatus message in results: those it holds, and about four for the message itself.

    Few but large ones weigh as many as would fit into their bytes: a hostile node cannot fill the memory with them.
    """
    results = len(message.content) if isinstance(message.content, list) else 1
    return 4 + max(results, len(_PACKED.encode(message.content)) // RESULT_BYTES)


def extended(
    table: Mapping[Pair, Route], handlers: Handlers, points: Iterable[EntryPoint] | None = None
) -> dict[Pair, Route]:
    """Return the table with the rows of all installed entry points. Raises ConfigError for one that cannot be used."""
    found = dict(table)
    for point in entry_points(group=HANDLER_GROUP) if points is None else points:
        try:
            more = point.load()(handlers)
            rows = [((str(kind), str(operation)), Route(*route)) for (kind, operation), route in more.items()]
        except Exception as exc:  # foreign code: whatever is wrong with it is one clear line
            raise ConfigError(f"handler {point.name} ({point.value}) cannot be loaded: {exc}") from exc
        names = {route.name for route in found.values()}
        for pair, route in rows:
            if pair in found or route.name in names:
                raise ConfigError(f"handler {point.name} ({point.value}) claims {pair} or {route.name}, which is taken")
            found[pair] = route
    return found


class _Lane:
    """The queue, workers' share and counters of one route.

    A light batch waits while the handler has another one, and grows: a commit costs as much as a hundred results,
    however few it holds, and a broker hands a window of small messages over in many small reads.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self.queue: deque[tuple[int, Message[Any]]] = deque()
        self.weight = self.in_hand = 0  # of what waits, and of what the handler has
        self.handled = self.failed = self.overflow = 0
        self._changed = asyncio.Event()

    def put(self, message: Message[Any]) -> None:
        """Queue a message, or count it as overflow. One alone always fits, whatever it weighs."""
        weight, held = self.route.weigh(message), self.weight + self.in_hand
        if held and held + weight > self.route.queue_bound:
            self.overflow += 1
            return
        if self.route.note is not None:
            self.route.note(message)
        self.weight += weight
        self.queue.append((weight, message))
        self._changed.set()

    async def take(self) -> tuple[int, list[Message[Any]]]:
        """Wait until a batch is due; return its weight, for ``done``, and its messages."""
        while not self.queue or (self.in_hand and self.weight < self.route.light):
            self._changed.clear()
            await self._changed.wait()
        route, weight, batch = self.route, 0, list[Message[Any]]()
        while self.queue and len(batch) < route.batch_max and (not route.weight_max or weight < route.weight_max):
            each, message = self.queue.popleft()
            weight += each
            batch.append(message)
        self.weight -= weight
        self.in_hand += weight
        return weight, batch

    def done(self, weight: int, batch: Sequence[Message[Any]]) -> None:
        """Say that a batch was handled, refused or given up."""
        self.in_hand -= weight
        self._changed.set()
        if self.route.done is not None:
            for message in batch:
                self.route.done(message)


class UpstreamController:
    """Takes messages from the layer and hands each to the workers of its row.

    Arguments: ``layer`` to receive from; ``table`` of rows; ``handlers`` for what no row takes. Runs from ``start`` to
    ``stop``; what waits at ``stop`` is forgotten, as it was never confirmed.
    """

    def __init__(self, layer: MessageLayer, table: Mapping[Pair, Route], handlers: Handlers) -> None:
        self._layer, self._refusals = layer, handlers.refusals
        self._lanes: dict[str, _Lane] = {}
        self._table: dict[Pair, _Lane] = {}
        for pair, route in table.items():
            lane = self._table[pair] = self._lanes.setdefault(route.name, _Lane(route))
            if lane.route != route:
                raise ValueError(f"rows named {route.name} differ: they share one queue")
        self._tasks = Tasks("upstream")
        self._unknown = 0

    def start(self) -> None:
        """Begin to receive and dispatch."""
        for lane in self._lanes.values():
            for number in range(lane.route.workers):
                self._tasks.start(f"{lane.route.name}-{number}", lambda lane=lane: self._work(lane))  # type: ignore[misc]
        self._refusals.start(self._tasks)
        self._tasks.start("receive", self._receive)

    async def stop(self) -> None:
        """Stop all workers; an operation that they gave to the store may still be committed."""
        await self._tasks.stop()

    async def _receive(self) -> None:
        while True:
            self.dispatch_message(await self._layer.receive())

    def dispatch_message(self, message: Message[Any]) -> None:
        """Queue one message for its handler. Never waits and never raises: overflow is counted, an unknown pair is
        answered with an error and kept as dead letter."""
        operation = message.route.operation
        try:
            kind = message.parsed_resource().type
        except ResourceError as exc:
            self._refusals.message(message, exc)
            return
        lane = self._table.get((kind, operation)) or self._table.get((ANY_TYPE, operation))
        if lane is None:
            self._unknown += 1
            error = RefusedError("unknown_type", f"nothing here takes {operation or '(none)'} of {kind}")
            self._refusals.message(message, error)
            return
        lane.put(message)

    async def _work(self, lane: _Lane) -> None:
        route = lane.route
        while True:
            weight, batch = await lane.take()
            try:
                await route.handler(batch)
                lane.handled += len(batch)
            except (StorageError, QueueFullError) as exc:  # not the messages' fault: their senders send again
                lane.failed += len(batch)
                log.warning("%s: %d messages were not handled: %s", route.name, len(batch), exc)
            except Exception as exc:
                lane.failed += len(batch)
                log.exception("%s: the handler failed on %d messages", route.name, len(batch))
                error = RefusedError("handler_failed", f"{route.name}: {type(exc).__name__}: {exc}")
                for message in batch:
                    self._refusals.message(message, error, answer=False)
            finally:
                lane.done(weight, batch)

    async def redrive(self, message: Message[Any]) -> None:
        """Give one message to its row's handler now, beside the queue. Raises RefusedError when no row takes it."""
        kind, operation = message.parsed_resource().type, message.route.operation
        lane = self._table.get((kind, operation)) or self._table.get((ANY_TYPE, operation))
        if lane is None:
            raise RefusedError("unknown_type", f"nothing here takes {operation or '(none)'} of {kind}")
        if lane.route.note is not None:
            lane.route.note(message)
        try:
            await lane.route.handler([message])
        finally:
            if lane.route.done is not None:
                lane.route.done(message)

    def statistics(self) -> dict[str, int]:
        """Per row: handled, failed, overflow (counters) and queued (gauge); and what no row takes."""
        found = {"unknown": self._unknown, "restarts": self._tasks.restarts}
        for name, lane in self._lanes.items():
            found |= {
                f"{name}_handled": lane.handled,
                f"{name}_failed": lane.failed,
                f"{name}_overflow": lane.overflow,
                f"{name}_queued": len(lane.queue),
            }
        return found
