"""kill -9 at each named fault point of edge and cloud, again and again (reliability R3, group crash)."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from common.faults import CLOUD_POINTS, EDGE_POINTS
from tests.faults.pipeline import Pipeline
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

KILLS = 3


@pytest.mark.parametrize("point", [*EDGE_POINTS, *CLOUD_POINTS])
async def test_kill_at_a_named_point_loses_and_doubles_nothing(
    mosquitto: Mosquitto, tmp_path: Path, rng: random.Random, point: str
):
    """R1.1, R1.2: the process kills itself at the point, at passages drawn by seed; then all is counted once."""
    async with Pipeline(mosquitto, tmp_path, rate=400) as stack:
        victim = stack.edge if point in EDGE_POINTS else stack.cloud
        faults = [f"{point}:{rng.randint(1, 8)}" for _ in range(KILLS)]
        stack.start_cloud(fault=faults[0] if victim is stack.cloud else "")
        stack.start_edge(fault=faults[0] if victim is stack.edge else "")
        for fault in [*faults[1:], ""]:
            await eventually(lambda: victim.ended is not None, 20, what=f"killed at {point}")
            assert victim.ended == -signal.SIGKILL, victim.tail()
            if victim is stack.edge:
                stack.start_edge(fault=fault)
            else:
                stack.start_cloud(fault=fault)
        made = len(stack.accepted())  # maybe none: each life may have ended before it told of one
        await eventually(lambda: len(stack.accepted()) > made, 20)
        await stack.settled()
        accepted, counted, lost, doubled = await stack.account()
        assert (lost, doubled) == (0, 0)
        assert counted >= accepted > 0
