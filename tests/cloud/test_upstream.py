"""Dispatch: one table, isolation, counted overflow, foreign handlers (P7.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from cloud.downstream import DownstreamController
from cloud.handlers import CONTENT_TYPES, Handlers
from cloud.refusals import Refusals
from cloud.sessions import Sessions
from cloud.settings import CloudSettings, QueueSettings
from cloud.upstream import RESULT_BYTES, Pair, Route, UpstreamController, extended, routes
from common.clock import SystemClock
from common.errors import ConfigError
from common.message import Message, new
from common.messaging.memory import MemoryHub, MemoryLayer
from tests.cloud.node import ROOT, Node, node_on
from tests.cloud.samples import bad, ok, open_store, totals
from tests.support.wait import eventually


class Parts:
    """Handlers over a store and a hub, for a table of the test's own."""

    def __init__(self, hub: MemoryHub, store: Any) -> None:
        self.store = store
        self.layer = MemoryLayer(
            hub, root=ROOT, side="cloud", source="edgecontroller", group="resource", content_types=CONTENT_TYPES
        )
        clock, settings = SystemClock(), CloudSettings()
        sessions = Sessions(store, clock, 60, lambda: True)
        self.handlers = Handlers(
            self.layer,
            store,
            sessions,
            Refusals(self.layer, store, clock, settings, ROOT),
            clock,
            DownstreamController(self.layer, store, clock),
        )
        self.table = routes(self.handlers, QueueSettings())


@asynccontextmanager
async def dispatching(tmp_path: Path, more: dict[Pair, Route]) -> AsyncIterator[tuple[UpstreamController, Parts, Node]]:
    """An upstream controller with the usual table and ``more`` rows, and a node."""
    hub = MemoryHub()
    async with open_store(tmp_path) as store:
        parts = Parts(hub, store)
        upstream = UpstreamController(parts.layer, parts.table | more, parts.handlers)
        upstream.start()
        await parts.layer.start()
        async with node_on(hub) as node:
            yield upstream, parts, node
        await parts.layer.stop()
        await upstream.stop()


def message(kind: str, operation: str = "update", content: Any = None) -> Message[Any]:
    """A message of any type from edge-1."""
    resource = f"node/edge-1/default/{kind}/x"
    return new(source="router", group="resource", operation=operation, resource=resource, content=content)


async def test_a_stuck_handler_delays_no_other_type(tmp_path: Path) -> None:
    """With one type stuck for ever and its queue over full, the others go on; overflow is discarded and counted."""
    never = asyncio.Event()

    async def stuck(messages: Sequence[Message[Any]]) -> None:
        await never.wait()

    more = {("podstatus", "update"): Route("podstatus", stuck, queue_bound=4)}
    async with dispatching(tmp_path, more) as (upstream, parts, node):
        for _ in range(20):
            await node.layer.send(message("podstatus"))
        await node.results(1, ok())
        await eventually(lambda: node.confirmations())
        assert await totals(parts.store) == (1, 0)
        found = upstream.statistics()
        assert found["podstatus_queued"] == 3
        assert found["podstatus_overflow"] == 16
        assert found["rulestatus_handled"] == 1


async def test_a_failing_handler_is_counted_and_goes_on(tmp_path: Path) -> None:
    """What a handler raises is counted, its message is a dead letter, the worker takes the next one."""
    seen: list[str] = []

    async def fails_once(messages: Sequence[Message[Any]]) -> None:
        seen.append(messages[0].header.msg_id)
        if len(seen) == 1:
            raise ZeroDivisionError("no luck")

    more = {("podstatus", "update"): Route("podstatus", fails_once)}
    async with dispatching(tmp_path, more) as (upstream, parts, node):
        await node.layer.send(message("podstatus"))
        await node.layer.send(message("podstatus"))
        await eventually(lambda: upstream.statistics()["podstatus_handled"] == 1)
        (letter,) = await eventually(lambda: parts.store.dead_letters())
        assert letter.reason == "handler_failed"
        assert "ZeroDivisionError: no luck" in letter.detail
        assert seen[0].encode() in letter.payload
        assert upstream.statistics()["podstatus_failed"] == 1


async def test_an_unknown_pair_is_answered_counted_and_kept(tmp_path: Path) -> None:
    """A type, or an operation on a known type, that no row takes: error, count, dead letter."""
    async with dispatching(tmp_path, {}) as (upstream, parts, node):
        await node.layer.send(message("secret", "query"))
        await node.layer.send(message("rulestatus", "delete", ok("x")))
        await eventually(lambda: len(node.errors()) == 2)
        assert {each.reason for each in node.errors()} == {"unknown_type"}
        assert "query of secret" in node.errors()[0].detail
        assert upstream.statistics()["unknown"] == 2
        await eventually(lambda: _has(parts, 2))


async def test_the_rulestatus_queue_is_bounded_in_results(tmp_path: Path) -> None:
    """Large messages fill the queue as the memory they take; one alone always fits, whatever it weighs."""
    never = asyncio.Event()

    async def stuck(messages: Sequence[Message[Any]]) -> None:
        await never.wait()

    usual = routes(Parts(MemoryHub(), None).handlers, QueueSettings(rulestatus_results_max=500, rulestatus_workers=1))
    row = usual["rulestatus", "update"]._replace(name="held", handler=stuck, batch_max=1)
    async with dispatching(tmp_path, {("rulestatus", "update"): row}) as (upstream, _, node):
        for sequence in range(1, 11):
            await node.results(sequence, [ok()] * 100)
            await asyncio.sleep(0)
        await eventually(lambda: upstream.statistics()["held_overflow"] == 6)
        assert upstream.statistics()["held_queued"] == 3  # and one is in the handler's hands


