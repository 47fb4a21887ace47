"""The local control socket (architecture decision 9a): requests, streams, limits, and who may hold a path."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common import control
from common.control import ControlServer, call, socket_path, stream
from common.errors import ConfigError, ControlError
from tests.support.wait import eventually


class Named(msgspec.Struct):
    name: str


class Operations:
    """Operations that tell what became of them."""

    def __init__(self) -> None:
        self.streams_open = 0
        self.release = asyncio.Event()

    async def echo(self, args: dict[str, Any]) -> Any:
        return args

    async def struct(self, args: dict[str, Any]) -> Any:
        return [Named("a")]

    async def bad(self, args: dict[str, Any]) -> Any:
        raise ConfigError("no such rule", file="rules.yaml", line=3)

    async def broken(self, args: dict[str, Any]) -> Any:
        return 1 // 0

    async def wait(self, args: dict[str, Any]) -> Any:
        await self.release.wait()
        return "released"

    async def count(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        for at in range(args["to"]):
            yield at

    async def fail_late(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        yield 1
        raise ConfigError("the rule is gone")

    async def endless(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        self.streams_open += 1
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            self.streams_open -= 1

    async def flood(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        self.streams_open += 1
        try:
            while True:
                yield "x" * 10_000
        finally:
            self.streams_open -= 1

    def table(self) -> dict[str, control.Operation]:
        names = ("echo", "struct", "bad", "broken", "wait", "count", "fail_late", "endless", "flood")
        return {name: getattr(self, name) for name in names}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Path, Operations, ControlServer]]:
    operations = Operations()
    server = ControlServer(tmp_path / "cloud.sock", operations.table())
    await server.start()
    yield tmp_path / "cloud.sock", operations, server
    await server.stop()


Served = tuple[Path, Operations, ControlServer]


async def raw(path: Path, request: bytes, *, end: bool = False) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    if end:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.readline(), 10)
    finally:
        writer.close()


async def test_call_returns_the_result(served: Served) -> None:
    """Arguments go there and the value comes back as JSON, Structs included; any argument name can be used."""
    path, _, _ = served
    args = {"path": 1, "op": [None, "ü\n"]}
    assert await call(path, "echo", **args) == args
    assert await call(path, "struct") == [{"name": "a"}]


async def test_the_wire_is_lines_of_json(served: Served) -> None:
    """Any tool that speaks to a unix socket can ask: one line there, one line back."""
    path, _, _ = served
    assert json.loads(await raw(path, b'{"op": "echo", "args": {"a": 1}}\n')) == {"ok": True, "result": {"a": 1}}
    assert json.loads(await raw(path, b'{"op": "echo"}\n')) == {"ok": True, "result": {}}


async def test_error_carries_text_and_kind(served: Served) -> None:
    """What an operation raises on purpose reaches the client with its text and the name of its class."""
    path, _, _ = served
    with pytest.raises(ControlError, match=r"^rules.yaml:3: no such rule$") as caught:
        await call(path, "bad")
    assert caught.value.kind == "ConfigError"


async def test_programming_error_is_an_answer_too(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """An operation that breaks answers with an internal error, is logged, and the server goes on."""
    path, _, _ = served
    with pytest.raises(ControlError, match=r"internal error: ZeroDivisionError"):
        await call(path, "broken")
    assert "operation broken failed" in caplog.text
    assert await call(path, "echo") == {}


async def test_unknown_operation_names_the_known(served: Served) -> None:
    """A wrong operation is told which there are."""
    with pytest.raises(ControlError, match=r"no operation 'nope' here; there are bad, broken, count, echo"):
        await call(served[0], "nope")


async def test_stream_yields_items_and_ends(served: Served) -> None:
    """A generator's items come one by one, and the stream ends after the last."""
    assert [item async for item in stream(served[0], "count", to=3)] == [0, 1, 2]
    assert [item async for item in stream(served[0], "count", to=0)] == []


async def test_stream_that_fails_raises_after_its_items(served: Served) -> None:
    """An error in the middle of a stream comes after the items before it."""
    got = []
    with pytest.raises(ControlError, match="the rule is gone"):
        async for item in stream(served[0], "fail_late"):
            got.append(item)  # noqa: PERF401 - what came before the error is the point
    assert got == [1]


@pytest.mark.parametrize("op", ["endless", "flood"])
async def test_client_that_leaves_ends_the_stream(served: Served, op: str) -> None:
    """The generator is closed when its client is gone, whether it waits for an item or for room to write."""
    path, operations, _ = served
    items = stream(path, op)
    await anext(items)
    assert operations.streams_open == 1
    await items.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: operations.streams_open == 0)


async def test_stop_ends_streams_at_once(tmp_path: Path) -> None:
    """stop() closes the generators, the client is told, and the socket is gone."""
    operations = Operations()
    server = ControlServer(tmp_path / "edge.sock", operations.table())
    await server.start()
    items = stream(tmp_path / "edge.sock", "endless")
    assert await anext(items) == "first"
    await asyncio.wait_for(server.stop(), 1.5)
    assert operations.streams_open == 0
    with pytest.raises(ControlError, match="ended before it answered"):
        await anext(items)
    assert not (tmp_path / "edge.sock").exists()


async def test_stop_lets_an_operation_end(tmp_path: Path) -> None:
    """An operation that is no stream may finish and answer while the server stops."""
    operations = Operations()
    server = ControlServer(tmp_path / "edge.sock", operations.table())
    await server.start()
    asking = asyncio.create_task(call(tmp_path / "edge.sock", "wait"))
    await eventually(lambda: server.requests == 1)
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    operations.release.set()
    assert await asking == "released"
    await stopping


