"""HTTP targets that misbehave: each ends in one honest result, and leaves nothing behind (reliability R3 "sinks")."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.errors import ConfigError
from edge.endpoints.base import Rendering
from edge.endpoints.http_target import HttpClient, HttpTarget
from edge.messages import Answer, Delivered, Delivery, FlowMessage, Retry
from edge.settings import HttpClientSettings
from tests.endpoints.parts import Parts, endpoint, parts, rule
from tests.messaging.test_transport_security import make_authority, make_certificate
from tests.support.brokers import Mosquitto
from tests.support.evil import OK, Behave, EvilServer, endless, says
from tests.support.wait import eventually


def manifests(url: str, timeout: str = "1s", retry: str = "") -> str:
    """A rule from rest to ``url``."""
    extra = f"  timeout: {timeout}\n" + (f"  retry: {{{retry}}}\n" if retry else "")
    return endpoint("web", "rest") + rule("r", "web", "{path: /in}", "web", f"{{resource: '{url}'}}", extra)


@contextlib.asynccontextmanager
async def against(
    broker: Mosquitto, tmp_path: Path, *behave: Behave, timeout: str = "1s", retry: str = ""
) -> AsyncIterator[tuple[Parts, EvilServer]]:
    """An agent whose rule calls a server that behaves so, request after request; the last one for all further."""
    async with EvilServer().running() as evil:
        evil.behave = list(behave)
        text = manifests(f"http://127.0.0.1:{evil.port}/t", timeout, retry)
        async with parts(broker, tmp_path, lambda port: text) as it:
            yield it, evil


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVIL: dict[str, tuple[Behave, str, int]] = {
    "never answers": (endless(b"", chunk=b""), "target_timeout", 504),
    "hangs after headers": (endless(HEAD, chunk=b""), "target_timeout", 504),
    "hangs in headers": (endless(b"HTTP/1.1 200 OK\r\nX-A:", chunk=b""), "target_timeout", 504),
    "drips its body": (endless(HEAD, 0.1), "target_timeout", 504),
    "drips its headers": (endless(b"HTTP/1.1 200 OK\r\nX-A: ", 0.1), "target_timeout", 504),
    "10 GB": (endless(HEAD, chunk=bytes(1 << 16)), "target_answer_too_large", 502),
    "10 GB in chunks": (
        endless(CHUNKED, chunk=b"10000\r\n" + bytes(1 << 16) + b"\r\n"),
        "target_answer_too_large",
        502,
    ),
    "closes at once": (says(b"", close=True), "target_unreachable", 502),
    "closes mid-way": (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", close=True), "target_unreachable", 502),
    "huge header": (says(b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 100_000 + b"\r\n\r\n"), "target_unreachable", 502),
    "endless headers": (
        endless(b"HTTP/1.1 200 OK\r\n", chunk=b"X-A: " + b"x" * 4000 + b"\r\n"),
        "target_unreachable",
        502,
    ),
    "garbage": (says(b"\x00\xff no HTTP at all\r\n\r\n", close=True), "target_unreachable", 502),
    "bad length": (says(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "target_unreachable", 502),
    "bad chunk": (says(CHUNKED + b"zz\r\n"), "target_unreachable", 502),
    "status 0": (says(b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n"), "target_unreachable", 502),
    "status 999": (says(b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n"), "target_unreachable", 502),
    "upgrade": (says(b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), "target_unreachable", 502),
    "redirect": (says(b"HTTP/1.1 307 Go\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"),
                 "target_status_307", 307),
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
async def test_one_honest_result(mosquitto: Mosquitto, tmp_path: Path, name: str) -> None:
    """FAIL with its reason, the right status for who waits, within the rule's time; the next good answer passes."""
    behave, reason, status = EVIL[name]
    async with against(mosquitto, tmp_path, behave, says(OK)) as (it, evil):
        tracemalloc.start()
        assert (await it.request(f"{it.rest}/in", b"1"))[0] == status
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 << 20, "the answer was kept in memory"
        (result,) = await it.ended()
        assert (result.outcome, result.reason, result.attempts) == ("failed", reason, 1)
        assert 0 < len(result.error.detail) <= 1024
        assert result.error.detail.isprintable()
        assert len(evil.requests) == 1, "followed or repeated without being asked"
        assert (await it.request(f"{it.rest}/in", b"1"))[2] == b"ok"


