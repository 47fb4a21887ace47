"""Processes of a nursery behave as any others: they run, end, can be killed, and do not outlive it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.message import new_id
from tests.support.nursery import Nursery
from tests.support.wait import eventually


async def main(file: str, what: str) -> None:
    """The program of the processes below."""
    Path(file).write_text(f"{os.getpid()} {os.environ.get('WORD')} {random.random()} {new_id()}\n")
    sys.stderr.write("said\n")
    if what == "fail":
        raise ValueError("on purpose")
    if what == "stay":
        await asyncio.Event().wait()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery(__name__)
    yield nursery
    nursery.close()


async def test_processes_run_end_and_differ(nursery: Nursery, tmp_path: Path) -> None:
    """Each has its pid, its environment and its own randomness; its exit code and its words are known."""
    log, files = tmp_path / "log", [tmp_path / "a", tmp_path / "b"]
    for file in files:
        assert nursery.start([str(file), "end"], {"WORD": file.name}, log).wait(20) == 0
    first, second = (file.read_text().split() for file in files)
    assert (first[1], second[1]) == ("a", "b")
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert nursery.start([str(files[0]), "fail"], {}, log).wait(20) == 1
    assert "ValueError: on purpose" in log.read_text()
    assert log.read_text().count("said") == 3


async def test_a_killed_process_is_gone_and_the_others_stay(nursery: Nursery, tmp_path: Path) -> None:
    """kill -9 ends one and tells its code; what still runs ends with the nursery."""
    kept, killed = (nursery.start([str(tmp_path / name), "stay"], {}, tmp_path / "log") for name in "ab")
    await eventually(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(20) == -signal.SIGKILL
    assert kept.poll() is None
    nursery.close()
    await eventually(lambda: not Path(f"/proc/{kept.pid}").exists(), what="it ended with the nursery")
