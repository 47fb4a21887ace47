"""A controller with its API on a free port, and a client that speaks HTTP to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from cloud.controller import Controller
from cloud.settings import ApiSettings
from common.messaging.memory import MemoryHub
from tests.cloud.node import Node, node_on, running
from tests.cloud.samples import bad, birth, ok
from tests.support.wait import eventually

OPERATOR, VIEWER = "operator-token-of-the-tests", "viewer-token-of-the-tests"
TOKENS = f"ada operator {OPERATOR}\ngrace viewer {VIEWER}\n"


class Answer(msgspec.Struct):
    """What came back: status, headers in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)


class Served:
    """A controller and its API."""

    def __init__(self, controller: Controller, hub: MemoryHub, node: Node, session: aiohttp.ClientSession) -> None:
        assert controller.api is not None
        self.controller, self.hub, self.node, self.session = controller, hub, node, session
        self.port = controller.api.port
        self.url = f"http://127.0.0.1:{self.port}"

    async def ask(
        self, method: str, path: str, *, token: str = OPERATOR, headers: dict[str, str] | None = None, **more: Any
    ) -> Answer:
        """Send one request, to /api/v1 unless the path begins with //."""
        target = path[1:] if path.startswith("//") else "/api/v1" + path
        sent = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        async with self.session.request(method, self.url + target, headers=sent, **more) as answer:
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, found, await answer.read())

    async def get(self, path: str, **more: Any) -> Any:
        """The JSON of a GET that succeeds."""
        answer = await self.ask("GET", path, **more)
        assert answer.status == 200, answer.body
        return answer.json()

    def counts(self) -> dict[str, int]:
        """What the API counts."""
        assert self.controller.api is not None
        return self.controller.api.statistics()

    async def results(self, first: int, count: int, *, fail: bool = False) -> None:
        """Let the node send ``count`` results, one a message, from sequence ``first``; return when they are there."""
        make = bad if fail else ok
        for sequence in range(first, first + count):
            await self.node.results(sequence, [make(source_id=f"m{sequence}")])
        await eventually(lambda: self.through() >= first + count - 1)

    def through(self) -> int:
        """The sequence through which the node's messages are confirmed."""
        return max((found.through for found in self.node.confirmations()), default=0)


@asynccontextmanager
async def served(
    directory: Path, *, tokens: str = TOKENS, cloud: dict[str, Any] | None = None, **api: Any
) -> AsyncIterator[Served]:
    """A controller with its API and one node that was born; ``cloud`` and ``api`` are settings."""
    directory.mkdir(exist_ok=True)
    file = directory / "tokens"
    file.write_text(tokens)
    file.chmod(0o600)
    hub = MemoryHub()
    settings = ApiSettings(enabled=True, port=0, **{"token_file": str(file), **api})
    timeout = aiohttp.ClientTimeout(total=20)
    async with (
        running(directory, hub, api=settings, **(cloud or {})) as controller,
        node_on(hub) as node,
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        node.presence(birth())
        await eventually(lambda: controller.sessions.statistics()["births"] == 1)
        yield Served(controller, hub, node, session)


async def raw(port: int, data: bytes, *, until: float = 5.0) -> bytes:
    """Send bytes over a connection and return all that comes until it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(until):
            return await reader.read()
    finally:
        writer.close()
