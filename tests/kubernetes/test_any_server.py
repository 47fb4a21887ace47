"""What must hold at the fake API server and at a real one: so the fake is as faithful as it says (P8.3)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cloud.forwarders.base import Delivered, Refused
from cloud.forwarders.kubernetes import KubernetesSink
from cloud.settings import KubernetesSettings
from cloud.sources.kubernetes import KubernetesSource
from common.backoff import Backoff
from common.clock import SystemClock
from common.errors import KubeError
from common.kube.access import Access
from common.kube.client import KubeClient
from common.kube.installing import install
from common.kube.resources import ENDPOINTS, RULES
from tests.kubernetes.fakeapi import FakeApi
from tests.kubernetes.memory import MemoryDesired
from tests.kubernetes.outbox import Controllers, Entry
from tests.kubernetes.realapi import START_TIMEOUT_S, find_assets, real_api
from tests.kubernetes.samples import endpoint, rule, status
from tests.support.wait import eventually

CHAIN = "nosuchcommand here\naccept\n"


class Server:
    """An API server of either kind, with a namespace of the test's own."""

    def __init__(self, access: Access, fake: FakeApi | None) -> None:
        self.access, self.fake, self.namespace = access, fake, f"test-{uuid4().hex[:8]}"
        self.client = KubeClient(access, SystemClock(), timeout_s=10)

    async def start(self) -> None:
        """Wait until it serves, and prepare it."""
        if self.fake is None:
            await eventually(self._serves, timeout=START_TIMEOUT_S, interval=0.5)
            await self.client.create("/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        await install(self.client)

    async def _serves(self) -> bool:
        try:
            await self.client.get("/api/v1/namespaces/default")
        except KubeError:
            return False
        return True

    async def apply(self, value: dict[str, Any]) -> dict[str, Any]:
        """Create an object, or change it as a merge."""
        resource = RULES if value["kind"] == "Rule" else ENDPOINTS
        value = {**value, "metadata": {**value["metadata"], "namespace": self.namespace}}
        try:
            return await self.client.create(resource.collection(self.namespace), value)
        except KubeError as exc:
            if exc.reason != "AlreadyExists":
                raise
            return await self.client.patch(resource.path(self.namespace, value["metadata"]["name"]), value)

    async def rule(self, name: str = "relay") -> dict[str, Any]:
        """A rule as it is now."""
        return await self.client.get(RULES.path(self.namespace, name))

    async def delete(self, name: str = "relay") -> None:
        """Delete a rule."""
        await self.client._call("DELETE", RULES.path(self.namespace, name), {})

    def sink(self) -> KubernetesSink:
        """The sink of a controller."""
        return KubernetesSink(KubeClient(self.access, SystemClock()), KubernetesSettings(), SystemClock())

    def status(self, uid: str, *args: Any, **more: Any) -> Any:
        """A status of a rule in the test's namespace."""
        made = status(uid, *args, **more)
        return type(made)(**{f: getattr(made, f) for f in made.__struct_fields__} | {"namespace": self.namespace})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access | None]:
    """The real server, one for all tests here, where the machine has it."""
    if find_assets() is None:
        yield None
        return
    with real_api(tmp_path_factory.mktemp("api")) as access:
        yield access


@pytest.fixture(params=["fake", "real"])
async def server(request: pytest.FixtureRequest, real: Access | None, tmp_path: Path) -> AsyncIterator[Server]:
    """Each kind in turn."""
    if request.param == "fake":
        async with FakeApi(installed=False).running() as fake:
            made = Server(Access(fake.url), fake)
            await made.start()
            yield made
            await made.client.close()
        return
    if real is None:
        with real_api(tmp_path):
            raise AssertionError("it was skipped")
    made = Server(real, None)
    await made.start()
    yield made
    await made.client.close()


async def test_what_is_installed_is_unchanged(server: Server) -> None:
    """What a server fills in by itself is no difference."""
    assert [done.done for done in await install(server.client)] == ["unchanged", "unchanged"]


async def test_the_status_is_written_and_nothing_else(server: Server) -> None:
    """Spec, generation and uid stay, exact counts come; the same again is not even a new resourceVersion."""
    made, sink = await server.apply(rule()), server.sink()
    uid = made["metadata"]["uid"]
    assert await sink.deliver([server.status(uid, 1, 1000, 7)]) == [Delivered()]
    there = await server.rule()
    assert (there["status"]["successMessages"], there["status"]["failMessages"]) == (1000, 7)
    assert there["spec"] == rule()["spec"]
    assert (there["metadata"]["generation"], there["metadata"]["uid"]) == (1, uid)
    again = await server.client.patch(RULES.status(server.namespace, "relay"), {"status": there["status"]})
    assert again["metadata"]["resourceVersion"] == there["metadata"]["resourceVersion"]
    await sink.stop()


