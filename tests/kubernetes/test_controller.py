"""A whole controller between a cluster and its nodes: what is applied is deployed, what happens is shown (P8.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import structs

from cloud.controller import Controller
from cloud.settings import CloudSettings, KubernetesSettings, Settings
from common.control import call
from common.messaging.memory import MemoryHub
from tests.cloud.node import node_on
from tests.cloud.samples import bad, birth, ok
from tests.kubernetes.fakeapi import FakeApi, kubeconfig
from tests.kubernetes.samples import endpoint, rule
from tests.support.wait import eventually


@asynccontextmanager
async def controller_on(hub: MemoryHub, api: FakeApi, directory: Path) -> AsyncIterator[Controller]:
    """A controller of this cluster, stopped at the end."""
    (directory / "config").write_text(kubeconfig(api.url))
    cluster = KubernetesSettings(enabled=True, kubeconfig=str(directory / "config"), interval_s=0.05)
    settings = Settings(data_dir=str(directory / "data"), cloud=CloudSettings(kubernetes=cluster))
    made = Controller(settings, make_link=lambda chosen, will: hub.link(chosen.cloud.controller, will=will))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def only(node: str) -> dict[str, Any]:
    """The rule relay for one node."""
    value = rule()
    value["spec"]["sourceResource"]["node_name"] = node
    return value


async def test_kubectl_apply_deploys_and_kubectl_get_shows_counts(api: FakeApi, tmp_path: Path) -> None:
    """A rule becomes its node's; its counts, sent three times over, come back into the object exactly.

    KubeEdge's row 10: any node may claim any rule. Here: what a node says of a rule that it never had is refused, kept
    as a dead letter, and not counted.
    """
    hub = MemoryHub()

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = api.get("rules", "relay").get("status", {})
        return found

    async with controller_on(hub, api, tmp_path), node_on(hub) as node, node_on(hub, "edge-2") as stranger:
        node.presence(birth())
        stranger.presence(birth(node="edge-2"))
        api.apply(endpoint())
        uid = api.apply(only("edge-1"))["metadata"]["uid"]
        await eventually(lambda: shown().get("nodes", {}).get("assigned") == 1)
        mine = {"rule_id": "relay", "rule_uid": uid}
        for sequence in (1, 2, 3, 1, 2, 3, 3, 2, 1):
            await node.results(sequence, [structs.replace(ok(), **mine), structs.replace(bad(), **mine)])
        await stranger.results(1, [structs.replace(ok(), **mine), structs.replace(bad(), **mine)])
        await eventually(lambda: stranger.errors() or stranger.confirmations())
        await eventually(lambda: (shown()["successMessages"], shown()["failMessages"]) == (3, 3))
        assert shown()["observedGeneration"] == 1
        assert shown()["errorDetails"][0]["count"] == 3
        (letter,) = await call(tmp_path / "data" / "cloud.sock", "dlq.ls")
        assert (letter["node"], letter["reason"]) == ("edge-2", "not_assigned")
        found = await call(tmp_path / "data" / "cloud.sock", "statistics")
        assert found["kubernetes"]["ready"] == 1
        api.delete("rules", "relay")

        async def removed() -> bool:
            found = await call(tmp_path / "data" / "cloud.sock", "statistics")
            return bool(found["kubernetes"]["removed"] == 1 and found["kubernetes"]["held"] == 1)

        await eventually(removed)
