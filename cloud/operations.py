"""What a running controller can be asked through its control socket (architecture decision 9a)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from cloud.sessions import Sessions
from cloud.stores.base import CommitOutcome, Store
from common.control import Operation
from common.errors import ControlError

WATCH_POLL_S = 1.0  # a watcher also looks this often, for what another controller committed
WATCH_ROWS = 500  # results read at once for a watcher
ROWS_MAX = 10_000  # most rows that one question gets

Limit = Annotated[int, Meta(ge=1, le=ROWS_MAX)]
T = TypeVar("T")


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _RulesArgs(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str = ""
    rule: str = ""
    per_node: bool = False


class _ResultsArgs(msgspec.Struct, forbid_unknown_fields=True):
    limit: Limit = 100
    namespace: str = ""
    rule: str = ""
    status: str = ""
    since: int | None = None


class _WatchArgs(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str = ""
    rule: str = ""
    status: str = ""
    since: int | None = None


class _ErrorsArgs(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str = ""
    rule: str = ""


class _LettersArgs(msgspec.Struct, forbid_unknown_fields=True):
    limit: Limit = 100


class Operations:
    """The operations by name, over store and sessions.

    ``statistics`` gives the parts' statistics by part, ``metrics`` Prometheus' text. Wrong arguments are a
    ControlError that names the argument.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        statistics: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], str],
    ) -> None:
        self._store, self._sessions = store, sessions
        self._statistics, self._metrics = statistics, metrics
        self._watchers: set[asyncio.Event] = set()

    def table(self) -> dict[str, Operation]:
        """Return name -> operation, for ``ControlServer``."""
        return {
            "get.nodes": self.get_nodes,
            "get.rules": self.get_rules,
            "get.results": self.get_results,
            "get.errors": self.get_errors,
            "get.dead_letters": self.get_dead_letters,
            "watch.results": self.watch_results,
            "statistics": self.statistics,
            "metrics": self.metrics,
        }

    def committed(self, outcome: CommitOutcome) -> None:
        """Wake the watchers: something new is in the store."""
        for event in self._watchers:
            event.set()

    async def get_nodes(self, args: dict[str, Any]) -> Any:
        """All nodes with their state."""
        _read(args, _Nothing)
        return await self._sessions.nodes()

    async def get_rules(self, args: dict[str, Any]) -> Any:
        """Counts per rule; with ``per_node`` per rule and node."""
        wanted = _read(args, _RulesArgs)
        return await self._store.rules(**msgspec.structs.asdict(wanted))

    async def get_results(self, args: dict[str, Any]) -> Any:
        """Single results from the ring, in order of id."""
        wanted = _read(args, _ResultsArgs)
        return await self._store.results(**msgspec.structs.asdict(wanted))

    async def get_errors(self, args: dict[str, Any]) -> Any:
        """The distinct errors of rules, the last one first."""
        wanted = _read(args, _ErrorsArgs)
        return await self._store.errors(**msgspec.structs.asdict(wanted))

    async def get_dead_letters(self, args: dict[str, Any]) -> Any:
        """The newest dead letters; their payload is base64."""
        return await self._store.dead_letters(limit=_read(args, _LettersArgs).limit)

    async def watch_results(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        """Results as they are committed, from now on or after the id ``since``.

        Reads the ring behind a mark of its own, so a slow watcher holds no memory here; one that falls further behind
        than the ring is long misses what the ring has dropped.
        """
        wanted = _read(args, _WatchArgs)
        filters = {"namespace": wanted.namespace, "rule": wanted.rule, "status": wanted.status}
        last = await self._store.last_result() if wanted.since is None else wanted.since
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            while True:
                event.clear()
                rows = await self._store.results(since=last, limit=WATCH_ROWS, **filters)
                for row in rows:
                    last = row.id
                    yield row
                if not rows:
                    await _wait(event, WATCH_POLL_S)
        finally:
            self._watchers.discard(event)

    async def statistics(self, args: dict[str, Any]) -> Any:
        """Counters and gauges of every part."""
        _read(args, _Nothing)
        return self._statistics()

    async def metrics(self, args: dict[str, Any]) -> Any:
        """The same for Prometheus, as text."""
        _read(args, _Nothing)
        return self._metrics()


async def _wait(event: asyncio.Event, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        pass


def _read(args: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(args, kind)
    except msgspec.ValidationError as exc:
        raise ControlError(f"wrong argument: {exc}") from exc
