"""A stop that cannot hang: what is accepted is on disk, so a process that does not end by itself can be ended."""

from __future__ import annotations

import faulthandler
import sys

STOP_MAX_S = 25.0  # everything that a stop waits for has a bound of its own; together they are far below this


def begin_stop(seconds: float = STOP_MAX_S) -> None:
    """End the process with exit code 1 unless ``stop_ended`` is called within ``seconds``.

    What every thread was at then stands in standard error. It works also when the event loop or the interpreter hangs,
    as it needs neither.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)


def stop_ended() -> None:
    """Say that the stop is over; nothing happens when none was begun."""
    faulthandler.cancel_dump_traceback_later()
