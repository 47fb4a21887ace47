"""Controllers that are killed under load: ``python -m tests.postgres.chaos [--seconds 60] [--embedded]``.

Two controllers with one PostgreSQL store take what a fleet of nodes makes, through Mosquitto's shared subscriptions or
the embedded broker and a lease. One of them, in turn, is killed with -9 every second and started again. At the end
every result must be counted once, per node, and the ledger must balance.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from common.control import call, socket_path
from common.errors import ControlError
from tests.support.brokers import Broker, Embedded, Mosquitto
from tests.support.fleet import Fleet
from tests.support.nursery import Forked, Nursery
from tests.support.postgres import Schemas, server
from tests.support.wait import eventually

NODES, RULES, BURST = 4, 5, 10
MAKE_EVERY_S = 0.02
SETTLE_S = 60.0


class Report(msgspec.Struct):
    """What became of everything: in results, per node where it is a list."""

    seconds: float
    kills: int
    made: int
    counted: int
    wrong_nodes: list[str]
    balances: dict[str, str]
    resent: int
    duplicates: int
    most_waiting: int
    settled_after_s: float


class Controllers:
    """Two controllers as processes, over one store."""

    def __init__(self, broker: Broker, directory: Path, store: str) -> None:
        self._broker, self._directory, self._store = broker, directory, store
        self._nursery = Nursery("tests.postgres.controller_child")
        self._processes: dict[str, Forked] = {}
        self.ids = ("cloud-1", "cloud-2")

    def start(self, controller: str) -> None:
        """Start one."""
        data = self._directory / controller
        args = [self._broker.url, str(data), self._broker.protocol, controller, self._store]
        self._processes[controller] = self._nursery.start(args, {}, self._directory / f"{controller}.log")

    def kill(self, controller: str) -> None:
        """kill -9, and the end of it. It must not have ended by itself."""
        process = self._processes[controller]
        assert process.poll() is None, f"{controller} ended:\n{self.log(controller)}"
        process.send_signal(signal.SIGKILL)
        process.wait(20)

    def log(self, controller: str) -> str:
        """The last of what it said."""
        return (self._directory / f"{controller}.log").read_text(errors="replace")[-3000:]

    async def ask(self, operation: str, **args: Any) -> Any:
        """Ask the first one that answers; None when none does."""
        for controller in self.ids:
            try:
                return await call(socket_path(self._directory / controller, "cloud"), operation, **args)
            except ControlError:
                continue
        return None

    def close(self) -> None:
        """End all."""
        self._nursery.close()


async def run(broker: Broker, directory: Path, store: str, seconds: float, seed: int) -> Report:
    """Kill for so long, then let everything settle and count."""
    rng, controllers = random.Random(seed), Controllers(broker, directory, store)
    fleet = Fleet(broker.settings(), NODES, batch=20, nodestatus_s=1.0, seed=seed)
    try:
        for controller in controllers.ids:
            controllers.start(controller)
        await fleet.start()
        most, kills, began = 0, 0, time.monotonic()
        next_kill = began + 1.0
        while time.monotonic() - began < seconds:
            if fleet.unconfirmed < 20_000:
                await fleet.make(BURST, rules=RULES, burst=BURST, waiting_max=10**9)
            most = max(most, fleet.unconfirmed)
            if time.monotonic() >= next_kill:
                next_kill += 1.0
                victim = controllers.ids[kills % 2]
                controllers.kill(victim)
                kills += 1
                asyncio.get_running_loop().call_later(rng.uniform(0, 0.5), controllers.start, victim)
            await asyncio.sleep(MAKE_EVERY_S)
        await asyncio.sleep(0.6)  # the last one killed is back
        stopped = time.monotonic()
        await fleet.settled(SETTLE_S)
        took = time.monotonic() - stopped
        return await _account(controllers, fleet, seconds, kills, most, took)
    finally:
        await fleet.stop()
        controllers.close()


async def _account(
    controllers: Controllers, fleet: Fleet, seconds: float, kills: int, most: int, took: float
) -> Report:
    made = {node.name: node.made for node in fleet.nodes}
    rows = await eventually(lambda: controllers.ask("get.rules", per_node=True), SETTLE_S)
    counted = dict.fromkeys(made, 0)
    for row in rows:
        counted[row["node"]] += row["success"] + row["fail"]
    balances: dict[str, str] = {}

    async def balanced() -> bool:
        found = await controllers.ask("ledger")
        balances.update({row["node"]: row["balance"] for row in found["nodes"]} if found else {})
        return len(balances) == len(made) and set(balances.values()) <= {"ok", "off"}

    await eventually(balanced, SETTLE_S, 0.2, what="the ledger knows every node's account")
    nodes = await controllers.ask("get.nodes")
    return Report(
        seconds, kills, sum(made.values()), sum(counted.values()),
        [f"{node}: made {made[node]}, counted {counted[node]}" for node in made if made[node] != counted[node]],
        balances, fleet.statistics()["resent"], sum(row["duplicates"] for row in nodes), most, took,
    )  # fmt: skip


def broken(report: Report) -> list[str]:
    """What the report says that must not be; empty when every promise was kept."""
    found = list(report.wrong_nodes)
    return found + [f"{node}: {balance}" for node, balance in report.balances.items() if balance != "ok"]


async def _main(seconds: float, embedded: bool, seed: int) -> int:
    with tempfile.TemporaryDirectory() as name, server() as url:
        directory = Path(name)
        broker: Broker = Embedded(directory / "broker") if embedded else Mosquitto(directory / "broker", verbose=False)
        if not embedded:
            (directory / "broker").mkdir()
        async with broker:
            report = await run(broker, directory, Schemas(url).new(), seconds, seed)
    print(f"seed {seed}", msgspec.json.format(msgspec.json.encode(report), indent=2).decode(), sep="\n")  # noqa: T201
    return 1 if broken(report) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--embedded", action="store_true", help="the embedded broker, which has no shared subscriptions"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    args_ = parser.parse_args()
    raise SystemExit(asyncio.run(_main(args_.seconds, args_.embedded, args_.seed)))
