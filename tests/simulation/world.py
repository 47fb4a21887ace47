"""The scheduler: draws a run's shape from its seed, then takes one small step after another until all is settled.

Theory of operation. A run has a busy part and a calm part. In the busy part each step is one action, drawn by weights
that are themselves drawn from the seed, so that runs differ in kind: one has no faults but a tiny window, the next
kills everything all the time. In the calm part faults stop and everything must drain. Steps are noted in a trace.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

from common.clock import ManualClock
from common.errors import StorageError
from common.messaging.base import Inbound
from common.models import WINDOW
from common.topics import UP
from edge.committing import PAGES_SPARE
from edge.settings import SpoolSettings, UplinkSettings
from edge.spooldb import PAGE_BYTES
from tests.simulation.broker import Broker, SimLink
from tests.simulation.controller import NAME, Controller
from tests.simulation.disk import DISK_FAULTS, Crash
from tests.simulation.node import POINTS, Node
from tests.simulation.store import EPOCHS_SPARE, IN_MEMORY, STORE_FAULTS, SimStore
from tests.simulation.truth import Id, Violation, require

TRACE_STEPS = 60  # of the last steps, shown with a failure
CODEC_CHANGES = 0.1  # of the boots
CALM_ROUNDS_MAX = 300  # two virtual seconds each; more than the longest wait between two sends, several times
WEIGHTS = {
    "produce": 30, "burst": 2, "journal": 3, "finish": 3, "spool_commit": 30, "hand_over": 30, "to_broker": 50,
    "to_cloud": 50, "to_edge": 40, "puback": 15, "cloud_commit": 40, "birth": 15, "say": 40, "connect": 25, "wait": 8,
}  # fmt: skip
FAULTS = {
    "crash_edge": 2, "crash_cloud": 2, "disk_fault": 2, "store_fault": 2, "cut_edge": 2, "cut_cloud": 2,
    "point": 2, "restart_broker": 1, "wipe_broker": 1, "broker_back": 30, "partition": 1, "heal": 10, "discard": 1,
    "ghost": 10, "late_will": 5, "clock_jump": 0.5, "stop_edge": 0.5, "restarts": 0.5, "flap": 1, "quiet": 1,
    "stick": 0.5,
}  # fmt: skip


class SimulationError(AssertionError):
    """A run failed: its text holds the seed, the last steps, and the command that replays it."""

    def __init__(self, seed: int, cause: BaseException, trace: list[Step]) -> None:
        self.seed, self.cause = seed, cause
        steps = "\n".join(map(str, trace))
        super().__init__(
            f"seed {seed}: {type(cause).__name__}: {cause}\n{steps}\nreplay: python -m tests.simulation --seed {seed}"
        )


class Step(NamedTuple):
    """A step of the trace."""

    number: int
    at: float
    action: str
    facts: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.number:6d} {self.at:10.2f}s {self.action:14s} {' '.join(map(str, self.facts))}"


class Outcome(NamedTuple):
    """What a run did."""

    steps: int
    accepted: int
    epochs: int
    crashes: int
    refusals: int


class World:
    """One run. ``directory`` puts real SQLite files under spool and store; without it the spool's file is a model, and
    the store is in memory.
    """

    node_class: type[Node] = Node
    controller_class: type[Controller] = Controller

    def __init__(
        self, seed: int, *, directory: Path | None = None, quota: bool = True, trace_max: int | None = TRACE_STEPS
    ):
        self.seed, self._directory = seed, directory
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.trace: deque[Step] = deque(maxlen=trace_max)
        self._number = self.crashes = 0
        self._partitioned: set[str] = set()
        self._armed: tuple[str, bool] | None = None
        self.broker = Broker(self.rng, self._arrived)
        self._draw(quota)

    def _draw(self, quota: bool) -> None:
        rng = self.rng
        self.steps = rng.choice((100, 200, 400, 800))
        self.broker.drop, self.broker.double = rng.choice((0, 0, 0.02, 0.3)), rng.choice((0, 0, 0.05, 0.3))
        self.broker.overtake, self.broker.haunt = rng.choice((0, 0, 0.1, 0.7)), rng.choice((0, 0.05, 0.3))
        self.rules = [f"r{n}" for n in range(rng.choice((1, 2, 6)))]
        bytes_max = (PAGES_SPARE + rng.choice((22, 24, 30))) * PAGE_BYTES if quota and rng.random() < 0.15 else 1 << 30
        full: Literal["block", "drop_oldest"] = rng.choice(("block", "drop_oldest"))
        spool = SpoolSettings(bytes_max=bytes_max, full=full, queue_results_max=rng.choice((3, 20, 50_000)))
        window = UplinkSettings(
            window_messages=rng.choice((1, 2, 5, 64, WINDOW)),
            window_bytes=rng.choice((2000, 1 << 20)),
            batch_results=rng.choice((1, 3, 256)),
            batch_bytes=rng.choice((1024, 65536)),
            backlog_share=(0.25, 0.5, 0.75)[self.seed % 3],
            live_rows_max=(3, 10_000)[self.seed % 2],
        )
        store_file = self._directory / "cloud.db" if self._directory else None
        url = f"sqlite:///{store_file}" if store_file else IN_MEMORY
        self.store = SimStore(url, self._counted, self._at_fault_point)
        self.nodes = {
            name: self.node_class(
                name, self.broker, self.clock, rng, spool, window, self._directory and self._directory / f"{name}.db"
            )
            for name in ("edge-1", "edge-2")[: rng.choice((1, 1, 2))]
        }
        self.cloud = self.controller_class(self.broker, self.store, self.clock, rng.choice((4, 1000)))
        weights = {name: weight * rng.choice((0.3, 1, 1, 3)) for name, weight in WEIGHTS.items()}
        level = rng.choice((0, 0.2, 0.5, 1, 3))
        weights |= {name: weight * level * rng.choice((0, 0.5, 1, 4)) for name, weight in FAULTS.items()}
        for name in ("broker_back", "heal"):
            weights[name] = FAULTS[name]
        self._names = list(weights)
        self._actions = [getattr(self, f"_{name}") for name in weights]
        self._cumulated = list(accumulate(weights.values()))
        self._indices = range(len(weights))

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run to the end. Raises SimulationError."""
        self.store.open()
        try:
            for node in self.nodes.values():
                self._boot(node)
            choices, actions = self.rng.choices, self._actions
            for _ in range(self.steps):
                at = choices(self._indices, cum_weights=self._cumulated)[0]
                self._step(self._names[at], actions[at])
            self._calm()
        except Exception as exc:
            raise SimulationError(self.seed, exc, list(self.trace)) from exc
        finally:
            self.close()
        return Outcome(
            self._number,
            sum(node.truth.accepted_weight for node in self.nodes.values()),
            sum(node.boots for node in self.nodes.values()),
            self.crashes,
            self.cloud.refusals,
        )

    def close(self) -> None:
        """Close what is open."""
        for node in self.nodes.values():
            node.crash()
        self.store.close()

    def _step(self, name: str, action: Any) -> None:
        self._number += 1
        try:
            facts = action()
        except Crash:
            self.crashes += 1
            facts = ("CRASH",)
        if facts:
            facts = facts if isinstance(facts, tuple) else (facts,)
            self.trace.append(Step(self._number, self.clock.monotonic(), name, facts))

    def _any(self) -> Node:
        nodes = list(self.nodes.values())
        return nodes[0] if len(nodes) == 1 else self.rng.choice(nodes)

    def _links(self, edge: bool) -> Any:
        """The connection of a node, or of the cloud, if packets can travel on it."""
        name = self._any().name if edge else NAME
        return None if name in self._partitioned else self.broker.link(name)

    # -- what the truth is told ----------------------------------------------------------------------------------------

    def _arrived(self, inbound: Inbound) -> None:
        parts = inbound.topic.split("/", 3)
        if parts[1] == UP:
            self.nodes[parts[2]].truth.arrived(inbound.payload)

    def _counted(self, ids: list[Id]) -> None:
        for node in {each.node for each in ids}:
            self.nodes[node].truth.count([each for each in ids if each.node == node])

    def _at_fault_point(self, point: str) -> None:
        if self._armed is not None and self._armed[0] == point:
            crash, self._armed = self._armed[1], None
            raise Crash if crash else StorageError(f"database error at {point}, by the seed")

    # -- actions: the way of a result ----------------------------------------------------------------------------------

    def _produce(self) -> Any:
        node = self._any()
        if not node.running or not node.spool.room:
            return None
        return node.name, node.produce(self.rng.choice(self.rules), 1 if self.rng.random() < 0.95 else 3)

    def _burst(self) -> Any:
        node, rng = self._any(), self.rng
        if not node.running:
            return None
        return node.name, sum(node.produce(rng.choice(self.rules)) for _ in range(rng.choice((5, 20, 80))))

    def _journal(self) -> Any:
        node = self._any()
        return node.running and len(node.inputs) < 10 and (node.name, node.journal())

    def _finish(self) -> Any:
        node = self._any()
        return node.running and (node.name, node.finish(self.rng.randrange(1000)))

    def _spool_commit(self) -> Any:
        node = self._any()
        if not node.running:
            return None
        done = node.commit(self.rng.choice((1, 2, 5, 1000)))
        if not done:
            return None
        stats = node.spool.stats
        return node.name, f"{done} ops", f"epoch {stats.epoch.n}", f"held {stats.held}"

    def _hand_over(self) -> Any:
        node = self._any()
        if not node.running or not node.writer.hand_over():
            return None
        stats = node.spool.stats
        return node.name, f"epoch {stats.epoch.n}", f"low {stats.low}", f"next {stats.next_sequence}"

    def _to_broker(self) -> Any:
        link = self._links(self.rng.random() < 0.7)
        return link and self._some(self.broker.receive, link) and (link.client_id,)

    def _to_cloud(self) -> Any:
        link = self._links(False)
        return link and self._some(self.broker.deliver, link)

    def _to_edge(self) -> Any:
        link = self._links(True)
        if link is None or not self._some(self.broker.deliver, link):
            return None
        return link.client_id, f"unconfirmed {self.nodes[link.client_id].uplink.unconfirmed}"

    def _puback(self) -> Any:
        link = self._links(self.rng.random() < 0.8)
        return link and self._some(SimLink.acknowledge, link)

    def _some(self, move: Callable[[SimLink], bool], link: SimLink) -> int:
        """Move one packet, or several."""
        done = 0
        for _ in range(self.rng.choice((1, 1, 5, 30))):
            if not move(link):
                break
            done += 1
        return done

    def _cloud_commit(self) -> Any:
        return self.cloud.running and self.cloud.commit(self.rng.choice((1, 1, 4, 100)))

    def _birth(self) -> Any:
        return self.cloud.running and self.cloud.take_birth()

    def _say(self) -> Any:
        return self.cloud.running and self.cloud.say(self.rng.randrange(2))

    def _connect(self) -> Any:
        node = self._any()
        if node.running and node.name not in self._partitioned:
            node.link.connect()
        if not self.cloud.running:
            self.cloud.start()
        if NAME not in self._partitioned:
            self.cloud.link.connect()
        if not node.running:
            self._boot(node)
        return None

    def _boot(self, node: Node) -> None:
        if self.rng.random() < CODEC_CHANGES:
            node.codec = "msgpack" if node.codec == "json" else "json"
        try:
            node.boot()
        except StorageError:
            self.trace.append(Step(self._number, self.clock.monotonic(), "boot failed", (node.name,)))
        except Crash:
            node.disk.power_cut()
            self.trace.append(Step(self._number, self.clock.monotonic(), "boot crashed", (node.name,)))

    def _wait(self) -> Any:
        seconds = self.rng.choice((0.01, 0.1, 1.0, 3.0, 30.0))
        self.clock.advance(seconds)
        for node in self.nodes.values():
            if node.running:
                node.uplink.resend_due()
        return seconds

    # -- actions: faults -----------------------------------------------------------------------------------------------

    def _crash_edge(self) -> Any:
        node = self._any()
        if not node.running:
            return None
        self.crashes += 1
        node.crash()
        if self.rng.random() < 0.5:  # the other half: the broker believes for a while that it is there
            self.broker.cut(node.name)
        return node.name

    def _crash_cloud(self) -> Any:
        if not self.cloud.running:
            return None
        self.crashes += 1
        self.cloud.crash()
        self.broker.cut(NAME)
        return NAME

    def _disk_fault(self) -> Any:
        node = self._any()
        node.disk.fault = self.rng.choice(DISK_FAULTS)
        return node.name, node.disk.fault

    def _point(self) -> Any:
        """The node is going to be killed at one of the named points."""
        node = self._any()
        node.doomed = self.rng.choice(POINTS)
        return node.name, node.doomed

    def _store_fault(self) -> Any:
        self._armed = (self.rng.choice(STORE_FAULTS), self.rng.random() < 0.5)
        return self._armed

    def _cut_edge(self) -> Any:
        name = self._any().name
        return self.broker.cut(name) and name

    def _cut_cloud(self) -> Any:
        return self.broker.cut(NAME) and NAME

    def _restart_broker(self) -> Any:
        self.broker.restart(wiped=False)
        return "restarted"

    def _wipe_broker(self) -> Any:
        self.broker.restart(wiped=True)
        return "wiped"

    def _broker_back(self) -> Any:
        if self.broker.up and not self.broker.discarding:
            return None
        self.broker.up, self.broker.discarding = True, False
        return "up"

    def _partition(self) -> Any:
        name = self.rng.choice([NAME, *self.nodes])
        self._partitioned.add(name)
        return name

    def _heal(self) -> Any:
        if not self._partitioned:
            return None
        name = self.rng.choice(sorted(self._partitioned))
        self._partitioned.discard(name)
        if self.rng.random() < 0.5:  # keepalive was faster
            self.broker.cut(name)
        return name

    def _discard(self) -> Any:
        self.broker.discarding = True
        return "on"

    def _ghost(self) -> Any:
        return self.broker.haunting() and len(self.broker.ghosts)

    def _late_will(self) -> Any:
        return self.broker.late_will()

    def _clock_jump(self) -> Any:
        to = 1_763_683_200.0 + self.rng.choice((0, -3600, 3600, 10 * 365 * 86400, -365 * 86400))
        self.clock.jump(to - self.clock.time())
        return int(to)

    def _stick(self) -> Any:
        """One of a node's messages never comes through, until the faults are over."""
        window = self._any().truth.in_window
        if not window:
            return None
        key = self.rng.choice(list(window))
        self.broker.stuck.add(window[key].payload)
        return key

    def _stop_edge(self) -> Any:
        node = self._any()
        if not node.running or node.disk.fault or node.doomed:
            return None
        node.stop()
        return node.name

    def _restarts(self) -> Any:
        """Restarts in quick succession, each with a result of its own: many epochs. In half of the cases what can be
        delivered is, each time, so that only what is stuck stays open.
        """
        node, count, quiet = self._any(), self.rng.choice((3, 10, 90)), self.rng.random() < 0.5
        if quiet and self.rng.random() < 0.5:
            self._stick()
        for _ in range(count):
            if node.running:
                node.produce(self.rng.choice(self.rules))
                node.commit(1000)
                if quiet or self.rng.random() < 0.3:
                    node.writer.hand_over()
                    node.link.connect()
                if quiet:
                    self.cloud.link.connect()
                    self._round()
                node.crash()
            self._boot(node)
        open_epochs = self.store.open_epochs().get(node.name, 0)
        epochs_max = node.truth.window.window_messages + EPOCHS_SPARE
        require(open_epochs <= epochs_max, "{} has {} open epochs", node.name, open_epochs)
        return node.name, count, quiet, f"{open_epochs} open"

    def _flap(self) -> Any:
        """A connection breaks and is back at once, the cloud takes the new birth, and perhaps the node is killed."""
        node = self._any()
        if not node.running or not self.cloud.running or node.name in self._partitioned:
            return None
        self.broker.cut(node.name)
        node.link.connect()
        for link in filter(None, (self.broker.link(node.name), self.broker.link(NAME))):
            while self.broker.receive(link):
                pass
            while self.broker.deliver(link):
                pass
        while self.cloud.take_birth() > 0:
            pass
        if self.rng.random() < 0.5:
            node.crash()
        return node.name, node.running

    def _quiet(self) -> Any:
        """Everything runs undisturbed for a moment, as most of the time in life."""
        rounds = self.rng.choice((1, 3))
        for _ in range(rounds):
            self._round()
        return rounds

    # -- the calm part -------------------------------------------------------------------------------------------------

    def _round(self) -> None:
        """Let everything run until nothing moves. May raise Crash, when a fault is armed."""
        moving = True
        while moving:
            moving = False
            for node in self.nodes.values():
                if node.running:
                    moving |= node.commit(1000) > 0
                    moving |= node.writer.hand_over()
            for name in [NAME, *self.nodes]:
                link = None if name in self._partitioned else self.broker.link(name)
                while link and (self.broker.receive(link) | self.broker.deliver(link) | link.acknowledge()):
                    moving = True
            while self.cloud.running and (self.cloud.take_birth() > 0 or self.cloud.commit(100) > 0):
                moving = True
            while self.cloud.running and self.cloud.say():
                moving = True

    def _calm(self) -> None:
        self.broker.heal()
        self._partitioned.clear()
        self._armed = None
        for node in self.nodes.values():
            node.disk.fault = node.doomed = ""
        self._settle("after the faults")
        for name in [NAME, *self.nodes]:  # births that name fewer epochs, and then old messages once more
            self.broker.cut(name)
        self._settle("after reconnecting")
        while self.broker.haunting():
            pass
        self._settle("after old messages came again")
        for node in self.nodes.values():  # nothing may have been left half full, half deaf or half dead
            for _ in range(node.truth.window.window_messages + 3):
                node.produce(self.rules[0])
        self._settle("once more")
        alarms = self.store.alarms()
        require(not alarms, "false alarm: {}", alarms)  # no spool was copied, no store restored
        totals = self.store.totals()
        for node in self.nodes.values():
            node.truth.settled()
            counted = totals.get(node.name, 0)
            require(counted == node.truth.counted_weight, "{}: counters say {}", node.name, counted)

    def _settle(self, when: str) -> None:
        for _ in range(CALM_ROUNDS_MAX):
            for node in self.nodes.values():
                if not node.running:
                    node.boot()
                node.link.connect()
            if not self.cloud.running:
                self.cloud.start()
            self.cloud.link.connect()
            self._round()
            for node in self.nodes.values():
                while node.finish(0):
                    pass
            if all(node.drained for node in self.nodes.values()):
                return
            self.clock.advance(2.0)
            for node in self.nodes.values():
                node.uplink.resend_due()
        stuck = [(node.name, node.spool.stats, node.uplink.statistics()) for node in self.nodes.values()]
        raise Violation(f"not drained {when}: {stuck}")


def run(seed: int) -> Outcome:
    """Run one seed over the models. Raises SimulationError."""
    return World(seed).run()
