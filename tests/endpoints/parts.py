"""Real parts around an agent with HTTP endpoints: a web server that plays targets, a client, a device on the broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from common.messaging.base import Inbound, Subscription
from common.messaging.transport import MqttLink
from common.models import ExecResult
from common.settings import BrokerSettings
from edge.agent import Agent
from edge.settings import EdgeSettings, FlowSettings, HttpClientSettings, ListenerSettings, Settings
from tests.edge.support import results_of
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HEAD = "apiVersion: rules.kubeedge.io/v1\n"


def endpoint(name: str, kind: str, properties: str = "{}") -> str:
    """A RuleEndpoint."""
    return f"---\n{HEAD}kind: RuleEndpoint\nmetadata: {{name: {name}}}\n" + (
        f"spec: {{ruleEndpointType: {kind}, properties: {properties}}}\n"
    )


def rule(name: str, source: str, source_resource: str, target: str, target_resource: str, extra: str = "") -> str:
    """A Rule; ``extra`` is further YAML of its spec, a line each."""
    return (
        f"---\n{HEAD}kind: Rule\nmetadata: {{name: {name}}}\nspec:\n"
        f"  source: {source}\n  sourceResource: {source_resource}\n"
        f"  target: {target}\n  targetResource: {target_resource}\n{extra}"
    )


class TargetServer:
    """A real HTTP server: notes requests with their bodies, answers as ``handler`` says."""

    def __init__(self) -> None:
        self.requests: list[tuple[web.Request, bytes]] = []
        self.handler: Handler = self.echo
        self.port = 0

    async def echo(self, request: web.Request) -> web.StreamResponse:
        """Answer 201 with the body turned round and a header of our own."""
        return web.Response(status=201, body=self.requests[-1][1][::-1], headers={"X-Target": "yes"})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        return await self.handler(request)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TargetServer]:
        """Listen on a free port."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


class Parts:
    """An agent, a target, a device, an HTTP client."""

    def __init__(self, agent: Agent, target: TargetServer, device: MqttLink, http: aiohttp.ClientSession) -> None:
        self.agent, self.target, self.device, self.http = agent, target, device, http
        self.published: list[Inbound] = []
        self.frozen: list[Any] = []
        device.on_message = self.published.append
        add = agent.uplink.add
        agent.uplink.add = lambda frozen: (self.frozen.extend(frozen), add(frozen))[1]  # type: ignore[method-assign]

    @property
    def rest(self) -> str:
        """Base URL of the rest source, with node and namespace."""
        return f"http://127.0.0.1:{self.agent.rest.listener.port}/edge-1/default"

    @property
    def servicebus(self) -> str:
        """URL of the servicebus source."""
        return f"http://127.0.0.1:{self.agent.servicebus.listener.port}/"

    def swallow(self, prefix: str) -> None:
        """Let the broker of the agent's own bus never confirm what is published below ``prefix``."""
        link = self.agent.buses.buses[""].link
        publish = link.publish
        link.publish = lambda topic, *a, **k: None if topic.startswith(prefix) else publish(topic, *a, **k)  # type: ignore[method-assign]

    def results(self) -> list[ExecResult]:
        """All results so far."""
        return [result for message in self.frozen for result in results_of(message)]

    async def ended(self, count: int = 1) -> list[ExecResult]:
        """Wait for ``count`` results."""
        await eventually(lambda: len(self.results()) >= count)
        return self.results()

    async def request(
        self, url: str, body: bytes = b"", method: str = "POST", **headers: str
    ) -> tuple[int, Any, bytes]:
        """One HTTP request: status, headers, body."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, url, data=body, headers=named, allow_redirects=False) as response:
            return response.status, response.headers, await response.read()


@asynccontextmanager
async def parts(
    broker: Mosquitto,
    tmp_path: Path,
    manifests: Callable[[int], str],
    *,
    rest: ListenerSettings | None = None,
    http: HttpClientSettings | None = None,
    flow: FlowSettings | None = None,
    layers: str = "",
    connected: bool = True,
) -> AsyncIterator[Parts]:
    """Start everything; ``manifests`` gets the port of the target server."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(TargetServer().running())
        file = tmp_path / "rules.yaml"
        file.write_text(manifests(target.port))
        settings = Settings(
            data_dir=str(tmp_path / "data"),
            broker=BrokerSettings(url=broker.url),
            edge=EdgeSettings(
                node="edge-1",
                rules=[str(file)],
                layers=layers,
                rest=rest or ListenerSettings(port=0),
                servicebus=ListenerSettings(port=0),
                http=http or HttpClientSettings(),
                flow=flow or FlowSettings(),
            ),
        )
        agent, device = Agent(settings), MqttLink(BrokerSettings(url=broker.url), "device")
        session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        made = Parts(agent, target, device, session)
        await agent.start()
        stack.push_async_callback(agent.stop)
        await device.start()
        stack.push_async_callback(device.stop)
        device.subscribe([Subscription("out/#")])
        buses = agent.buses.buses.values() if connected else ()
        await eventually(lambda: device.connected and all(bus.link.connected for bus in buses))
        yield made
