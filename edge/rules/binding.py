"""A binding: one rule made ready to run, with its queue, its running executions and their ends (flow F1, F4, F5).

An execution is (message, rule). It ends in exactly one result, whatever happens: delivered, refused, timed out,
dropped. What takes longer than ``journal_after_s`` is journalled on disk and its source acknowledged, so that a slow
target holds up nobody else (protocol P5.3).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from common.clock import Clock, SystemClock
from common.errors import QueueFullError
from common.message import new_id
from common.models import DROPPED, FAILED
from edge.endpoints.base import Arrival, Delivered, Delivery, Retry, Target
from edge.settings import FlowSettings
from edge.spool import Spool
from edge.spooldb import Input
from edge.status import DELIVERED_ENDING, Ending, RuleRef, Status

log = logging.getLogger(__name__)


class RetryPolicy(NamedTuple):
    """How often an execution may try its target, and the first wait in seconds; waits double."""

    attempts: int = 1
    backoff_s: float = 1.0


class Settlement:
    """Acknowledges an arrival when the last of its rules has put its result or its input on disk."""

    __slots__ = ("_left", "_settle")

    def __init__(self, settle: Callable[[], None] | None, rules: int) -> None:
        self._settle, self._left = settle, rules

    def one(self) -> None:
        """One more rule is done with the source; called once for each rule."""
        self._left -= 1
        if not self._left and self._settle is not None:
            self._settle()


class Execution(msgspec.Struct, eq=False):
    """One message on its way through one rule. Times are monotonic seconds."""

    arrival: Arrival
    settlement: Settlement | None
    since: float
    attempts: int = 1
    deadline: float = 0.0
    input_id: str = ""  # of its row in the journal, once it is there
    ended: bool = False
    ending: Ending = DELIVERED_ENDING


class Binding:
    """One rule, ready to run.

    Arguments: ``rule`` says whose results these are; ``target`` delivers; ``timeout_s`` bounds an execution from its
    first try on, waits between tries included.
    """

    def __init__(
        self,
        rule: RuleRef,
        target: Target,
        status: Status,
        spool: Spool,
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
        flow: FlowSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.rule = rule
        self._target, self._status, self._spool = target, status, spool
        self._timeout_s, self._retry = timeout_s, retry or RetryPolicy()
        self._flow, self._clock = flow or FlowSettings(), clock or SystemClock()
        self._waiting: deque[Execution] = deque()
        self._running: OrderedDict[Execution, None] = OrderedDict()  # in the order of their deadlines
        self._reliable: deque[Execution] = deque()  # whose source still waits, oldest first
        self._unrecorded: deque[Execution] = deque()  # ended while the spool had no room
        self._pumping = False
        self._patient_until = 0.0  # until then resumed inputs wait for a target that is not connected yet
        self.late = self.uncounted = 0

    @property
    def running(self) -> int:
        """How many executions wait for their target."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """True when every execution has ended and its result is in the spool's hands."""
        return not (self._running or self._waiting or self._unrecorded)

    def take(self, arrival: Arrival, settlement: Settlement) -> None:
        """Begin an execution, or queue it, or drop it at the bound (``queue_full``)."""
        execution = Execution(arrival, settlement, self._clock.monotonic())
        if arrival.reliable:
            self._reliable.append(execution)
        if self._has_room() and not self._waiting:
            self._run(execution)
        elif len(self._waiting) < self._flow.queue_max:
            self._waiting.append(execution)
        else:
            bound = f"{self._flow.queue_max} messages wait for this rule"
            self._end(execution, Ending(DROPPED, "queue_full", bound, "queue"))

    def resume(self, item: Input) -> None:
        """Run a journalled input again, after a restart. These come first and know no bound: they were accepted.

        The target gets the time of one execution to become ready.
        """
        self._patient_until = self._clock.monotonic() + self._timeout_s
        arrival = Arrival(item.msg_id, item.topic, item.payload)
        execution = Execution(arrival, None, self._clock.monotonic(), item.attempts, input_id=item.id)
        self._waiting.append(execution)

    def sweep(self) -> None:
        """Journal what takes long, end what is overdue, and start what waits; called every few milliseconds."""
        now = self._clock.monotonic()
        self._journal(now - self._flow.journal_after_s)
        while self._running and (overdue := next(iter(self._running))).deadline <= now:
            text = f"the target did not answer within {self._timeout_s:g} s"
            self._finish(overdue, Ending(FAILED, "target_timeout", text, "target"))
        while self._unrecorded and self._record(self._unrecorded[0]):
            self._unrecorded.popleft()
        self._pump()

    def _has_room(self) -> bool:
        if self._patient_until and not self._target.ready and self._clock.monotonic() < self._patient_until:
            return False
        self._patient_until = 0.0
        return len(self._running) < self._flow.running_max and self._spool.room > len(self._running)

    def _pump(self) -> None:
        if self._pumping:  # a target that answers at once would nest a call for each that waits
            return
        self._pumping = True
        try:
            while self._waiting and self._has_room():
                self._run(self._waiting.popleft())
        finally:
            self._pumping = False

    def _run(self, execution: Execution) -> None:
        execution.deadline = self._clock.monotonic() + self._timeout_s
        self._running[execution] = None
        self._deliver(execution)

    def _deliver(self, execution: Execution) -> None:
        if not execution.ended:
            self._target.deliver(execution.arrival, lambda delivery: self._delivered(execution, delivery))

    def _delivered(self, execution: Execution, delivery: Delivery) -> None:
        if execution.ended:
            self.late += 1
            return
        if isinstance(delivery, Delivered):
            self._finish(execution, DELIVERED_ENDING)
        elif isinstance(delivery, Retry) and execution.attempts < self._retry.attempts:
            wait = max(delivery.after, self._retry.backoff_s * 2 ** (execution.attempts - 1))
            execution.attempts += 1
            asyncio.get_running_loop().call_later(wait, self._deliver, execution)
        else:
            self._finish(execution, Ending(FAILED, delivery.reason, delivery.detail, "target"))

    def _finish(self, execution: Execution, ending: Ending) -> None:
        del self._running[execution]
        self._end(execution, ending)
        self._pump()

    def _end(self, execution: Execution, ending: Ending) -> None:
        execution.ended, execution.ending = True, ending
        if self._record(execution):
            return
        if execution.arrival.reliable or execution.input_id or len(self._unrecorded) < self._flow.queue_max:
            self._unrecorded.append(execution)
        else:  # a flood at QoS 0 against a full spool: nobody bounds it but we
            self.uncounted += 1

    def _record(self, execution: Execution) -> bool:
        settlement, input_id = execution.settlement, execution.input_id
        try:
            self._status.record(
                self.rule,
                execution.ending,
                source_id=execution.arrival.msg_id,
                duration_us=int((self._clock.monotonic() - execution.since) * 1e6),
                attempts=execution.attempts,
                on_durable=settlement.one if settlement is not None and not input_id else None,
                input_id=input_id,
            )
        except QueueFullError:
            return False
        return True

    def _journal(self, before: float) -> None:
        reliable = self._reliable
        while reliable and (reliable[0].ended or reliable[0].since <= before):
            execution = reliable[0]
            if not execution.ended:
                arrival, settlement = execution.arrival, execution.settlement
                namespace, rule = self.rule.namespace, self.rule.name
                item = Input(
                    new_id(), namespace, rule, arrival.msg_id, arrival.key, arrival.payload, execution.attempts
                )
                try:
                    self._spool.journal(item, settlement.one if settlement is not None else None)
                except QueueFullError:
                    return
                execution.input_id = item.id
            reliable.popleft()

    def statistics(self) -> dict[str, int]:
        """Gauges by name."""
        return {
            "running": self.running,
            "waiting": len(self._waiting),
            "unrecorded": len(self._unrecorded),
            "uncounted": self.uncounted,
            "late": self.late,
        }
