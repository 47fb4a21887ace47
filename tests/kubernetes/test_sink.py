"""The Kubernetes sink against an API server that keeps to the rules, and breaks them (P8.3, reliability R3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cloud.forwarders.base import Delivered, Refused, Retry
from cloud.forwarders.kubernetes import KubernetesSink
from cloud.settings import KubernetesSettings
from cloud.stores.status import FALSE, READY, TRUE, Condition, NodeShare
from common.clock import ManualClock
from common.kube.access import Access
from common.kube.client import KubeClient
from common.kube.resources import RULES, definition
from tests.kubernetes.fakeapi import CUT, HANG, LOST, FakeApi, Fault
from tests.kubernetes.samples import AT, error, rule, status

CONDITION = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1}


Make = Callable[[ManualClock], KubernetesSink]


@pytest.fixture
async def make(api: FakeApi) -> AsyncIterator[Make]:
    """Makes the sinks of controllers whose calls end after a second and a half, and stops them."""
    made: list[KubernetesSink] = []

    def sink_of(clock: ManualClock) -> KubernetesSink:
        client = KubeClient(Access(api.url), clock, timeout_s=1.5)
        made.append(KubernetesSink(client, KubernetesSettings(timeout_s=1.5), clock))
        return made[-1]

    yield sink_of
    for sink in made:
        await sink.stop()
        await sink.stop()


@pytest.fixture
def sink(make: Make) -> KubernetesSink:
    """The sink of one controller."""
    return make(ManualClock())


def uid(api: FakeApi, name: str = "relay") -> str:
    """The uid of a rule, which is made when there is none."""
    if ("rules", "default", name) not in api.objects:
        api.apply(rule(name))
    return str(api.get("rules", name)["metadata"]["uid"])


def shown(api: FakeApi, name: str = "relay") -> dict[str, Any]:
    """The status that the API server has."""
    found: dict[str, Any] = api.get("rules", name).get("status", {})
    return found


def once(what: Fault, method: str = "PATCH") -> Any:
    """Break the next call of a method."""
    left = [what]
    return lambda verb, path: left.pop() if verb == method and left else None


async def test_everything_told_of_a_rule_is_in_its_status(api: FakeApi, sink: KubernetesSink) -> None:
    """Counts, times, latency, errors as text and field by field, nodes, refusals, conditions, versions."""
    node = NodeShare("edge-2", state="failed", desired=2, reported=1, error="line 3, column 5: unknown command")
    nodes = [NodeShare("edge-1", 5, 1, "applied", 2, 2), node, NodeShare("edge-3", state="removed")]
    told = status(uid(api), 7, 5, 1, nodes=nodes, errors=[error()], p50_us=900, p95_us=4000, generation=1)
    assert await sink.deliver([told]) == [Delivered()]
    found = shown(api)
    assert (found["successMessages"], found["failMessages"], found["statusVersion"]) == (5, 1, 7)
    assert (found["desiredVersion"], found["lastSuccessTime"]) == (1, "2025-11-21T00:00:00Z")
    assert "lastFailureTime" not in found
    assert found["latencyMicroseconds"] == {"p50": 900, "p95": 4000}
    assert found["errors"] == ["target_timeout: no answer (1 times, last at 2025-11-21T00:00:00Z on edge-1)"]
    assert found["errorDetails"][0]["step"] == "endpoint web"
    assert found["nodes"] == {"assigned": 2, "applied": 1, "pending": 0, "failed": 1, "stale": 0}
    assert found["refusals"] == [{"node": "edge-2", "version": 2, "error": "line 3, column 5: unknown command"}]
    assert {c["type"]: c["status"] for c in found["conditions"]} == {"Ready": "True", "Degraded": "False"}
    assert api.get("rules", "relay")["spec"] == rule()["spec"]
    assert api.get("rules", "relay")["metadata"]["generation"] == 1


async def test_only_the_last_errors_are_there_and_each_is_bounded(api: FakeApi, sink: KubernetesSink) -> None:
    """Five of many, the last ones first, none longer than half a KiB: etcd keeps all of it."""
    errors = [error(f"reason_{n}", "x" * 2048, last=AT + n) for n in range(32)]
    await sink.deliver([status(uid(api), fail=32, errors=errors)])
    assert [row["reason"] for row in shown(api)["errorDetails"]] == [f"reason_{n}" for n in (31, 30, 29, 28, 27)]
    assert all(len(text) < 700 for text in shown(api)["errors"])


async def test_a_status_that_is_there_already_is_not_written(api: FakeApi, sink: KubernetesSink, make: Make) -> None:
    """Not by the controller that wrote it, not by another one, and not when only the version rose."""
    told = status(uid(api), 1, 5)
    assert await sink.deliver([told]) == [Delivered()]
    other = make(ManualClock())
    assert await sink.deliver([told, status(uid(api), 2, 5)]) == [Delivered(), Delivered()]
    assert await other.deliver([told]) == [Delivered()]
    assert len(api.writes["relay"]) == 1
    assert sink.statistics()["unchanged"] == 2


async def test_rules_of_other_origins_are_never_written(api: FakeApi, sink: KubernetesSink) -> None:
    """Local ones, and those applied by command line or API, also when an object has their name."""
    found = uid(api)
    others = [status("", 1, 5, origin="local"), status(found, 1, 5, origin="api")]
    assert await sink.deliver(others) == [Delivered(), Delivered()]
    assert not api.calls
    assert sink.statistics()["not_ours"] == 2


async def test_a_field_that_is_no_more_is_taken_away(api: FakeApi, sink: KubernetesSink) -> None:
    """A time that became "never" does not stay in the object, though a merge patch keeps what it does not name."""
    await sink.deliver([status(uid(api), 1, 5)])
    await sink.deliver([status(uid(api), 2, 5, last_success=0.0)])
    assert "lastSuccessTime" not in shown(api)


async def test_what_others_wrote_into_the_conditions_stays(api: FakeApi, sink: KubernetesSink) -> None:
    """The source's Accepted; and an edit in between is a conflict that is read and tried again, in one delivery."""
    found = uid(api)
    await sink.deliver([status(found, 1, 5)])
    await somebody_writes(api, {"status": {"conditions": [CONDITION]}})
    assert await sink.deliver([status(found, 2, 6)]) == [Delivered()]
    assert {c["type"] for c in shown(api)["conditions"]} == {"Accepted", "Ready", "Degraded"}
    assert shown(api)["observedGeneration"] == 1
    assert sink.statistics()["conflicts"] == 1


