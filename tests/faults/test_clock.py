"""Wall clocks that jump under running processes: ten years ahead, an hour back (reliability R3, time).

The jump is below Python, in what the C library says: identifiers, logs and every library see it, not only our clock.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from common.control import call, socket_path
from common.errors import ControlError
from tests.faults.pipeline import Pipeline
from tests.support.brokers import Mosquitto
from tests.support.clockshift import ClockShift
from tests.support.powerloss import NO_COMPILER, find_compiler
from tests.support.wait import eventually

HOUR, TEN_YEARS = 3600, 10 * 365 * 86_400
JUMPS = {"ahead": (TEN_YEARS,), "back": (-HOUR,), "ahead-and-back": (TEN_YEARS, -HOUR)}
RATE = 400
RECOVERY_S = 20.0  # two resends and a restart on a busy machine; a timer on the wall clock would take an hour or never
MORE = 200  # results that must be counted after each event


@pytest.fixture
def shift(tmp_path: Path) -> ClockShift:
    """The clock of the processes that jump."""
    if find_compiler() is None:
        pytest.skip(NO_COMPILER)
    (directory := tmp_path / "clock").mkdir()
    return ClockShift(directory)


async def _statistics(directory: Path, side: str) -> dict[str, Any]:
    try:
        found = await call(socket_path(directory, side), "statistics")
    except ControlError:
        return {}
    assert isinstance(found, dict)
    return found


async def _goes_on(stack: Pipeline) -> None:
    """What is accepted from now on is counted soon: no timer waits for a time of day."""
    made = len(stack.accepted())

    async def counted() -> bool:
        await stack.collect()
        return len(stack.accepted()) > made + MORE and all(each in stack.seen for each in stack.accepted()[:made])

    await eventually(counted, RECOVERY_S, what=f"counted within {RECOVERY_S} s")


async def _sends_again(stack: Pipeline) -> None:
    """What the broker lost is sent again after its two seconds: by the monotonic clock."""
    stack.edge_proxy.lying = True
    before = (await _statistics(stack.edge_dir, "edge"))["uplink"]["resent"]

    async def resent() -> bool:
        return (await _statistics(stack.edge_dir, "edge"))["uplink"]["resent"] > before

    begun = time.monotonic()
    await eventually(resent, RECOVERY_S, what="messages are sent again")
    assert time.monotonic() - begun > 0.5, "they were sent again at once: that was another reason"
    stack.edge_proxy.lying = False


@pytest.mark.parametrize("jumps", JUMPS.values(), ids=JUMPS)
@pytest.mark.parametrize("side", ["edge", "cloud"])
async def test_a_clock_that_jumps_changes_no_count(
    mosquitto: Mosquitto, tmp_path: Path, shift: ClockShift, side: str, jumps: tuple[int, ...]
) -> None:
    """R3: exact counts, dense sequences; resends, reconnects and restarts as if nothing had happened, and no alarm."""
    shifted, calm = {"environment": shift.environment}, {}
    async with Pipeline(mosquitto, tmp_path, rate=RATE) as stack:
        stack.start_cloud(**(shifted if side == "cloud" else calm))
        stack.start_edge(**(shifted if side == "edge" else calm))
        await eventually(stack.collect, 20)
        for jump in jumps:
            shift.to(jump)
            await _goes_on(stack)
            stack.edge_proxy.cut()
            stack.cloud_proxy.cut()
            await _goes_on(stack)
            await _sends_again(stack)
            await _goes_on(stack)
            (stack.edge if side == "edge" else stack.cloud).kill()
            if side == "edge":
                stack.start_edge(**shifted)
            else:
                stack.start_cloud(**shifted)
            await eventually(lambda: _statistics(stack.edge_dir, "edge"), RECOVERY_S)
            await _goes_on(stack)
        await stack.settled()
        accepted, counted, lost, doubled = await stack.account()
        assert (lost, doubled) == (0, 0)
        assert counted >= accepted > 4 * MORE
        assert await stack.ledger() == ("ok", [])
        await eventually(lambda: _is_online(stack), RECOVERY_S)
        await _saw_the_jump(stack, side, jumps)
        _is_dense(stack)


async def _is_online(stack: Pipeline) -> bool:
    (row,) = await call(socket_path(stack.cloud_dir, "cloud"), "get.nodes")
    assert (row["conflict"], row["cloud_lost"]) == ("", 0)
    return bool(row["state"] == "online")


async def _saw_the_jump(stack: Pipeline, side: str, jumps: tuple[int, ...]) -> None:
    """The process was told the other time: else this proved nothing."""
    with sqlite3.connect(f"file:{stack.cloud_dir / 'cloud.db'}?mode=ro", uri=True) as raw:
        received = [at - time.time() for (at,) in raw.execute("SELECT received_at FROM results")]
        ended = {at[:4] for (at,) in raw.execute("SELECT time FROM results")}
    raw.close()
    for jump in jumps:
        if side == "cloud":
            assert any(abs(each - jump) < 300 for each in received)
        elif jump == TEN_YEARS:
            assert any(int(year) > time.gmtime().tm_year + 8 for year in ended)


def _is_dense(stack: Pipeline) -> None:
    """Every epoch ended without a gap."""
    with sqlite3.connect(f"file:{stack.cloud_dir / 'cloud.db'}?mode=ro", uri=True) as raw:
        rows = list(raw.execute("SELECT n, mark, above, state FROM progress"))
    raw.close()
    assert rows
    assert all((above, state) == ("", 0) for _, _, above, state in rows)
