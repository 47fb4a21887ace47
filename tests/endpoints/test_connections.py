"""An HTTP listener alone, against clients that hold connections: bounded in number and in time, and counted (F3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.clock import SystemClock
from edge.endpoints.http_server import HttpListener
from edge.endpoints.replies import Reply
from edge.settings import ListenerSettings
from tests.support.wait import eventually

GOOD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@asynccontextmanager
async def listening(body: bytes = b"ok", **settings: float) -> AsyncIterator[HttpListener]:
    """A listener that answers 200 to everything."""
    made = ListenerSettings(port=0, **settings)  # type: ignore[arg-type]
    listener = HttpListener("rest", made, lambda request: Reply(200, (), body), lambda *_: None, SystemClock())
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


@asynccontextmanager
async def opened(
    listener: HttpListener, sent: bytes = b""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which ``sent`` was written."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    try:
        writer.write(sent)
        yield reader, writer
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side closes."""
    got = b""
    try:
        async with asyncio.timeout(5):
            while part := await reader.read(1 << 16):
                got += part
    except ConnectionError:
        pass
    return got


async def test_connections_are_bounded() -> None:
    """One too many is closed at once and counted; when another ends, there is room again."""
    async with listening(connections_max=2) as listener, opened(listener):
        async with opened(listener):
            await eventually(lambda: listener.statistics()["connections"] == 2)
            async with opened(listener, GOOD) as (reader, _):
                assert await ended(reader) == b""
            assert listener.statistics()["connections_refused"] == 1
        await eventually(lambda: listener.statistics()["connections"] == 1)
        async with opened(listener, GOOD) as (reader, _):
            assert b" 200 " in await reader.readline()


@pytest.mark.parametrize(
    ("sent", "dripped", "answers"),
    [(b"", b"", 0), (b"GET / HTTP/1.1\r\nX: ", b"y", 0), (GOOD, b"", 1), (GOOD + b"GET / HTTP/1.1\r\nX: ", b"y", 1)],
    ids=["silent", "drips", "idle", "drips the second"],
)
async def test_a_slow_head_ends_the_connection(sent: bytes, dripped: bytes, answers: int) -> None:
    """Nothing, or a byte now and then, at the beginning or behind an answer: closed in time, and counted."""
    async with listening(idle_s_max=0.15) as listener, opened(listener, sent) as (reader, writer):

        async def drip() -> None:
            while dripped:
                writer.write(dripped)
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert (await ended(reader)).count(b"HTTP/1.1 200") == answers
        dripping.cancel()
        found = listener.statistics()
        assert (found["connections"], found["connections_slow"]) == (0, 1)


async def test_a_reader_that_does_not_read_is_let_go() -> None:
    """An answer that nobody takes holds its connection no longer than silence would."""
    async with listening(b"x" * (32 << 20), idle_s_max=0.2) as listener, opened(listener, GOOD) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: listener.statistics()["connections_slow"] == 1)
        await eventually(lambda: listener.statistics()["connections"] == 0)


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    """Many heads in one segment: each has its answer, on the one connection."""
    last = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with listening() as listener, opened(listener, GOOD * 40 + last) as (reader, _):
        assert (await ended(reader)).count(b"HTTP/1.1 200") == 41
        assert listener.statistics()["requests"] == 41
