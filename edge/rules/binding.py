"""A binding: one rule made ready to run, with its queue, its running executions and their ends (flow F1, F4, F5).

An execution is (message, rule). It ends in exactly one result, whatever happens: delivered, filtered, refused, timed
out, dropped. What of it goes to disk is in ``edge.rules.records``: inputs that take longer than ``journal_after_s``,
so that a slow target holds up nobody else (protocol P5.3), and results.

While no hook is mounted, an arrival is taken, decided and delivered in plain calls. Else the same steps are nodes of
the router: the source sends to the rule, the rule sends to its target.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from common.clock import Clock, SystemClock
from common.errors import ExecutionError
from common.models import DROPPED, FAILED
from edge.endpoints.base import Target
from edge.flow.events import Execution as AnyExecution
from edge.flow.events import Place, SendEvent
from edge.flow.hooks import Hooks
from edge.flow.router import Router
from edge.messages import (
    DELIVERED,
    DELIVERED_ENDING,
    HOPS_MAX,
    Arrival,
    Delivered,
    Delivery,
    Ending,
    FlowMessage,
    Retry,
)  # fmt: skip
from edge.rules.execution import Execution, RetryPolicy, Settlement
from edge.rules.records import WELL, Records
from edge.rules.turns import Account, Turns
from edge.settings import FlowSettings
from edge.spool import Spool
from edge.spooltables import Input
from edge.status import RuleRef, Status
from edge.summaries import Tally

log = logging.getLogger(__name__)


class Decision(Protocol):
    """What a rule's chain says of a message (``edge.rules.decision``)."""

    def decide(self, execution: Execution) -> Ending | str | None:
        """None: deliver to the rule's target. A text: to the node of that id. An Ending: it ends here.

        A changed message is put into ``execution.message``; the arrival's own is shared with other rules.
        """


