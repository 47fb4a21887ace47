"""The fault function of a child process: kills it at the k-th passage of a named point, as its environment says."""

from __future__ import annotations

import os
import signal

from common.faults import Fault, no_fault

VARIABLE = "TEST_FAULT_AT"  # point:k, k from 1; only the programs of the tests read it


def from_environment() -> Fault:
    """The fault of this process; none when nothing is said."""
    point, _, passage = os.environ.get(VARIABLE, "").partition(":")
    if not point:
        return no_fault
    left = int(passage)

    def fault(at: str) -> None:
        nonlocal left
        if at == point:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return fault
