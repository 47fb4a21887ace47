"""An agent that makes results and writes down each that was accepted: ``python -m tests.e2e.producer URL DIR FIRST
COUNT PROTOCOL``.

The list of accepted ids is the oracle of the crash tests: it is appended only after the spool said that the result is
durable, so whatever stands in it must be counted exactly once, whatever was killed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from common.settings import BrokerSettings
from edge.agent import Agent
from edge.settings import EdgeSettings, Settings
from edge.status import RuleRef
from tests.e2e.stack import NODE


async def produce(url: str, directory: str, first: int, count: int, protocol: str) -> None:
    """Make the results ``first`` to ``count``, note the accepted ones, and stay until all are confirmed."""
    broker = BrokerSettings(url=url, protocol=protocol, reconnect_max_s=0.5)  # type: ignore[arg-type]
    agent = Agent(Settings(data_dir=directory, broker=broker, edge=EdgeSettings(node=NODE)))
    await agent.start()
    accepted = os.open(Path(directory) / "accepted", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    rules = [RuleRef("default", f"rule-{n}") for n in range(3)]
    for n in range(first, count):
        source = f"{os.getpid()}-{n}"
        line = f"{source}\n".encode()
        agent.status.record(rules[n % 3], source_id=source, on_durable=lambda line=line: os.write(accepted, line))  # type: ignore[misc]
        if n % 20 == 0:
            await asyncio.sleep(0.002)
    while True:
        await asyncio.sleep(0.05)
        if agent.spool.stats.confirmed == agent.spool.stats.accepted > 0 and not agent.spool._writer.waiting:
            (Path(directory) / "done").touch()


async def main(argv: list[str]) -> None:
    """Run with the arguments of the command."""
    url, directory, first, count, protocol = argv
    await produce(url, directory, int(first), int(count), protocol)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
