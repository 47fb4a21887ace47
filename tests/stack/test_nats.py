"""The durable three-node cluster of deploy/nats: one server is killed under load, and then another (decision 7)."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import pytest

from cloud.controller import Controller
from cloud.settings import Settings as CloudSettings
from edge.agent import Agent
from edge.settings import EdgeSettings
from edge.settings import Settings as AgentSettings
from edge.status import RuleRef
from tests.stack.nats import Cluster
from tests.support.wait import eventually

NODE, RULE = "gw-1", RuleRef("default", "relay")
COUNT, ROUND, PROBES = 3000, 20, 3
FAIL_OVER_S = 60


async def test_one_of_three_is_killed_and_counts_stay_exact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R1: the server that the agent uses is killed under load, and when it is back the one of the controller: each goes
    on at another of its list, and every accepted result is counted once.
    """
    caplog.set_level(logging.INFO, "common.messaging.dialer")
    async with Cluster(tmp_path, NODE) as cluster:
        cloud = Controller(CloudSettings(data_dir=str(tmp_path / "cloud"), broker=cluster.settings("cloud-1")))
        agent = Agent(
            AgentSettings(data_dir=str(tmp_path / "edge"), broker=cluster.settings(NODE), edge=EdgeSettings(node=NODE))
        )
        await cloud.start()
        await agent.start()
        try:
            await _sees_its_controller(agent)
            for number in range(COUNT):
                agent.status.record(RULE, source_id=str(number))
                if number in (COUNT // 3, 2 * COUNT // 3):
                    await eventually(lambda: agent.spool.stats.confirmed > 0)
                    killed = cluster.ports.index(_port_of(NODE if number == COUNT // 3 else "cloud-1", caplog.text))
                    cluster.kill(killed)
                    await _sees_its_controller(agent)
                    cluster.start(killed)
                    await eventually(lambda: cluster.is_current(killed), timeout=FAIL_OVER_S)  # noqa: B023
                elif number % ROUND == 0:
                    await asyncio.sleep(0.002)
            made = COUNT + PROBES
            await eventually(lambda: agent.spool.stats.confirmed == made, timeout=FAIL_OVER_S, what="all is confirmed")
            assert {node: row.results for node, row in (await cloud.store.counted()).items()} == {NODE: made}
            assert caplog.text.count(f"{NODE}: connected to") > 1 < caplog.text.count("cloud-1: connected to")
        finally:
            await agent.stop()
            await cloud.stop()


def _port_of(name: str, log: str) -> int:
    """The port to which ``name`` connected last."""
    return int(re.findall(rf"{name}: connected to mqtts://[^ ]+:(\d+)", log)[-1])


async def _sees_its_controller(agent: Agent) -> None:
    """Wait until something new was confirmed: both sides are connected, and the cluster works."""
    before = agent.spool.stats.confirmed
    agent.status.record(RuleRef("default", "probe"))
    await eventually(lambda: agent.spool.stats.confirmed > before, timeout=FAIL_OVER_S, what="it goes on")
