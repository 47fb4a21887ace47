"""A fleet of nodes in one process: what a controller sees of them is what it sees of as many agents.

Each node has an MQTT connection of its own and the product's Spool, Uplink, Status, Presence and MqttLayer; only the
spool's file is SQLite in memory and its writer runs on the loop, because a thousand threads and files would measure
themselves. ``_connected``, ``_take`` and ``_report`` do what the agent's own do.

Run as a program it is the load process of a benchmark: ``python -m tests.support.fleet URL PROTOCOL NODES BATCH
NODESTATUS_S`` takes a command a line (JSON: a name and its arguments) and answers each with a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from common.errors import QueueFullError, TransportError
from common.message import ERROR, RESOURCE_GROUP, RESPONSE, ROUTER, UPDATE, Message, new
from common.messaging.announcing import Announcing
from common.messaging.mqtt import MqttLayer
from common.messaging.transport import MqttLink
from common.models import DELIVERED, FAILED, Confirmation, ControllerPresence, NodeStatus, Refusal
from common.resource import DEFAULT_NAMESPACE, NODESTATUS, RULESTATUS, build_resource
from common.settings import BrokerSettings
from common.tasks import Tasks
from common.version import VERSION
from edge.presence import Presence
from edge.settings import SpoolSettings, UplinkSettings
from edge.spool import Spool
from edge.spooldb import PAGE_BYTES, SpoolDb
from edge.spooltables import SCHEMA, State
from edge.status import Ending, RuleRef, Status
from edge.uplink import Uplink
from tests.support.wait import eventually

ROOT = "fieldpost"
FAILING_EVERY = 10  # one result in ten fails, with a detail
FAILING = Ending(FAILED, "target_status_500", "the target answered 500 Internal Server Error", "target")
OK = Ending(DELIVERED)
LOOK_RESULTS = 512  # made between two looks at what is confirmed, which costs a walk over the nodes


class MemoryDb(SpoolDb):
    """The spool's own statements over a database in memory. It is opened once."""

    def open(self) -> State:
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        self._db.executescript(SCHEMA)
        return self._own(self._db)

    @property
    def last_epoch(self) -> int:
        return 0

    def remember_epoch(self, n: int) -> None: ...


class LoopWriter:
    """A GroupWriter without a thread: what was queued in one turn of the loop is one group, committed in the next."""

    def __init__(
        self,
        name: str,
        commit: Callable[[list[Any]], Any],
        done: Callable[[Any], None],
        failed: Callable[[list[Any], BaseException], None],
        *,
        queue_max: int,
    ) -> None:
        self._name, self._commit, self._done, self._failed = name, commit, done, failed
        self._queue_max = queue_max
        self._queue: list[Any] = []

    def start(self) -> None: ...

    async def stop(self) -> None:
        while self._queue:
            await asyncio.sleep(0)

    def submit(self, op: Any, /) -> None:
        if len(self._queue) >= self._queue_max:
            raise QueueFullError(self._name, self._queue_max)
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._run)
        self._queue.append(op)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def _run(self) -> None:
        group, self._queue = self._queue, []
        try:
            outcome = self._commit(group)
        except Exception as exc:
            self._failed(group, exc)
            raise
        self._done(outcome)


class Node:
    """One node of the fleet. ``made`` counts its results."""

    def __init__(self, name: str, broker: BrokerSettings, window: UplinkSettings, rng: random.Random) -> None:
        self.name, self.made = name, 0
        self.spool = Spool(
            Path("-"),
            name,
            ROOT,
            on_frozen=lambda frozen: self.uplink.add(frozen),
            on_fatal=lambda exc: None,  # raised by the writer
            settings=SpoolSettings(),
            window=window,
            db=MemoryDb(Path("-"), name, ROOT),
            writer=LoopWriter,
        )
        self.status = Status(self.spool)
        self._presence = Presence(ROOT, name, self.spool, lambda: {"version": VERSION})
        self.link = MqttLink(broker, name, will=self._presence.will, rng=rng)
        self.layer = MqttLayer(self.link, root=ROOT, side="edge", node=name, source=ROUTER, group=RESOURCE_GROUP)
        self.uplink = Uplink(self.link, self.spool.confirm, self.spool.void, self.spool.split, settings=window, rng=rng)
        self._window = window
        self._due = asyncio.Event()
        self._tasks = Tasks(name)
        self._announcing = Announcing(self._say_again)

    async def start(self) -> None:
        """Begin to connect."""
        left, _ = self.spool.open()
        self.uplink.add(left)
        self.link.on_connect = self._connected
        await self.layer.start()
        self._tasks.start("receive", self._receive)
        self._tasks.start("announce", self._announcing.run)
        self._tasks.start("resend", self.uplink.run)
        self._tasks.start("nodestatus", self._report)

    async def stop(self) -> None:
        """Say goodbye and disconnect."""
        await self._tasks.stop()
        await self.spool.stop()
        if self.link.connected:
            self._presence.goodbye(self.link)
        await self.layer.stop()

    @property
    def confirmed(self) -> int:
        """Results that the cloud has confirmed."""
        return self.spool.stats.confirmed

    def make(self, count: int, rules: Iterable[RuleRef]) -> None:
        """Make so many results at once, of ``rules`` in turn."""
        for rule in itertools.islice(itertools.cycle(rules), count):
            ending = OK if self.made % FAILING_EVERY else FAILING
            source = f"{self.made:08d}-0000-7000-8000-000000000000"
            self.status.record(rule, ending, source_id=source, duration_us=self.made % 1000)
            self.made += 1

    def _connected(self) -> None:
        self.spool.limit(self.link.payload_bytes_max)
        self._presence.birth(self.link)
        self._due.set()
        self.uplink.connected()
        self._announcing.connected()

    def _say_again(self) -> None:
        if self.link.connected:
            self._presence.birth(self.link)

    async def _receive(self) -> None:
        while True:
            self._take(await self.layer.receive())

    def _take(self, message: Message[Any]) -> None:
        told, content = (message.route.operation, message.parsed_resource().type), message.content
        if told == (RESPONSE, RULESTATUS):
            self.uplink.confirmed(msgspec.convert(content, Confirmation))
        elif told == (ERROR, RULESTATUS):
            self.uplink.refused(message.header.parent_msg_id, msgspec.convert(content, Refusal))
        elif isinstance(content, ControllerPresence) and self.uplink.controller(
            content.controller, content.online and not content.standby
        ):
            self._due.set()

    async def _report(self) -> None:
        resource = build_resource(self.name, DEFAULT_NAMESPACE, NODESTATUS, self.name)
        route = {"source": ROUTER, "group": RESOURCE_GROUP, "operation": UPDATE, "resource": resource}
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._window.nodestatus_s):
                    await self._due.wait()
            self._due.clear()
            stats = self.spool.stats
            status = NodeStatus(
                epoch=str(stats.epoch),
                accepted=stats.accepted,
                confirmed=stats.confirmed,
                pending_results=stats.pending,
                pending_messages=stats.window_messages,
            )
            with contextlib.suppress(TransportError):
                await self.layer.send(new(content=status, **route), qos=0)