async def somebody_writes(api: FakeApi, body: dict[str, Any]) -> None:
    """A patch of the status by somebody else."""
    api._patch(("rules", "default", "relay"), body, status=True)


async def test_a_newest_text_that_was_refused_is_not_ready(api: FakeApi, sink: KubernetesSink) -> None:
    """While the last good generation runs and counts, Ready says why the newest one does not."""
    found = uid(api)
    refused = {**CONDITION, "status": "False", "reason": "Invalid", "message": "line 2: no", "observedGeneration": 2}
    await somebody_writes(api, {"status": {"conditions": [refused]}})
    await sink.deliver([status(found, 2, 6, conditions=[Condition(READY, TRUE, "Applied", "", AT)])])
    ready = next(c for c in shown(api)["conditions"] if c["type"] == READY)
    assert (ready["status"], ready["reason"], ready["message"]) == (FALSE, "Invalid", "line 2: no")
    assert shown(api)["successMessages"] == 6


async def test_a_stale_controller_does_not_write_over_a_newer_status(
    api: FakeApi, sink: KubernetesSink, make: Make
) -> None:
    """It read version 2, hung, and comes back after another wrote version 3; with and without a remembered state."""
    found = uid(api)
    other = make(ManualClock())
    await sink.deliver([status(found, 1, 1)])
    await other.deliver([status(found, 3, 3)])
    assert await sink.deliver([status(found, 2, 2)]) == [Delivered()]
    assert await make(ManualClock()).deliver([status(found, 2, 2)]) == [Delivered()]
    assert shown(api)["successMessages"] == 3
    assert sink.statistics()["superseded"] == 1


async def test_a_restored_store_goes_on(api: FakeApi, sink: KubernetesSink, make: Make) -> None:
    """Its versions begin low again; the second change is written, because nobody else wrote meanwhile."""
    found = uid(api)
    await sink.deliver([status(found, 100, 50)])
    restored = make(ManualClock())
    await restored.deliver([status(found, 4, 20)])
    assert shown(api)["successMessages"] == 50
    await restored.deliver([status(found, 5, 21)])
    await restored.deliver([status(found, 6, 22)])
    assert (shown(api)["successMessages"], shown(api)["statusVersion"]) == (22, 6)
    assert restored.statistics()["taken_over"] == 1


@pytest.mark.parametrize("known", [True, False])
async def test_a_rule_made_again_is_another_rule(api: FakeApi, sink: KubernetesSink, known: bool) -> None:
    """Counts of the deleted one are dropped with a record, and never reach the new object, which starts at zero."""
    old = uid(api)
    if known:
        await sink.deliver([status(old, 1, 5)])
    api.delete("rules", "relay")
    new = uid(api)
    (answer,) = await sink.deliver([status(old, 2, 9)])
    assert isinstance(answer, Refused)
    assert answer.reason.startswith("gone: ")
    assert shown(api) == {}
    await sink.deliver([status(new, 1, 1)])
    assert shown(api)["successMessages"] == 1


@pytest.mark.parametrize("known", [True, False])
async def test_a_rule_that_is_gone_is_dropped_with_a_record(api: FakeApi, sink: KubernetesSink, known: bool) -> None:
    """404 of the object is final, whether or not it was seen before."""
    old = uid(api)
    if known:
        await sink.deliver([status(old, 1, 5)])
    api.delete("rules", "relay")
    (answer,) = await sink.deliver([status(old, 2, 9)])
    assert isinstance(answer, Refused)
    assert sink.statistics()["gone"] == 1


