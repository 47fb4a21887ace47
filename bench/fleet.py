"""B3 with many nodes: what a result costs the controller at 1,000 nodes against one, and all coming back at once.

The load is one process that is all the nodes (``tests.support.fleet``): connections, births, epochs, windows and
resends are the product's own. Both sides of a ratio are the same program with the same number of results, in messages
of the same size, with as many messages in flight as one node's window allows; only the number of nodes differs.
Births, which each node says again seconds after a connect, and statistics messages depend on the clock and not on the
results: they are measured apart, as what a connect costs and a fleet at rest. Counts are compared to the last result in
every round.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from bench.measure import Row, cpu_s, median, spread
from bench.processes import FleetProcess, Program, fleet, memory_bytes, program, stage
from common.messaging.announcing import AGAIN_S
from tests.support.fleet import FAILING_EVERY
from tests.support.wait import eventually

NODES = 1000
RULES = 20
WINDOW_MESSAGES = 64
QUIET_S = 3600.0  # between statistics messages: none comes while results are measured
DOWN_S = 5.0  # for which the broker is away
RECOVERED_S = 60.0  # reconnects are up to 30 s apart by default, and the first resend waits for 2 s


class Cost(NamedTuple):
    """CPU seconds a result: of the controller, and of controller, broker and nodes together. Results a second."""

    cloud: float
    all: float
    rate: float


async def run(rounds: int, scale: float) -> list[Row]:
    """All of it. ``scale`` shrinks the number of nodes and results, for a quick look."""
    nodes = max(2, int(NODES * scale))
    return [*await _cost(nodes, rounds), *await _rest(nodes), *await _burst(nodes)]


async def _cost(nodes: int, rounds: int) -> list[Row]:
    rows = []
    for batch, each in ((256, 256), (20, 60)):
        one, many = list[Cost](), list[Cost]()
        for _ in range(rounds):
            one.append(await _round(1, nodes * each, batch))
            many.append(await _round(nodes, each, batch))
        ratio = median([a.cloud / b.cloud for a, b in zip(many, one, strict=True)])
        whole = median([a.all / b.all for a, b in zip(many, one, strict=True)])
        note = f"controller {_us(one, 0)} and {_us(many, 0)} us CPU a result; with broker and load {_us(one, 1)} and "
        note += f"{_us(many, 1)}, {whole:.2f} times; {spread([cost.rate for cost in many])} results/s"
        case = f"cost at {nodes:,} nodes, {batch} results a message"
        rows.append(Row(case, ratio, "of 1 node", "<= 2", ratio <= 2, note))
    return rows


def _us(costs: list[Cost], field: int) -> str:
    return f"{median([cost[field] for cost in costs]) * 1e6:.1f}"


async def _round(nodes: int, each: int, batch: int) -> Cost:
    """One round on an empty store: connect first, then measure until the last result is confirmed."""
    stale = ("--set", f"cloud.stale_s={QUIET_S}")
    async with stage() as (broker, place), program("cloud", broker, place, *stale) as cloud:
        await cloud.answers()
        async with fleet(broker, nodes, batch=batch, nodestatus_s=QUIET_S) as load:
            await _connect(load, cloud, nodes)
            pids = (cloud.pid, broker.pid, load.pid)
            before, began = [cpu_s(pid) for pid in pids], time.perf_counter()
            await load.ask("make", each=each, rules=RULES, burst=batch, waiting_max=WINDOW_MESSAGES * batch)
            await load.ask("settled")
            took, count = time.perf_counter() - began, nodes * each
            used = [cpu_s(pid) - was for pid, was in zip(pids, before, strict=True)]
            await _check(load, cloud, nodes, each)
            await load.ask("stop")
            return Cost(used[0] / count, sum(used) / count, count / took)


async def _connect(load: FleetProcess, cloud: Program, nodes: int) -> None:
    """Connect all nodes, and wait until the controller has taken each birth as often as it is said, and statistics."""
    await load.ask("start")
    births = nodes * (1 + len(AGAIN_S))

    async def known() -> bool:
        upstream = (await cloud.ask("statistics"))["upstream"]
        return bool(upstream["node_handled"] >= births and upstream["nodestatus_handled"] >= nodes)

    await eventually(known, timeout=60 + sum(AGAIN_S), interval=0.2, what="all nodes are known")


async def _check(load: FleetProcess, cloud: Program, nodes: int, each: int) -> None:
    """Raise AssertionError unless the controller counted exactly what the nodes made."""
    told = await load.ask("statistics")
    made = told["made"]
    rows = await cloud.ask("get.rules")
    success, fail = (sum(row[name] for row in rows) for name in ("success", "fail"))
    fails = nodes * ((each + FAILING_EVERY - 1) // FAILING_EVERY)
    assert (success, fail, made) == (nodes * each - fails, fails, nodes * each), f"{success} and {fail} of {made}"
    known = await cloud.ask("get.nodes")
    states = {row["state"] for row in known}
    assert (len(known), states) == (nodes, {"online"}), f"{len(known)} nodes, {states}"
    assert (told["lost"], told["callback_errors"]) == (0, 0), told


async def _rest(nodes: int, seconds: float = 30.0) -> list[Row]:
    """What a connected fleet costs that has nothing to say but its statistics, every 15 s a node."""
    async with stage() as (broker, place), program("cloud", broker, place) as cloud:
        await cloud.answers()
        async with fleet(broker, nodes, batch=256) as load:
            began, before = time.perf_counter(), cpu_s(cloud.pid)
            await _connect(load, cloud, nodes)
            took, births = time.perf_counter() - began, cpu_s(cloud.pid) - before
            before = cpu_s(cloud.pid)
            await asyncio.sleep(seconds)
            share = (cpu_s(cloud.pid) - before) / seconds * 100
            await load.ask("stop")
    note = f"nodestatus every 15 s each; to connect, a birth said {1 + len(AGAIN_S)} times, and statistics took "
    note += f"{took:.1f} s and {births / nodes * 1e3:.2f} ms CPU a node"
    return [Row(f"{nodes:,} nodes at rest", share, "% of a core", note=note)]


async def _burst(nodes: int, each: int = 256) -> list[Row]:
    """Kill the broker, let every node gather a backlog, start the broker: all come back at once."""
    async with stage() as (broker, place), program("cloud", broker, place) as cloud:
        await cloud.answers()
        async with fleet(broker, nodes, batch=256) as load:
            await _connect(load, cloud, nodes)
            before = await load.ask("statistics")
            await broker.kill()
            await load.ask("make", each=each, rules=RULES, burst=each, waiting_max=nodes * each)
            await asyncio.sleep(DOWN_S)
            await broker.start()
            cpu, began = cpu_s(cloud.pid), time.perf_counter()
            await eventually(lambda: _all(load, nodes), timeout=180, what="all nodes are back")
            back = time.perf_counter() - began
            await load.ask("settled")
            took, used = time.perf_counter() - began, cpu_s(cloud.pid) - cpu
            after, overflow = await load.ask("statistics"), await _overflow(cloud)
            await _check(load, cloud, nodes, each)
            peak = memory_bytes(cloud.pid, "VmHWM") / 1e6
            await load.ask("stop")
    more = {name: after[name] - before[name] for name in ("sent", "resent", "connect_failures", "connects")}
    note = (
        f"{nodes * each:,} results waited for {DOWN_S:g} s; all connected after {back:.1f} s ("
        f"{more['connects']} connects, "
        f"{more['connect_failures']} refused); {more['sent']:,} messages sent, {more['resent']:,} of them again, "
        f"{overflow:,} discarded at the controller's bound; {used:.1f} s CPU; every result counted once"
    )
    return [
        Row(f"{nodes:,} nodes come back at once", took, "s", f"<= {RECOVERED_S:g}", took <= RECOVERED_S, note),
        Row("controller's memory then, peak", peak, "MB", "<= 150", peak <= 150),
    ]


async def _all(load: FleetProcess, nodes: int) -> bool:
    return bool(await load.ask("ready") == nodes)


async def _overflow(cloud: Program) -> int:
    """Messages that came and were discarded because too many waited: their nodes send them again (P5.5)."""
    told = await cloud.ask("statistics")
    return int(told["upstream"]["rulestatus_overflow"] + told["layer"]["overflowed"])
