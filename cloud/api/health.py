"""Is the controller ready: connected to its broker, and does its store take writes (experience U5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from sqlalchemy import Connection, update

from cloud.stores.base import Store
from cloud.stores.tables import schema
from common.clock import Clock
from common.errors import FieldpostError

PROBE_S_MAX = 2.0  # for a write
PROBE_AGE_S = 1.0  # an answer of the store that is younger is used again: a crowd of probes writes once


class Readiness(msgspec.Struct, frozen=True):
    """Whether all parts are ready; of each part ``ok``, or what is wrong with it."""

    ready: bool
    parts: dict[str, str]


class Health:
    """Looks at the parts; ``connected`` says whether the broker is there."""

    def __init__(self, store: Store, clock: Clock, connected: Callable[[], bool]) -> None:
        self._store, self._clock, self._connected = store, clock, connected
        self._probe: asyncio.Task[str] | None = None
        self._at = float("-inf")

    async def ready(self) -> Readiness:
        """Ask every part. The store is asked by a write; one that hangs is asked once, however often this is called."""
        parts = {"broker": "ok" if self._connected() else "not connected; see the controller's log"}
        parts["store"] = await self._store_word() or "ok"
        return Readiness(all(word == "ok" for word in parts.values()), parts)

    async def stop(self) -> None:
        """Forget a write that hangs."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)

    async def _store_word(self) -> str:
        now = self._clock.monotonic()
        if self._probe is None or (self._probe.done() and now - self._at >= PROBE_AGE_S):
            self._at = now
            self._probe = asyncio.create_task(self._write(), name="api.probe")
        await asyncio.wait((self._probe,), timeout=PROBE_S_MAX)
        if not self._probe.done():
            return f"a write takes longer than {self._clock.monotonic() - self._at:.0f} s"
        return self._probe.result()

    async def _write(self) -> str:
        try:
            await self._store.write(_touch)
        except FieldpostError as exc:
            return str(exc)
        return ""


def _touch(conn: Connection) -> None:
    conn.execute(update(schema).values(version=schema.c.version))
