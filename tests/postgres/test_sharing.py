"""Several controllers at one broker and store: who takes the uplink, and who takes over (P7.2, P5.7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from cloud.controller import Controller
from cloud.settings import CloudSettings, Settings, SharingSettings, StoreSettings
from cloud.settings.forward import ForwardSettings, LogSinkSettings
from cloud.standby import first_uplink
from common.errors import NotConnectedError
from common.messaging.memory import MemoryHub
from common.messaging.mqtt import MqttLayer, UplinkPart
from common.messaging.transport import MqttLink
from common.models import ControllerPresence
from tests.cloud.node import ROOT, Node, node_on
from tests.cloud.samples import bad, birth, ok, totals
from tests.support.brokers import Broker, Embedded, Mosquitto
from tests.support.wait import eventually

LEASE_S = 0.5


def settings(
    directory: Path, number: int, mode: str = "auto", forward: ForwardSettings | None = None, **more: object
) -> Settings:
    """Settings of controller ``cloud-<number>``; all of a directory share one store."""
    section = CloudSettings(
        controller=f"cloud-{number}",
        store=StoreSettings(url=f"sqlite:///{directory / 'shared.db'}"),
        sharing=SharingSettings(mode=mode, lease_s=LEASE_S),  # type: ignore[arg-type]
        forward=forward or ForwardSettings(),
    )
    return Settings(data_dir=str(directory / f"data-{number}"), cloud=section, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def on_hub(
    directory: Path, hub: MemoryHub, number: int, mode: str, forward: ForwardSettings | None = None
) -> AsyncIterator[Controller]:
    """A controller on a hub, stopped at the end."""
    controller = Controller(
        settings(directory, number, mode, forward),
        make_link=lambda chosen, will: hub.link(chosen.cloud.controller, will=will),
    )
    await controller.start()
    try:
        yield controller
    finally:
        await controller.stop()


def presence(hub: MemoryHub, number: int) -> ControllerPresence:
    """What a controller's retained presence says."""
    (kept,) = hub.retained([f"{ROOT}/presence/cloud/cloud-{number}"])
    return msgspec.json.decode(kept.payload, type=ControllerPresence)


async def send_until_confirmed(node: Node, first: int, count: int) -> None:
    """Send messages again and again, as an agent does, until all are confirmed."""
    for _ in range(100):
        told = node.confirmations()[-1] if node.confirmations() else None
        through = told.through if told else 0
        if through >= first + count - 1:
            return
        for sequence in range(max(first, through + 1), first + count):
            await node.results(sequence, [ok(), bad()])
        await asyncio.sleep(0.05)
    raise AssertionError(f"not confirmed: {node.confirmations()[-1:]}")


async def test_controllers_share_what_goes_up_and_count_once(tmp_path: Path) -> None:
    """P7.2: each message goes to one of them, births and their own presence to all; counts are those of one."""
    hub = MemoryHub()
    running = on_hub(tmp_path, hub, 1, "shared"), on_hub(tmp_path, hub, 2, "shared")
    async with running[0] as one, running[1] as two, node_on(hub) as node:
        node.presence(birth())
        await send_until_confirmed(node, 1, 40)
        assert await totals(one.store) == await totals(two.store) == (40, 40)
        both = (one, two)  # one of them may still wait for the lock of the file
        await eventually(lambda: min(each.upstream.statistics()["rulestatus_handled"] for each in both) >= 10)
        births = [each.upstream.statistics()["node_handled"] for each in (one, two)]
        assert births == [1, 1]
        (row,) = await one.sessions.nodes()
        assert (row.state, row.conflict, row.session) == ("online", "", 1)
        assert [each.controller for each in one.sessions.controllers()] == ["cloud-1", "cloud-2"]


async def test_controllers_with_other_sinks_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both say once that the other one's sinks differ, whichever came first; those with equal sinks say nothing."""
    hub, log = MemoryHub(), ForwardSettings(log=LogSinkSettings(enabled=True))
    async with on_hub(tmp_path, hub, 1, "shared", log) as one, on_hub(tmp_path, hub, 2, "shared", log) as two:
        await eventually(lambda: len(one.sessions.controllers()) == len(two.sessions.controllers()) == 2)
        assert [each.sessions.statistics()["sinks_differ"] for each in (one, two)] == [0, 0]
        async with on_hub(tmp_path, hub, 3, "shared") as three:
            await eventually(lambda: three.sessions.statistics()["sinks_differ"] >= 2)
            await eventually(lambda: all(each.sessions.statistics()["sinks_differ"] for each in (one, two)))
    said = [record.getMessage() for record in caplog.records if "has other sinks than this one" in record.getMessage()]
    assert sorted(text.split()[1] for text in said) == ["cloud-1", "cloud-3", "cloud-3"]


