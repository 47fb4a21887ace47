"""The status path end to end, with edge and cloud as processes of their own: same exact counts on every broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.stack import BUS, NODE, Device, Stack, rule
from tests.support.brokers import NO_MOSQUITTO, Broker, Mosquitto, find_mosquitto
from tests.support.wait import eventually

RULES = (
    BUS
    + rule("relay", "devices/+/telemetry", "fleet/{node}/{topic[1]}")
    + rule("last", "devices/+/#", "last/{topic[1]}")
)
MESSAGES = 500


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_every_execution_is_counted_once_on_any_broker(any_broker: Broker, tmp_path: Path, codec: str):
    """R1.4: embedded broker, Mosquitto with MQTT 5 and 3.1.1, both codecs: each message counted once for each rule."""
    async with Stack(any_broker, tmp_path, RULES, f"codec={codec}") as stack, Device(any_broker) as device:
        await device.publish("devices/d1/telemetry", [b'{"n": %d}' % n for n in range(MESSAGES)])
        assert await stack.settled(2 * MESSAGES) == 2 * MESSAGES
        assert await stack.counts() == {"relay": MESSAGES, "last": MESSAGES}
        results = await stack.of_cloud("get.results", limit=10)
        assert {(r["node"], r["status"], r["outcome"]) for r in results} == {(NODE, "SUCCESS", "delivered")}


async def test_restart_of_everything_keeps_counts(embedded: Broker, tmp_path: Path):
    """P5.3, P5.5: a clean stop and start of cloud and edge goes on from what is on disk, in a new epoch."""
    async with Stack(embedded, tmp_path, RULES) as stack, Device(embedded) as device:
        await device.publish("devices/d1/telemetry", [b"1"] * 10)
        await stack.settled(20)
        before = (await stack.of_cloud("get.nodes"))[0]["epoch"]
        assert (stack.edge.end(), stack.cloud.end()) == (0, 0)
        stack.cloud.start()
        stack.edge.start()
        await stack.ready()
        await device.publish("devices/d1/telemetry", [b"2"] * 10)
        assert await stack.settled(40) == 40
        assert await stack.counts() == {"relay": 20, "last": 20}
        after = (await stack.of_cloud("get.nodes"))[0]["epoch"]
        assert int(after.partition("-")[0]) == int(before.partition("-")[0]) + 1


async def test_messages_that_come_while_the_edge_is_away_are_run_later(embedded: Broker, tmp_path: Path):
    """F3: the eventbus session lives in the broker while the agent is stopped; nothing that it confirmed is lost."""
    async with Stack(embedded, tmp_path, RULES) as stack, Device(embedded) as device:
        stack.edge.end()
        await device.publish("devices/d1/telemetry", [b"x"] * 100)
        stack.edge.start()
        assert await stack.settled(200) == 200


async def test_failures_come_with_reason_step_and_detail(tmp_path: Path):
    """F5, P8.1: what the target's broker would never take is FAIL with reason, step and detail, in counts and
    errors.
    """
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    broker = Mosquitto(tmp_path / "mosquitto", config_lines=["max_packet_size 3000"])
    rules = BUS + rule("far", "devices/+", "a/much/longer/topic/than/the/one/that/it/came/from/{topic[1]}")
    async with broker, Stack(broker, tmp_path, rules) as stack, Device(broker) as device:
        await device.publish("devices/d1", [b"y" * 2960, b"y", b"y" * 2960])
        await stack.settled(3)
        (row,) = await stack.of_cloud("get.rules")
        assert (row["success"], row["fail"]) == (1, 2)
        (error,) = await stack.of_cloud("get.errors")
        assert (error["reason"], error["step"], error["count"]) == ("payload_too_large", "target", 2)
        assert "3000" in error["detail"] or "bytes" in error["detail"]


async def test_node_is_offline_after_a_kill_and_online_again(mosquitto: Mosquitto, tmp_path: Path):
    """P3.4: the will says that a killed node is gone; its birth that it is back."""
    async with Stack(mosquitto, tmp_path, RULES) as stack:

        async def state() -> str:
            return str((await stack.of_cloud("get.nodes"))[0]["state"])

        async def is_offline() -> bool:
            return await state() == "offline"

        stack.edge.kill()
        await eventually(is_offline)
        stack.edge.start()
        await stack.ready()
        assert await state() == "online"
        assert stack.edge.end() == 0
        await eventually(is_offline)


async def test_rubbish_is_dead_lettered_and_never_stops_the_cloud(mosquitto: Mosquitto, tmp_path: Path):
    """P5.9: what is no message, claims another route or type, is kept with a reason; results flow on."""
    up = f"fieldpost/up/{NODE}/router:resource/update/default/rulestatus/relay"
    lies = b'{"header":{"msg_id":"m1","timestamp":1},"route":{"source":"router","group":"resource",' \
        b'"operation":"update","resource":"node/other/default/rulestatus/relay"},"content":' \
        b'{"RuleID":"relay","ProjectID":"default","Status":"SUCCESS"}}'  # fmt: skip
    unknown = lies.replace(b"node/other/default/rulestatus/relay", b"node/edge-1/default/pod/p")
    async with Stack(mosquitto, tmp_path, RULES) as stack, Device(mosquitto) as device:
        await device.publish(up, [b"", b"\xff\xff", b"{" * 500, b"x" * 70_000, lies])
        await device.publish(f"fieldpost/up/{NODE}/router:resource/update/default/pod/p", [unknown])
        await device.publish("devices/d1/telemetry", [b"1"] * 5)
        assert await stack.settled(10) == 10

        async def letters() -> list[str]:
            return sorted(letter["reason"] for letter in await stack.of_cloud("get.dead_letters"))

        async def all_there() -> bool:
            return len(await letters()) == 6

        await eventually(all_there)
        assert await letters() == ["route_mismatch", *["undecodable"] * 4, "unknown_type"]
        assert await stack.counts() == {"relay": 5, "last": 5}
