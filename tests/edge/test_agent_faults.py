"""An agent against a real broker: a clean stop, two names of one broker, a rule whose filter changed (P5.3), and what
the cloud refuses (P5.9).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from common import message as messages
from common.message import ERROR
from common.messaging.base import Subscription
from common.messaging.transport import MqttLink
from common.models import Refusal
from common.resource import LOSSRECORD, RULESTATUS, build_resource
from common.settings import BrokerSettings
from edge.agent import Agent
from edge.settings import EdgeSettings, Settings, UplinkSettings
from edge.spool import Spool
from edge.spooltables import Input
from tests.e2e.stack import BUS, rule
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually


def settings(broker: Mosquitto, directory: Path, manifests: str) -> Settings:
    rules = directory / "rules.yaml"
    rules.write_text(manifests)
    url = BrokerSettings(url=broker.url, reconnect_max_s=0.5)
    return Settings(data_dir=str(directory / "data"), broker=url, edge=EdgeSettings(node="edge-1", rules=[str(rules)]))


@asynccontextmanager
async def running(of: Settings) -> AsyncIterator[Agent]:
    agent = Agent(of)
    await agent.start()
    await eventually(lambda: all(bus.link.connected for bus in agent.buses.buses.values()))
    try:
        yield agent
    finally:
        await agent.stop()


@asynccontextmanager
async def device(broker: Mosquitto) -> AsyncIterator[MqttLink]:
    link = MqttLink(BrokerSettings(url=broker.url), "device")
    await link.start()
    await eventually(lambda: link.connected)
    yield link
    await link.stop()


async def test_clean_stop_settles_what_is_durable(mosquitto: Mosquitto, tmp_path: Path):
    """P5.3: a stop waits for the commit before it disconnects, so the source does not send again what has a result."""
    of = settings(mosquitto, tmp_path, BUS + rule("one", "in/a", "out/a"))
    delivered: list[bytes] = []
    async with device(mosquitto) as link:
        link.on_message = lambda packet: delivered.append(packet.payload)
        link.subscribe([Subscription("out/a")])
        async with running(of) as agent:
            apply = agent.spool._committer.db.apply

            def slowly(changes) -> None:
                time.sleep(0.2)  # on the writer's thread: a disk that takes its time
                apply(changes)

            agent.spool._committer.db.apply = slowly
            link.publish("in/a", b"1")
            await eventually(lambda: agent.status.outcomes)
        async with running(of) as agent:
            link.publish("in/a", b"2")
            await eventually(lambda: b"2" in delivered)
            assert [bus.received for bus in agent.buses.buses.values()] == [1]
    assert delivered == [b"1", b"2"]


async def test_two_names_of_one_broker_do_not_kick_each_other(mosquitto: Mosquitto, tmp_path: Path):
    """R4: an endpoint that spells out the node's own broker gets a connection of its own identity."""
    port = mosquitto.url.rpartition(":")[2]
    spelled_out = f"eventbus, properties: {{broker: 'mqtt://localhost:{port}'}}}}"
    named = BUS.replace("name: bus", "name: named").replace("eventbus}", spelled_out)
    manifests = BUS + "---" + named + rule("one", "in/a", "out/a", to="named")
    async with device(mosquitto) as link, running(settings(mosquitto, tmp_path, manifests)) as agent:
        for number in range(1, 6):
            link.publish("in/a", b"x")
            await eventually(lambda number=number: agent.spool.stats.accepted >= number)
        assert [bus.link.statistics()["disconnects"] for bus in agent.buses.buses.values()] == [0, 0]
        assert agent.status.outcomes == {("delivered", ""): 5}


async def test_changed_filter_does_not_double_what_comes(mosquitto: Mosquitto, tmp_path: Path):
    """R1.2: a filter that a rule had before the restart is gone from the broker's session as well."""
    async with running(settings(mosquitto, tmp_path, BUS + rule("one", "in/+", "out/a"))):
        pass
    async with device(mosquitto) as link:
        of = settings(mosquitto, tmp_path, BUS + rule("one", "in/#", "out/a"))
        async with running(of) as agent:
            for number in range(1, 4):
                link.publish("in/a", b"x")
                await eventually(lambda number=number: agent.spool.stats.accepted >= number)
            await eventually(lambda: agent.spool.stats.inputs == 0)
            assert [bus.received for bus in agent.buses.buses.values()] == [3]


async def test_journalled_input_waits_for_the_connection_after_a_restart(mosquitto: Mosquitto, tmp_path: Path):
    """P5.3: what was acknowledged to its source is delivered after a restart, not failed because nobody is connected
    in the first milliseconds.
    """
    of = settings(mosquitto, tmp_path, BUS + rule("one", "in/a", "out/a"))
    Path(of.data_dir).mkdir()
    spool = Spool(
        Path(of.data_dir) / "spool.db", "edge-1", of.root, on_frozen=lambda frozen: None, on_fatal=lambda exc: None
    )
    spool.open()
    spool.start()
    spool.journal(Input("i1", "default", "one", "m1", "in/a", b"x"))
    await spool.stop()
    await mosquitto.stop()
    agent = Agent(of)
    await agent.start()
    (bus,) = agent.buses.buses.values()
    await eventually(lambda: bus.link.statistics()["connect_failures"])
    await mosquitto.start()
    await eventually(lambda: agent.spool.stats.accepted == 1)
    assert agent.status.outcomes == {("delivered", ""): 1}
    await agent.stop()


@pytest.mark.parametrize("kind", [RULESTATUS, LOSSRECORD])
async def test_a_refusal_reaches_the_uplink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    """P5.8, P5.9: results and loss records travel in one order, and a refusal of either is dealt with."""
    agent = Agent(Settings(data_dir=str(tmp_path / "data"), edge=EdgeSettings(node="edge-1")))
    heard: list[tuple[str, Refusal]] = []
    monkeypatch.setattr(agent.uplink, "refused", lambda msg_id, refusal: heard.append((msg_id, refusal)))
    resource = build_resource("edge-1", "default", kind, "one")
    agent._take(messages.new("m1", operation=ERROR, resource=resource, content={"reason": "conflict"}))
    assert heard == [("m1", Refusal("conflict"))]


async def test_memory_is_given_back_at_every_nodestatus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """B5: regularly, with a broker or without one, as a backlog is what comes of having none."""
    given: list[float] = []
    monkeypatch.setattr("edge.agent.give_back", lambda: given.append(time.monotonic()))
    quick = EdgeSettings(node="edge-1", uplink=UplinkSettings(nodestatus_s=0.05))
    async with running(Settings(data_dir=str(tmp_path / "data"), edge=quick)):
        await eventually(lambda: len(given) > 3)
