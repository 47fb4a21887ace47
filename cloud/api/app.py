"""The application: each row of the table of routes is a path, whoever asks is known, changes are noted (U5, R4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cloud.api.bounds import Rate
from cloud.api.document import document
from cloud.api.health import Health
from cloud.api.pages import page
from cloud.api.problems import ApiError, problem, problem_of
from cloud.api.streams import Streams
from cloud.api.tokens import Tokens
from cloud.audit import Audit, Caller
from cloud.operations import ARGUMENTS, ID_MAX, ROWS_MAX
from cloud.settings import ApiSettings
from common.api import API_ROOT, PAGE_ROWS, PAGE_ROWS_MAX, ROUTES, Kind, Role, Route
from common.clock import Clock
from common.control import Operation
from common.version import VERSION

_JSON = "application/json"
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
QUERY_FIELDS_MAX = 32
_BAD_STATUS = {404: "not_found", 405: "method_not_allowed"}


class Api:
    """The API over ``operations``, the control socket's own table.

    Arguments: ``metrics`` gives Prometheus' text; ``streams`` has the watchers; ``tokens`` knows who asks.
    """

    def __init__(
        self,
        settings: ApiSettings,
        operations: Mapping[str, Operation],
        metrics: Callable[[], Awaitable[str]],
        *,
        tokens: Tokens,
        audit: Audit,
        health: Health,
        streams: Streams,
        clock: Clock,
    ) -> None:
        self._operations, self._metrics = operations, metrics
        self._tokens, self._audit, self._health, self._streams = tokens, audit, health, streams
        self._failures = Rate(settings.failures_per_s_max, clock)
        self._requests = Rate(settings.requests_per_s_max, clock)
        self.routes = [route for route in ROUTES if route.operation in operations]
        self.counts = dict.fromkeys(("unauthorised", "forbidden", "throttled"), 0)

    def app(self) -> FastAPI:
        """Return the application. Pages of documentation are left out: they would load scripts from elsewhere."""
        app = FastAPI(title="fieldpost", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None)
        described = msgspec.json.encode(document(self.routes, self._operations))
        for route in self.routes:
            app.add_api_route(API_ROOT + route.path, self._endpoint(route), methods=[route.method])

        async def openapi(request: Request) -> Response:
            return Response(described, media_type=_JSON)

        async def healthz(request: Request) -> Response:
            return Response(b'{"alive":true}', media_type=_JSON)

        app.add_api_route(f"{API_ROOT}/openapi.json", openapi)
        app.add_api_route("/healthz", healthz)
        app.add_api_route("/readyz", self._readyz)
        app.add_api_route("/metrics", self._metrics_text)
        app.add_exception_handler(HTTPException, _not_here)
        return app

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name."""
        tokens = {"token_reloads": self._tokens.reloads, "token_reload_failures": self._tokens.reload_failures}
        return {**self.counts, **tokens, **self._streams.counts, "watching": self._streams.watching}

    # -- one request ---------------------------------------------------------------------------------------------------

    def _endpoint(self, route: Route) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                return await self._answer(route, request)
            except Exception as exc:
                return problem_of(exc, request.url.path)

        return endpoint

    async def _readyz(self, request: Request) -> Response:
        found = await self._health.ready()
        return Response(msgspec.json.encode(found), 200 if found.ready else 503, media_type=_JSON)

    async def _metrics_text(self, request: Request) -> Response:
        try:
            self._admit(request)
            return Response(await self._metrics(), media_type=_TEXT)
        except Exception as exc:
            return problem_of(exc, request.url.path)

    async def _answer(self, route: Route, request: Request) -> Response:
        caller = self._admit(request)
        if route.role is Role.operator and caller.role is not Role.operator:
            self.counts["forbidden"] += 1
            if route.changes:
                await self._audit.denied(caller, route.operation)
            raise ApiError("forbidden", f"{route.operation} needs the role operator; {caller.name} is a {caller.role}")
        values = await self._values(route, request)
        limit, cursor = _page_of(values) if route.kind is Kind.page else (0, "")
        args = _arguments(route, values)
        operation: Any = self._operations[route.operation]
        if route.kind is Kind.stream:
            return self._streams.open(operation(args | _last_event(request)))
        if route.kind is Kind.page:
            answer = await page(route.operation, operation, _unbounded(route, args), limit, cursor)
        elif route.changes:
            answer = await self._audit.change(caller, route.operation, args, lambda: operation(args))
        else:
            answer = await operation(args)
        return Response(msgspec.json.encode(answer), media_type=_JSON)

    def _admit(self, request: Request) -> Caller:
        """Return who asks. Raises ApiError: no valid token, or too many requests."""
        remote = request.client.host if request.client else ""
        token = self._tokens.caller(request.headers.get("authorization", ""))
        if token is None and self._failures.full(remote):  # a right one passes: behind a proxy all have one address
            self.counts["throttled"] += 1
            raise ApiError("too_many_requests", "too many wrong tokens from this address in a second")
        if token is None:
            self.counts["unauthorised"] += 1
            self._failures.add(remote)
            raise ApiError("unauthorised", "the request has no valid bearer token")
        if self._requests.full(token.name):
            self.counts["throttled"] += 1
            raise ApiError("too_many_requests", "too many requests of this token in a second")
        self._requests.add(token.name)
        return Caller(token.name, token.role, remote)

    async def _values(self, route: Route, request: Request) -> dict[str, Any]:
        query = _query(request)
        if route.method != "POST":
            return {**query, **request.path_params}
        if query:
            raise ApiError("bad_request", "arguments of POST stand in the body, not in the query")
        body = await request.body()
        if not body:
            return dict(request.path_params)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _JSON:
            raise ApiError("media_type", "the body must be application/json")
        try:
            values = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ApiError("bad_request", f"the body is not a JSON object: {exc}") from None
        return {**values, **request.path_params}