class Fleet:
    """Nodes ``n0`` to ``n<count - 1>`` at one broker.

    Arguments: ``batch`` is the most results in one message; ``nodestatus_s`` seconds between two statistics messages of
    a node; ``seed`` of all jitter.
    """

    def __init__(
        self, broker: BrokerSettings, count: int, *, batch: int = 256, nodestatus_s: float = 15.0, seed: int = 0
    ) -> None:
        window = UplinkSettings(batch_results=batch, nodestatus_s=nodestatus_s)
        self.nodes = [Node(f"n{n}", broker, window, random.Random(seed + n)) for n in range(count)]

    async def start(self, timeout: float = 120) -> None:
        """Connect all at once; returns when each is connected and knows that a controller is there."""
        for node in self.nodes:
            await node.start()
        await eventually(lambda: self.ready == len(self.nodes), timeout, what="all nodes are connected")

    async def stop(self) -> None:
        """Stop all nodes."""
        await asyncio.gather(*(node.stop() for node in self.nodes))

    @property
    def ready(self) -> int:
        """Nodes that are connected and know of a controller."""
        return sum(node.link.connected and node.uplink.statistics()["controllers"] > 0 for node in self.nodes)

    @property
    def connected(self) -> int:
        """Nodes that are connected."""
        return sum(node.link.connected for node in self.nodes)

    @property
    def unconfirmed(self) -> int:
        """Results that were made and are not confirmed."""
        return sum(node.made - node.confirmed for node in self.nodes)

    async def make(self, each: int, *, rules: int, burst: int, waiting_max: int, rules_each: int = 0) -> None:
        """Let each node make ``each`` results, ``burst`` at a time in turn, of ``rules_each`` of ``rules`` rules.

        ``rules_each`` 0: every node runs every rule; else rules follow each other from node to node. While more than
        ``waiting_max`` results wait for a confirmation nothing is made.
        """
        refs = [RuleRef("default", f"rule-{n}", "1") for n in range(rules)]
        since = 0
        for first in range(0, each, burst):
            for at, node in enumerate(self.nodes):
                mine = [refs[(at * rules_each + n) % rules] for n in range(rules_each)] if rules_each else refs
                turn = (node.made // burst) % len(mine)
                count = min(burst, each - first)
                node.make(count, mine[turn:] + mine[:turn])
                since += count
                if since >= LOOK_RESULTS:
                    since = 0
                    await asyncio.sleep(0)
                    while self.unconfirmed > waiting_max:
                        await asyncio.sleep(0.001)

    async def settled(self, timeout: float = 300) -> None:
        """Wait until everything is confirmed."""
        await eventually(lambda: not self.unconfirmed, timeout, 0.005, "all results are confirmed")

    def statistics(self) -> dict[str, int]:
        """Sums over the nodes: of the uplinks' and the links' counters, and of results."""
        found: Counter[str] = Counter()
        for node in self.nodes:
            found.update(node.uplink.statistics())
            found.update({name: value for name, value in node.link.statistics().items() if name != "generation"})
            stats = node.spool.stats
            found.update(made=node.made, accepted=stats.accepted, results_confirmed=stats.confirmed)
            found.update(lost=stats.dropped + stats.dead + stats.set_aside)
        return dict(found)


async def serve(fleet: Fleet) -> None:
    """Do what standard input says until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        name, args = msgspec.json.decode(line)
        found = getattr(fleet, name)
        if callable(found):
            found = found(**args)
        sys.stdout.buffer.write(msgspec.json.encode(await found if asyncio.iscoroutine(found) else found) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    url_, protocol_, nodes_, batch_, nodestatus_s_ = sys.argv[1:]
    logging.disable()  # a thousand nodes that all say the same; the counters tell
    settings_ = BrokerSettings(url=url_, protocol=protocol_)  # type: ignore[arg-type]

    async def _main() -> None:
        await serve(Fleet(settings_, int(nodes_), batch=int(batch_), nodestatus_s=float(nodestatus_s_)))

    asyncio.run(_main())
