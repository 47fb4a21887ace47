"""One message on its way through one rule, and when its source is acknowledged (flow F1, protocol P5.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edge.messages import DELIVERED_ENDING, Answer, Arrival, Ending, FlowMessage

if TYPE_CHECKING:
    from edge.endpoints.base import Target
    from edge.rules.binding import Binding
    from edge.status import RuleRef


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
    """One message on its way through one rule. Times are monotonic seconds.

    ``binding`` is the rule that runs it, ``began`` the one that it came to, and ``message`` what hooks and chain made
    of the arrival's. ``target_id`` is set while an event carries it to its target.
    """

    binding: Binding
    arrival: Arrival
    settlement: Settlement | None
    since: float
    message: FlowMessage
    began: RuleRef
    attempts: int = 1
    deadline: float = 0.0
    input_id: str = ""  # of its row in the journal, once it is there
    entered: bool = False  # the rule has it; before that it passes hooks
    ended: bool = False
    ending: Ending = DELIVERED_ENDING
    target: Target | None = None
    target_id: str = ""
    answer: Answer | None = None

    def stop(self, ending: Ending) -> None:
        """End with ``ending``, from whichever stage; a second call does nothing (``edge.flow.events.Execution``)."""
        self.binding.stop(self, ending)
