"""Edge, broker and cloud as processes, each behind a proxy, and the account of what was accepted and counted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from common.control import call, socket_path
from common.errors import ControlError
from common.messaging.child import dies_with_parent
from tests.faults.fault import VARIABLE
from tests.support.brokers import Broker
from tests.support.nursery import Forked, Nursery, shared
from tests.support.proxy import TcpProxy
from tests.support.wait import eventually


class Child:
    """One program of the tests as a process, started, killed and started again.

    It starts as a fork of a nursery, without the time that imports take: of ``nursery``, or of the session's when
    nothing is asked of its environment; unless told to start ``cold``.
    """

    def __init__(self, module: str, log: Path) -> None:
        self.module, self._log = module, log
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.nursery: Nursery | None = None
        self.starts = 0

    def start(
        self, *args: object, fault: str = "", environment: dict[str, str] | None = None, cold: bool = False
    ) -> None:
        """Start with these arguments; ``fault`` is the point at which it kills itself."""
        env = {**(os.environ if environment is None else environment), VARIABLE: fault}
        self.starts += 1
        nursery = shared(self.module) if self.nursery is None and environment is None else self.nursery
        if nursery is not None and not cold:
            more = {name: value for name, value in env.items() if os.environ.get(name) != value}
            self.process = nursery.start([str(arg) for arg in args], more, self._log)
            return
        command = dies_with_parent([sys.executable, "-m", self.module, *map(str, args)])
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)

    @property
    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> int:
        """kill -9; returns the exit code, which is another one if it had ended before."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait(20)

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


class Pipeline:
    """Everything over ``directory``, with one proxy between edge and broker and one between cloud and broker.

    ``rate`` results a second, ``count`` of them in each life of the edge.
    """

    def __init__(self, broker: Broker, directory: Path, *, count: int = 10**9, rate: float = 1000) -> None:
        self.broker, self.directory, self._count, self._rate = broker, directory, count, rate
        self.edge_dir, self.cloud_dir = directory / "edge", directory / "cloud"
        self.edge_proxy = TcpProxy("127.0.0.1", broker.port)
        self.cloud_proxy = TcpProxy("127.0.0.1", broker.port)
        self.edge = Child("tests.faults.edge_child", directory / "edge.log")
        self.cloud = Child("tests.faults.cloud_child", directory / "cloud.log")
        self.seen: Counter[str] = Counter()  # source ids in the cloud
        self._accepted: list[str] = []
        self._read = 0  # bytes of the record of accepted ids
        self._last = 0  # row in the cloud

    async def __aenter__(self) -> Pipeline:
        for directory in (self.edge_dir, self.cloud_dir):
            directory.mkdir()
        await self.edge_proxy.start()
        await self.cloud_proxy.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for child in (self.edge, self.cloud):
            if child.process is not None and child.ended is None:
                child.kill()
        await self.edge_proxy.stop()
        await self.cloud_proxy.stop()

    def start_edge(self, *, fault: str = "", environment: dict[str, str] | None = None, cold: bool = False) -> str:
        """Start the edge and return the name that the ids of this life begin with."""
        name = f"life{self.edge.starts}"
        args = (self.edge_proxy.url, self.edge_dir, name, self._count, self._rate, self.broker.protocol)
        self.edge.start(*args, fault=fault, environment=environment, cold=cold)
        return name

    def start_cloud(self, *, fault: str = "", environment: dict[str, str] | None = None, cold: bool = False) -> None:
        args = (self.cloud_proxy.url, self.cloud_dir, self.broker.protocol)
        self.cloud.start(*args, fault=fault, environment=environment, cold=cold)

    def accepted(self) -> list[str]:
        """The ids that the edge said are durable, in order."""
        file = self.edge_dir / "accepted"
        if file.exists():
            with open(file, "rb") as lines:
                lines.seek(self._read)
                whole = lines.read().rpartition(b"\n")[0]
            if whole:
                self._read += len(whole) + 1
                self._accepted += whole.decode().split("\n")
        return self._accepted

    async def collect(self) -> int:
        """Take what the cloud has counted since the last call; how many ids are new. 0 while it does not answer."""
        before = len(self.seen)
        try:
            while rows := await asyncio.wait_for(
                call(socket_path(self.cloud_dir, "cloud"), "get.results", limit=5000, since=self._last), 10
            ):
                self.seen.update(row["source_id"] for row in rows)
                self._last = rows[-1]["id"]
        except (ControlError, TimeoutError):
            pass
        return len(self.seen) - before

    async def counted(self) -> int:
        """The exact counts of the cloud; -1 while it does not answer."""
        try:
            rows = await call(socket_path(self.cloud_dir, "cloud"), "get.rules")
        except ControlError:
            return -1
        return sum(row["success"] + row["fail"] for row in rows)

    async def settled(self, timeout: float = 30) -> None:
        """Let the edge make no more, and wait until it says that all is confirmed."""
        (self.edge_dir / "enough").touch()
        await eventually((self.edge_dir / "done").exists, timeout, what="everything is confirmed")

    async def account(self) -> tuple[int, int, int, int]:
        """Accepted, counted, lost, doubled. Afterwards counts and single results agree, or AssertionError."""
        await eventually(self._answers, 20, what="the cloud answers")
        await self.collect()
        accepted, counted = self.accepted(), await self.counted()
        assert counted == sum(self.seen.values()), "counts and single results disagree"
        lost = sum(1 for source in accepted if source not in self.seen)
        doubled = sum(times - 1 for times in self.seen.values())
        return len(accepted), counted, lost, doubled

    async def ledger(self, timeout: float = 30) -> tuple[str, list[str]]:
        """The node's balance in the cloud's ledger, when it can be said, and its words (P5.11)."""
        found: tuple[str, list[str]] = ("open", [])

        async def known() -> bool:
            nonlocal found
            try:
                (row,) = (await call(socket_path(self.cloud_dir, "cloud"), "ledger"))["nodes"]
            except ControlError:
                return False
            found = row["balance"], row["words"]
            return found[0] != "open"

        await eventually(known, timeout, what="the ledger knows the node's account")
        return found

    async def _answers(self) -> bool:
        return await self.counted() >= 0
