"""The controller as a whole: presence, control socket, real broker, process and exit codes (P3.4, decision 9a)."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.__main__ import main
from cloud.controller import Controller
from cloud.settings import CloudSettings, Settings
from common.control import call, stream
from common.errors import ConfigError, ControlError, StorageError
from common.message import new
from common.messaging.memory import MemoryHub
from common.messaging.mqtt import MqttLayer
from common.messaging.transport import MqttLink
from common.models import Confirmation, ControllerPresence
from tests.cloud.node import ROOT, node_on, running
from tests.cloud.samples import bad, birth, epoch, ok, totals
from tests.support.brokers import Broker
from tests.support.wait import eventually

REPOSITORY = Path(__file__).resolve().parents[2]


async def test_the_controller_says_that_it_is_there_and_that_it_goes(tmp_path: Path) -> None:
    """Retained presence: online after the connect, offline by will when cut, offline at a clean stop (P3.4)."""
    hub = MemoryHub()
    topic = f"{ROOT}/presence/cloud/cloud-1"

    def said() -> ControllerPresence:
        return msgspec.json.decode(hub.retained([topic])[0].payload, type=ControllerPresence)

    async with running(tmp_path, hub) as controller:
        await eventually(lambda: hub.retained([topic]))
        assert (said().controller, said().online) == ("cloud-1", True)
        await eventually(lambda: [each.controller for each in controller.sessions.controllers()] == ["cloud-1"])
        hub.set_available(False)
        assert not said().online
        hub.set_available(True)
        await eventually(lambda: said().online)
    assert not said().online


async def test_the_control_socket_answers_everything(tmp_path: Path) -> None:
    """nodes, rules, results, errors, dead letters, statistics and metrics come over the socket as plain values."""
    hub = MemoryHub()
    path = tmp_path / "data" / "cloud.sock"
    async with running(tmp_path, hub), node_on(hub) as node:
        node.presence(birth(labels={"site": "a"}))
        await node.results(1, [ok(), bad()])
        node.raw(f"{ROOT}/up/edge-1/a:b/update/default/rulestatus/x", b"rubbish")
        await eventually(lambda: node.confirmations() and node.errors())
        (row,) = await eventually(lambda: call(path, "get.nodes"))
        assert (row["node"], row["state"], row["labels"]) == ("edge-1", "online", {"site": "a"})
        (rule,) = await call(path, "get.rules", namespace="default")
        assert (rule["rule"], rule["success"], rule["fail"], rule["node"]) == ("overheat", 1, 1, "")
        assert [each["node"] for each in await call(path, "get.rules", per_node=True)] == ["edge-1"]
        assert [each["status"] for each in await call(path, "get.results", limit=5)] == ["SUCCESS", "FAIL"]
        assert [each["detail"] for each in await call(path, "get.errors", rule="overheat")] == ["no answer"]
        (letter,) = await eventually(lambda: call(path, "get.dead_letters"))
        assert (letter["reason"], letter["payload"]) == ("undecodable", "cnViYmlzaA==")
        found = await call(path, "statistics")
        assert found["controller"]["id"] == "cloud-1"
        assert found["store"]["results"] == 2
        text = await call(path, "metrics")
        assert "fieldpost_cloud_store_results_total 2.0" in text
        assert "fieldpost_cloud_refusals_reason_undecodable_total 1.0" in text
        for gauge in ("downstream_nodes_queued", "store_statistics_waiting", "link_connected"):
            assert f"# TYPE fieldpost_cloud_{gauge} gauge" in text


@pytest.mark.parametrize(
    ("operation", "arguments", "text"),
    [
        ("get.results", {"limit": 0}, "wrong argument"),
        ("get.results", {"limit": "many"}, "wrong argument"),
        ("get.rules", {"rul": "a"}, "rul"),
        ("get.nodes", {"x": 1}, "wrong argument"),
    ],
)
async def test_wrong_arguments_are_answered_clearly(
    tmp_path: Path, operation: str, arguments: dict[str, Any], text: str
) -> None:
    """An argument that is unknown, of a wrong type or out of range is a ControlError that says so."""
    async with running(tmp_path, MemoryHub()):
        with pytest.raises(ControlError, match=text):
            await call(tmp_path / "data" / "cloud.sock", operation, **arguments)


async def test_watchers_see_results_as_they_are_committed(tmp_path: Path) -> None:
    """watch.results streams what is committed from now on, filtered; a client that goes away leaves nothing behind."""
    hub = MemoryHub()
    path = tmp_path / "data" / "cloud.sock"
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        await node.results(1, [ok(source_id="before")])
        await eventually(lambda: node.confirmations())
        seen: list[str] = []
        note = seen.append

        async def watch() -> None:
            async for row in stream(path, "watch.results", status="FAIL"):
                note(row["detail"])

        watcher = asyncio.create_task(watch())
        watchers = controller._operations._watchers
        await eventually(lambda: watchers)
        await node.results(2, [ok(), bad(detail="one")])
        await eventually(lambda: seen == ["one"])
        await node.results(3, [bad(detail="two")])
        await eventually(lambda: seen == ["one", "two"])
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await eventually(lambda: not watchers)


async def test_two_controllers_cannot_share_a_data_directory(tmp_path: Path) -> None:
    """The second one is refused with one clear error, and the first goes on."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as first:
        with pytest.raises(ConfigError, match="another cloud controller is running"):
            async with running(tmp_path, hub, controller="cloud-2"):
                pass
        assert await first.store.nodes() == []


