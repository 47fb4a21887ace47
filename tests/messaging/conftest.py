"""What the contract suite runs over: the memory hub, and each kind of broker, started once per module."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from common.messaging.base import Inbound, Refused
from common.messaging.memory import MemoryHub, MemoryLayer
from common.messaging.mqtt import MqttLayer
from common.messaging.transport import MqttLink
from common.models import Confirmation, ExecResult
from common.settings import BrokerSettings
from tests.conftest import ANY_BROKER
from tests.messaging.watched import Watched
from tests.support.brokers import NO_MOSQUITTO, Broker, Embedded, Mosquitto, find_mosquitto
from tests.support.client import Client
from tests.support.proxy import TcpProxy
from tests.support.wait import eventually

CLIENTS = ("native", "paho")  # the implementations of Connection, held to the same tests
MEDIA = ("memory", *(f"{broker}-{client}" for broker in ANY_BROKER for client in CLIENTS))
_numbers = itertools.count(1)


class Medium:
    """Makes layers of one kind under a root of its own, so that tests share a broker and not their messages."""

    def __init__(self, broker: Broker | None, client: str) -> None:
        self.broker, self.client, self.hub = broker, client, MemoryHub()
        self.root = f"t{next(_numbers)}"
        self.refused: list[Refused] = []
        self._layers: list[MqttLayer] = []

    def layer(self, side: Any, node: str = "", **options: Any) -> MqttLayer:
        """Make a layer that is not started."""
        options.setdefault("source", "router" if side == "edge" else "edgecontroller")
        options.setdefault("on_refused", self.refused.append)
        types: Any = {"rulestatus": Confirmation} if side == "edge" else {"rulestatus": ExecResult | list[ExecResult]}
        common: Any = {"root": self.root, "side": side, "node": node, "group": "resource", "content_types": types}
        if self.broker is None:
            layer: MqttLayer = MemoryLayer(self.hub, **common, **options)
        else:
            link = MqttLink(self.broker.settings(client=self.client), f"{self.root}-{side}-{next(_numbers)}")
            layer = MqttLayer(link, **common, **options)
        self._layers.append(layer)
        return layer

    async def start(self, *layers: MqttLayer) -> None:
        """Start layers and wait until they are connected."""
        for layer in layers:
            await layer.start()
        await eventually(lambda: all(layer.link.connected for layer in layers), what="connected")

    async def pair(self, **options: Any) -> tuple[MqttLayer, MqttLayer]:
        """Return a connected edge layer (edge-1) and cloud layer."""
        edge, cloud = self.layer("edge", "edge-1", **options), self.layer("cloud", **options)
        await self.start(edge, cloud)
        return edge, cloud

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish any bytes, as a foreign client would."""
        if self.broker is None:
            self.hub.route(Inbound(topic, payload, 1, retain))
            return
        async with Client(self.broker.port, f"foreign-{next(_numbers)}") as client:
            await client.publish(topic, payload, retain=retain)

    async def close(self) -> None:
        """Stop all layers."""
        for layer in self._layers:
            await layer.stop()


@pytest_asyncio.fixture(params=MEDIA, scope="module", loop_scope="module")
async def medium_broker(request: pytest.FixtureRequest, tmp_path_factory: Any) -> AsyncIterator[Broker | None]:
    """A running broker of each kind in turn; None for memory."""
    if request.param == "memory":
        yield None
        return
    kind, protocol, _ = str(request.param).split("-")
    if kind == "mosquitto" and find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    directory: Path = tmp_path_factory.mktemp(kind)
    make: Callable[..., Broker] = Mosquitto if kind == "mosquitto" else Embedded
    broker = make(directory, protocol=protocol) if kind == "mosquitto" else make(directory)
    async with broker:
        yield broker


@pytest_asyncio.fixture(loop_scope="module")
async def medium(request: pytest.FixtureRequest, medium_broker: Broker | None) -> AsyncIterator[Medium]:
    """The medium of one test."""
    made = Medium(medium_broker, str(request.node.callspec.params["medium_broker"]).rpartition("-")[2])
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Each implementation of a connection in turn: the setting ``broker.client``."""
    return str(request.param)


@pytest.fixture
async def links(client: Any) -> AsyncIterator[Any]:
    """Makes links that are stopped at the end."""
    made: list[Watched] = []

    def make(settings: BrokerSettings, *args: Any, **options: Any) -> Watched:
        made.append(Watched(msgspec.structs.replace(settings, client=client), *args, **options))
        return made[-1]

    yield make
    for watched in made:
        await watched.link.stop()


@pytest.fixture
async def proxy(mosquitto: Mosquitto) -> AsyncIterator[TcpProxy]:
    """A proxy in front of Mosquitto."""
    made = TcpProxy("127.0.0.1", mosquitto.port)
    await made.start()
    yield made
    await made.stop()
