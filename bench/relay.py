"""B2, the relay: MQTT in -> rule with a chain -> MQTT out -> ExecResult in the spool, through Mosquitto.

The agent is the real one, a process of its own, with status and spool on; the load is another. Beside it, in rounds
that alternate, run a relay of paho on an event loop that does nothing but relay (``bench.pahorelay``) and, where there
is one, Node-RED (``bench.nodered``). A round ends when the last message is back; then the spool's account must say that
each execution has its result. Messages are JSON of 200 bytes. At QoS 1 the broker lets any number be in flight, so what
bounds the agent is its own window.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.measure import Row, cpu_s, median, percentile, spread
from bench.nodered import VARIABLE, found, nodered
from common.control import call, socket_path
from common.errors import ControlError
from tests.support.brokers import Mosquitto

MANY_RULES = 300
RATIO_MIN = 0.8
COUNT = {0: 60_000, 1: 30_000}
"""Messages of a round by QoS."""
WARM_UP = 10_000
"""Messages through Node-RED before a round: its engine compiles what runs often, and ours would win by that."""
LATENCY_RATE, LATENCY_COUNT = 200, 2000
P50_MS_MAX, P99_MS_MAX, ADDED_P99_MS_MAX = 2.0, 8.0, 5.0
SHARED_RATE, SHARED_S = 500, 10
"""Messages a second from one source that all rules share, and for how long: in less the start would decide."""
AGENT_CORE, OTHER_CORE = 0, 1
NODE = "bench"

_BUS = """
apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {name: bus}
spec: {ruleEndpointType: eventbus}
"""
_RULE = """---
apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata: {name: r%(n)d}
spec:
  source: bus
  sourceResource: {topic: "%(source)s", qos: "%(qos)d"}
  target: bus
  targetResource: {topic: "out/%(n)d", qos: "%(qos)d"}
  results: %(results)s
  chain: |
    %(chain)s
    accept
"""
HOT = "gt $MSG.payload.temperature 80 || drop"


class Round(NamedTuple):
    """What one round told: messages per second, CPU microseconds of the relay for a message, latencies in seconds."""

    rate: float
    cpu_us: float
    latencies: list[float]


def relay_rules(rules: int, qos: int) -> str:
    """So many rules, each with a topic of its own, all of which let every message through."""
    return _BUS + "".join(
        _RULE % {"n": n, "source": f"in/{n}", "qos": qos, "chain": HOT, "results": "single"} for n in range(rules)
    )


def shared_rules(rules: int, results: str) -> str:
    """So many rules on one topic; each message passes the chain of one of them."""
    return _BUS + "".join(
        _RULE
        % {"n": n, "source": "in/0", "qos": 0, "chain": f'eq $MSG.payload.kind "k{n}" || drop', "results": results}
        for n in range(rules)
    )


class Agent:
    """A real agent process over one directory."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.pid, self._socket = pid, socket_path(directory, "edge")

    async def statistics(self) -> dict[str, Any]:
        """What it says of itself."""
        told: dict[str, Any] = await call(self._socket, "statistics")
        return told

    async def ready(self) -> None:
        """Wait until its bus is connected and subscribed."""
        for _ in range(1000):
            try:
                buses = (await self.statistics())["endpoints"]["eventbus"]
                if buses and all(bus["connected"] for bus in buses.values()):
                    return
            except ControlError:
                pass
            await asyncio.sleep(0.02)
        raise RuntimeError("the agent did not connect")

    async def has_accepted(self, results: int) -> dict[str, Any]:
        """Wait until so many executions have their durable result, and not one more."""
        for _ in range(1000):
            told = await self.statistics()
            if told["status"]["accepted"] >= results:
                break
            await asyncio.sleep(0.02)
        assert told["status"]["accepted"] == results, f"{told['status']} of {results}, {told['outcomes']}"
        return told


