"""What a rule's chain says of a message: deliver, to whom, or which ending (flow F4, F5)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from common.chain.hookpoint import Engine
from common.chain.nodes import LibSource
from common.chain.run import Outcome
from common.clock import Clock
from common.models import DROPPED, FAILED, FILTERED, REJECTED
from common.rulechains import rule_point
from edge.flow.chains import changed, looks_at_payload, value_of, view
from edge.messages import Ending
from edge.rules.execution import Execution
from edge.status import RuleRef

log = logging.getLogger(__name__)

LIMITS_IN_A_ROW = 5  # that a chain may hit before its rule rests
REST_FIRST_S = 1.0  # of the first rest; then doubling
REST_MAX_S = 60.0


class ChainDecision:
    """The chains of one rule, mounted. A rule whose chain hits a limit five times in a row rests, ever longer.

    Arguments: ``source`` were checked (``common.rulechains``); ``resolve`` gives the node id for the target of
    ``forward`` and ``server``, or None. Raises ChainErrors for chains that cannot run.
    """

    __slots__ = (
        "_clock", "_dropped", "_limits", "_node", "_payload", "_point", "_resolve", "_rest_s", "_rests_until", "_rule",
        "_writes",
    )  # fmt: skip

    def __init__(
        self,
        source: LibSource,
        rule: RuleRef,
        node: Mapping[str, Any],
        engine: Engine,
        resolve: Callable[[str, str], str | None],
        clock: Clock,
    ) -> None:
        self._point = rule_point(engine, f"rule {rule.namespace}/{rule.name}")
        self._point.mount(source)
        self._payload, self._writes = looks_at_payload(source), self._point.program.writes
        self._dropped: dict[str, Ending] = {}  # by the statement that said so
        self._rule = {"name": rule.name, "namespace": rule.namespace}
        self._node, self._resolve, self._clock = dict(node), resolve, clock
        self._limits, self._rest_s, self._rests_until = 0, REST_FIRST_S, 0.0

    def decide(self, execution: Execution) -> Ending | str | None:
        """See ``edge.rules.binding.Decision``."""
        if self._rests_until and self._clock.monotonic() < self._rests_until:
            text = f"its chain hit a limit {LIMITS_IN_A_ROW} times in a row; the rule rests"
            return Ending(DROPPED, "suspended", text, "chain")
        arrival, seen = execution.arrival, execution.arrival.seen
        if seen is None or execution.message is not arrival.message or (self._payload and "payload" not in seen):
            seen = self._seen(execution)
        inputs = {"MSG": seen, "RULE": self._rule, "NODE": self._node, "SOURCE": {"id": arrival.source}}
        outcome = self._point.run(inputs)
        if not outcome.ok:
            return self._failed(outcome)
        if self._limits:
            self._limits, self._rest_s = 0, REST_FIRST_S
        if self._writes and "MSG" in (outputs := outcome.outputs):
            execution.message = changed(execution.message, seen, outputs["MSG"])
        if outcome.verb == "accept":
            return None
        if outcome.verb == "drop" and (dropped := self._dropped.get(outcome.where)) is not None:
            return dropped
        return self._verdict(outcome)

    def _seen(self, execution: Execution) -> dict[str, Any]:
        """What the chain sees of the message: made once for all rules that a source shares; no run changes it."""
        arrival, message = execution.arrival, execution.message
        if message is not arrival.message:  # hooks made another of it
            return view(message, payload=self._payload)
        if arrival.seen is None:
            arrival.seen = view(message, payload=self._payload)
        elif self._payload and "payload" not in arrival.seen:
            arrival.seen["payload"] = value_of(message.payload)
        return arrival.seen

    def _verdict(self, outcome: Outcome) -> Ending | str | None:
        if outcome.verb == "drop":
            dropped = self._dropped[outcome.where] = Ending(FILTERED, "chain_drop", "", _step(outcome))
            return dropped
        step = _step(outcome)
        if outcome.verb == "reject":
            if not outcome.decided:
                text = "no statement of the chain decided: accept, reject, drop, forward or server"
                return Ending(REJECTED, "chain_no_verb", text, step)
            return Ending(REJECTED, "chain_reject", str(outcome.error or "rejected"), step)
        found = self._resolve(outcome.verb, outcome.target)
        if found is None:
            text = f"{outcome.verb} {outcome.target}: there is no such target for this rule"
            return Ending(FAILED, "unknown_destination", text, step)
        return found

    def _failed(self, outcome: Outcome) -> Ending:
        step, text = _step(outcome), str(outcome.error or "failed")
        if outcome.code.startswith("PC-LIMIT"):
            self._limits += 1
            if self._limits >= LIMITS_IN_A_ROW:
                self._rests_until = self._clock.monotonic() + self._rest_s
                self._limits = LIMITS_IN_A_ROW - 1  # the next one after the rest decides
                self._rest_s = min(2 * self._rest_s, REST_MAX_S)
                log.error("rule %s/%s rests: %s", self._rule["namespace"], self._rule["name"], text)
            return Ending(FAILED, "chain_limit", text, step)
        self._limits, self._rest_s = 0, REST_FIRST_S
        if outcome.code:
            return Ending(FAILED, "chain_fault", text, step)
        return Ending(REJECTED, "chain_error", text, step)


def _step(outcome: Outcome) -> str:
    return f"chain {outcome.where}" if outcome.where else "chain"
