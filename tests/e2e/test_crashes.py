"""kill -9 of each process, and of the broker with all its data, in the middle of 10,000 results (reliability R1, R3).

Two oracles. The producer's list of accepted ids: each must be counted exactly once. And the spool's ledger: what it
accepted equals what the cloud counts, when all is confirmed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.stack import BUS, Device, Process, Stack, counted, rule
from tests.support.brokers import NO_MOSQUITTO, Broker, Embedded, Mosquitto, find_mosquitto
from tests.support.wait import eventually

COUNT = 10_000
RING = [
    "cloud.store.ring_rule_max=100000", "cloud.store.ring_rate_max=1000000", "cloud.store.ring_rate_total_max=1000000",
]  # fmt: skip


def _broker(kind: str, directory: Path) -> Broker:
    if kind == "embedded":
        return Embedded(directory / "broker")
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    return Mosquitto(directory / "broker", config_lines=["max_queued_messages 100000"])


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
@pytest.mark.parametrize("victim", ["edge", "cloud", "broker"])
async def test_every_accepted_result_is_counted_exactly_once(tmp_path: Path, kind: str, victim: str):
    """R1.1, R1.2: the victim is killed four times in 10,000 results, the broker with its data wiped; 0 lost, 0
    doubled.
    """
    rng = random.Random(seed := random.randrange(1 << 32))
    broker = _broker(kind, tmp_path)
    async with broker:
        edge_dir, cloud_args = tmp_path / "edge", ["--broker", broker.url, "--data-dir", str(tmp_path)]
        edge_dir.mkdir()
        settings = [part for text in [*RING, "broker.reconnect_max_s=0.5"] for part in ("--set", text)]
        cloud = Process("cloud", [*cloud_args, *settings], tmp_path / "cloud.log")

        def producer(first: int) -> Process:
            args = [broker.url, str(edge_dir), str(first), str(COUNT), broker.protocol]
            return Process("tests.e2e.producer", args, tmp_path / "edge.log")

        def accepted() -> list[str]:
            file = edge_dir / "accepted"
            return file.read_text().splitlines() if file.exists() else []

        edge = producer(0)
        cloud.start()
        edge.start()
        for kill in range(4):
            mark = (kill + rng.random()) * COUNT / 5
            await eventually(lambda: len(accepted()) >= mark, timeout=60)  # noqa: B023
            if victim == "edge":
                edge.kill()
                edge = producer(len(accepted()))
                edge.start()
            elif victim == "cloud":
                cloud.kill()
                cloud.start()
            else:
                await broker.kill()
                broker.wipe()
                await broker.start()
        await eventually((edge_dir / "done").exists, timeout=60)
        count, results = await counted(tmp_path)
        seen = Counter(row["source_id"] for row in results)
        lost = [source for source in accepted() if source not in seen]
        doubled = [source for source, times in seen.items() if times > 1]
        assert (len(lost), len(doubled)) == (0, 0), f"seed {seed}: lost {lost[:5]}, doubled {doubled[:5]}"
        assert count == len(results) >= COUNT * 0.99
        edge.end()
        cloud.end()


@pytest.mark.parametrize("victim", ["edge", "cloud", "broker"])
async def test_executions_survive_the_same_kills(tmp_path: Path, victim: str):
    """R1: real inputs through a real rule; after the kill the spool's ledger and the cloud's counts agree to the
    last.
    """
    broker = _broker("mosquitto", tmp_path)
    rules = BUS + rule(
        "relay", "devices/+/telemetry", "fleet/{node}/{topic[1]}", retry="{attempts: 20, backoff: 100ms}"
    )
    async with broker, Stack(broker, tmp_path, rules) as stack, Device(broker) as device:
        publishing = asyncio.create_task(
            device.publish("devices/d1/telemetry", [b"%d" % n for n in range(COUNT)], at_once=20)
        )
        await eventually(lambda: device.confirmed > COUNT / 3, timeout=30)
        if victim == "edge":
            stack.edge.kill()
            stack.edge.start()
        elif victim == "cloud":
            stack.cloud.kill()
            stack.cloud.start()
        else:
            await broker.kill()
            broker.wipe()
            await broker.start()
        await publishing
        # Only what a wiped broker had confirmed to the device and not yet given to the edge is gone with it.
        await stack.settled(COUNT if victim != "broker" else COUNT - 1100)
        accepted = await stack.settled(1)
        assert await stack.counts() == {"relay": accepted}


async def test_summed_up_executions_survive_kills(tmp_path: Path):
    """R1, F5: a rule with ``results: summary`` loses no count when its agent is killed: a source that was acknowledged
    is in a summary on disk, and what was not comes again.
    """
    kills, at_once, count = 3, 20, COUNT // 2
    broker = _broker("mosquitto", tmp_path)
    rules = BUS + rule("relay", "devices/+/telemetry", "fleet/{topic[1]}", results="summary")
    async with broker, Stack(broker, tmp_path, rules) as stack, Device(broker) as device:
        publishing = asyncio.create_task(
            device.publish("devices/d1/telemetry", [b"%d" % n for n in range(count)], at_once=at_once)
        )
        for kill in range(kills):
            await eventually(lambda: device.confirmed > count * (kill + 1) / (kills + 1), timeout=60)  # noqa: B023
            stack.edge.kill()
            stack.edge.start()
        await publishing
        await stack.settled(count)
        accepted = await stack.settled(1)
        assert await stack.counts() == {"relay": accepted}
        device.send("devices/d1/telemetry", [b"together"] * at_once)  # what was slow and journalled has a result each
        await stack.settled(accepted + at_once)
        assert await stack.counts() == {"relay": accepted + at_once}
        assert any(row["count"] > 1 for row in await stack.of_cloud("get.results", limit=5000))
