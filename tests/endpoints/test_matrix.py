"""All nine pairs of source and target, with a real web server and a real broker (flow F3, F5)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from aiohttp import web

from common.messaging.base import Properties
from edge.settings import HttpClientSettings, ListenerSettings
from tests.endpoints.parts import Parts, endpoint, parts, rule
from tests.support.brokers import Mosquitto

PAYLOAD = b"\x00\xff{ not json, bytes }\r\n"
SOURCES = {
    "eventbus": '{topic: "in/+"}',
    "rest": "{path: '/in/{line}'}",
    "servicebus": "{target_url: 'http://cloud.example/in/7'}",
}
KINDS = tuple(SOURCES)


def manifests(source: str, target: str, target_resource: str, properties: str = "{}", extra: str = "") -> str:
    """One rule from one type to another."""
    of_source = "{service_port: 1}" if source == "servicebus" else "{}"
    return endpoint("a", source, of_source) + endpoint("b", target, properties) + rule(
        "r", "a", SOURCES[source], "b", target_resource, f"  timeout: 500ms\n{extra}"
    )  # fmt: skip


def of_target(kind: str, port: int) -> tuple[str, str]:
    """targetResource and the endpoint's properties."""
    return {
        "eventbus": ('{topic: "out/{rule}"}', "{}"),
        "rest": (f"{{resource: 'http://127.0.0.1:{port}/t/{{rule}}', headers: 'x-mine'}}", "{}"),
        "servicebus": ("{path: '/t/{rule}', headers: 'x-mine'}", f"{{service_port: {port}}}"),
    }[kind]


class Came(NamedTuple):
    """What the source got: status and body over HTTP, nothing over MQTT."""

    status: int = 0
    body: bytes = b""
    headers: object = None


async def bring(it: Parts, source: str, payload: bytes = PAYLOAD, hops: int = 0) -> Came:
    """Bring a message by the source, with metadata."""
    headers = {"traceparent": "00-1-2-01", "x_mine": "mine", "x_other": "other"}
    if hops:
        headers["fieldpost_hops"] = str(hops)
    if source == "eventbus":
        user = [("traceparent", "00-1-2-01"), ("x-mine", "mine"), ("msg_id", "m-1")]
        if hops:
            user.append(("hops", str(hops)))
        it.device.publish("in/7", payload, properties=Properties(user=tuple(user)))
        return Came()
    if source == "rest":
        status, got, body = await it.request(f"{it.rest}/in/7?q=1", payload, **headers)
    else:
        status, got, body = await it.request(it.servicebus, payload, target_url="http://cloud.example/in/7", **headers)
    return Came(status, body, got)


def reason_of(came: Came) -> str:
    """The reason code in an error's body."""
    return str(msgspec.json.decode(came.body)["reason"]) if came.status >= 400 else ""


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
async def test_success(mosquitto: Mosquitto, tmp_path: Path, source: str, target: str) -> None:
    """The bytes arrive as they were, with node, rule, key, id, time, hops and trace; the answer comes back whole."""
    async with parts(mosquitto, tmp_path, lambda port: manifests(source, target, *of_target(target, port))) as it:
        came = await bring(it, source)
        (result,) = await it.ended()
        assert (result.status, result.outcome, result.reason, result.attempts) == ("SUCCESS", "delivered", "", 1)
        key = "in/7" if source == "eventbus" else "/in/7"
        if target == "eventbus":
            while not it.published:
                await asyncio.sleep(0.01)
            (packet,) = it.published
            told = dict(packet.properties.user) if packet.properties else {}
            assert (packet.topic, packet.payload) == ("out/r", PAYLOAD)
            assert (told["ce_source"], told["ce_subject"], told["hops"]) == ("edge-1/default/r", key, "1")
            assert told["msg_id"] == result.source_id
            assert told["traceparent"] == "00-1-2-01"
            if source != "eventbus":
                assert (came.status, msgspec.json.decode(came.body)) == (200, {"msg_id": result.source_id})
        else:
            ((request, body),) = it.target.requests
            assert (request.method, request.path, body) == ("POST", "/t/r", PAYLOAD)
            told = {k.lower(): v for k, v in request.headers.items()}
            assert (told["ce-source"], told["ce-subject"], told["fieldpost-hops"]) == ("edge-1/default/r", key, "1")
            assert (told["ce-id"], told["ce-specversion"], told["traceparent"]) == (
                result.source_id,
                "1.0",
                "00-1-2-01",
            )
            assert told["ce-time"].startswith("20")
            assert told["x-mine"] == "mine"
            assert "x-other" not in told
            if source != "eventbus":
                assert (came.status, came.body, came.headers["X-Target"]) == (201, PAYLOAD[::-1], "yes")  # type: ignore[index]