async def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    """With a store that cannot be opened the control socket is gone again, and the error says which file."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cloud.db").write_bytes(b"not a database" * 300)
    with pytest.raises(StorageError, match="not a database"):
        async with running(tmp_path, MemoryHub()):
            pass
    assert not (tmp_path / "data" / "cloud.sock").exists()


async def test_results_are_counted_through_every_broker(tmp_path: Path, any_broker: Broker) -> None:
    """Results in, confirmation out, counts right: with the embedded broker and Mosquitto, MQTT 5 and 3.1.1."""
    settings = Settings(broker=any_broker.settings(), data_dir=str(tmp_path / "data"))
    controller = Controller(settings)
    await controller.start()
    link = MqttLink(any_broker.settings(), "edge-1")
    layer = MqttLayer(link, root=ROOT, side="edge", node="edge-1", source="router", group="resource")
    await layer.start()
    try:
        await eventually(lambda: layer.link.connected and controller.layer.link.connected)
        resource = "node/edge-1/default/rulestatus/overheat"
        for sequence in range(1, 21):
            message = new(
                source="router", group="resource", operation="update", resource=resource, content=[ok(), bad()]
            )
            message.header.resourceversion = f"{epoch()}.{sequence}"
            await layer.send(message)
        through = 0
        async with asyncio.timeout(10):
            while through < 20:
                reply = await layer.receive()
                if reply.route.operation == "response":
                    through = max(through, msgspec.convert(reply.content, Confirmation).through)
        assert await totals(controller.store) == (20, 20)
    finally:
        await layer.stop()
        await controller.stop()


async def test_the_process_runs_and_stops_cleanly(tmp_path: Path) -> None:
    """python -m cloud without a broker still answers on its socket; SIGTERM ends it with 0 and no traceback."""
    command = [sys.executable, "-m", "cloud", "--broker", "mqtt://127.0.0.1:1", "--data-dir", str(tmp_path / "d")]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, stderr=asyncio.subprocess.PIPE, env={**os.environ, "FIELDPOST_CONFIG": ""}
    )
    path = tmp_path / "d" / "cloud.sock"
    await eventually(path.exists, timeout=20)
    assert (await call(path, "statistics"))["controller"]["connected"] is False
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    assert b"Traceback" not in errors


def test_wrong_use_is_exit_2_and_failures_are_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong setting is 2, a store that cannot be used is 1, each with one line; --print-config is 0."""
    data = tmp_path / "data"
    assert main(["--controller", "edge-1"]) == 2
    assert "controller" in capsys.readouterr().err
    data.mkdir()
    with sqlite3.connect(data / "cloud.db") as conn:
        conn.execute("CREATE TABLE fieldpost_schema (version INTEGER)")
        conn.execute("INSERT INTO fieldpost_schema VALUES (7)")
    conn.close()
    run = subprocess.run(
        [sys.executable, "-m", "cloud", "--data-dir", str(data)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "schema version 7" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert main(["--print-config"]) == 0
    assert "controller: cloud-1" in capsys.readouterr().out


def test_default_settings_are_what_the_design_says() -> None:
    """Stale after 60 s, rings of 1,000 and 1,000,000, 32 errors, 4 KiB of dead letters (P8.1, P8.6, P4.2)."""
    cloud = CloudSettings()
    assert (cloud.controller, cloud.stale_s) == ("cloud-1", 60.0)
    store = cloud.store
    assert (store.ring_rule_max, store.ring_total_max, store.errors_per_rule_max) == (1000, 1_000_000, 32)
    assert (store.dead_letters_max, store.dead_letter_bytes_max) == (10_000, 4096)
