"""A plain MQTT client for tests that are about brokers or the network, not about our own transport."""

from __future__ import annotations

from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.wait import eventually


class Client:
    """paho on its own thread; what happened is in ``messages`` (topic, payload, retain) and the other attributes."""

    def __init__(self, port: int, client_id: str, *, persistent: bool = False) -> None:
        self._port = port
        self.messages: list[tuple[str, bytes, bool]] = []
        self.session_present = False
        self.connects = self.disconnects = self.subscribed = 0
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv311, clean_session=not persistent
        )
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_subscribe = self._on_subscribe
        self.paho.on_message = self._on_message

    async def __aenter__(self) -> Self:
        self.paho.connect("127.0.0.1", self._port, keepalive=60)
        self.paho.loop_start()
        await eventually(lambda: self.connects, what="connected")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()

    async def subscribe(self, *filters: str) -> None:
        """Subscribe with QoS 1 and wait for the acknowledgement."""
        expected = self.subscribed + len(filters)
        for filter_ in filters:
            self.paho.subscribe(filter_, 1)
        await eventually(lambda: self.subscribed == expected, what=f"subscribed to {filters}")

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout: float = 10.0) -> None:
        """Publish with QoS 1 and wait for the acknowledgement."""
        info = self.paho.publish(topic, payload, qos=1, retain=retain)
        await eventually(info.is_published, timeout, what=f"published to {topic}")

    async def wait_for(self, count: int) -> list[tuple[str, bytes, bool]]:
        """Wait until ``count`` messages came, and return all that did."""
        await eventually(lambda: len(self.messages) >= count, what=f"{count} messages")
        return self.messages

    def _on_connect(self, _client: Any, _data: Any, flags: Any, _reason: Any, _properties: Any) -> None:
        self.session_present = flags.session_present
        self.connects += 1

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, _reason: Any, _properties: Any) -> None:
        self.disconnects += 1

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, _reasons: Any, _properties: Any) -> None:
        self.subscribed += 1

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), message.retain))
