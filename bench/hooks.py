"""B4, hooks: what a trigger costs over an empty call, and a hop through all seven points without handlers.

Each figure is the smallest of many repeats, net of what a call of an empty function with the same arguments costs in
the same loop; on a busy machine only the smallest is the code's own. Every case checks that its handlers ran, in order,
and that the message arrived.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from bench.measure import Row
from edge.flow.events import Place, SendEvent
from edge.flow.hooks import Hooks
from edge.flow.router import Router
from edge.messages import Ending, FlowMessage

CALLS = 2_000
"""Calls of one repeat."""
REPEATS = 400
"""Repeats of one round."""
TRIGGER_NS_MAX = {0: 60, 1: 200, 3: 400}
"""Bars by the number of plain handlers."""
HOP_US_MAX = 3.0
POINT = "preDeliver"


def run(rounds: int) -> list[Row]:
    """All of B4."""
    repeats = REPEATS * rounds
    rows = [_trigger(handlers, bar, repeats) for handlers, bar in TRIGGER_NS_MAX.items()]
    return [*rows, *_hops(repeats // 4)]


def _trigger(handlers: int, bar: int, repeats: int) -> Row:
    """``trigger`` with so many plain handlers, net of an empty call."""
    hooks, ran, answers = Hooks(), [], []
    for at in range(handlers):
        hooks.add(f"{POINT}.h{at}", lambda event, at=at: ran.append(at))
    hooks.trigger(POINT, None, lambda *answer: answers.append(answer))
    assert ran == list(range(handlers)), ran
    assert answers == [()], answers
    hooks.clear()
    for at in range(handlers):
        hooks.add(f"{POINT}.h{at}", _plain)
    trigger, event = hooks.trigger, SendEvent(FlowMessage(), Place("source/bus"), Place("rule/default/one"))
    empty = _least(lambda: _loop_triggers(_empty, event), repeats)
    net = (_least(lambda: _loop_triggers(trigger, event), repeats) - empty) * 1e9
    name = f"trigger, {handlers or 'no'} handler{'' if handlers == 1 else 's'}"
    return Row(name, net, "ns", f"<= {bar}", net <= bar, f"over an empty call, which takes {empty * 1e9:.0f}")


def _loop_triggers(call: Callable[..., Any], event: SendEvent) -> None:
    for _ in range(CALLS):
        call(POINT, event, _done)


def _plain(event: Any) -> None:
    """A handler that looks and goes on."""


def _empty(name: str, payload: Any, done: Callable[..., None]) -> None:
    """What a trigger is compared with."""


def _nothing(events: list[SendEvent]) -> None:
    """What a hop is compared with."""


def _done(answer: Any = None) -> None:
    """What a trigger calls at its end."""


class _Taker:
    """A node that counts what it takes."""

    def __init__(self, router: Router | None = None) -> None:
        self.id, self.taken, self._router = "rule/default/one", 0, router
        self._place = Place(self.id)

    def receive(self, message: FlowMessage, execution: Any) -> None:
        self.taken += 1
        if self._router is not None:
            self._router.complete(message, self._place)

    def failed(self, error: BaseException, message: FlowMessage) -> None:
        raise error


class _Execution:
    """An execution that must not be stopped."""

    def stop(self, ending: Ending) -> None:
        raise AssertionError(ending)


def _hops(repeats: int) -> list[Row]:
    """From a source to a rule: through the router and all seven points, and as it goes while no hook is mounted."""
    hooks = Hooks()
    node: _Taker
    router = Router(hooks, lambda id: node)
    node = _Taker(router)
    message, execution, source = FlowMessage(), _Execution(), Place("source/bus")
    passed = _points_of_a_hop(hooks, router, message, execution)
    assert passed == list(_ORDER), passed
    assert not hooks.any

    def through(send: Callable[[list[SendEvent]], None] = router.send) -> None:
        for _ in range(CALLS // 4):
            send([SendEvent(message, source, Place("rule/default/one"), False, execution)])

    def past() -> None:
        for _ in range(CALLS // 4):
            if router.active():
                raise AssertionError
            direct.receive(message, execution)

    direct = _Taker()
    before = node.taken
    empty = _least(lambda: through(_nothing), repeats) * 4e6
    hop = _least(through, repeats) * 4e6 - empty
    bare = _least(past, repeats) * 4e6
    assert node.taken - before == repeats * (CALLS // 4) == direct.taken
    note = f"lanes and the node's own call included; over an empty call with its event, which takes {empty:.2f}"
    return [
        Row("hop through all seven points", hop, "us", f"<= {HOP_US_MAX:g}", hop <= HOP_US_MAX, note),
        Row("the same while no hook is mounted", bare, "us", note="the look for a handler and the node's own call"),
    ]


_ORDER = ("onSend", "preRoute", "preDeliver", "postDeliver", "onReceive", "onComplete", "postReceive")


def _points_of_a_hop(hooks: Hooks, router: Router, message: FlowMessage, execution: _Execution) -> list[str]:
    """The points that one hop passes, in order; the node completes at once, inside its input handler."""
    passed: list[str] = []
    for name in _ORDER:
        hooks.add(f"{name}.seen", lambda event, name=name: passed.append(name))
    router.send([SendEvent(message, Place("source/bus"), Place("rule/default/one"), False, execution)])
    hooks.clear()
    return passed


def _least(once: Callable[[], None], repeats: int) -> float:
    """Seconds of one of CALLS calls, at its best."""
    best = float("inf")
    gc.disable()
    try:
        for _ in range(repeats):
            began = time.perf_counter()
            once()
            best = min(best, time.perf_counter() - began)
    finally:
        gc.enable()
    return best / CALLS
