"""Changing the rules of a running agent: by layers, by edits, under load (flow F4, F6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.control import call, socket_path
from common.errors import ConfigError, ControlError, QueueFullError
from common.messaging.base import Subscription
from common.messaging.transport import MqttLink
from common.settings import BrokerSettings
from edge.agent import Agent
from edge.settings import EdgeSettings, Settings
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

NODE_LAYER = """\
endpoints: {default/bus: {ruleEndpointType: eventbus}}
rules:
  default/plain:
    {source: bus, sourceResource: {topic: in}, target: bus, targetResource: {topic: out}, chain: 'accept'}
"""


class Running:
    """An agent with a directory of layers, and a device on its broker that notes what comes out."""

    def __init__(self, agent: Agent, link: MqttLink, directory: Path, layers: Path) -> None:
        self.agent, self.link, self.layers = agent, link, layers
        self._socket = socket_path(directory, "edge")
        self.out: list[tuple[str, bytes]] = []
        link.on_message = lambda packet: self.out.append((packet.topic, packet.payload))

    def write(self, layer: str, text: str) -> None:
        """Write a layer's file."""
        (self.layers / f"{layer}.yaml").write_text(text)

    async def ask(self, operation: str, **args: Any) -> Any:
        """Ask the agent, as the command line does."""
        return await call(self._socket, operation, **args)


@asynccontextmanager
async def running(broker: Mosquitto, tmp_path: Path, fresh: bool = True) -> AsyncIterator[Running]:
    """Start and stop it all; not ``fresh``: on the layers that are there."""
    layers = tmp_path / "layers"
    if fresh:
        layers.mkdir()
        (layers / "node_gateway.yaml").write_text(NODE_LAYER)
    settings = Settings(
        data_dir=str(tmp_path / "data"),
        broker=BrokerSettings(url=broker.url),
        edge=EdgeSettings(node="edge-1", layers=str(layers)),
    )
    agent, link = Agent(settings), MqttLink(BrokerSettings(url=broker.url), "device")
    await agent.start()
    await link.start()
    try:
        of = Running(agent, link, tmp_path / "data", layers)
        link.subscribe([Subscription("out/#")])
        await eventually(lambda: link.connected and all(b.link.connected for b in agent.buses.buses.values()))
        yield of
    finally:
        await link.stop()
        await agent.stop()


async def comes_out(it: Running, payload: bytes, expected: list[tuple[str, bytes]]) -> None:
    """Send a message in, and wait until exactly this came out."""
    it.out.clear()
    ended = sum(it.agent.status.outcomes.values())
    it.link.publish("in", payload)
    await eventually(lambda: len(it.out) >= len(expected) and sum(it.agent.status.outcomes.values()) > ended)
    assert sorted(it.out) == sorted(expected)


