"""The Kubernetes sink behind the outbox and its forwarder: how often it writes, what an outage costs (P8.2, P8.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from cloud.forwarders.kubernetes import KubernetesSink
from cloud.settings import KubernetesSettings, StoreSettings
from cloud.stores.sql import SqlStore
from cloud.stores.status import RuleKey, RuleStatus
from cloud.stores.tables import changes
from common.clock import Clock, SystemClock
from common.kube.access import Access
from common.kube.client import KubeClient
from tests.forwarders.parts import FakeSink, forwarding, mark
from tests.kubernetes.fakeapi import CUT, FakeApi, Fault
from tests.kubernetes.samples import rule, status
from tests.support.wait import eventually

INTERVAL_S = 0.3  # in place of the second that is the default: the test would take as much longer


class Later(SystemClock):
    """The machine's clock, and what was waited beside it: timers run on, stamps say that a minute has passed."""

    def __init__(self) -> None:
        self.waited = 0.0

    def time(self) -> float:  # type: ignore[override]
        """Wall clock, unix seconds."""
        return SystemClock.time() + self.waited


class Fleet:
    """Rules in the cluster, and what the store counts of them."""

    def __init__(self, api: FakeApi, store: SqlStore, names: Sequence[str], clock: Clock) -> None:
        self._store, self._clock = store, clock
        self.keys = [RuleKey("default", name, api.apply(rule(name))["metadata"]["uid"]) for name in names]
        self.success = dict.fromkeys(self.keys, 0)

    async def count(self, results: int) -> None:
        """So many results of each rule, in one transaction."""
        for key in self.keys:
            self.success[key] += results
        await mark(self._store, *self.keys, at=self._clock.time())

    def read(self, conn: Connection, keys: Sequence[RuleKey]) -> list[RuleStatus]:
        """The status of rules, at the version that the outbox has."""
        found = []
        for key in keys:
            version = conn.execute(select(changes.c.version).where(changes.c.rule == key.rule)).scalar() or 0
            found.append(status(key.uid, version, self.success[key], name=key.rule))
        return found

    def shown(self, api: FakeApi) -> list[int]:
        """The successes that the cluster has."""
        return [api.get("rules", key.rule).get("status", {}).get("successMessages", 0) for key in self.keys]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """A store of its own."""
    made = SqlStore(f"sqlite:///{tmp_path / 'cloud.db'}", StoreSettings())
    await made.start()
    yield made
    await made.stop()


def sink_of(api: FakeApi, clock: Clock, interval_s: float = 0.0) -> KubernetesSink:
    """A controller's sink."""
    settings = KubernetesSettings(timeout_s=2, interval_s=interval_s)
    return KubernetesSink(KubeClient(Access(api.url), clock, timeout_s=2), settings, clock)


def test_the_bounds_are_those_of_the_design() -> None:
    """One write a rule and second, fifty a second in all."""
    assert (KubernetesSettings().interval_s, KubernetesSettings().writes_per_s_max) == (1.0, 50.0)


async def test_row_6_a_flood_is_one_write_a_rule_and_interval(api: FakeApi, store: SqlStore) -> None:
    """KubeEdge: two calls and a write for each message. Here: one write an interval, however many results there are."""
    fleet = Fleet(api, store, [f"r{n}" for n in range(5)], SystemClock())
    loop = asyncio.get_running_loop()
    async with forwarding(store, sink_of(api, SystemClock(), INTERVAL_S), reader=fleet.read) as forwarders:
        began = loop.time()
        while loop.time() < began + 5 * INTERVAL_S:
            await fleet.count(100)
            forwarders.wake()
        took = loop.time() - began
        await eventually(lambda: fleet.shown(api) == list(fleet.success.values()))
    for key in fleet.keys:
        times = api.writes[key.rule]
        assert 2 <= len(times) <= took / INTERVAL_S + 2
        assert min(after - before for before, after in pairwise(times)) > 0.5 * INTERVAL_S  # as they arrive
    assert sum(fleet.success.values()) / sum(map(len, api.writes.values())) > 100


async def test_a_minute_without_the_api_server_loses_nothing(api: FakeApi, store: SqlStore) -> None:
    """Its lag grows and shows, the other sink stays on time, and then the counts are exact."""
    clock = Later()
    fleet, other = Fleet(api, store, ["a", "b"], clock), FakeSink("other")
    async with forwarding(store, sink_of(api, clock), other, reader=fleet.read, clock=clock) as forwarders:
        await fleet.count(1)
        forwarders.wake()
        await eventually(lambda: fleet.shown(api) == [1, 1])
        api.fault = lambda method, path: Fault(CUT)
        for second in range(60):
            await fleet.count(10)
            clock.waited += 1
            forwarders.wake()
            if second % 20 == 0:
                told = fleet.success[fleet.keys[0]]
                await eventually(lambda told=told: other.last()["a"].success == told)  # type: ignore[misc]
        await eventually(lambda: forwarders.rows()[0].lag_s >= 59, what="the lag shows")
        rows = {row.sink: row for row in forwarders.rows()}
        assert rows["kubernetes"].pending == 2
        assert rows["kubernetes"].last_error.startswith("unreachable: ")
        await eventually(lambda: other.last()["b"].success == 601)
        await eventually(lambda: forwarders.rows()[1].lag_s < 5)
        assert fleet.shown(api) == [1, 1]
        api.fault = lambda method, path: None

        def caught_up() -> bool:
            clock.waited += 0.1
            forwarders.wake()
            return fleet.shown(api) == [601, 601]

        await eventually(caught_up)
        await eventually(lambda: forwarders.rows()[0].pending == 0)