@pytest.mark.parametrize("target", ["rest", "servicebus"])
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("status", [404, 302, 500])
async def test_target_error(mosquitto: Mosquitto, tmp_path: Path, source: str, target: str, status: int) -> None:
    """FAIL with the target's status; its own answer goes back, redirects included, and nothing is tried again."""
    async with parts(mosquitto, tmp_path, lambda port: manifests(source, target, *of_target(target, port))) as it:

        async def refuse(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=b"no", headers={"X-Why": "so", "Location": "http://other.example/"})

        it.target.handler = refuse
        came = await bring(it, source)
        (result,) = await it.ended()
        assert (result.status, result.outcome, result.reason) == ("FAIL", "failed", f"target_status_{status}")
        assert str(status) in result.error.detail
        assert len(it.target.requests) == 1
        if source != "eventbus":
            assert (came.status, came.body, came.headers["X-Why"]) == (status, b"no", "so")  # type: ignore[index]


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
async def test_timeout(mosquitto: Mosquitto, tmp_path: Path, source: str, target: str) -> None:
    """A target that does not answer: FAIL target_timeout within the rule's time, 504 to who waits."""
    async with parts(mosquitto, tmp_path, lambda port: manifests(source, target, *of_target(target, port))) as it:

        async def hang(request: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        it.target.handler = hang
        if target == "eventbus":
            it.swallow("out/")
        came = await bring(it, source)
        (result,) = await it.ended()
        assert (result.status, result.outcome, result.reason) == ("FAIL", "failed", "target_timeout")
        if source != "eventbus":
            assert (came.status, reason_of(came)) == (504, "target_timeout")


@pytest.mark.parametrize("target", ["rest", "servicebus"])
@pytest.mark.parametrize("source", KINDS)
async def test_unreachable(
    mosquitto: Mosquitto, tmp_path: Path, source: str, target: str, unused_tcp_port: int
) -> None:
    """Nobody listens there: tried as the rule says, then FAIL target_unreachable, 502 to who waits.

    A broker that is away as a target: test_a_broker_that_is_away, below.
    """
    retry = "  retry: {attempts: 2, backoff: 10ms}\n"

    def written(port: int) -> str:
        resource, of_kind = of_target(target, unused_tcp_port)
        return manifests(source, target, resource, of_kind, retry)

    async with parts(mosquitto, tmp_path, written) as it:
        came = await bring(it, source)
        (result,) = await it.ended()
        assert (result.status, result.reason, result.attempts) == ("FAIL", "target_unreachable", 2)
        if source != "eventbus":
            assert (came.status, reason_of(came)) == (502, "target_unreachable")


@pytest.mark.parametrize("source", ["rest", "servicebus"])
async def test_oversize_at_the_source(mosquitto: Mosquitto, tmp_path: Path, source: str) -> None:
    """A body above the listener's bound is 413, and no execution."""
    small = ListenerSettings(port=0, body_bytes_max=1000)
    async with parts(
        mosquitto, tmp_path, lambda port: manifests("rest", "rest", *of_target("rest", port)), rest=small
    ) as it:
        came = await bring(it, "rest", bytes(1001))
        assert (came.status, reason_of(came)) == (413, "payload_too_large")
        assert (await bring(it, "rest", bytes(1000))).status == 201
        assert len(await it.ended()) == 1


@pytest.mark.parametrize("source", KINDS)
async def test_oversize_at_the_target(mosquitto: Mosquitto, tmp_path: Path, source: str) -> None:
    """More than the broker takes: FAIL payload_too_large, 413 to who waits; an answer above its bound: 502."""
    big = bytes(127 * 1024) if source == "eventbus" else bytes(200 * 1024)
    if source != "eventbus":
        async with parts(mosquitto, tmp_path, lambda port: manifests(source, "eventbus", '{topic: "out/r"}')) as it:
            came = await bring(it, source, big)
            (result,) = await it.ended()
            assert (result.status, result.reason) == ("FAIL", "payload_too_large")
            assert (came.status, reason_of(came)) == (413, "payload_too_large")
        (tmp_path / "data").rename(tmp_path / "before")
    small = HttpClientSettings(answer_bytes_max=1000)
    async with parts(
        mosquitto, tmp_path, lambda port: manifests(source, "rest", *of_target("rest", port)), http=small
    ) as it:
        came = await bring(it, source, bytes(1001))
        (result,) = await it.ended()
        assert (result.status, result.reason) == ("FAIL", "target_answer_too_large")
        if source != "eventbus":
            assert (came.status, reason_of(came)) == (502, "target_answer_too_large")


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
async def test_loop(mosquitto: Mosquitto, tmp_path: Path, source: str, target: str) -> None:
    """A message that passed 16 rules passes; above that it is stopped as FAIL loop, 508 to who waits."""
    async with parts(mosquitto, tmp_path, lambda port: manifests(source, target, *of_target(target, port))) as it:
        await bring(it, source, hops=16)
        assert (await it.ended())[0].outcome == "delivered"
        came = await bring(it, source, hops=17)
        if source == "eventbus":
            assert [r.reason for r in await it.ended(2)] == ["", "loop"]
        else:
            assert (came.status, reason_of(came)) == (508, "loop")


@pytest.mark.parametrize("source", ["rest", "servicebus"])
async def test_a_broker_that_is_away(mosquitto: Mosquitto, tmp_path: Path, source: str, unused_tcp_port: int) -> None:
    """An eventbus target on another broker that nobody runs: FAIL target_unreachable, 502 to who waits."""
    written = manifests(
        source, "eventbus", '{topic: "out/r"}', f"{{broker: 'mqtt://127.0.0.1:{unused_tcp_port}'}}",
        "  retry: {attempts: 2, backoff: 10ms}\n",
    )  # fmt: skip
    async with parts(mosquitto, tmp_path, lambda port: written, connected=False) as it:
        came = await bring(it, source)
        (result,) = await it.ended()
        assert (result.status, result.reason, result.attempts) == ("FAIL", "target_unreachable", 2)
        assert (came.status, reason_of(came)) == (502, "target_unreachable")
