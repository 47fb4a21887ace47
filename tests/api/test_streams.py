"""Server-sent events: live results, resumed without a gap, for a bounded number of readers (experience U5)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.settings import StoreSettings
from common.errors import StorageError
from tests.api.served import VIEWER, Served, served
from tests.cloud.samples import bad
from tests.support.wait import eventually


class Events:
    """What a reader has got: rows by their event id, comments, and the raw answer."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.rows, self.comments = answer, dict[int, Any](), 0
        self.ended = False

    async def read(self) -> None:
        """Read until the stream ends."""
        number = 0
        async for line in self.answer.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                number = int(value)
            elif name == "data":
                self.rows[number] = msgspec.json.decode(value)
            elif line.startswith(b":"):
                self.comments += 1
        self.ended = True


@asynccontextmanager
async def _watching(api: Served, query: str = "", **headers: str) -> AsyncIterator[Events]:
    sent = {"Authorization": f"Bearer {VIEWER}", **headers}
    async with api.session.get(f"{api.url}/api/v1/results/stream{query}", headers=sent) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = Events(answer)
        task = asyncio.create_task(events.read())
        try:
            yield events
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_reader_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    """Live results come as they are committed, filtered; with Last-Event-ID exactly those come that are missing."""
    async with served(tmp_path) as api:
        await api.results(1, 1)
        async with _watching(api) as events:
            await eventually(lambda: api.counts()["watching"] == 1 and api.controller._operations._watchers)
            await api.results(2, 2)
            await eventually(lambda: len(events.rows) == 2)
            assert [row["source_id"] for row in events.rows.values()] == ["m2", "m3"]
            assert all(row["id"] == number for number, row in events.rows.items())
            last = max(events.rows)
        await eventually(lambda: api.counts()["watching"] == 0 and not api.controller._operations._watchers)
        await api.results(4, 3)
        async with _watching(api, **{"Last-Event-ID": str(last)}) as events:
            await eventually(lambda: len(events.rows) == 3)
            assert [row["source_id"] for row in events.rows.values()] == ["m4", "m5", "m6"]
        async with _watching(api, "?since=0&status=FAIL") as events:
            await api.results(7, 1, fail=True)
            await eventually(lambda: events.rows)
            assert [row["source_id"] for row in events.rows.values()] == ["m7"]


async def test_streams_are_bounded_and_say_that_they_live(tmp_path: Path) -> None:
    """Above watchers_max a stream is 503; a silent one sends comments; all end when the controller stops."""
    async with served(tmp_path, watchers_max=1, heartbeat_s=0.05) as api:
        async with _watching(api) as events:
            answer = await api.ask("GET", "/results/stream")
            assert answer.status == 503
            assert "watchers_max" in answer.json()["detail"]
            await eventually(lambda: events.comments >= 2)
            assert api.controller.api is not None
            await api.controller.api.stop()
            await eventually(lambda: events.ended)
        assert api.counts()["streams_refused"] == 1


async def test_a_stream_ends_when_the_store_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted and said in one line, gives its place back, and is no fault of the API's."""

    async def away(**which: Any) -> list[Any]:
        raise StorageError("the database is away")

    async with served(tmp_path) as api:
        async with _watching(api) as events:
            await eventually(lambda: api.controller._operations._watchers)
            monkeypatch.setattr(api.controller.store, "results", away)
            await eventually(lambda: api.counts()["streams_broken"] == 1)
            await eventually(lambda: api.counts()["watching"] == 0)
        assert (api.counts()["faults"], events.rows) == (0, {})


async def test_a_slow_reader_is_cut_off(tmp_path: Path) -> None:
    """A reader that takes nothing is cut off and counted once its time is over; it gives back its place, and another
    reader meanwhile gets every row.
    """
    many, each = 40, 50
    store = StoreSettings(ring_rule_max=10_000, ring_rate_max=10_000, ring_rate_total_max=10_000)
    async with served(tmp_path, cloud={"store": store}, write_s_max=0.3, watchers_max=2) as api:
        for sequence in range(1, many + 1):
            await api.node.results(sequence, [bad(detail="x" * 2000)] * each)
        await eventually(lambda: api.through() == many)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            await asyncio.get_running_loop().sock_connect(slow, ("127.0.0.1", api.port))
            head = f"GET /api/v1/results/stream?since=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {VIEWER}\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(slow, head.encode())
            await eventually(lambda: api.counts()["watching"] == 1)
            async with _watching(api, "?since=0") as events:
                await eventually(lambda: len(events.rows) == many * each)
                await eventually(lambda: api.counts()["streams_slow"] == 1)
                await eventually(lambda: api.counts()["watching"] == 1)
