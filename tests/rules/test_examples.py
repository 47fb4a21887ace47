"""Every example does what its comment says, on a running agent: the rules, the layers, the hook package."""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from common.messaging.base import Inbound, Subscription
from edge.rules.configuration import Configuration
from edge.settings import ListenerSettings
from tests.endpoints.parts import Parts, parts
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
HOOKS = EXAMPLES / "hooks"


@asynccontextmanager
async def example(
    broker: Mosquitto, tmp_path: Path, name: str = "", *, layers: str = "", port: int = 0
) -> AsyncIterator[Parts]:
    """An agent with one example, whose HTTP port is ``port``, and a device that sees everything."""
    text = (EXAMPLES / name).read_text().replace(":9080/", f":{port}/") if name else ""
    rest = ListenerSettings(port=port)
    async with parts(broker, tmp_path, lambda _: text, rest=rest, layers=layers) as it:
        it.device.subscribe([Subscription("#")])
        yield it


async def out(it: Parts, prefix: str, count: int = 1) -> list[Inbound]:
    """Wait for ``count`` messages below ``prefix``."""

    def found() -> list[Inbound]:
        return [packet for packet in it.published if packet.topic.startswith(prefix)]

    await eventually(lambda: len(found()) >= count)
    return found()


async def bring(it: Parts, results: int, *payloads: bytes, topic: str = "devices/press-1/telemetry") -> None:
    """Publish messages as a device, and wait until there are ``results`` more results."""
    due = reasons(it).total() + results
    for payload in payloads:
        it.device.publish(topic, payload)
    await eventually(lambda: reasons(it).total() >= due)


def reasons(it: Parts) -> Counter[tuple[str, str]]:
    """How often executions ended how."""
    return Counter(it.agent.status.outcomes)


