"""What of a rule's executions goes to disk: inputs that take long, and the one result of each (protocol P5.3, F5)."""

from __future__ import annotations

import logging
from collections import deque

from common.errors import QueueFullError
from common.message import new_id
from common.models import DELIVERED, FILTERED
from edge.rules.execution import Execution
from edge.spool import Spool
from edge.spooltables import Input
from edge.status import RuleRef, Status
from edge.summaries import Tally

log = logging.getLogger(__name__)

WELL = (DELIVERED, FILTERED)  # outcomes of executions that a tally may sum up


class Records:
    """Journal and results of the executions that one binding runs.

    Arguments: ``rule`` says whose results these are; ``tally``, if there is one, sums up what ends well; so many as
    ``waiting_max`` results of sources that repeat nothing wait while the spool has no room.
    """

    __slots__ = ("_reliable", "_rule", "_spool", "_status", "_tally", "_unrecorded", "_waiting_max", "uncounted")

    def __init__(self, rule: RuleRef, status: Status, spool: Spool, tally: Tally | None, waiting_max: int) -> None:
        self._rule, self._status, self._spool, self._tally = rule, status, spool, tally
        self._waiting_max = waiting_max
        self._reliable: deque[Execution] = deque()  # whose source still waits, oldest first
        self._unrecorded: deque[Execution] = deque()  # ended while the spool had no room
        self.uncounted = 0

    @property
    def unrecorded(self) -> int:
        """How many executions have ended and wait for room in the spool."""
        return len(self._unrecorded)

    @property
    def open(self) -> bool:
        """True while ``journal`` or ``again`` has something to do."""
        return bool(self._reliable or self._unrecorded)

    def begun(self, execution: Execution) -> None:
        """Remember an execution whose input may have to go to the journal."""
        if execution.arrival.reliable or execution.arrival.journal_now:
            self._reliable.append(execution)

    def journal(self, before: float) -> None:
        """Put on disk the inputs of executions that began ``before`` (monotonic seconds) and have not ended."""
        reliable = self._reliable
        while reliable and (reliable[0].ended or reliable[0].since <= before):
            execution = reliable[0]
            if not (execution.ended or execution.input_id) and execution.binding.records is self:
                try:
                    self._input(execution)
                except QueueFullError:
                    return
                except Exception:  # a hook left there what no disk takes: its source waits for the result instead
                    msgid = execution.arrival.message.msgid
                    log.exception("rule %s/%s, message %s: cannot be journalled", *self._rule[:2], msgid)
            reliable.popleft()

    def _input(self, execution: Execution) -> None:
        message, settlement = execution.arrival.message, execution.settlement
        namespace, rule = execution.began.namespace, execution.began.name
        item = Input(
            new_id(), namespace, rule, message.msgid, message.key, message.body(), execution.attempts,
            execution.arrival.rest(),
        )  # fmt: skip
        self._spool.journal(item, settlement.one if settlement is not None else None)
        execution.input_id = item.id

    def ended(self, execution: Execution, now: float) -> None:
        """Give the result of an execution that ended ``now`` to the spool, or keep it until there is room."""
        if self._result(execution, now):
            return
        if execution.arrival.reliable or execution.input_id or len(self._unrecorded) < self._waiting_max:
            self._unrecorded.append(execution)
        else:  # a flood at QoS 0 against a full spool: nobody bounds it but we
            self.uncounted += 1

    def again(self, now: float) -> None:
        """Try those again that found no room."""
        while self._unrecorded and self._result(self._unrecorded[0], now):
            self._unrecorded.popleft()

    def _result(self, execution: Execution, now: float) -> bool:
        settlement, input_id, ending = execution.settlement, execution.input_id, execution.ending
        source_id = execution.arrival.message.msgid
        duration_us = int((now - execution.since) * 1e6)
        on_durable = settlement.one if settlement is not None and not input_id else None
        if self._tally is not None and not input_id and ending.outcome in WELL:
            self._tally.add(ending, source_id, now, duration_us, execution.attempts, on_durable)
            return True
        try:
            self._status.record(
                self._rule,
                ending,
                source_id=source_id,
                duration_us=duration_us,
                attempts=execution.attempts,
                on_durable=on_durable,
                input_id=input_id,
            )
        except QueueFullError:
            return False
        return True
