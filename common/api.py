"""The HTTP API as a table: which operation answers at which method and path, and who may ask (experience U5).

The controller registers the rows whose operation it has; the command line turns an operation and its arguments into a
request by the same rows, so that the two cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

API_ROOT = "/api/v1"
PAGE_ROWS = 100  # rows of a page when none are asked for
PAGE_ROWS_MAX = 1000


class Role(StrEnum):
    """What a token may do: an operator may also change things."""

    viewer = "viewer"
    operator = "operator"


class Kind(StrEnum):
    """What an answer is: one value, a page of rows with a cursor, or a stream of server-sent events."""

    value = "value"
    page = "page"
    stream = "stream"


class Route(NamedTuple):
    """One row. ``path`` stands below /api/v1 and its ``{names}`` are arguments; other arguments are in the query, or in
    a JSON object as body when ``method`` is POST. ``fixed`` are arguments that the row itself gives.
    """

    operation: str
    method: str
    path: str
    role: Role = Role.viewer
    kind: Kind = Kind.value
    fixed: Mapping[str, Any] = {}

    @property
    def changes(self) -> bool:
        """The operation changes something: only an operator may ask, and the audit log notes it."""
        return self.role is Role.operator and self.method != "GET"


_page, _operator = Kind.page, Role.operator
ROUTES = (
    Route("get.nodes", "GET", "/nodes", kind=_page),
    Route("node.add", "POST", "/nodes", _operator),
    Route("node.replace", "POST", "/nodes/{node}/replace", _operator),
    Route("node.delete", "DELETE", "/nodes/{node}", _operator),
    Route("describe.node", "GET", "/nodes/{node}"),
    Route("get.rules", "GET", "/rules", kind=_page),
    Route("describe.rule", "GET", "/rules/{namespace}/{rule}"),
    Route("enable", "POST", "/rules/{namespace}/{rule}/enable", _operator),
    Route("disable", "POST", "/rules/{namespace}/{rule}/disable", _operator),
    Route("get.objects", "GET", "/objects", kind=_page),
    Route("get.objects", "GET", "/endpoints", kind=_page, fixed={"kind": "RuleEndpoint"}),
    Route("delete", "DELETE", "/objects/{kind}/{namespace}/{name}", _operator),
    Route("get.assignments", "GET", "/assignments", kind=_page),
    Route("apply", "POST", "/apply", _operator),
    Route("check", "POST", "/check"),
    Route("get.results", "GET", "/results", kind=_page),
    Route("watch.results", "GET", "/results/stream", kind=Kind.stream),
    Route("get.errors", "GET", "/errors", kind=_page),
    Route("get.losses", "GET", "/losses", kind=_page),
    Route("dlq.ls", "GET", "/dlq", kind=_page),
    Route("dlq.redrive", "POST", "/dlq/redrive", _operator),
    Route("dlq.drop", "POST", "/dlq/drop", _operator),
    Route("dlq.show", "GET", "/dlq/{id}"),
    Route("ledger", "GET", "/ledger"),
    Route("get.sinks", "GET", "/sinks", kind=_page),
    Route("get.audit", "GET", "/audit", _operator, kind=_page),
    Route("statistics", "GET", "/statistics"),
)
CHANGES = frozenset(route.operation for route in ROUTES if route.changes)


class Asking(NamedTuple):
    """A request: method, path with query, and the JSON body, empty when there is none."""

    method: str
    target: str
    body: bytes


def route_of(operation: str) -> Route | None:
    """The first row of an operation, None when the API does not have it."""
    return next((route for route in ROUTES if route.operation == operation), None)


def request_of(route: Route, args: Mapping[str, Any]) -> Asking:
    """Return the request that asks for ``route`` with ``args``; arguments that are None or "" are left out.

    Raises KeyError when an argument of the path is missing.
    """
    left = {name: value for name, value in args.items() if value is not None and value != ""}
    path = API_ROOT + route.path
    for name in path_names(route):
        path = path.replace(f"{{{name}}}", quote(str(left.pop(name)), safe=""))
    if route.method == "POST":
        return Asking(route.method, path, json.dumps(left).encode())
    words = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in left.items()}
    return Asking(route.method, f"{path}?{urlencode(words)}" if words else path, b"")


def path_names(route: Route) -> list[str]:
    """The names of the arguments in a row's path, in order."""
    return [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
