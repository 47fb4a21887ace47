"""All routes by all roles, what they answer, and how errors look (experience U5, reliability R4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from cloud.api.answers import ANSWERS
from cloud.api.problems import PROBLEMS
from cloud.operations import ARGUMENTS
from common.api import ROUTES, Kind, Role, Route, path_names, request_of
from common.models import Epoch
from tests.api.served import VIEWER, Served, served
from tests.cloud.rulesnode import endpoint, rule
from tests.support.wait import eventually

PATH_VALUES = {
    "node": "edge-1",
    "namespace": "default",
    "name": "overheat",
    "rule": "overheat",
    "id": 1,
    "kind": "Rule",
}


async def _with_a_letter(api: Served) -> None:
    """Let the controller hold results and one dead letter."""
    await api.results(1, 2, fail=True)
    api.node.raw("fieldpost/up/edge-1/a:b/update/default/rulestatus/x", b"rubbish")
    await eventually(lambda: api.controller.statistics()["refusals"]["letters"] == 1)


def _asking(route: Route) -> tuple[str, str, dict[str, Any]]:
    """Method, path below /api/v1 and keywords of a request for a route."""
    asking = request_of(route, {name: PATH_VALUES[name] for name in path_names(route)})
    more = {"data": asking.body, "headers": {"Content-Type": "application/json"}} if asking.body else {}
    return asking.method, asking.target.removeprefix("/api/v1"), more


async def test_every_route_by_every_role(tmp_path: Path) -> None:
    """Without a token, or with a wrong one, every route is 401; what changes something is 403 for a viewer, and does
    nothing; everything else is answered to both roles, by type and with no 500.
    """
    async with served(tmp_path, failures_per_s_max=1000) as api:
        await _with_a_letter(api)
        assert api.controller.api is not None
        routes = [route for route in ROUTES if route.operation in api.controller._operations.table()]
        assert {"get.nodes", "dlq.drop", "ledger", "watch.results"} <= {route.operation for route in routes}
        for route in routes:
            method, path, more = _asking(route)
            for token in ("", "wrong-token-of-somebody", VIEWER + "x"):
                answer = await api.ask(method, path, token=token, **more)
                assert answer.status == 401, route
                assert answer.headers["www-authenticate"] == "Bearer"
            if route.kind is Kind.stream:
                continue
            answer = await api.ask(method, path, token=VIEWER, **more)
            assert (answer.status == 403) is (route.role is Role.operator), route
            assert answer.status < 500, (route, answer.body)
        assert len((await api.get("/dlq"))["items"]) == 1
        denied = [row for row in (await api.get("/audit"))["items"] if row["who"] == "grace"]
        assert {row["operation"] for row in denied} == {route.operation for route in routes if route.changes}
        assert all(row["outcome"] == "refused" for row in denied)


async def test_answers_are_of_the_types_of_the_document(tmp_path: Path) -> None:
    """What each reading route answers decodes as the type from which the OpenAPI document was made, without a field
    more or less.
    """
    async with served(tmp_path) as api:
        await _with_a_letter(api)
        await api.ask("POST", "/apply", json={"manifests": [{"text": endpoint() + rule("overheat")}]})
        for route in ROUTES:
            if route.operation not in ANSWERS or route.method != "GET" or route.kind is Kind.stream:
                continue
            _, path, _ = _asking(route)
            answer = await api.get(path)
            kind = ANSWERS[route.operation]
            values = answer["items"] if route.kind is Kind.page else [answer]
            for value in values:
                read = msgspec.convert(value, kind)
                if route.operation != "statistics":
                    assert msgspec.to_builtins(read, enc_hook=_plain) == value
            assert values or route.operation in ("get.losses", "get.audit", "get.sinks")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Epoch) else value


async def test_the_document_has_every_route(tmp_path: Path) -> None:
    """openapi.json needs no token, names every path and method that is there, and all its references lead somewhere."""
    async with served(tmp_path) as api:
        found = await api.get("/openapi.json", token="")
        table = api.controller._operations.table()
        for route in (route for route in ROUTES if route.operation in table):
            said = found["paths"]["/api/v1" + route.path][route.method.lower()]
            assert str(route.role) in said["description"]
            assert [each["name"] for each in said["parameters"] if each["in"] == "path"] == path_names(route)
        text = msgspec.json.encode(found).decode()
        schemas = found["components"]["schemas"]
        assert {"NodeRow", "RuleRow", "ResultRow", "LedgerRow", "Problem", "Readiness"} <= set(schemas)
        for reference in text.split('"#/components/schemas/')[1:]:
            assert reference.split('"')[0] in schemas
        limit = next(each for each in found["paths"]["/api/v1/results"]["get"]["parameters"] if each["name"] == "limit")
        assert (limit["schema"]["minimum"], limit["schema"]["maximum"]) == (1, 1000)


def test_every_operation_says_what_it_takes_and_gives() -> None:
    """Every operation with an answer's type has one for its arguments, and the other way round."""
    assert set(ARGUMENTS) == set(ANSWERS)


