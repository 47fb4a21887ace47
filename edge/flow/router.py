"""The router: moves messages between the nodes of an edge node, through the hook points (flow F1, F2).

``send`` is the only path while a hook or a chain is mounted; while none is (``active()`` is False), callers hand a
message over themselves, and no event is made. An event ends in exactly one of two ways: its node takes it, or its
execution is stopped with an ending.

With plain hooks all of it happens inside ``send``. One that answers later holds up its own lane, (source,
destination), and no other: what comes behind it in that lane waits, so a rule's messages keep their order.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from common.errors import HookError
from common.models import FAILED, FILTERED
from edge.flow.events import CompleteEvent, Execution, Node, Place, ReceiveEvent, SendEvent
from edge.flow.hooks import Hooks
from edge.messages import Ending, FlowMessage

log = logging.getLogger(__name__)

Answer = HookError | bool | None  # of a hook point: an error, False (halted), None (go on)
_Lane = str | tuple[str, str]  # what a source sends, before ``onSend``; then (source, destination)
_Stage = Callable[[Any, "_Turn"], None]
_Step = Callable[[SendEvent, Any, Answer, "_Turn"], None]


class Points(Protocol):
    """Chains on the hook points, run after the Python hooks (``edge.flow.points``)."""

    any: bool

    def run(self, name: str, payload: Any) -> Answer:
        """Run what is mounted on ``name``; None when nothing is."""


class Router:
    """Moves events.

    Arguments: ``find`` gives the node for an id, or None. ``begin`` makes the execution of an event that a hook added,
    or None where its destination is no rule.
    """

    def __init__(
        self,
        hooks: Hooks,
        find: Callable[[str], Node | None],
        points: Points | None = None,
        begin: Callable[[SendEvent], Execution | None] = lambda event: None,
    ) -> None:
        self.hooks, self.find, self.points, self._begin = hooks, find, points, begin
        self._lanes: dict[_Lane, deque[tuple[_Stage, Any]] | None] = {}  # those in which a message is on its way
        self.halted = self.errors = self.unmatched = 0

    def active(self) -> bool:
        """True while any hook point has a handler or a chain, or a message is on its way that had one before it."""
        return self.hooks.any or bool(self._lanes) or (self.points is not None and self.points.any)

    @property
    def waiting(self) -> int:
        """Messages that wait behind one whose hook has not answered yet."""
        return sum(len(waiting) for waiting in self._lanes.values() if waiting)

    def send(self, events: Sequence[SendEvent]) -> None:
        """Send what one node passes on at once: ``onSend`` sees all of it, then each event goes its way.

        The first event of a message carries the message itself, later ones a copy (``clone_message``), made before any
        of them goes on; a hook may set it otherwise at ``onSend``, and for one that is no copy at ``preRoute``.
        """
        if events:
            self._in_lane(events[0].source.id, self._on_send, list(events))

    def complete(self, message: FlowMessage, node: Place, error: BaseException | None = None) -> None:
        """Tell ``onComplete`` that a node is done. Nothing that a hook does there changes anything."""
        if not self._silent("onComplete"):
            self._observe("onComplete", CompleteEvent(message, node, error), node, message)

    # -- the stages: what only a handler needs is made when there is one -----------------------------------------------

    def _on_send(self, events: list[SendEvent], turn: _Turn) -> None:
        if self._silent("onSend"):
            going = [event for event in events if not event.clone_message or self._cloned(event)]
            return self._dispatch(going, turn)
        sent = [(event, event.execution) for event in events]

        def passed(answer: Answer) -> None:
            going = self._going(events) if answer is None else []
            kept = {id(event.execution) for event in going}
            for event, execution in sent:
                if execution is not None and id(execution) not in kept:
                    event.execution = execution
                    self._stop(event, False if answer is None else answer, "onSend", event.source)
            self._dispatch(going, turn)

        self._trigger("onSend", events, passed)

    def _going(self, events: list[SendEvent]) -> list[SendEvent]:
        """What hooks left of a list, each event with its own message and execution. What is no event is reported."""
        going: list[SendEvent] = []
        known: set[int] = set()
        for event in events:
            if not isinstance(event, SendEvent):
                self.errors += 1
                log.error("a hook on onSend left among the events what is none: %.200r", event)
                continue
            if event.execution is not None and id(event.execution) in known:  # a hook sends it once more
                destination = Place(event.destination.id, event.destination.node)
                event = SendEvent(event.msg, event.source, destination, True)
            known.add(id(event.execution))
            going.append(event)
        return [event for event in going if not event.clone_message or self._cloned(event)]

    def _cloned(self, event: SendEvent) -> bool:
        try:
            event.msg, event.clone_message = event.msg.clone(), False
        except Exception as exc:  # a hook put something into it that cannot be copied
            self._spoilt(event, "onSend", event.source, exc)
            return False
        return True

    def _spoilt(self, event: SendEvent, point: str, where: Place, exc: Exception) -> None:
        """Stop an event of which hooks left what cannot be sent: it ends alone, and its lane goes on."""
        self._stop(event, HookError(f"after the hooks of {point}: {type(exc).__name__}: {exc}"), point, where)

    def _dispatch(self, events: list[SendEvent], turn: _Turn) -> None:
        for event in events:
            try:
                if event.execution is None:
                    event.execution = self._begin(event)
                self._in_lane((event.source.id, event.destination.id), self._pre_route, event)
            except Exception as exc:
                self._spoilt(event, "onSend", event.source, exc)
        turn.leave()

    def _pre_route(self, event: SendEvent, turn: _Turn) -> None:
        if self._silent("preRoute"):
            self._go("preRoute", event, event, event.source, self._routed, turn)
        else:
            self._meet("preRoute", event, event, event.source, self._routed, turn)

    def _routed(self, event: SendEvent, sent: SendEvent, answer: Answer, turn: _Turn) -> None:
        if answer is not None:
            self._stop(event, answer, "preRoute", event.source)
            return turn.leave()
        event.destination.node = self.find(event.destination.id)
        if event.destination.node is None:
            self._unknown(event)
            return turn.leave()
        if event.clone_message and not self._cloned(event):
            return turn.leave()
        if self._silent("preDeliver"):
            self._ready(event, event, None, turn)
        else:
            self._meet("preDeliver", event, event, event.source, self._ready, turn)

    def _ready(self, event: SendEvent, sent: SendEvent, answer: Answer, turn: _Turn) -> None:
        if answer is not None:
            self._stop(event, answer, "preDeliver", event.source)
            return turn.leave()
        if not self._silent("postDeliver"):
            self._observe("postDeliver", event, event.source, event.msg)
        received = ReceiveEvent(event.msg, event.destination)
        if self._silent("onReceive"):
            self._received(event, received, None, turn)
        else:
            self._meet("onReceive", event, received, event.destination, self._received, turn)

    def _received(self, event: SendEvent, received: ReceiveEvent, answer: Answer, turn: _Turn) -> None:
        node = received.destination.node
        if answer is not None:
            self._stop(event, answer, "onReceive", received.destination)
        elif node is None:
            self._unknown(event)
        else:
            try:
                node.receive(received.msg, event.execution)
            except Exception as exc:  # a node's fault must not stop its lane
                self._broken(node, received, event, exc)
            if not self._silent("postReceive"):
                self._observe("postReceive", received, received.destination, received.msg)
        turn.leave()

    def _broken(self, node: Node, received: ReceiveEvent, event: SendEvent, exc: Exception) -> None:
        log.error("node %s failed on message %s", node.id, received.msg.msgid, exc_info=exc)
        self._stop(event, HookError(f"node {node.id}: {exc}"), "onReceive", received.destination)

    def _meet(self, point: str, event: SendEvent, payload: Any, where: Place, step: _Step, turn: _Turn) -> None:
        """Let the handlers of a point have ``payload``, then go on with ``step``."""
        self._trigger(point, payload, lambda answer: self._go(point, event, payload, where, step, turn, answer))

    def _go(
        self, point: str, event: SendEvent, payload: Any, where: Place, step: _Step, turn: _Turn, answer: Answer = None
    ) -> None:
        """Take a step, and those behind it while no handler answers later; a fault there ends this event alone."""
        try:
            step(event, payload, answer, turn)
        except Exception as exc:
            try:
                self._spoilt(event, point, where, exc)
            finally:
                turn.leave()

    # -- one hook point ------------------------------------------------------------------------------------------------

    def _silent(self, name: str) -> bool:
        """True when a point has no handler and no chain runs anywhere: there is nothing to trigger."""
        return name in self.hooks.quiet and (self.points is None or not self.points.any)

    def _trigger(self, name: str, payload: Any, then: Callable[[Answer], None]) -> None:
        def hooked(answer: Answer = None) -> None:
            if answer is None and self.points is not None and self.points.any:
                try:
                    answer = self.points.run(name, payload)
                except Exception as exc:  # hooks left what no chain can look at
                    answer = HookError(f"chains of {name}: {type(exc).__name__}: {exc}")
            then(answer)

        self.hooks.trigger(name, payload, hooked)

    def _observe(self, name: str, payload: Any, node: Place, message: FlowMessage) -> None:
        """Trigger a point that cannot halt: False is ignored, an error is told."""

        def seen(answer: Answer) -> None:
            if isinstance(answer, HookError):
                self._tell(answer, node, message)

        self._trigger(name, payload, seen)

    def _stop(self, event: SendEvent, answer: HookError | bool, point: str, where: Place) -> None:
        if isinstance(answer, HookError):
            step = f"hook {answer.hook}.{answer.label}" if answer.label else f"hook {answer.hook or point}"
            ending = Ending(FAILED, "hook_error", str(answer), step)
        else:
            self.halted += 1
            ending = Ending(FILTERED, "hook_halt", "", f"hook {point}")
        if event.execution is not None:
            event.execution.stop(ending)
        if isinstance(answer, HookError):
            self._tell(answer, where, event.msg)

    def _unknown(self, event: SendEvent) -> None:
        self.unmatched += 1
        text = f"there is no node {event.destination.id!r} here"
        error = HookError(text)
        self._tell(error, event.source, event.msg)
        if event.execution is not None:
            event.execution.stop(Ending(FAILED, "unknown_destination", text, "hook preRoute"))

    def _tell(self, error: HookError, where: Place, message: FlowMessage) -> None:
        self.errors += 1
        node = where.node or self.find(where.id)
        if node is not None:
            node.failed(error, message)
        elif self.errors & (self.errors - 1) == 0:  # the first, then ever more rarely
            log.error("message %s from %s: %s (%d such errors)", message.msgid, where.id, error, self.errors)

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def _in_lane(self, lane: _Lane, stage: _Stage, what: Any) -> None:
        """Do ``stage(what, turn)`` when what came before in its lane is through; it ends its turn itself."""
        lanes = self._lanes
        if lane in lanes:
            waiting = lanes[lane]
            if waiting is None:
                waiting = lanes[lane] = deque()
            waiting.append((stage, what))
            return
        lanes[lane] = None
        turn = _Turn(self, lane)
        stage(what, turn)
        turn.doing = False
        if turn.left:
            self.go_on(lane)

    def go_on(self, lane: _Lane) -> None:
        """Do what waits in a lane, until something there must wait for a hook."""
        while waiting := self._lanes[lane]:
            stage, what = waiting.popleft()
            turn = _Turn(self, lane)
            stage(what, turn)
            turn.doing = False
            if not turn.left:
                return
        del self._lanes[lane]

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name."""
        return {
            "halted": self.halted,
            "errors": self.errors,
            "unmatched": self.unmatched,
            "waiting": self.waiting,
            "second_answers": self.hooks.second_answers,
        }


class _Turn(msgspec.Struct, eq=False):
    """One message's turn in its lane. ``leave`` ends it, while its first stage runs or later."""

    router: Router
    lane: _Lane
    doing: bool = True
    left: bool = False

    def leave(self) -> None:
        """End it; what waits behind goes on. A second call does nothing."""
        again, self.left = self.left, True
        if not (self.doing or again):
            self.router.go_on(self.lane)