async def test_few_large_results_fill_the_queue_too(tmp_path: Path) -> None:
    """R3, hostile node: one result with 100 KB of detail weighs as two hundred; overflow is counted."""
    never = asyncio.Event()

    async def stuck(messages: Sequence[Message[Any]]) -> None:
        await never.wait()

    usual = routes(Parts(MemoryHub(), None).handlers, QueueSettings(rulestatus_results_max=1000, rulestatus_workers=1))
    row = usual["rulestatus", "update"]._replace(name="held", handler=stuck, batch_max=1)
    async with dispatching(tmp_path, {("rulestatus", "update"): row}) as (upstream, _, node):
        for sequence in range(1, 21):
            await node.results(sequence, bad(detail="x" * 100_000))
            await asyncio.sleep(0)
        await eventually(lambda: sum(upstream.statistics()[f"held_{name}"] for name in ("overflow", "queued")) == 19)
        assert upstream.statistics()["held_queued"] == 1000 // (4 + 100_000 // RESULT_BYTES) - 1


async def test_messages_that_wait_are_taken_in_batches_in_order(tmp_path: Path) -> None:
    """A worker takes what waits, at most the row's batch, in the order in which it came."""
    gate, sizes, order = asyncio.Event(), list[int](), list[str]()

    async def slow(messages: Sequence[Message[Any]]) -> None:
        sizes.append(len(messages))
        order.extend(each.header.msg_id for each in messages)
        await gate.wait()

    more = {("podstatus", "update"): Route("podstatus", slow, batch_max=8)}
    async with dispatching(tmp_path, more) as (upstream, _, node):
        sent = [message("podstatus") for _ in range(20)]
        await node.layer.send(sent[0])
        await eventually(lambda: sizes == [1])
        for each in sent[1:]:
            await node.layer.send(each)
        await eventually(lambda: upstream.statistics()["podstatus_queued"] == 19)
        gate.set()
        await eventually(lambda: upstream.statistics()["podstatus_handled"] == 20)
        assert sizes == [1, 8, 8, 3]
        assert order == [each.header.msg_id for each in sent]


async def send_and_wait(upstream: UpstreamController, node: Node, count: int, *, queued: int) -> None:
    """Send ``count`` messages of podstatus, and wait until ``queued`` are left for the handler."""
    for _ in range(count):
        await node.layer.send(message("podstatus"))
    await eventually(lambda: upstream.statistics()["podstatus_queued"] == queued)


async def test_light_batches_follow_each_other_and_heavy_ones_go_beside(tmp_path: Path) -> None:
    """While the handler has a batch, what is light gathers, though a worker is free; what is heavy goes at once."""
    gate, sizes = asyncio.Event(), list[int]()

    async def slow(messages: Sequence[Message[Any]]) -> None:
        sizes.append(len(messages))
        await gate.wait()

    row = Route("podstatus", slow, workers=2, batch_max=100, light=10, weight_max=12)
    async with dispatching(tmp_path, {("podstatus", "update"): row}) as (upstream, _, node):
        await send_and_wait(upstream, node, 1, queued=0)
        await eventually(lambda: sizes == [1])
        await send_and_wait(upstream, node, 9, queued=9)
        assert sizes == [1]
        await send_and_wait(upstream, node, 1, queued=0)
        await eventually(lambda: sizes == [1, 10])
        await send_and_wait(upstream, node, 20, queued=20)
        gate.set()
        await eventually(lambda: upstream.statistics()["podstatus_handled"] == 31)
        assert sizes == [1, 10, 12, 8]


def extra_routes(handlers: Handlers) -> dict[Pair, Route]:
    """What an installed package would name in the group ``fieldpost.handlers``."""
    return {("podstatus", "update"): Route("podstatus", handlers.take_reply)}


def taken_routes(handlers: Handlers) -> dict[Pair, Route]:
    """A package that claims what is not its own."""
    return {("rulestatus", "update"): Route("mine", handlers.take_reply)}


async def test_an_entry_point_adds_a_row(tmp_path: Path) -> None:
    """A row comes in through fieldpost.handlers without a change to the table's file; its messages are handled."""
    async with open_store(tmp_path) as store:
        parts = Parts(MemoryHub(), store)
        found = extended(parts.table, parts.handlers, [_point("tests.cloud.test_upstream:extra_routes")])
        assert found["podstatus", "update"].handler == parts.handlers.take_reply
        assert set(found) - set(parts.table) == {("podstatus", "update")}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("tests.cloud.test_upstream:taken_routes", "which is taken"),
        ("tests.cloud.test_upstream:nothing_here", "cannot be loaded"),
        ("no.such.module:routes", "cannot be loaded"),
    ],
)
async def test_an_entry_point_that_cannot_be_used_is_one_clear_error(tmp_path: Path, value: str, text: str) -> None:
    """A package that is broken or claims a taken row is a ConfigError that names it."""
    async with open_store(tmp_path) as store:
        parts = Parts(MemoryHub(), store)
        with pytest.raises(ConfigError, match=text):
            extended(parts.table, parts.handlers, [_point(value)])


def _point(value: str) -> EntryPoint:
    return EntryPoint("extra", value, "fieldpost.handlers")


async def _has(parts: Parts, letters: int) -> bool:
    return len(await parts.store.dead_letters()) == letters
