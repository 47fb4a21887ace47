"""A node of the tests that takes rules as the edge does; the test says what it refuses and what is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from common.message import DELETE, ERROR, QUERY, RESPONSE, Message, new, reply
from common.messaging.memory import MemoryHub
from common.models import NodeStatus, Refusal
from common.resource import RULE, RULEENDPOINT
from common.rules import ENDPOINT_KIND, RULE_KIND
from common.rulesync import REFUSED, SyncedObject, parse_sync_version, rules_version
from tests.cloud.node import Node
from tests.cloud.samples import birth

KINDS = {RULE: RULE_KIND, RULEENDPOINT: ENDPOINT_KIND}


class RulesNode(Node):
    """``objects`` are what it has, by kind, namespace and name; ``taken`` the operations that came, as short texts.

    ``refuse`` says why a manifest is refused (empty: it is not), ``lose`` whether a message is lost before it comes,
    ``mute`` whether answers to objects are lost.
    """

    def __init__(self, hub: MemoryHub, name: str = "edge-1", **labels: str) -> None:
        super().__init__(hub, name)
        self.labels = labels
        self.objects: dict[tuple[str, str, str], SyncedObject] = {}
        self.manifests: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.taken: list[str] = []
        self.refuse: Callable[[dict[str, Any]], str] = lambda manifest: ""
        self.lose: Callable[[str], bool] = lambda text: False
        self.mute = False
        self.queries = 0
        self.page = 10_000  # items in one answer
        self._session = 0

    def born(self, **more: Any) -> None:
        """Say that it is there, as after a connect."""
        self._session += 1
        told = {"labels": self.labels, "rules_version": self.hash, "session": self._session, **more}
        self.presence(birth(node=self.name, **told))

    def gone(self) -> None:
        """Say goodbye."""
        self.presence(birth(node=self.name, session=self._session, online=False))

    async def report(self, **more: Any) -> None:
        """Send a nodestatus."""
        await self.say("update", f"node/{self.name}/default/nodestatus", NodeStatus(rules_version=self.hash, **more))

    async def say(self, operation: str, resource: str, content: Any) -> None:
        """Send a message of its own."""
        await self.layer.send(
            new(source="router", group="resource", operation=operation, resource=resource, content=content)
        )

    @property
    def hash(self) -> str:
        """The hash over what it has."""
        return rules_version(self.objects.values())

    def running(self) -> dict[str, int]:
        """Version that runs, by namespace/name of the rules."""
        return {f"{o.namespace}/{o.name}": o.running for o in self.objects.values() if o.kind == RULE_KIND}

    async def _read(self) -> None:
        while True:
            message = await self.layer.receive()
            if message.parsed_resource().type in KINDS and message.route.operation not in (RESPONSE, ERROR):
                await self._take(message)
            else:
                self.replies.append(message)

    async def _take(self, message: Message[Any]) -> None:
        resource, operation = message.parsed_resource(), message.route.operation
        if operation == QUERY:
            self.queries += 1
            await self._list(message)
            return
        text = f"{operation} {resource.type} {resource.name} {message.header.resourceversion.rpartition('.')[2]}"
        if self.lose(text):
            return
        self.taken.append(text)
        key = (KINDS[resource.type], resource.namespace, resource.name)
        uid, version = parse_sync_version(message.header.resourceversion)
        error = self._apply(key, uid, version, None if operation == DELETE else message.content)
        if not self.mute:
            content = Refusal("invalid_manifest", error) if error else "OK"
            answer = reply(message, content, source="router", group="resource", operation=ERROR if error else RESPONSE)
            answer.header.resourceversion = message.header.resourceversion
            await self.layer.send(answer)

    def _apply(self, key: tuple[str, str, str], uid: str, version: int, manifest: dict[str, Any] | None) -> str:
        before = self.objects.get(key)
        if manifest is None:
            if before is not None and before.uid == uid:
                del self.objects[key]
            return ""
        assert (manifest["metadata"]["uid"], manifest["metadata"]["resourceVersion"]) == (uid, str(version))
        error = self.refuse(manifest)
        if error:
            running = before.running if before is not None and before.uid == uid else 0
            self.objects[key] = SyncedObject(*key, uid, version, REFUSED, running, error)
            return error
        self.objects[key] = SyncedObject(*key, uid, version, running=version)
        self.manifests[key] = manifest
        return ""

    async def _list(self, message: Message[Any]) -> None:
        after = tuple((message.content or {}).get("after", ("", "", "")))
        items = sorted(item for key, item in self.objects.items() if key > after)[: self.page]
        answer = reply(message, items, source="router", group="resource")
        answer.header.resourceversion = self.hash
        await self.layer.send(answer)


@asynccontextmanager
async def rules_node(hub: MemoryHub, name: str = "edge-1", **labels: str) -> AsyncIterator[RulesNode]:
    """A started node that was born, stopped at the end."""
    node = RulesNode(hub, name, **labels)
    await node.start()
    node.born()
    try:
        yield node
    finally:
        await node.stop()


def endpoint(name: str = "bus", namespace: str = "default") -> str:
    """The manifest of an eventbus endpoint."""
    return (
        "apiVersion: rules.kubeedge.io/v1\nkind: RuleEndpoint\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{ruleEndpointType: eventbus}}\n---\n"
    )


def rule(name: str = "relay", *, nodes: str = "", target: str = "bus", topic: str = "out", **spec: Any) -> str:
    """The manifest of a rule of namespace default; ``spec`` is YAML text by key."""
    where = f', node_name: "{nodes}"' if nodes else ""
    more = "".join(f"\n  {key}: {value}" for key, value in spec.items())
    return (
        f"apiVersion: rules.kubeedge.io/v1\nkind: Rule\nmetadata: {{name: {name}}}\nspec:\n  source: bus\n"
        f'  sourceResource: {{topic: "in/+"{where}}}\n  target: {target}\n'
        f'  targetResource: {{topic: "{topic}"}}{more}\n---\n'
    )