async def test_one_stands_by_and_takes_over_when_the_other_falls_silent(tmp_path: Path) -> None:
    """P7.2: the holder of the lease takes all, the other one says that it stands by; it takes over from a holder that
    stops, and from one that is cut off from the broker, within the lease.
    """
    hub = MemoryHub()
    async with AsyncExitStack() as stack, node_on(hub) as node:
        one = await stack.enter_async_context(on_hub(tmp_path, hub, 1, "standby"))
        await eventually(lambda: hub.retained([f"{ROOT}/presence/cloud/cloud-1"]) and not presence(hub, 1).standby)
        async with on_hub(tmp_path, hub, 2, "standby") as two:
            node.presence(birth())
            await send_until_confirmed(node, 1, 5)
            assert two.layer.uplink is UplinkPart.NOTHING
            assert presence(hub, 2).standby
            assert two.statistics()["controller"]["lease_holder"] == "cloud-1"
            one._link.cut("the network")  # type: ignore[attr-defined]
            await eventually(lambda: two.layer.uplink is UplinkPart.ALL)
            await eventually(lambda: not presence(hub, 2).standby)
            await send_until_confirmed(node, 6, 5)
            one._link.come_up()  # type: ignore[attr-defined]
            await eventually(lambda: one.statistics()["controller"]["lease_holder"] == "cloud-2")
            assert one.layer.uplink is UplinkPart.NOTHING
        await eventually(lambda: one.layer.uplink is UplinkPart.ALL)
        await send_until_confirmed(node, 11, 5)
        assert await totals(one.store) == (15, 15)
        assert one.statistics()["sharing"]["takeovers"] >= 2  # a slow machine may lose the lease between


def test_the_store_decides_before_the_broker(tmp_path: Path) -> None:
    """cloud.sharing.mode auto: alone with SQLite; with PostgreSQL the broker decides; what is set is set."""
    here = settings(tmp_path, 1)
    assert first_uplink(here) is UplinkPart.ALL
    for mode, expected in (
        ("auto", None),
        ("shared", UplinkPart.SHARED),
        ("standby", UplinkPart.NOTHING),
        ("alone", UplinkPart.ALL),
    ):
        chosen = CloudSettings(store=StoreSettings(url="postgresql://db/x"), sharing=SharingSettings(mode=mode))  # type: ignore[arg-type]
        assert first_uplink(msgspec.structs.replace(here, cloud=chosen)) is expected


async def test_whether_a_broker_shares_is_found_out(any_broker: Broker) -> None:
    """Version 5 says it; on 3.1.1 Mosquitto shares, and the embedded broker grants it and delivers nothing."""
    layer = MqttLayer(
        MqttLink(any_broker.settings(), "cloud-1"),
        root=ROOT,
        side="cloud",
        source="s",
        group="g",
        uplink=UplinkPart.NOTHING,
    )
    with pytest.raises(NotConnectedError):
        await layer.probe_shares(f"{ROOT}/presence/cloud/cloud-1/probe")
    await layer.start()
    try:
        await eventually(lambda: layer.link.connected)
        timeout = 0.3 if isinstance(any_broker, Embedded) else 5.0
        shares = await layer.probe_shares(f"{ROOT}/presence/cloud/cloud-1/probe", timeout)
        assert shares is not isinstance(any_broker, Embedded)
    finally:
        await layer.stop()


async def test_two_controllers_with_one_id_are_told(
    tmp_path: Path, mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes with one id end each other's connection for ever: the log says so, and how to end it."""
    both = [
        Controller(msgspec.structs.replace(settings(tmp_path / name, 1), broker=mosquitto.settings()))
        for name in ("a", "b")
    ]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with caplog.at_level(logging.ERROR):
        for controller in both:
            await controller.start()
        await eventually(lambda: any(each.sessions.statistics()["twins"] for each in both))
        for controller in both:
            await controller.stop()
    assert "another controller runs with the id cloud-1" in caplog.text


async def test_a_restart_is_no_twin(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """What the broker kept of a process that was killed is its own past."""
    here = msgspec.structs.replace(settings(tmp_path, 1), broker=mosquitto.settings())
    topic, kept = f"{ROOT}/presence/cloud/cloud-1", ControllerPresence("cloud-1", True, instance="before")
    link = MqttLink(mosquitto.settings(), "another")
    await link.start()
    await eventually(lambda: link.connected)
    done: list[int] = []
    link.publish(topic, msgspec.json.encode(kept), retain=True, on_done=done.append)
    await eventually(lambda: done)
    await link.stop()
    controller = Controller(here)
    await controller.start()
    try:
        seen = await eventually(controller.sessions.controllers)
        await eventually(lambda: controller.sessions.controllers()[0].instance == controller.sessions.instance)
        assert len(seen) == 1
        assert controller.sessions.statistics()["twins"] == 0
    finally:
        await controller.stop()
