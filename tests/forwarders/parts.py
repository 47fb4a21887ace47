"""What the forwarders' tests share: rules in an outbox, sinks that do as they are told, a receiver of webhooks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from sqlalchemy import Connection, func, insert, select

from cloud.forwarders.base import Answer, Delivered, ResultSink, Sink
from cloud.forwarders.forwarding import Forwarding
from cloud.settings.forward import ForwardSettings
from cloud.stores import outbox
from cloud.stores.base import Store
from cloud.stores.outbox import Terms
from cloud.stores.status import RuleKey, RuleStatus
from cloud.stores.tables import changes, counters, deliveries, objects
from common.clock import Clock, SystemClock
from common.models import SUCCESS

QUICK = ForwardSettings(poll_s=0.05, claim_s=20, retry_first_s=0.02, retry_max_s=0.1, failures_max=3)


def key(rule: str = "overheat", uid: str = "") -> RuleKey:
    """A rule of the namespace ``default``."""
    return RuleKey("default", rule, uid)


def marking(conn: Connection, *keys: RuleKey, at: float = 1.0) -> None:
    """Raise the versions of these rules, as the transaction does that counts."""
    for each in keys:
        found = changes.update().where(*(changes.c[name] == value for name, value in each._asdict().items()))
        if not conn.execute(found.values(version=changes.c.version + 1, changed_at=at)).rowcount:
            conn.execute(insert(changes).values(**each._asdict(), version=1, changed_at=at))


async def mark(store: Store, *keys: RuleKey, at: float = 1.0) -> None:
    """The same in a transaction of its own."""
    await store.write(lambda conn: marking(conn, *keys, at=at))


def wanting(conn: Connection, each: RuleKey) -> None:
    """Put the rule among the desired ones."""
    conn.execute(
        insert(objects).values(
            kind="Rule", namespace=each.namespace, name=each.rule, uid=each.uid, version=1, manifest="{}",
            origin="api", created_at=1, updated_at=1,
        )
    )  # fmt: skip


def statuses(conn: Connection, keys: Sequence[RuleKey]) -> list[RuleStatus]:
    """Version and counts of rules, the version first."""
    found = []
    for each in keys:
        version = conn.execute(select(changes.c.version).where(*_of(changes, each))).scalar() or 0
        counts = dict(
            conn.execute(
                select(counters.c.status, func.sum(counters.c["count"]))
                .where(*_of(counters, each))
                .group_by(counters.c.status)
            ).all()
        )
        success, fail = counts.pop(SUCCESS, 0), sum(counts.values())
        found.append(RuleStatus(*each, version=version, success=success, fail=fail))
    return found


def _of(table: Any, each: RuleKey) -> list[Any]:
    return [table.c[name] == value for name, value in each._asdict().items()]


def claimed(
    conn: Connection, terms: Terms, now: float, limit: int = 100, lease: float = 60
) -> dict[RuleKey, outbox.Claimed]:
    """Find what is due and claim it."""
    found = outbox.claim(conn, terms, outbox.due(conn, terms, now, limit), limit, now, now + lease)
    return {each.key: each for each in found}


def delivery(conn: Connection, sink: str, each: RuleKey) -> Any:
    """The row of a sink and rule."""
    return conn.execute(select(deliveries).where(deliveries.c.sink == sink, *_of(deliveries, each))).one_or_none()


class FakeSink:
    """A sink that notes what it is told, and answers as ``answer`` says (Delivered when nothing else is set)."""

    def __init__(self, name: str = "fake", *, batch_max: int = 100, interval_s: float = 0, rate_max: float = 0) -> None:
        self.name, self.batch_max, self.interval_s, self.rate_max = name, batch_max, interval_s, rate_max
        self.told: list[Any] = []
        self.batches: list[int] = []
        self.hang = asyncio.Event()
        self.hang.set()
        self.answer: Callable[[Any], Answer] = lambda item: Delivered()
        self.stopped = False

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Note it."""
        self.stopped = True

    async def deliver(self, items: Sequence[Any]) -> Sequence[Answer]:
        """Note and answer, after ``hang`` is set."""
        self.batches.append(len(items))
        await self.hang.wait()
        self.told += items
        return [self.answer(item) for item in items]

    def versions(self, rule: str = "overheat") -> list[int]:
        """The versions of a rule in the order in which they were told."""
        return [status.version for status in self.told if status.rule == rule]

    def last(self) -> dict[str, Any]:
        """The last status of each rule."""
        return {status.rule: status for status in self.told}


@asynccontextmanager
async def forwarding(
    store: Store,
    *sinks: Sink,
    results: Sequence[ResultSink] = (),
    settings: ForwardSettings = QUICK,
    holder: str = "cloud-1",
    clock: Clock | None = None,
    reader: Any = statuses,
) -> AsyncIterator[Forwarding]:
    """Forwarders on a store, stopped at the end."""
    it = Forwarding(settings, store, clock or SystemClock(), holder, reader, sinks, results)
    await it.start()
    try:
        yield it
    finally:
        await it.stop()


class Receiver:
    """A webhook's receiver: keeps every request, and of each rule the newest status, whatever comes twice."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.rules: dict[str, dict[str, Any]] = {}
        self.ids: Counter[str] = Counter()
        self.answers: list[web.Response] = []
        self.url = ""
        self.handler: Callable[[web.Request], Awaitable[web.Response]] = self._take

    async def _handle(self, request: web.Request) -> web.Response:
        return await self.handler(request)

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, body))
        if self.answers:
            return self.answers.pop(0)
        found = await request.json()
        for event in found if isinstance(found, list) else [found]:
            self.ids[f"{event['source']} {event['id']}"] += 1
            old, new = self.rules.get(event["subject"]), event["data"]
            if old is None or new.get("version", new.get("id")) > old.get("version", old.get("id")):
                self.rules[event["subject"]] = new
        return web.Response(status=204)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Receiver]:
        """Listen on a free port of loopback."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/hook", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        try:
            yield self
        finally:
            await runner.cleanup()
