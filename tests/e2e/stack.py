"""A whole stack of real processes for one test: a broker, ``python -m cloud``, ``python -m edge``; killed and started
at will.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from common.control import call, socket_path
from common.errors import ControlError
from common.messaging.base import PUBLISHED
from common.messaging.transport import MqttLink
from tests.support.brokers import Broker
from tests.support.nursery import Forked, shared
from tests.support.wait import eventually

NODE = "edge-1"
BUS = """
apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {name: bus}
spec: {ruleEndpointType: eventbus}
"""


def rule(name: str, source: str, target: str, *, to: str = "bus", **spec: str) -> str:
    """The manifest of a rule from eventbus to eventbus; ``spec`` is YAML text by key."""
    more = "".join(f"\n  {key}: {value}" for key, value in spec.items())
    return f"""
---
apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata: {{name: {name}}}
spec:
  source: bus
  sourceResource: {{topic: "{source}"}}
  target: {to}
  targetResource: {{topic: "{target}"}}{more}
"""


async def counted(directory: Path) -> tuple[int, list[dict[str, Any]]]:
    """What the controller of this directory counts, and every single result that it keeps."""
    sock = socket_path(directory, "cloud")
    rows = await call(sock, "get.rules")
    results: list[dict[str, Any]] = []
    while more := await call(sock, "get.results", limit=5000, since=results[-1]["id"] if results else 0):
        results += more
    return sum(row["success"] + row["fail"] for row in rows), results


class Process:
    """One of our programs as a child process that dies with the test session; a fork of one that has its imports."""

    def __init__(self, side: str, args: list[str], log: Path) -> None:
        self._side, self._args, self._log = side, args, log
        self._process: Forked | None = None

    def start(self) -> None:
        module = f"{self._side}.__main__" if self._side in ("edge", "cloud") else self._side
        self._process = shared(module).start([self._args], dict(os.environ), self._log)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit code (negative: the signal)."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(20)

    def kill(self) -> None:
        """kill -9."""
        self.end(signal.SIGKILL)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")


def _flags(sets: tuple[str, ...]) -> list[str]:
    return [part for text in sets for part in ("--set", text)]


class Stack:
    """Broker, cloud and edge over one directory.

    Arguments: ``rules`` are manifests; ``more`` settings for both sides, as ``--set`` takes them; ``cloud`` for one.
    """

    def __init__(self, broker: Broker, directory: Path, rules: str, *more: str, cloud: tuple[str, ...] = ()) -> None:
        self.broker, self.directory = broker, directory
        (directory / "rules.yaml").write_text(rules)
        sets = ("broker.reconnect_max_s=0.5", f"broker.protocol={broker.protocol}", "log.level=debug", *more)
        common = ["--broker", broker.url, "--data-dir", str(directory)]
        common += _flags(sets)
        self.cloud = Process("cloud", [*common, *_flags(cloud)], directory / "cloud.log")
        rules_args = ["--rules", str(directory / "rules.yaml")]
        self.edge = Process("edge", [*common, "--node", NODE, *rules_args], directory / "edge.log")

    async def __aenter__(self) -> Stack:
        self.cloud.start()
        self.edge.start()
        await self.ready()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for process in (self.edge, self.cloud):
            if process.running:
                process.end()

    async def ready(self) -> None:
        """Wait until the edge's rules are subscribed and the cloud knows the node."""
        await eventually(self._is_ready, timeout=20, what="the stack is ready")

    async def _is_ready(self) -> bool:
        for process in (self.cloud, self.edge):
            assert process.running, process.log()
        try:
            buses = (await self.of_edge())["endpoints"]["eventbus"]
            states = [row["state"] for row in await self.of_cloud("get.nodes")]
        except ControlError:
            return False
        return all(bus["connected"] for bus in buses.values()) and states == ["online"]

    async def of_cloud(self, operation: str, **args: Any) -> Any:
        """Ask the controller."""
        return await call(socket_path(self.directory, "cloud"), operation, **args)

    async def of_edge(self) -> Any:
        """The agent's statistics."""
        return await call(socket_path(self.directory, "edge"), "statistics")

    async def counts(self) -> dict[str, int]:
        """What the cloud has counted, by rule; empty while it does not answer."""
        try:
            return {row["rule"]: row["success"] + row["fail"] for row in await self.of_cloud("get.rules")}
        except ControlError:
            return {}

    async def accepted(self) -> int:
        """What the edge has accepted since its spool began, when all of it is confirmed; -1 before."""
        try:
            status = (await self.of_edge())["status"]
        except ControlError:
            return -1
        accepted = status.get("accepted", 0)
        return accepted if accepted == status.get("confirmed", 0) else -1

    async def settled(self, at_least: int, timeout: float = 60) -> int:
        """Wait until at least so many are accepted and all are confirmed; return how many. Then counts must be
        equal.
        """

        async def done() -> int:
            accepted = await self.accepted()
            return accepted if accepted >= at_least else 0

        accepted: int = await eventually(
            done, timeout=timeout, interval=0.05, what=f"{at_least} accepted and confirmed"
        )
        return accepted


class Device:
    """A device that publishes at QoS 1 and repeats what its broker did not confirm, as devices do."""

    def __init__(self, broker: Broker, name: str = "device-1") -> None:
        self._link = MqttLink(broker.settings(), name)
        self._room = asyncio.Event()
        self._link.on_connect = self._room.set
        self.confirmed = 0

    async def __aenter__(self) -> Device:
        await self._link.start()
        await eventually(lambda: self._link.connected)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._link.stop()

    def send(self, topic: str, payloads: list[bytes]) -> None:
        """Publish all payloads at QoS 0."""
        for payload in payloads:
            self._link.publish(topic, payload, qos=0)

    async def publish(self, topic: str, payloads: list[bytes], *, at_once: int = 50, pause_s: float = 0.0) -> None:
        """Publish all payloads; returns when the broker has confirmed each."""
        todo = list(reversed(payloads))
        flying = 0

        def done(payload: bytes, reason: int) -> None:
            nonlocal flying
            flying -= 1
            if reason == PUBLISHED:  # nobody listening is not delivered: repeat, as a careful device does
                self.confirmed += 1
            else:
                todo.append(payload)
            self._room.set()

        while todo or flying:
            self._room.clear()
            while todo and flying < at_once and self._link.connected:
                payload = todo.pop()
                flying += 1
                self._link.publish(topic, payload, on_done=lambda reason, p=payload: done(p, reason))
            if pause_s:
                await asyncio.sleep(pause_s)
            await asyncio.wait_for(self._room.wait(), 30)
