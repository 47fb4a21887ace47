"""Networks and brokers that fail between edge, broker and cloud: exact counts at the end (reliability R3, network)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.faults.pipeline import Pipeline
from tests.support.brokers import NO_MOSQUITTO, Mosquitto, find_mosquitto
from tests.support.proxy import TcpProxy
from tests.support.wait import eventually

RECOVERY_S = 30.0  # within seconds; a busy machine takes longer


async def _cut(proxy: TcpProxy) -> None:
    for _ in range(5):
        proxy.cut()
        await asyncio.sleep(0.1)


async def _half_open(proxy: TcpProxy) -> None:
    await proxy.half_open()


async def _refuse(proxy: TcpProxy) -> None:
    await proxy.refuse()


async def _delay(proxy: TcpProxy) -> None:
    await proxy.delay(0.4)


async def _slow(proxy: TcpProxy) -> None:
    await proxy.rate(8000)


async def _discard_pubacks(proxy: TcpProxy) -> None:
    proxy.discard_pubacks = True


async def _lie(proxy: TcpProxy) -> None:
    proxy.lying = True


MODES: dict[str, Callable[[TcpProxy], Awaitable[None]]] = {
    "cut": _cut,
    "half-open": _half_open,
    "refuse": _refuse,
    "delay": _delay,
    "8kB-per-s": _slow,
    "discard-pubacks": _discard_pubacks,
    "acknowledge-and-discard": _lie,
}


async def heal(proxy: TcpProxy) -> None:
    """Leave every mode."""
    proxy.discard_pubacks = proxy.lying = False
    await proxy.pass_()


async def _recovers(stack: Pipeline) -> None:
    """Wait until the cloud counts what was accepted only now."""
    last = stack.accepted()[-1]

    async def counted() -> bool:
        await stack.collect()
        newest = stack.accepted()[-1]
        return last in stack.seen and newest != last

    await eventually(counted, RECOVERY_S, what="it recovers alone")


async def _is_exact(stack: Pipeline) -> None:
    await stack.settled(RECOVERY_S)
    accepted, counted, lost, doubled = await stack.account()
    assert (counted, lost, doubled) == (accepted, 0, 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", ["edge", "cloud"])
async def test_network_fault_delays_and_never_loses(mosquitto: Mosquitto, tmp_path: Path, side: str, mode: str):
    """R1.1, R1.2, R1.8: two seconds of the fault on one side's connection; then it recovers alone, counts are exact."""
    async with Pipeline(mosquitto, tmp_path, rate=500) as stack:
        stack.start_cloud()
        stack.start_edge()
        await eventually(stack.collect, 20)
        proxy = stack.edge_proxy if side == "edge" else stack.cloud_proxy
        await MODES[mode](proxy)
        made = len(stack.accepted())
        await eventually(lambda: len(stack.accepted()) > made + 800)
        await heal(proxy)
        await _recovers(stack)
        await _is_exact(stack)


async def test_broker_that_queues_ten_messages_and_drops_the_rest(tmp_path: Path):
    """R1.4: a slow cloud behind Mosquitto with max_queued_messages 10, which drops silently what it acknowledged."""
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    broker = Mosquitto(
        tmp_path / "mosquitto",
        protocol="3.1.1",  # of version 5 we take more than one at a time
        config_lines=["max_queued_messages 10", "max_inflight_messages 1"],
    )

    def dropped() -> bool:
        return "Outgoing messages are being dropped" in broker.log_file.read_text(errors="replace")

    async with broker, Pipeline(broker, tmp_path, rate=500) as stack:
        stack.start_cloud()
        stack.start_edge()
        await eventually(stack.collect, 20)
        await stack.cloud_proxy.delay(0.3)
        made = len(stack.accepted())
        await eventually(lambda: len(stack.accepted()) > made + 800)
        await eventually(dropped, 60, what="the broker drops something")  # a busy machine fills its queue later
        await heal(stack.cloud_proxy)
        await _recovers(stack)
        await _is_exact(stack)


async def test_broker_restarted_empty_with_the_publisher_first(mosquitto: Mosquitto, tmp_path: Path):
    """R1.4: the broker comes back without any memory; the edge publishes to it before the cloud subscribes again."""
    async with Pipeline(mosquitto, tmp_path, rate=500) as stack:
        stack.start_cloud()
        stack.start_edge()
        await eventually(stack.collect, 20)
        for _ in range(2):
            await stack.cloud_proxy.refuse()
            made, connects = len(stack.accepted()), stack.edge_proxy.accepted
            await mosquitto.kill()
            mosquitto.wipe()
            await mosquitto.start()
            await eventually(lambda: len(stack.accepted()) > made + 300)  # noqa: B023
            await eventually(lambda: stack.edge_proxy.accepted > connects)  # noqa: B023
            await heal(stack.cloud_proxy)
            await _recovers(stack)
        await _is_exact(stack)
