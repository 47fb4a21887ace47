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
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, Protocol

import msgspec

from common.errors import HookError
from common.models import FAILED, FILTERED
from edge.flow.events import CompleteEvent, Execution, Node, Place, ReceiveEvent, SendEvent
from edge.flow.hooks import Hooks
from edge.flow.mending import NOTHING, Sent, mend, noted
from edge.messages import Ending, FlowMessage

log = logging.getLogger(__name__)

Answer = HookError | bool | None  # of a hook point: an error, False (halted), None (go on)
_Lane = str | tuple[str, str]  # what a source sends, before ``onSend``; then (source, destination)
_Stage = Callable[[Any, "_Turn"], None]
_Step = Callable[[Any, Answer, "_Turn"], None]


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
            self._observe("onComplete", CompleteEvent(copy(message), _same(node), error), node, message)

    # -- the stages: what only a handler needs is made when there is one -----------------------------------------------

    def _on_send(self, events: list[SendEvent], turn: _Turn) -> None:
        if self._silent("onSend"):
            return self._dispatch(events, turn)
        before = [(event, noted(event)) for event in events]

        def passed(answer: Answer) -> None:
            left, wrong = _left(events, before) if answer is None else ([], {})
            self.errors += len(events) - len(left) if answer is None else 0  # what is no event
            kept = {id(event.execution) for event in left}
            for event, sent in before:
                if sent.execution is not None and id(sent.execution) not in kept:
                    mend(event, sent)
                    self._stop(event, sent, False if answer is None else answer, "onSend")
            self._dispatch(left, turn, wrong)

        self._trigger("onSend", events, passed)

    def _dispatch(self, events: Sequence[SendEvent], turn: _Turn, wrong: Mapping[int, str] | None = None) -> None:
        """Send each on its way, with copies made before any of them goes on; ``wrong`` says what is with some."""
        going = []
        for event in events:
            text = wrong.get(id(event), "") if wrong else ""
            if not text and event.clone_message:
                text = _clone(event)
            if text:
                self._stop(event, noted(event), _spoilt("onSend", text), "onSend")
            else:
                going.append((event, noted(event)))
        for event, sent in going:
            if sent.execution is None:
                event.execution = self._begin(event)
                sent = noted(event)
            self._in_lane((sent.source, sent.destination), self._pre_route, (event, sent))
        turn.leave()

    def _pre_route(self, what: tuple[SendEvent, Sent], turn: _Turn) -> None:
        event, turn.sent = what
        if self._silent("preRoute"):
            self._step("preRoute", event, None, self._routed, turn)
        else:
            self._meet("preRoute", event, self._routed, turn)

    def _routed(self, event: SendEvent, answer: Answer, turn: _Turn) -> None:
        if answer is not None:
            self._stop(event, turn.sent, answer, "preRoute")
            return turn.leave()
        event.destination.node = self.find(event.destination.id)
        if event.destination.node is None:
            self._unknown(event.destination.id, event.source, event.msg, turn.sent)
            return turn.leave()
        if event.clone_message and (wrong := _clone(event)):
            self._stop(event, turn.sent, _spoilt("preRoute", wrong), "preRoute")
            return turn.leave()
        if self._silent("preDeliver"):
            self._ready(event, None, turn)
        else:
            self._meet("preDeliver", event, self._ready, turn)

    def _ready(self, event: SendEvent, answer: Answer, turn: _Turn) -> None:
        if answer is not None:
            self._stop(event, turn.sent, answer, "preDeliver")
            return turn.leave()
        received = ReceiveEvent(event.msg, event.destination)
        if not self._silent("postDeliver"):
            source, destination = _same(event.source), _same(event.destination)
            self._observe("postDeliver", SendEvent(copy(event.msg), source, destination), event.source, event.msg)
        if self._silent("onReceive"):
            self._received(received, None, turn)
        else:
            self._meet("onReceive", received, self._received, turn)

    def _received(self, received: ReceiveEvent, answer: Answer, turn: _Turn) -> None:
        node = received.destination.node
        if answer is not None:
            self._stop(received, turn.sent, answer, "onReceive")
        elif node is None:
            self._unknown(received.destination.id, received.destination, received.msg, turn.sent)
        else:
            try:
                node.receive(received.msg, turn.sent.execution)
            except Exception as exc:  # a node's fault must not stop its lane
                log.error("node %s failed on message %s", received.destination.id, received.msg.msgid, exc_info=exc)
                error = HookError(f"node {received.destination.id}: {type(exc).__name__}: {exc}")
                self._stop(received, turn.sent, error, "onReceive")
            if not self._silent("postReceive"):
                event = ReceiveEvent(copy(received.msg), _same(received.destination))
                self._observe("postReceive", event, received.destination, received.msg)
        turn.leave()

    def _meet(self, point: str, event: Any, step: _Step, turn: _Turn) -> None:
        """Let the handlers of a point have ``event``, then go on with ``step``."""

        def met(answer: Answer) -> None:
            wrong = mend(event, turn.sent)
            self._step(point, event, _spoilt(point, wrong) if wrong and answer is None else answer, step, turn)

        self._trigger(point, event, met)

    def _step(self, point: str, event: Any, answer: Answer, step: _Step, turn: _Turn) -> None:
        """Take a step, and those behind it while no handler answers later; a fault there ends this event alone."""
        try:
            step(event, answer, turn)
        except Exception as exc:
            mend(event, turn.sent)
            self._stop(event, turn.sent, _spoilt(point, exc), point)
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
        """Trigger a point that cannot halt: False is ignored, an error is told. What the handlers get is their own, so
        that nothing which they change goes anywhere.
        """

        def seen(answer: Answer) -> None:
            if isinstance(answer, HookError):
                self._tell(answer, node, message)

        self._trigger(name, payload, seen)

    def _stop(self, event: SendEvent | ReceiveEvent, sent: Sent, answer: HookError | bool, point: str) -> None:
        """End what ``event`` carries. It is whole."""
        if isinstance(answer, HookError):
            step = f"hook {answer.hook}.{answer.label}" if answer.label else f"hook {answer.hook or point}"
            ending = Ending(FAILED, "hook_error", str(answer), step)
        else:
            self.halted += 1
            ending = Ending(FILTERED, "hook_halt", "", f"hook {point}")
        if sent.execution is not None:
            sent.execution.stop(ending)
        if isinstance(answer, HookError):
            self._tell(answer, event.source if isinstance(event, SendEvent) else event.destination, event.msg)

    def _unknown(self, node_id: str, where: Place, message: FlowMessage, sent: Sent) -> None:
        self.unmatched += 1
        text = f"there is no node {node_id!r} here"
        self._tell(HookError(text), where, message)
        if sent.execution is not None:
            sent.execution.stop(Ending(FAILED, "unknown_destination", text, "hook preRoute"))

    def _tell(self, error: HookError, where: Place, message: FlowMessage) -> None:
        self.errors += 1
        try:
            node = where.node or self.find(where.id)
            if node is not None:
                return node.failed(error, message)
        except Exception as exc:  # a hook put something there that is no node
            log.error("message %s: whom to tell of it, %s, failed: %r", message.msgid, where.id, exc)
        if self.errors & (self.errors - 1) == 0:  # the first, then ever more rarely
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
    sent: Sent = NOTHING
    doing: bool = True
    left: bool = False

    def leave(self) -> None:
        """End it; what waits behind goes on. A second call does nothing."""
        again, self.left = self.left, True
        if not (self.doing or again):
            self.router.go_on(self.lane)


