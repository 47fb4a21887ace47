"""The cloud's side of the downlink for tests, and a node in process whose rules come from it; endpoints are played."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from common import message as messages
from common.clock import SystemClock
from common.faults import Fault, no_fault
from common.message import DELETE, ERROR, QUERY, RESPONSE, UPDATE, Message
from common.models import Refusal
from common.resource import RULE, RULEENDPOINT
from common.rules import API_VERSION, EVENTBUS, REST, EndpointType
from common.rulesync import SyncedObject, rules_version, sync_version
from edge.downlink import KIND_OF, Downlink
from edge.endpoints.base import Kind
from edge.rules.configuration import Configuration
from edge.rules.host import RuleHost
from edge.rules.store import LastGood
from edge.rules.syncfile import SyncFile
from edge.settings import DownlinkSettings, FlowSettings
from edge.status import Status
from tests.edge.support import NODE, Collected
from tests.flow.node import PlayedKind
from tests.support.wait import eventually

BUS = {"ruleEndpointType": "eventbus"}


def spec(topic: str = "in", out: str = "out", **more: Any) -> dict[str, Any]:
    """The spec of a rule from bus to bus."""
    return {
        "source": "bus", "sourceResource": {"topic": topic}, "target": "bus", "targetResource": {"topic": out}, **more
    }  # fmt: skip


def manifest(kind: str, name: str, uid: str, version: int, spec: Any, namespace: str = "default") -> dict[str, Any]:
    """A manifest as the cloud sends it."""
    metadata = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version)}
    return {"apiVersion": API_VERSION, "kind": KIND_OF[kind], "metadata": metadata, "spec": spec}


def order(
    kind: str, name: str, uid: str, version: int, content: Any, operation: str = UPDATE, namespace: str = "default"
) -> Message[Any]:
    """A message down; ``content`` as it is, or a spec to make a manifest of."""
    if operation == DELETE:
        content = {"metadata": {"name": name, "namespace": namespace, "uid": uid}}
    elif isinstance(content, dict) and "metadata" not in content:
        content = manifest(kind, name, uid, version, content, namespace)
    made = messages.new(
        source="edgecontroller", group="resource", operation=operation, content=content,
        resource=f"node/{NODE}/{namespace}/{kind}/{name}",
    )  # fmt: skip
    made.header.resourceversion = sync_version(uid, version)
    return made


class LivePlayedKind(PlayedKind):
    """A played endpoint type that can be started. ``fails`` names a topic that cannot be bound."""

    def __init__(self, type: EndpointType = EVENTBUS) -> None:
        super().__init__()
        self.type, self.fails = type, ""

    def bind(self, wirings: Any) -> None:
        """See Kind."""
        from common.errors import ConfigError

        if self.fails and any(wiring.resource.get("topic") == self.fails for wiring in wirings):
            raise ConfigError(f"nobody can bind {self.fails}")
        super().bind(wirings)

    async def start(self) -> None:
        """See Kind."""


class CloudFed:
    """A node without a broker: what ``offer`` sends it, it answers."""

    def __init__(
        self, path: Path, layers: Path | None = None, *, settings: DownlinkSettings | None = None,
        fault: Fault = no_fault,
    ) -> None:  # fmt: skip
        self.collected, self.bus, self.rest = Collected(path), LivePlayedKind(), LivePlayedKind(REST)
        self.reports = 0
        kinds: dict[str, Kind] = {"eventbus": self.bus, "rest": self.rest}  # type: ignore[dict-item]
        self.host = RuleHost(
            NODE, {}, Status(self.collected.spool), self.collected.spool, kinds,
            Configuration([], str(layers) if layers else ""), flow=FlowSettings(journal_after_s=0.01),
            clock=SystemClock(), last_good=LastGood(path), sync_file=SyncFile(path, NODE, fault=fault),
            downlink=settings,
        )  # fmt: skip
        self.host.on_synced = self._reported
        self.answers: list[Message[Any]] = []
        self.downlink = Downlink(self.host, self._send, settings, fault=fault)

    def _reported(self) -> None:
        self.reports += 1

    async def _send(self, answer: Message[Any]) -> None:
        self.answers.append(answer)

    async def offer(self, *orders: Message[Any]) -> list[str]:
        """Send all at once; the answers in the order of ``orders``: OK, or the reason and detail of a refusal."""
        first = len(self.answers)
        for message in orders:
            self.downlink.take(message)
        await eventually(lambda: len(self.answers) == first + len(orders))
        by_parent = {answer.header.parent_msg_id: answer for answer in self.answers[first:]}
        told = []
        for message in orders:
            answer = by_parent[message.header.msg_id]
            assert answer.header.resourceversion == message.header.resourceversion
            assert answer.route.operation == (ERROR if isinstance(answer.content, Refusal) else RESPONSE)
            content = answer.content
            told.append(f"{content.reason}: {content.detail}" if isinstance(content, Refusal) else content)
        return told

    async def rule(self, name: str, version: int, content: Any, uid: str = "", **more: Any) -> str:
        """Offer one version of a rule; the answer."""
        (told,) = await self.offer(order(RULE, name, uid or f"u-{name}", version, content, **more))
        return told

    async def endpoint(self, name: str, version: int, content: Any, uid: str = "", **more: Any) -> str:
        """Offer one version of an endpoint; the answer."""
        (told,) = await self.offer(order(RULEENDPOINT, name, uid or f"e-{name}", version, content, **more))
        return told

    async def delete(self, kind: str, name: str, version: int, uid: str = "") -> str:
        """Delete an object; the answer."""
        uid = uid or f"{'u' if kind == RULE else 'e'}-{name}"
        (told,) = await self.offer(order(kind, name, uid, version, None, operation=DELETE))
        return told

    async def listed(self) -> list[SyncedObject]:
        """The node's whole list, page by page as the protocol has it, when its hash is right."""
        items: list[SyncedObject] = []
        while True:
            after = (items[-1].kind, items[-1].namespace, items[-1].name) if items else ("", "", "")
            query = messages.new(
                source="edgecontroller", group="resource", operation=QUERY, resource=f"node/{NODE}/default/rule",
                content={"after": after},
            )  # fmt: skip
            first = len(self.answers)
            self.downlink.take(query)
            await eventually(lambda first=first: len(self.answers) > first)
            answer = self.answers[-1]
            items += msgspec.convert(msgspec.to_builtins(answer.content), list[SyncedObject])
            if rules_version(items) == answer.header.resourceversion:
                return items

    def runs(self) -> dict[str, tuple[str, str, str]]:
        """Of each rule that runs: uid, version, and the topic that it listens to."""
        bound = [(wiring.consumer.rule, wiring.resource["topic"]) for wiring in self.bus.wirings]
        return {rule.name: (rule.uid, rule.version, topic) for rule, topic in bound}


@contextlib.asynccontextmanager
async def cloud_fed(
    path: Path, layers: Path | None = None, *, settings: DownlinkSettings | None = None, fault: Fault = no_fault
) -> AsyncIterator[CloudFed]:
    """A node that runs; started again on the same path it goes on with what it had."""
    node = CloudFed(path, layers, settings=settings, fault=fault)
    task = None
    try:
        node.host.begin()
        task = asyncio.create_task(node.downlink.run())
        yield node
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await node.host.rules.drain()
        await node.collected.spool.stop()
