"""An agent that makes results at a steady rate and writes down each that was accepted:
``python -m tests.faults.edge_child URL DIR NAME COUNT RATE PROTOCOL``.

``DIR/accepted`` is the oracle: a line each, written after the spool said that the result is durable. NAME makes the
source ids of this life its own. It ends its production at COUNT, or when ``DIR/enough`` appears, and touches
``DIR/done`` when all is confirmed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from common.errors import QueueFullError
from common.settings import BrokerSettings
from edge.agent import Agent
from edge.settings import EdgeSettings, Settings, UplinkSettings
from edge.status import RuleRef
from tests.e2e.stack import NODE
from tests.faults.fault import from_environment
from tests.faults.records import Record

RULES = [RuleRef("default", f"rule-{n}") for n in range(3)]
STEP_S = 0.01
EDGE = EdgeSettings(node=NODE, uplink=UplinkSettings(nodestatus_s=2))  # its account is known soon after the last result


class Producer:
    """Results ``NAME-0``, ``NAME-1`` and so on."""

    def __init__(self, agent: Agent, directory: Path, name: str) -> None:
        self._agent, self._directory, self._name = agent, directory, name
        self._accepted = Record(directory, "accepted")
        self._made = 0

    async def run(self, count: int, rate: float) -> None:
        begun = time.monotonic()
        while self._made < count and not (self._directory / "enough").exists():
            due = min(count, int((time.monotonic() - begun) * rate) + 1)
            while self._made < due and self._make():
                pass
            await asyncio.sleep(STEP_S)
        stats = self._agent.spool
        while not (stats.stats.confirmed == stats.stats.accepted and not stats._writer.waiting):
            await asyncio.sleep(0.02)
        (self._directory / "done").touch()

    def _make(self) -> bool:
        source = f"{self._name}-{self._made}"
        try:
            self._agent.status.record(
                RULES[self._made % 3], source_id=source, on_durable=lambda: self._accepted(source)
            )
        except QueueFullError:
            return False
        self._made += 1
        return True


async def main(url: str, directory: str, name: str, count: str, rate: str, protocol: str) -> None:
    """Run until killed; an agent that fails ends the process, to be started again from what is on disk."""
    broker = BrokerSettings(url=url, protocol=protocol, reconnect_max_s=0.5, keepalive_s=5, stall_s=3)  # type: ignore[arg-type]
    settings = Settings(data_dir=directory, broker=broker, edge=EDGE)
    agent = Agent(settings, fault=from_environment())
    await agent.start()
    await Producer(agent, Path(directory), name).run(int(count), float(rate))
    await agent.failed


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
