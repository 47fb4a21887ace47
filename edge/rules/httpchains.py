"""Chains on the hook points of HTTP servers: ``pre_req``, ``main``, ``post_resp`` (flow F3).

``$REQ`` is the request (``path``, ``method``, ``query``, ``headers``, ``payload``, ``host``, ``source``: the caller's
address), ``$RESP`` the answer (``status``, ``headers``, ``payload``). ``accept`` goes on; ``reject`` answers 403;
``drop`` closes the connection; in ``main`` ``forward`` and ``server`` name the rule that takes the request. Where
``main`` decides nothing, the rule of the path takes it, and without one it is rejected. ``post_resp`` sees every answer
to a request that could be read. A map in ``$resp`` (``status``, ``headers``, ``body``) with ``accept`` or ``reject`` is
the answer: the request goes no further.
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
from edge.endpoints.http_request import Request, message_of
from edge.endpoints.http_server import Asked, HttpPoints, Route
from edge.endpoints.replies import STATUS_OF, Reply, is_header, problem
from edge.flow.chains import looks_at_payload, texts, value_of
from edge.messages import body_of
from edge.rules.binding import Binding
from edge.rules.inturn import InTurn
from edge.rules.turns import Turns

POINTS = ("pre_req", "main", "post_resp")
_VERBS = ("accept", "reject", "drop", "forward", "server")
Headers = tuple[tuple[str, str], ...]


class HttpChains(HttpPoints):
    """The chains of the configuration on every HTTP listener of the node.

    Arguments: ``sources`` by hook point; ``find`` gives the rule for the target of ``forward`` and ``server``;
    ``turns`` are those of the node's rules, which a flood of requests must not hold up.
    Raises ConfigError with all that is wrong.
    """

    def __init__(
        self,
        sources: Mapping[str, LibSource],
        engine: Engine,
        find: Callable[[str], Binding | None],
        clock: Clock,
        turns: Turns,
    ) -> None:
        self._find, self._clock, self._turns = find, clock, InTurn(turns, clock.monotonic)
        self._points: dict[str, HookPoint] = {}
        self._looks = {(point, name) for point, source in sources.items() for name in ("REQ", "RESP")
                       if looks_at_payload(source, name)}  # fmt: skip
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

    async def before(self, request: Request) -> Request | Reply | None:
        """See HttpPoints."""
        point = self._points.get("pre_req")
        if point is None:
            return request
        seen = self._seen(request, point)
        outcome = await self._run(point, REQ=seen)
        if outcome.ok and outcome.verb != "drop" and (answer := _answer(outcome)) is not None:
            return answer
        if not outcome.ok or outcome.verb != "accept":
            return _refusal(outcome)
        return _changed(request, seen, outcome)

    async def choose(self, request: Request, route: Route) -> Asked | Reply | None:
        """See HttpPoints."""
        point = self._points.get("main")
        if point is None:
            return route(request)
        seen = self._seen(request, point)
        outcome = await self._run(point, REQ=seen)
        if not outcome.ok:
            return _refusal(outcome)
        request = _changed(request, seen, outcome)
        if outcome.verb in ("forward", "server"):
            return self._forwarded(request, route, outcome)
        if outcome.verb == "drop":
            return None
        if outcome.decided and (answer := _answer(outcome)) is not None:
            return answer
        if outcome.verb == "accept":
            return route(request)
        asked = _refusal(outcome) if outcome.decided else route(request)
        return asked if isinstance(asked, Asked) else _refusal(outcome)

    async def after(self, request: Request, reply: Reply) -> Reply:
        """See HttpPoints."""
        point = self._points.get("post_resp")
        if point is None:
            return reply
        headers = _joined(reply.headers)
        shown: dict[str, Any] = {"status": reply.status, "headers": headers}
        if ("post_resp", "RESP") in self._looks:
            shown["payload"] = value_of(reply.body)
        outcome = await self._run(point, REQ=self._seen(request, point), RESP=shown)
        if not outcome.ok or outcome.verb != "accept":
            return _refusal(outcome) or problem(403, "chain_reject")
        made = outcome.outputs.get("RESP")
        if not isinstance(made, dict):
            return reply
        return Reply(
            _status(made.get("status"), reply.status),
            _parted(texts(made.get("headers"), headers), headers, reply.headers),
            _body(made, shown, reply.body),
        )

    async def _run(self, point: HookPoint, **inputs: Any) -> Outcome:
        return await self._turns.do(lambda: point.run(inputs))

    def _seen(self, request: Request, point: HookPoint) -> dict[str, Any]:
        seen: dict[str, Any] = {
            "path": request.path,
            "method": request.method,
            "query": request.query,
            "headers": request.headers,
            "host": request.headers.get("host", ""),
            "source": request.remote,
        }
        if (point.name, "REQ") in self._looks:  # JSON is parsed only when a chain looks
            seen["payload"] = value_of(request.body)
        return seen

    def _forwarded(self, request: Request, route: Route, outcome: Outcome) -> Asked | Reply:
        binding = self._find(outcome.target)
        if binding is None:
            text = f"{outcome.verb} {outcome.target}: there is no such rule"
            return problem(STATUS_OF["unknown_destination"], "unknown_destination", text)
        asked = route(request)
        if not isinstance(asked, Asked):
            message = message_of(request, request.path, {}, self._clock)
            asked = Asked(message, (), "hook_point/main", "", request.wants_no_answer, 0.0)
        return asked._replace(consumers=(binding,), scope=binding.id, timeout_s=binding.timeout_s)


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
        _body(made, seen, request.body),
        request.remote,
    )


def _body(made: Mapping[str, Any], seen: Mapping[str, Any], before: bytes) -> bytes:
    """A body as a chain left it; the bytes that came, when it left it alone."""
    payload = made.get("payload")
    if payload == seen.get("payload"):
        return before
    return b"" if payload is None else body_of(payload)


def _status(made: Any, before: int) -> int:
    return made if isinstance(made, int) and 200 <= made <= 599 else before


def _answer(outcome: Outcome) -> Reply | None:
    """The answer that a chain put into ``$resp``."""
    made = outcome.resp
    if not isinstance(made, dict) or not made:
        return None
    body, headers = made.get("body"), texts(made.get("headers"), {})
    if "content-type" not in headers and body is not None:
        headers["content-type"] = "text/plain; charset=utf-8" if isinstance(body, str) else "application/json"
    status = _status(made.get("status"), 403 if outcome.verb == "reject" else 200)
    return Reply(status, _parted(headers, {}, ()), b"" if body is None else body_of(body))


def _joined(headers: Headers) -> dict[str, str]:
    """Headers as a chain sees them: the values of one name with commas between."""
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _parted(made: Mapping[str, str], seen: Mapping[str, str], before: Headers) -> Headers:
    """Headers as they are written: those that the chain left alone as they came, also several of one name.

    What can be no header (a line break, a name with a blank) is left out: it would end the answer early.
    """
    kept = [(name, value) for name, value in before if made.get(name) == seen[name]]
    new = [(name, value) for name, value in made.items() if seen.get(name) != value]
    return (*kept, *(one for one in new if is_header(*one)))


def _refusal(outcome: Outcome) -> Reply | None:
    """What a request is answered that a chain does not let pass; None closes the connection."""
    if not outcome.ok:
        kind = (
            "chain_limit" if outcome.code.startswith("PC-LIMIT") else "chain_fault" if outcome.code else "chain_error"
        )
        text = str(outcome.error).partition("\n")[0]  # the lines of the chain's text behind it are not for callers
        return problem(STATUS_OF[kind], kind, text)
    if outcome.verb == "drop":
        return None
    reason = "chain_reject" if outcome.decided else "chain_no_verb"
    return problem(403, reason, str(outcome.error or ""))