async def test_retry_after_is_honoured(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """429 with Retry-After: 1 is tried again after a second, not after the rule's own backoff."""
    busy = b"HTTP/1.1 429 Slow down\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
    async with against(mosquitto, tmp_path, says(busy), says(OK), timeout="10s", retry="attempts: 2, backoff: 1ms") as (
        it,
        _,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await it.request(f"{it.rest}/in"))[2] == b"ok"
        assert loop.time() - began >= 1
        (result,) = await it.ended()
        assert (result.outcome, result.attempts) == ("delivered", 2)


async def test_a_date_to_retry_after_is_honoured(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """As a date it is meant by the target's own clock, however wrong that is: here three seconds behind its Date."""
    stamps = [formatdate(at, usegmt=True).encode() for at in (1_000_000_003, 1_000_000_000)]
    busy = b"HTTP/1.1 503 No\r\nRetry-After: %b\r\nDate: %b\r\nContent-Length: 0\r\n\r\n" % tuple(stamps)
    async with against(mosquitto, tmp_path, says(busy), timeout="2s", retry="attempts: 2, backoff: 1ms") as (it, evil):
        assert (await it.request(f"{it.rest}/in"))[0] == 503
        (result,) = await it.ended()  # three seconds are more than the rule has
        assert (result.reason, result.attempts, len(evil.requests)) == ("target_status_503", 1, 1)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_nothing_is_sent_twice_unasked(mosquitto: Mosquitto, tmp_path: Path, method: str) -> None:
    """A kept connection that ends without an answer: the target may have done it, so only ``retry`` sends it again."""
    async with against(mosquitto, tmp_path, says(OK), says(b"", close=True), says(OK)) as (it, evil):
        assert (await it.request(f"{it.rest}/in", b"1", method))[0] == 200
        assert (await it.request(f"{it.rest}/in", b"1", method))[0] == 502
        assert [(r.reason, r.attempts) for r in await it.ended(2)] == [("", 1), ("target_unreachable", 1)]
        assert it.results()[1].error.detail == "ServerDisconnectedError: Server disconnected"
        assert (len(evil.requests), evil.connections) == (2, 1)


async def delivered(url: str, ca_file: str) -> Delivery:
    """What a target alone says of one delivery."""
    client = HttpClient(HttpClientSettings(ca_file=ca_file), SystemClock())
    target, said = HttpTarget(client, url, {}, Rendering("edge-1", "default", "r")), asyncio.Future[Delivery]()
    target.deliver(FlowMessage(b"1"), said.set_result)
    try:
        return await said
    finally:
        target.close()
        await client.close()


async def test_no_encoding_is_asked_for_that_nobody_named() -> None:
    """Who waits for the answer may not unpack it; and a target is not told which version of what calls it."""
    async with EvilServer().running() as evil:
        evil.behave = [says(OK)]
        await delivered(f"http://127.0.0.1:{evil.port}/t", "")
        head = evil.requests[0].lower()
    assert b"accept-encoding: identity\r\n" in head
    assert b"user-agent: fieldpost\r\n" in head


async def test_certificates_are_verified(tmp_path: Path) -> None:
    """One of an authority that nobody named, and one for another host: not a byte of the message is sent."""
    authority = make_authority(tmp_path, "authority")
    ours, other = make_certificate(authority, "ours", "IP:127.0.0.1"), make_certificate(authority, "other")
    for certificate, ca_file, passes in ((ours, authority, True), (ours, "", False), (other, authority, False)):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        async with EvilServer().running(tls=context) as evil:
            evil.behave = [says(OK)]
            said = await delivered(f"https://127.0.0.1:{evil.port}/t", str(ca_file))
            assert len(evil.requests) == passes
        if passes:
            assert said == Delivered(Answer(200, (), b"ok"))
        else:
            assert isinstance(said, Retry)
            assert said.reason == "target_unreachable"
            assert "certificate" in said.detail


def test_authorities_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    """At the start, with the setting's name."""
    with pytest.raises(ConfigError, match=r"edge\.http\.ca_file: .*nowhere"):
        HttpClient(HttpClientSettings(ca_file=str(tmp_path / "nowhere")), SystemClock())


async def test_a_wait_beyond_the_timeout_is_not_waited(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """429 with a Retry-After behind the rule's timeout ends at once, as what it is, with the target's own answer."""
    busy = b"HTTP/1.1 429 Slow down\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"
    async with against(mosquitto, tmp_path, says(busy), timeout="20s", retry="attempts: 3") as (it, evil):
        async with asyncio.timeout(5):
            status, headers, _ = await it.request(f"{it.rest}/in")
        assert (status, headers["Retry-After"]) == (429, "30")
        (result,) = await it.ended()
        assert (result.reason, result.attempts, len(evil.requests)) == ("target_status_429", 1, 1)


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
    ],
    ids=["503", "garbage", "cut"],
)
async def test_a_second_try(mosquitto: Mosquitto, tmp_path: Path, first: bytes) -> None:
    """What may succeed later is tried again as the rule says: one result, with Attempts 2."""
    async with against(
        mosquitto, tmp_path, says(first, close=True), says(OK), timeout="10s", retry="attempts: 3, backoff: 10ms"
    ) as (it, evil):
        assert (await it.request(f"{it.rest}/in"))[2] == b"ok"
        (result,) = await it.ended()
        assert (result.outcome, result.attempts, len(evil.requests)) == ("delivered", 2, 2)


async def test_a_connection_is_kept(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """50 requests, one connection; refusals with a body keep it, too."""
    async with against(mosquitto, tmp_path, says(OK)) as (it, evil):
        for number in range(50):
            evil.behave = [says(OK if number % 5 else b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno")]
            assert (await it.request(f"{it.rest}/in", b"1"))[0] == (200 if number % 5 else 404)
        assert (len(evil.requests), evil.connections) == (50, 1)


async def test_a_unix_socket(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """A servicebus target behind a socket: called there, over one connection; away, it is unreachable."""
    socket = tmp_path / "app.sock"
    text = endpoint("web", "rest") + endpoint("app", "servicebus", f"{{socket: '{socket}'}}")
    text += rule("r", "web", "{path: /in}", "app", "{path: '/t/{rule}'}")
    async with parts(mosquitto, tmp_path, lambda port: text) as it:
        assert (await it.request(f"{it.rest}/in"))[0] == 502
        async with EvilServer().running(str(socket)) as evil:
            evil.behave = [says(OK)]
            for _ in range(10):
                assert (await it.request(f"{it.rest}/in", b"1"))[2] == b"ok"
            assert evil.connections == 1
            assert evil.requests[0].startswith(b"POST /t/r HTTP/1.1\r\nHost: localhost\r\n")
        assert [r.reason for r in await it.ended(11)] == ["target_unreachable", *[""] * 10]


async def test_nothing_is_left_after_timeouts(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """200 requests into a target that hangs: afterwards as many tasks as before, no connection, nothing running."""
    async with against(mosquitto, tmp_path, endless(b"", chunk=b""), timeout="300ms") as (it, evil):
        await it.request(f"{it.rest}/in")
        await eventually(lambda: not evil.open)
        tasks = len(asyncio.all_tasks())
        answers = await asyncio.gather(*(it.request(f"{it.rest}/in", b"1") for _ in range(200)))
        assert {status for status, _, _ in answers} == {504}
        await eventually(lambda: not evil.open)
        await it.http.close()  # the test's own connections have tasks in the listener
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        assert {r.reason for r in await it.ended(201)} == {"target_timeout"}
        assert it.agent.rules.statistics().get("running", 0) == 0


async def test_a_hanging_target_takes_no_connections_of_others(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Two rules on one host, two connections each: while one path hangs, the other rule's requests all pass."""
    async with EvilServer().running() as evil:

        async def by_path(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            hang = evil.requests[-1].startswith(b"POST /slow")
            await (endless(b"", chunk=b"") if hang else says(OK))(reader, writer)

        evil.behave = [by_path]
        text = endpoint("web", "rest") + "".join(
            rule(name, "web", f"{{path: /{name}}}", "web", f"{{resource: 'http://127.0.0.1:{evil.port}/{name}'}}")
            for name in ("slow", "fast")
        )
        few = HttpClientSettings(connections_per_rule_max=2)
        async with parts(mosquitto, tmp_path, lambda port: text, http=few) as it:
            hanging = [asyncio.create_task(it.request(f"{it.rest}/slow")) for _ in range(10)]
            await eventually(lambda: evil.open == 2)
            for _ in range(20):
                assert (await it.request(f"{it.rest}/fast"))[2] == b"ok"
            assert not any(task.done() for task in hanging)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            it.agent.rules.drain = lambda: asyncio.sleep(0)  # type: ignore[method-assign]  # do not wait for them