async def test_each_half_of_an_object_has_its_own_door(server: Server) -> None:
    """A manifest cannot set its status, a status not the spec; only the spec raises the generation."""
    made = await server.apply({**rule(), "status": {"successMessages": 9}})
    assert "status" not in made
    changed = await server.apply({**rule(timeout="5s"), "status": {"successMessages": 9}})
    assert (changed["metadata"]["generation"], "status" in changed) == (2, False)
    body = {"spec": {"timeout": "9s"}, "status": {"successMessages": 1}}
    written = await server.client.patch(RULES.status(server.namespace, "relay"), body)
    assert (written["spec"]["timeout"], written["status"]["successMessages"]) == ("5s", 1)
    assert written["metadata"]["generation"] == 2


async def test_an_old_version_is_a_conflict(server: Server) -> None:
    """The precondition of every write of ours."""
    made = await server.apply(rule())
    await server.apply(rule(timeout="5s"))
    body = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "status": {"successMessages": 1}}
    with pytest.raises(KubeError) as raised:
        await server.client.patch(RULES.status(server.namespace, "relay"), body)
    assert (raised.value.code, raised.value.reason) == (409, "Conflict")


async def test_fields_are_pruned_and_checked(server: Server) -> None:
    """Chains of any shape stay, what nobody knows goes, what is wrong is 422 with its path."""
    chains = {"main": {"x": [{"deep": {"er": 1}}]}}
    made = await server.apply(rule(chains=chains, unknown=1))
    assert made["spec"]["chains"] == chains
    assert "unknown" not in made["spec"]
    with pytest.raises(KubeError) as raised:
        await server.client.create(RULES.collection(server.namespace), rule("bad", results="some"))
    assert raised.value.permanent
    assert "spec.results" in str(raised.value)
    with pytest.raises(KubeError) as missing:
        await server.rule("none")
    assert (missing.value.code, missing.value.named) == (404, True)


async def test_a_rule_made_again_begins_at_zero(server: Server) -> None:
    """Its predecessor's status does not reach it, whether the sink knew it or not."""
    old, sink = (await server.apply(rule()))["metadata"]["uid"], server.sink()
    await sink.deliver([server.status(old, 1, 5)])
    await server.delete()
    (answer,) = await sink.deliver([server.status(old, 2, 6)])
    assert isinstance(answer, Refused)
    new = (await server.apply(rule()))["metadata"]["uid"]
    (answer,) = await sink.deliver([server.status(old, 3, 7)])
    assert isinstance(answer, Refused)
    assert "status" not in await server.rule()
    assert await sink.deliver([server.status(new, 1, 1)]) == [Delivered()]
    await sink.stop()


async def test_sixteen_writers_are_exact(server: Server) -> None:
    """Rows 1 to 4: of the same rules, with old statuses in their hands, each told twice, some killed."""
    entries = [Entry(name, (await server.apply(rule(name)))["metadata"]["uid"]) for name in ("a", "b")]
    for entry in entries:
        entry.read = lambda entry=entry: server.status(  # type: ignore[method-assign, misc]
            entry.uid, entry.version, entry.success, entry.fail, name=entry.name
        )
    rng = random.Random(16)
    controllers = Controllers(entries, server.sink, rng, 16, 2)
    for count in range(100):
        rng.choice(entries).count(count % 3 > 0)
        await asyncio.sleep(0.002)
        if count % 25 == 24:
            await controllers.kill_one()
    await eventually(lambda: all(entry.told == entry.version for entry in entries), timeout=60)
    await controllers.stop()
    for entry in entries:
        shown = (await server.rule(entry.name))["status"]
        assert (shown["successMessages"], shown["failMessages"]) == (entry.success, entry.fail)
        assert shown["statusVersion"] == entry.version


async def test_what_is_applied_is_wanted(server: Server) -> None:
    """Rows 13, 15, 16: made, edited, refused with line and column, repaired, deleted, by list and by watch."""
    desired, client = MemoryDesired(), KubeClient(server.access, SystemClock(), timeout_s=10)
    settings = KubernetesSettings(namespace=server.namespace, watch_s=5)
    source = KubernetesSource(client, desired, settings, SystemClock(), lambda: Backoff(0.05, 0.2))
    await server.apply(endpoint())
    task = asyncio.create_task(source.run())
    await server.apply(rule())
    await eventually(lambda: desired.names() == ["bus", "relay"], timeout=30)
    await server.apply(rule(chain=CHAIN))

    async def says_where() -> bool:
        found = {c["type"]: c for c in (await server.rule()).get("status", {}).get("conditions", [])}
        return "line 1, column 1" in found.get("Ready", {}).get("message", "")

    await eventually(says_where, timeout=30, interval=0.1)
    await server.apply(rule(chain="accept"))
    await eventually(lambda: sorted(held.version for _, held in desired.wanted.values()) == [1, 3], timeout=30)
    await server.delete()
    await eventually(lambda: desired.names() == ["bus"], timeout=30)
    task.cancel()
    await asyncio.wait([task])
    await client.close()


async def test_a_watch_from_too_long_ago_is_gone(server: Server) -> None:
    """410, by which a source knows that it must list anew."""
    await server.apply(rule())
    if server.fake is not None:
        server.fake.compact()
    with pytest.raises(KubeError) as raised:
        async for _ in server.client.watch(RULES.collection(), "1", 5):
            pass
    assert raised.value.code == 410
