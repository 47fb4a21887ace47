"""The endpoint type ``rest``: HTTP requests as a source, HTTP calls as a target (flow F3).

A source listens at ``/<node>/<namespace>/<path>``; the reply is the target's answer with its real status and headers,
or 202 in asynchronous mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.clock import Clock
from common.resource import is_label
from common.rules import REST, RuleEndpoint
from edge.endpoints.base import OnArrival, Rendering, Wiring
from edge.endpoints.http_request import Request, message_of
from edge.endpoints.http_server import Asked, HttpListener
from edge.endpoints.http_target import HttpClient, HttpTarget
from edge.endpoints.paths import Paths, Pattern, split
from edge.endpoints.replies import Reply, problem
from edge.settings import ListenerSettings


class Rest:
    """REST on this node."""

    type = REST

    def __init__(
        self, node: str, settings: ListenerSettings, client: HttpClient, on_arrival: OnArrival, clock: Clock
    ) -> None:
        self._node, self._client, self._clock = node, client, clock
        self._paths: dict[str, Paths] = {}
        self.listener = HttpListener("rest", settings, self._route, on_arrival, clock)

    def bind(self, wirings: Sequence[Wiring]) -> None:
        """See Kind."""
        patterns: dict[str, list[Pattern]] = {}
        for wiring in wirings:
            methods = frozenset(m.strip().upper() for m in wiring.resource.get("method", "").split(",") if m.strip())
            pattern = Pattern(wiring.resource["path"], methods, wiring)
            patterns.setdefault(wiring.endpoint.metadata.namespace, []).append(pattern)
        self._paths = {namespace: Paths(of_namespace) for namespace, of_namespace in patterns.items()}

    def target(self, endpoint: RuleEndpoint, resource: Mapping[str, str], rendering: Rendering) -> HttpTarget:
        """See Kind."""
        return HttpTarget(self._client, resource["resource"], resource, rendering)

    async def start(self) -> None:
        """Listen, if a rule has a rest source."""
        if self._paths:
            await self.listener.start()

    def pause(self) -> None:
        """See Kind."""
        self.listener.pause()

    async def stop(self) -> None:
        """See Kind."""
        await self.listener.stop()
        await self._client.close()

    def statistics(self) -> dict[str, Any]:
        """Of the listener, and of the client that all HTTP targets share."""
        return {"listener": self.listener.statistics(), "client": self._client.statistics()}

    def _route(self, request: Request) -> Asked | Reply:
        segments = split(request.path)
        node, namespace = (*segments[:2], "", "")[:2]
        rest = segments[2:]
        paths = self._paths.get(namespace) if is_label(namespace) else None
        if node != self._node or paths is None:
            return problem(404, "no_rule", f"nothing listens at {request.path[:200]}")
        inner = "/" + "/".join(rest)
        try:
            found = paths.find(inner, request.method)
        except ValueError as exc:
            return problem(400, "path", str(exc))
        if found is None:
            return problem(404, "no_rule", f"no rule of namespace {namespace} takes {inner[:200]}")
        if found.value is None:
            return problem(405, "method", f"{request.method} is not taken here", allow=", ".join(found.allowed))
        wiring: Wiring = found.value
        return asked_of(wiring, message_of(request, inner, found.params, self._clock), request)


def asked_of(wiring: Wiring, message: Any, request: Request) -> Asked:
    """What a request asks of one rule."""
    metadata = wiring.endpoint.metadata
    return Asked(
        message,
        (wiring.consumer,),
        f"endpoint/{metadata.namespace}/{metadata.name}",
        wiring.consumer.id,
        request.wants_no_answer or wiring.resource.get("mode") == "async",
        wiring.consumer.timeout_s,
    )
