"""HTTP sources: routes, asynchronous mode, idempotency, limits, protection, and clients that misbehave (flow F3)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from common.errors import ConfigError
from edge.agent import Agent
from edge.settings import EdgeSettings, FlowSettings, ListenerSettings, Settings
from tests.endpoints.parts import endpoint, parts, rule
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

ENDPOINTS = endpoint("web", "rest") + endpoint("bus", "eventbus") + endpoint("app", "servicebus", "{service_port: 9}")
TO_BUS = rule("r", "web", "{path: '/in/{line}', method: POST}", "bus", '{topic: "out/{$MSG.params.line}"}')


def to_web(port: int, extra: str = "", source: str = "{path: /in}") -> str:
    """A rule from rest to the target server."""
    return ENDPOINTS + rule("r", "web", source, "web", f"{{resource: 'http://127.0.0.1:{port}/t'}}", extra)


async def test_routes(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Node, namespace and path say who is meant: 404, 405 with what is allowed, 400, and the parameters in a topic."""
    async with parts(mosquitto, tmp_path, lambda port: ENDPOINTS + TO_BUS) as it:
        base = it.rest
        root = base.removesuffix("/edge-1/default")
        assert (await it.request(f"{base}/in/7", b"1"))[0] == 200
        await eventually(lambda: [p.topic for p in it.published] == ["out/7"])
        for url in (
            f"{base}/in",
            f"{base}/in/7/8",
            f"{base}/",
            root,
            f"{root}/edge-2/default/in/7",
            f"{root}/edge-1/other/in/7",
        ):
            status, _, body = await it.request(url)
            assert (status, msgspec.json.decode(body)["reason"]) == (404, "no_rule"), url
        status, headers, body = await it.request(f"{base}/in/7", method="GET")
        assert (status, headers["Allow"], msgspec.json.decode(body)["reason"]) == (405, "POST", "method")
        assert (await it.request(f"{base}/in/%ff"))[0] == 400
        assert (await it.request(f"{base}/in/%2B"))[0] == 502  # no topic can be made of it
        assert len(it.results()) == 2


