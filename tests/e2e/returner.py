"""A node that was away and comes back: ``python -m tests.e2e.returner URL DIR PROTOCOL RUN OLD``.

It records ``OLD`` results before it waits for a controller, and then one after another while a backlog drains. The file
``told`` has a line for each that is durable: its name, and the sequence up to which messages were frozen then.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from common.settings import BrokerSettings
from edge.agent import Agent
from edge.settings import EdgeSettings, Settings, UplinkSettings
from edge.status import RuleRef
from tests.e2e.stack import NODE

RULES = [RuleRef("default", f"rule-{n}") for n in range(3)]
WINDOW = UplinkSettings(window_messages=8, batch_results=4)  # many messages, so that a drain takes a while
LIVE_MIN = 50


async def live(url: str, directory: Path, protocol: str, run: str, old: int) -> None:
    """Fill, wait for the cloud, go on, and stay until everything is confirmed."""
    broker = BrokerSettings(url=url, protocol=protocol, reconnect_max_s=0.5)  # type: ignore[arg-type]
    agent = Agent(Settings(data_dir=str(directory), broker=broker, edge=EdgeSettings(node=NODE, uplink=WINDOW)))
    told = os.open(directory / "told", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def record(name: str, number: int) -> None:
        def durable() -> None:
            os.write(told, f"{name}-{number} {agent.spool.stats.next_sequence - 1}\n".encode())

        agent.status.record(RULES[number % len(RULES)], source_id=f"{name}-{number}", on_durable=durable)

    await agent.start()
    for number in range(old):
        record(f"old{run}", number)
        if number % 200 == 0:
            await asyncio.sleep(0.001)
    while agent.spool.stats.accepted < old:
        await asyncio.sleep(0.01)
    (directory / f"filled-{run}").touch()
    while not agent.uplink.statistics()["controllers"]:
        await asyncio.sleep(0.001)
    number = 0
    while True:
        stats = agent.spool.stats
        if stats.backlog or number < LIVE_MIN:
            record(f"live{run}", number)
            number += 1
        elif stats.confirmed == stats.accepted:
            (directory / "done").touch()
        await asyncio.sleep(0.002)


async def main(argv: list[str]) -> None:
    """Run with the arguments of the command."""
    url, directory, protocol, run, old = argv
    await live(url, Path(directory), protocol, run, int(old))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
