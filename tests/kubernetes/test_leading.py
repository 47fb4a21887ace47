"""One controller at a time is the source: the one that has the lease (protocol P8.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloud.settings import KubernetesSettings
from cloud.sources.cluster import Cluster, cluster_of
from cloud.sources.leading import Leading, OnChange
from cloud.stores.sql import SqlStore
from common.clock import SystemClock
from common.errors import ConfigError
from tests.cloud.test_desired import downstream
from tests.kubernetes.fakeapi import FakeApi, kubeconfig
from tests.kubernetes.memory import MemoryDesired
from tests.kubernetes.samples import endpoint, manifests_of, rule
from tests.support.wait import eventually


class HandLease:
    """A lease that is given and taken by hand."""

    def __init__(self, on_change: OnChange) -> None:
        self.held, self.running, self._on_change = False, False, on_change

    def give(self, held: bool) -> None:
        """Give or take it."""
        self.held = held
        self._on_change(held)

    async def run(self) -> None:
        """Until cancelled."""
        self.running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.running = False


class Work:
    """What is done while the lease is held."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.failing = False

    async def run(self) -> None:
        """Until cancelled."""
        self.begun += 1
        try:
            if self.failing:
                raise ValueError("it fails")
            await asyncio.Event().wait()
        finally:
            self.ended += 1


@asynccontextmanager
async def leading(work: Work) -> AsyncIterator[tuple[HandLease, asyncio.Task[None]]]:
    """Leading at work, with its lease."""
    leases: list[HandLease] = []

    def make(on_change: OnChange) -> HandLease:
        leases.append(HandLease(on_change))
        return leases[0]

    led = Leading(work.run, make)
    task = asyncio.create_task(led.run())
    await eventually(lambda: leases[0].running)
    yield leases[0], task
    task.cancel()
    await asyncio.wait([task])
    assert not leases[0].running


async def test_work_is_done_only_while_the_lease_is_held() -> None:
    """It begins when the lease is taken, ends when it is lost, and begins again."""
    work = Work()
    async with leading(work) as (lease, _):
        for turn in (1, 2, 3):
            assert (work.begun, work.ended) == (turn - 1, turn - 1)
            lease.give(True)
            await eventually(lambda turn=turn: work.begun == turn)  # type: ignore[misc]
            assert work.ended == turn - 1
            lease.give(False)
            await eventually(lambda turn=turn: work.ended == turn)  # type: ignore[misc]
        lease.give(True)
        await eventually(lambda: work.begun == 4)
    assert work.ended == 4


async def test_work_that_fails_gives_the_lease_back() -> None:
    """So that another controller may try, and whoever supervises hears of it."""
    work = Work()
    work.failing = True
    async with leading(work) as (lease, task):
        lease.give(True)
        await eventually(task.done)
        assert not lease.running
        assert task.exception() is not None


async def test_a_standby_takes_over_where_the_other_one_stopped(api: FakeApi, tmp_path: Path) -> None:
    """Row 15: two controllers over one desired state; what changes while the lease changes hands is made right."""
    (tmp_path / "config").write_text(kubeconfig(api.url))
    settings, desired = KubernetesSettings(enabled=True, kubeconfig=str(tmp_path / "config")), MemoryDesired()
    leases: list[HandLease] = []

    def make(on_change: OnChange) -> HandLease:
        leases.append(HandLease(on_change))
        return leases[-1]

    clusters = [Cluster(settings, desired, SystemClock(), make) for _ in range(2)]
    for cluster in clusters:
        await cluster.start()
    api.apply(endpoint())
    api.apply(rule("a"))
    leases[0].give(True)
    await eventually(lambda: desired.names() == ["a", "bus"])
    leases[0].give(False)
    api.delete("rules", "a")
    api.apply(rule("b"))
    leases[1].give(True)
    await eventually(lambda: desired.names() == ["b", "bus"])
    assert clusters[1].statistics()["put"] == 1
    leases[1].give(False)
    api.apply(rule("c"))
    leases[0].give(True)
    await eventually(lambda: desired.names() == ["b", "bus", "c"])
    assert clusters[0].statistics()["removed"] == 0
    for cluster in clusters:
        await cluster.stop()
        await cluster.sink.stop()


async def test_the_lease_of_a_controller_that_died_runs_out(api: FakeApi, store: SqlStore, tmp_path: Path) -> None:
    """Both over one store; the one that watches ends without a word, the other one takes over and nothing is missed."""
    (tmp_path / "config").write_text(kubeconfig(api.url))
    settings = KubernetesSettings(enabled=True, kubeconfig=str(tmp_path / "config"), lease_s=1)
    changes = downstream(store)
    first, second = (cluster_of(settings, changes, store, SystemClock(), f"cloud-{n}") for n in (1, 2))
    await first.start()
    api.apply(endpoint())
    api.apply(rule("a"))
    await eventually(lambda: first.statistics()["put"] == 2)
    await second.start()
    first._leading._lease._give_back = _say_nothing  # type: ignore[attr-defined]
    await first.stop()
    api.delete("rules", "a")
    api.apply(rule("b"))
    await eventually(lambda: (second.statistics()["put"], second.statistics()["removed"]) == (1, 1))
    names = sorted(manifest.value.metadata.name for manifest in await store.read(manifests_of))
    assert names == ["b", "bus"]
    await second.stop()
    for cluster in (first, second):
        await cluster.sink.stop()


async def _say_nothing() -> None:
    """What a process does that was killed."""


def test_a_cluster_that_nobody_named_is_a_wrong_setting() -> None:
    """One line that says what to do, at the start and not an hour later."""
    with pytest.raises(ConfigError, match="name a kubeconfig file"):
        Cluster(KubernetesSettings(enabled=True), MemoryDesired(), SystemClock(), HandLease)