class Binding:
    """One rule, ready to run.

    Arguments: ``rule`` says whose results these are; ``target`` delivers, and ``target_id`` is its node;
    ``timeout_s`` bounds an execution from its first try on, waits between tries included. ``decision`` is the rule's
    chain, if it has one; ``router`` moves its events; ``find`` gives the target of a node id, for this rule; ``wake``
    is told when something came that no arrival for this rule brought, so that ``sweep`` is called. ``tally`` sums up
    what ends well, in a rule that wants no single results (F5).
    """

    __slots__ = (  # a message passes hundreds of them: what lies close together is found fast
        "_account", "_after", "_begun", "_decision", "_find", "_flow", "_now", "_others", "_patient_until",
        "_place", "_pumping", "_retry", "_router", "_running", "_spool", "_target", "_target_id", "_turns", "_waiting",
        "_wake", "hook_errors", "id", "late", "records", "retired", "rule", "timeout_s",
    )  # fmt: skip

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
        decision: Decision | None = None,
        target_id: str = "",
        router: Router | None = None,
        find: Callable[[str], Target | None] = lambda id: None,
        turns: Turns | None = None,
        wake: Callable[[Binding], None] = lambda binding: None,
        tally: Tally | None = None,
    ) -> None:
        self.rule, self.id = rule, f"rule/{rule.namespace}/{rule.name}"
        self._place = Place(self.id, self)
        self._decision, self._target_id, self._find, self._wake = decision, target_id, find, wake
        self._router, self._account = router or Router(Hooks(), lambda id: None), Account()
        self._target, self._spool = target, spool
        self._others: set[Target] = set()  # that chains and hooks have chosen
        self.timeout_s, self._retry = timeout_s, retry or RetryPolicy()
        self._flow, self._now = flow or FlowSettings(), (clock or SystemClock()).monotonic
        self._turns = turns or Turns(self._now)
        self._waiting: deque[Execution] = deque()
        self._running: OrderedDict[Execution, None] = OrderedDict()  # in the order of their deadlines
        self.records = Records(rule, status, spool, tally, self._flow.queue_max)
        self._pumping, self._begun, self.hook_errors = False, 0, 0
        self.retired = False
        self._after: Binding | None = None  # the version before, while it has messages to start
        self._patient_until = 0.0  # until then resumed inputs wait for a target that is not connected yet
        self.late = 0

    @property
    def running(self) -> int:
        """How many executions wait for their target."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """True when every execution has ended and its result is in the spool's hands."""
        return not (self._begun or self._running or self._waiting or self.records.unrecorded)

    def retire(self) -> None:
        """The rule was changed or removed: end what was taken, take nothing more."""
        self.retired = True

    def follow(self, old: Binding) -> None:
        """Wait with new messages until ``old``, the version before, and those before it have started all they took."""
        after: Binding | None = old
        while after is not None and not (after._begun or after._waiting):
            after = after._after
        self._after = after

    def abandon(self) -> None:
        """End without a result what has not ended: it comes again from its source or the journal."""
        for execution in (*self._running, *self._waiting):
            execution.ended = True
        self._running.clear()
        self._waiting.clear()
        self.close()

    def close(self) -> None:
        """Free the targets, when the last execution of a retired rule has ended."""
        for target in (self._target, *self._others):
            target.close()

    # -- in ------------------------------------------------------------------------------------------------------------

    def take(self, arrival: Arrival, settlement: Settlement | None) -> bool:
        """Begin an execution and run it, or queue it, or drop it at the bound (``queue_full``).

        True when ``sweep`` must be called: it did not end at once, or something is left to do for it.
        """
        now = self._now()
        execution = Execution(self, arrival, settlement, now, arrival.message, self.rule, entered=True)
        self.records.begun(execution)
        if arrival.journal_now:
            self.records.journal(now)
        self._run_or_queue(execution, now)
        return not execution.ended or self.records.open

    def begin(self, arrival: Arrival, settlement: Settlement | None, item: Input | None = None) -> Execution:
        """Make the execution of a message that is on its way to this rule; ``receive`` or ``stop`` follows.

        ``item``: it comes from the journal.
        """
        execution = Execution(self, arrival, settlement, self._now(), arrival.message, self.rule)
        self._begun += 1
        self.records.begun(execution)
        if item is not None:
            execution.attempts, execution.input_id = item.attempts, item.id
        elif self._begun > self._flow.queue_max:  # so many pass hooks that have not answered yet
            bound = f"{self._flow.queue_max} messages pass hooks before this rule"
            self.stop(execution, Ending(DROPPED, "queue_full", bound, "queue"))
        elif arrival.journal_now:
            self.records.journal(execution.since)
        return execution

    def receive(self, message: FlowMessage, execution: AnyExecution | None) -> None:
        """Take a message from the router (``edge.flow.events.Node``)."""
        if not isinstance(execution, Execution):  # an event that a hook made up
            execution = self.begin(Arrival(message), None)
            self._wake(self)
        elif execution.entered or execution.ended:  # sent to a rule by a rule, or stopped meanwhile
            return self._pass_on(message, execution)
        if execution.binding is not self:
            self._take_over(execution)
        execution.message = message
        self._enter(execution)

    def _take_over(self, execution: Execution) -> None:
        """A hook changed the destination, or the rule was changed meanwhile."""
        execution.binding._begun -= 1
        self._begun += 1
        execution.binding = self
        self.records.begun(execution)
        self._wake(self)

    def _pass_on(self, message: FlowMessage, execution: Execution) -> None:
        """Take a message that another rule forwards: an execution of its own. The other one is delivered when this one
        is on disk, as an input or with its result (P5.3).
        """
        if execution.ended:
            return
        passed, other = message.clone(), execution.binding
        passed.hops += 1
        settlement = Settlement(lambda: other.delivered(execution, DELIVERED), 1)
        self._enter(self.begin(Arrival(passed, True, source=other.id), settlement))
        self._wake(self)

    def failed(self, error: BaseException, message: FlowMessage) -> None:
        """Take an error of a hook point (``edge.flow.events.Node``)."""
        self.hook_errors += 1
        if self.hook_errors & (self.hook_errors - 1) == 0:  # the first, then ever more rarely
            log.error("rule %s/%s, message %s: %s (%d such errors)",
                      self.rule.namespace, self.rule.name, message.msgid, error, self.hook_errors)  # fmt: skip

    def resume(self, item: Input) -> None:
        """Run a journalled input again, after a restart. These come first and know no bound: they were accepted.

        It passes the hooks again, as the journal keeps what came; what a rule forwarded has passed them. The target
        gets the time of one execution to become ready.
        """
        self._patient_until = self._now() + self.timeout_s
        arrival = Arrival.restored(FlowMessage(item.payload, item.topic, item.msg_id), item.rest)
        execution = self.begin(arrival, None, item)
        if self._router.active() and not arrival.source.startswith("rule/"):
            event = SendEvent(arrival.message, Place(arrival.source), Place(self.id), execution=execution)
            self._router.send([event])
        else:
            self._begun -= 1
            execution.entered = True
            self._waiting.append(execution)

    def _enter(self, execution: Execution) -> None:
        self._begun -= 1
        execution.entered = True
        self._run_or_queue(execution, self._now())

    def _run_or_queue(self, execution: Execution, now: float) -> None:
        if not self._waiting and (self._decision is None or self._account.at_once(now)) and self._has_room():
            self._run(execution, now)
        elif len(self._waiting) < self._flow.queue_max or execution.attempts > 1:  # resumed: it was accepted
            self._waiting.append(execution)
            self._pump()
        else:
            bound = f"{self._flow.queue_max} messages wait for this rule"
            self._end(execution, Ending(DROPPED, "queue_full", bound, "queue"), now)

    def sweep(self) -> None:
        """Journal what takes long, end what is overdue, and start what waits; called every few milliseconds."""
        now = self._now()
        self.records.journal(now - self._flow.journal_after_s)
        while self._running and (overdue := next(iter(self._running))).deadline <= now:
            text = f"the target did not answer within {self.timeout_s:g} s"
            self._finish(overdue, Ending(FAILED, "target_timeout", text, "target"))
        self.records.again(now)
        self._pump()

    def _has_room(self) -> bool:
        if (self._after is not None or self._patient_until) and not self._may_begin():
            return False
        running = len(self._running)
        return running < self._flow.running_max and self._spool.room > running

    def _may_begin(self) -> bool:
        """False while the version before has messages to start, or the target of resumed inputs is not ready yet."""
        if self._after is not None:
            self.follow(self._after)
            if self._after is not None:
                return False
        if self._patient_until and not self._target.ready and self._now() < self._patient_until:
            return False
        self._patient_until = 0.0
        return True

    def _pump(self) -> None:
        if self._decision is not None:
            if self._waiting:
                self._turns.later(self, self._account)
            return
        if self._pumping:  # a target that answers at once would nest a call for each that waits
            return
        self._pumping = True
        try:
            while self.turn():
                pass
        finally:
            self._pumping = False

    def turn(self) -> bool:
        """Run one execution that waits, if there is one and room for it (``edge.rules.turns.Taker``)."""
        if not self._waiting or not self._has_room():
            return False
        self._run(self._waiting.popleft(), self._now())
        return True

    # -- one execution -------------------------------------------------------------------------------------------------

    def _run(self, execution: Execution, now: float) -> None:
        decided: Ending | str | None = None
        try:
            if execution.message.hops > HOPS_MAX:
                text = f"the message passed {execution.message.hops} rules, at most {HOPS_MAX} are allowed"
                decided = Ending(FAILED, "loop", text, "rule")
            elif self._decision is not None:
                decided = self._decision.decide(execution)
        except Exception as exc:  # a fault of ours ends this execution, and no other
            log.exception("rule %s, message %s: its chain failed", self.id, execution.message.msgid)
            decided = Ending(FAILED, "chain_fault", f"{type(exc).__name__}: {exc}", "chain")
        if self._decision is not None:
            began, now = now, self._now()
            self._turns.used(self._account, began, now)
        else:
            self._turns.at_once += 1
        if isinstance(decided, Ending):
            return self._end(execution, decided, now)
        execution.deadline = now + self.timeout_s
        self._running[execution] = None
        self._send(execution, decided or self._target_id)

    def _send(self, execution: Execution, target_id: str) -> None:
        execution.target_id = target_id
        if self._router.active():
            try:
                if execution.message is execution.arrival.message:  # other rules and the journal have it, too
                    execution.message = execution.message.clone()
            except Exception as exc:  # a hook put something into it that cannot be copied
                text = f"the message cannot be copied: {type(exc).__name__}: {exc}"
                return self._finish(execution, Ending(FAILED, "hook_error", text, "rule"))
            source, destination = Place(self.id, self), Place(target_id)
            self._router.send([SendEvent(execution.message, source, destination, execution=execution)])
        elif target_id.startswith("rule/") and (other := self._router.find(target_id)) is not None:
            other.receive(execution.message, execution)
        else:
            self.deliver_to(target_id, execution)

    def deliver_to(self, target_id: str, execution: Execution) -> None:
        """Deliver to the node ``target_id``: the rule's target, or another that chain or hook chose."""
        if execution.ended:
            return
        if not execution.entered:  # a hook sent it past the rule
            self._begun -= 1
            execution.entered = True
            execution.deadline = self._now() + self.timeout_s
            self._running[execution] = None
        execution.target_id = target_id
        execution.target = self._target
        if target_id != self._target_id:
            execution.target = self._find(target_id)
            if execution.target is not None:
                self._others.add(execution.target)
        if execution.target is None:
            text = f"there is no target {target_id!r} for this rule"
            return self._finish(execution, Ending(FAILED, "unknown_destination", text, "target"))
        self._deliver(execution)

    def _deliver(self, execution: Execution) -> None:
        if execution.ended or execution.target is None:
            return
        try:
            execution.target.deliver(execution.message, lambda delivery: self.delivered(execution, delivery))
        except Exception as exc:  # it must not; a fault there ends this execution, and no other
            log.exception("rule %s, message %s: %s failed", self.id, execution.message.msgid, execution.target_id)
            if not execution.ended:
                text = f"{type(exc).__name__}: {exc}"
                self._finish(execution, Ending(FAILED, "target_fault", text, "target"))

    def stop(self, execution: Execution, ending: Ending) -> None:
        """End an execution that a hook halted, or whose event found no node."""
        if execution.ended:
            return
        if execution in self._running:
            self._finish(execution, ending)
        elif not execution.entered:
            self._begun -= 1
            execution.entered = True
            self._end(execution, ending, self._now())

    def delivered(self, execution: Execution, delivery: Delivery) -> None:
        """Take what a target says of a delivery."""
        if execution.ended:
            self.late += 1
            return
        execution.answer = delivery.answer
        if isinstance(delivery, Delivered):
            self._finish(execution, DELIVERED_ENDING)
        elif not (isinstance(delivery, Retry) and self._again(execution, delivery)):
            self._finish(execution, Ending(FAILED, delivery.reason, delivery.detail, "target"))

    def _again(self, execution: Execution, delivery: Retry) -> bool:
        """Try once more later; False when the tries are used up, or the time would be over before."""
        wait = max(delivery.after, self._retry.backoff_s * 2 ** (execution.attempts - 1))
        if execution.attempts >= self._retry.attempts or self._now() + wait >= execution.deadline:
            return False
        execution.attempts += 1
        asyncio.get_running_loop().call_later(wait, self._deliver, execution)
        return True

    def _finish(self, execution: Execution, ending: Ending) -> None:
        del self._running[execution]
        self._end(execution, ending, self._now())
        self._pump()

    def _end(self, execution: Execution, ending: Ending, now: float) -> None:
        execution.ended, execution.ending = True, ending
        if self._router.active():
            self._complete(execution, ending)
        if execution.arrival.answered is not None:
            execution.arrival.answered(ending, execution.answer)
        self.records.ended(execution, now)

    def _complete(self, execution: Execution, ending: Ending) -> None:
        """``onComplete`` of the target, if it was reached, then of the rule: once each, whatever happened."""
        error = None if ending.outcome in WELL else ExecutionError(ending.reason, ending.detail)
        if execution.target is not None:
            self._router.complete(execution.message, Place(execution.target_id), error)
        self._router.complete(execution.message, self._place, error)

    def statistics(self) -> dict[str, int]:
        """Gauges by name."""
        return {
            "running": self.running,
            "waiting": len(self._waiting),
            "unrecorded": self.records.unrecorded,
            "uncounted": self.records.uncounted,
            "late": self.late,
        }
