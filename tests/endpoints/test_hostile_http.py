"""An HTTP listener alone against hostile bytes: answered as RFC 9110 and 9112 say, and nothing is logged (F3)."""

from __future__ import annotations

import gzip
import logging

import pytest

from common.clock import SystemClock
from edge.endpoints.http_request import Request, message_of
from edge.endpoints.http_server import HttpListener
from edge.endpoints.paths import Paths, Pattern
from edge.endpoints.replies import Reply, problem
from edge.settings import ListenerSettings
from tests.endpoints.test_connections import ended, opened

POST = b"POST /in/1 HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
EMPTY = b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
ZIPPED = gzip.compress(bytes(1 << 22))
CASES: dict[str, tuple[bytes, int]] = {
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi", 400),
    "a list of lengths": (POST + b"Content-Length: 2, 2\r\n\r\nhi", 400),
    "length and chunks": (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "an encoding in between": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "no such encoding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "garbage for a chunk": (CHUNKED + b"zz\r\nhi\r\n0\r\n\r\n", 400),
    "a chunk below nothing": (CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n", 400),
    "a chunk beyond counting": (CHUNKED + b"f" * 17 + b"\r\nhi\r\n", 400),
    "an extension, a trailer": (CHUNKED + b"2;a=b\r\nhi\r\n0\r\nX: y\r\n\r\n", 200),
    "many headers": (POST + b"".join(b"X-%d: y\r\n" % n for n in range(500)) + b"\r\n", 400),
    "a long line": (b"POST /" + b"a" * 70_000 + EMPTY, 400),
    "a folded header": (POST + b"X: a\r\n b\r\n\r\n", 400),
    "a blank before the colon": (POST + b"X : a\r\n\r\n", 400),
    "a NUL in a header": (POST + b"X: a\0b\r\n\r\n", 400),
    "two hosts": (POST + b"Host: b\r\nContent-Length: 0\r\n\r\n", 400),
    "no host": (b"POST /in/1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 200, 400),
    "another version": (b"POST /in/1 HTTP/9.9\r\nHost: a\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a tunnel": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "the server itself": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "a URL": (b"POST http://b.example/in/1" + EMPTY, 200),
    "a URL without a path": (b"POST HTTP://b.example?x=/in/1" + EMPTY, 404),
    "a way up": (b"POST /in/../in/1" + EMPTY, 404),
    "half an escape": (b"POST /in/%4" + EMPTY, 400),
    "no escape": (b"POST /in/%zz" + EMPTY, 400),
    "an escaped NUL": (b"POST /in/%00" + EMPTY, 400),
    "escaped bytes that are no text": (b"POST /in/%ff" + EMPTY, 400),
    "an expectation that is none": (POST + b"Expect: 42\r\nContent-Length: 0\r\n\r\n", 200),
    "another protocol": (POST + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", 200),
    "a body that is not what it says": (POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi", 200),
    "a bomb": (POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED, 200),
}


@pytest.mark.parametrize("name", CASES)
async def test_hostile_bytes(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """One answer with its status; what is no request never reaches a rule, and is counted; no line in the log."""
    caplog.set_level(logging.WARNING)
    sent, status = CASES[name]
    taken: list[Request] = []
    paths = Paths([Pattern("/in/{line}", frozenset(), None)])

    def route(request: Request) -> Reply:
        try:
            found = paths.find(request.path, request.method)
        except ValueError as exc:
            return problem(400, "path", str(exc))
        if found is None:
            return problem(404, "no_rule")
        taken.append(request)
        return Reply(200)

    listener = HttpListener("rest", ListenerSettings(port=0), route, lambda *_: None, SystemClock())
    await listener.start()
    try:
        async with opened(listener, sent) as (reader, _):
            answer = await reader.readuntil(b"\r\n\r\n")
            await listener.stop()
            answer += await ended(reader)
    finally:
        await listener.stop()
    assert answer.split(b" ", 2)[1] == b"%d" % status
    assert answer.count(b"HTTP/1.") == 1
    assert len(taken) == (status == 200)
    found = listener.statistics()
    assert found["malformed"] + found["requests"] >= 1
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_body_stays_as_it_came() -> None:
    """F3: payloads are bytes end to end, compressed ones too; the header that says so is there."""
    taken: list[Request] = []

    def route(request: Request) -> Reply:
        taken.append(request)
        return Reply(200)

    listener = HttpListener("rest", ListenerSettings(port=0), route, lambda *_: None, SystemClock())
    await listener.start()
    async with opened(listener, CASES["a bomb"][0]) as (reader, _):
        assert b" 200 " in await reader.readline()
    await listener.stop()
    assert (taken[0].body, taken[0].headers["content-encoding"]) == (ZIPPED, "gzip")


@pytest.mark.parametrize(("told", "hops"), [("7", 7), ("9999", 999), ("99, 0", 99), ("-5", 0), ("x", 0), ("٣", 0)])
def test_a_hop_count_that_lies(told: str, hops: int) -> None:
    """More digits, or a second header, make no smaller number of it."""
    request = Request("POST", "/in", "", {"fieldpost-hops": told}, b"")
    assert message_of(request, "/in", {}, SystemClock()).hops == hops
