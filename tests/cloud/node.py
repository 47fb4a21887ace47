"""A node of the tests: speaks raw messages through a hub, as an edge agent would on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from cloud.controller import Controller
from cloud.settings import CloudSettings, QueueSettings, Settings
from common import topics
from common.clock import Clock
from common.codec import encode
from common.message import Message, new
from common.messaging.memory import MemoryHub, MemoryLayer, MemoryLink
from common.models import Confirmation, ExecResult, NodeBirth, Refusal
from common.settings import SharedSettings
from tests.cloud.samples import epoch

ROOT = SharedSettings().root


class Node:
    """One node on a hub. ``replies`` collects what comes down to it."""

    def __init__(self, hub: MemoryHub, name: str = "edge-1") -> None:
        self.name = name
        self.layer = MemoryLayer(hub, root=ROOT, side="edge", node=name, source="router", group="resource")
        self.link: MemoryLink = self.layer.link  # type: ignore[assignment]
        self._reader: asyncio.Task[None] | None = None
        self.replies: list[Message[Any]] = []

    async def start(self) -> None:
        await self.layer.start()
        await asyncio.sleep(0)
        self._reader = asyncio.create_task(self._read())

    async def stop(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await self.layer.stop()

    async def _read(self) -> None:
        while True:
            self.replies.append(await self.layer.receive())

    async def results(
        self, sequence: int, results: list[ExecResult] | ExecResult, *, rule: str = "", operation: str = "update"
    ) -> Message[Any]:
        """Send one rulestatus message and return it."""
        name = f"/{rule}" if rule else ""
        message = new(
            source="router", group="resource", operation=operation,
            resource=f"node/{self.name}/default/rulestatus{name}", content=results,
        )  # fmt: skip
        message.header.resourceversion, message.header.low = f"{epoch()}.{sequence}", 1
        await self.layer.send(message)
        return message

    def raw(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish bytes as they are."""
        self.link.publish(topic, payload, retain=retain)

    def presence(self, birth: NodeBirth) -> None:
        """Publish a retained birth or offline notice."""
        self.raw(topics.presence_topic(ROOT, self.name), msgspec.json.encode(birth), retain=True)

    def confirmations(self) -> list[Confirmation]:
        """What was confirmed so far."""
        return [
            msgspec.convert(message.content, Confirmation)
            for message in self.replies
            if message.route.operation == "response"
        ]

    def errors(self) -> list[Refusal]:
        """What was refused so far."""
        return [msgspec.convert(m.content, Refusal) for m in self.replies if m.route.operation == "error"]


def up_topic(node: str = "edge-1", rest: str = "router:resource/update/default/rulestatus/overheat") -> str:
    """A topic upward."""
    return f"{ROOT}/up/{node}/{rest}"


def body(message: Message[Any]) -> bytes:
    """A message's bytes."""
    return encode(message)


@asynccontextmanager
async def running(
    directory: Path, hub: MemoryHub, *, clock: Clock | None = None, queues: QueueSettings | None = None, **cloud: Any
) -> AsyncIterator[Controller]:
    """A controller on a hub, stopped at the end."""
    section = CloudSettings(queues=queues or QueueSettings(), **cloud)
    settings = Settings(data_dir=str(directory / "data"), cloud=section)
    controller = Controller(
        settings, clock=clock, make_link=lambda chosen, will: hub.link(chosen.cloud.controller, will=will)
    )
    await controller.start()
    try:
        yield controller
    finally:
        await controller.stop()


@asynccontextmanager
async def node_on(hub: MemoryHub, name: str = "edge-1") -> AsyncIterator[Node]:
    """A started node, stopped at the end."""
    node = Node(hub, name)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()
