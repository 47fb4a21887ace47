"""A program of ours as a supervised child process, for ``fieldpost up`` and for tests and benchmarks that need real
ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from common.backoff import Backoff
from common.errors import FieldpostError
from common.messaging.child import dies_with_parent
from common.tasks import Tasks

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 15.0  # from SIGTERM to SIGKILL
STEADY_S = 10.0  # a process that ran so long was healthy: its next restart comes soon
USAGE_EXIT = 2  # wrong configuration: starting again cannot help
SHOWN_LINES = 5


class ProcessError(FieldpostError):
    """A child process ended at once, or said that its configuration is wrong; the text holds its last words."""


class Supervised:
    """One child process, started again with backoff when it dies, until ``stop``.

    Arguments: ``argv`` of the program; ``log_file`` gets its standard error. ``failed`` is done when it cannot run at
    all (exit code 2). Ctrl-C goes to the parent only, which stops its children in order.
    """

    def __init__(self, name: str, argv: Sequence[str], log_file: Path) -> None:
        self.name, self._argv, self._log_file = name, list(argv), log_file
        self._process: asyncio.subprocess.Process | None = None
        self._tasks = Tasks(name)
        self._begins = 0
        self.failed: asyncio.Future[ProcessError] = asyncio.get_running_loop().create_future()
        self.restarts = 0

    @property
    def pid(self) -> int:
        """Process id; 0 while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    async def start(self) -> None:
        """Start the process and its supervision."""
        await self._spawn()
        self._tasks.start("supervise", self._supervise)

    async def stop(self) -> None:
        """SIGTERM, wait, SIGKILL if need be; returns when it is gone."""
        await self._tasks.stop()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            log.warning("%s does not stop within %.0f s: killed", self.name, STOP_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self) -> None:
        self._begins = self._log_file.stat().st_size if self._log_file.exists() else 0
        with self._log_file.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *dies_with_parent(self._argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )

    async def _supervise(self) -> None:
        backoff, loop = Backoff(0.2, 10.0), asyncio.get_running_loop()
        while True:
            assert self._process is not None
            began = loop.time()
            code = await self._process.wait()
            if code == USAGE_EXIT:
                self.failed.set_result(ProcessError(self._last_words()))
                return
            if loop.time() - began > STEADY_S:
                backoff.reset()
            delay = backoff.next()
            if code < 0:  # nobody's last words: what it logged before has nothing to do with it
                log.error("%s was killed (signal %d), again in %.1f s", self.name, -code, delay)
            else:
                log.error("%s ended (exit code %d), again in %.1f s: %s", self.name, code, delay, self._last_words())
            await asyncio.sleep(delay)
            await self._spawn()
            self.restarts += 1

    def _last_words(self) -> str:
        with contextlib.suppress(OSError), self._log_file.open("rb") as file:
            file.seek(self._begins)
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
            if lines:
                return "; ".join(lines[-SHOWN_LINES:])
        return f"see {self._log_file}"
