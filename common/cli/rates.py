"""``fieldpost top``: what each rule does just now, from two readings of its exact counts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from common.cli.asking import DataDir, Format, Namespace, Output, ask, show

CLEAR = "\x1b[H\x1b[2J"
_SUMS = ("success", "fail", "duration_sum")


def top(
    data_dir: DataDir = "",
    output: Format = Output.table,
    namespace: Namespace = "",
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two readings.")] = 2.0,
    count: Annotated[int, typer.Option("--count", min=0, help="Stop after so many; 0 goes on.")] = 0,
) -> None:
    """Live rates of each rule, the busiest first; json and yaml show one reading. Example: fieldpost top --count 1"""
    from common import tables

    shown, left = 0, count or (0 if output is Output.table else 1)
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        before, at = ask(data_dir, "get.rules", namespace=namespace), time.monotonic()
        while not left or shown < left:
            time.sleep(every)
            now, since = ask(data_dir, "get.rules", namespace=namespace), at
            at = time.monotonic()
            if output is Output.table and sys.stdout.isatty():
                print(CLEAR, end="")
            show(tables.RATES, rates(before, now, at - since), output)
            sys.stdout.flush()
            before, shown = now, shown + 1


def rates(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Return each rule with its executions a second and their mean duration between two readings, the busiest first.

    A rule that was not there before began at zero; one that is gone is left out.
    """
    known = {_identity(row): row for row in before}
    found = []
    for row in now:
        old = known.get(_identity(row), {})
        success, fail, duration = (max(0, row[name] - old.get(name, 0)) for name in _SUMS)
        ended = success + fail
        found.append({
            "namespace": row["namespace"], "rule": row["rule"], "success_per_s": round(success / seconds, 3),
            "fail_per_s": round(fail / seconds, 3), "mean_ms": round(duration / ended / 1000, 3) if ended else None,
            "success": row["success"], "fail": row["fail"],
        })  # fmt: skip
    return sorted(found, key=lambda row: (-row["success_per_s"] - row["fail_per_s"], row["namespace"], row["rule"]))


def _identity(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["namespace"], row["rule"], row["uid"]
