"""Losses, dead letters and the ledger on real processes, as the command line shows them (protocol P5.8 to P5.11)."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

from common import codec, message
from common.messaging.base import Inbound, Subscription
from common.messaging.transport import MqttLink
from common.models import Refusal
from tests.e2e.stack import BUS, NODE, Device, Stack, rule
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

RULES = BUS + rule("relay", "devices/+/telemetry", "fleet/{node}/{topic[1]}")
REPO = Path(__file__).resolve().parents[2]


async def _cli(stack: Stack, *args: str) -> tuple[int, str]:
    """Run ``fieldpost`` with ``args`` on the stack's data directory; returns exit code and all that it printed."""
    command = [sys.executable, str(REPO / "fieldpost.py"), *args, "--data-dir", str(stack.directory)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=30, cwd=stack.directory
    )
    return done.returncode, done.stdout + done.stderr


async def _balanced(stack: Stack, **expected: int) -> None:
    """Wait until the ledger of the node is ok with these figures."""

    async def ok() -> bool:
        (row,) = (await stack.of_cloud("ledger"))["nodes"]
        return row["balance"] == "ok" and all(row[k] == v for k, v in expected.items())

    await eventually(ok, timeout=40, what=f"the ledger says ok with {expected}")


async def test_refused_message_is_void_then_redriven(mosquitto: Mosquitto, tmp_path: Path):
    """P5.9, P5.11: a final refusal makes a void record and a dead letter on the node; redrive counts its results."""
    async with Stack(mosquitto, tmp_path, RULES, cloud=()) as stack, Device(mosquitto) as device:
        stack.cloud.end()
        seen: list[Inbound] = []
        link = MqttLink(mosquitto.settings(), "test-cloud")
        link.on_message = seen.append
        link.subscribe([Subscription(f"fieldpost/up/{NODE}/+/update/+/rulestatus/#")])
        await link.start()
        await eventually(lambda: link.connected)
        await device.publish("devices/d1/telemetry", [b"1"])
        await eventually(lambda: seen)
        bad = codec.decode(seen[0].payload)
        answer = message.reply_error(bad, Refusal("undecodable", "by the test"), source="edgecontroller")
        link.publish(f"fieldpost/down/{NODE}/edgecontroller:_/error/default/rulestatus/relay", codec.encode(answer))
        await eventually(lambda: (stack.directory / "edge.log").read_text().count("the cloud refuses it"))
        await link.stop()
        stack.cloud.start()
        await stack.ready()
        await _balanced(stack, accepted=1, dead=1, counted=0)

        async def recorded() -> bool:  # the node's report may come before its loss record
            (row,) = (await stack.of_cloud("ledger"))["nodes"]
            return "void: 1 result refused for ever" in str(row["words"])

        await eventually(recorded, timeout=20)
        code, text = await _cli(stack, "get", "losses")
        assert code == 0
        assert "void" in text
        assert "undecodable" in text
        code, text = await _cli(stack, "dlq", "ls", "--side", "edge")
        assert bad.header.msg_id in text
        code, text = await _cli(stack, "dlq", "show", bad.header.msg_id, "--side", "edge")
        assert code == 0
        assert "relay" in text
        assert await _cli(stack, "dlq", "redrive", "--all", "--side", "edge") == (0, "1 letters sent again\n")
        await _balanced(stack, accepted=1, dead=0, confirmed=1, counted=1)
        code, text = await _cli(stack, "ledger")
        assert (code, text.count("\n")) == (0, 3)
        assert await _cli(stack, "dlq", "drop", "--all", "--side", "edge") == (0, "no dead letters\n")
        code, text = await _cli(stack, "dlq", "redrive", "--side", "edge")
        assert code == 2
        assert "name letters, or say --all" in text


async def test_damaged_spool_shows_as_a_loss_in_the_cloud(mosquitto: Mosquitto, tmp_path: Path):
    """P5.8: the node goes on with a new spool; the loss record says what happened and where the bytes are."""
    async with Stack(mosquitto, tmp_path, RULES) as stack, Device(mosquitto) as device:
        await device.publish("devices/d1/telemetry", [b"1"] * 5)
        await stack.settled(5)
        stack.edge.end()
        (tmp_path / "spool.db").write_bytes(b"rubbish" * 1000)
        stack.edge.start()
        await stack.ready()
        await device.publish("devices/d1/telemetry", [b"2"] * 5)

        async def told() -> bool:
            _, text = await _cli(stack, "get", "losses", "-o", "wide")
            return "set_aside" in text and "spool.db.damaged-" in text

        await eventually(told, timeout=20)

        async def counted() -> bool:
            return await stack.counts() == {"relay": 10}

        await eventually(counted)
        _, text = await _cli(stack, "get", "nodes")
        assert "set_aside" in text


async def test_restored_spool_is_a_conflict_until_a_person_decides(mosquitto: Mosquitto, tmp_path: Path):
    """P5.8: a copy of an older spool that comes back is told from the node itself; node replace goes on from it."""
    async with Stack(mosquitto, tmp_path, RULES) as stack, Device(mosquitto) as device:
        await device.publish("devices/d1/telemetry", [b"1"] * 5)
        await stack.settled(5)
        stack.edge.end()
        copy = tmp_path / "copy.db"
        shutil.copy(tmp_path / "spool.db", copy)
        for _ in range(2):
            stack.edge.start()
            await stack.ready()
            await device.publish("devices/d1/telemetry", [b"2"] * 5)
            await stack.settled(5)
            stack.edge.end()
        shutil.copy(copy, tmp_path / "spool.db")
        (tmp_path / "spool.epoch").unlink()  # the whole directory was restored
        stack.edge.start()

        async def conflict() -> str:
            (row,) = await stack.of_cloud("get.nodes")
            return str(row["conflict"])

        words = await eventually(conflict, timeout=20)
        assert "node replace" in words
        before = await stack.counts()
        await device.publish("devices/d1/telemetry", [b"3"] * 3)
        code, text = await _cli(stack, "get", "nodes")
        assert (code, "conflict" in text) == (0, True)
        assert await stack.counts() == before == {"relay": 15}
        code, text = await _cli(stack, "node", "replace", NODE)
        assert code == 0, text

        async def goes_on() -> bool:
            return (await stack.counts())["relay"] > 15

        await device.publish("devices/d1/telemetry", [b"4"] * 3)
        await eventually(goes_on, timeout=90)
