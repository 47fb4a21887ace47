"""The hook points on a message's way, and what they do to delivery and status (flow F1, F2 rules 7 and 8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.models import ExecResult
from edge.flow.events import CompleteEvent, Place, ReceiveEvent, SendEvent
from edge.flow.hooks import POINTS
from edge.messages import DELIVERED, FlowMessage, Rejected
from tests.flow.node import Played, rule
from tests.flow.test_hooks import STYLES, Style, failing, plain
from tests.support.wait import eventually

HALTING = ("onSend", "preRoute", "preDeliver", "onReceive")
OBSERVING = ("postDeliver", "postReceive", "onComplete")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Played]:
    """A node with the rules a and b, both on every message."""
    played = Played(tmp_path, rule("a") + rule("b"))
    yield played
    await played.close()


def told(result: ExecResult) -> tuple[str, str, str, str]:
    """What a result says, in short."""
    return result.rule_id, result.status, result.outcome, result.reason


async def test_6_rules_of_the_node_are_for_its_labels(tmp_path: Path) -> None:
    """A nodeSelector holds for rules of the node's own files; whom a rule of the cloud's is for, the cloud has said."""
    site = ", nodeSelector: {site: a}"
    manifests = rule("any") + rule("site-a", extra=site) + rule("site-b", extra=", nodeSelector: {site: b}")
    manifests += rule("sent", extra=", nodeSelector: {site: b}").replace("{name: sent}", "{name: sent, uid: u-1}")
    for labels, wanted in (({"site": "a"}, {"any", "site-a", "sent"}), ({}, {"any", "sent"})):
        directory = tmp_path / f"{len(labels)}"
        directory.mkdir()
        node = Played(directory, manifests, labels=labels)
        assert {name for name in ("any", "site-a", "site-b", "sent") if node.rules.named(name)} == wanted
        await node.close()


async def test_7_the_way_of_a_message(node: Played) -> None:
    """All seven points in their order, for the rule and within it for its target; onComplete of both, the rule last."""
    trace: list[tuple[str, str, str]] = []

    def note(name: str) -> Any:
        def handler(payload: Any) -> None:
            for event in payload if isinstance(payload, list) else [payload]:
                if isinstance(event, SendEvent):
                    trace.append((name, event.source.id, event.destination.id))
                elif isinstance(event, ReceiveEvent):
                    trace.append((name, "", event.destination.id))
                else:
                    trace.append((name, "", event.node.id))

        return handler

    for name in POINTS:
        node.hooks.add(name, note(name))
    node.load(rule("a"))
    node.arrive("m-1")
    source, of_rule, target = "source/bus", "rule/default/a", "endpoint/default/bus"
    assert trace == [
        ("onSend", source, of_rule), ("preRoute", source, of_rule), ("preDeliver", source, of_rule),
        ("postDeliver", source, of_rule), ("onReceive", "", of_rule),
        ("onSend", of_rule, target), ("preRoute", of_rule, target), ("preDeliver", of_rule, target),
        ("postDeliver", of_rule, target), ("onReceive", "", target),
        ("onComplete", "", target), ("onComplete", "", of_rule),
        ("postReceive", "", target), ("postReceive", "", of_rule),
    ]  # fmt: skip
    assert [told(r) for r in await node.ended(1)] == [("a", "SUCCESS", "delivered", "")]


async def test_7_what_each_event_holds(node: Played) -> None:
    """onSend gets the list; destinations have their node from preDeliver on, not before; ids and ports are there."""
    sends: list[Any] = []
    node.hooks.add("onSend", plain(lambda events: sends.append([e.destination.node for e in events])))
    node.hooks.add("preRoute", plain(lambda event: sends.append(event.destination.node)))
    node.hooks.add("preDeliver", plain(lambda event: sends.append(event.destination.node.id)))
    node.load(rule("a"))
    node.arrive("m-1")
    assert sends == [[None], None, "rule/default/a", [None], None, "endpoint/default/bus"]
    await node.ended(1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", HALTING)
async def test_7_false_halts(node: Played, name: str, style: Style) -> None:
    """At onSend all events, elsewhere this one; each is one result, filtered with hook_halt, and not delivered."""
    node.hooks.add(name, style(lambda payload: False if _for_rule_a(payload) else None))
    node.arrive("m-1")
    results = sorted(told(r) for r in await node.ended(2))
    halted = ("SUCCESS", "filtered", "hook_halt")
    if name == "onSend":
        assert results == [("a", *halted), ("b", *halted)]
        assert node.kind.delivered == []
    else:
        assert results == [("a", *halted), ("b", "SUCCESS", "delivered", "")]
        assert [name for name, _, _ in node.kind.delivered] == ["b"]
    assert node.rules.router.halted == len([r for r in results if r[3]])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", HALTING)
async def test_7_an_error_halts_and_is_told(
    node: Played, name: str, style: Style, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes to the sender up to preDeliver, to the receiver from onReceive on, with the message; FAIL hook_error."""
    node.hooks.add(f"{name}.audit", style(lambda payload: failing(payload) if _for_rule_a(payload) else None))
    node.arrive("m-1")
    results = {r.rule_id: r for r in await node.ended(2)}
    failed = results["a"]
    assert told(failed) == ("a", "FAIL", "failed", "hook_error")
    assert (failed.error.detail, failed.step) == (f"hook {name}.audit: broken", f"hook {name}.audit")
    assert (results["b"].outcome == "delivered") is (name != "onSend")
    place = "rule default/a" if name == "onReceive" else "source/bus"
    assert any(place in line and "m-1" in line and "broken" in line for line in caplog.messages)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", OBSERVING)
