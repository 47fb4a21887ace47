"""Reliability R3, load: many nodes that come back at the same moment, against a real controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.control import call, socket_path
from common.errors import ControlError
from tests.e2e.stack import Process
from tests.support.brokers import Broker
from tests.support.fleet import FAILING_EVERY, Fleet
from tests.support.wait import eventually

NODES, RULES, EACH = 100, 20, 120  # results of each node: first connected, then with the broker away
BACK_S = 60.0
SENDS_MAX = 6  # of one message: the probe, the slow start, and resends of a controller that is slow to answer


class Cloud:
    """A controller process for the fleet."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        args = ["--broker", broker.url, "--data-dir", str(directory)]
        sets = ("broker.reconnect_max_s=0.5", f"broker.protocol={broker.protocol}")
        self._socket = socket_path(directory, "cloud")
        self.process = Process("cloud", [*args, *(part for text in sets for part in ("--set", text))],
                               directory / "cloud.log")  # fmt: skip

    async def ask(self, operation: str, **args: Any) -> Any:
        """Ask it; None while it does not answer."""
        try:
            return await call(self._socket, operation, **args)
        except ControlError:
            return None


async def test_all_nodes_come_back_at_once_and_each_result_counts_once(any_broker: Broker, tmp_path: Path):
    """A hundred nodes lose their broker, go on working, and reconnect at once when it comes back without memory: within
    a minute everything is counted exactly, per node and rule, nothing is lost or refused, no message is sent more than
    a few times, and every node is online.
    """
    cloud = Cloud(any_broker, tmp_path)
    fleet = Fleet(any_broker.settings(), NODES, batch=20)
    cloud.process.start()
    try:
        await eventually(lambda: cloud.ask("statistics"), timeout=20, what="the controller answers")
        await fleet.start()
        await fleet.make(EACH, rules=RULES, burst=20, waiting_max=NODES * EACH)
        await fleet.settled(BACK_S)
        await any_broker.kill()
        any_broker.wipe()
        await eventually(lambda: fleet.connected == 0, what="all nodes see that the broker is gone")
        await fleet.make(EACH, rules=RULES, burst=20, waiting_max=2 * NODES * EACH)
        before = fleet.statistics()
        await any_broker.start()
        await eventually(lambda: fleet.ready == NODES, BACK_S, what="all nodes are connected again")
        await fleet.settled(BACK_S)
        after = fleet.statistics()
        messages = NODES * EACH // 20
        assert messages <= after["sent"] - before["sent"] <= SENDS_MAX * messages
        assert (after["connects"], after["lost"], after["refused"]) == (2 * NODES, 0, 0)
        await eventually(lambda: _all_online(cloud), BACK_S, what="the cloud knows that all nodes are online")
        rows = await cloud.ask("get.rules", per_node=True)
        fails = 2 * EACH // FAILING_EVERY
        assert {node: _sums(rows, node) for node in {row["node"] for row in rows}} == {
            f"n{n}": (2 * EACH - fails, fails) for n in range(NODES)
        }
        assert {row["rule"]: row["success"] + row["fail"] for row in await cloud.ask("get.rules")} == {
            f"rule-{n}": 2 * EACH * NODES // RULES for n in range(RULES)
        }
        assert (await cloud.ask("get.losses"), await cloud.ask("get.dead_letters")) == ([], [])
    finally:
        await fleet.stop()
        cloud.process.end()


async def _all_online(cloud: Cloud) -> bool:
    return [row["state"] for row in await cloud.ask("get.nodes") or ()] == ["online"] * NODES


def _sums(rows: list[dict[str, Any]], node: str) -> tuple[int, int]:
    mine = [row for row in rows if row["node"] == node]
    return sum(row["success"] for row in mine), sum(row["fail"] for row in mine)