# method, path, keywords of the request, name of the problem, and what its detail says
WRONG: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("GET", "/nope", {}, "not_found", "GET /api/v1/nope"),
    ("PUT", "/rules", {}, "method_not_allowed", "PUT /api/v1/rules"),
    ("GET", "/results?limit=0", {}, "bad_request", "limit: a number from 1 to 1000"),
    ("GET", "/results?limit=1001", {}, "bad_request", "limit: a number from 1 to 1000"),
    ("GET", "/results?since=x", {}, "bad_request", "$.since"),
    ("GET", "/results?since=99999999999999999999", {}, "bad_request", "$.since"),
    ("GET", "/results?cursor=x", {}, "bad_request", "cursor"),
    ("GET", "/rules?rul=a", {}, "bad_request", "rul"),
    ("GET", "/rules?rule=a&rule=b", {}, "bad_request", "twice"),
    ("GET", "/rules?rule=a%00b", {}, "bad_request", "NUL"),
    ("GET", "/dlq/7", {}, "not_found", "no dead letter has the id 7"),
    ("GET", "/dlq/seven", {}, "bad_request", "$.id"),
    ("GET", "/ledger?node=nobody", {}, "not_found", "nobody is not known"),
    ("POST", "/nodes/nobody/replace", {}, "not_found", "nobody is not known"),
    ("POST", "/dlq/drop", {"json": {}}, "bad_request", "say which dead letters"),
    ("POST", "/dlq/drop", {"json": [1]}, "bad_request", "not a JSON object"),
    ("POST", "/dlq/drop", {"data": b"{}"}, "media_type", "application/json"),
    ("POST", "/dlq/drop?ids=1", {"json": {}}, "bad_request", "in the body"),
    ("POST", "/dlq/drop", {"json": {"ids": ["1"]}}, "bad_request", "$.ids[0]"),
    ("GET", "/results/stream?since=-1", {}, "bad_request", "$.since"),
    ("GET", "/results/stream", {"headers": {"Last-Event-ID": "x"}}, "bad_request", "Last-Event-ID"),
]


async def test_errors_are_problem_details(tmp_path: Path) -> None:
    """Every error is application/problem+json with type, title, status, what is wrong, where, and what to do."""
    async with served(tmp_path) as api:
        for method, path, more, problem, detail in WRONG:
            answer = await api.ask(method, path, **more)
            status, title, hint = PROBLEMS[problem]
            found = answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert (answer.status, found["status"], found["title"], found["hint"]) == (status, status, title, hint)
            assert found["type"] == f"urn:fieldpost:problem:{problem}"
            assert detail in found["detail"], path
            assert found["instance"] == "/api/v1" + path.partition("?")[0]


async def test_answers_cannot_be_taken_for_a_page(tmp_path: Path) -> None:
    """Every answer, an error too, says that it is no page, is not to be kept, and hides what serves it."""
    async with served(tmp_path) as api:
        for path, token in (("/rules", VIEWER), ("/rules", ""), ("/<script>alert(1)</script>", VIEWER)):
            answer = await api.ask("GET", path, token=token)
            assert answer.headers["content-type"].startswith("application/")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "server" not in answer.headers
