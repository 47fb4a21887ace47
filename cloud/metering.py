"""The metrics that need the store: results by rule, durations, nodes by state, dead letters, commits (U6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from sqlalchemy import func, select

from cloud.sessions import CONFLICT, OFFLINE, ONLINE, UNKNOWN, Sessions
from cloud.stores.base import NodeRow, RuleRow, Store
from cloud.stores.latency import durations, middle_of
from cloud.stores.tables import dead_letters
from common.clock import Clock
from common.metrics import Family, Histogram

AGE_S = 5.0  # of what was read: several scrapers cost one reading
OTHERS = "_other"  # the rule that stands for all above the bound

Series = tuple[str, str, str, str]  # namespace, rule, outcome, reason


class Metering:
    """Reads what the store knows, at most every ``AGE_S``.

    Arguments: ``queues`` gives how many messages wait by type; ``series_max`` bounds the series of results, whose names
    come from nodes: the first that came keep theirs, all later ones are summed in one, so that no counter ever falls.
    """

    def __init__(
        self, store: Store, sessions: Sessions, clock: Clock, queues: Callable[[], Mapping[str, int]], series_max: int
    ) -> None:
        self._store, self._sessions, self._clock, self._queues = store, sessions, clock, queues
        self._series_max = series_max
        self._known: set[Series] = set()
        self._results: dict[Series, int] = {}
        self._states: Counter[str] = Counter()
        self._letters = 0
        self._durations: Mapping[tuple[int, int], int] = {}  # what was read last: executions by hour and bucket
        self._execution_seconds = Histogram()
        self._read_at = float("-inf")

    async def refresh(self) -> None:
        """Read anew unless that was done just now. Raises StorageError."""
        now = self._clock.monotonic()
        if now - self._read_at < AGE_S:
            return
        self._read_at = now
        self._results = self._bounded(await self._store.rules())
        self._states = _states(await self._sessions.nodes())
        count = select(func.count()).select_from(dead_letters)
        self._letters = await self._store.read(lambda conn: conn.execute(count).scalar() or 0)
        self._add_durations(await self._store.read(durations))

    def _add_durations(self, found: Mapping[tuple[int, int], int]) -> None:
        """Count what came since the last reading: the store drops the hours that are over, a histogram may not fall."""
        for key, count in found.items():
            new = count - self._durations.get(key, 0)
            if new > 0:
                self._execution_seconds.observe(middle_of(key[1]) / 1e6, new)
        self._durations = found

    def _bounded(self, rows: Iterable[RuleRow]) -> dict[Series, int]:
        found: dict[Series, int] = {}
        for row in rows:
            for words, count in row.outcomes.items():
                status, outcome, reason = [*words.split("/", 2), "", ""][:3]
                series = (row.namespace, row.rule, outcome or status.lower(), reason)
                if series not in self._known:
                    if len(self._known) >= self._series_max:
                        series = ("", OTHERS, "", "")
                    else:
                        self._known.add(series)
                found[series] = found.get(series, 0) + count
        return found

    def families(self) -> Iterator[Family]:
        """What was read last, and what is known without reading."""
        names = ("namespace", "rule", "outcome", "reason")
        results = [(dict(zip(names, series, strict=True)), float(n)) for series, n in sorted(self._results.items())]
        yield Family("results", "counter", "executions by rule and how they ended", list(results))
        words = "how long executions took, of all rules, within a ninth"
        yield Family("execution_seconds", "histogram", words, [({}, self._execution_seconds)])
        states = [({"state": state}, float(self._states[state])) for state in (ONLINE, OFFLINE, UNKNOWN, CONFLICT)]
        yield Family("nodes", "gauge", "nodes by state", list(states))
        yield Family("dead_letters", "gauge", "dead letters that are kept", [({}, self._letters)])
        waiting = [({"type": kind}, float(count)) for kind, count in sorted(self._queues().items())]
        yield Family("dispatch_queue", "gauge", "messages that wait for their handler", list(waiting))
        yield Family("commit_seconds", "histogram", "transactions of the store", [({}, self._store.commit_seconds())])


def _states(rows: Iterable[NodeRow]) -> Counter[str]:
    return Counter(row.state for row in rows)
