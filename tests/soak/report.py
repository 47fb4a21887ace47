"""What a soak saw, and how it is printed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Report:
    """Counted while the soak runs; ``lines`` at its end. It failed when ``problems`` holds anything."""

    seed: int
    minutes: float
    accepted: int = 0
    counted: int = 0
    lost: int = 0
    doubled: int = 0
    kills: Counter[str] = field(default_factory=Counter)  # by process
    faults: Counter[str] = field(default_factory=Counter)  # pauses and proxy modes
    live_cuts: Counter[str] = field(default_factory=Counter)  # of the running edge and cloud
    short_cuts: Counter[str] = field(default_factory=Counter)  # of short lives, at chosen operations
    eio: int = 0
    recoveries: list[float] = field(default_factory=list)  # seconds
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # side -> (seconds, KiB)
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report, one fact a line."""
        cuts = sum(self.live_cuts.values()) + sum(self.short_cuts.values())
        kills = sum(self.kills.values())
        memory = ", ".join(f"{side} {_slope(points)}" for side, points in self.memory.items())
        found = [
            f"minutes     {self.minutes:.1f}",
            f"accepted    {self.accepted}",
            f"counted     {self.counted}  (with those of which the edge died before it could say so)",
            f"lost        {self.lost}",
            f"doubled     {self.doubled}",
            f"kills       {kills}  ({_counts(self.kills)}; {kills / max(self.minutes, 1e-9):.1f} a minute)",
            f"power cuts  {cuts}  (running {_counts(self.live_cuts)}; short lives {_counts(self.short_cuts)}, "
            f"{self.eio} of them after failed fsyncs)",
            f"faults      {sum(self.faults.values())}  ({_counts(self.faults)})",
            f"recovery    {_quantiles(self.recoveries)}",
            f"memory      {memory or 'not seen'}",
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
