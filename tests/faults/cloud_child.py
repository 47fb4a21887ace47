"""A controller that keeps every single result: ``python -m tests.faults.cloud_child URL DIR PROTOCOL``."""

from __future__ import annotations

import asyncio
import sys

from cloud.controller import Controller
from cloud.settings import CloudSettings, Settings, StoreSettings
from common.settings import BrokerSettings
from tests.faults.fault import from_environment

ALL = 1_000_000_000
STORE = StoreSettings(ring_rule_max=ALL, ring_total_max=ALL, ring_rate_max=ALL, ring_rate_total_max=ALL)


async def main(url: str, directory: str, protocol: str) -> None:
    """Run until killed."""
    broker = BrokerSettings(url=url, protocol=protocol, reconnect_max_s=0.5, keepalive_s=5, stall_s=3)  # type: ignore[arg-type]
    settings = Settings(data_dir=directory, broker=broker, cloud=CloudSettings(store=STORE))
    await Controller(settings, fault=from_environment()).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