async def test_administration_changes_selected_nodes_through_boot(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The document's first task: boot_gateway is laid over user and under node; a reload brings it in."""
    async with running(mosquitto, tmp_path) as it:
        await comes_out(it, b"1", [("out", b"1")])
        it.write("boot_gateway", """\
rules:
  default/boot: {source: bus, sourceResource: {topic: in}, target: bus, targetResource: {topic: out/boot}}
hook_points: {preDeliver: {stamp: {blocks: {stamp: {block: '$MSG.payload = "booted"'}}}}}
""")  # fmt: skip
        assert await it.ask("reload") == {"rules": 2, "dropped": 0}
        await comes_out(it, b"2", [("out", b"booted"), ("out/boot", b"booted")])


async def test_local_rules_survive_what_the_cloud_generates(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The second task: user and post are not touched when node is written anew; post wins over it."""
    async with running(mosquitto, tmp_path) as it:
        it.write("user_gateway", """\
rules: {default/mine: {source: bus, sourceResource: {topic: in}, target: bus, targetResource: {topic: out/mine}}}
""")  # fmt: skip
        it.write("post_gateway", "rules: {default/plain: {targetResource: {topic: out/kept}}}\n")
        await it.ask("reload")
        await comes_out(it, b"1", [("out/mine", b"1"), ("out/kept", b"1")])
        it.write("node_gateway", NODE_LAYER.replace("topic: out}", "topic: out/generated}"))
        await it.ask("reload")
        await comes_out(it, b"2", [("out/mine", b"2"), ("out/kept", b"2")])


async def test_diagnosis_rules_vanish_on_reload(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The third task: edits work at once, are shown with their origin, and a reload drops them."""
    async with running(mosquitto, tmp_path) as it:
        add = {"edit": "add", "address": "default/plain:main:main", "text": 'eq $MSG.payload "bad" && drop'}
        assert await it.ask("rule.edit", **add) == {"rules": 1, "edits": 1}
        await comes_out(it, b"good", [("out", b"good")])
        await comes_out(it, b'"bad"', [])
        await it.ask("rule.edit", edit="add", address="preRoute", text='$MSG.headers.seen = "1"')
        shown = await it.ask("config.show")
        assert [row["origin"] for row in shown[:2]] == ["overlay", "overlay"]
        assert any(row["key"] == "rules.default/plain.source" and "node_gateway" in row["origin"] for row in shown)
        assert await it.ask("reload") == {"rules": 1, "dropped": 2}
        await comes_out(it, b'"bad"', [("out", b'"bad"')])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: [", "post_gateway.yaml:2: not YAML"),
        ("rules: {default/plain: {chain: acept}}", "PC-LINK-UNKNOWN-COMMAND"),
        ("rules: {default/plain: {source: none}}", "post_gateway.yaml:1: Rule default/plain: source 'none' is no"),
        ("hooks: {preRoute: {a: 'no.such:thing'}}", "hook preRoute.a: cannot import no.such:thing"),
        ("hooks: {preRoute: {a: 'os:getcwd'}}", "hook preRoute.a: handler of 'preRoute.a' must take (payload)"),
        ("hook_points: {preRoute: {a: {blocks: {b: {block: acept}}}}}", "hook_points.preRoute: PC-LINK-UNKNOWN"),
        ("hook_points: {onSend: {a: {blocks: {b: {block: forward x}}}}}", "hook_points.onSend: PC-LINK"),
    ],
)  # fmt: skip
async def test_a_broken_layer_changes_nothing(mosquitto: Mosquitto, tmp_path: Path, text: str, words: str) -> None:
    """It is said with file and line, and everything goes on as before; the overlay, too."""
    async with running(mosquitto, tmp_path) as it:
        await it.ask("rule.edit", edit="add", address="default/plain:main:main", text='$MSG.payload = "edited"')
        it.write("post_gateway", text)
        with pytest.raises(ControlError) as refused:
            await it.ask("reload")
        assert words in str(refused.value)
        await comes_out(it, b"1", [("out", b"edited")])
        with pytest.raises(ControlError):
            await it.ask("rule.edit", edit="rm", address="default/plain:main:nothing")
        assert len([row for row in await it.ask("config.show") if row["origin"] == "overlay"]) == 1


async def test_a_restart_beside_a_broken_file_runs_the_last_good_version(
    mosquitto: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what is wrong; a reload of the mended file ends it. Without a version that ran, nothing starts."""
    async with running(mosquitto, tmp_path) as it:
        await comes_out(it, b"1", [("out", b"1")])
        it.write("post_gateway", "rules: {default/plain: {chain: acept}}")
    async with running(mosquitto, tmp_path, fresh=False) as it:
        assert "the last good version of them runs" in caplog.text
        await comes_out(it, b"2", [("out", b"2")])
        (trouble,) = [row for row in await it.ask("config.show") if row["key"] == "not running"]
        assert "PC-LINK-UNKNOWN-COMMAND" in trouble["value"]
        it.write("post_gateway", "{}")
        await it.ask("reload")
        assert not [row for row in await it.ask("config.show") if row["key"] == "not running"]
        it.write("post_gateway", "[")
    (tmp_path / "data" / "rules.last-good.json").write_text("{")
    with pytest.raises(ConfigError, match="post_gateway"):
        async with running(mosquitto, tmp_path, fresh=False):
            pass


async def test_hooks_of_the_configuration(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """module:function by point and label; a reload takes away what is gone and leaves what a program added."""
    async with running(mosquitto, tmp_path) as it:
        seen: list[str] = []
        it.agent.rules.hooks.add("preRoute.program", lambda event: seen.append(event.msg.key))
        it.write("user_gateway", "hooks: {preDeliver: {upper: 'tests.rules.test_reload:upper'}}\n")
        await it.ask("reload")
        await comes_out(it, b"a", [("out", b"A")])
        (it.layers / "user_gateway.yaml").unlink()
        await it.ask("reload")
        await comes_out(it, b"a", [("out", b"a")])
        assert seen.count("in") == 4


def upper(event: Any) -> None:
    """A hook for the test above."""
    event.msg.payload = event.msg.body().upper()


async def test_a_rule_change_under_load_loses_and_mixes_nothing(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """1,000 messages a second while the rule changes 40 times: each message is run once, wholly by one version, in
    order of its version's arrivals.
    """

    def version(name: str) -> str:
        return NODE_LAYER.replace("topic: out}", f"topic: out/{name}}}").replace(
            "chain: 'accept'", f"chain: '$MSG.payload.by = \"{name}\"; accept'"
        )

    count = 3000
    async with running(mosquitto, tmp_path) as it:
        it.write("node_gateway", version("v0"))
        await it.ask("reload")
        it.out.clear()

        async def change() -> None:
            for number in range(1, 41):
                await asyncio.sleep(0.05)
                it.write("node_gateway", version(f"v{number}"))
                await it.ask("reload")

        changing = asyncio.create_task(change())
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(count):
            while True:
                try:
                    it.link.publish("in", b'{"n": %d}' % number)
                    break
                except QueueFullError:  # a busy machine; the broker will take it
                    await asyncio.sleep(0.002)
            await asyncio.sleep(max(0.0, began + number / 1000 - loop.time()))
        await changing
        await eventually(lambda: len(it.out) >= count, timeout=30)
        await eventually(lambda: it.agent.spool.stats.accepted >= count)
    seen = [(topic, msgspec.json.decode(payload)) for topic, payload in it.out]
    assert sorted(value["n"] for _, value in seen) == list(range(count))
    assert all(topic == f"out/{value['by']}" for topic, value in seen)
    assert [value["n"] for _, value in seen] == list(range(count))
    assert len({value["by"] for _, value in seen}) > 20