def _left(events: Sequence[Any], before: Sequence[tuple[SendEvent, Sent]]) -> tuple[list[SendEvent], dict[int, str]]:
    """What hooks left of a list: each event made whole, with its own execution; and by id what was wrong with some."""
    of_event = {id(event): sent for event, sent in before}
    of_execution = {id(sent.execution): sent for _, sent in before if sent.execution is not None}
    left: list[SendEvent] = []
    texts: dict[int, str] = {}
    known: set[int] = set()
    for event in events:
        if not isinstance(event, SendEvent):
            log.error("a hook on onSend left a %s among the events", type(event).__name__)
            continue
        sent = of_event.get(id(event)) or of_execution.get(id(event.execution)) or NOTHING
        wrong = mend(event, sent)
        if sent.execution is not None:
            if id(sent.execution) in known:  # a hook sends it once more
                event = SendEvent(event.msg, event.source, Place(event.destination.id, event.destination.node), True)
            known.add(id(sent.execution))
        if wrong:
            texts[id(event)] = wrong
        left.append(event)
    return left, texts


def _same(place: Place) -> Place:
    return Place(place.id, place.node, place.port)


def _clone(event: SendEvent) -> str:
    """Make the copy that an event asks for; returns why it cannot be made."""
    try:
        event.msg, event.clone_message = event.msg.clone(), False
    except Exception as exc:  # a hook put something into it that cannot be copied
        return f"{type(exc).__name__}: {exc}"
    return ""


def _spoilt(point: str, what: object) -> HookError:
    """The error of an event of which hooks left what cannot go on."""
    text = f"{type(what).__name__}: {what}" if isinstance(what, Exception) else str(what)
    error = HookError(f"after the hooks of {point}: {text}")
    error.hook = point
    return error
