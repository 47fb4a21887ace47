"""Rates and latencies of rules: gathered in memory from what is committed, written to the store now and then (P8.1).

Theory of operation. Every commit notes its tallies here, which costs a list of durations for each counter. Writing them
each time would cost more than counting: a result of a rule of its own would need four rows more. So what was gathered
is written every few seconds, at most so many rows, the rules that have waited longest first; with thousands of rules a
rule's turn comes later, and then with more in each row. Rows add up, so any number of controllers may write. No count
depends on this: a controller that is killed loses the statistics that it had not written, and no more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from sqlalchemy import Connection, delete

from cloud.counting import TOTAL_MAX, CounterKey, Tally
from cloud.settings import StoreSettings
from cloud.stores import rates
from cloud.stores.bulk import Bulk, dialect_insert
from cloud.stores.latency import SLOT_S, SLOTS, bucket_of, histogram, slot_of
from cloud.stores.rings import saturating
from cloud.stores.tables import latencies
from cloud.stores.tables import rates as rate_rows
from common.models import SUCCESS

RULES_MAX = 100_000  # rules of which statistics wait to be written; those of further ones are dropped and counted
DURATIONS_MAX = 1024  # of a rule, that wait as they are; more become a histogram

Key = tuple[str, str, str]  # namespace, rule, uid


class _Gathered:
    """What one rule did since it was written last: of the present minute and hour, and what came before."""

    __slots__ = ("buckets", "durations", "fail", "minute", "minutes", "success")

    def __init__(self, minute: int, durations: list[int]) -> None:
        self.minute, self.durations = minute, durations
        self.success = self.fail = 0
        self.minutes: list[tuple[int, int, int]] | None = None  # earlier ones; few rules wait for so long
        self.buckets: dict[tuple[int, int], int] | None = None  # by slot and bucket

    def turn(self, minute: int) -> None:
        """Begin another minute."""
        if slot_of(minute) != slot_of(self.minute):
            self.pack()
        self.minutes = [*(self.minutes or ()), (self.minute, self.success, self.fail)]
        self.minute, self.success, self.fail = minute, 0, 0

    def pack(self) -> dict[tuple[int, int], int]:
        """Turn durations into buckets, and return all buckets."""
        durations, self.durations = self.durations, []
        for bucket, count in histogram(durations).items():
            self.add(bucket, count)
        return self.buckets or {}

    def add(self, bucket: int, count: int) -> None:
        """Add executions to a bucket of the present hour."""
        if self.buckets is None:
            self.buckets = {}
        key = (slot_of(self.minute), bucket)
        self.buckets[key] = self.buckets.get(key, 0) + count

    def rates(self) -> list[tuple[int, int, int]]:
        """Minutes, each with successes and failures."""
        return [*(self.minutes or ()), (self.minute, self.success, self.fail)]


class Statistics:
    """Gathers and writes. Writer thread only."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._gathered: dict[Key, _Gathered] = {}  # in the order in which their turn comes
        self._folded = 0  # the minute of the last fold
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Rules of which something waits to be written."""
        return len(self._gathered)

    def note(self, tallies: Mapping[CounterKey, Tally]) -> None:
        """Take what a transaction has counted, once it is committed."""
        gathered, at, minute = self._gathered, -1.0, 0
        for key, tally in tallies.items():
            rule, durations = key[1:4], tally.durations
            if tally.last_at != at:
                at = tally.last_at
                minute = rates.begin(at, rates.MINUTE)
            found = gathered.get(rule)
            if found is None:
                if len(gathered) >= RULES_MAX:
                    self.dropped += 1
                    continue
                found = gathered[rule] = _Gathered(minute, durations)  # the list is not used any more
            else:
                if found.minute != minute:
                    found.turn(minute)
                found.durations += durations
                if len(found.durations) > DURATIONS_MAX:
                    found.pack()
            count = len(durations)
            if tally.summed:
                for duration, executions in tally.summed:
                    found.add(bucket_of(duration), executions)
                    count += executions
            if key.status == SUCCESS:
                found.success += count
            else:
                found.fail += count

    def due(self, now: float) -> bool:
        """True when there is something to write or to forget. May be called on any thread."""
        return bool(self._gathered) or rates.begin(now, rates.MINUTE) != self._folded

    def take(self, rows_max: int | None) -> dict[Key, _Gathered]:
        """Take out the rules whose turn it is, for about ``rows_max`` rows; None: all."""
        taken: dict[Key, _Gathered] = {}
        rows = 0
        for key, found in self._gathered.items():
            if rows_max is not None and rows >= rows_max:
                break
            taken[key] = found
            rows += len(found.pack()) + len(found.minutes or ()) + 1
        for key in taken:
            del self._gathered[key]
        return taken

    def write(self, conn: Connection, taken: Mapping[Key, _Gathered]) -> None:
        """Add what was taken to the store's rows."""
        ordered = sorted(taken.items())
        by_minute = [
            (*key, rates.MINUTE, start, min(success, TOTAL_MAX), min(fail, TOTAL_MAX))
            for key, found in ordered
            for start, success, fail in found.rates()
        ]
        by_bucket = [
            (*key, *at, min(count, TOTAL_MAX))
            for key, found in ordered
            for at, count in sorted((found.buckets or {}).items())
        ]
        minutes, buckets = _bulks(conn.dialect.name)
        if by_minute:
            minutes.execute(conn, by_minute)
        if by_bucket:
            buckets.execute(conn, by_bucket)

    def fold(self, conn: Connection, now: float) -> None:
        """Once a minute: add old rates up, forget what is too old."""
        minute = rates.begin(now, rates.MINUTE)
        if minute != self._folded:
            rates.fold(conn, now, self._settings.rate_days)
            conn.execute(delete(latencies).where(latencies.c.start <= slot_of(now) - SLOTS * SLOT_S))
            self._folded = minute


@cache
def _bulks(dialect: str) -> tuple[Bulk, Bulk]:
    """The statements that add to ``rates`` and ``latencies``."""
    new = dialect_insert(dialect)(latencies)
    changes = {"count": saturating(latencies.c.count, new.excluded.count)}
    upsert = new.on_conflict_do_update(index_elements=list(latencies.primary_key.columns.keys()), set_=changes)
    return Bulk(rates.add(dialect), rate_rows.columns.keys()), Bulk(upsert, latencies.columns.keys())