async def test_7_observing_points_change_nothing(node: Played, name: str, style: Style) -> None:
    """False is ignored, an error is told; the message is delivered either way."""
    node.hooks.add(name, style(lambda payload: False))
    node.hooks.add(f"{name}.broken", style(failing))
    node.arrive("m-1")
    assert {told(r) for r in await node.ended(2)} == {
        ("a", "SUCCESS", "delivered", ""),
        ("b", "SUCCESS", "delivered", ""),
    }
    assert node.rules.router.halted == 0


@pytest.mark.parametrize("name", ["preRoute", "preDeliver", "onReceive"])
@pytest.mark.parametrize("style", STYLES)
async def test_7_halts_between_rule_and_target(node: Played, name: str, style: Style) -> None:
    """The rule's own send to its target is part of the execution: a halt there is its outcome, too."""
    node.hooks.add(name, style(lambda payload: False if payload.destination.id.startswith("endpoint") else None))
    node.arrive("m-1")
    assert {told(r)[1:] for r in await node.ended(2)} == {("SUCCESS", "filtered", "hook_halt")}
    assert node.kind.delivered == []


async def test_7_an_unknown_destination_fails(node: Played) -> None:
    """A hook that sends a message to a node that is not there: one result, and the sender is told."""
    node.hooks.add("preRoute", plain(lambda event: setattr(event.destination, "id", "rule/default/nobody")))
    node.arrive("m-1")
    results = await node.ended(2)
    assert {told(r)[1:] for r in results} == {("FAIL", "failed", "unknown_destination")}
    assert results[0].error.detail == "there is no node 'rule/default/nobody' here"
    assert node.rules.router.unmatched == 2


async def test_7_exactly_one_onComplete(node: Played) -> None:
    """Whatever happens: delivered, refused, halted, hook error, timeout, a target that answers twice."""
    completed: list[tuple[str, str, str]] = []

    def complete(event: CompleteEvent) -> None:
        if event.node.id.startswith("rule"):
            completed.append((event.msg.msgid, event.node.id, str(event.error or "")))

    node.load(rule("a", extra=", timeout: 50ms"))
    node.hooks.add("onComplete", complete)
    node.arrive("delivered")
    node.kind.answer = lambda done: done(Rejected("target_status_500", "no"))
    node.arrive("refused")
    node.kind.answer = lambda done: (done(DELIVERED), done(DELIVERED))
    node.arrive("twice")
    node.kind.answer = lambda done: None
    node.arrive("never")
    node.hooks.add("preDeliver.halt", plain(lambda event: False))
    node.arrive("halted")
    node.hooks.remove("preDeliver.halt")
    node.hooks.add("preDeliver.fail", failing)
    node.arrive("failed")
    await node.ended(6)
    assert sorted(completed) == [
        ("delivered", "rule/default/a", ""),
        ("failed", "rule/default/a", "hook_error: hook preDeliver.fail: broken"),
        ("halted", "rule/default/a", ""),
        ("never", "rule/default/a", "target_timeout: the target did not answer within 0.05 s"),
        ("refused", "rule/default/a", "target_status_500: no"),
        ("twice", "rule/default/a", ""),
    ]


# -- rule 8: cloning, and what a hook may change -----------------------------------------------------------------------


async def test_8_the_first_gets_the_message_the_others_copies(node: Played) -> None:
    """Made before any of them goes on: what a hook changes in one does not meet the others."""
    seen: dict[str, list[Any]] = {"preRoute": [], "preDeliver": []}
    for name, events in seen.items():
        node.hooks.add(
            name, plain(lambda e, events=events: events.append(e.msg) if e.source.id == "source/bus" else None)
        )
    node.arrive("m-1", {"deep": [1]})
    first, second = seen["preDeliver"]
    assert seen["preRoute"] == [first, second]
    assert second is not first
    second.payload["deep"].append(2)
    assert (first.payload, second.payload) == ({"deep": [1]}, {"deep": [1, 2]})
    assert first.msgid == second.msgid == "m-1"
    await node.ended(2)


async def test_8_a_hook_decides_on_cloning(node: Played) -> None:
    """clone_message may be set by a hook at onSend and preRoute."""
    passed: list[Any] = []
    node.hooks.add("onSend", plain(lambda events: [setattr(e, "clone_message", False) for e in events] and None))
    node.hooks.add(
        "onReceive", plain(lambda event: passed.append(event.msg) if "rule" in event.destination.id else None)
    )
    node.arrive("m-1")
    assert passed[0] is passed[1]
    await node.ended(2)


