"""Brokers for tests: real servers as child processes on loopback, which die with the test process."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from common.messaging.broker import EmbeddedBroker
from common.messaging.child import dies_with_parent
from common.messaging.probe import answers_mqtt
from common.settings import BrokerSettings
from tests.support.wait import free_port

NO_MOSQUITTO = "mosquitto is not installed: apt-get install mosquitto"
START_TIMEOUT_S = 15.0

Protocol = Literal["auto", "5", "3.1.1"]


def find_mosquitto() -> str | None:
    """Path of the Mosquitto binary; Debian installs it outside the PATH of ordinary users."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Broker(ABC):
    """A broker under test, which runs inside ``async with``. It keeps its port over kill, wipe and start."""

    protocol: Protocol

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    @abstractmethod
    def port(self) -> int: ...

    @property
    @abstractmethod
    def pid(self) -> int:
        """Process id; 0 while it does not run."""

    @property
    def url(self) -> str:
        """MQTT URL."""
        return f"mqtt://127.0.0.1:{self.port}"

    def settings(self, **changes: Any) -> BrokerSettings:
        """Settings for this broker; reconnects come fast, so that tests do."""
        return BrokerSettings(**{"url": self.url, "protocol": self.protocol, "reconnect_max_s": 0.5, **changes})

    @abstractmethod
    async def start(self) -> None:
        """Start, and return when it accepts MQTT."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop in an orderly way; nothing happens when it does not run."""

    @abstractmethod
    async def kill(self) -> None:
        """SIGKILL; it stays down until ``start``."""

    @abstractmethod
    def wipe(self) -> None:
        """Remove all its data; only while it is down."""


class Mosquitto(Broker):
    """Mosquitto with anonymous access and, unless ``persistence``, no memory over a restart.

    Arguments: ``directory`` for configuration, log and data; ``port`` (free by default); ``config_lines`` appended to
    the configuration; ``persistence`` keeps its database, written at every change; ``protocol`` for ``settings``;
    ``verbose`` logs every packet, which costs a benchmark half its speed.
    """

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        config_lines: Sequence[str] = (),
        *,
        persistence: bool = False,
        protocol: Protocol = "5",
        verbose: bool = True,
    ) -> None:
        self._dir, self._port = directory, port or free_port()
        self._lines, self._persistence = tuple(config_lines), persistence
        self._verbose = ("-v",) if verbose else ()
        self._process: subprocess.Popen[bytes] | None = None
        self.protocol = protocol

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def log_file(self) -> Path:
        """Its log, appended over restarts."""
        return self._dir / "mosquitto.log"

    async def start(self) -> None:
        binary = find_mosquitto()
        assert binary, NO_MOSQUITTO
        self._data.mkdir(parents=True, exist_ok=True)
        config = self._dir / "mosquitto.conf"
        config.write_text("\n".join(self._config()) + "\n")
        self._spawn((binary, "-c", str(config), *self._verbose))
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await answers_mqtt("127.0.0.1", self._port):
            if not self.pid or time.monotonic() > deadline:
                await self.kill()
                raise RuntimeError(f"mosquitto does not start:\n{self.log_file.read_text(errors='replace')[-4000:]}")

    def _spawn(self, command: Sequence[str]) -> None:
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                dies_with_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def _data(self) -> Path:
        return self._dir / "data"

    def _config(self) -> list[str]:
        lines = [f"listener {self._port} 127.0.0.1", "allow_anonymous true"]
        if os.geteuid() == 0:  # else it becomes the user mosquitto, who may not enter a test's directory
            lines.append(f"user {pwd.getpwuid(0).pw_name}")
        if self._persistence:
            lines += ["persistence true", f"persistence_location {self._data}/"]
            lines += ["autosave_on_changes true", "autosave_interval 1"]
        else:
            lines.append("persistence false")
        return [*lines, *self._lines]

    async def stop(self) -> None:
        self._end(signal.SIGTERM)

    async def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wipe(self) -> None:
        assert not self.pid, "wipe a broker that is down"
        shutil.rmtree(self._data, ignore_errors=True)


class Embedded(Broker):
    """The embedded broker under the same interface; ``broker`` is the product's own object.

    ``kill`` ends its supervision too; to see it restart by itself, send SIGKILL to ``pid``.
    """

    protocol: Protocol = "3.1.1"

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self._dir = directory
        self.broker = EmbeddedBroker(directory, port=port or 0)

    @property
    def port(self) -> int:
        return self.broker.port

    @property
    def pid(self) -> int:
        return self.broker.pid

    async def start(self) -> None:
        await self.broker.start()

    async def stop(self) -> None:
        await self.broker.stop()

    async def kill(self) -> None:
        if pid := self.broker.pid:
            os.kill(pid, signal.SIGKILL)
        await self.broker.stop()

    def wipe(self) -> None:
        assert not self.pid, "wipe a broker that is down"
        shutil.rmtree(self._dir, ignore_errors=True)
