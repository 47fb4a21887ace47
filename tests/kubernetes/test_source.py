"""Rule and RuleEndpoint objects as desired state: what is in the cluster is what is wanted (protocol P8.3, P6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cloud.selection import ObjectKey
from cloud.settings import KubernetesSettings
from cloud.sources.kubernetes import KubernetesSource
from common.backoff import Backoff
from common.clock import SystemClock
from common.kube.client import KubeClient
from tests.kubernetes.fakeapi import CUT, HANG, FakeApi, Fault
from tests.kubernetes.memory import MemoryDesired
from tests.kubernetes.samples import endpoint, rule
from tests.support.wait import eventually

CHAIN = "gt $MSG.payload.temperature 80 || drop\nnosuchcommand here\naccept\n"


@pytest.fixture
def desired() -> MemoryDesired:
    """What the nodes are to have."""
    return MemoryDesired()


def source_of(client: KubeClient, desired: MemoryDesired, **settings: Any) -> KubernetesSource:
    """A source with short delays."""
    made = KubernetesSettings(**{"watch_s": 30, **settings})
    return KubernetesSource(client, desired, made, SystemClock(), lambda: Backoff(0.02, 0.1))


@asynccontextmanager
async def running(client: KubeClient, desired: MemoryDesired, **settings: Any) -> AsyncIterator[KubernetesSource]:
    """A source at work."""
    source = source_of(client, desired, **settings)
    task = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task


def conditions(api: FakeApi, name: str = "relay", plural: str = "rules") -> dict[str, tuple[str, str, str]]:
    """Type -> status, reason, message."""
    found = api.get(plural, name).get("status", {}).get("conditions", [])
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in found}


def accepted(api: FakeApi, name: str = "relay", plural: str = "rules") -> str:
    """The status of the condition Accepted, empty when there is none."""
    return conditions(api, name, plural).get("Accepted", ("", "", ""))[0]


async def test_kubectl_apply_deploys(api: FakeApi, client: KubeClient, desired: MemoryDesired) -> None:
    """A rule and its endpoint become desired state, whichever comes first, and say that they were accepted."""
    async with running(client, desired):
        api.apply(rule())
        await eventually(lambda: accepted(api) == "False")
        api.apply(endpoint())
        await eventually(lambda: accepted(api) == "True" and accepted(api, "bus", "ruleendpoints") == "True")
        assert desired.names() == ["bus", "relay"]
        manifest, held = desired.wanted[ObjectKey("Rule", "default", "relay")]
        assert (held.uid, held.version) == (api.get("rules", "relay")["metadata"]["uid"], 1)
        assert manifest.value.metadata.uid == held.uid
        assert conditions(api)["Ready"][:2] == ("Unknown", "Pending")


async def test_edit_disable_and_delete(api: FakeApi, client: KubeClient, desired: MemoryDesired) -> None:
    """Row 13: an update is a new version of the same rule, so is a switch; what is deleted is wanted no more."""
    key = ObjectKey("Rule", "default", "relay")
    async with running(client, desired):
        api.apply(endpoint())
        api.apply(rule())
        await eventually(lambda: key in desired.wanted)
        api.apply(rule(sourceResource={"topic": "other/#", "node_name": "edge-*,gw-7"}))
        await eventually(lambda: desired.wanted[key][1].version == 2)
        api.apply(rule(enabled=False))
        await eventually(lambda: desired.wanted[key][1].version == 3)
        assert desired.wanted[key][0].value.spec.enabled is False  # type: ignore[union-attr]
        api.delete("rules", "relay")
        await eventually(lambda: desired.names() == ["bus"])
        api.delete("ruleendpoints", "bus")
        await eventually(lambda: desired.names() == [])


async def test_a_bad_rule_says_where_and_stops_no_other(
    api: FakeApi, client: KubeClient, desired: MemoryDesired
) -> None:
    """Row 16: the finding with line and column is in the conditions; the last good version stays until the repair."""
    key = ObjectKey("Rule", "default", "relay")
    async with running(client, desired):
        for manifest in (endpoint(), rule(), rule("other")):
            api.apply(manifest)
        await eventually(lambda: desired.names() == ["bus", "other", "relay"])
        api.apply(rule(chain=CHAIN))
        await eventually(lambda: accepted(api) == "False")
        status, reason, message = conditions(api)["Ready"]
        assert (status, reason) == ("False", "Invalid")
        assert "unknown command nosuchcommand\n  at main:main:main, line 2, column 1" in message
        assert desired.wanted[key][1].version == 1
        api.apply(rule("third"))
        await eventually(lambda: "third" in desired.names())
        api.apply(rule(chain="accept"))
        await eventually(lambda: desired.wanted[key][1].version == 3)
        await eventually(lambda: accepted(api) == "True")
        assert conditions(api)["Ready"][:2] == ("Unknown", "Pending")


async def test_what_kubernetes_takes_and_we_do_not_is_said(
    api: FakeApi, client: KubeClient, desired: MemoryDesired
) -> None:
    """A map in chains is for Kubernetes anything; a duration is any text."""
    async with running(client, desired):
        api.apply(endpoint())
        api.apply(rule("a", chains={"x": [1, {"y": None}]}))
        api.apply(rule("b", timeout="soon"))
        await eventually(lambda: accepted(api, "a") == "False" and accepted(api, "b") == "False")
        assert "soon" in conditions(api, "b")["Ready"][2]
        assert desired.names() == ["bus"]


async def test_status_writes_of_others_cost_nothing(api: FakeApi, client: KubeClient, desired: MemoryDesired) -> None:
    """Counts that change every second make events; neither a good nor a bad rule is put again for them."""
    async with running(client, desired) as source:
        for manifest in (endpoint(), rule(), rule("bad", chain=CHAIN)):
            api.apply(manifest)
        await eventually(lambda: accepted(api) == "True" and accepted(api, "bad") == "False")
        before, events = list(desired.puts), source.statistics()["rules_events"]
        for count in range(20):
            for name in ("relay", "bad"):
                api._patch(("rules", "default", name), {"status": {"successMessages": count + 1}}, status=True)
        await eventually(lambda: source.statistics()["rules_events"] >= events + 40)
        assert desired.puts == before


async def test_what_went_and_came_meanwhile_is_made_right(
    api: FakeApi, client: KubeClient, desired: MemoryDesired
) -> None:
    """Row 15: a controller that was down finds what was deleted, edited, made again and new, whatever it missed."""
    for manifest in (endpoint(), rule("gone"), rule("edited"), rule("again"), rule("same")):
        api.apply(manifest)
    async with running(client, desired):
        await eventually(lambda: len(desired.wanted) == 5)
    again = ObjectKey("Rule", "default", "again")
    uid = desired.wanted[again][1].uid
    api.delete("rules", "gone")
    api.delete("rules", "again")
    for manifest in (rule("again"), rule("edited", timeout="3s"), rule("new")):
        api.apply(manifest)
    api.compact()
    before = len(desired.puts)
    async with running(client, desired):
        await eventually(lambda: desired.names() == ["again", "bus", "edited", "new", "same"])
        await eventually(lambda: desired.wanted[ObjectKey("Rule", "default", "edited")][1].version == 2)
    assert desired.wanted[again][1].uid not in ("", uid)
    assert sorted(key.name for key in desired.puts[before:]) == ["again", "edited", "new"]


async def test_a_compacted_watch_is_listed_anew(api: FakeApi, client: KubeClient, desired: MemoryDesired) -> None:
    """410 in a watch: what was deleted and made while nobody listened is found by comparing."""
    api.bookmarks = False
    async with running(client, desired) as source:
        for manifest in (endpoint(), rule("a"), rule("b")):
            api.apply(manifest)
        await eventually(lambda: desired.names() == ["a", "b", "bus"])
        api.fault = lambda method, path: Fault(503) if path.endswith("/rules") else None
        api.cut_watches()
        await eventually(lambda: source.statistics()["rules_failures"])
        assert source.statistics()["ready"] == 0
        api.delete("rules", "a")
        api.apply(rule("c"))
        api.compact()
        api.fault = lambda method, path: None
        await eventually(lambda: desired.names() == ["b", "bus", "c"])
        assert source.statistics()["rules_relists"] >= 1
        await eventually(lambda: source.statistics()["ready"])


@pytest.mark.parametrize("what", [500, 429, 410, HANG, CUT])
async def test_a_server_that_fails_delays_and_loses_nothing(
    api: FakeApi, client: KubeClient, desired: MemoryDesired, what: int | str
) -> None:
    """Lists, watches and writes of conditions that fail for a while: then everything is as the cluster has it."""
    left = [what] * 8
    api.fault = lambda method, path: Fault(left.pop()) if left else None
    client._timeout_s = 0.2
    for manifest in (endpoint(), rule()):
        api.apply(manifest)
    async with running(client, desired):
        await eventually(lambda: accepted(api) == "True" and accepted(api, "bus", "ruleendpoints") == "True")
    assert desired.names() == ["bus", "relay"]


async def test_a_missing_definition_removes_nothing(api: FakeApi, client: KubeClient, desired: MemoryDesired) -> None:
    """A cluster that has not our types (any more) is not one without rules: the fleet keeps what it runs."""
    for manifest in (endpoint(), rule()):
        api.apply(manifest)
    async with running(client, desired):
        await eventually(lambda: len(desired.wanted) == 2)
    definitions, api.definitions = api.definitions, {}
    async with running(client, desired) as source:
        await eventually(lambda: source.statistics()["rules_failures"] >= 2)
        assert desired.names() == ["bus", "relay"]
        api.definitions = definitions
        await eventually(lambda: source.statistics()["ready"])
        assert desired.names() == ["bus", "relay"]


async def test_an_object_of_somebody_else_is_kept_and_the_conflict_shown(
    api: FakeApi, client: KubeClient, desired: MemoryDesired
) -> None:
    """What was applied by command line keeps its name; the object says so, and gets the name when it is free."""
    key = ObjectKey("Rule", "default", "relay")
    desired.others = {key}
    async with running(client, desired):
        api.apply(endpoint())
        api.apply(rule())
        await eventually(lambda: accepted(api) == "False")
        assert conditions(api)["Accepted"][1] == "Conflict"
        desired.others = set()
        api.apply(rule("another"))  # something in the namespace changes
        await eventually(lambda: key in desired.wanted)


async def test_what_was_refused_is_tried_again_now_and_then(
    api: FakeApi, client: KubeClient, desired: MemoryDesired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that becomes free, or an endpoint that comes by another way, makes no event in the cluster."""
    monkeypatch.setattr("cloud.sources.kubernetes.RETRY_S", 0.1)
    key = ObjectKey("Rule", "default", "relay")
    desired.others = {key}
    async with running(client, desired):
        api.apply(endpoint())
        api.apply(rule())
        await eventually(lambda: accepted(api) == "False")
        desired.others = set()
        await eventually(lambda: accepted(api) == "True")


