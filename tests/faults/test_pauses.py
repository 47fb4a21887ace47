"""Processes that stand still and come back: SIGSTOP longer than any keepalive (reliability R3, crash).

Worse than a kill in one way: what stood still goes on with connections that others have given up.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.pipeline import Pipeline
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

GIVEN_UP_S = 40.0  # the children's keepalive is 5 s; who waits gives up after one and a half to two of them
RECOVERY_S = 20.0
MORE = 300


async def _given_up(stack: Pipeline, broker: Mosquitto, side: str) -> None:
    """Wait until the others have given up the connection of who stands still."""
    if side == "broker":
        connects = stack.edge_proxy.accepted
        await eventually(lambda: stack.edge_proxy.accepted > connects, GIVEN_UP_S, what="the edge connects anew")
    else:
        await eventually(lambda: "exceeded timeout" in broker.log_file.read_text(errors="replace"), GIVEN_UP_S)


@pytest.mark.parametrize("side", ["edge", "cloud", "broker"])
async def test_a_process_that_stood_still_loses_and_doubles_nothing(
    mosquitto: Mosquitto, tmp_path: Path, side: str
) -> None:
    """R1.1, R1.2, R1.8: after the pause everything goes on by itself, and what was accepted is counted once."""
    async with Pipeline(mosquitto, tmp_path, rate=400) as stack:
        stack.start_cloud()
        stack.start_edge()
        await eventually(stack.collect, 20)
        pid = mosquitto.pid if side == "broker" else getattr(stack, side).process.pid
        os.kill(pid, signal.SIGSTOP)
        await _given_up(stack, mosquitto, side)
        os.kill(pid, signal.SIGCONT)
        made = len(stack.accepted())

        async def counted() -> bool:
            await stack.collect()
            return len(stack.accepted()) > made + MORE and all(each in stack.seen for each in stack.accepted()[:made])

        await eventually(counted, RECOVERY_S)
        await stack.settled()
        accepted, counted_now, lost, doubled = await stack.account()
        assert (counted_now, lost, doubled) == (accepted, 0, 0)
