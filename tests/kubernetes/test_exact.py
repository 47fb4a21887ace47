"""KubeEdge's failures, as far as they concern Kubernetes, as tests that pass here (protocol P8.2, P8.3)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from cloud.forwarders.kubernetes import KubernetesSink
from cloud.settings import KubernetesSettings
from common.clock import SystemClock
from common.kube.access import Access
from common.kube.client import KubeClient
from tests.kubernetes.fakeapi import CUT, LOST, FakeApi, Fault
from tests.kubernetes.outbox import Controllers, Entry
from tests.kubernetes.samples import rule
from tests.support.wait import eventually

RESULTS, FEWER = 1000, 300
RULES = ("a", "b", "c", "d")


def maker(api: FakeApi) -> Callable[[], KubernetesSink]:
    """Makes the sink of a controller that starts."""

    def make() -> KubernetesSink:
        client = KubeClient(Access(api.url), SystemClock(), timeout_s=2)
        return KubernetesSink(client, KubernetesSettings(timeout_s=2), SystemClock())

    return make


def entries_of(api: FakeApi) -> list[Entry]:
    """Rules in the cluster and in the store."""
    return [Entry(name, api.apply(rule(name))["metadata"]["uid"]) for name in RULES]


async def run(
    api: FakeApi, rng: random.Random, *, number: int = 16, times: int = 1, kills: int = 0, results: int = FEWER
) -> tuple[list[Entry], Controllers]:
    """Count ``results`` while controllers tell them, some of which are killed; wait until all is told."""
    entries = entries_of(api)
    controllers = Controllers(entries, maker(api), rng, number, times)
    try:
        for count in range(results):
            rng.choice(entries).count(rng.random() < 0.8)
            if count % 10 == 0:
                await asyncio.sleep(0.002)
            if kills and count % (results // kills) == 0:
                await controllers.kill_one()
        await eventually(lambda: all(entry.told == entry.version for entry in entries), what="all is told")
    finally:
        await controllers.stop()
    assert controllers.refused == []
    assert sum(entry.success + entry.fail for entry in entries) == results
    return entries, controllers


def check(api: FakeApi, entries: list[Entry]) -> None:
    """The counts in Kubernetes are those of the store, and no status ever went back."""
    for entry in entries:
        shown = api.get("rules", entry.name)["status"]
        assert (shown["successMessages"], shown["failMessages"]) == (entry.success, entry.fail)
    history: dict[str, list[int]] = {}
    for _, kind, _, value in api._events:
        if kind == "MODIFIED":
            history.setdefault(value["metadata"]["name"], []).append(value["status"]["statusVersion"])
    assert all(versions == sorted(set(versions)) for versions in history.values())


async def test_row_1_a_thousand_results_are_a_thousand_in_kubernetes(api: FakeApi) -> None:
    """KubeEdge: never persisted. Here: exact counts in the status, by fewer writes than results."""
    entries, _ = await run(api, random.Random(1), number=1, results=RESULTS)
    check(api, entries)
    assert sum(len(times) for times in api.writes.values()) < RESULTS


async def test_row_2_sixteen_writers_and_injected_conflicts(api: FakeApi) -> None:
    """KubeEdge: lost updates with four workers. Here: sixteen at the same four rules, every third write a conflict."""
    rng = random.Random(2)
    api.fault = lambda method, path: Fault(409) if method == "PATCH" and rng.random() < 0.33 else None
    entries, _ = await run(api, rng)
    check(api, entries)


async def test_row_3_everything_is_told_three_times(api: FakeApi) -> None:
    """KubeEdge: no dedupe. Here: a repeated delivery changes nothing, not even the object's resourceVersion."""
    entries, controllers = await run(api, random.Random(3), number=4, times=3)
    check(api, entries)
    assert sum(len(times) for times in api.writes.values()) <= controllers.deliveries // 3


async def test_row_4_controllers_are_killed_and_answers_lost(api: FakeApi) -> None:
    """KubeEdge: loss on crash. Here: ends at any point, cut connections, lost answers, errors: nothing is lost."""
    rng = random.Random(4)

    def fault(method: str, path: str) -> Fault | None:
        return Fault(rng.choice((LOST, CUT, 500, 409))) if rng.random() < 0.2 else None

    api.fault = fault
    entries, controllers = await run(api, rng, kills=10)
    check(api, entries)
    assert controllers.kills == 10


@pytest.mark.parametrize("what", [LOST, CUT])
async def test_row_5_nothing_is_settled_before_the_server_has_said_so(api: FakeApi, what: str) -> None:
    """KubeEdge: acknowledged before hand-over. Here: without an answer it is told again, until there is one."""
    entry = entries_of(api)[0]
    entry.count(True)
    api.fault = lambda method, path: Fault(what) if method == "PATCH" else None
    controllers = Controllers([entry], maker(api), random.Random(5), 1, 1)
    await eventually(lambda: controllers.deliveries >= 2)
    assert entry.told == (entry.version if what == LOST else 0)  # a lost answer: the next look finds it written
    assert len(api.writes[entry.name]) == (what == LOST)
    api.fault = lambda method, path: None
    await eventually(lambda: entry.told == entry.version)
    await controllers.stop()
    assert api.get("rules", entry.name)["status"]["successMessages"] == 1
