"""Stops that end, whatever hangs: the programs as processes (reliability R1.8)."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wait import eventually

REPO = Path(__file__).resolve().parents[2]
NOBODY = "mqtt://127.0.0.1:9"

# Ways in which a stop could hang: a part that waits for ever, one that blocks the event loop, and a thread behind it.
HANGS = {
    "a task that waits": "async def stop(self): await asyncio.Event().wait()",
    "the loop is blocked": "async def stop(self): threading.Event().wait()",
    "a thread that the interpreter waits for": (
        "async def stop(self): asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)"
    ),
}
PROGRAM = """
import asyncio, sys, threading
from common import stopping
from {side}.__main__ import main
from {module} import {name}
{stop}
{name}.stop = stop
stopping.begin_stop.__defaults__ = (1.0,)
import {side}.__main__ as program
program.STOP_MAX_S = 1.0
sys.exit(main(sys.argv[1:]))
"""
SIDES = {
    "edge": {"module": "edge.agent", "name": "Agent", "args": ["--set", "edge.flow.stop_s=0.1", "--node", "edge-1"]},
    "cloud": {"module": "cloud.controller", "name": "Controller", "args": []},
}


@pytest.mark.parametrize("how", HANGS)
@pytest.mark.parametrize("side", SIDES)
async def test_a_stop_that_hangs_is_ended(tmp_path: Path, side: str, how: str) -> None:
    """SIGTERM ends the process within its bound with exit code 1, and standard error says where it hung."""
    chosen = SIDES[side]
    program = PROGRAM.format(side=side, module=chosen["module"], name=chosen["name"], stop=HANGS[how])
    command = [sys.executable, "-c", program, "--data-dir", str(tmp_path), "--broker", NOBODY, *chosen["args"]]
    process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
    try:
        await eventually((tmp_path / f"{side}.sock").exists, 20)
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.poll() is not None, 20, what="it has ended")
        _, said = process.communicate()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, said
    assert "Timeout" in said
    assert "most recent call first" in said
