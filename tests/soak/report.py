"""What a soak saw, and how it is printed."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRESS_S = 30.0
SCHEDULED = Path("/proc/self/schedstat")  # of the main thread: nanoseconds that it ran, and that it waited for a CPU


class Busy:
    """How busy the machine is, as the main thread of this process has felt it since this object was made."""

    def __init__(self) -> None:
        self._begun = _scheduled()

    @property
    def slowdown(self) -> float:
        """How much longer it took until something was done than it would have with a CPU that is always free; 1 where
        the kernel does not say.
        """
        ran, waited = (now - then for now, then in zip(_scheduled(), self._begun, strict=True))
        return 1 + waited / ran if ran else 1.0


def _scheduled() -> tuple[int, int]:
    fields = SCHEDULED.read_text().split() if SCHEDULED.exists() else ["0", "0"]
    return int(fields[0]), int(fields[1])


@dataclass
class Report:
    """Counted while the soak runs; ``lines`` at its end. It failed when ``problems`` holds anything."""

    seed: int
    minutes: float  # what was asked for
    accepted: int = 0
    counted: int = 0
    lost: int = 0
    doubled: int = 0
    kills: Counter[str] = field(default_factory=Counter)  # by process
    faults: Counter[str] = field(default_factory=Counter)  # pauses and proxy modes
    live_cuts: Counter[str] = field(default_factory=Counter)  # of the running edge and cloud
    short_cuts: Counter[str] = field(default_factory=Counter)  # of short lives, at chosen operations
    eio: int = 0
    can_cut: bool = True
    warm: list[float] = field(default_factory=list)  # seconds to recover; what was started was forked, if anything was
    cold: list[float] = field(default_factory=list)  # the same with a start that imports everything, as any user's
    slowest: str = ""  # what the longest recovery came after
    ledger: str = ""
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # side -> (seconds, KiB)
    problems: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    busy: Busy = field(default_factory=Busy)
    faults_s: float = 0.0  # how long there were faults
    _shown: float = 0.0

    @property
    def cuts(self) -> int:
        """Power cuts in all."""
        return sum(self.live_cuts.values()) + sum(self.short_cuts.values())

    def has(self, kills: int) -> bool:
        """True when there were so many kills, and as many power cuts where there can be any."""
        return sum(self.kills.values()) >= kills and (not self.can_cut or self.cuts >= kills)

    def recovered(self, seconds: float, *, cold: bool, after: Sequence[str]) -> None:
        """Note how long the pipeline took after the last of these faults."""
        (self.cold if cold else self.warm).append(seconds)
        if seconds >= max([*self.warm, *self.cold]):
            self.slowest = f"after {', '.join(after)}"

    def progress(self) -> None:
        """Say once in a while how far it is."""
        self.faults_s = time.monotonic() - self.begun
        if self.faults_s >= self._shown + PROGRESS_S:
            self._shown = self.faults_s
            kills = sum(self.kills.values())
            sys.stderr.write(
                f"{self.faults_s / 60:.1f} min: {kills} kills, {self.cuts} power cuts, {len(self.problems)} problems\n"
            )

    def lines(self) -> list[str]:
        """The report, one fact a line."""
        kills = sum(self.kills.values())
        memory = ", ".join(f"{side} {_slope(points)}" for side, points in self.memory.items())
        found = [
            f"minutes     {(time.monotonic() - self.begun) / 60:.1f}  (faults for {self.faults_s / 60:.1f}; "
            f"waiting for a CPU made all of it {self.busy.slowdown:.1f} times as long)",
            f"accepted    {self.accepted}",
            f"counted     {self.counted}  (with those of which the edge died before it could say so)",
            f"lost        {self.lost}",
            f"doubled     {self.doubled}",
            f"kills       {kills}  ({_counts(self.kills)}; {kills * 60 / max(self.faults_s, 1e-9):.1f} a minute)",
            f"power cuts  {self.cuts}  (running {_counts(self.live_cuts)}; short lives {_counts(self.short_cuts)}, "
            f"{self.eio} of them after failed fsyncs)",
            f"faults      {sum(self.faults.values())}  ({_counts(self.faults)})",
            f"recovery    {_quantiles([*self.warm, *self.cold])}",
            f"            {_quantiles(self.cold)} after a start with all imports",
            f"            {_quantiles(self.warm)} after none, or after forks that had imported before",
            f"            the slowest {self.slowest or 'not seen'}",
            f"memory      {memory or 'not seen'}",
            f"ledger      {self.ledger or 'not seen'}",
            f"seed        {self.seed}",
        ]
        return [*found, *(f"PROBLEM     {text}" for text in self.problems)]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"


def _quantiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "not seen"
    ordered = sorted(seconds)

    def at(part: float) -> float:
        return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]

    return f"p50 {at(0.5):.2f} s, p99 {at(0.99):.2f} s, max {ordered[-1]:.2f} s  ({len(ordered)} times)"


def _slope(points: Sequence[tuple[float, float]]) -> str:
    """Least squares over the calm phase."""
    if len(points) < 3:
        return "not seen"
    mean_at = sum(at for at, _ in points) / len(points)
    mean = sum(size for _, size in points) / len(points)
    above = sum((at - mean_at) * (size - mean) for at, size in points)
    slope = above / sum((at - mean_at) ** 2 for at, _ in points) * 60
    span = points[-1][0] - points[0][0]
    return f"{slope:+.0f} KiB/min at {mean / 1024:.1f} MiB over {span:.0f} s"