async def test_a_cluster_without_our_definition_is_waited_for(sink: KubernetesSink, api: FakeApi) -> None:
    """404 of the whole type is no reason to drop anything: it says what to run."""
    found = uid(api)
    api.definitions.clear()
    (answer,) = await sink.deliver([status(found, 1, 5)])
    assert isinstance(answer, Retry)
    assert answer.reason == "the definition of rules in the cluster is missing: run fieldpost kube install --adopt"


async def test_kubeedges_definition_is_found_out(api: FakeApi, sink: KubernetesSink) -> None:
    """Row 1: without the status subresource nothing would ever be persisted: the sink says so instead of success."""
    theirs = definition(RULES)
    del theirs["spec"]["versions"][0]["subresources"]
    api.define(theirs)
    (answer,) = await sink.deliver([status(uid(api), 1, 5)])
    assert isinstance(answer, Retry)
    assert "has no status subresource" in answer.reason


async def test_a_definition_that_prunes_the_counts_is_found_out(api: FakeApi, sink: KubernetesSink) -> None:
    """Row 1: success is only what stands in the answer, never that the call came back."""
    pruning = definition(RULES)
    del pruning["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"][
        "failMessages"
    ]
    api.define(pruning)
    (answer,) = await sink.deliver([status(uid(api), 1, 5, 2)])
    assert isinstance(answer, Retry)
    assert "drops the counts" in answer.reason


async def test_what_the_server_will_never_take_is_refused_with_its_words(api: FakeApi, sink: KubernetesSink) -> None:
    """422 is final for this version; the next one is tried."""
    found = uid(api)
    bad = status(found, 1, 5, conditions=[Condition(READY, "Perhaps", "r", "", AT)])
    (answer,) = await sink.deliver([bad])
    assert isinstance(answer, Refused)
    assert answer.reason.startswith('Invalid: Rule "relay" is invalid: .status.conditions[0].status: Unsupported value')
    assert await sink.deliver([status(found, 2, 5)]) == [Delivered()]


@pytest.mark.parametrize("code", [429, 503])
async def test_the_whole_sink_waits_as_long_as_told(api: FakeApi, make: Make, code: int) -> None:
    """Retry-After holds for every rule: until then no call is made at all, then all is well."""
    clock = ManualClock()
    sink = make(clock)
    found, second = uid(api), uid(api, "second")
    api.fault = once(Fault(code, "slow down", retry_after=7))
    (answer,) = await sink.deliver([status(found, 1, 5)])
    assert answer == Retry("Injected: slow down", 7)
    calls = len(api.calls)
    clock.advance(6.5)
    assert await sink.deliver([status(second, 1, 5, name="second")]) == [Retry("the API server asked to wait", 0.5)]
    assert len(api.calls) == calls
    clock.advance(0.6)
    assert await sink.deliver([status(found, 1, 5)]) == [Delivered()]


@pytest.mark.parametrize("what", [500, 502, 504, 401, 403, HANG, CUT])
async def test_what_may_work_later_is_tried_later(api: FakeApi, sink: KubernetesSink, what: int | str) -> None:
    """Server errors, missing rights, a call that hangs, a cut connection: nothing was written, and later it is."""
    found = uid(api)
    api.fault = once(Fault(what))
    (answer,) = await sink.deliver([status(found, 1, 5)])
    assert isinstance(answer, Retry)
    assert answer.after_s == 0
    assert shown(api) == {}
    assert await sink.deliver([status(found, 1, 5)]) == [Delivered()]
    assert shown(api)["successMessages"] == 5


async def test_a_lost_answer_changes_nothing(api: FakeApi, sink: KubernetesSink) -> None:
    """The write was done, the connection cut before the answer: the same again finds it there, and writes nothing."""
    found = uid(api)
    api.fault = once(Fault(LOST))
    (answer,) = await sink.deliver([status(found, 1, 5)])
    assert isinstance(answer, Retry)
    assert await sink.deliver([status(found, 1, 5)]) == [Delivered()]
    assert len(api.writes["relay"]) == 1


async def test_endless_conflicts_end(api: FakeApi, sink: KubernetesSink) -> None:
    """After five conflicts in one delivery the sink gives the status back, and does not spin."""
    found = uid(api)
    api.fault = lambda method, path: Fault(409) if method == "PATCH" else None
    (answer,) = await sink.deliver([status(found, 1, 5)])
    assert isinstance(answer, Retry)
    assert sink.statistics()["conflicts"] == 5


async def test_one_rule_that_hangs_holds_up_no_other_of_its_batch(api: FakeApi, sink: KubernetesSink) -> None:
    """Row 7: a batch ends within its deadline, and all others of it are delivered."""
    names = [f"r{n}" for n in range(16)]
    statuses = [status(uid(api, name), 1, n, name=name) for n, name in enumerate(names)]
    api.fault = lambda method, path: Fault(HANG) if "/r3/" in path else None
    began = asyncio.get_running_loop().time()
    answers = await sink.deliver(statuses)
    assert asyncio.get_running_loop().time() - began < 8
    assert [isinstance(answer, Delivered) for answer in answers] == [n != 3 for n in range(16)]
    assert shown(api, "r15")["successMessages"] == 15
