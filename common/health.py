"""``python -m common.health [--connected]``: does the process of this data directory live, and has it its broker?

For the health checks of containers: it asks through the control socket and loads little else. Exit code 0 when every
process that has a socket here answers, 1 with one line when one does not or there is none.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.config import load
from common.control import call, socket_path
from common.errors import ConfigError, ControlError
from common.settings import SharedSettings

SIDES = ("cloud", "edge", "telemetry")
ANSWER_S = 4.0


async def ailing(data_dir: str | Path, *, connected: bool) -> list[str]:
    """Return what is wrong with the processes of this data directory; nothing when all is well.

    With ``connected`` each connection to a broker must stand, too: for whoever waits until all of it works. An agent
    works without its broker, so that alone is no reason to start it again.
    """
    found = [side for side in SIDES if socket_path(data_dir, side).exists()]
    if not found:
        return [f"no control socket in {data_dir}"]
    faults: list[str] = []
    for side in found:
        try:
            async with asyncio.timeout(ANSWER_S):
                statistics = await call(socket_path(data_dir, side), "statistics")
        except (ControlError, TimeoutError) as exc:
            faults.append(f"{side} does not answer: {str(exc) or f'{ANSWER_S:g} s'}")
            continue
        if connected:
            faults += [f"{side}: {name} is not connected" for name, stands in links(statistics) if not stands]
    return faults


def links(statistics: Any, name: str = "") -> Iterator[tuple[str, bool]]:
    """Yield (name, connected) of each connection in the statistics of a process."""
    if isinstance(statistics, dict):
        if isinstance(statistics.get("connected"), bool | int):
            yield name, bool(statistics["connected"])
        for key, value in statistics.items():
            yield from links(value, f"{name}.{key}" if name else str(key))


def main(argv: Sequence[str]) -> int:
    """Look once; return the exit code."""
    try:
        directory = load(SharedSettings, environ=os.environ, overrides={}).data_dir
        faults = asyncio.run(ailing(directory, connected="--connected" in argv))
    except ConfigError as exc:
        faults = [str(exc)]
    sys.stdout.write("; ".join(faults) + "\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
