"""Every execution ends, once and in order, whatever hooks, chains, targets and new rules do to it (flow F1, F2.7)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.rules import Rule
from edge.flow.events import SendEvent
from edge.messages import DELIVERED
from edge.rules.execution import Execution
from edge.spooltables import Input
from edge.status import RuleRef
from tests.edge.support import Collected
from tests.flow.node import Played, rule
from tests.support.wait import eventually


class Forwards:
    """A chain that forwards what comes to a rule; ``to`` is rule -> other rule."""

    def __init__(self, to: dict[str, str]) -> None:
        self._to = to

    def of(self, rule: Rule, ref: RuleRef, resolve: Callable[[str, str], str | None]) -> Any:
        """See Decide."""
        if rule.metadata.name not in self._to:
            return None

        class Decision:
            """See edge.rules.binding.Decision."""

            def decide(_, execution: Execution) -> str | None:
                return resolve("forward", self._to[rule.metadata.name]) or "rule/default/unresolved"

        return Decision()


def reroute(played: Played, before: str, after: str) -> None:
    """Let a preRoute hook send to ``after`` what goes to ``before``."""

    def change(event: SendEvent) -> None:
        if event.destination.id == before:
            event.destination.id = after

    played.hooks.add("preRoute", change)


@pytest.mark.parametrize("later", [False, True])
async def test_a_hook_may_send_from_a_source_to_a_target(tmp_path: Path, later: bool) -> None:
    """The rule is passed by, its execution is delivered, once, also when the target answers later."""
    node = Played(tmp_path, rule("a"))
    held: list[Callable[[Any], None]] = []
    if later:
        node.kind.answer = held.append
    reroute(node, "rule/default/a", "endpoint/default/bus")
    node.arrive("m-1", reliable=True)
    for done in held:
        done(DELIVERED)
    assert [r.outcome for r in await node.ended(1)] == ["delivered"]
    await node.close()


async def test_what_is_sent_to_another_rule_has_that_rules_timeout(tmp_path: Path) -> None:
    """A rule that nothing else is going on with is swept as soon as a hook sends it something."""
    node = Played(tmp_path, rule("a") + rule("b", extra=", timeout: 50ms"))
    node.kind.answer = lambda done: None
    node.kind.wirings = [w for w in node.kind.wirings if w.consumer.rule.name == "a"]
    reroute(node, "rule/default/a", "rule/default/b")
    node.arrive("m-1", reliable=True)
    assert [(r.rule_id, r.reason) for r in await node.ended(1)] == [("b", "target_timeout")]
    assert node.settled == ["m-1"]
    await node.close()


async def test_what_another_rule_takes_over_is_journalled_for_the_first(tmp_path: Path) -> None:
    """P5.3: a slow target behind a change of destination holds up no source; after a crash the hooks decide again."""
    node = Played(tmp_path, rule("a") + rule("b"))
    node.kind.answer = lambda done: None
    node.kind.wirings = [w for w in node.kind.wirings if w.consumer.rule.name == "a"]
    reroute(node, "rule/default/a", "rule/default/b")
    node.arrive("m-1", reliable=True)
    await eventually(lambda: node.settled == ["m-1"])
    await node.spool.spool.stop()
    assert [item.rule for item in Collected(tmp_path).inputs] == ["a"]


@pytest.mark.parametrize("hooked", [False, True])
async def test_what_a_rule_forwards_is_on_disk_before_the_rule_is_done(tmp_path: Path, hooked: bool) -> None:
    """R1.1: forwarded is delivered when the other rule has its input or result on disk; its timeout holds there."""
    forwards = Forwards({"a": "b"})
    node = Played(tmp_path, rule("a") + rule("b", extra=", timeout: 200ms"), decide=forwards.of)
    node.kind.answer = lambda done: None
    node.kind.wirings = [w for w in node.kind.wirings if w.consumer.rule.name == "a"]
    if hooked:
        node.hooks.add("onSend", lambda events: None)
    node.arrive("m-1", reliable=True)
    assert node.rules.named("a").running == 1  # type: ignore[union-attr]
    await eventually(lambda: [(r.rule_id, r.outcome) for r in node.results()] == [("a", "delivered")])
    await node.spool.spool.stop()
    left = Collected(tmp_path).inputs
    assert [(item.rule, item.msg_id) for item in left] == [("b", "m-1")]


async def test_a_rule_may_forward_to_one_that_came_later(tmp_path: Path) -> None:
    """Names of rules mean what runs now, not what ran when the rule was made."""
    node = Played(tmp_path, rule("a"), decide=Forwards({"a": "b"}).of)
    node.load(rule("a") + rule("b"))
    node.kind.wirings = [w for w in node.kind.wirings if w.consumer.rule.name == "a"]
    node.arrive("m-1")
    assert {(r.rule_id, r.outcome) for r in await node.ended(2)} == {("a", "delivered"), ("b", "delivered")}
    await node.close()


async def test_a_rule_that_forwards_to_itself_ends(tmp_path: Path) -> None:
    """F3: the hop count stops it; each pass is one result."""
    node = Played(tmp_path, rule("a"), decide=Forwards({"a": "a"}).of)
    node.arrive("m-1")
    results = await node.ended(18)
    assert sorted(r.reason for r in results) == [""] * 17 + ["loop"]
    await node.close()


@pytest.mark.parametrize("hold", [False, True])
async def test_a_hook_that_sends_an_event_twice_makes_two_executions(tmp_path: Path, hold: bool) -> None:
    """Each has one result, and the source is settled by the one that it belongs to."""
    node = Played(tmp_path, rule("a"))
    held: list[Callable[[Any], None]] = []
    if hold:
        node.kind.answer = held.append

    def twice(events: list[SendEvent]) -> None:
        if events[0].source.id == "source/bus":
            events.append(events[0])

    node.hooks.add("onSend", twice)
    node.arrive("m-1", reliable=True)
    for done in held:
        done(DELIVERED)
    assert [r.outcome for r in await node.ended(2)] == ["delivered", "delivered"]
    assert node.settled == ["m-1"]
    await node.close()


async def test_a_hook_on_one_rules_message_does_not_change_anothers(tmp_path: Path) -> None:
    """F2.8: copies are made of what came, not of what a hook made of the first one meanwhile."""
    node = Played(tmp_path, rule("a") + rule("b") + rule("c"))

    def change(event: SendEvent) -> None:
        if event.destination.id == "rule/default/a":
            event.msg.payload["secret"] = "for a"

    node.hooks.add("preDeliver", change)
    node.arrive("m-1", {"secret": ""})
    await node.ended(3)
    assert {name: m.payload["secret"] for name, _, m in node.kind.delivered} == {"a": "for a", "b": "", "c": ""}
    await node.close()


async def test_a_hook_that_comes_while_messages_wait_changes_only_its_own(tmp_path: Path) -> None:
    """Rules share a message as long as no hook is there; one that comes then gets a copy."""
    node = Played(tmp_path, rule("a") + rule("b"))
    first, second = (w.consumer for w in node.kind.wirings)
    first._flow = second._flow = type(first._flow)(running_max=1)
    held: list[Callable[[Any], None]] = []
    node.kind.answer = held.append
    node.arrive("m-1")
    node.arrive("m-2", {"n": 0})
    node.hooks.add("preDeliver", lambda event: event.msg.payload.update(n=event.msg.payload["n"] + 1))
    for done in held:  # it grows
        done(DELIVERED)
    assert [m.payload for _, _, m in node.kind.delivered if m.msgid == "m-2"] == [{"n": 1}, {"n": 1}]
    await node.ended(4)
    await node.close()


async def test_a_journalled_input_passes_the_hooks_again(tmp_path: Path) -> None:
    """A hook that halts or changes messages cannot be passed by through a crash (P5.3, F2)."""
    before = Played(tmp_path, rule("a"))
    before.kind.answer = lambda done: None
    before.arrive("m-1", b"secret", reliable=True)
    before.arrive("m-2", b"secret", reliable=True)
    await eventually(lambda: before.settled == ["m-1", "m-2"])
    await before.spool.spool.stop()
    after = Played(tmp_path, rule("a"))
    sources: list[str] = []

    def redact(event: SendEvent) -> bool | None:
        if event.destination.id == "rule/default/a":
            sources.append(event.source.id)
            event.msg.payload = b"redacted"
            return None if event.msg.msgid == "m-1" else False
        return None

    after.hooks.add("preDeliver", redact)
    after.rules.resume(after.spool.inputs)
    assert {(r.source_id, r.outcome, r.attempts) for r in await after.ended(2)} == {
        ("m-1", "delivered", 2),
        ("m-2", "filtered", 2),
    }
    assert [m.payload for _, _, m in after.kind.delivered] == [b"redacted"]
    assert sources == ["source/bus"] * 2
    await after.close()
    assert Collected(tmp_path).inputs == []


async def test_resumed_inputs_know_no_bound(tmp_path: Path) -> None:
    """They were accepted: with hooks, too, none is dropped at queue_max."""
    node = Played(tmp_path, rule("a"))
    (wiring,) = node.kind.wirings
    wiring.consumer._flow = type(wiring.consumer._flow)(queue_max=1)
    gate = asyncio.Event()

    async def wait(event: SendEvent) -> None:
        await gate.wait()

    node.hooks.add("preDeliver", wait)
    node.rules.resume([Input(f"i-{n}", "default", "a", f"m-{n}", "in/x", b"p", 2) for n in range(5)])
    gate.set()
    assert {r.outcome for r in await node.ended(5)} == {"delivered"}
    await node.close()


async def test_order_is_kept_when_the_last_hook_goes(tmp_path: Path) -> None:
    """A message does not pass one that still waits for the hook that was removed meanwhile."""
    node = Played(tmp_path, rule("a"))
    gate = asyncio.Event()

    async def wait(event: SendEvent) -> None:
        await gate.wait()

    node.hooks.add("preDeliver.slow", wait)
    node.arrive("m-1")
    node.hooks.remove("preDeliver.slow")
    node.arrive("m-2")
    gate.set()
    await node.ended(2)
    assert [m.msgid for _, _, m in node.kind.delivered] == ["m-1", "m-2"]
    await node.close()


async def test_order_is_kept_over_several_changes_of_a_rule(tmp_path: Path) -> None:
    """The version after next waits for the first, too; and versions that ended are not kept in memory."""
    node = Played(tmp_path, rule("a"))
    (wiring,) = node.kind.wirings
    wiring.consumer._flow = type(wiring.consumer._flow)(running_max=1)
    held: list[Callable[[Any], None]] = []
    node.kind.answer = held.append
    node.arrive("m-1")
    node.arrive("m-2")
    for seconds in (20, 30):
        node.load(rule("a", extra=f", timeout: {seconds}s"))
    node.arrive("m-3")
    while held:
        held.pop(0)(DELIVERED)
        node.rules._sweep()
    assert [m.msgid for _, _, m in node.kind.delivered] == ["m-1", "m-2", "m-3"]
    await node.ended(3)
    for seconds in (40, 50, 60):
        node.load(rule("a", extra=f", timeout: {seconds}s"))
    await eventually(lambda: all(t.closed for t in node.kind.targets[:-1]))
    assert node.rules.named("a")._after is None  # type: ignore[union-attr]
    await node.close()


async def test_order_is_kept_when_a_rule_goes_and_comes_again(tmp_path: Path) -> None:
    """What it took before it was taken away is started before what comes after it is back."""
    node = Played(tmp_path, rule("a"))
    (wiring,) = node.kind.wirings
    wiring.consumer._flow = type(wiring.consumer._flow)(running_max=1)
    held: list[Callable[[Any], None]] = []
    node.kind.answer = held.append
    node.arrive("m-1")
    node.arrive("m-2")
    node.load("")
    node.load(rule("a"))
    node.arrive("m-3")
    while held:
        held.pop(0)(DELIVERED)
        node.rules._sweep()
    assert [m.msgid for _, _, m in node.kind.delivered] == ["m-1", "m-2", "m-3"]
    await node.ended(3)
    assert node.rules._leaving == {}
    await node.close()


async def test_counters_stay_when_a_rule_is_idle_or_gone(tmp_path: Path) -> None:
    """R1.5: what was counted once is not forgotten with its binding."""
    node = Played(tmp_path, rule("a", extra=", timeout: 20ms"))
    held: list[Callable[[Any], None]] = []
    node.kind.answer = held.append
    node.arrive("m-1")
    await node.ended(1)
    held[0](DELIVERED)
    assert node.rules.statistics()["late"] == 1
    node.load("")
    await eventually(lambda: all(target.closed for target in node.kind.targets))
    assert node.rules.statistics()["late"] == 1
    await node.close()


async def test_a_message_that_cannot_be_copied_stops_nobody(tmp_path: Path) -> None:
    """A hook that puts something impossible into a message fails that message; the next ones go their way."""
    node = Played(tmp_path, rule("a") + rule("b"))

    def spoil(events: list[SendEvent]) -> None:
        if events[0].msg.msgid == "m-1":
            events[0].msg.payload = threading.Lock()

    node.hooks.add("onSend", spoil)
    node.arrive("m-1", reliable=True)
    node.arrive("m-2", reliable=True)
    results = await node.ended(4)
    assert [r.outcome for r in results if r.source_id == "m-2"] == ["delivered"] * 2
    assert "hook_error" in {r.reason for r in results if r.source_id == "m-1"}
    assert sorted(node.settled) == ["m-1", "m-2"]
    await node.close()


async def test_a_hook_that_leaves_nonsense_in_the_list_stops_nobody(tmp_path: Path) -> None:
    """What is no event is reported; the events beside it are sent."""
    node = Played(tmp_path, rule("a"))
    node.hooks.add("onSend", lambda events: events.insert(0, None))
    node.arrive("m-1")
    node.arrive("m-2")
    assert [r.outcome for r in await node.ended(2)] == ["delivered", "delivered"]
    assert node.rules.router.errors
    await node.close()


@pytest.mark.parametrize("hooked", [False, True])
async def test_a_target_that_raises_ends_the_execution(tmp_path: Path, hooked: bool) -> None:
    """It must not; one that does has one result at once, and the others go on."""
    node = Played(tmp_path, rule("a") + rule("b"))
    if hooked:
        node.hooks.add("onSend", lambda events: None)

    def broken(done: Callable[[Any], None]) -> None:
        raise RuntimeError("broken")

    node.kind.answer = broken
    node.arrive("m-1", reliable=True)
    assert {r.reason for r in await node.ended(2)} == {"target_fault"}
    assert node.settled == ["m-1"]
    await node.close()


async def test_nothing_happens_after_the_end(tmp_path: Path) -> None:
    """After the drain a retry, an answer or a timeout changes nothing, and targets are closed."""
    node = Played(tmp_path, rule("a", extra=", timeout: 20s"))
    node.rules._flow = type(node.rules._flow)(stop_s=0.01)
    held: list[Callable[[Any], None]] = []
    node.kind.answer = held.append
    node.arrive("m-1")
    await node.rules.drain()
    (one,) = node.kind.targets
    assert one.closed
    held[0](DELIVERED)
    assert node.results() == []
    await node.spool.spool.stop()
