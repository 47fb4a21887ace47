"""Hooks that leave anything in any field of an event: each message ends in its results, the next ones pass (F2.7)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from edge.flow.events import SendEvent
from edge.flow.hooks import POINTS
from edge.flow.router import Router
from tests.flow.node import Played, rule
from tests.support.wait import eventually

RULES = 2
OBSERVING = ("postDeliver", "postReceive", "onComplete")


class Hostile:
    """Raises at whatever is done to it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"by the test: {name}")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("by the test: ==")

    def __hash__(self) -> int:
        raise RuntimeError("by the test: hash")

    def __repr__(self) -> str:
        raise RuntimeError("by the test: repr")


VALUES: tuple[Any, ...] = (None, Hostile(), 7, "x", Lock(), -(10**30), b"\xff", {"a": 1})
ENDS = ("source", "destination", "node")
MESSAGE = ("payload", "key", "msgid", "headers", "params", "method", "query", "hops", "time_ms", "extra")
FIELDS = (
    "msg", "clone_message", "execution", "error", *ENDS,
    *(f"{end}.{field}" for end in ENDS for field in ("id", "node", "port")), *(f"msg.{field}" for field in MESSAGE),
)  # fmt: skip


def damage(payload: Any, field: str, value: Any) -> bool:
    """Put ``value`` into a field of the event, or of each of the list; False where no such field is."""
    *way, last = field.split(".")
    found = False
    for event in payload if isinstance(payload, list) else [payload]:
        for step in way:
            event = getattr(event, step, None)
        if hasattr(event, last):
            setattr(event, last, value)
            found = True
    return found


@pytest.fixture
async def node(tmp_path: Path) -> Any:
    """A node with two rules on each message, whose loop must never be told of a fault."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    made = Played(tmp_path, rule("a") + rule("b"))
    yield made
    await made.close()
    assert faults == []


def ended(node: Played) -> Counter[tuple[str, str]]:
    """How often executions ended how."""
    return Counter(node.status.outcomes)


async def brought(node: Played, handler: Callable[[Any], Any], point: str, reliable: bool) -> None:
    """A message meets ``handler``; it ends, and so does the next one, which meets nothing."""
    before = ended(node).total()
    node.hooks.add(f"{point}.damage", handler)
    node.arrive("damaged", reliable=reliable)
    await eventually(lambda: ended(node).total() == before + RULES and not node.rules.router._lanes, interval=0)
    for _ in range(4):  # who observes and answers later may have its say
        await asyncio.sleep(0)
    node.hooks.remove(f"{point}.damage")
    passed = ended(node)
    node.arrive("next", reliable=reliable)
    assert ended(node) - passed == {("delivered", ""): RULES}


@pytest.mark.parametrize("later", [False, True], ids=["plain", "awaitable"])
@pytest.mark.parametrize("point", POINTS)
async def test_any_value_in_any_field(node: Played, point: str, later: bool) -> None:
    """One result for each rule, a FAIL with a reason or what was to be; nothing raises, and no lane is held up.

    A hook that only observes changes nothing.
    """
    damaged, messages = set[str](), 0
    for field in FIELDS:
        for number, value in enumerate(VALUES[: 2 if later else None]):

            def plain(payload: Any, field: str = field, value: Any = value) -> None:
                if damage(payload, field, value):
                    damaged.add(field)

            async def awaitable(payload: Any, plain: Callable[[Any], None] = plain) -> None:
                await asyncio.sleep(0)
                plain(payload)

            await brought(node, awaitable if later else plain, point, bool(number % 2))
            messages += 2
        node.results()  # so that the spool has room
    assert len(damaged) > 12
    outcomes = ended(node)
    assert outcomes.total() == messages * RULES
    if point in OBSERVING:
        assert outcomes == {("delivered", ""): messages * RULES}
    else:
        assert outcomes["failed", "hook_error"] > 2 * len(VALUES)
        assert {reason for _, reason in outcomes} <= {
            "", "hook_error", "unknown_destination", "loop", "chain_fault", "target_fault",
        }  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
async def test_a_hook_that_raises_or_returns_anything(node: Played, point: str) -> None:
    """Even an exit, a cancellation, and what raises when it is shown: an error as any other."""

    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("by the test")

    def raises(error: BaseException) -> Callable[[Any], None]:
        def handler(payload: Any) -> None:
            raise error

        return handler

    async def leaves(payload: Any) -> None:
        raise SystemExit(3)

    handlers = [raises(error) for error in (Speechless(), SystemExit(3), asyncio.CancelledError(), RecursionError())]
    for handler in [*handlers, leaves, lambda payload: Hostile(), lambda payload: 0]:
        await brought(node, handler, point, True)
    outcomes = ended(node)
    failed = 0 if point in OBSERVING else (len(handlers) + 3) * RULES
    assert outcomes["failed", "hook_error"] == failed


@pytest.mark.parametrize("what", [None, 7, "x", [], Hostile()], ids=lambda what: type(what).__name__)
async def test_anything_in_the_list(node: Played, what: Any) -> None:
    """What is no event is told and passed over; an event that is there twice goes twice; the others go their way."""

    def handler(events: list[Any]) -> None:
        events.insert(0, what)
        events.append(what)

    await brought(node, handler, "onSend", True)
    assert ended(node) == {("delivered", ""): 2 * RULES}
    assert node.rules.router.errors == 2 * 3  # of the source's list, and of each rule's own


async def test_what_a_hook_does_to_one_event_stays_there(node: Played) -> None:
    """Events of one message, and those that follow from the same rule, share no place."""

    def handler(events: list[SendEvent]) -> None:
        events[0].source.id, events[0].destination.port = "somebody", 9

    seen: list[str] = []
    node.hooks.add("onSend.first", handler)
    node.hooks.add("preRoute.look", lambda event: seen.append(event.source.id))
    node.arrive("one")
    node.hooks.remove("onSend.first")
    node.arrive("two")
    assert seen.count("somebody") == 1 + RULES
    assert seen[-2 * RULES :].count("source/bus") == RULES
    assert isinstance(node.rules.router, Router)
