"""Single results as a forwarder's work: those above a sink's mark in the ring (protocol P8.6)."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from cloud.forwarders.base import Answer, Refused, ResultSink, Retry
from cloud.forwarders.feed import Outlook, RetryAt
from cloud.stores import outbox
from cloud.stores.base import ResultRow, Store
from cloud.stores.outbox import MARK, Claimed, Note, Terms
from cloud.stores.queries import last_result, results_of
from common.clock import Clock
from common.errors import ControlError

HOLE_WAIT_S = 5.0  # that a hole in the ring's ids may be a commit of another controller that is under way
HOLE_LOOK_S = 0.5  # between looks at such a hole


class ResultFeed:
    """The single results above the sink's mark in the ring (P8.6): one controller at a time, in order of their ids.

    What the ring drops before it was told is counted in ``missed``. An id may be missing because another controller's
    commit is under way; a hole before a row that is younger than ``HOLE_WAIT_S`` is waited for.
    """

    def __init__(self, sink: ResultSink, store: Store, clock: Clock, holder: str) -> None:
        self.name = sink.name
        self._sink, self._store, self._clock = sink, store, clock
        self._terms = Terms(sink.name, holder)
        self._mark: Claimed | None = None
        self._oldest_at = self._hole_until = 0.0
        self._missed = 0

    @property
    def ready(self) -> bool:
        """See Feed."""
        return True

    async def start(self) -> None:
        """See Feed. A sink that is new begins with what comes after this."""
        await self._sink.start()
        await self._store.write(lambda conn: outbox.begin_mark(conn, self._terms.sink, last_result(conn)))

    async def take(self, limit: int, until: float) -> Sequence[ResultRow]:
        """See Feed."""
        outlook, terms = await self.look(), self._terms
        now = self._clock.time()
        if not outlook.pending or outlook.next_at > now:
            return []
        claimed = await self._store.write(lambda conn: outbox.claim(conn, terms, [MARK], 1, now, until))
        if not claimed:
            return []
        self._mark = claimed[0]
        mark = self._mark.told
        rows = await self._store.read(lambda conn: results_of(conn, limit, "", "", "", mark))
        whole = _without_fresh_holes(rows, mark, now)
        if not whole:
            self._hole_until = now + HOLE_LOOK_S
            await self.release()
        return whole

    async def deliver(self, items: Sequence[ResultRow]) -> Sequence[Answer]:
        """See Feed. What comes after one that is to be told again is told again with it."""
        answers = await self._sink.deliver(items)
        for at, answer in enumerate(answers):
            if isinstance(answer, Retry):
                return [*answers[:at], *[answer] * (len(answers) - at)]
        return answers

    async def settle(self, items: Sequence[ResultRow], answers: Sequence[Answer], retry_at: RetryAt) -> None:
        """See Feed. What is refused is passed over; the first that is to be told again stops the mark before it."""
        if self._mark is None:
            raise ControlError("nothing was taken")
        ended = next((at for at, answer in enumerate(answers) if isinstance(answer, Retry)), len(answers))
        if ended:
            last, refused = items[ended - 1].id, [each.reason for each in answers[:ended] if isinstance(each, Refused)]
            self._missed += last - self._mark.told - ended
            note = Note(MARK, last, refused=refused[-1] if refused else "")
        else:
            asked = max(answer.after_s for answer in answers if isinstance(answer, Retry))
            note = Note(MARK, items[0].id, retry_at=retry_at(self._mark.attempts, asked))
        now = self._clock.time()
        await self._store.write(lambda conn: outbox.settle(conn, self._terms, [note], now))

    async def release(self) -> None:
        """See Feed."""
        await self._store.write(lambda conn: outbox.release(conn, self._terms.sink, self._terms.holder))

    async def look(self) -> Outlook:
        """See Feed."""

        now, terms = self._clock.time(), self._terms

        def query(conn: Connection) -> tuple[int, float, int, float]:
            mark, due_at = outbox.mark_of(conn, terms, now)
            first = results_of(conn, 1, "", "", "", mark)
            return mark, due_at, last_result(conn), first[0].received_at if first else 0.0

        mark, due_at, last, self._oldest_at = await self._store.read(query)
        if not self._oldest_at:
            return Outlook(missed=self._missed, next_at=0)
        return Outlook(max(1, last - mark), max(now, due_at, self._hole_until), missed=self._missed)

    async def tidy(self) -> None:
        """See Feed. The ring trims itself."""

    async def recent(self) -> int:
        """See Feed. One controller at a time has the mark, and its own rate is enough."""
        return 0

    def lag_s(self) -> float:
        """See Feed."""
        return max(0.0, self._clock.time() - self._oldest_at) if self._oldest_at else 0.0


def _without_fresh_holes(rows: Sequence[ResultRow], mark: int, now: float) -> Sequence[ResultRow]:
    """Return the rows before the first hole in the ids that may still be filled."""
    before = mark
    for at, row in enumerate(rows):
        if row.id != before + 1 and now - row.received_at < HOLE_WAIT_S:
            return rows[:at]
        before = row.id
    return rows
