"""Chains in rules and on the seven hook points: what they see, decide and change (flow F2, F4, F5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.chain.loader import single
from common.models import ExecResult
from edge.flow.chains import changed, looks_at_payload, view
from edge.messages import FlowMessage
from tests.flow.chained import Chained, chained
from tests.flow.node import rule


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Chained]:
    """A node without rules."""
    chained_node = Chained(tmp_path, "")
    yield chained_node
    await chained_node.close()


def told(result: ExecResult) -> tuple[str, str, str, str]:
    """What a result says of how it ended."""
    return result.status, result.outcome, result.reason, result.step


@pytest.mark.parametrize(
    ("chain", "status", "outcome", "reason", "step", "detail"),
    [
        ("accept", "SUCCESS", "delivered", "", "", ""),
        ("gt $MSG.payload.t 80 || drop\naccept", "SUCCESS", "filtered", "chain_drop", "chain main:main:1", ""),
        ('reject "not today"', "FAIL", "rejected", "chain_reject", "chain main:main:1", "not today"),
        ("reject", "FAIL", "rejected", "chain_reject", "chain main:main:1", "rejected"),
        ('error "bad"', "FAIL", "rejected", "chain_error", "chain main:main:1", "bad"),
        ("x=1", "FAIL", "rejected", "chain_no_verb", "chain", "no statement of the chain decided"),
        ("x=$RULE\n$x.name = 1", "FAIL", "failed", "chain_fault", "", "PC-RUN"),
        ("goto main", "FAIL", "failed", "chain_limit", "", "PC-LIMIT-GOTO"),
        ("forward nobody", "FAIL", "failed", "unknown_destination", "chain main:main:1", "forward nobody: there is no"),
        ("server bus", "FAIL", "failed", "unknown_destination", "chain main:main:1", "server bus: there is no"),
    ],
)  # fmt: skip
async def test_each_outcome_of_a_chain(
    node: Chained, chain: str, status: str, outcome: str, reason: str, step: str, detail: str
) -> None:
    """F5: outcome, reason code, the step that decided and the words; nothing but accept delivers."""
    node.load(chained("a", chain))
    node.arrive("m-1", b'{"t": 20}')
    (result,) = await node.ended(1)
    assert (result.status, result.outcome, result.reason) == (status, outcome, reason)
    assert result.step.startswith(step)
    assert detail in result.error.detail
    assert bool(node.kind.delivered) is (outcome == "delivered")


async def test_a_chain_rewrites_the_message(node: Chained) -> None:
    """What it changes is delivered; another rule on the same message sees what came."""
    node.load(
        chained(
            "a",
            'gt $MSG.payload.t 80 || drop\n$MSG.payload.severity = "high"\n$MSG.headers["x-by"] = $RULE.name\naccept',
        )
        + chained("b", "eq $MSG.payload.severity high && reject\naccept")
    )
    node.arrive("m-1", b'{"t": 90}')
    assert {r.outcome for r in await node.ended(2)} == {"delivered"}
    messages = {name: message for name, _, message in node.kind.delivered}
    assert messages["a"].payload == {"t": 90, "severity": "high"}
    assert (messages["a"].headers, messages["a"].msgid) == ({"x-by": "a"}, "m-1")
    assert messages["b"].payload == b'{"t": 90}'


async def test_an_untouched_payload_stays_the_bytes_that_came(node: Chained) -> None:
    """Odd spacing, big numbers, no JSON at all: a chain that only looks, or changes a header, leaves them alone."""
    node.load(chained("a", 'is-null $MSG.payload.t\n$MSG.headers.x = "1"\naccept'))
    payloads = (b'{ "t":1.50 }', b"\xff\xfe", b"text", b"", b'{"t": 99999999999999999999}')
    for number, payload in enumerate(payloads):
        node.arrive(str(number), payload)
    await node.ended(len(payloads))
    assert [message.body() for _, _, message in node.kind.delivered] == list(payloads)


async def test_forwarding(node: Chained) -> None:
    """To another endpoint, and to another rule, which has an execution and a result of its own."""
    node.load(
        chained("a", "forward other")
        + chained("b", "eq $MSG._msgid m-2 || drop\nforward c").replace("in/#", "in/m-2")
        + chained("c", '$MSG.payload = "by c"\naccept').replace("in/#", "never")
    )
    node.kind.wirings = [w for w in node.kind.wirings if w.resource["topic"] != "never"]
    node.arrive("m-2")
    results = {(r.rule_id, r.outcome) for r in await node.ended(3)}
    assert results == {("a", "delivered"), ("b", "delivered"), ("c", "delivered")}
    assert {(name, endpoint, m.payload) for name, endpoint, m in node.kind.delivered} == {
        ("a", "other", b"p"), ("c", "bus", "by c"),
    }  # fmt: skip


async def test_rules_that_forward_in_a_circle_are_stopped(node: Chained) -> None:
    """Above 16 rules a message is stopped as FAIL loop; each of the executions has one result."""
    node.load(chained("a", "forward b") + chained("b", "forward a").replace("in/#", "never"))
    node.kind.wirings = node.kind.wirings[:1]
    node.arrive("m-1")
    results = await node.ended(18)
    assert [r.reason for r in results].count("loop") == 1
    assert node.kind.delivered == []


async def test_a_rule_that_hits_limits_rests(node: Chained) -> None:
    """Five in a row: then it is suspended and says so, wakes after a while, and rests twice as long next time."""
    node.load(chained("a", "eq $MSG.payload loop && goto main\naccept"))

    async def reasons(*payloads: bytes) -> list[str]:
        before = len(node.results())
        for payload in payloads:
            node.arrive("m", payload)
        return [r.reason for r in (await node.ended(before + len(payloads)))[before:]]

    assert await reasons(*[b"loop"] * 4, b"ok", *[b"loop"] * 5) == [*["chain_limit"] * 4, "", *["chain_limit"] * 5]
    assert await reasons(b"ok") == ["suspended"]
    node.time.advance(1.1)
    assert await reasons(b"loop", b"ok") == ["chain_limit", "suspended"]
    node.time.advance(1.1)
    assert await reasons(b"ok") == ["suspended"]
    node.time.advance(1.0)
    assert await reasons(b"ok", b"loop", b"ok") == ["", "chain_limit", ""]


# -- chains on the hook points -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "chain", "reasons"),
    [
        ("onSend", "eq $DESTINATION.id rule/default/a && drop", ["hook_halt", "hook_halt"]),
        ("preRoute", "eq $DESTINATION.id rule/default/a && drop", ["", "hook_halt"]),
        ("preDeliver", "eq $DESTINATION.id rule/default/a && reject", ["", "hook_error"]),
        ("onReceive", 'eq $DESTINATION.id rule/default/a && error "odd"', ["", "hook_error"]),
        ("preRoute", "eq $DESTINATION.id rule/default/a && goto main", ["", "hook_error"]),
        ("postDeliver", "drop", ["", ""]),
        ("postReceive", "reject", ["", ""]),
        ("onComplete", "reject", ["", ""]),
    ],
)
async def test_chains_on_each_hook_point(node: Chained, name: str, chain: str, reasons: list[str]) -> None:
    """F2: accept goes on, drop halts quietly, reject halts with an error, as the Python hooks of the point do."""
    node.load(rule("a") + rule("b"))
    mounted = node.points.mount(name, single(chain))
    node.arrive("m-1")
    assert sorted(r.reason for r in await node.ended(2)) == reasons
    node.points.unmount(name, mounted)
    node.arrive("m-2")
    assert [r.reason for r in (await node.ended(4))[2:]] == ["", ""]


async def test_a_chain_changes_destination_and_message(node: Chained) -> None:
    """forward ID at preRoute; the message at any point; after the Python hooks of the same point."""
    node.load(rule("a") + rule("b"))
    node.hooks.add("preRoute", lambda event: setattr(event.msg, "payload", {"by": "hook"}))
    node.points.mount("preRoute", single("eq $DESTINATION.id rule/default/a && forward rule/default/b"))
    node.points.mount("preDeliver", single('eq $MSG.payload.by hook && $MSG.payload.then = "chain"'))
    node.arrive("m-1")
    assert [r.rule_id for r in await node.ended(2)] == ["b", "b"]
    assert [m.payload for _, _, m in node.kind.delivered] == [{"by": "hook", "then": "chain"}] * 2


# -- the view of a message ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "looks"),
    [
        ("eq $MSG.topic a", False), ("eq $MSG.payload.x 1", True), ("x=$MSG", True), ("echo ${MSG.headers.a}", False),
        ('x=$MSG["payload"]', True), ("eq $MSG.payloads 1", False), ("eq $MSG?.payload 1", True),
    ],
)  # fmt: skip
def test_json_is_parsed_only_when_a_chain_looks(chain: str, looks: bool) -> None:
    """F3: by the text of the chain, and never wrongly on the side of not parsing."""
    assert looks_at_payload(single(chain)) is looks


def test_view_and_back() -> None:
    """A message over HTTP shows path, method and query; what is no text in headers and key is not taken over."""
    message = FlowMessage(b"[1]", "/a", "m", {"h": "1"}, {"p": "2"}, "GET", "q=1")
    seen = view(message)
    assert {name: seen[name] for name in ("path", "method", "query", "payload")} == {
        "path": "/a", "method": "GET", "query": "q=1", "payload": [1],
    }  # fmt: skip
    assert changed(message, seen, dict(seen)) == message
    made: dict[str, Any] = {**seen, "path": "", "headers": {"H": 2}, "payload": None, "_msgid": "other"}
    back = changed(message, seen, made)
    assert (back.key, back.headers, back.payload, back.msgid) == ("/a", {"h": "2"}, None, "m")