async def test_conditions_wait_as_long_as_told(api: FakeApi, client: KubeClient, desired: MemoryDesired) -> None:
    """After a 429 nothing is written until the server wants to be asked again; what is applied meanwhile is wanted."""
    told: list[float] = []

    def fault(method: str, path: str) -> Fault | None:
        if method == "PATCH" and not told:
            told.append(asyncio.get_running_loop().time())
            return Fault(429, retry_after=1)
        return None

    api.fault = fault
    async with running(client, desired):
        api.apply(endpoint())
        await eventually(lambda: told)
        api.apply(rule())
        await eventually(lambda: "relay" in desired.names())
        await eventually(lambda: accepted(api) == "True")
    patches = [call.at for call in api.calls if call.method == "PATCH"]
    assert min(at for at in patches if at > told[0] + 0.1) >= told[0] + 1


async def test_an_endpoint_goes_when_its_last_rule_is_gone(
    api: FakeApi, client: KubeClient, desired: MemoryDesired
) -> None:
    """Kubernetes lets it be deleted first; the nodes keep it until no rule needs it."""
    async with running(client, desired):
        api.apply(endpoint())
        api.apply(rule())
        await eventually(lambda: len(desired.wanted) == 2)
        api.delete("ruleendpoints", "bus")
        await eventually(lambda: "bus" in desired.names())
        api.delete("rules", "relay")
        await eventually(lambda: desired.names() == [])


