"""Trace: every statement that ran, with its status, value and time (L12). Traced blocks are compiled apart."""

from __future__ import annotations

from typing import Any

from common.chain.commands.spec import Err
from common.chain.run import Run
from common.chain.running import LinkedBlock


def trace_begin(run: Run, block: LinkedBlock, line: int) -> list[Any]:
    """A statement begins: its entry (chain, block, line, ok, value, seconds), open until it ends."""
    entry = [block.chain.id, block.id, line, None, None, run.program.monotonic()]
    if run.trace is not None:
        run.trace.append(entry)
    return entry


def trace_end(run: Run, entry: list[Any], result: Any) -> None:
    """A statement has ended."""
    is_err = type(result) is Err
    entry[3:] = [not is_err, result.value if is_err else result, run.program.monotonic() - entry[5]]


def close_trace(run: Run) -> None:
    """Statements that were left by a control, or by what ended the run, end with it."""
    now = run.program.monotonic()
    for entry in run.trace or ():
        if entry[3] is None:
            entry[3:] = [run.ok, "", now - entry[5]]
