"""Leases: one holder at a time by the database's clock, taken over when it falls silent (P7.2, P8.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import update

from cloud.stores.base import Store
from cloud.stores.leases import AHEAD_TTLS_MAX, Lease, acquire, database_time, holder_of, release
from cloud.stores.tables import leases
from tests.cloud.samples import open_store
from tests.support.wait import eventually

TTL_S = 0.5


class _Holder:
    """A controller that wants the lease; ``changes`` are what it was told."""

    def __init__(self, store: Store, name: str) -> None:
        self.changes: list[bool] = []
        self.lease = Lease(store, "uplink", name, TTL_S, on_change=self.changes.append)
        self._task = asyncio.create_task(self.lease.run())

    async def stop(self) -> None:
        """End as an orderly stop does."""
        self._task.cancel()
        await asyncio.wait({self._task})


async def test_one_holder_and_the_next_when_it_gives_back(tmp_path: Path) -> None:
    """Of two only one holds; after an orderly stop the other one has it at once, without waiting for the end."""
    async with open_store(tmp_path) as store, open_store(tmp_path) as other:
        first = _Holder(store, "cloud-1")
        await eventually(lambda: first.lease.held)
        second = _Holder(other, "cloud-2")
        await eventually(lambda: second.lease.holder == "cloud-1")
        assert (first.changes, second.changes) == ([True], [])
        await first.stop()
        assert await store.read(lambda conn: holder_of(conn, "uplink", TTL_S)) in ("", "cloud-2")
        await eventually(lambda: second.lease.held)
        assert (first.changes, second.changes) == ([True, False], [True])
        await second.stop()


async def test_a_silent_holder_loses_it_before_another_one_takes_over(tmp_path: Path) -> None:
    """A holder that cannot reach the store is told so while the row still names it: never two at a time."""
    async with open_store(tmp_path) as store, open_store(tmp_path) as other:
        order: list[str] = []
        first = Lease(_Cut(store), "uplink", "cloud-1", TTL_S, on_change=lambda held: order.append(f"1 {held}"))  # type: ignore[arg-type]
        task = asyncio.create_task(first.run())
        await eventually(lambda: first.held)
        second = _Holder(other, "cloud-2")
        second.lease._on_change = lambda held: order.append(f"2 {held}")
        await eventually(lambda: second.lease.held)
        assert order == ["1 True", "1 False", "2 True"]
        task.cancel()
        await second.stop()


class _Cut:
    """A store whose first write succeeds, and whose later ones never return."""

    def __init__(self, store: Store) -> None:
        self.read, self._store, self._writes = store.read, store, 0

    async def write(self, work: Callable[..., object]) -> object:
        self._writes += 1
        if self._writes > 1:
            await asyncio.Event().wait()
        return await self._store.write(work)


async def test_the_rows_own_rules(tmp_path: Path) -> None:
    """Renewed by its holder, refused to another one, given back only by its holder, free when it has ended."""
    async with open_store(tmp_path) as store:
        assert await store.write(lambda conn: acquire(conn, "a", "cloud-1", 60))
        assert await store.write(lambda conn: acquire(conn, "a", "cloud-1", 60))
        assert not await store.write(lambda conn: acquire(conn, "a", "cloud-2", 60))
        await store.write(lambda conn: release(conn, "a", "cloud-2"))
        assert await store.read(lambda conn: holder_of(conn, "a", 60)) == "cloud-1"
        assert await store.write(lambda conn: acquire(conn, "b", "cloud-2", 60)), "each name is a lease of its own"
        assert await store.write(lambda conn: acquire(conn, "a", "cloud-1", 0))
        assert await store.write(lambda conn: acquire(conn, "a", "cloud-2", 60))


async def test_an_end_that_a_clock_wrote_which_was_set_back_counts_as_past(tmp_path: Path) -> None:
    """No jump of the database's clock makes a lease eternal."""
    async with open_store(tmp_path) as store:
        assert await store.write(lambda conn: acquire(conn, "a", "cloud-1", 5))
        ahead = AHEAD_TTLS_MAX * 5 + 60
        await store.write(lambda conn: conn.execute(update(leases).values(until=database_time(conn) + ahead)))
        assert await store.read(lambda conn: holder_of(conn, "a", 5)) == ""
        assert await store.write(lambda conn: acquire(conn, "a", "cloud-2", 5))