async def test_many_objects_come_in_pages(
    api: FakeApi, client: KubeClient, desired: MemoryDesired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list in pages is whole; pages that expire on the way (410) are begun anew."""
    monkeypatch.setattr("cloud.sources.reflector.PAGE_MAX", 7)
    api.apply(endpoint())
    for number in range(40):
        api.apply(rule(f"r{number:02}"))
    compacted: list[bool] = []

    def compact_once(method: str, path: str) -> None:
        if sum(call.path.endswith("/rules") for call in api.calls) == 3 and not compacted:
            compacted.append(True)
            api._next()
            api.compact()

    api.fault = compact_once
    async with running(client, desired):
        await eventually(lambda: len(desired.wanted) == 41)
    assert compacted


async def test_only_one_namespace(api: FakeApi, client: KubeClient, desired: MemoryDesired) -> None:
    """With the setting, objects elsewhere are neither taken nor, when they were taken before, removed."""
    for manifest in (endpoint(), rule()):
        manifest["metadata"]["namespace"] = "plant"
        api.apply(manifest)
        api.apply({**manifest, "metadata": {**manifest["metadata"], "namespace": "office"}})
    async with running(client, desired, namespace="plant"):
        await eventually(lambda: len(desired.wanted) == 2)
        assert {key.namespace for key in desired.wanted} == {"plant"}
    async with running(client, desired, namespace="office"):
        await eventually(lambda: len(desired.wanted) == 4)
    assert all(call.path.count("/namespaces/") for call in api.calls)


async def test_an_edit_between_reading_and_writing_is_not_lost(
    api: FakeApi, client: KubeClient, desired: MemoryDesired
) -> None:
    """The sink's conditions stay where the source writes its own, also when both write at the same moment."""
    mine = {"type": "Degraded", "status": "False", "reason": "NoErrors", "message": ""}
    api.apply(endpoint())
    api.apply(rule())
    raced: list[bool] = []

    def race(method: str, path: str) -> None:
        if method == "PATCH" and path.endswith("/rules/relay/status") and not raced:
            raced.append(True)
            api._patch(("rules", "default", "relay"), {"status": {"conditions": [mine]}}, status=True)

    api.fault = race
    async with running(client, desired) as source:
        await eventually(lambda: accepted(api) == "True")
        assert conditions(api).keys() == {"Accepted", "Degraded"}
        assert source.statistics()["conflicts"] == 1