def _query(request: Request) -> dict[str, str]:
    try:
        found = parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise ApiError("bad_request", f"the query has more than {QUERY_FIELDS_MAX} fields") from None
    query = dict(found)
    if len(query) < len(found):
        raise ApiError("bad_request", "a field stands twice in the query")
    return query


def _page_of(values: dict[str, Any]) -> tuple[int, str]:
    """Take limit and cursor out of the values."""
    text, cursor = str(values.pop("limit", PAGE_ROWS)), str(values.pop("cursor", ""))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 1 <= limit <= PAGE_ROWS_MAX:
        raise ApiError("bad_request", f"limit: a number from 1 to {PAGE_ROWS_MAX}")
    return limit, cursor


def _arguments(route: Route, values: dict[str, Any]) -> dict[str, Any]:
    """Check the values by the operation's type. Those of path and query are texts, and become what is expected."""
    values = {**values, **route.fixed}
    if any(isinstance(value, str) and "\0" in value for value in values.values()):
        raise ApiError("bad_request", "a value holds a NUL character")
    kind = ARGUMENTS.get(route.operation)
    if kind is None:
        return values
    try:
        read = msgspec.convert(values, kind, strict=route.method == "POST")
    except msgspec.ValidationError as exc:
        raise ApiError("bad_request", str(exc)) from None
    return {name: msgspec.to_builtins(getattr(read, name)) for name in values}


def _unbounded(route: Route, args: dict[str, Any]) -> dict[str, Any]:
    """Arguments with the operation's own limit out of the way, if it has one: the page is what is bounded."""
    kind = ARGUMENTS.get(route.operation)
    return args if kind is None or "limit" not in kind.__struct_fields__ else {**args, "limit": ROWS_MAX}


def _last_event(request: Request) -> dict[str, int]:
    text = request.headers.get("last-event-id", "")
    if not text:
        return {}
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= ID_MAX):
        raise ApiError("bad_request", "Last-Event-ID: not the id of an event")
    return {"since": int(text)}


async def _not_here(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    name = _BAD_STATUS.get(status, "bad_request")
    headers = exc.headers if isinstance(exc, HTTPException) else None
    return problem(name, f"{request.method[:16]} {request.url.path[:256]}", request.url.path[:256], headers)
