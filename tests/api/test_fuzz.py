"""Whatever stands in path, query, headers and body: an answer with a meaning, never a 500 (reliability R3, input)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.api import ROUTES, Kind, path_names
from tests.api.served import OPERATOR, Answer, Served, raw, served
from tests.support.examples import examples

_NAMES = ["limit", "cursor", "since", "before", "namespace", "rule", "status", "per_node", "node", "kind", "reason",
          "operation", "who", "id", "ids", "older_s", "x"]  # fmt: skip
_TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["0", "-1", "1", "true", "null", "1e400", "nan", str(2**63), "[]", "\0", "a" * 5000, "WzFd", "%"]),
)
_QUERIES = st.lists(st.tuples(st.sampled_from(_NAMES), _TEXTS), max_size=4)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4)),
    max_leaves=8,
)
_BODIES = st.one_of(st.binary(max_size=60), _JSON.map(lambda value: msgspec.json.encode(value)))
_ASKED = [route for route in ROUTES if route.kind is not Kind.stream]

Run = Callable[[Callable[[Served], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A controller that serves all examples, on a loop of its own."""
    directory = tmp_path_factory.mktemp("fuzz")
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        context = served(directory, requests_per_s_max=100_000)
        api = runner.run(context.__aenter__())
        stack.callback(lambda: runner.run(context.__aexit__(None, None, None)))
        yield lambda work: runner.run(work(api))


def _encoded(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(_ASKED), _QUERIES, _TEXTS, _BODIES)
def test_no_argument_is_a_fault(run: Run, route: Any, query: list[tuple[str, str]], text: str, body: bytes) -> None:
    """Every route with arguments of every kind answers below 500, and its errors are problems."""
    path = "/api/v1" + route.path
    for name in path_names(route):
        path = path.replace(f"{{{name}}}", _encoded(text) or "x")
    target = path + "?" + "&".join(f"{name}={_encoded(value)}" for name, value in query)
    head = f"{route.method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPERATOR}\r\nConnection: close\r\n"
    if route.method == "POST":
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    answer = run(lambda api: raw(api.port, head.encode() + b"\r\n" + (body if route.method == "POST" else b"")))
    status = int(answer.split()[1])
    assert status < 500, answer
    if status >= 400:
        problem = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])
        assert problem["status"] == status


@settings(max_examples=examples(20), deadline=None)
@given(st.binary(max_size=300))
def test_bytes_that_are_no_request_end_the_connection(run: Run, data: bytes) -> None:
    """Rubbish gets 400 or nothing, and the next one is served."""

    async def work(api: Served) -> Answer:
        with contextlib.suppress(ConnectionError):
            answer = await raw(api.port, data + b"\r\n\r\n")
            assert not answer or answer.split()[1] in (b"400", b"404", b"405"), answer
        return await api.ask("GET", "//healthz", token="")

    assert run(work).status == 200


def test_the_fuzzed_controller_had_no_fault(run: Run) -> None:
    """After all of that nothing runs and no request has failed inside."""

    async def work(api: Served) -> dict[str, int]:
        return api.counts()

    counts = run(work)
    assert (counts["faults"], counts["running"], counts["watching"]) == (0, 0, 0)
