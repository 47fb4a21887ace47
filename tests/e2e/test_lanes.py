"""A node comes back after an outage: what happens now is not behind what was kept (protocol P5.6), by order alone.

Real processes and a real broker. An observer at the broker notes every message in the order in which it came.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from common.codec import decode
from common.models import ExecResult, parse_version
from tests.e2e.stack import Process, counted
from tests.e2e.test_crashes import RING
from tests.support.brokers import NO_MOSQUITTO, Mosquitto, find_mosquitto
from tests.support.client import Client
from tests.support.wait import eventually

OLD = 6_000
DRAINED_MIN = 300  # messages before the kill


class Seen(NamedTuple):
    """A message at the broker, when it came for the first time."""

    epoch: int
    sequence: int
    names: list[str]


def _seen(client: Client) -> list[Seen]:
    """What came, in order, each message once."""
    first: dict[bytes, Seen] = {}
    for topic, payload, _ in list(client.messages):
        if "/rulestatus" in topic and payload not in first:
            message = decode(payload, ExecResult | list[ExecResult])
            epoch, sequence = parse_version(message.header.resourceversion)
            items = message.content if isinstance(message.content, list) else [message.content]
            first[payload] = Seen(epoch.n, sequence, [item.source_id for item in items])
    return list(first.values())


def _numbers(seen: list[Seen], name: str) -> dict[int, list[int]]:
    """The numbers of the results called ``name`` in the order in which they came, by rule."""
    found: dict[int, list[int]] = defaultdict(list)
    for number in (int(each.partition("-")[2]) for one in seen for each in one.names if each.startswith(f"{name}-")):
        found[number % 3].append(number)
    return found


def _check_order(seen: list[Seen]) -> None:
    """Sequences come in their order, and so do a rule's results within their lane."""
    for epoch in {one.epoch for one in seen}:
        sequences = [one.sequence for one in seen if one.epoch == epoch]
        assert sequences == list(range(1, len(sequences) + 1))
    for name in ("old1", "live1", "live2"):
        for numbers in _numbers(seen, name).values():
            assert numbers == sorted(set(numbers))


def _check_live(seen: list[Seen], told: dict[str, int], name: str, epoch: int) -> int:
    """Of the messages that were frozen after a live result was accepted and before its own, at most every second one is
    of the backlog, as it is its turn; how many live results were looked at.
    """
    of_run = [one for one in seen if one.epoch == epoch]
    is_live = [one.names[0].startswith(name) for one in of_run]
    last_old = max(at for at, live in enumerate(is_live) if not live)
    looked = 0
    for at, one in enumerate(of_run[:last_old]):
        for each in one.names if is_live[at] else ():
            before = is_live[told.get(each, at) : at]  # sequences begin with 1
            assert before.count(False) <= before.count(True) + 1, (each, told[each], one.sequence)
            looked += each in told
    return looked


async def test_live_results_pass_the_backlog_and_counts_survive_a_kill(tmp_path: Path):
    """P5.6, R1.1 to R1.3: while 6,000 kept results drain, what is accepted goes beside them, in its order; the node
    is killed in the middle of it, and everything accepted is counted once.
    """
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    broker = Mosquitto(tmp_path / "broker", config_lines=["max_queued_messages 100000"])
    async with broker:
        edge_dir = tmp_path / "edge"
        edge_dir.mkdir()
        settings = [part for text in [*RING, "broker.reconnect_max_s=0.5"] for part in ("--set", text)]
        cloud = Process(
            "cloud", ["--broker", broker.url, "--data-dir", str(tmp_path), *settings], tmp_path / "cloud.log"
        )

        def node(run: int, old: int) -> Process:
            args = [broker.url, str(edge_dir), broker.protocol, str(run), str(old)]
            return Process("tests.e2e.returner", args, tmp_path / "edge.log")

        async with Client(broker.port, "observer") as observer:
            await observer.subscribe("fieldpost/up/+/router:resource/update/#")
            edge = node(1, OLD)
            edge.start()
            await eventually((edge_dir / "filled-1").exists, timeout=60)
            cloud.start()
            await eventually(lambda: len(observer.messages) > DRAINED_MIN, timeout=60)
            edge.kill()
            edge = node(2, 0)
            edge.start()
            await eventually((edge_dir / "done").exists, timeout=120)
            count, results = await counted(tmp_path)
            await eventually(
                lambda: sum(len(one.names) for one in _seen(observer)) == count, interval=0.2, what="all observed"
            )
            seen = _seen(observer)
        lines = [line.split() for line in (edge_dir / "told").read_text().splitlines()]
        told = {name: int(sequence) for name, sequence in lines}
        times = Counter(row["source_id"] for row in results)
        assert [name for name in told if times[name] != 1] == []
        assert count == len(results) == len(times) >= OLD
        _check_order(seen)
        assert _check_live(seen, told, "live1", 1) > 10
        assert _check_live(seen, told, "live2", 2) > 10
        edge.end()
        cloud.end()
