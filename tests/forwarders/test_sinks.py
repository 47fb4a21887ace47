"""The MQTT and log sinks, and all of them under a controller (P8.5)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.forwarders.base import Delivered, Refused, Retry
from cloud.forwarders.log import LogSink
from cloud.forwarders.mqtt import MqttSink
from cloud.settings import ForwardSettings
from cloud.settings.forward import LogSinkSettings, MqttSinkSettings, WebhookSettings
from cloud.stores.base import ErrorRow
from cloud.stores.status import Condition, NodeShare, RuleStatus
from cloud.stores.tables import objects
from common.control import call
from common.errors import ConfigError
from common.logs import JsonFormatter
from common.messaging.base import NOBODY_LISTENS, NOT_SENT, PUBLISHED
from common.messaging.memory import MemoryHub, MemoryLink
from common.tables import SINKS, render
from tests.cloud.node import node_on, running
from tests.cloud.samples import bad, ok
from tests.forwarders.parts import Receiver, key, mark, wanting
from tests.support.wait import eventually

TOPIC = "fieldpost/status/default/overheat"


def told(**more: Any) -> RuleStatus:
    """A status of the rule overheat."""
    return RuleStatus(**{"namespace": "default", "rule": "overheat", "uid": "", "version": 5, "success": 2, **more})


async def _link(hub: MemoryHub) -> MemoryLink:
    link = hub.link("cloud-1")
    await link.start()
    await eventually(lambda: link.connected)
    return link


async def test_status_is_retained_json_and_cleared() -> None:
    """Each rule's status stands retained on its topic with its version; forgetting clears it (P3.4)."""
    hub = MemoryHub()
    sink = MqttSink(await _link(hub), "fieldpost", MqttSinkSettings())
    assert await sink.deliver([told(), told(rule="other", uid="u1")]) == [Delivered(), Delivered()]
    (found,) = hub.retained([TOPIC])
    assert msgspec.json.decode(found.payload, type=RuleStatus) == told()
    assert len(hub.retained(["fieldpost/status/#"])) == 2
    assert await sink.forget([key()]) == [Delivered()]
    assert hub.retained([TOPIC]) == []


async def test_a_status_that_is_too_large_goes_without_nodes_and_errors() -> None:
    """A rule on thousands of nodes does not exceed what the broker takes."""
    hub = MemoryHub()
    sink = MqttSink(await _link(hub), "fieldpost", MqttSinkSettings())
    error = ErrorRow("default", "overheat", "", "timeout", "d" * 2048, 1, 0, 0, "edge-1", "", "")
    large = told(nodes=[NodeShare(f"edge-{n}") for n in range(3000)], errors=[error] * 32)
    assert await sink.deliver([large]) == [Delivered()]
    found = msgspec.json.decode(hub.retained([TOPIC])[0].payload, type=RuleStatus)
    assert (found.success, found.nodes, found.errors) == (2, [], [])


@pytest.mark.parametrize(
    ("code", "kind"), [(PUBLISHED, Delivered), (NOBODY_LISTENS, Delivered), (NOT_SENT, Retry), (0x87, Retry)]
)
async def test_what_the_broker_answers_is_judged(code: int, kind: type) -> None:
    """A confirmed publish is delivered, also when nobody listens now; a lost or refused one is told again."""
    link = await _link(MemoryHub())
    link.publish = lambda *args, on_done, **more: on_done(code)  # type: ignore[method-assign]
    (answer,) = await MqttSink(link, "fieldpost", MqttSinkSettings()).deliver([told()])
    assert type(answer) is kind


async def test_without_a_broker_it_is_told_later_and_a_silent_one_is_not_waited_for() -> None:
    """No connection, and a broker that never confirms, are retries within the timeout; a wrong topic is refused."""
    hub = MemoryHub()
    link = await _link(hub)
    sink = MqttSink(link, "fieldpost", MqttSinkSettings(timeout_s=0.05))
    (answer,) = await sink.deliver([told(namespace="a b")])
    assert isinstance(answer, Refused)
    link.publish = lambda *args, **more: None  # type: ignore[method-assign]
    (answer,) = await sink.deliver([told()])
    assert isinstance(answer, Retry)
    assert "0.05 s" in answer.reason
    del link.publish  # type: ignore[method-assign]
    hub.set_available(False)
    (answer,) = await sink.deliver([told()])
    assert isinstance(answer, Retry)