@asynccontextmanager
async def agent(broker: Mosquitto, rules: str, *prefix: str, queue_max: int = 1000) -> AsyncIterator[Agent]:
    """An agent with these rules on an empty data directory, started behind ``prefix`` (a command that runs another)."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "rules.yaml").write_text(rules)
        process = await asyncio.create_subprocess_exec(
            *prefix, sys.executable, "-m", "edge", "--node", NODE, "--broker", broker.url, "--data-dir", name,
            "--rules", str(directory / "rules.yaml"), "--set", "broker.protocol=5", "--set", "log.level=error",
            "--set", "edge.eventbus.session_expiry_s=0",
            "--set", f"edge.flow.queue_max={queue_max}",
        )  # fmt: skip
        try:
            it = Agent(process.pid, directory)
            await it.ready()
            yield it
        finally:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def paho(broker: Mosquitto, qos: int) -> AsyncIterator[int]:
    """The bare relay; gives its process id."""
    args = [sys.executable, "-m", "bench.pahorelay", str(broker.port), str(qos)]
    process = await asyncio.create_subprocess_exec(*args, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


async def load(
    broker: Mosquitto,
    pid: int,
    qos: int,
    count: int,
    *,
    topics: int = 1,
    rate: float = 0,
    kinds: int = 1,
    prefix: Sequence[str] = (),
) -> Round:
    """One round of load through the relay ``pid``."""
    args = [str(value) for value in (broker.port, qos, count, topics, rate, kinds)]
    before = cpu_s(pid)
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, "-m", "bench.load", *args, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, "the load failed"
    told = json.loads(out)
    return Round(count / told["took"], (cpu_s(pid) - before) / count * 1e6, told["latencies"])


async def throughput(broker: Mosquitto, rounds: int, scale: float, qos: int, rules: int) -> list[Row]:
    """Rounds of the relays, in turns."""
    count, program = int(COUNT[qos] * scale), found()
    ours: list[Round] = []
    bare: list[Round] = []
    peer: list[Round] = []
    for _ in range(rounds):
        async with agent(broker, relay_rules(rules, qos)) as it:
            ours.append(await load(broker, it.pid, qos, count, topics=rules))
            await it.has_accepted(count)
        async with paho(broker, qos) as pid:
            bare.append(await load(broker, pid, qos, count, topics=rules))
        if program is not None:
            async with nodered(program, broker, qos, rules) as pid:
                await load(broker, pid, qos, WARM_UP, topics=rules)
                peer.append(await load(broker, pid, qos, count, topics=rules))
    name = f"QoS {qos}, {rules} rule{'s' if rules > 1 else ''}"
    ratio = _ratio(ours, bare)
    rows = [
        _rate(name, ours),
        _rate(f"{name}, paho relay", bare),
        Row(f"{name}, ours to paho", ratio, "ratio", f">= {RATIO_MIN}", ratio >= RATIO_MIN),
    ]
    if not peer:
        absent = f"not measured: no node-red on the path, and {VARIABLE} names none"
        return [*rows, Row(f"{name}, Node-RED", None, "messages/s", note=absent)]
    ratio = _ratio(ours, peer)
    level = Row(f"{name}, ours to Node-RED", ratio, "ratio", "goal >= 1", ratio >= 1)
    return [*rows, _rate(f"{name}, Node-RED", peer), level]


def _rate(case: str, told: list[Round]) -> Row:
    rates, cpu = [r.rate for r in told], median([r.cpu_us for r in told])
    return Row(case, median(rates), "messages/s", note=f"{cpu:.0f} us CPU a message; {spread(rates)}")


def _ratio(ours: list[Round], theirs: list[Round]) -> float:
    return median([a.rate / b.rate for a, b in zip(ours, theirs, strict=True)])


async def latency(broker: Mosquitto, rounds: int, scale: float) -> list[Row]:
    """From publish to receipt, at a rate that queues nothing."""
    count = int(LATENCY_COUNT * scale)
    p50: list[float] = []
    p99: list[float] = []
    added: list[float] = []
    for _ in range(rounds):
        async with agent(broker, relay_rules(1, 1)) as it:
            ours = (await load(broker, it.pid, 1, count, rate=LATENCY_RATE)).latencies
            await it.has_accepted(count)
        async with paho(broker, 1) as pid:
            bare = (await load(broker, pid, 1, count, rate=LATENCY_RATE)).latencies
        p50.append(percentile(ours, 0.5) * 1e3)
        p99.append(percentile(ours, 0.99) * 1e3)
        added.append(p99[-1] - percentile(bare, 0.99) * 1e3)
    name = f"latency at {LATENCY_RATE}/s, QoS 1"
    rows = (
        (", p50", p50, P50_MS_MAX),
        (", p99", p99, P99_MS_MAX),
        (", p99 over the paho relay's", added, ADDED_P99_MS_MAX),
    )
    return [
        Row(name + what, median(values), "ms", f"<= {bar:g}", median(values) <= bar,
            f"{min(values):.2f} to {max(values):.2f} in {rounds} rounds")
        for what, values, bar in rows
    ]  # fmt: skip


async def shared(broker: Mosquitto, rounds: int, results: str) -> Row:
    """300 rules on one source, the agent on one core: CPU for an evaluation, and whether it kept up."""
    count = SHARED_RATE * SHARED_S
    other = ("taskset", "-c", str(OTHER_CORE))
    os.sched_setaffinity(broker.pid, {OTHER_CORE})
    told: list[Round] = []
    try:
        for _ in range(rounds):
            pinned = ("taskset", "-c", str(AGENT_CORE))  # with room to lag behind: no rule drops what it is late for
            async with agent(broker, shared_rules(MANY_RULES, results), *pinned, queue_max=count) as it:
                told.append(await load(broker, it.pid, 0, count, rate=SHARED_RATE, kinds=MANY_RULES, prefix=other))
                outcomes = (await it.has_accepted(count * MANY_RULES))["outcomes"]
            wanted = {"delivered": count, "filtered/chain_drop": count * (MANY_RULES - 1)}
            assert outcomes == wanted, outcomes
    finally:
        os.sched_setaffinity(broker.pid, range(os.cpu_count() or 1))
    rate = median([r.rate for r in told]) * MANY_RULES
    cpu = median([r.cpu_us for r in told]) / MANY_RULES
    late = median([percentile(r.latencies, 0.99) for r in told]) * 1e3
    wanted_rate = SHARED_RATE * MANY_RULES
    bar = f">= {wanted_rate:,}" if results == "summary" else ""
    holds = rate >= 0.99 * wanted_rate if bar else None
    note = (
        f"{cpu:.2f} us CPU an evaluation, p99 of a delivery {late:.1f} ms; eKuiper publishes this figure for two cores"
    )
    return Row(
        f"{MANY_RULES} rules x {SHARED_RATE}/s, one core, {results} results", rate, "evaluations/s", bar, holds, note
    )


async def run(rounds: int, scale: float) -> list[Row]:
    """All of B2."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        lines = ["max_inflight_messages 0", "max_queued_messages 100000", "set_tcp_nodelay true"]
        broker = Mosquitto(Path(directory) / "mosquitto", protocol="5", config_lines=lines, verbose=False)
        await broker.start()
        for qos in (0, 1):
            for rules in (1, MANY_RULES):
                rows += await throughput(broker, rounds, scale, qos, rules)
        rows += await latency(broker, rounds, scale)
        for results in ("summary", "single"):
            rows.append(await shared(broker, rounds, results))
        await broker.stop()
    return rows
