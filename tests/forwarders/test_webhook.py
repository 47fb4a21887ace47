"""The webhook sink: what is sent, to whom it is never sent, and what becomes of every kind of answer (P8.4, R4)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from cloud.forwarders.base import Answer, Delivered, Refused, Retry
from cloud.forwarders.webhook import WebhookSink
from cloud.settings import Settings
from cloud.settings.forward import ForwardSettings, WebhookSettings
from cloud.stores.base import ResultRow
from cloud.stores.status import RuleStatus
from common.clock import SystemClock
from common.config import load
from common.errors import ConfigError
from tests.cloud.samples import ok, open_store, status
from tests.forwarders.parts import Receiver, forwarding, key, mark
from tests.support.evil import OK, Behave, EvilServer, endless, says
from tests.support.wait import eventually

LOOPBACK = ["127.0.0.0/8"]


def told(rule: str = "overheat", version: int = 1, **more: Any) -> RuleStatus:
    """A rule's status."""
    return RuleStatus("default", rule, more.pop("uid", ""), version, success=3, fail=1, last_success=1e9, **more)


def settings(url: str, **more: Any) -> WebhookSettings:
    """Settings of a webhook on loopback."""
    return WebhookSettings(**{"url": url, "allow_http": True, "allow_networks": LOOPBACK, "timeout_s": 2.0, **more})


def hook(url: str, resolve: Any = None, name: str = "webhook:t", **more: Any) -> WebhookSink:
    """A sink that is not started."""
    return WebhookSink(name, settings(url, **more), SystemClock(), "fieldpost", resolve)


@asynccontextmanager
async def sink_to(url: str, resolve: Any = None, **more: Any) -> AsyncIterator[WebhookSink]:
    """A started sink."""
    sink = hook(url, resolve, **more)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop()


async def test_a_batch_is_cloudevents_and_one_is_an_event(tmp_path: Path) -> None:
    """Several rules are an array of CloudEvents 1.0, one is an object; ids are made of uid and version."""
    async with Receiver().running() as receiver, sink_to(receiver.url) as sink:
        assert await sink.deliver([told(uid="u1", version=7), told("other")]) == [Delivered(), Delivered()]
        assert await sink.deliver([told()]) == [Delivered()]
        (many, body), (one, single) = receiver.requests
        assert many["content-type"] == "application/cloudevents-batch+json"
        first, second = msgspec.json.decode(body)
        assert (first["id"], first["source"]) == ("u1.7", "/fieldpost/status/default/overheat")
        assert (first["specversion"], first["type"]) == ("1.0", "fieldpost.rulestatus")
        assert (first["subject"], first["time"]) == ("default/overheat", "2001-09-09T01:46:40.000Z")
        assert (first["data"]["success"], first["data"]["fail"], first["data"]["version"]) == (3, 1, 7)
        assert second["id"] == "local.1"
        assert one["content-type"] == "application/cloudevents+json"
        assert msgspec.json.decode(single)["subject"] == "default/overheat"


async def test_requests_are_signed_with_a_key_that_retries_keep(tmp_path: Path) -> None:
    """The signature is HMAC-SHA256 over id, timestamp and body with each secret of the file; the id only changes with
    what is told. The file is read anew, so a secret can be changed.
    """
    file = tmp_path / "secret"
    file.write_text("one\n")
    async with Receiver().running() as receiver, sink_to(receiver.url, secret_file=str(file)) as sink:
        receiver.answers = [web.Response(status=503)]
        assert isinstance((await sink.deliver([told()]))[0], Retry)
        await sink.deliver([told()])
        file.write_text(f"whsec_{base64.b64encode(b'two').decode()}\none")
        await sink.deliver([told(version=2)])
        heads = [head for head, _ in receiver.requests]
        assert heads[0]["webhook-id"] == heads[1]["webhook-id"] == heads[1]["idempotency-key"] != heads[2]["webhook-id"]
        for (head, body), secrets in zip(receiver.requests, ([b"one"], [b"one"], [b"two", b"one"]), strict=True):
            text = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + body
            wanted = [base64.b64encode(hmac.new(each, text, hashlib.sha256).digest()).decode() for each in secrets]
            assert head["webhook-signature"].split() == [f"v1,{each}" for each in wanted]
            assert abs(int(head["webhook-timestamp"]) - time.time()) < 60


