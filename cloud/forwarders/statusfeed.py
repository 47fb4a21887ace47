"""Rules as a forwarder's work: those whose status a sink was not told (protocol P8.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace
from sqlalchemy import Connection

from cloud.forwarders.base import Answer, Connects, Delivered, Forgets, Refused, Retry, Sink
from cloud.forwarders.feed import Outlook, Refusal, RetryAt
from cloud.forwarders.lag import Lag
from cloud.stores import outbox
from cloud.stores.base import Store
from cloud.stores.outbox import Claimed, Look, Note, Terms
from cloud.stores.status import RuleKey, RuleStatus
from common.clock import Clock

FORGET_MAX = 100  # rules that a sink is asked to forget at once
TRIM_S = 60.0  # between two trims
WINDOW = 4  # batches that are looked at for one while others are at the same rules, so that each finds some

Statuses = Callable[[Connection, Sequence[RuleKey]], Sequence[RuleStatus]]


class _Told(NamedTuple):
    """A claimed rule with what is told of it."""

    claimed: Claimed
    status: RuleStatus


class StatusFeed:
    """The rules whose status the sink was not told, which ``statuses`` reads.

    A rule is told with the version that it had when it was claimed, before its status was read: so a status never holds
    less than its version says, in whatever order the reader asks, and what was committed in between is told again.
    """

    def __init__(self, sink: Sink, store: Store, clock: Clock, holder: str, statuses: Statuses) -> None:
        self.name = sink.name
        self._sink, self._store, self._clock, self._statuses = sink, store, clock, statuses
        self._forgetting = sink if isinstance(sink, Forgets) else None
        self._terms = Terms(sink.name, holder, sink.interval_s, self._forgetting is not None)
        self._lag, self._window, self._trim_at = Lag(), 1, 0.0

    @property
    def ready(self) -> bool:
        """See Feed."""
        return not isinstance(self._sink, Connects) or self._sink.connected

    async def start(self) -> None:
        """See Feed."""
        await self._sink.start()

    async def take(self, limit: int, until: float) -> Sequence[_Told]:
        """See Feed. A rule of which nothing is known any more is settled without a word."""
        now, terms = self._clock.time(), self._terms
        keys = await self._store.read(lambda conn: outbox.due(conn, terms, now, self._window * limit))
        if not keys:
            return []
        claimed = await self._store.write(lambda conn: outbox.claim(conn, terms, keys, limit, now, until))
        self._window = WINDOW if len(claimed) < min(limit, len(keys)) else 1
        ours = [each.key for each in claimed]
        found = await self._store.read(lambda conn: self._statuses(conn, ours)) if ours else []
        status_of = {status.key: status for status in found if status.version}
        unknown = [Note(each.key, each.version) for each in claimed if each.key not in status_of]
        if unknown:
            await self._store.write(lambda conn: outbox.settle(conn, terms, unknown, now))
        return [
            _Told(each, replace(status_of[each.key], version=each.version)) for each in claimed if each.key in status_of
        ]

    async def deliver(self, items: Sequence[_Told]) -> Sequence[Answer]:
        """See Feed."""
        return await self._sink.deliver([item.status for item in items])

    async def settle(self, items: Sequence[_Told], answers: Sequence[Answer], retry_at: RetryAt) -> None:
        """See Feed."""
        notes = []
        for (claimed, _), answer in zip(items, answers, strict=True):
            match answer:
                case Delivered():
                    notes.append(Note(claimed.key, claimed.version))
                case Refused(reason):
                    notes.append(Note(claimed.key, claimed.version, refused=reason or "refused"))
                case Retry(_, after_s):
                    notes.append(Note(claimed.key, claimed.version, retry_at=retry_at(claimed.attempts, after_s)))
        now = self._clock.time()
        await self._store.write(lambda conn: outbox.settle(conn, self._terms, notes, now))

    async def release(self) -> None:
        """See Feed."""
        await self._store.write(lambda conn: outbox.release(conn, self._terms.sink, self._terms.holder))

    async def look(self) -> Outlook:
        """See Feed."""
        now, terms = self._clock.time(), self._terms
        found: Look = await self._store.read(lambda conn: outbox.look(conn, terms, now))
        self._lag.update(found, now)
        refusals = [Refusal(f"{key.namespace}/{key.rule}", reason) for key, reason in found.refusals]
        return Outlook(found.pending, found.next_at, found.refused, refusals)

    async def tidy(self) -> None:
        """See Feed. What lives on under the name of a rule that is gone is not cleared."""
        now, terms, sink = self._clock.time(), self._terms, self._forgetting
        if sink is not None:
            gone = await self._store.read(lambda conn: outbox.to_forget(conn, terms.sink, FORGET_MAX))
            alone = [key for key, has_heir in gone if not has_heir]
            answers = await sink.forget(alone) if alone else []
            done = [key for key, answer in zip(alone, answers, strict=True) if not isinstance(answer, Retry)]
            notes = [Note(key, outbox.FORGOTTEN) for key in (*done, *(key for key, has_heir in gone if has_heir))]
            if notes:
                await self._store.write(lambda conn: outbox.settle(conn, terms, notes, now))
        if self._clock.monotonic() >= self._trim_at:
            self._trim_at = self._clock.monotonic() + TRIM_S
            await self._store.write(lambda conn: outbox.trim(conn, terms, now))

    async def recent(self) -> int:
        """See Feed."""
        now, terms = self._clock.time(), self._terms
        return await self._store.read(lambda conn: outbox.recent(conn, terms, now))

    def lag_s(self) -> float:
        """See Feed."""
        return self._lag.seconds(self._clock.time())
