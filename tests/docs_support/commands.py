"""Runs the commands of the documentation as they stand there, in a directory of their own, on brokers of the test.

Port 1883 is the broker of the ``fieldpost up`` that runs meanwhile, ``broker.example:1883`` (or ``broker:1883``) is
another. A command either ends by itself, with exit code 0, or runs until Ctrl-C: then it must say something first, and
end with exit code 0 and without a traceback.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from common.messaging.child import dies_with_parent
from tests.docs_support.blocks import ROOT
from tests.kubernetes.fakeapi import FakeApi, kubeconfig
from tests.support.nursery import Forked, shared
from tests.support.wait import eventually

TIMEOUT_S = 60.0
WARM = "fieldpost"
API_PORT = "FIELDPOST__CLOUD__API__PORT"  # 0: two that start at once would both find the usual port free
_API = "127.0.0.1:9070"
_CAT = re.compile(r"\$\(cat ([^)]+)\)")
_FAR = re.compile(r"broker(?:\.example)?:1883")
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
GO_ON = {"up", "edge", "cloud", "tap", "telemetry"}  # until Ctrl-C, unless one of these is given
ASKING = [["edge", "config"], ["edge", "reload"], ["edge", "rule"]]  # of the agent that runs already
ENDING = {"--count", "--results", "--print-config"}
OF_THE_STACK = {"overheat": "telemetry", "FAIL": "SUCCESS"}  # a watch of what never happens would show nothing


class Program:
    """A command that was started: its output so far, and its end.

    Where the first word is WARM, the rest are arguments of ``fieldpost``, which starts as a fork that has its imports.
    """

    def __init__(self, argv: list[str], cwd: Path, env: dict[str, str]) -> None:
        self._argv, self._cwd, self._env = argv, cwd, env
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._files = (cwd / f"out-{time.monotonic_ns()}", cwd / f"err-{time.monotonic_ns()}")

    async def start(self) -> Program:
        for file in self._files:
            file.touch()
        if self._argv[0] == WARM:
            nursery = shared("tests.docs_support.warm")
            self._process = nursery.start(
                [self._argv[1:], self._env], {}, self._files[0], errors=self._files[1], cwd=self._cwd
            )
            return self
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            self._process = subprocess.Popen(
                dies_with_parent(self._argv),
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return self

    @property
    def out(self) -> str:
        return self._files[0].read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._files[1].read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)

    async def ended(self, timeout: float = TIMEOUT_S) -> int:
        """Wait for the end and return the exit code."""
        assert self._process is not None
        try:
            return await asyncio.to_thread(self._process.wait, timeout)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(TIMEOUT_S)
            raise AssertionError(
                f"{shlex.join(self._argv)} goes on after {timeout:g} s:\n{self.out}\n{self.err}"
            ) from None


def environment(**more: str) -> dict[str, str]:
    """The environment of a user: no settings of the tests', the programs of this interpreter first in the path."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("FIELDPOST")}
    bin_dir = str(Path(sys.executable).parent)
    return env | {"PATH": f"{bin_dir}{os.pathsep}{env.get('PATH', '')}", "PYTHONUNBUFFERED": "1", **more}


async def fieldpost(cwd: Path, *args: str, **env: str) -> Program:
    """Start ``fieldpost`` with these arguments, by its interpreter."""
    argv = [sys.executable, str(ROOT / "fieldpost.py"), *args]
    return await Program(argv, cwd, environment(**{API_PORT: "0", **env})).start()


async def result_of(cwd: Path, *args: str, **env: str) -> tuple[int, str, str]:
    """Run ``fieldpost`` to its end: exit code, standard output, standard error."""
    program = await Program([WARM, *args], cwd, environment(**env)).start()
    return await program.ended(), program.out, program.err


