"""A disk without room: nothing is said to be durable that is not, and everything goes on when there is room again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.samples import ok, open_store, status, totals
from tests.edge.support import Collected, result
from tests.support.wait import eventually

NO_MOUNT = "no tmpfs can be mounted here: run as root to test a disk that is really full"
BIG = "x" * 3000


class Disk:
    """A directory whose room can be taken and given back."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fill(self) -> None:
        """Take all room but a few KiB."""
        with open(self.directory / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        (self.directory / "ballast").unlink()


class Limited(Disk):
    """Without a disk of its own: no file of this process may grow."""

    def fill(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture(params=["tmpfs", "rlimit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "rlimit":
        limited = Limited(tmp_path)
        yield limited
        limited.free()
        return
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "fieldpost-test", small]).returncode:
        pytest.skip(NO_MOUNT)
    try:
        yield Disk(small)
    finally:
        subprocess.run(["umount", small], check=True)


async def test_spool_on_a_full_disk_accepts_nothing_and_recovers(disk: Disk):
    """R1.1, R3: with the disk full no source is told, the agent lives on; with room again all are accepted, once."""
    collected = Collected(disk.directory)
    collected.accept(result(source_id="before"))
    await eventually(lambda: collected.durable == ["before"])
    disk.fill()
    sources = [f"{n}-{BIG}" for n in range(20)]
    for source in sources:
        collected.accept(result(source_id=source))
    await eventually(lambda: collected.spool._writer.retries > 2)
    assert collected.durable == ["before"]
    assert not collected.fatal
    disk.free()
    await eventually(lambda: collected.durable == ["before", *sources])
    collected.confirm(collected.frozen)
    await eventually(lambda: collected.spool.stats.pending == 0)
    assert collected.spool.stats.accepted == 21
    await collected.spool.stop()
    _is_sound(disk.directory / "spool.db")


async def test_store_on_a_full_disk_confirms_nothing_and_recovers(disk: Disk):
    """P5.5: with the disk full no commit returns; with room again the same messages are counted, once."""
    async with open_store(disk.directory) as store:
        await store.commit([status(1)])
        disk.fill()
        more = [status(n, [ok(source_id=BIG)] * 20) for n in range(2, 6)]
        commit = asyncio.create_task(store.commit(more))
        await eventually(lambda: store.statistics()["retries"] > 2)
        assert not commit.done()
        disk.free()
        outcome = await asyncio.wait_for(commit, 20)
        assert (outcome.new, outcome.duplicate, outcome.confirmed[-1].through) == (4, 0, 5)
        assert await totals(store) == (81, 0)
    _is_sound(disk.directory / "cloud.db")


def _is_sound(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as raw:
        assert raw.execute("PRAGMA quick_check").fetchall() == [("ok",)]
