"""Every call to the API server ends within its deadline, whatever the server does (reliability R2, R3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from common.clock import SystemClock
from common.errors import KubeError
from common.kube.access import Access
from common.kube.client import KubeClient
from common.kube.resources import RULES
from tests.kubernetes.fakeapi import FakeApi
from tests.kubernetes.samples import rule

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[KubeClient]:
    """A client whose calls end after a second, and a server that answers as it likes."""
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = KubeClient(Access(f"http://127.0.0.1:{runner.addresses[0][1]}"), SystemClock(), timeout_s=1)
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


async def drip(request: web.Request) -> web.StreamResponse:
    """A byte now and then, so that a limit per read never ends it."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def text(request: web.Request) -> web.StreamResponse:
    """What a proxy in front of the server may say."""
    return web.Response(status=502, text="<html>bad gateway</html>")


async def rubbish(request: web.Request) -> web.StreamResponse:
    """200, and no JSON."""
    return web.Response(text="[" * 100_000)


async def elsewhere(request: web.Request) -> web.StreamResponse:
    """A redirect, which would carry the token to another host."""
    assert request.path == "/x", "it was followed"
    return web.Response(status=302, headers={"Location": "/y"})


async def huge(request: web.Request) -> web.StreamResponse:
    """More than anything that is asked for."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(100):
        await response.write(b" " * 65536)
    return response


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (drip, "did not answer in time"),
        (text, "bad gateway"),
        (rubbish, "the answer is not JSON"),
        (elsewhere, "the API server answered 302"),
        (huge, "more than 1000000 bytes"),
    ],
)
async def test_a_call_ends(answer: Answer, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error that says what was wrong, soon."""
    monkeypatch.setattr("common.kube.client.ANSWER_BYTES_MAX", 1_000_000)
    async with server(answer) as client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(KubeError) as raised:
            await client.get("/x")
        assert says in str(raised.value)
        assert not raised.value.permanent
        assert asyncio.get_running_loop().time() - began < 3


async def test_nobody_listens() -> None:
    """Code 0: it could not be reached."""
    client = KubeClient(Access("http://127.0.0.1:1"), SystemClock(), timeout_s=1)
    with pytest.raises(KubeError) as raised:
        await client.get("/x")
    assert raised.value.code == 0
    assert client.statistics()["unreachable"] == 1
    await client.close()


async def test_a_watch_ends_when_the_server_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is dead, or a server that never ends the watch, is left a while after it should have ended."""
    monkeypatch.setattr("common.kube.client.WATCH_GRACE_S", 0.1)
    async with server(drip) as client:
        with pytest.raises(KubeError, match="did not answer in time"):
            _ = [event async for event in client.watch("/x", "1", 0.2)]


async def test_an_event_of_a_watch_may_be_large_and_come_in_pieces() -> None:
    """Larger than any buffer, cut anywhere, several in one piece."""
    events = [{"type": "ADDED", "object": {"data": "x" * size}} for size in (10, 300_000, 3, 70_000)]
    whole = b"\n".join(json.dumps(event).encode() for event in events) + b"\n"

    async def pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for at in range(0, len(whole), 50_001):
            await response.write(whole[at : at + 50_001])
        return response

    async with server(pieces) as client:
        assert [event async for event in client.watch("/x", "1", 2)] == events


async def test_what_the_server_says_is_in_the_error(api: FakeApi, client: KubeClient) -> None:
    """Status, reason, text; whether a 404 is about the object or its type; what can never work."""
    with pytest.raises(KubeError) as missing:
        await client.get(RULES.path("default", "none"))
    assert (missing.value.code, missing.value.reason, missing.value.named) == (404, "NotFound", True)
    with pytest.raises(KubeError) as unknown:
        await client.get("/apis/rules.kubeedge.io/v1/nothings/none")
    assert (unknown.value.code, unknown.value.named) == (404, False)
    with pytest.raises(KubeError) as invalid:
        await client.create(RULES.collection("default"), rule(results="some"))
    assert invalid.value.permanent
    assert "spec.results: Unsupported value" in str(invalid.value)
