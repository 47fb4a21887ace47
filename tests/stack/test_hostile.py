"""The hostile-node table on a real Mosquitto with the files as shipped: nothing succeeds, everything is seen (R3, R4).

Two tables would say it twice: each attempt runs once by itself, and all of them run against a controller and an honest
agent that count meanwhile.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.controller import Controller
from cloud.settings import Settings as CloudSettings
from common.brokerfiles.directory import BrokerFiles
from common.messaging.probing import probe
from edge.agent import Agent
from edge.settings import EdgeSettings, EventbusSettings
from edge.settings import Settings as AgentSettings
from edge.status import RuleRef
from tests.stack.attacks import ATTACKS, MARK, RESULT, Scene
from tests.stack.secure import (
    HONEST,
    HOSTILE,
    REVOKED,
    WATCHER,
    ContainedBroker,
    SecureBroker,
    Visitor,
    said,
    wait_until,
)
from tests.support.brokers import NO_MOSQUITTO, find_mosquitto
from tests.support.containers import no_containers
from tests.support.wait import eventually

LAST = b"the last word"
RULE = RuleRef("default", "relay")


@pytest.fixture(scope="module", params=["process", "container"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One broker for all attempts, a local process and in a container; one node of it is revoked."""
    contained = request.param == "container"
    if reason := no_containers() if contained else NO_MOSQUITTO * (find_mosquitto() is None):
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("hostile")
    broker = ContainedBroker(directory) if contained else SecureBroker(directory)
    kept = directory / "kept"
    shutil.copytree(broker.files.bundle(REVOKED), kept)
    assert broker.files.revoke(REVOKED) == [REVOKED, f"{REVOKED}-bus"]
    shutil.copytree(kept, broker.files.bundle(REVOKED), dirs_exist_ok=True)
    broker.start()
    yield Scene(broker, directory)
    broker.stop()


def test_there_are_enough() -> None:
    """The table has at least 25 attempts."""
    assert len(ATTACKS) >= 25


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attempt_succeeds_and_each_is_seen(scene: Scene, attack: str) -> None:
    """R4: an observer who may read everything sees nothing of it, and the broker's log tells it."""
    if "signed by a node" in attack and shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: apt-get install openssl")
    broker, before = scene.broker, len(scene.broker.log())
    with broker.visitor(WATCHER) as watcher:
        assert [watcher.subscribe(text) for text in ("fieldpost/#", "fleet/#")] == [1, 1]
        ATTACKS[attack].act(scene)
        wait_until(lambda: said(broker.log()[before:], ATTACKS[attack].seen), f"{attack} in the broker's log")
        with broker.visitor(HONEST) as honest:
            honest.publish(f"fieldpost/presence/{HONEST}", LAST, retain=True)
        wait_until(lambda: LAST in _payloads(watcher), "what was on its way has come")
        assert (watcher.lost, watcher.connects) == (0, 1), "it watched all the time"
    with broker.visitor(WATCHER) as later:
        later.subscribe("fieldpost/#")
        wait_until(lambda: LAST in _payloads(later), "what is retained has come")
        assert [topic for topic, payload, _ in watcher.messages + later.messages if MARK in payload] == []
        assert {topic for topic, _, retained in later.messages if retained} == {f"fieldpost/presence/{HONEST}"}
    with broker.visitor(HONEST) as honest:
        honest.publish(f"fieldpost/presence/{HONEST}", b"", retain=True)


def _payloads(visitor: Visitor) -> list[bytes]:
    return [payload for _, payload, _ in visitor.messages]


def test_what_each_may_do_works(scene: Scene) -> None:
    """The same files let everybody do its own: a table of refusals alone would pass on a broker that is down."""
    broker = scene.broker
    with (
        broker.visitor("cloud-1") as cloud,
        broker.visitor(HONEST) as node,
        broker.visitor(f"{HONEST}-bus") as bus,
        broker.visitor("observer") as observer,
    ):
        assert [cloud.subscribe("$share/cloud/fieldpost/up/#"), node.subscribe(f"fieldpost/down/{HONEST}/#")] == [1, 1]
        assert [bus.subscribe(f"devices/{HONEST}/#"), observer.subscribe("fieldpost/#")] == [1, 1]
        assert node.publish(f"fieldpost/up/{HONEST}/{RESULT}", b"a result") == 0
        assert cloud.publish(f"fieldpost/down/{HONEST}/{RESULT}", b"an answer") == 0
        assert node.publish(f"fieldpost/presence/{HONEST}", b"here", retain=True) == 0
        assert bus.publish(f"fleet/{HONEST}/x", b"x") in (0, 0x10)
        wait_until(lambda: cloud.messages and node.messages, "both hear what is for them")
        wait_until(lambda: len(observer.messages) >= 3, "the observer hears all")
        node.publish(f"fieldpost/presence/{HONEST}", b"", retain=True)
    certificate = [broker.secret(HONEST, file) for file in ("cert.pem", "key.pem")]
    with broker.with_certificate(*certificate, client_id=HONEST) as node:
        assert node.publish(f"fieldpost/up/{HONEST}/{RESULT}", b"a result") == 0x10, (
            "by certificate, and nobody listens"
        )


