"""Trace: every statement that ran, with its status, value and time (L12). Traced blocks are compiled apart."""

from __future__ import annotations

from typing import Any

from common.chain.commands.spec import Err
from common.chain.errors import LimitError
from common.chain.run import Run
from common.chain.running import LinkedBlock
from common.chain.signals import ERR, TERMINAL, Signal
from common.chain.values import copy


def trace_begin(run: Run, block: LinkedBlock, line: int) -> list[Any]:
    """A statement begins: its entry (chain, block, line, ok, value, seconds), open until it ends."""
    entry = [block.chain.id, block.id, line, None, None, run.program.monotonic()]
    if run.trace is not None:
        run.trace.append(entry)
    return entry


def trace_end(run: Run, entry: list[Any], result: Any) -> None:
    """A statement has ended, and with it what was left inside it by break or continue."""
    is_err = type(result) is Err
    now = run.program.monotonic()
    for open_entry in reversed(run.trace or [entry]):
        if open_entry[3] is None:
            open_entry[3:] = [not is_err, _as_it_is(result.value if is_err else result), now - open_entry[5]]
        if open_entry is entry:
            return


def trace_mark(run: Run) -> int:
    """Where the entries of a call begin that is made now."""
    return len(run.trace or ())


def trace_called(run: Run, mark: int, signal: Signal) -> None:
    """A call has come back: the statements that return or error left in it end with the call's result."""
    kind, value, *_ = signal
    now = run.program.monotonic()
    for entry in (run.trace or [])[mark:]:
        if entry[3] is None and kind < TERMINAL:
            entry[3:] = [kind < ERR, _as_it_is(value), now - entry[5]]


def _as_it_is(value: Any) -> Any:
    """A value as it is now: what later statements change in a collection is not what this one gave."""
    try:
        return copy(value)
    except LimitError as exc:
        return f"({exc.message})"


def close_trace(run: Run) -> None:
    """What is still open was left by what ended the run."""
    now = run.program.monotonic()
    for entry in run.trace or ():
        if entry[3] is None:
            entry[3:] = [run.ok, "", now - entry[5]]
