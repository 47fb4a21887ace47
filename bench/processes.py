"""The processes of a benchmark: a controller, an agent, a fleet of nodes; and what they cost in CPU and memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from common.control import call, socket_path
from common.errors import ControlError
from common.messaging.child import dies_with_parent
from tests.support.brokers import Broker, Mosquitto

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 30.0
LINE_BYTES_MAX = 1 << 20
ENVIRONMENT = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}  # with compiled modules, as on any user's machine
MOSQUITTO_LINES = ("max_queued_messages 100000", "set_tcp_nodelay true")  # 1,000, its default, drops and acknowledges


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[Mosquitto, Path]]:
    """An empty directory, and a broker of its own: presence that is retained would be known in the next round."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        broker = Mosquitto(place / "mosquitto", protocol="5", config_lines=MOSQUITTO_LINES, verbose=False)
        await broker.start()
        try:
            yield broker, place
        finally:
            await broker.stop()


def memory_bytes(pid: int, what: str = "VmRSS") -> int:
    """Resident memory of a process; ``what`` VmHWM is the most that it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024
    raise ValueError(f"no {what} in the status of process {pid}")


class Program:
    """One of our programs under measurement, ``side`` cloud or edge."""

    def __init__(self, side: str, pid: int, sock: Path) -> None:
        self.side, self.pid, self._sock = side, pid, sock

    async def ask(self, operation: str, **args: Any) -> Any:
        """Ask through its control socket."""
        return await call(self._sock, operation, **args)

    async def answers(self) -> None:
        """Wait until it is up. Raises TimeoutError."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                try:
                    await self.ask("statistics")
                    return
                except ControlError:
                    await asyncio.sleep(0.01)


@asynccontextmanager
async def program(side: str, broker: Broker, directory: Path, *args: str) -> AsyncIterator[Program]:
    """Run ``python -m cloud`` or ``python -m edge`` on this broker and directory until the block ends."""
    command = [sys.executable, "-m", side, "--broker", broker.url, "--data-dir", str(directory)]
    command += ["--set", f"broker.protocol={broker.protocol}", "--set", "log.level=error", *args]
    process = await asyncio.create_subprocess_exec(
        *dies_with_parent(command), stdin=subprocess.DEVNULL, env=ENVIRONMENT
    )
    try:
        yield Program(side, process.pid, socket_path(directory, side))
    finally:
        await _end(process)


class FleetProcess:
    """A ``tests.support.fleet`` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def ask(self, command: str, **args: Any) -> Any:
        """Let it do what ``Fleet`` has under this name; returns the answer. Raises RuntimeError when it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode((command, args)) + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fleet ended at {command}")
        return msgspec.json.decode(line)


@asynccontextmanager
async def fleet(broker: Broker, nodes: int, *, batch: int, nodestatus_s: float = 15.0) -> AsyncIterator[FleetProcess]:
    """Run a fleet of ``nodes`` nodes until the block ends; they connect at ``start``. Arguments as for ``Fleet``."""
    args: Sequence[object] = (broker.url, broker.protocol, nodes, batch, nodestatus_s)
    process = await asyncio.create_subprocess_exec(
        *dies_with_parent([sys.executable, "-m", "tests.support.fleet", *map(str, args)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    try:
        yield FleetProcess(process)
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