def test_what_comes_for_a_node_that_is_away_waits(scene: Scene) -> None:
    """P5: QoS 1 messages for a session whose client is away are kept; per_listener_settings true would drop them
    (https://github.com/eclipse-mosquitto/mosquitto/issues/2618).
    """
    with scene.broker.visitor(HONEST, clean=False) as node:
        assert node.subscribe(f"fieldpost/down/{HONEST}/#") == 1
    with scene.broker.visitor("cloud-1") as cloud:
        assert [cloud.publish(f"fieldpost/down/{HONEST}/{RESULT}", b"%d" % n) for n in range(5)] == [0] * 5
    with scene.broker.visitor(HONEST, clean=False) as node:
        wait_until(lambda: len(node.messages) == 5, "all have waited")


async def test_the_doctor_sees_the_acl(scene: Scene) -> None:
    """U2: with these files the operator's look finds shared subscriptions, and that what is nobody's is denied."""
    found = await probe(scene.broker.settings("operator"), "fieldpost", "operator")
    assert (found.shared, found.open) == (True, False)
    assert not (await probe(scene.broker.settings(HOSTILE), "fieldpost", HOSTILE)).open


def test_nobody_takes_from_a_group_whose_name_it_does_not_know(scene: Scene) -> None:
    """R1.7: Mosquitto lets a node join any group and drops what falls to it; the controllers' has a random name."""
    record = scene.broker.files.record()
    with scene.broker.visitor("cloud-1") as cloud, scene.broker.visitor(HOSTILE) as thief:
        cloud.subscribe(f"$share/{record.sharers}/fieldpost/up/#")
        for name in ("fieldpost", "cloud"):
            thief.subscribe(f"$share/{name}/fieldpost/up/#")
        with scene.broker.visitor(HONEST) as node:
            assert [node.publish(f"fieldpost/up/{HONEST}/{RESULT}", b"%d" % n) for n in range(10)] == [0] * 10
        wait_until(lambda: len(cloud.messages) == 10, "all ten reach the controller")
        assert thief.messages == []


async def test_counts_stay_exact_under_all_attempts(scene: Scene, tmp_path: Path) -> None:
    """R1.2, R1.7: while every attempt is made, an honest agent's results are counted to the last, none of others is."""
    files: BrokerFiles = scene.broker.files
    cloud = Controller(CloudSettings(data_dir=str(tmp_path / "cloud"), broker=scene.broker.settings("cloud-1")))
    bus = EventbusSettings(broker=scene.broker.settings(f"{HONEST}-bus"))
    agent = Agent(AgentSettings(data_dir=str(tmp_path / "edge"), broker=scene.broker.settings(HONEST),
                                edge=EdgeSettings(node=HONEST, eventbus=bus)))  # fmt: skip
    assert files.bundle(HONEST).exists()
    await cloud.start()
    await agent.start()
    made = 0
    try:
        await eventually(lambda: agent.uplink.statistics()["controllers"], what="the agent sees its controller")
        for name, attack in ATTACKS.items():
            if (
                "controller" in name
                or "subscribe" in name
                or "listens" in name
                or "share" in name
                or "of another" in name
            ):
                continue  # they bring owners of their own, who would take the place of these two
            if "signed by a node" in name and shutil.which("openssl") is None:
                continue
            agent.status.record(RULE, source_id=name)
            made += 1
            await asyncio.to_thread(attack.act, scene)
        await eventually(lambda: agent.spool.stats.confirmed == made, what="all is confirmed")
        rows = await cloud.store.counted()
        assert {node: counted.results for node, counted in rows.items()} == {HONEST: made}
        assert cloud.statistics()["link"]["connects"] == 1
    finally:
        await agent.stop()
        await cloud.stop()
