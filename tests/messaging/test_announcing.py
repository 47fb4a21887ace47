"""Presence is said again after a connect, for who missed it (P3.4)."""

from __future__ import annotations

import asyncio
import contextlib

from common.messaging.announcing import Announcing
from tests.support.wait import eventually


async def test_a_presence_is_said_again_after_each_connect_and_then_no_more() -> None:
    """Two repeats follow a connect, however often there is one; none comes without a connect."""
    said: list[int] = []
    announcing = Announcing(lambda: said.append(1), (0.01, 0.02))
    task = asyncio.create_task(announcing.run())
    try:
        for connects in (1, 2):
            announcing.connected()
            await eventually(lambda connects=connects: len(said) == 2 * connects)
        with contextlib.suppress(AssertionError):
            await eventually(lambda: len(said) > 4, timeout=0.2)
        assert len(said) == 4
    finally:
        task.cancel()


async def test_a_new_connection_begins_the_repeats_anew() -> None:
    """Connects in a row, each sooner than the first repeat, are repeated once the last one stays."""
    said: list[float] = []
    loop = asyncio.get_running_loop()
    announcing = Announcing(lambda: said.append(loop.time()), (0.2,))
    task = asyncio.create_task(announcing.run())
    try:
        for _ in range(3):
            announcing.connected()
            last = loop.time()
            await asyncio.sleep(0.01)
        await eventually(lambda: said)
        assert len(said) == 1
        assert said[0] - last >= 0.19
    finally:
        task.cancel()
