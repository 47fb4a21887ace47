"""Every sink at once behind one controller: what the store counts is what each of them ends with (protocol P8)."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiohttp import web
from msgspec import structs

from cloud.settings import KubernetesSettings
from cloud.settings.forward import ForwardSettings, MqttSinkSettings, WebhookSettings
from common.control import call
from common.messaging.memory import MemoryHub
from common.models import ExecResult
from common.topics import status_topic
from tests.cloud.node import ROOT, Node, node_on, running
from tests.cloud.samples import bad, birth, ok
from tests.forwarders.parts import Receiver
from tests.kubernetes.fakeapi import FakeApi, Fault, kubeconfig
from tests.kubernetes.samples import endpoint, rule
from tests.support.wait import eventually

NODES, MESSAGES, RULES = 16, 6, ("a", "b", "c")
SINKS = {"kubernetes", "webhook:here", "mqtt"}


async def _report(node: Node, uids: dict[str, str], rng: random.Random, sums: dict[str, list[int]]) -> None:
    """Send messages of one to four results, each three times, in any order; add their results to ``sums``."""
    messages: list[list[ExecResult]] = []
    for _ in range(MESSAGES):
        results = []
        for _ in range(rng.randint(1, 4)):
            name, failed = rng.choice(RULES), rng.random() < 0.3
            sums[name][failed] += 1
            results.append(structs.replace(bad() if failed else ok(), rule_id=name, rule_uid=uids[name]))
        messages.append(results)
    order = [number for number in range(MESSAGES) for _ in range(3)]
    rng.shuffle(order)
    for number in order:
        await node.results(number + 1, messages[number])
        if rng.random() < 0.3:
            await asyncio.sleep(0)


async def test_all_sinks_end_with_the_counts_of_the_store(tmp_path: Path) -> None:
    """Rows 1 to 3 of KubeEdge's failures, all at once: sixteen nodes, everything sent three times, a third of the
    writes to Kubernetes a conflict, and a webhook that is down at first: store, Kubernetes, webhook and the retained
    MQTT status have the same exact counts.
    """
    hub, api, receiver, rng = MemoryHub(), FakeApi(), Receiver(), random.Random(11)
    async with AsyncExitStack() as stack:
        for part in (api, receiver):
            await stack.enter_async_context(part.running())
        receiver.answers = [web.Response(status=503) for _ in range(3)]
        conflicts = []

        def conflict(method: str, path: str) -> Fault | None:
            if method != "PATCH" or rng.random() > 0.33:
                return None
            conflicts.append(path)
            return Fault(409)

        api.fault = conflict
        (tmp_path / "config").write_text(kubeconfig(api.url))
        hook = WebhookSettings(url=receiver.url, allow_http=True, allow_networks=["127.0.0.0/8"], interval_s=0.05)
        forward = ForwardSettings(
            webhooks={"here": hook}, mqtt=MqttSinkSettings(True, interval_s=0.05), retry_first_s=0.05, retry_max_s=0.2
        )
        cluster = KubernetesSettings(enabled=True, kubeconfig=str(tmp_path / "config"), interval_s=0.05)
        await stack.enter_async_context(running(tmp_path, hub, forward=forward, kubernetes=cluster))
        nodes = [await stack.enter_async_context(node_on(hub, f"edge-{n}")) for n in range(NODES)]
        for node in nodes:
            node.presence(birth(node=node.name))
        api.apply(endpoint())
        uids = {name: api.apply(rule(name))["metadata"]["uid"] for name in RULES}
        assigned = lambda: all(_shown(api, name).get("nodes", {}).get("assigned") == NODES for name in RULES)  # noqa: E731
        await eventually(assigned, 30)
        sums = {name: [0, 0] for name in RULES}
        await asyncio.gather(*(_report(node, uids, rng, sums) for node in nodes))
        expected = {name: tuple(counts) for name, counts in sums.items()}

        async def store() -> dict[str, tuple[int, int]]:
            rows = await call(tmp_path / "data" / "cloud.sock", "get.rules")
            return {row["rule"]: (row["success"], row["fail"]) for row in rows}

        async def told() -> bool:
            rows = await call(tmp_path / "data" / "cloud.sock", "get.sinks")
            return {row["sink"] for row in rows if not row["pending"] and not row["lag_s"]} == SINKS

        await eventually(lambda: _is(store, expected), what="the store has all")

        def sinks() -> list[dict[str, tuple[int, int]]]:
            kubernetes = {name: _shown(api, name) for name in RULES}
            return [
                {name: (status["successMessages"], status["failMessages"]) for name, status in kubernetes.items()},
                {data["rule"]: (data["success"], data["fail"]) for data in receiver.rules.values()},
                {name: _retained(hub, name) for name in RULES},
            ]

        await eventually(lambda: sinks() == [expected] * 3, timeout=30, what="all sinks have what the store has")
        await eventually(told, what="nothing waits")
        assert sinks() == [expected] * 3
        assert sum(map(sum, sums.values())) > NODES * MESSAGES
        assert conflicts
        assert not receiver.answers


def _shown(api: FakeApi, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get("rules", name).get("status", {})
    return found


def _retained(hub: MemoryHub, name: str) -> tuple[int, int]:
    message = next(iter(hub.retained([status_topic(ROOT, "default", name)])), None)
    if message is None:  # not told yet
        return 0, 0
    found = json.loads(message.payload)
    return found["success"], found["fail"]


async def _is(read: Any, expected: Any) -> bool:
    return bool(await read() == expected)
