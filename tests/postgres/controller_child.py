"""A controller among several: ``python -m tests.postgres.controller_child URL DIR PROTOCOL ID STORE``."""

from __future__ import annotations

import asyncio
import sys

from cloud.controller import Controller
from cloud.settings import CloudSettings, Settings, SharingSettings, StoreSettings
from common.settings import BrokerSettings


async def main(url: str, directory: str, protocol: str, controller: str, store: str) -> None:
    """Run until killed."""
    broker = BrokerSettings(url=url, protocol=protocol, reconnect_max_s=0.5, keepalive_s=5, stall_s=3)  # type: ignore[arg-type]
    cloud = CloudSettings(controller=controller, store=StoreSettings(url=store), sharing=SharingSettings(lease_s=2.0))
    await Controller(Settings(data_dir=directory, broker=broker, cloud=cloud)).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
