"""HTTP endpoints against hostile bytes, full queues and a node that stops (flow F3, reliability R3)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from common.clock import SystemClock
from edge.endpoints.idempotency import REPLIES_BYTES_MAX, Keys, digest_of
from edge.endpoints.paths import Paths, Pattern
from edge.endpoints.replies import Reply
from edge.settings import FlowSettings, ListenerSettings
from tests.endpoints.parts import Parts, endpoint, parts, rule
from tests.endpoints.test_http_source import ENDPOINTS, to_web
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually


async def raw(it: Parts, sent: bytes) -> bytes:
    """Send bytes; return the first line of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.agent.rest.listener.port)
    writer.write(sent)
    line = await reader.readline()
    writer.close()
    return line


async def test_a_header_that_is_no_text_stops_nobody(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Its request is journalled and executed as any other, and so are the next ones."""
    async with parts(mosquitto, tmp_path, lambda port: to_web(port, source="{path: /in, mode: async}")) as it:
        head = b"POST /edge-1/default/in HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"
        assert b" 202 " in await raw(it, head + b"X-Name: caf\xe9\r\n\r\n")
        assert (await it.request(f"{it.rest}/in"))[0] == 202
        assert {r.outcome for r in await it.ended(2)} == {"delivered"}


@pytest.mark.parametrize("path", [b"/edge-1/default/caf\xe9", b"/edge-1/default/in/caf\xe9", b"/\xe9"])
async def test_a_path_that_is_no_text_is_refused(mosquitto: Mosquitto, tmp_path: Path, path: bytes) -> None:
    """400, as what is percent-encoded and no UTF-8 is."""
    async with parts(mosquitto, tmp_path, lambda port: to_web(port, source="{path: '/in/{x}'}")) as it:
        assert b" 400 " in await raw(it, b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert it.results() == []


async def test_a_token_that_is_no_text_is_wrong(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """401, and counted; not a fault of ours."""
    token = tmp_path / "token"
    token.write_text("s3cret")
    guarded = ListenerSettings(port=0, token_file=str(token))
    async with parts(mosquitto, tmp_path, to_web, rest=guarded) as it:
        head = b"POST /edge-1/default/in HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"
        assert b" 401 " in await raw(it, head + b"Authorization: Bearer \xff\r\n\r\n")
        assert it.agent.rest.listener.statistics()["unauthorised"] == 1


async def test_a_client_that_waits_for_100_is_told_to_go_on(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """RFC 9110 10.1.1: with Expect: 100-continue the body comes only then."""
    async with parts(mosquitto, tmp_path, to_web) as it:
        head = b"POST /edge-1/default/in HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", it.agent.rest.listener.port)
        writer.write(head)
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"1")
            assert b" 201 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND"])
async def test_methods_that_rules_do_not_know(mosquitto: Mosquitto, tmp_path: Path, method: str) -> None:
    """405: none of them may reach a target."""
    async with parts(mosquitto, tmp_path, to_web) as it:
        sent = f"{method} /edge-1/default/in HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()
        assert b" 405 " in await raw(it, sent)
        assert it.target.requests == []


@pytest.mark.parametrize("method", ["GET / HTTP/1.1\r\nX: y", "CONNECT", ""])
async def test_an_envelope_with_an_impossible_method(mosquitto: Mosquitto, tmp_path: Path, method: str) -> None:
    """The method in KubeEdge's JSON is checked like a request's own."""

    def manifests(port: int) -> str:
        target = f"{{resource: 'http://127.0.0.1:{port}/t'}}"
        return ENDPOINTS + rule("r", "app", "{target_url: 'http://svc/x'}", "web", target)

    async with parts(mosquitto, tmp_path, manifests) as it:
        body = msgspec.json.encode({"method": method, "targetURL": "http://svc/x", "payload": "p"})
        status, _, answer = await it.request(it.servicebus, body)
        assert (status, msgspec.json.decode(answer)["reason"]) == (405, "method")
        assert it.target.requests == []


async def test_a_full_queue_is_no_202(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """F3: asynchronous too, what is dropped at the bound is answered 503 with Retry-After, so that it comes again."""
    few = FlowSettings(running_max=1, queue_max=1, stop_s=0.1)
    async with parts(mosquitto, tmp_path, lambda port: to_web(port, source="{path: /in, mode: async}"), flow=few) as it:
        gate = asyncio.Event()

        async def wait(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response()

        it.target.handler = wait
        assert [(await it.request(f"{it.rest}/in"))[0] for _ in range(2)] == [202, 202]
        status, headers, body = await it.request(f"{it.rest}/in")
        assert (status, headers["Retry-After"], msgspec.json.decode(body)["reason"]) == (503, "1", "queue_full")
        gate.set()


async def test_a_stop_answers_who_waits(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """503 at once after the drain, no fault reaches the loop's handler, no connection stays open."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    quick = FlowSettings(stop_s=0.1)
    async with parts(mosquitto, tmp_path, lambda port: to_web(port, "  retry: {attempts: 3}\n"), flow=quick) as it:
        gate = asyncio.Event()

        async def wait(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response()

        it.target.handler = wait
        waiting = asyncio.create_task(it.request(f"{it.rest}/in"))
        same = [asyncio.create_task(it.request(f"{it.rest}/in", idempotency_key="k")) for _ in range(2)]
        await eventually(lambda: len(it.target.requests) == 2)
        await it.agent.stop()
        for task in (waiting, *same):
            status, _, body = await task
            assert (status, msgspec.json.decode(body)["reason"]) == (503, "stopping")
        gate.set()
    assert faults == []


async def test_a_body_that_is_no_bytes_ends_the_execution(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """A hook may leave a payload that is nothing JSON can say: one result at once, and nothing for the loop."""
    async with parts(mosquitto, tmp_path, to_web) as it:
        it.agent.rules.hooks.add("preDeliver", lambda event: setattr(event.msg, "payload", object()))
        assert (await it.request(f"{it.rest}/in"))[0] == 502
        assert [r.reason for r in await it.ended()] == ["target_fault"]


@pytest.mark.parametrize("part", ["%2B", "+", "%23"])
async def test_a_path_makes_no_wildcard(mosquitto: Mosquitto, tmp_path: Path, part: str) -> None:
    """What a path puts into a topic is checked before the broker sees it."""
    to_bus = rule("r", "web", "{path: '/in/{x}'}", "bus", '{topic: "out/{path[1]}"}')
    async with parts(mosquitto, tmp_path, lambda port: ENDPOINTS + to_bus) as it:
        status, _, body = await it.request(f"{it.rest}/in/{part}")
        assert (status, msgspec.json.decode(body)["reason"]) == (502, "target_topic")


async def test_a_level_of_a_path_is_decoded_once(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """{path[n]} is text, in a topic and in a URL, where it is encoded again."""

    def manifests(port: int) -> str:
        to_web = f"{{resource: 'http://127.0.0.1:{port}/t/{{path[1]}}'}}"
        return (
            endpoint("web", "rest")
            + endpoint("bus", "eventbus")
            + rule("a", "web", "{path: '/a/{x}'}", "bus", '{topic: "out/{path[1]}"}')
            + rule("b", "web", "{path: '/b/{x}'}", "web", to_web)
        )

    async with parts(mosquitto, tmp_path, manifests) as it:
        assert (await it.request(f"{it.rest}/a/caf%C3%A9"))[0] == 200
        await eventually(lambda: [p.topic for p in it.published] == ["out/café"])
        assert (await it.request(f"{it.rest}/b/caf%C3%A9"))[0] == 201
        assert it.target.requests[0][0].raw_path == "/t/caf%C3%A9"


def test_a_rule_with_a_method_goes_before_one_with_all() -> None:
    """F3: the most specific wins, in whichever order they came."""
    of_all, of_post = Pattern("/a", frozenset(), "all"), Pattern("/a", frozenset({"POST"}), "post")
    for patterns in ([of_all, of_post], [of_post, of_all]):
        paths = Paths(patterns)
        assert [getattr(paths.find("/a", m), "value", None) for m in ("POST", "GET")] == ["post", "all"]


# -- idempotency keys --------------------------------------------------------------------------------------------------


async def test_a_key_whose_request_waits_is_not_forgotten() -> None:
    """At the bound of number and of time its answer still reaches whoever sent the key again."""
    keys = Keys(1, 1e-9, SystemClock())
    assert keys.begin("r", "one", b"") is None
    assert keys.begin("r", "two", b"") is None
    keys.end("r", "two", Reply(201))
    again = keys.begin("r", "one", b"")
    keys.end("r", "one", Reply(200))
    assert again is not None
    assert await again == Reply(200)
    assert keys.begin("r", "three", b"") is None
    assert keys.begin("r", "one", b"") is None


async def test_keys_keep_few_bytes() -> None:
    """However large the answers are: the oldest are forgotten, and counted."""
    keys = Keys(10_000, 60.0, SystemClock())
    for number in range(20):
        assert keys.begin("r", str(number), b"") is None
        keys.end("r", str(number), Reply(200, (), b"x" * (REPLIES_BYTES_MAX // 8)))
    assert keys.bytes <= REPLIES_BYTES_MAX
    assert keys.forgotten >= 12


def test_another_query_is_another_request() -> None:
    """The same key for it is refused."""
    assert digest_of("GET", "/a", "x=1", b"") != digest_of("GET", "/a", "x=2", b"")
