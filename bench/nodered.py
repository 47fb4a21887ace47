"""The peer of B2: Node-RED with one flow a rule, mqtt in -> function -> mqtt out, in a process of its own.

It runs where a ``node-red`` is found: the program that the environment variable NODE_RED names, or the one on the path.
Each function parses the payload and looks at the temperature, as a rule's chain does, and lets the message through.
Node-RED keeps no status and no message: what it does not do is not made up for. Editor, HTTP server, telemetry and
the log are off.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from common.messaging.base import Inbound, Subscription
from common.messaging.transport import MqttLink
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

VARIABLE = "NODE_RED"
START_S = 60.0  # at most, until it relays
PROBE_S = 0.1  # between two messages that ask whether it does
FUNCTION = "return JSON.parse(msg.payload).temperature > 80 ? msg : null;"
SETTINGS = """\
module.exports = {
  httpAdminRoot: false, httpNodeRoot: false, disableEditor: true, telemetry: {enabled: false},
  logging: {console: {level: "off"}},
};
"""
_HOT, _LAST = b'{"temperature": 90}', b'{"temperature": 91}'


def found() -> str | None:
    """The program, or None where there is none."""
    return os.environ.get(VARIABLE) or shutil.which("node-red")


def flows(port: int, qos: int, rules: int) -> list[dict[str, Any]]:
    """Node-RED's flow file: ``in/<n>`` to ``out/<n>``, so many times, over one connection as ours."""
    broker = {
        "id": "broker", "type": "mqtt-broker", "broker": "127.0.0.1", "port": str(port), "clientid": "node-red",
        "autoConnect": True, "usetls": False, "protocolVersion": "5", "keepalive": "60", "cleansession": True,
    }  # fmt: skip
    nodes: list[dict[str, Any]] = [{"id": "tab", "type": "tab", "label": "relay"}, broker]
    for n in range(rules):
        mqtt = {"z": "tab", "qos": str(qos), "broker": "broker"}
        function = {"z": "tab", "func": FUNCTION, "outputs": 1, "libs": []}
        nodes += [
            {"id": f"in{n}", "type": "mqtt in", "topic": f"in/{n}", "datatype": "utf8", "wires": [[f"f{n}"]], **mqtt},
            {"id": f"f{n}", "type": "function", "wires": [[f"out{n}"]], **function},
            {"id": f"out{n}", "type": "mqtt out", "topic": f"out/{n}", "retain": "false", "wires": [], **mqtt},
        ]
    return nodes


@asynccontextmanager
async def nodered(program: str, broker: Mosquitto, qos: int, rules: int) -> AsyncIterator[int]:
    """Node-RED relaying; gives its process id."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "settings.js").write_text(SETTINGS)
        (directory / "flows.json").write_text(json.dumps(flows(broker.port, qos, rules)))
        process = await asyncio.create_subprocess_exec(
            program, "--userDir", name, "--settings", str(directory / "settings.js"), str(directory / "flows.json"),
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await _relays(broker, rules - 1)
            yield process.pid
        finally:
            process.terminate()
            await process.wait()


async def _relays(broker: Mosquitto, n: int) -> None:
    """Wait until a message passes its flow ``n``, and until none of those that asked is on its way."""
    came: set[bytes] = set()
    link = MqttLink(broker.settings(), "probe")

    def arrived(inbound: Inbound) -> None:
        came.add(inbound.payload)

    link.on_message = arrived
    link.subscribe([Subscription(f"out/{n}")])
    await link.start()
    try:
        await eventually(lambda: link.connected)
        async with asyncio.timeout(START_S):
            while not came:
                link.publish(f"in/{n}", _HOT)
                await asyncio.sleep(PROBE_S)
        link.publish(f"in/{n}", _LAST)
        await eventually(lambda: _LAST in came)
    finally:
        await link.stop()