@pytest.mark.parametrize("how", ["mode", "prefer"])
async def test_asynchronous_mode(mosquitto: Mosquitto, tmp_path: Path, how: str) -> None:
    """202 with the message id once the input is on disk, long before the target answers; the result names that id."""
    source = "{path: /in, mode: async}" if how == "mode" else "{path: /in}"
    async with parts(mosquitto, tmp_path, lambda port: to_web(port, source=source)) as it:
        gate = asyncio.Event()

        async def wait(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response()

        it.target.handler = wait
        headers = {"prefer": "respond-async"} if how == "prefer" else {}
        status, _, body = await it.request(f"{it.rest}/in", b"1", **headers)
        assert status == 202
        assert it.agent.spool.stats.inputs == 1
        assert it.results() == []
        gate.set()
        (result,) = await it.ended()
        assert (result.outcome, result.source_id) == ("delivered", msgspec.json.decode(body)["msg_id"])


async def test_an_accepted_input_runs_again_after_a_crash(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """What was answered 202 survives an agent that ends without a word: headers, parameters and all."""
    extra = "  timeout: 30s\n"
    source = "{path: '/in/{line}', mode: async}"

    def written(port: int) -> str:
        url = f"{{resource: 'http://127.0.0.1:{port}/t/{{$MSG.params.line}}', headers: x-mine}}"
        return ENDPOINTS + rule("r", "web", source, "web", url, extra)

    async with parts(mosquitto, tmp_path, written) as it:

        async def hang(request: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        it.target.handler = hang
        assert (await it.request(f"{it.rest}/in/7", b"1", x_mine="mine"))[0] == 202
        await eventually(lambda: len(it.target.requests) == 1)
        it.agent.rules._flow = FlowSettings(stop_s=0)
    async with parts(mosquitto, tmp_path, written) as it:
        (result,) = await it.ended()
        assert (result.outcome, result.attempts) == ("delivered", 2)
        ((request, body),) = it.target.requests
        assert (request.path, request.headers["x-mine"], body) == ("/t/7", "mine", b"1")


async def test_a_repeated_request_is_executed_once(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """The same key: the first answer again, also while the first still runs; another body under it is refused."""
    async with parts(mosquitto, tmp_path, to_web) as it:
        gate = asyncio.Event()

        async def wait(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response(status=201, body=b"made", headers={"X-Id": "1"})

        it.target.handler = wait
        url = f"{it.rest}/in"
        both = [asyncio.create_task(it.request(url, b"1", idempotency_key="k")) for _ in range(2)]
        await eventually(lambda: len(it.target.requests) == 1)
        gate.set()
        answers = [*await asyncio.gather(*both), await it.request(url, b"1", idempotency_key="k")]
        assert {(status, headers["X-Id"], body) for status, headers, body in answers} == {(201, "1", b"made")}
        assert (await it.request(url, b"2", idempotency_key="k"))[0] == 422
        assert (await it.request(url, b"2", idempotency_key="x" * 256))[0] == 400
        assert (await it.request(url, b"2", idempotency_key="other"))[0] == 201
        assert len(it.target.requests) == 2
        assert len(it.results()) == 2
        assert it.agent.rest.listener.statistics()["repeated"] == 2


async def test_waiting_requests_are_bounded(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Above the bound: 503 with Retry-After, counted, and nothing is executed."""
    few = ListenerSettings(port=0, requests_max=2)
    async with parts(mosquitto, tmp_path, to_web, rest=few) as it:
        gate = asyncio.Event()

        async def wait(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response()

        it.target.handler = wait
        waiting = [asyncio.create_task(it.request(f"{it.rest}/in")) for _ in range(2)]
        await eventually(lambda: len(it.target.requests) == 2)
        status, headers, body = await it.request(f"{it.rest}/in")
        assert (status, headers["Retry-After"], msgspec.json.decode(body)["reason"]) == (503, "1", "requests_max")
        gate.set()
        assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200, 200]
        assert it.agent.rest.listener.statistics()["overloaded"] == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /edge-1/default/in HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", b"408"),
        (b"POST /edge-1/default/in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"408"),
        (b"POST /edge-1/default/in HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n", b"413"),
        (b"POST /edge-1/default/in HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"400"),
        (b"no http at all\r\n\r\n", b"400"),
        (b"POST /edge-1/default/in HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /edge-1/default/in\x00 HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
    ],
    ids=["slow", "endless", "huge", "header", "garbage", "negative", "nul"],
)
async def test_clients_that_misbehave(mosquitto: Mosquitto, tmp_path: Path, sent: bytes, status: bytes) -> None:
    """Each is answered and forgotten; the next good request passes."""
    patient = ListenerSettings(port=0, body_s_max=0.2)
    async with parts(mosquitto, tmp_path, to_web, rest=patient) as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.agent.rest.listener.port)
        writer.write(sent)
        assert (await reader.readline()).split()[1] == status
        writer.close()
        assert (await it.request(f"{it.rest}/in", b"1"))[0] == 201
        assert len(it.results()) == 1


async def test_a_client_that_goes_away(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Its execution ends as any other, with one result."""
    async with parts(mosquitto, tmp_path, to_web) as it:
        gate = asyncio.Event()

        async def wait(request: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response()

        it.target.handler = wait
        _, writer = await asyncio.open_connection("127.0.0.1", it.agent.rest.listener.port)
        writer.write(b"POST /edge-1/default/in HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await eventually(lambda: len(it.target.requests) == 1)
        writer.transport.abort()
        gate.set()
        assert [r.outcome for r in await it.ended()] == ["delivered"]


async def test_a_token_is_asked_for(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """401 without it or with another; its bytes are nowhere in the answer."""
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    guarded = ListenerSettings(port=0, token_file=str(token))
    async with parts(mosquitto, tmp_path, to_web, rest=guarded) as it:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            status, _, body = await it.request(f"{it.rest}/in", **headers)
            assert status == 401
            assert b"s3cret" not in body
        assert (await it.request(f"{it.rest}/in", authorization="Bearer s3cret"))[0] == 201
        assert it.agent.rest.listener.statistics()["unauthorised"] == 3


@pytest.mark.parametrize(
    ("listener", "text"),
    [
        ({"host": "0.0.0.0"}, "edge.rest.host '0.0.0.0' is not loopback: that needs edge.rest.certificate_file and"),
        ({"host": "example.org"}, "is not loopback"),
        ({"token_file": "/nowhere/token"}, "edge.rest.token_file: cannot read /nowhere/token"),
        ({"certificate_file": "/nowhere/cert"}, "edge.rest.certificate_file: /nowhere/cert"),
        ({"port": 1}, ""),
    ],
)
async def test_nothing_is_open_without_protection(
    mosquitto: Mosquitto, tmp_path: Path, listener: dict[str, object], text: str
) -> None:
    """R4: anything but loopback needs TLS and a token; an address that cannot be had is told; nothing runs then."""
    busy = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    if listener == {"port": 1}:
        listener = {"port": busy.sockets[0].getsockname()[1]}
        text = f"edge.rest: cannot listen on 127.0.0.1:{listener['port']}"
    file = tmp_path / "rules.yaml"
    file.write_text(to_web(9))
    edge = EdgeSettings(node="edge-1", rules=[str(file)], rest=ListenerSettings(**listener))  # type: ignore[arg-type]
    settings = Settings(data_dir=str(tmp_path / "data"), edge=edge)
    with pytest.raises(ConfigError) as refused:
        await Agent(settings).start()
    busy.close()
    await busy.wait_closed()
    assert text in str(refused.value)


async def test_servicebus_as_kubeedge_has_it(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """JSON with targetURL, method and payload, or the header; only URLs of rules are taken; the real status is back."""
    url = "http://cloud.example/ask?q=1"

    def written(port: int) -> str:
        return ENDPOINTS + rule(
            "r", "app", f"{{target_url: '{url}'}}", "web", f"{{resource: 'http://127.0.0.1:{port}/t'}}"
        )

    async with parts(mosquitto, tmp_path, written) as it:
        envelope = {"method": "put", "targetURL": url, "payload": {"a": 1}}
        status, headers, body = await it.request(it.servicebus, msgspec.json.encode(envelope))
        assert (status, headers["X-Target"], body) == (201, "yes", b'{"a":1}'[::-1])
        assert it.target.requests[0][0].method == "PUT"
        assert (await it.request(it.servicebus, b"raw", method="GET", target_url=url))[0] == 201
        for payload in (b"", b"[", b"{}", b'{"targetURL": 1}'):
            assert (await it.request(it.servicebus, payload))[0] == 400
        status, _, body = await it.request(it.servicebus, b"", target_url="http://other.example/")
        assert (status, msgspec.json.decode(body)["reason"]) == (403, "target_url")
        assert len(it.results()) == 2
