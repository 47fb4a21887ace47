"""Say a presence again a while after each connect (protocol P3.4).

A broker may lose a retained message for a subscriber that comes in the very moment in which it is published: the
embedded one does when a hundred nodes and their controller come back together. Whoever missed it would wait for the
next connect, which may be weeks away; so it is said again, twice, and costs nothing where it was heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

AGAIN_S = (2.0, 20.0)  # seconds after a connect, then after the time before


class Announcing:
    """Repeats ``publish`` after each ``connected``; run ``run`` among the owner's tasks.

    ``publish`` must do nothing while there is no connection.
    """

    def __init__(self, publish: Callable[[], None], again_s: tuple[float, ...] = AGAIN_S) -> None:
        self._publish, self._again_s = publish, again_s
        self._connected = asyncio.Event()

    def connected(self) -> None:
        """Note a new connection, on which the owner has published already."""
        self._connected.set()

    async def run(self) -> None:
        """Wait for connections and repeat; ends only by cancellation."""
        while True:
            await self._connected.wait()
            self._connected.clear()
            for delay in self._again_s:
                try:
                    async with asyncio.timeout(delay):
                        await self._connected.wait()
                    break  # a newer connection: its owner has published on it
                except TimeoutError:
                    self._publish()
