"""The OpenAPI document, made from the table of routes and the types of arguments and answers (experience U5)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cloud.api.answers import ANSWERS
from cloud.api.health import Readiness
from cloud.api.problems import MEDIA_TYPE, PROBLEMS, Problem
from cloud.operations import ARGUMENTS
from common.api import API_ROOT, PAGE_ROWS, PAGE_ROWS_MAX, Kind, Route, path_names
from common.control import Operation
from common.version import VERSION

_REF = "#/components/schemas/{name}"
_JSON, _EVENTS = "application/json", "text/event-stream"
_ALWAYS = ("bad_request", "unauthorised", "forbidden", "too_many_requests", "internal", "overloaded", "deadline")
_WITH_BODY = ("body_timeout", "body_too_large", "media_type", "conflict", "refused")

Json = dict[str, Any]


def document(routes: Iterable[Route], operations: Mapping[str, Operation]) -> Json:
    """Return the document of these routes. Its schemas are those by which arguments are checked."""
    found = list(routes)
    types = [ANSWERS[route.operation] for route in found if route.operation in ANSWERS]
    schemas, components = msgspec.json.schema_components([*types, Problem, Readiness], ref_template=_REF)
    answers = dict(zip([route.operation for route in found if route.operation in ANSWERS], schemas, strict=False))
    paths: Json = {}
    for route in found:
        said = _operation(route, operations[route.operation], answers.get(route.operation, {}), components)
        paths.setdefault(API_ROOT + route.path, {})[route.method.lower()] = said
    return {
        "openapi": "3.1.0",
        "info": {"title": "fieldpost", "version": VERSION, "description": "Rules, results and nodes of a fleet."},
        "paths": paths | _health(schemas[-1]),
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(route: Route, operation: Operation, answer: Json, components: Json) -> Json:
    properties, required = _arguments(route, components)
    in_path = path_names(route)
    said: Json = {
        "operationId": f"{route.operation}:{route.path}" if route.fixed else route.operation,
        "summary": " ".join((inspect.getdoc(operation) or route.operation).split()),
        "description": f"Role: {route.role}.",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": properties.pop(name, {"type": "string"})}
            for name in in_path
        ],
        "responses": {"200": {"description": "Done.", "content": _content(route, answer)}, **_problems(route)},
    }
    needed = [name for name in required if name in properties]
    if route.method == "POST":
        body = {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}
        said["requestBody"] = {"required": bool(needed), "content": {_JSON: {"schema": body}}}
    else:
        said["parameters"] += [
            {"name": name, "in": "query", "required": name in needed, "schema": schema}
            for name, schema in properties.items()
        ]
    return said


def _arguments(route: Route, components: Json) -> tuple[Json, list[str]]:
    """The schemas of a route's arguments by name, and which are required."""
    properties: Json = {}
    required: list[str] = []
    if route.operation in ARGUMENTS:
        kind = ARGUMENTS[route.operation]
        _, made = msgspec.json.schema_components([kind], ref_template=_REF)
        own = made.pop(next(name for name in made if name.lstrip("_") == kind.__name__.lstrip("_")))
        components.update(made)
        properties, required = dict(own["properties"]), list(own.get("required", ()))
    for name in route.fixed:
        properties.pop(name, None)
    if route.kind is Kind.page:
        properties["limit"] = {"type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX, "default": PAGE_ROWS}
        properties["cursor"] = {"type": "string", "description": "next of the page before."}
        for name in ("before", "after"):
            properties.pop(name, None)
    return properties, required


def _content(route: Route, answer: Json) -> Json:
    if route.kind is Kind.stream:
        return {_EVENTS: {"schema": {"type": "string", "description": "id, event and data; data is JSON."}}}
    if route.kind is Kind.page:
        answer = {
            "type": "object",
            "properties": {"items": {"type": "array", "items": answer}, "next": {"type": ["string", "null"]}},
            "required": ["items", "next"],
        }
    return {_JSON: {"schema": answer}}


def _problems(route: Route) -> Json:
    names = [*_ALWAYS, *(_WITH_BODY if route.method == "POST" else ()), *(["not_found"] if "{" in route.path else ())]
    found: Json = {}
    for name in names:
        status, title, _ = PROBLEMS[name]
        found[str(status)] = {
            "description": title,
            "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}},
        }
    return found


def _health(readiness: Json) -> Json:
    content = {_JSON: {"schema": readiness}}
    text = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {
        "/healthz": {
            "get": {"operationId": "healthz", "summary": "The process is alive.", "security": [],
                    "responses": {"200": {"description": "It is."}}}
        },
        "/readyz": {
            "get": {"operationId": "readyz", "summary": "Is it ready, and if not, why not.", "security": [],
                    "responses": {"200": {"description": "Ready.", "content": content},
                                  "503": {"description": "Not ready.", "content": content}}}
        },
        "/metrics": {
            "get": {"operationId": "metrics", "summary": "Counters and gauges. Role: viewer.",
                    "responses": {"200": text}}
        },
    }  # fmt: skip