@pytest.mark.parametrize("text", [None, "", "whsec_!!!"])
def test_a_secret_that_cannot_be_used_is_said_at_the_start(tmp_path: Path, text: str | None) -> None:
    """A missing, empty or malformed secret file is a ConfigError that names the file and not the secret."""
    file = tmp_path / "secret"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match="secret_file") as failed:
        WebhookSink("webhook:t", settings("https://x.example/", secret_file=str(file)), SystemClock(), "f")
    assert "!!!" not in str(failed.value)


STATUS: dict[str, tuple[bytes, type]] = {
    "200": (OK, Delivered),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", Delivered),
    "301": (b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", Retry),
    "307": (b"HTTP/1.1 307 No\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", Retry),
    "400": (b"HTTP/1.1 400 Bad\r\nContent-Length: 7\r\n\r\nno\x1b[2Jx", Refused),
    "401": (b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n", Refused),
    "404": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Refused),
    "408": (b"HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n", Retry),
    "429": (b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", Retry),
    "500": (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", Retry),
    "503": (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", Retry),
}


@pytest.mark.parametrize("name", STATUS)
async def test_each_answer_is_judged(name: str) -> None:
    """2xx is delivered; 408, 429, 5xx and redirects are told again, no redirect is followed; other 4xx are final."""
    answer, kind = STATUS[name]
    async with EvilServer().running() as evil, sink_to(f"http://127.0.0.1:{evil.port}/") as sink:
        evil.behave = [says(answer)]
        (found,) = await sink.deliver([told()])
        assert type(found) is kind
        assert len(evil.requests) == 1
        if name == "429":
            assert found.after_s == 7
        if not isinstance(found, Delivered):
            assert name in found.reason
            assert found.reason.isprintable()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n"
EVIL: dict[str, tuple[Behave, type]] = {
    "hangs": (endless(b"", chunk=b""), Retry),
    "hangs in its headers": (endless(b"HTTP/1.1 200 OK\r\nX-A:", chunk=b""), Retry),
    "drips its headers": (endless(b"HTTP/1.1 200 OK\r\nX-A: ", 0.05), Retry),
    "drips its body": (endless(HEAD, 0.05), Delivered),
    "10 GB": (endless(HEAD, chunk=bytes(1 << 16)), Delivered),
    "10 GB and 500": (endless(HEAD.replace(b"200 OK", b"500 NO"), chunk=bytes(1 << 16)), Retry),
    "endless headers": (endless(b"HTTP/1.1 200 OK\r\n", chunk=b"X-A: " + bytes(b"a" * 60000) + b"\r\n"), Retry),
    "closes at once": (says(b"", close=True), Retry),
    "closes in its headers": (says(b"HTTP/1.1 200 OK\r\nX-", close=True), Retry),
    "closes in its body": (says(HEAD + b"abc", close=True), Delivered),
    "no HTTP": (says(b"220 smtp ready\r\n\r\n", close=True), Retry),
}


@pytest.mark.parametrize("name", EVIL)
async def test_evil_servers_end_within_the_deadline_and_little_memory(name: str) -> None:
    """Whatever a server does, the answer is there within the deadline, with a few MB, and no connection stays open."""
    behave, kind = EVIL[name]
    async with EvilServer().running() as evil, sink_to(f"http://127.0.0.1:{evil.port}/", timeout_s=0.5) as sink:
        evil.behave = [behave]
        tracemalloc.start()
        began = time.monotonic()
        (found,) = await sink.deliver([told()])
        took, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert type(found) is kind
        assert took < 10
        assert peak < 4 << 20
        await eventually(lambda: evil.open == 0)


async def test_a_refused_batch_is_halved_until_the_guilty_is_alone() -> None:
    """One event that the receiver refuses with 400 or 422 is refused alone; a 401 is about the sender, not an event."""
    async with Receiver().running() as receiver, sink_to(receiver.url) as sink:
        statuses = [told(f"rule-{n}") for n in range(8)]
        receiver.answers = [web.Response(status=401)]
        assert {type(each) for each in await sink.deliver(statuses)} == {Refused}
        assert len(receiver.requests) == 1

        for number in (422, 422, 422, 422):  # 8, then the first 4, then its first 2, then rule-0 alone
            receiver.answers.append(web.Response(status=number))
        found = await sink.deliver(statuses)
        assert [type(each) for each in found] == [Refused] + [Delivered] * 7
        assert set(receiver.rules) == {f"default/rule-{n}" for n in range(1, 8)}


async def test_what_was_answered_before_the_deadline_stays_answered() -> None:
    """A slow receiver that refuses one of four still gets on: only what it did not answer is told again."""
    async with Receiver().running() as receiver, sink_to(receiver.url, timeout_s=0.5) as sink:
        receiver.answers = [web.Response(status=422) for _ in range(3)]  # 4, then the first 2, then rule-0 alone
        take = receiver._take

        async def hangs_at_the_last(request: web.Request) -> web.Response:
            if len(receiver.requests) == 4:
                await asyncio.Event().wait()
            return await take(request)

        receiver.handler = hangs_at_the_last
        found = await sink.deliver([told(f"rule-{n}") for n in range(4)])
        assert [type(each) for each in found] == [Refused, Delivered, Retry, Retry]


SPELLINGS = [
    "http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://0x7f000001:{port}/", "http://2130706433:{port}/",
    "http://[::1]:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://169.254.169.254/latest/meta-data/",
    "http://0/", "http://１２７.0.0.1:{port}/", "http://127。0。0。1:{port}/", "http://[fe80::1%25lo]/",
]  # fmt: skip


@pytest.mark.parametrize("url", SPELLINGS)
async def test_forbidden_hosts_are_refused_before_anything_is_sent(url: str) -> None:
    """No spelling of loopback or metadata addresses gets through: all are refused before a connect."""
    async with EvilServer().running() as evil:
        evil.behave = [says(OK)]
        try:
            async with sink_to(url.format(port=evil.port), allow_networks=[]) as sink:
                (found,) = await sink.deliver([told()])
        except ConfigError as exc:
            assert "allow_networks" in str(exc)  # noqa: PT017
        else:
            assert isinstance(found, Retry)
        assert evil.connections == 0


async def test_a_name_is_checked_at_every_connection_and_pinned() -> None:
    """A name that means loopback is refused; one that changes between two questions is connected where it was checked,
    because it is asked once; one of several addresses that is forbidden refuses all.
    """
    asked: list[str] = []
    answers: list[list[str]] = []

    async def resolve(host: str, port: int) -> list[tuple[int, str]]:
        asked.append(host)
        return [(int(socket.AF_INET), text) for text in answers.pop(0)]

    async with EvilServer().running() as evil:
        evil.behave = [says(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), close=True)]
        url = f"http://receiver.example:{evil.port}/"
        async with sink_to(url, resolve, allow_networks=["127.0.0.1/32"]) as sink:
            answers += [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.1", "10.0.0.1"], ["::ffff:127.0.0.3"], []]
            assert await sink.deliver([told()]) == [Delivered()]
            assert (asked, len(answers), evil.connections) == (["receiver.example"], 4, 1)
            for _ in range(3):
                (found,) = await sink.deliver([told()])
                assert isinstance(found, Retry)
                assert "refused" in found.reason
            (found,) = await sink.deliver([told()])
            assert isinstance(found, Retry)
            assert (evil.connections, len(asked)) == (1, 5)


async def test_a_name_server_that_hangs_is_within_the_deadline() -> None:
    """Resolving counts towards the one deadline."""

    async def resolve(host: str, port: int) -> list[tuple[int, str]]:
        await eventually(lambda: False, timeout=60)
        return []

    async with sink_to("http://receiver.example/", resolve, timeout_s=0.2) as sink:
        began = time.monotonic()
        (found,) = await sink.deliver([told()])
        assert isinstance(found, Retry)
        assert "within 0.2 s" in found.reason
        assert time.monotonic() - began < 10


WRONG: dict[str, dict[str, Any]] = {
    "use https": {"url": "http://x.example/"},
    "not https://HOST": {"url": "ftp://x.example/"},
    "user or password": {"url": "https://u:p@x.example/"},
    "allow_networks": {"url": "https://x.example/", "allow_networks": ["10.0.0.1/8"]},
    "timeout_s": {"url": "https://x.example/", "timeout_s": 59},
    "unknown field": {"url": "https://x.example/", "secret": "s"},
    "missing required field `url`": {},
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_settings_say_what_is_wrong(tmp_path: Path, text: str) -> None:
    """A webhook's settings that cannot work are one line that names file, line, key and reason."""
    file = tmp_path / "fieldpost.yaml"
    file.write_text(msgspec.yaml.encode({"cloud": {"forward": {"webhooks": {"w": WRONG[text]}}}}).decode())
    with pytest.raises(ConfigError, match=r"cloud\.forward.*" + text):
        load(Settings, file=str(file), environ={}, overrides={})
    with pytest.raises(ValueError, match="no name"):
        ForwardSettings(webhooks={"A b": WebhookSettings(url="https://x.example/")})


async def test_single_results_follow_a_durable_mark(tmp_path: Path) -> None:
    """With ``tell: results`` every single result comes once, in order, over restarts; a new webhook begins with what
    comes after it was set.
    """
    async with open_store(tmp_path) as store, Receiver().running() as receiver:
        await store.commit([status(1, [ok(source_id="before")])])
        for start in (2, 5):
            async with forwarding(store, results=[hook(receiver.url, tell="results", batch_max=4)]) as it:
                for sequence in range(start, start + 3):
                    await store.commit([status(sequence, [ok(source_id=f"{sequence}-{n}") for n in range(3)])])
                    it.wake()
                await eventually(lambda it=it: it.rows()[0].delivered == 9)
        await store.commit([status(8, [ok(source_id=f"8-{n}") for n in range(3)])])  # while nobody forwards
        async with forwarding(store, results=[hook(receiver.url, tell="results")]) as it:
            await eventually(lambda: it.rows()[0].delivered == 3 and not it.rows()[0].lag_s)
            assert it.rows()[0].missed == 0
        seen = [event["data"] for _, body in receiver.requests for event in _events(body)]
        assert [each["source_id"] for each in seen] == [f"{s}-{n}" for s in range(2, 9) for n in range(3)]
        assert set(receiver.ids.values()) == {1}


def _events(body: bytes) -> list[Any]:
    found = msgspec.json.decode(body)
    return found if isinstance(found, list) else [found]


class _Picky:
    name, batch_max, interval_s, rate_max = "picky", 10, 0.0, 0.0

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.answers: dict[str, list[Answer]] = {}

    async def start(self) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Nothing."""

    async def deliver(self, rows: Sequence[ResultRow]) -> Sequence[Answer]:
        """Note ids and answer as set."""
        self.seen += [row.source_id for row in rows]
        return [(self.answers.get(row.source_id) or [Delivered()]).pop(0) for row in rows]


async def test_the_mark_stops_before_what_is_told_again_and_passes_what_is_refused(tmp_path: Path) -> None:
    """A result that is to be told again, and those after it, come again; a refused one does not."""
    sink = _Picky()
    sink.answers = {"b": [Refused("400")], "c": [Retry("503"), Retry("503")]}
    async with open_store(tmp_path) as store, forwarding(store, results=[sink]) as it:
        await store.commit([status(1, [ok(source_id=name) for name in "abcd"])])
        it.wake()
        await eventually(lambda: it.rows()[0].delivered >= 3)
        assert sink.seen == [*"abcd", *"cd", *"cd"]


async def test_a_hanging_webhook_delays_no_other_sink(tmp_path: Path) -> None:
    """While one webhook hangs, another has every change; the first has them when it works again."""
    async with EvilServer().running() as evil, Receiver().running() as receiver, open_store(tmp_path) as store:
        evil.behave = [endless(b"", chunk=b"")]
        slow = hook(f"http://127.0.0.1:{evil.port}/", name="webhook:slow", timeout_s=0.5, interval_s=0)
        quick = hook(receiver.url, name="webhook:quick", interval_s=0)
        async with forwarding(store, slow, quick) as it:
            for version in range(1, 6):
                await mark(store, key(), at=time.time())
                it.wake()
                await eventually(
                    lambda version=version: receiver.rules.get("default/overheat", {}).get("version") == version
                )
            await eventually(lambda: it.rows()[0].last_error and it.rows()[0].pending == 1)
            evil.behave = [says(OK)]
            await eventually(lambda: it.rows()[0].delivered == 1)
