"""Processes that start in milliseconds: forks of a process that has imported their program already.

A real process with memory, files and a pid of its own, to be killed as any other; only the time that Python takes for
its imports is left out. ``python -m tests.support.nursery MODULE`` is the server: for each JSON line it forks one that
runs ``MODULE.main(*args)``, a function or coroutine, and says with JSON lines which pid it has and, later, how it
ended.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import functools
import importlib
import inspect
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from common.messaging.child import dies_with_parent

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
START_S = 30.0


class Forked:
    """One process of a nursery, with what the tests use of ``subprocess.Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None
        self._over = threading.Event()

    def poll(self) -> int | None:
        """Its exit code, None while it runs; minus the signal that ended it."""
        return self._code

    def wait(self, timeout: float) -> int:
        """Its exit code when it has ended. Raises subprocess.TimeoutExpired."""
        if not self._over.wait(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        assert self._code is not None
        return self._code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self._code is None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return  # the nursery has taken its code, which is on the way here

    def over(self, code: int) -> None:
        """Take the exit code; called by the nursery's reader."""
        self._code = code
        self._over.set()


class Nursery:
    """Starts processes of ``module``. ``environment`` is the server's; None inherits. Close it with ``close``."""

    def __init__(self, module: str, environment: dict[str, str] | None = None) -> None:
        command = dies_with_parent([sys.executable, "-m", "tests.support.nursery", module])
        self._server = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._known: dict[int, Forked] = {}
        self._started = threading.Semaphore(0)
        self._last = 0
        self._reader = threading.Thread(target=self._read, name=f"nursery of {module}", daemon=True)
        self._reader.start()

    def start(
        self, args: list[Any], environment: dict[str, str], log: Path, *, errors: Path | None = None, cwd: Path = ROOT
    ) -> Forked:
        """Start one in ``cwd``; ``environment`` is added to what it inherits, ``log`` takes what it says, or
        ``errors`` what it says on its standard error.
        """
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([args, environment, str(log), str(errors or log), str(cwd)]) + "\n")
        self._server.stdin.flush()
        assert self._started.acquire(timeout=START_S), "the nursery does not answer"
        return self._known[self._last]

    def _read(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            pid, code = json.loads(line)
            if code is None:
                self._known[pid], self._last = Forked(pid), pid
                self._started.release()
            else:
                self._known.pop(pid).over(code)

    def close(self) -> None:
        """End the server, and with it what still runs."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(START_S)
        self._reader.join(START_S)
        self._server.stdout.close()


@functools.cache
def shared(module: str) -> Nursery:
    """The nursery of a module for all tests of this session; it inherits the environment of the first that asks."""
    nursery = Nursery(module)
    atexit.register(nursery.close)
    return nursery


def _serve(module: ModuleType) -> None:
    """Fork and reap in one thread: a fork of a process with threads could deadlock."""
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, 0)
    while True:
        for key, _ in selector.select():
            if key.data:
                selector.unregister(key.fileobj)
                os.close(key.fd)
                _, status = os.waitpid(key.data, 0)
                _say(key.data, os.waitstatus_to_exitcode(status))
            elif line := sys.stdin.readline():
                pid = os.fork()
                if pid == 0:
                    _live(module, *json.loads(line))
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                _say(pid, None)
            else:
                return


def _say(pid: int, code: int | None) -> None:
    sys.stdout.write(json.dumps([pid, code]) + "\n")
    sys.stdout.flush()


def _live(module: Any, args: list[Any], environment: dict[str, str], log: str, errors: str, cwd: str) -> None:
    """In the fork: what ``python -m`` would do, and then end, whatever happened."""
    code = 1
    try:
        here = ctypes.CDLL(None)
        here.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        out, err = (os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for file in (log, errors))
        nothing = os.open(os.devnull, os.O_RDONLY)
        for fd, at in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(fd, at)
            os.close(fd)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        os.chdir(cwd)
        os.environ.update(environment)
        if "POWERLOSS_CUT" in environment:
            number = {name: int(os.environ.get(f"POWERLOSS_{name}", "0")) for name in ("CUT", "MODE", "SEED")}
            here.powerloss_arm(
                ctypes.c_long(number["CUT"]), ctypes.c_int(number["MODE"]), ctypes.c_uint64(number["SEED"]),
                ctypes.c_long(0), ctypes.c_long(0),
            )  # fmt: skip
        given = module.main(*args)
        code = (asyncio.run(given) if inspect.iscoroutine(given) else given) or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(importlib.import_module(sys.argv[1]))
