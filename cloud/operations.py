"""What a running controller can be asked through its control socket (architecture decision 9a)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cloud import describing, operations_rules
from cloud.deadletters import DeadLetters
from cloud.forwarders.forwarder import SinkRow
from cloud.ledger import Ledger
from cloud.operations_rules import read_args
from cloud.sessions import Sessions
from cloud.stores.auditing import audit_rows
from cloud.stores.base import CommitOutcome, Letters, Store
from cloud.stores.overview import rule_rows
from common.control import Operation
from common.errors import ControlError

WATCH_POLL_S = 1.0  # a watcher also looks this often, for what another controller committed
WATCH_ROWS = 500  # results read at once for a watcher
ROWS_MAX = 10_000  # most rows that one question gets
ID_MAX = 2**63 - 1  # what the databases take

Limit = Annotated[int, Meta(ge=1, le=ROWS_MAX)]
Id = Annotated[int, Meta(ge=0, le=ID_MAX)]
Ids = Annotated[list[Id], Meta(max_length=1000)]


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _RulesArgs(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str = ""
    rule: str = ""
    per_node: bool = False
    after: Annotated[list[str], Meta(max_length=4)] = []  # with per_node: a key that the store reads on from
    limit: Limit | None = None


class _ResultsArgs(msgspec.Struct, forbid_unknown_fields=True):
    limit: Limit = 100
    namespace: str = ""
    rule: str = ""
    status: str = ""
    since: Id | None = None
    before: Id | None = None


class _WatchArgs(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str = ""
    rule: str = ""
    status: str = ""
    since: Id | None = None


class _ErrorsArgs(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str = ""
    rule: str = ""


class _LettersArgs(msgspec.Struct, forbid_unknown_fields=True):
    limit: Limit = 100


class _LossesArgs(msgspec.Struct, forbid_unknown_fields=True):
    node: str = ""
    kind: str = ""
    limit: Limit = 100


class _NodeArgs(msgspec.Struct, forbid_unknown_fields=True):
    node: Annotated[str, Meta(min_length=1)]


class _LedgerArgs(msgspec.Struct, forbid_unknown_fields=True):
    node: str = ""


class _LsArgs(msgspec.Struct, forbid_unknown_fields=True):
    node: str = ""
    reason: str = ""
    limit: Limit = 100
    before: Id | None = None


class _ShowArgs(msgspec.Struct, forbid_unknown_fields=True):
    id: Id


class _RedriveArgs(msgspec.Struct, forbid_unknown_fields=True):
    ids: Ids = []
    node: str = ""
    reason: str = ""
    limit: Limit = 1000


class _DropArgs(msgspec.Struct, forbid_unknown_fields=True):
    ids: Ids = []
    node: str = ""
    reason: str = ""
    older_s: Annotated[float, Meta(ge=0)] | None = None


class _AuditArgs(msgspec.Struct, forbid_unknown_fields=True):
    operation: str = ""
    who: str = ""
    limit: Limit = 100
    before: Id | None = None


# What each operation takes, for who must know it before asking (the API's queries and its OpenAPI document).
ARGUMENTS: dict[str, type[msgspec.Struct]] = {
    **operations_rules.ARGUMENTS,
    **describing.ARGUMENTS,
    "get.nodes": _Nothing,
    "get.rules": _RulesArgs,
    "get.results": _ResultsArgs,
    "get.errors": _ErrorsArgs,
    "get.losses": _LossesArgs,
    "get.audit": _AuditArgs,
    "get.sinks": _Nothing,
    "node.replace": _NodeArgs,
    "ledger": _LedgerArgs,
    "dlq.ls": _LsArgs,
    "dlq.show": _ShowArgs,
    "dlq.redrive": _RedriveArgs,
    "dlq.drop": _DropArgs,
    "watch.results": _WatchArgs,
    "statistics": _Nothing,
}


class Operations:
    """The operations by name, over store, sessions, dead letters and ledger.

    ``statistics`` gives the parts' statistics by part, ``metrics`` Prometheus' text, ``sinks`` a row for each.
    Wrong arguments are a ControlError that names the argument.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        letters: DeadLetters,
        ledger: Ledger,
        statistics: Callable[[], Mapping[str, Any]],
        metrics: Callable[[], Awaitable[str]],
        sinks: Callable[[], list[SinkRow]],
    ) -> None:
        self._store, self._sessions, self._letters, self._ledger = store, sessions, letters, ledger
        self._statistics, self._metrics, self._sinks = statistics, metrics, sinks
        self._watchers: set[asyncio.Event] = set()

    def table(self) -> dict[str, Operation]:
        """Return name -> operation, for ``ControlServer``."""
        return {
            "get.nodes": self.get_nodes,
            "get.rules": self.get_rules,
            "get.results": self.get_results,
            "get.errors": self.get_errors,
            "get.dead_letters": self.get_dead_letters,
            "get.losses": self.get_losses,
            "get.audit": self.get_audit,
            "get.sinks": self.get_sinks,
            "node.replace": self.node_replace,
            "ledger": self.ledger,
            "dlq.ls": self.dlq_ls,
            "dlq.show": self.dlq_show,
            "dlq.redrive": self.dlq_redrive,
            "dlq.drop": self.dlq_drop,
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
        read_args(args, _Nothing)
        return await self._sessions.nodes()

    async def get_rules(self, args: dict[str, Any]) -> Any:
        """Counts, latency, rates and conditions per rule; with ``per_node`` counts per rule and node."""
        wanted = read_args(args, _RulesArgs)
        if not wanted.per_node:
            now = self._letters.now()
            return await self._store.read(lambda conn: rule_rows(conn, wanted.namespace, wanted.rule, now))
        return await self._store.rules(**msgspec.structs.asdict(wanted))

    async def get_results(self, args: dict[str, Any]) -> Any:
        """Single results from the ring, in order of id."""
        wanted = read_args(args, _ResultsArgs)
        return await self._store.results(**msgspec.structs.asdict(wanted))

    async def get_errors(self, args: dict[str, Any]) -> Any:
        """The distinct errors of rules, the last one first."""
        wanted = read_args(args, _ErrorsArgs)
        return await self._store.errors(**msgspec.structs.asdict(wanted))

    async def get_dead_letters(self, args: dict[str, Any]) -> Any:
        """The newest dead letters; their payload is base64."""
        return await self._store.dead_letters(limit=read_args(args, _LettersArgs).limit)

    async def get_losses(self, args: dict[str, Any]) -> Any:
        """The newest loss records, of one node or kind if so asked."""
        return await self._store.losses(**msgspec.structs.asdict(read_args(args, _LossesArgs)))

    async def get_audit(self, args: dict[str, Any]) -> Any:
        """The newest changes that people made, the last one first."""
        wanted = read_args(args, _AuditArgs)
        return await self._store.read(
            lambda conn: audit_rows(conn, wanted.limit, wanted.before, wanted.operation, wanted.who)
        )

    async def get_sinks(self, args: dict[str, Any]) -> Any:
        """The sinks: what waits, how late it is, what went wrong last."""
        read_args(args, _Nothing)
        return self._sinks()

    async def node_replace(self, args: dict[str, Any]) -> Any:
        """Take the agent that was heard last as the node's own and give up all others (P5.8)."""
        node = read_args(args, _NodeArgs).node
        return {"node": node, "epoch": await self._sessions.replace(node)}

    async def ledger(self, args: dict[str, Any]) -> Any:
        """The account of each node, or of one, and the sums over those (P5.11)."""
        node = read_args(args, _LedgerArgs).node
        rows, total = await self._ledger.rows(node)
        if node and not rows:
            raise ControlError(f"node {node} is not known here", kind="not_found")
        return {"nodes": rows, "fleet": total}

    async def dlq_ls(self, args: dict[str, Any]) -> Any:
        """The newest dead letters without their payload."""
        return await self._letters.ls(**msgspec.structs.asdict(read_args(args, _LsArgs)))

    async def dlq_show(self, args: dict[str, Any]) -> Any:
        """One dead letter with its payload as text or hex."""
        return await self._letters.show(read_args(args, _ShowArgs).id)

    async def dlq_redrive(self, args: dict[str, Any]) -> Any:
        """Feed dead letters through again: these ids, or all of a node or reason."""
        wanted = read_args(args, _RedriveArgs)
        if not (wanted.ids or wanted.node or wanted.reason):
            raise ControlError("say which dead letters: ids, node or reason")
        return await self._letters.redrive(**msgspec.structs.asdict(wanted))

    async def dlq_drop(self, args: dict[str, Any]) -> Any:
        """Forget the dead letters that fit all that is said: ids, node, reason, older than so many seconds."""
        wanted = read_args(args, _DropArgs)
        before = 0.0 if wanted.older_s is None else max(self._letters.now() - wanted.older_s, sys.float_info.min)
        which = Letters(wanted.ids, wanted.node, wanted.reason, before)
        if not (wanted.ids or wanted.node or wanted.reason or before):
            raise ControlError("say which dead letters: ids, node, reason or older_s")
        return {"dropped": await self._letters.drop(which)}

    async def watch_results(self, args: dict[str, Any]) -> AsyncIterator[Any]:
        """Results as they are committed, from now on or after the id ``since``.

        Reads the ring behind a mark of its own, so a slow watcher holds no memory here; one that falls further behind
        than the ring is long misses what the ring has dropped.
        """
        wanted = read_args(args, _WatchArgs)
        filters: dict[str, Any] = {"namespace": wanted.namespace, "rule": wanted.rule, "status": wanted.status}
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
        read_args(args, _Nothing)
        return self._statistics()

    async def metrics(self, args: dict[str, Any]) -> Any:
        """The same for Prometheus, as text."""
        read_args(args, _Nothing)
        return await self._metrics()


async def _wait(event: asyncio.Event, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        pass
