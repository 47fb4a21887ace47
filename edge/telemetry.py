"""This machine's own telemetry as a device: load, memory, disk, temperature, published to the node's bus once a second.

What ``fieldpost up`` feeds the example rules with: real values from /proc and /sys, on any Linux machine, no root.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Any

import msgspec

from common.clock import SystemClock
from common.errors import TransportError
from common.messaging.base import Link


def read(root: Path = Path("/")) -> dict[str, Any]:
    """Measure the machine below ``root``: load (1 minute), memory and disk (percent used), temperature (degrees C).

    What a machine does not tell is left out; a machine that tells nothing still gives its time (unix seconds).
    """
    measured: dict[str, Any] = {"time": round(SystemClock().time(), 3)}
    with contextlib.suppress(OSError, ValueError, IndexError):
        measured["load"] = float((root / "proc/loadavg").read_text().split()[0])
    with contextlib.suppress(OSError, ValueError, KeyError, ZeroDivisionError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        measured["memory"] = round(100 * (1 - kib["MemAvailable"] / kib["MemTotal"]), 1)
    with contextlib.suppress(OSError, ZeroDivisionError):
        disk = shutil.disk_usage(root)
        measured["disk"] = round(100 * disk.used / disk.total, 1)
    sensors = [*root.glob("sys/class/thermal/thermal_zone*/temp"), *root.glob("sys/class/hwmon/hwmon*/temp*_input")]
    for sensor in sorted(sensors):
        with contextlib.suppress(OSError, ValueError):
            measured["temperature"] = int(sensor.read_text()) / 1000
            break
    return measured


async def publish(link: Link, device: str, every_s: float) -> None:
    """Publish a measurement to ``devices/<device>/telemetry`` every ``every_s`` seconds until cancelled.

    A measurement that finds no connection is skipped: the next one is as good.
    """
    topic = f"devices/{device}/telemetry"
    while True:
        with contextlib.suppress(TransportError):
            link.publish(topic, msgspec.json.encode(read()))
        await asyncio.sleep(every_s)
