"""Chains on the hook points of HTTP servers: ``pre_req``, ``main``, ``post_resp`` (flow F3).

``$REQ`` is the request (``path``, ``method``, ``query``, ``headers``, ``payload``), ``$RESP`` the answer (``status``,
``headers``, ``payload``). ``accept`` goes on; ``reject`` answers 403; ``drop`` closes the connection; in ``main``
``forward`` and ``server`` name the rule that takes the request. Where ``main`` decides nothing, the rule of the path
takes it, and without one it is rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from common.chain.errors import ChainErrors
from common.chain.hookpoint import Engine, HookPoint
from common.chain.nodes import LibSource
from common.chain.run import Access, Outcome
from common.clock import Clock
from common.errors import ConfigError
from edge.endpoints.http_server import Asked, HttpPoints, Request, message_of
from edge.endpoints.replies import STATUS_OF, Reply, problem
from edge.flow.chains import texts, value_of
from edge.messages import body_of
from edge.rules.binding import Binding

POINTS = ("pre_req", "main", "post_resp")
_VERBS = ("accept", "reject", "drop", "forward", "server")


class HttpChains(HttpPoints):
    """The chains of the configuration on every HTTP listener of the node.

    Arguments: ``sources`` by hook point; ``find`` gives the rule for the target of ``forward`` and ``server``.
    Raises ConfigError with all that is wrong.
    """

    def __init__(
        self,
        sources: Mapping[str, LibSource],
        engine: Engine,
        find: Callable[[str], Binding | None],
        clock: Clock,
    ) -> None:
        self._find, self._clock = find, clock
        self._points: dict[str, HookPoint] = {}
        wrong: list[str] = []
        for name in POINTS:
            if name not in sources:
                continue
            inputs = {"REQ": Access.WRITABLE}
            if name == "post_resp":
                inputs = {"REQ": Access.READ_ONLY, "RESP": Access.WRITABLE}
            verbs = _VERBS if name == "main" else _VERBS[:3]
            default = "reject" if name == "main" else "accept"
            point = HookPoint(name, engine=engine, inputs=inputs, verbs=verbs, default=default)
            try:
                point.mount(sources[name])
                self._points[name] = point
            except ChainErrors as exc:
                wrong += [f"hook_points.{name}: {error}" for error in exc.errors]
        if wrong:
            raise ConfigError("\n".join(wrong))

    def before(self, request: Request) -> Request | Reply | None:
        """See HttpPoints."""
        point = self._points.get("pre_req")
        if point is None:
            return request
        seen = _seen(request)
        outcome = point.run({"REQ": seen})
        if not outcome.ok or outcome.verb != "accept":
            return _refusal(outcome)
        return _changed(request, seen, outcome)

    def choose(self, asked: Asked | Reply, request: Request) -> Asked | Reply | None:
        """See HttpPoints."""
        point = self._points.get("main")
        if point is None:
            return asked
        seen = _seen(request)
        outcome = point.run({"REQ": seen})
        if not outcome.ok:
            return _refusal(outcome)
        request = _changed(request, seen, outcome)
        if outcome.verb in ("forward", "server"):
            return self._forwarded(asked, request, outcome)
        if outcome.verb == "accept" or (not outcome.decided and isinstance(asked, Asked)):
            return self._with_request(asked, request) if "REQ" in outcome.outputs else asked
        return _refusal(outcome)

    def after(self, request: Request, reply: Reply) -> Reply:
        """See HttpPoints."""
        point = self._points.get("post_resp")
        if point is None:
            return reply
        shown: dict[str, Any] = {
            "status": reply.status,
            "headers": dict(reply.headers),
            "payload": value_of(reply.body),
        }
        outcome = point.run({"REQ": _seen(request), "RESP": shown})
        if not outcome.ok or outcome.verb != "accept":
            return _refusal(outcome) or problem(403, "chain_reject")
        made = outcome.outputs.get("RESP")
        if not isinstance(made, dict):
            return reply
        status = made.get("status")
        body = reply.body if made.get("payload") == shown["payload"] else body_of(made.get("payload"))
        return Reply(
            status if isinstance(status, int) and 200 <= status <= 599 else reply.status,
            tuple(texts(made.get("headers"), shown["headers"]).items()),
            body,
        )

    def _forwarded(self, asked: Asked | Reply, request: Request, outcome: Outcome) -> Asked | Reply:
        binding = self._find(outcome.target)
        if binding is None:
            return problem(500, "unknown_destination", f"{outcome.verb} {outcome.target}: there is no such rule")
        message = asked.message if isinstance(asked, Asked) else message_of(request, request.path, {}, self._clock)
        made = Asked(message, (binding,), "hook_point/main", binding.id, False, binding.timeout_s)
        if isinstance(asked, Asked):
            made = made._replace(source=asked.source, asynchronous=asked.asynchronous)
        return self._with_request(made, request)

    def _with_request(self, asked: Asked | Reply, request: Request) -> Asked | Reply:
        if isinstance(asked, Asked):
            message = asked.message
            message.payload, message.headers = request.body, request.headers
            message.method, message.query = request.method, request.query
        return asked


def _seen(request: Request) -> dict[str, Any]:
    return {
        "path": request.path,
        "method": request.method,
        "query": request.query,
        "headers": request.headers,
        "payload": value_of(request.body),
    }


def _changed(request: Request, seen: Mapping[str, Any], outcome: Outcome) -> Request:
    made = outcome.outputs.get("REQ")
    if not isinstance(made, dict):
        return request
    path, method, query = (made.get(name) for name in ("path", "method", "query"))
    return Request(
        method.upper() if isinstance(method, str) and method else request.method,
        path if isinstance(path, str) and path.startswith("/") else request.path,
        query if isinstance(query, str) else request.query,
        texts(made.get("headers"), request.headers),
        request.body if made.get("payload") == seen["payload"] else body_of(made.get("payload")),
    )


def _refusal(outcome: Outcome) -> Reply | None:
    """What a request is answered that a chain does not let pass; None closes the connection."""
    if not outcome.ok:
        kind = (
            "chain_limit" if outcome.code.startswith("PC-LIMIT") else "chain_fault" if outcome.code else "chain_error"
        )
        return problem(STATUS_OF[kind], kind, str(outcome.error))
    if outcome.verb == "drop":
        return None
    reason = "chain_reject" if outcome.decided else "chain_no_verb"
    return problem(403, reason, str(outcome.error or ""))
