"""kill -9 at each named fault point while a rule from the cloud is put on the disk (protocol P6, reliability R3)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.faults import RULES_POINTS
from common.resource import RULE, RULEENDPOINT
from common.rulesync import APPLIED
from tests.e2e.test_downlink import PlayedCloud, played_cloud
from tests.edge.cloudside import BUS, order, spec
from tests.faults.pipeline import Child
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Child]:
    """An agent without rules of its own."""
    child = Child("tests.faults.edge_child", tmp_path / "edge.log")
    yield child
    if child.process is not None:
        child.kill()


async def test_a_kill_at_each_point_loses_nothing_that_was_answered(
    mosquitto: Mosquitto, tmp_path: Path, agent: Child
) -> None:
    """A real process: it ends without an answer, starts with the old version or the new one, whole, with all else that
    it had, and takes the version when it is sent again.
    """
    async with played_cloud(mosquitto) as cloud:
        version = 1
        await _started(cloud, agent, tmp_path, mosquitto)
        assert await cloud.ask(order(RULEENDPOINT, "bus", "e-1", 1, BUS)) == "OK"
        assert await cloud.ask(order(RULE, "a", "u-1", version, spec())) == "OK"
        for point in RULES_POINTS:
            version += 1
            agent.kill()
            await _started(cloud, agent, tmp_path, mosquitto, point)
            await cloud.tell(order(RULE, "a", "u-1", version, spec()))
            await eventually(lambda: agent.ended is not None, what=f"killed at {point}")
            assert agent.ended == -signal.SIGKILL, agent.tail()
            await _started(cloud, agent, tmp_path, mosquitto)
            runs = version - 1 if point in RULES_POINTS[:2] else version
            assert await cloud.list() == [("a", runs, APPLIED, runs), ("bus", 1, APPLIED, 1)]
            assert await cloud.ask(order(RULE, "a", "u-1", version, spec())) == "OK"
            assert (await cloud.list())[0] == ("a", version, APPLIED, version)


async def _started(cloud: PlayedCloud, agent: Child, directory: Path, broker: Mosquitto, fault: str = "") -> None:
    """Start the agent and wait until it is online."""
    seen = len(cloud.hashes())
    agent.start(broker.url, directory, "none", 0, 1, "5", fault=f"{fault}:1" if fault else "")
    await eventually(lambda: len(cloud.hashes()) > seen, 20, what="the node says what it has")