class Shell:
    """Runs commands of one page, one after the other, in ``cwd``.

    Arguments: ``near`` and ``far`` are URLs of brokers, ``api`` is host and port of the API of the stack that runs.
    """

    def __init__(self, cwd: Path, near: str, far: str, api: str = _API) -> None:
        self._cwd, self._near, self._far, self._api = cwd, near, far, api
        self._going: list[Program] = []

    async def run(self, command: str) -> None:
        """Run one command. Raises AssertionError when it does not do what a reader expects."""
        far, near = self._far.removeprefix("mqtt://"), self._near.removeprefix("mqtt://")
        command = _CAT.sub(lambda found: (self._cwd / found[1]).read_text().strip(), command).replace(_API, self._api)
        words = shlex.split(_FAR.sub(far, command).replace("-p 1883", f"-p {near.rpartition(':')[2]}"))
        env = environment(FIELDPOST__BROKER__URL=self._near)
        while _ASSIGNMENT.fullmatch(words[0]):
            name, _, value = words.pop(0).partition("=")
            env[name] = value
        if words[:2] == ["fieldpost", "kube"]:
            await self._in_cluster(command, words, env)
        elif words[0] == "mosquitto_sub":
            await self._subscribe(command, words, env)
        elif words[0] == "curl":
            await self._curl(command, words, env)
        elif words[:2] == ["python", "-m"]:
            await self._ours(command, words[2], [sys.executable, *words[1:]], env)
        else:
            assert words[0] == "fieldpost", f"no test knows how to run {command!r}"
            kind = words[2] if words[1] == "get" or words[1:3] in ASKING else words[1]
            await self._ours(command, kind, [WARM, *words[1:]], env)

    async def stop(self) -> None:
        """Press Ctrl-C in every command that still goes on."""
        for program in reversed(self._going):
            program.interrupt()
            code = await program.ended()
            assert (code, "Traceback" in program.err) == (0, False), program.err

    async def _ours(self, command: str, kind: str, argv: list[str], env: dict[str, str]) -> None:
        if kind in ("edge", "cloud", "up"):  # beside the ones that run already: with data and a broker of their own
            env |= {"FIELDPOST__BROKER__URL": self._far, API_PORT: "0"}
            if "--data-dir" not in argv:
                argv = [*argv, "--data-dir", f"data-{len(self._going)}"]
        goes_on = kind in GO_ON and not ENDING & set(argv)
        if kind == "results":
            goes_on = "-w" in argv
            argv = [OF_THE_STACK.get(word, word) if goes_on else word for word in argv]
        program = await Program(argv, self._cwd, env).start()
        if goes_on:
            self._going.append(program)
            await eventually(lambda: self._works(program, kind, argv), timeout=TIMEOUT_S, what=f"{command} works")
            return
        code = await program.ended()
        assert (code, program.err if code else "") == (0, ""), f"{command}: exit code {code}, {program.err}"
        assert program.out, f"{command} says nothing"

    def _works(self, program: Program, kind: str, argv: list[str]) -> bool:
        assert program.running, program.err
        if kind in ("edge", "cloud"):
            return (self._cwd / argv[argv.index("--data-dir") + 1] / f"{kind}.sock").exists()
        return bool(program.out or program.err)

    async def _in_cluster(self, command: str, words: list[str], env: dict[str, str]) -> None:
        async with FakeApi(installed=False).running() as api:
            config = self._cwd / "kubeconfig"
            config.write_text(kubeconfig(api.url))
            await self._ours(command, words[1], [WARM, *words[1:]], env | {"KUBECONFIG": str(config)})

    async def _curl(self, command: str, words: list[str], env: dict[str, str]) -> None:
        binary = shutil.which(words[0])
        assert binary, words[0]
        program = await Program([binary, "--fail-with-body", *words[1:]], self._cwd, env).start()
        if "-N" in words:  # a stream goes on
            await eventually(lambda: "\ndata: " in program.out, timeout=TIMEOUT_S, what=f"{command} shows an event")
            program.interrupt()
            await program.ended()
            return
        assert await program.ended() == 0, f"{command}: {program.out}{program.err}"
        assert program.out, f"{command} says nothing"

    async def _subscribe(self, command: str, words: list[str], env: dict[str, str]) -> None:
        binary = shutil.which(words[0])
        assert binary, words[0]
        program = await Program([binary, *words[1:], "-C", "1", "-W", "30"], self._cwd, env).start()
        assert await program.ended() == 0, f"{command}: {program.err}"
        assert program.out.startswith("fieldpost/"), f"{command} shows {program.out!r}"
