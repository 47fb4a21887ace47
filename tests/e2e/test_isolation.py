"""A slow target on one topic does not stop another topic of the same source (protocol P5.3)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.e2e.stack import BUS, Device, Stack, rule
from tests.support.brokers import Mosquitto
from tests.support.proxy import TcpProxy
from tests.support.wait import eventually

COUNT = 150  # far more than what Mosquitto leaves unacknowledged on a connection (20)
FAR = """
---
apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {{name: far}}
spec: {{ruleEndpointType: eventbus, properties: {{broker: "mqtt://127.0.0.1:{port}"}}}}
"""


@contextlib.asynccontextmanager
async def _far_broker(directory: Path) -> AsyncIterator[TcpProxy]:
    """The way to another broker, on which no PUBACK comes back until told otherwise."""
    async with Mosquitto(directory / "far") as broker:
        proxy = TcpProxy("127.0.0.1", broker.port, mqtt=True)
        await proxy.start()
        proxy.discard_pubacks = True
        try:
            yield proxy
        finally:
            await proxy.stop()


async def test_target_that_never_answers_holds_up_nobody_else(mosquitto: Mosquitto, tmp_path: Path):
    """One connection brings both topics; the hanging target's inputs wait in the journal, the other topic flows on.

    At the end every input has exactly one result: 150 delivered, 150 FAIL with target_timeout.
    """
    async with _far_broker(tmp_path) as proxy:
        rules = BUS + FAR.format(port=proxy.port)
        rules += rule("slow", "slow/+", "far/{topic[1]}", to="far", timeout="1500ms") + rule(
            "fast", "fast/+", "near/{topic[1]}"
        )
        async with Stack(mosquitto, tmp_path, rules) as stack, Device(mosquitto) as device:
            await device.publish("slow/1", [b"%d" % n for n in range(COUNT)])
            await device.publish("fast/1", [b"%d" % n for n in range(COUNT)])

            async def fast_done() -> bool:
                return (await stack.counts()).get("fast") == COUNT

            await eventually(fast_done)
            slow = (await stack.counts()).get("slow", 0)
            assert slow < COUNT, "the fast topic waited for the slow one"
            assert await stack.settled(2 * COUNT) == 2 * COUNT
            rows = {row["rule"]: (row["success"], row["fail"]) for row in await stack.of_cloud("get.rules")}
            assert rows == {"fast": (COUNT, 0), "slow": (0, COUNT)}
            errors = await stack.of_cloud("get.errors")
            assert {(error["rule"], error["reason"]) for error in errors} == {("slow", "target_timeout")}


async def test_hanging_inputs_run_again_after_a_kill(mosquitto: Mosquitto, tmp_path: Path):
    """P5.3: inputs that were acknowledged into the journal run again after kill -9, with Attempts + 1, once each."""
    async with _far_broker(tmp_path) as proxy:
        rules = BUS + FAR.format(port=proxy.port) + rule("slow", "slow/+", "far/{topic[1]}", to="far", timeout="60s")
        keep_all = "cloud.store.ring_rate_max=1000"
        async with Stack(mosquitto, tmp_path, rules, cloud=(keep_all,)) as stack, Device(mosquitto) as device:
            await device.publish("slow/1", [b"%d" % n for n in range(100)])

            async def journalled() -> bool:
                return bool((await stack.of_edge())["status"].get("pending_inputs") == 100)

            await eventually(journalled)
            stack.edge.kill()
            proxy.discard_pubacks = False
            stack.edge.start()
            assert await stack.settled(100) == 100
            results = await stack.of_cloud("get.results", limit=200)
            assert len(results) == len({row["source_id"] for row in results}) == 100
            assert {row["status"] for row in results} == {"SUCCESS"}
