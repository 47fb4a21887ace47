"""Rules that reach a real agent over a real broker: flow, refusal, kill -9 and restart, deletion (protocol P6)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from common import message as messages
from common.control import call, socket_path
from common.errors import RemoteError
from common.message import EDGECONTROLLER, QUERY, RESOURCE_GROUP, Message
from common.messaging.base import Subscription
from common.messaging.mqtt import MqttLayer
from common.messaging.transport import MqttLink
from common.models import NodeBirth, Refusal
from common.resource import NODESTATUS, RULE, RULEENDPOINT, RULESTATUS
from common.rulesync import APPLIED, REFUSED
from tests.e2e.stack import NODE, Process
from tests.edge.cloudside import BUS, order, spec
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually


class PlayedCloud:
    """A controller that the test plays: it sends objects and reads what the node says."""

    def __init__(self, broker: Mosquitto) -> None:
        self._layer = MqttLayer(
            MqttLink(broker.settings(), "cloud"), root="fieldpost", side="cloud", source=EDGECONTROLLER,
            group=RESOURCE_GROUP,
        )  # fmt: skip
        self.seen: list[Message[Any]] = []
        self.version = ""  # the hash of the list that was asked for last

    async def run(self) -> None:
        """Collect what no request waits for."""
        while True:
            self.seen.append(await self._layer.receive())

    async def start(self) -> None:
        """Connect."""
        await self._layer.start()
        await eventually(lambda: self._layer.link.connected)

    async def stop(self) -> None:
        """Disconnect."""
        await self._layer.stop()

    async def ask(self, message: Message[Any], timeout: float = 10) -> str:
        """Send; what the node answers, of a refusal its reason and detail."""
        try:
            answer = await self._layer.send_sync(message, timeout)
        except RemoteError as exc:
            refusal = msgspec.convert(exc.content, Refusal)
            return f"{refusal.reason}: {refusal.detail}"
        assert answer.header.resourceversion == message.header.resourceversion
        return str(answer.content)

    async def tell(self, message: Message[Any]) -> None:
        """Send, and wait for no answer."""
        await self._layer.send(message)

    async def list(self) -> list[tuple[str, int, str, int]]:
        """Name, version, state and running version of what the node has; it fits into one message."""
        resource = f"node/{NODE}/default/rule"
        query = messages.new(source=EDGECONTROLLER, group=RESOURCE_GROUP, operation=QUERY, resource=resource)
        answer = await self._layer.send_sync(query, 10)
        items, self.version = answer.content, answer.header.resourceversion
        return [(i["name"], i["version"], i.get("state", APPLIED), i.get("running", 0)) for i in items]

    def hashes(self) -> list[str]:
        """The rules_version of each nodestatus so far."""
        kinds = [message for message in self.seen if message.parsed_resource().type == NODESTATUS]
        return [message.content.get("rules_version", "") for message in kinds]

    def births(self) -> list[str]:
        """The rules_version of each birth so far."""
        return [m.content.rules_version for m in self.seen if isinstance(m.content, NodeBirth) and m.content.online]

    def results(self) -> list[tuple[str, str]]:
        """uid and version of each result so far; none is confirmed, so some come twice."""
        lists = [m.content for m in self.seen if m.parsed_resource().type == RULESTATUS]
        flat = [item for content in lists for item in (content if isinstance(content, list) else [content])]
        return [(item.get("RuleUID", ""), item.get("RuleVersion", "")) for item in flat]


@contextlib.asynccontextmanager
async def played_cloud(broker: Mosquitto) -> AsyncIterator[PlayedCloud]:
    """A controller that is connected."""
    cloud = PlayedCloud(broker)
    await cloud.start()
    task = asyncio.create_task(cloud.run())
    try:
        yield cloud
    finally:
        task.cancel()
        await cloud.stop()


@contextlib.asynccontextmanager
async def device(broker: Mosquitto) -> AsyncIterator[tuple[MqttLink, list[tuple[str, bytes]]]]:
    """A device, and what it gets on ``out/#``."""
    link = MqttLink(broker.settings(), "device")
    out: list[tuple[str, bytes]] = []
    link.on_message = lambda packet: out.append((packet.topic, packet.payload))
    link.subscribe([Subscription("out/#")])
    await link.start()
    await eventually(lambda: link.connected)
    yield link, out
    await link.stop()


