"""B3, the status pipeline: edge -> broker -> cloud -> store -> confirmation, durable on both sides.

Results are made in an agent process as fast as the pipeline takes them (20 rules, one in ten failing with a detail) and
counted by a controller process of its own. A round is over when the last result is confirmed; then the controller's
counts must equal what was made, to the last one. Run as a program this is the agent process of one round.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import decoding
from bench.measure import Row, cpu_s, median, percentile, spread
from common.control import call, socket_path
from common.errors import ControlError
from common.models import DELIVERED, FAILED
from common.settings import BrokerSettings
from edge.agent import Agent
from edge.settings import EdgeSettings, Settings, UplinkSettings
from edge.status import Ending, RuleRef
from tests.support.brokers import Broker, Embedded, Mosquitto

RULES = 20
FAILING = Ending(FAILED, "target_status_500", "the target answered 500 Internal Server Error", "target")
OK = Ending(DELIVERED)
AHEAD = 512  # unconfirmed results, one by one: a window that flies, and the next


def agent_settings(url: str, data: str, node: str, batch: int, protocol: str) -> Settings:
    """Settings of the generating agent."""
    edge = EdgeSettings(node=node, uplink=UplinkSettings(batch_results=batch))
    return Settings(data_dir=data, broker=BrokerSettings(url=url, protocol=protocol), edge=edge)  # type: ignore[arg-type]


async def generate(settings: Settings, count: int, rate: float, rules: int) -> dict[str, Any]:
    """Make ``count`` results (``rate`` per second; 0: as fast as they are taken) and wait until all are confirmed."""
    agent = Agent(settings)
    await agent.start()
    while not agent._link.connected:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    refs = [RuleRef("default", f"rule-{n}", "1") for n in range(rules)]
    one_by_one = settings.edge.uplink.batch_results == 1
    made, latencies = 0, []
    times: dict[str, float] = {}
    forget = agent.uplink._forget
    if rate:
        agent.uplink._forget = lambda confirmation: (
            _note(agent, confirmation, times, latencies),
            forget(confirmation),
        )[1]
    cpu, began = cpu_s(_pid()), time.perf_counter()
    while made < count:
        if rate:
            await asyncio.sleep(max(0.0, began + made / rate - time.perf_counter()))
            room = 1
        elif one_by_one:
            room = min(count, AHEAD + agent.spool.stats.confirmed) - made
        else:
            room = min(count - made, agent.spool.room - 40_000, 2000)  # at most 10,000 wait for a commit
        for _ in range(max(0, room)):
            ending = FAILING if made % 10 == 0 else OK
            source = f"{made:08d}-0000-7000-8000-000000000000"
            if rate:
                times[source] = time.perf_counter()
            agent.status.record(refs[made % rules], ending, source_id=source, duration_us=made % 1000)
            made += 1
        await asyncio.sleep(0.001 if room <= 0 else 0)
    while (left := count - agent.spool.stats.confirmed) > 0:  # noqa: ASYNC110
        await asyncio.sleep(0.002 if left < count // 20 else 0.02)  # a look costs about as much as a message
    took = time.perf_counter() - began
    told = {"took": took, "cpu": cpu_s(_pid()) - cpu, "latencies": latencies, "uplink": agent.uplink.statistics()}
    await agent.stop()
    return told


def _note(agent: Agent, confirmation: Any, times: dict[str, float], latencies: list[float]) -> None:
    # A message that is no longer in flight was confirmed just now: from its record to the cloud's word.
    now = time.perf_counter()
    flying = b"".join(s.message.payload for s in agent.uplink._sending.values())
    waiting = agent.spool.stats.waiting_rows
    if waiting == 0:
        done = [s for s in times if s.encode() not in flying and now - times[s] > 0.0005]
        latencies.extend(now - times.pop(source) for source in done)


def _pid() -> int:
    import os

    return os.getpid()


async def run_round(
    broker: Broker, count: int, *, batch: int = 256, rate: float = 0, rules: int = RULES, store: str = ""
) -> dict[str, Any]:
    """One round on an empty store and spool. Returns what ``generate`` told, with the controller's CPU seconds.

    ``store`` is the URL of an empty database; without one it is a SQLite file.
    """
    with tempfile.TemporaryDirectory() as directory:
        cloud = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cloud", "--broker", broker.url, "--data-dir", directory,
            *(("--store", store) if store else ()), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            sock = socket_path(directory, "cloud")
            await _answers(sock)
            before = cpu_s(cloud.pid)
            edge = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.pipeline", broker.url, str(Path(directory) / "edge"), str(count),
                str(batch), str(rate), str(rules), broker.protocol, stdout=subprocess.PIPE,
            )  # fmt: skip
            out, _ = await edge.communicate()
            told: dict[str, Any] = json.loads(out)
            told["cloud_cpu"] = cpu_s(cloud.pid) - before
            rows = await call(sock, "get.rules")
            counted = (sum(row["success"] for row in rows), sum(row["fail"] for row in rows), len(rows))
            fails = (count + 9) // 10
            assert counted == (count - fails, fails, min(rules, count)), f"counted {counted} of {count}"
            return told
        finally:
            cloud.terminate()
            await cloud.wait()


async def _answers(sock: Path) -> None:
    for _ in range(500):
        try:
            await call(sock, "get.rules")
            return
        except ControlError:
            await asyncio.sleep(0.02)
    raise RuntimeError("the controller did not start")


async def bare_round(broker: Broker, count: int, size: int) -> tuple[float, float]:
    """One round of the bare pair: seconds from the first to the last received, and CPU seconds of both sides."""
    args = [str(broker.port), str(count), str(size)]
    sub = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.bare", "sub", *args, stdout=subprocess.PIPE)
    assert sub.stdout is not None
    await sub.stdout.readline()
    pub = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.bare", "pub", *args, stdout=subprocess.PIPE)
    took, cpu = map(float, (await sub.stdout.readline()).split())
    cpu += float((await pub.communicate())[0])
    await sub.wait()
    return took, cpu


async def run(rounds: int, scale: float) -> list[Row]:
    """All of B3 that runs on SQLite. ``scale`` shrinks the counts for a quick look."""
    rows = decoding.rows()
    with tempfile.TemporaryDirectory() as directory:
        mosquitto = Mosquitto(
            Path(directory) / "mosquitto",
            protocol="5",
            config_lines=["max_queued_messages 100000", "set_tcp_nodelay true"],
            verbose=False,
        )
        embedded = Embedded(Path(directory) / "embedded")
        for broker, name, bar in ((mosquitto, "Mosquitto, MQTT 5", 50_000), (embedded, "embedded broker", 20_000)):
            await broker.start()
            count = int(200_000 * scale)
            told = [await run_round(broker, count) for _ in range(rounds)]
            rates = [count / t["took"] for t in told]
            cost = f"edge {median([t['cpu'] for t in told]) / count * 1e6:.1f}, cloud "
            cost += f"{median([t['cloud_cpu'] for t in told]) / count * 1e6:.1f} us CPU a result; {spread(rates)}"
            rows.append(Row(name, median(rates), "results/s", f">= {bar:,}", median(rates) >= bar, cost))
            if broker is mosquitto:
                rows += await _one_by_one(broker, rounds, int(20_000 * scale))
                rows += await _latency(broker, int(2_000 * scale))
                rows += await _many_rules(broker, rounds, int(100_000 * scale))
            await broker.stop()
    return rows


async def _one_by_one(broker: Broker, rounds: int, count: int) -> list[Row]:
    bare, ours, bare_cpu, our_cpu = [], [], [], []
    for _ in range(rounds):
        took, cpu = await bare_round(broker, count, 520)
        bare.append(count / took)
        bare_cpu.append(cpu / count * 1e6)
        told = await run_round(broker, count, batch=1)
        ours.append(count / told["took"])
        our_cpu.append((told["cpu"] + told["cloud_cpu"]) / count * 1e6)
    ratio = median([a / b for a, b in zip(ours, bare, strict=True)])
    note = f"ours {median(ours):,.0f}/s with {median(our_cpu):.0f} us CPU of both sides, "
    note += f"bare paho QoS 1 pair {median(bare):,.0f}/s with {median(bare_cpu):.0f} us"
    return [Row("one result a message", ratio, "of bare paho", ">= 0.8", ratio >= 0.8, note)]


async def _latency(broker: Broker, count: int) -> list[Row]:
    told = await run_round(broker, count, rate=200)
    latencies = [s * 1000 for s in told["latencies"]]
    p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    note = f"to the confirmation, {len(latencies)} results"
    return [
        Row("latency at 200/s, p50", p50, "ms", "<= 15", p50 <= 15, note),
        Row("latency at 200/s, p99", p99, "ms", "<= 60", p99 <= 60, note),
    ]


async def _many_rules(broker: Broker, rounds: int, count: int) -> list[Row]:
    few, many = [], []
    for _ in range(max(1, rounds // 2)):
        for of_rules, costs in ((20, few), (10_000, many)):
            told = await run_round(broker, count, rules=of_rules)
            costs.append((told["cpu"] + told["cloud_cpu"]) / count)
    ratio = median(many) / median(few)
    note = f"{median(few) * 1e6:.1f} and {median(many) * 1e6:.1f} us CPU a result, edge and cloud"
    return [Row("cost at 10,000 rules", ratio, "of 20 rules", "<= 2", ratio <= 2, note)]


if __name__ == "__main__":
    url, data, count_, batch_, rate_, rules_, protocol_ = sys.argv[1:]
    settings_ = agent_settings(url, data, f"bench-{_pid()}", int(batch_), protocol_)  # a new spool is a new node
    print(json.dumps(asyncio.run(generate(settings_, int(count_), float(rate_), int(rules_)))))
