"""The endpoint type ``servicebus``: HTTP between the node and applications on it (flow F3).

As a source, an application names the URL that it wants in the header ``Target-Url``, or posts KubeEdge's JSON
``{"method", "targetURL", "payload"}``; only URLs that a rule has as ``target_url`` are taken. As a target, a service on
this node is called, at a port of 127.0.0.1 or a unix socket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from common.checks import METHODS
from common.clock import Clock
from common.rules import SERVICEBUS, RuleEndpoint
from edge.endpoints.base import OnArrival, Rendering, Wiring
from edge.endpoints.http_request import Request, message_of
from edge.endpoints.http_server import Asked, HttpListener
from edge.endpoints.http_target import HttpClient, HttpTarget
from edge.endpoints.replies import Reply, problem
from edge.endpoints.rest import asked_of
from edge.settings import ListenerSettings


class _Envelope(msgspec.Struct, rename={"target_url": "targetURL"}):
    """KubeEdge's request of an application."""

    target_url: str
    method: str = "POST"
    payload: Any = ""


class Servicebus:
    """The applications on this node."""

    type = SERVICEBUS

    def __init__(self, settings: ListenerSettings, client: HttpClient, on_arrival: OnArrival, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._allowed: dict[str, Wiring] = {}
        self.listener = HttpListener("servicebus", settings, self._route, on_arrival, clock)

    def bind(self, wirings: Sequence[Wiring]) -> None:
        """See Kind."""
        self._allowed = {wiring.resource["target_url"]: wiring for wiring in wirings}

    def target(self, endpoint: RuleEndpoint, resource: Mapping[str, str], rendering: Rendering) -> HttpTarget:
        """See Kind."""
        port, socket = (endpoint.spec.properties.get(name, "") for name in ("service_port", "socket"))
        host = f"127.0.0.1:{port}" if port else "localhost"
        return HttpTarget(self._client, f"http://{host}{resource['path']}", resource, rendering, socket)

    async def start(self) -> None:
        """Listen, if a rule has a servicebus source."""
        if self._allowed:
            await self.listener.start()

    def pause(self) -> None:
        """See Kind."""
        self.listener.pause()

    async def stop(self) -> None:
        """See Kind."""
        await self.listener.stop()

    def statistics(self) -> dict[str, Any]:
        """Of the listener."""
        return {"listener": self.listener.statistics()}

    def _route(self, request: Request) -> Asked | Reply:
        url = request.headers.get("target-url", "")
        if not url:
            try:
                envelope = msgspec.json.decode(request.body, type=_Envelope)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                text = "say what you want: header Target-Url, or JSON with targetURL, method and payload"
                return problem(400, "target_url", text)
            payload = envelope.payload
            body = payload.encode() if isinstance(payload, str) else msgspec.json.encode(payload)
            url, request = envelope.target_url, request._replace(method=envelope.method.upper(), body=body)
            if request.method not in METHODS:
                return problem(405, "method", f"{request.method[:20]} is not taken here", allow=", ".join(METHODS))
        wiring = self._allowed.get(url)
        if wiring is None:
            return problem(403, "target_url", f"url {url[:200]} is not allowed: no rule has it as its target_url")
        path = urlsplit(url).path or "/"
        return asked_of(wiring, message_of(request, path, {}, self._clock), request)
