"""Leases: who does what only one controller may do at a time (protocol P7.2, P8.3, decision 10).

Theory of operation. A lease is a row with a holder and an end. Both are written and judged by the database's clock, so
clocks of controllers that differ mean nothing. The holder itself counts from *before* it asked, on its monotonic clock,
and stops a little early: it never believes longer than the row says. An end that lies further ahead than any lease
reaches was written before a clock was set back, and counts as past.

Two may both act for a moment all the same, when a process stands still between its look at ``held`` and what it does.
So a lease saves work and keeps order; what must be exact is exact by other means (P5.7).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Double, cast, delete, func, literal_column, select

from cloud.stores.base import Store
from cloud.stores.bulk import dialect_insert
from cloud.stores.tables import leases
from common.clock import Clock, SystemClock
from common.errors import QueueFullError, StorageError

log = logging.getLogger(__name__)

LOOKS_PER_TTL = 5  # how often the holder renews, and another one looks whether the lease is free
SAFETY = 0.1  # part of the time to live by which the holder gives up before the row ends
AHEAD_TTLS_MAX = 10  # an end more than so many times to live ahead was written by a clock that was set back


def database_time(conn: Connection) -> Any:
    """SQL for the database's clock in unix seconds: that of the statement, not of the transaction's beginning."""
    if conn.dialect.name == "postgresql":
        return cast(func.extract("epoch", func.clock_timestamp()), Double)
    return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double)


def acquire(conn: Connection, name: str, holder: str, ttl_s: float) -> bool:
    """Take or renew a lease; True when ``holder`` has it now, for ``ttl_s`` seconds by the database's clock."""
    now = database_time(conn)
    wanted = dialect_insert(conn.dialect.name)(leases).values(name=name, holder=holder, until=now + ttl_s)
    taken = wanted.on_conflict_do_update(
        index_elements=["name"],
        set_={"holder": holder, "until": now + ttl_s},
        where=_is_free(now, ttl_s) | (leases.c.holder == holder),
    ).returning(leases.c.name)
    return conn.execute(taken).first() is not None


def release(conn: Connection, name: str, holder: str) -> None:
    """Give a lease back at once, if ``holder`` has it."""
    conn.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))


def holder_of(conn: Connection, name: str, ttl_s: float) -> str:
    """Return who holds a lease, empty when it is free."""
    now = database_time(conn)
    query = select(leases.c.holder).where(leases.c.name == name, ~_is_free(now, ttl_s))
    return conn.execute(query).scalar() or ""


def _is_free(now: Any, ttl_s: float) -> Any:
    return (leases.c.until <= now) | (leases.c.until > now + AHEAD_TTLS_MAX * ttl_s)


class Lease:
    """One lease as one controller sees it; run ``run`` among the owner's tasks, and look at ``held``.

    Arguments: ``store``; ``name`` of what only one may do; ``holder``, the controller's id; ``ttl_s`` seconds after
    which another one takes over from a holder that says nothing; ``on_change`` is called on the loop with True when it
    was taken and with False when it was lost or given back. The holder's clock is ``clock``, of which only the
    monotonic side is read.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        holder: str,
        ttl_s: float,
        *,
        on_change: Callable[[bool], None] = lambda held: None,
        clock: Clock | None = None,
    ) -> None:
        self._store, self._name, self._holder, self._ttl_s = store, name, holder, ttl_s
        self._on_change, self._clock = on_change, clock or SystemClock()
        self._until = 0.0
        self._told = False
        self._timer: asyncio.TimerHandle | None = None
        self.holder = ""  # who had it at the last look, this controller or another one; empty when nobody

    @property
    def held(self) -> bool:
        """True while this controller has the lease, as far as can be known without asking."""
        return self._clock.monotonic() < self._until

    async def run(self) -> None:
        """Take the lease when it is free and keep it; ends only by cancellation, and then gives it back."""
        try:
            while True:
                try:
                    await self._ask()
                except (StorageError, QueueFullError) as exc:  # it ends by itself if this goes on
                    log.warning("lease %s: %s", self._name, exc)
                await asyncio.sleep(self._ttl_s / LOOKS_PER_TTL)
        finally:
            await self._give_back()

    async def _ask(self) -> None:
        name, holder, ttl_s = self._name, self._holder, self._ttl_s
        if not self.held:  # a look first: whoever waits writes nothing
            self.holder = await self._store.read(lambda conn: holder_of(conn, name, ttl_s))
            if self.holder not in ("", holder):
                return
        asked = self._clock.monotonic()
        if not await self._store.write(lambda conn: acquire(conn, name, holder, ttl_s)):
            self._until = 0.0
            return self._tell()
        self._until, self.holder = asked + ttl_s * (1 - SAFETY), holder
        self._tell()

    def _tell(self) -> None:
        """Tell the owner what has changed, and come again when the lease ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = self.held
        if held:
            left = self._until - self._clock.monotonic()
            self._timer = asyncio.get_running_loop().call_later(left, self._tell)
        if held is self._told:
            return
        self._told = held
        log.info("%s %s the lease %s", self._holder, "has" if held else "no longer has", self._name)
        self._on_change(held)

    async def _give_back(self) -> None:
        was_held, self._until = self.held, 0.0
        self._tell()
        if was_held:
            try:
                async with asyncio.timeout(self._ttl_s):  # after that it is free anyway
                    await self._store.write(lambda conn: release(conn, self._name, self._holder))
            except (StorageError, QueueFullError, TimeoutError) as exc:
                log.info("lease %s was not given back, it ends by itself: %s", self._name, exc)