async def test_only_the_owner_may_ask(served: Served) -> None:
    """The socket has mode 0600 (reliability R4)."""
    assert stat.S_IMODE(os.lstat(served[0]).st_mode) == 0o600


async def test_live_socket_is_refused(served: Served) -> None:
    """A second process with the same data_dir is refused, and the first goes on."""
    path, _, _ = served
    with pytest.raises(ConfigError, match=r"another cloud controller is running with this data_dir"):
        await ControlServer(path, {}).start()
    assert await call(path, "echo") == {}


async def test_socket_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    """What a process leaves behind at kill -9 does not hinder the next one."""
    path = tmp_path / "cloud.sock"
    program = (
        "import asyncio, sys\nfrom common.control import ControlServer\n"
        "async def main():\n    await ControlServer(sys.argv[1], {}).start()\n    print('up', flush=True)\n"
        "    await asyncio.Event().wait()\nasyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == b"up\n"
    with pytest.raises(ConfigError, match="another cloud controller"):
        await ControlServer(path, {}).start()
    process.kill()
    process.wait()
    process.stdout.close()
    assert path.exists()
    operations = Operations()
    server = ControlServer(path, operations.table())
    await server.start()
    assert await call(path, "echo") == {}
    await server.stop()


async def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    """A file that is no socket is named and left alone."""
    (tmp_path / "cloud.sock").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        await ControlServer(tmp_path / "cloud.sock", {}).start()
    assert (tmp_path / "cloud.sock").read_text() == "mine"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="long socket paths need /proc: Linux only")
async def test_long_paths_work(tmp_path: Path) -> None:
    """A data_dir far longer than a socket address can be served and asked."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    server = ControlServer(socket_path(deep, "edge"), Operations().table())
    await server.start()
    assert await call(socket_path(deep, "edge"), "echo", a=1) == {"a": 1}
    await server.stop()
    with pytest.raises(ControlError, match="no edge agent answers"):
        await call(socket_path(deep, "edge"), "echo")


@pytest.mark.parametrize("left_behind", [False, True])
async def test_nobody_answers_says_what_to_do(tmp_path: Path, left_behind: bool) -> None:
    """Without a process the client says how to start one, whether a dead socket lies there or not."""
    path = socket_path(tmp_path, "cloud")
    if left_behind:
        dead = socket.socket(socket.AF_UNIX)
        dead.bind(str(path))
        dead.close()
    with pytest.raises(ControlError) as caught:
        await call(path, "echo")
    assert caught.value.kind == "unreachable"
    assert str(caught.value) == (
        f"no cloud controller answers at {path}: start one with `fieldpost up` or `fieldpost cloud`, "
        "or name its directory with --data-dir"
    )


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[]\n", b"\xff\n", b'{"op": 1}\n', b'{"op": "echo", "args": []}\n', b'{"op": "echo"', b"\n"]
)
async def test_malformed_requests_are_answered(served: Served, line: bytes) -> None:
    """Whatever is no request gets an error, and the server goes on."""
    answer = json.loads(await raw(served[0], line, end=True))
    assert answer["ok"] is False
    assert "request" in answer["error"]["text"]
    assert await call(served[0], "echo") == {}


async def test_too_large_a_request_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request above the limit is refused by the client, and by the server when the client does not know it."""
    big = "x" * control.REQUEST_BYTES_MAX
    with pytest.raises(ControlError, match="at most"):
        await call(served[0], "echo", big=big)
    monkeypatch.setattr(control, "REQUEST_BYTES_MAX", 10**9)
    with pytest.raises(ControlError, match=r"request is larger|ended before"):
        await call(served[0], "echo", big=big)
    assert await call(served[0], "echo") == {}


async def test_clients_are_limited(tmp_path: Path) -> None:
    """Above clients_max a client is told so and counted; places become free again."""
    operations = Operations()
    path = tmp_path / "cloud.sock"
    server = ControlServer(path, operations.table(), clients_max=2)
    await server.start()
    held = [stream(path, "endless") for _ in range(2)]
    for items in held:
        await anext(items)
    with pytest.raises(ControlError, match="too many clients"):
        await call(path, "echo")
    assert server.refused == 1
    for items in held:
        await items.aclose()  # type: ignore[attr-defined]
    await eventually(lambda: operations.streams_open == 0)
    assert await call(path, "echo") == {}
    await server.stop()


async def test_idle_client_is_sent_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that connects and says nothing does not keep its place."""
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.05)
    answer = json.loads(await raw(served[0], b""))
    assert "no request within" in answer["error"]["text"]


async def test_restart_on_the_same_path(tmp_path: Path) -> None:
    """start and stop can follow each other, and stop twice is harmless."""
    server = ControlServer(tmp_path / "cloud.sock", Operations().table())
    for _ in range(3):
        await server.start()
        assert await call(tmp_path / "cloud.sock", "echo") == {}
        await server.stop()
    await server.stop()


async def test_a_claimed_path_is_held_before_anybody_can_ask(tmp_path: Path) -> None:
    """Whoever claimed a path keeps others away from it, and does not answer before it listens; a stop gives it back."""
    path = socket_path(tmp_path, "cloud")
    first, second = ControlServer(path, {}), ControlServer(path, {})
    first.claim()
    with pytest.raises(ConfigError, match="another"):
        await second.start()
    with pytest.raises(ControlError, match="no cloud controller answers"):
        await call(path, "echo")
    await first.stop()
    await second.start()
    await second.stop()
