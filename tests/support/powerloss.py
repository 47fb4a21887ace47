"""Cutting the power of a process: ``powerloss.c``, built at need, and a server that runs many short lives under it.

A life is a function of a module, run in a fork of a process that has imported it already, so that thousands of cuts
take seconds. ``python -m tests.support.powerloss MODULE`` is that server; it answers one JSON line for each.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple, Self

POWER_CUT = 99  # exit code of a process whose power was cut
ALL, SOME, TORN = range(3)  # what is lost of what was not synced
MODES = {"all": ALL, "some": SOME, "torn": TORN}
NO_COMPILER = "no C compiler (cc, gcc or clang): apt-get install gcc libc6-dev"
ROOT = Path(__file__).resolve().parents[2]
LIFE_SECONDS_MAX = 30


def find_compiler() -> str | None:
    """Path of a C compiler, None where there is none or the platform has no LD_PRELOAD."""
    if sys.platform != "linux":
        return None
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def build(directory: Path) -> Path:
    """Compile the library into ``directory`` and return its path."""
    compiler, library = find_compiler(), directory / "powerloss.so"
    assert compiler, NO_COMPILER
    source = str(Path(__file__).with_suffix(".c"))
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), source, "-ldl", "-lpthread"], check=True)
    return library


def environment(library: Path, **powerloss: int) -> dict[str, str]:
    """The environment of a process under the library; ``cut=17, mode=TORN`` become POWERLOSS_CUT and so on."""
    settings = {f"POWERLOSS_{name.upper()}": str(value) for name, value in powerloss.items()}
    return {**os.environ, "LD_PRELOAD": str(library), **settings}


class Fault(NamedTuple):
    """What happens in a life: the power is cut at the n-th operation (0: never); fsyncs fail from the n-th on."""

    cut: int = 0
    mode: int = ALL
    seed: int = 0
    eio: int = 0
    eio_count: int = 1


class Life(NamedTuple):
    """How a life ended: exit code, and how many operations and fsyncs it did when it ended by itself."""

    code: int
    operations: int = 0
    fsyncs: int = 0

    @property
    def cut(self) -> bool:
        """Whether the power was cut."""
        return self.code == POWER_CUT


class Lives:
    """The server: runs ``live(directory, seed)`` of ``module`` again and again. ``log`` takes what the lives say."""

    def __init__(self, library: Path, module: str, log: Path | None = None) -> None:
        command = [sys.executable, "-m", "tests.support.powerloss", module]
        errors = open(log, "ab") if log else None  # noqa: SIM115 - it is the child's
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        self._server = subprocess.Popen(command, cwd=ROOT, text=True, env=environment(library), **pipes)  # type: ignore[call-overload]
        if errors is not None:
            errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(LIFE_SECONDS_MAX)
        self._server.stdout.close()

    def live(self, directory: Path, seed: int, fault: Fault = Fault()) -> Life:  # noqa: B008 - a NamedTuple
        """Run one life in ``directory``; what lived only in memory (SQLite's -shm) is gone after it."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([str(directory), seed, fault]) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the server of lives ended"
        life = Life(*json.loads(answer))
        if life.cut:
            for shared in directory.glob("*-shm"):
                shared.unlink()
        return life


def _serve(module: str) -> None:
    live = importlib.import_module(module).live
    here = ctypes.CDLL(None)
    for line in sys.stdin:
        directory, seed, fault = json.loads(line)
        results, result = os.pipe()
        pid = os.fork()
        if pid == 0:
            _life(live, here, directory, seed, Fault(*fault), result)
        os.close(result)
        with open(results) as lines:
            counts = json.loads(lines.read() or "[]")
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), *counts]) + "\n")
        sys.stdout.flush()


def _life(live: Any, here: Any, directory: str, seed: int, fault: Fault, result: int) -> None:
    signal.alarm(LIFE_SECONDS_MAX)  # one that hangs ends with SIGALRM
    code = 0
    try:
        random.seed(seed)
        here.powerloss_arm(
            ctypes.c_long(fault.cut), ctypes.c_int(fault.mode), ctypes.c_uint64(fault.seed),
            ctypes.c_long(fault.eio), ctypes.c_long(fault.eio_count),
        )  # fmt: skip
        live(Path(directory), seed)
        os.write(result, json.dumps([here.powerloss_ops(), here.powerloss_syncs()]).encode())
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
