"""A link that remembers everything that it told its owner."""

from __future__ import annotations

from typing import Any

from common.messaging.base import Inbound, Subscription
from common.messaging.transport import MqttLink
from common.settings import BrokerSettings
from tests.support.wait import eventually


class Watched:
    """A link and everything that it told."""

    def __init__(self, settings: BrokerSettings, client_id: str = "link-1", **options: Any) -> None:
        self.link = MqttLink(settings, client_id, **options)
        self.messages: list[Inbound] = []
        self.events: list[str] = []
        self.codes: list[int] = []
        self.link.on_message = self.messages.append
        self.link.on_connect = lambda: self.events.append("up")
        self.link.on_disconnect = lambda reason: self.events.append("down")

    async def up(self, *filters: str) -> MqttLink:
        """Start and wait for the connection."""
        if filters:
            self.link.subscribe([Subscription(name) for name in filters])
        await self.link.start()
        await self.connected()
        return self.link

    async def connected(self, generation: int = 1) -> None:
        """Wait for the connection of that number."""
        await eventually(
            lambda: self.link.connected and self.link.generation >= generation, what=f"connection {generation}"
        )

    def publish(self, topic: str, payload: bytes = b"x", **options: Any) -> None:
        """Publish and keep the code."""
        self.link.publish(topic, payload, on_done=self.codes.append, **options)

    async def published(self, topic: str, payload: bytes = b"x", **options: Any) -> int:
        """Publish and return the code."""
        before = len(self.codes)
        self.publish(topic, payload, **options)
        await eventually(lambda: len(self.codes) > before, what=f"on_done of {topic}")
        return self.codes[-1]