async def test_the_log_has_a_line_for_each_rule(caplog: pytest.LogCaptureFixture) -> None:
    """One line, with namespace and rule as fields, version, counts and conditions."""
    with caplog.at_level(logging.INFO):
        status = told(fail=1, uid="u1", conditions=[Condition("Ready", "True", "Running", "", 0)])
        assert await LogSink(LogSinkSettings()).deliver([status]) == [Delivered()]
    (line,) = [msgspec.json.decode(JsonFormatter().format(each)) for each in caplog.records]
    assert (line["namespace"], line["rule"]) == ("default", "overheat")
    assert line["message"] == ("rule status: version=5 success=2 fail=1 p50_us=0 p95_us=0 nodes=0 ready=True uid=u1")


def _settings(url: str) -> ForwardSettings:
    hook = WebhookSettings(url=url, allow_http=True, allow_networks=["127.0.0.0/8"], interval_s=0.1)
    return ForwardSettings(
        webhooks={"t": hook},
        mqtt=MqttSinkSettings(enabled=True, interval_s=0.1),
        log=LogSinkSettings(enabled=True, interval_s=0.1),
    )


async def test_webhook_and_mqtt_tell_exact_counts_and_get_sinks_shows_them(tmp_path: Path) -> None:
    """16 nodes send everything three times: webhook and retained status end with the exact counts, and socket,
    table and metrics show the sinks.
    """
    hub = MemoryHub()
    async with Receiver().running() as receiver, running(tmp_path, hub, forward=_settings(receiver.url)) as controller:

        async def send(name: str) -> None:
            async with node_on(hub, name) as node:
                for _ in range(3):
                    for sequence in range(1, 4):
                        await node.results(sequence, [ok(), ok(), bad()])
                await eventually(lambda: [each.through for each in node.confirmations()][-1:] == [3])

        await asyncio.gather(*(send(f"edge-{n}") for n in range(16)))
        hook = receiver.rules
        await eventually(lambda: (hook.get("default/overheat") or {}).get("success") == 96)
        await eventually(lambda: hub.retained([TOPIC]) and _retained(hub).success == 96)
        assert (hook["default/overheat"]["fail"], _retained(hub).fail) == (48, 48)
        path = tmp_path / "data" / "cloud.sock"
        await eventually(lambda: all(row.delivered and not row.pending for row in controller.forwarding.rows()))
        rows = await call(path, "get.sinks")
        assert [row["sink"] for row in rows] == ["webhook:t", "mqtt", "log"]
        assert render(SINKS, rows, "table").splitlines()[1].split()[:3] == ["webhook:t", "closed", "0"]
        text = await call(path, "metrics")
        assert 'fieldpost_cloud_forwarder_lag_seconds{sink="mqtt"} 0.0' in text
        assert 'fieldpost_cloud_forwarder_delivered_total{sink="webhook:t"}' in text
        assert (await call(path, "statistics"))["forwarders"]["log"]["delivered"] >= 1


def _retained(hub: MemoryHub) -> RuleStatus:
    return msgspec.json.decode(hub.retained([TOPIC])[0].payload, type=RuleStatus)


async def test_the_retained_status_of_a_deleted_rule_is_cleared(tmp_path: Path) -> None:
    """When a rule is deleted its retained status goes, too."""
    hub = MemoryHub()
    forward = ForwardSettings(mqtt=MqttSinkSettings(enabled=True, interval_s=0))
    async with running(tmp_path, hub, forward=forward) as controller:
        store, it = controller.store, controller.forwarding
        await store.write(lambda conn: wanting(conn, key(uid="u1")))
        await mark(store, key(uid="u1"))
        it.wake()
        await eventually(lambda: hub.retained([TOPIC]))
        await store.write(lambda conn: conn.execute(objects.delete()))
        await it._forwarders[0]._feed.tidy()
        assert hub.retained([TOPIC]) == []


async def test_a_webhook_that_can_never_work_stops_the_start(tmp_path: Path) -> None:
    """A forbidden address in the settings is said at the start, with the name of the webhook."""
    forward = ForwardSettings(webhooks={"t": WebhookSettings(url="https://169.254.169.254/")})
    with pytest.raises(ConfigError, match=r"webhook:t: url: 169\.254\.169\.254 is link-local"):
        async with running(tmp_path, MemoryHub(), forward=forward):
            pass