async def test_rules_reach_a_bare_agent_and_outlive_its_end(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """One life: endpoint and rule come, a message flows; a bad version is refused with line and column while the last
    good one runs; kill -9 and a reload keep everything; the hash is told at once; deletion ends it.
    """
    args = ["--broker", mosquitto.url, "--data-dir", str(tmp_path), "--node", NODE]
    args += ["--set", "broker.reconnect_max_s=0.5", "--set", "edge.uplink.nodestatus_s=2"]
    edge = Process("edge", args, tmp_path / "edge.log")

    async def connected() -> bool:
        with contextlib.suppress(Exception):
            buses = (await call(socket_path(tmp_path, "edge"), "statistics"))["endpoints"]["eventbus"]
            return bool(buses) and all(bus["connected"] for bus in buses.values())
        return False

    async with played_cloud(mosquitto) as cloud, device(mosquitto) as (link, out):

        async def flows(payload: bytes, topic: str) -> None:
            await eventually(connected, what="the agent listens")
            link.publish("in", payload)
            await eventually(lambda: (topic, payload) in out, what=f"{payload!r} on {topic}")

        edge.start()
        try:
            await eventually(lambda: cloud.seen, timeout=20, what="the node's birth")
            assert await cloud.ask(order(RULEENDPOINT, "bus", "e-1", 1, BUS)) == "OK"
            assert await cloud.ask(order(RULE, "a", "u-1", 1, spec("in", "out/1"))) == "OK"
            await flows(b"first", "out/1")
            await eventually(lambda: ("u-1", "1") in cloud.results())
            bad = await cloud.ask(order(RULE, "a", "u-1", 2, spec("in", "out/2", chain="accept\n  acept")))
            assert bad.startswith("invalid_manifest: Rule default/a: PC-LINK-UNKNOWN-COMMAND: ")
            assert "line 2, column 3" in bad
            await flows(b"second", "out/1")
            expected = [("a", 2, REFUSED, 1), ("bus", 1, APPLIED, 1)]
            assert await cloud.list() == expected
            edge.kill()
            edge.start()
            await flows(b"third", "out/1")
            assert await cloud.list() == expected
            assert cloud.births()[-1] == cloud.version != ""
            edge.send(signal.SIGHUP)
            assert await cloud.ask(order(RULE, "a", "u-1", 3, spec("in", "out/3"))) == "OK"
            await flows(b"fourth", "out/3")
            assert await cloud.list() == [("a", 3, APPLIED, 3), ("bus", 1, APPLIED, 1)]
            await eventually(lambda: cloud.hashes()[-1] == cloud.version != "", timeout=5, what="the new hash, at once")
            shown = await call(socket_path(tmp_path, "edge"), "config.show")
            origins = {row["origin"] for row in shown if row["key"].startswith("rules.default/a.")}
            assert origins == {"node_gateway"}
            assert (await cloud.ask(order(RULEENDPOINT, "bus", "e-1", 2, None, "delete"))).startswith("in_use: ")
            assert await cloud.ask(order(RULE, "a", "u-1", 4, None, "delete")) == "OK"
            assert await cloud.list() == []
            await eventually(lambda: cloud.hashes()[-1] == "", timeout=5, what="the empty hash, at once")
            await eventually(lambda: cloud.births()[-1] == "", what="the birth that is kept says it, too")
            assert "Traceback" not in edge.log()
        finally:
            if edge.running:
                edge.end()