async def test_threshold(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Above 80 an alert with a severity, below and without a temperature nothing, and no failure."""
    async with example(mosquitto, tmp_path, "threshold.yaml") as it:
        payloads = [b'{"temperature": %d}' % t for t in (79, 80, 93, 121)]
        await bring(it, 5, *payloads, b"{}")
        alerts = [msgspec.json.decode(packet.payload) for packet in await out(it, "alerts/press-1", 2)]
        assert alerts == [
            {"temperature": 93, "severity": "warning", "node": "edge-1"},
            {"temperature": 121, "severity": "critical", "node": "edge-1"},
        ]
        assert reasons(it) == {("delivered", ""): 2, ("filtered", "chain_drop"): 3}


async def test_http_to_mqtt(mosquitto: Mosquitto, tmp_path: Path, unused_tcp_port: int) -> None:
    """A request becomes a retained message; 200, 202 when asked for, 404 and 405 otherwise."""
    async with example(mosquitto, tmp_path, "http-to-mqtt.yaml", port=unused_tcp_port) as it:
        url = f"{it.rest}/lines/7/state"
        assert (await it.request(url, b'{"state": "stop"}'))[0] == 200
        assert (await out(it, "lines/7/state"))[0].payload == b'{"state": "stop"}'
        assert (await it.request(url, b"1", "PUT", prefer="respond-async"))[0] == 202
        assert (await it.request(url, method="GET"))[0] == 405
        assert (await it.request(f"{it.rest}/lines/7"))[0] == 404


async def test_mqtt_to_http(mosquitto: Mosquitto, tmp_path: Path, unused_tcp_port: int) -> None:
    """The post arrives; while the server answers 503 it is tried again, and is one result with its tries."""
    async with example(mosquitto, tmp_path, "mqtt-to-http.yaml", port=unused_tcp_port) as it:
        await bring(it, 2, b'{"temperature": 93}')
        assert (await out(it, "stored/press-1"))[0].payload == b'{"temperature": 93}'
        it.agent.rest.listener._paused = True
        it.device.publish("devices/press-1/telemetry", b"2")
        await eventually(lambda: it.agent.rest.listener.statistics()["overloaded"] > 0)
        it.agent.rest.listener._paused = False
        await it.ended(4)
        (posted,) = [result for result in it.results() if result.rule_id == "post" and result.attempts > 1]
        assert posted.outcome == "delivered"


async def test_enrichment(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Place, node, time and unit are added, the place is part of the topic, and what was there stays."""
    async with example(mosquitto, tmp_path, "enrichment.yaml") as it:
        await bring(it, 1, b'{"temperature": 93}')
        (packet,) = await out(it, "plant/hall-3/press-1")
        value = msgspec.json.decode(packet.payload)
        assert value.pop("arrived_ms") > 1_700_000_000_000
        assert value == {"temperature": 93, "device": "press-1", "place": "hall-3", "node": "edge-1", "unit": "C"}
        await bring(it, 1, b'{"unit": "F"}', topic="devices/new/telemetry")
        (packet,) = await out(it, "plant/unknown/new")
        assert msgspec.json.decode(packet.payload)["unit"] == "F"


async def test_chaos(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """About one in ten is rejected, one in twenty of the others dropped, all else delivered; each has its result."""
    async with example(mosquitto, tmp_path, "chaos.yaml") as it:
        for _ in range(10):
            await bring(it, 60, *[b"{}"] * 60)
        counts = reasons(it)
        assert counts.total() == 600
        assert 20 <= counts["rejected", "chain_reject"] <= 120
        assert 5 <= counts["filtered", "chain_drop"] <= 70
        assert counts["delivered", ""] == 600 - counts["rejected", "chain_reject"] - counts["filtered", "chain_drop"]


async def test_quota(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Five at once pass, then two a second; another device has a quota of its own."""
    async with example(mosquitto, tmp_path, "quota.yaml") as it:
        await bring(it, 20, *[b"1"] * 20)
        counts = reasons(it)
        assert 5 <= counts["delivered", ""] <= 10
        assert counts["rejected", "chain_reject"] == 20 - counts["delivered", ""]
        await bring(it, 1, b"1", topic="devices/press-2/telemetry")
        assert len(await out(it, "metered/press-2")) == 1


async def test_layers(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The last layer replaces one block of the cloud's rule and takes away the first layer's; boot adds a header."""
    async with example(mosquitto, tmp_path, layers=str(EXAMPLES / "layers")) as it:
        assert len(it.agent.rules) == 1  # audit is for nodes gw-*, local-copy is deleted
        await bring(it, 2, b'{"temperature": 93}', b'{"temperature": 96}')
        (packet,) = await out(it, "alerts/press-1")
        assert msgspec.json.decode(packet.payload) == {"temperature": 96, "fleet": "plant"}
    origins = {".".join(key): origin.layer for key, _, origin in Configuration(
        [], str(EXAMPLES / "layers")).read().merged.leaves()}  # fmt: skip
    assert origins["rules.plant/overheat.chains.main.blocks.threshold.block"] == "post_gateway"
    assert origins["rules.plant/overheat.chains.main.blocks.deliver.block"] == "node_gateway"


def by_configuration(tmp_path: Path) -> None:
    """Name the hooks in a layer."""
    (tmp_path / "layers" / "user_gateway.yaml").write_text(
        "hooks:\n  preDeliver: {stamp: 'plant_hooks:stamp'}\n  preRoute: {known-devices: 'plant_hooks:known_devices'}\n"
    )


def by_entry_point(tmp_path: Path) -> None:
    """Leave what an installed package leaves: the metadata with the entry points of its pyproject.toml."""
    project = tomllib.loads((HOOKS / "pyproject.toml").read_text())["project"]
    installed = tmp_path / "installed" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [f"{name} = {target}" for name, target in project["entry-points"]["fieldpost.hooks"].items()]
    (installed / "entry_points.txt").write_text("\n".join(["[fieldpost.hooks]", *lines]) + "\n")
    sys.path.append(str(installed.parent))


@pytest.mark.parametrize("how", [by_configuration, by_entry_point])
async def test_hooks(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[Path], None]
) -> None:
    """The plain hook stamps each message, the asynchronous one halts unknown devices as filtered, in order."""
    (tmp_path / "layers").mkdir()
    (tmp_path / "devices").write_text("press-1\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(HOOKS)])
    monkeypatch.setenv("PLANT_DEVICES", str(tmp_path / "devices"))
    how(tmp_path)
    async with example(mosquitto, tmp_path, "relay.yaml", layers=str(tmp_path / "layers")) as it:
        await bring(it, 20, *[b'{"n": %d}' % number for number in range(20)])
        packets = await out(it, "fleet/edge-1/press-1", 20)
        values = [msgspec.json.decode(packet.payload) for packet in packets]
        assert values == [{"n": number, "site": "plant-1"} for number in range(20)]
        await bring(it, 1, b"1", topic="devices/stranger/telemetry")
        assert reasons(it) == {("delivered", ""): 20, ("filtered", "hook_halt"): 1}
        assert not [packet for packet in it.published if "stranger" in packet.topic and "fleet" in packet.topic]