@pytest.mark.parametrize("style", STYLES)
async def test_8_changing_the_list_in_onSend(node: Played, style: Style) -> None:
    """An event that a hook takes out is filtered, one that it adds is an execution of its own."""

    def change(events: list[SendEvent]) -> None:
        if events[0].source.id == "source/bus":
            del events[0]
            events.append(SendEvent(FlowMessage(b"new", "in/new", "m-2"), events[0].source, Place("rule/default/a")))

    node.hooks.add("onSend", style(change))
    node.arrive("m-1")
    results = sorted((r.source_id, *told(r)) for r in await node.ended(3))
    assert results == [
        ("m-1", "a", "SUCCESS", "filtered", "hook_halt"),
        ("m-1", "b", "SUCCESS", "delivered", ""),
        ("m-2", "a", "SUCCESS", "delivered", ""),
    ]


@pytest.mark.parametrize("style", STYLES)
async def test_8_changing_the_destination_in_preRoute(node: Played, style: Style) -> None:
    """From one rule to another, whose result it then is; from one target to another."""

    def change(event: SendEvent) -> None:
        if event.destination.id == "rule/default/a":
            event.destination.id = "rule/default/b"
        elif event.destination.id == "endpoint/default/bus":
            event.destination.id = "endpoint/default/other"

    node.hooks.add("preRoute", style(change))
    node.arrive("m-1")
    assert [told(r) for r in await node.ended(2)] == [("b", "SUCCESS", "delivered", "")] * 2
    assert [(name, endpoint) for name, endpoint, _ in node.kind.delivered] == [("b", "other")] * 2


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["preDeliver", "onReceive"])
async def test_8_changing_the_message(node: Played, name: str, style: Style) -> None:
    """A field, or the whole message: the target gets what the hook made of it."""

    def change(event: SendEvent | ReceiveEvent) -> None:
        if event.destination.id == "rule/default/a":
            event.msg.payload = b"changed"
        elif event.destination.id == "rule/default/b":
            event.msg = FlowMessage(b"replaced", event.msg.key, event.msg.msgid)

    node.hooks.add(name, style(change))
    node.arrive("m-1")
    await node.ended(2)
    assert sorted((name, message.payload) for name, _, message in node.kind.delivered) == [
        ("a", b"changed"),
        ("b", b"replaced"),
    ]


async def test_8_the_journal_keeps_what_came(node: Played) -> None:
    """A reliable input that takes long is journalled as it arrived, whatever hooks made of it (P5.3)."""
    node.kind.answer = lambda done: None
    node.hooks.add("onSend", plain(lambda events: setattr(events[0].msg, "payload", b"changed")))
    node.load(rule("a", extra=", timeout: 100ms"))
    node.arrive("m-1", b"came", reliable=True)
    await node.ended(1)
    assert node.settled == ["m-1"]


# -- order and isolation (F1) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onSend", "preRoute", "preDeliver", "onReceive"])
async def test_1_an_asynchronous_hook_keeps_order(node: Played, name: str) -> None:
    """Per source and rule, even when later messages' hooks would answer first."""
    turns = iter([0.02, 0.0, 0.01, 0.0, 0.005] * 10)

    async def slowly(payload: Any) -> None:
        await asyncio.sleep(next(turns, 0))

    node.hooks.add(name, slowly)
    for number in range(5):
        node.arrive(str(number))
    await node.ended(10)
    for of_rule in ("a", "b"):
        assert [m.msgid for name, _, m in node.kind.delivered if name == of_rule] == list("01234")


async def test_1_an_asynchronous_hook_of_one_rule_stalls_no_other(node: Played) -> None:
    """While rule a waits for its hook, rule b's messages go their way; a's come behind, in order."""
    gate = asyncio.Event()

    async def wait(event: SendEvent) -> None:
        if event.destination.id == "rule/default/a":
            await gate.wait()

    node.hooks.add("preDeliver", wait)
    for number in range(100):
        node.arrive(str(number))
    await eventually(lambda: len(node.kind.delivered) >= 100)
    assert [name for name, _, _ in node.kind.delivered] == ["b"] * 100
    gate.set()
    await node.ended(200)
    assert [m.msgid for name, _, m in node.kind.delivered if name == "a"] == [str(n) for n in range(100)]


async def test_1_messages_that_wait_for_a_hook_are_bounded(tmp_path: Path) -> None:
    """Above the rule's bound they are dropped and counted, as in its queue."""
    node = Played(tmp_path, rule("a"))
    gate = asyncio.Event()

    async def wait(event: SendEvent) -> None:
        await gate.wait()

    node.hooks.add("preDeliver", wait)
    for number in range(1100):
        node.arrive(str(number))
        await asyncio.sleep(0)
    gate.set()
    outcomes = [(r.outcome, r.reason) for r in await node.ended(1100)]
    assert (outcomes.count(("delivered", "")), outcomes.count(("dropped", "queue_full"))) == (1000, 100)
    await node.close()


def _for_rule_a(payload: Any) -> bool:
    event = payload[0] if isinstance(payload, list) else payload
    return bool(event.destination.id == "rule/default/a")
