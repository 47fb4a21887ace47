"""One sink's forwarder: takes what is due, hands it over, writes down what became of it (protocol P8.2).

Each has a task, a batch, retries, a breaker and counters of its own, so a sink that hangs delays only itself. A commit
wakes it; what other controllers commit it finds by a slow poll. After a look that found nothing it rests ten times as
long as the look took, so that many commits and many rules do not make it look all the time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any

import msgspec

from cloud.forwarders.base import Answer, Delivered, Refused, Retry
from cloud.forwarders.breaker import HALF_OPEN, Breaker
from cloud.forwarders.feed import Feed, Outlook, Refusal
from cloud.settings.forward import ForwardSettings
from cloud.stores.outbox import WAIT_S_MAX
from common.backoff import Backoff
from common.clock import Clock
from common.errors import FieldpostError
from common.metrics import Counters

log = logging.getLogger(__name__)

REST_S_MIN = 0.05  # between two looks that find nothing
REST_FACTOR = 10  # times what a look took
DEADLINE_SHARE = 0.8  # of a claim, for a sink whose own deadline fails it
RELEASE_S_MAX = 2.0  # to let go of claims at a stop
TIDY_S = 10.0  # between two looks for rules that are gone
REASON_CHARS_MAX = 300


class SinkRow(msgspec.Struct, frozen=True):
    """A sink as people see it: ``breaker`` is closed, open or half-open; times are unix seconds, 0 when never.

    ``refused`` counts versions that the sink will never take; ``refusals`` names some. ``delivered``, ``retries`` and
    ``failures`` (whole batches) are this controller's own, since its start.
    """

    sink: str
    breaker: str
    pending: int
    lag_s: float
    delivered: int
    retries: int
    failures: int
    refused: int
    missed: int
    last_success: float
    last_error_at: float
    last_error: str
    refusals: list[Refusal]


class Forwarder:
    """Forwards to one sink.

    Arguments: ``feed`` is what the sink is told; ``batch_max`` items at once and ``rate_max`` a second (0: any number).
    """

    def __init__(
        self, feed: Feed, settings: ForwardSettings, clock: Clock, *, batch_max: int, rate_max: float = 0
    ) -> None:
        self.name = feed.name
        self._feed, self._settings, self._clock = feed, settings, clock
        self._batch_max, self._rate_max = batch_max, rate_max
        self._breaker = Breaker(settings.failures_max, settings.retry_first_s, settings.retry_max_s)
        self._store_backoff = Backoff(settings.retry_first_s, settings.retry_max_s)
        self._wake = asyncio.Event()
        self._counts = Counters("delivered", "retries", "refused", "failures", "batches")
        self._outlook = Outlook()
        self._last_success = self._last_error_at = self._tidied_at = self._budget_at = 0.0
        self._budget = float(batch_max)
        self._last_error = ""

    def wake(self) -> None:
        """Something was committed."""
        self._wake.set()

    async def run(self) -> None:
        """Forward until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                pause, idle = await self._turn(began)
                self._store_backoff.reset()
            except FieldpostError as exc:  # the store: nothing was told that is not told again
                pause, idle = self._store_backoff.next(), 0.0
                log.warning("sink %s: %s; again in %.1f s", self.name, exc, pause)
            if idle:
                ended = self._clock.monotonic()
                await self._rest(idle)
                rest = max(REST_S_MIN, REST_FACTOR * (ended - began))
                pause = max(0.0, rest - (self._clock.monotonic() - ended))
            if pause:
                await asyncio.sleep(pause)

    async def prepare(self) -> None:
        """Get ready, before anything is committed."""
        await self._feed.start()

    async def let_go(self) -> None:
        """After the task has ended: let other controllers have what is claimed at once."""
        try:
            async with asyncio.timeout(RELEASE_S_MAX):
                await self._feed.release()
        except (FieldpostError, TimeoutError) as exc:  # the claims run out by themselves
            log.warning("sink %s: claims are not released: %s", self.name, exc or "no answer from the store")

    async def _turn(self, now: float) -> tuple[float, float]:
        """Tell one batch. Return how long to pause, whatever happens, and how long to wait for something to do."""
        if not self._feed.ready:
            self._wake.clear()
            self._last_error, self._last_error_at = "not connected", self._clock.time()
            return 0.0, self._settings.poll_s
        if wait := self._breaker.wait_s(now):
            return wait, 0.0
        await self._tidy(now)
        limit = 1 if self._breaker.state(now) == HALF_OPEN else await self._allowed(now)
        if limit < 1:
            return 1.0 / self._rate_max, 0.0
        self._wake.clear()
        wall = self._clock.time()
        items = await self._feed.take(limit, wall + self._settings.claim_s)
        if not items:
            await self.look()
            until = self._outlook.next_at - wall if self._outlook.pending else self._settings.poll_s
            return 0.0, min(max(until, REST_S_MIN), self._settings.poll_s)
        self._budget -= len(items)
        answers = await self._deliver(items)
        await self._feed.settle(items, answers, self._retry_at)
        self._judge(answers)
        return self._breaker.wait_s(self._clock.monotonic()), 0.0

    async def _deliver(self, items: Sequence[Any]) -> Sequence[Answer]:
        reason = f"no answer within {DEADLINE_SHARE * self._settings.claim_s:g} s"
        self._counts["batches"] += 1
        try:
            async with asyncio.timeout(DEADLINE_SHARE * self._settings.claim_s):
                answers = await self._feed.deliver(items)
            if len(answers) == len(items):
                return answers
            reason = f"{len(answers)} answers for {len(items)} items"
            log.error("sink %s: %s", self.name, reason)
        except TimeoutError:
            log.error("sink %s: %s; its own deadline failed", self.name, reason)
        except Exception as exc:
            log.exception("sink %s failed", self.name)
            reason = f"internal error: {type(exc).__name__}: {exc}"
        return [Retry(reason)] * len(items)

    def _judge(self, answers: Sequence[Answer]) -> None:
        """Count, and tell the breaker. A refusal is an answer, too: the sink is there."""
        retries = [answer for answer in answers if isinstance(answer, Retry)]
        refusals = [answer for answer in answers if isinstance(answer, Refused)]
        self._counts["retries"] += len(retries)
        self._counts["refused"] += len(refusals)
        self._counts["delivered"] += sum(isinstance(answer, Delivered) for answer in answers)
        at = self._clock.time()
        if retries or refusals:
            self._last_error, self._last_error_at = (retries or refusals)[-1].reason[:REASON_CHARS_MAX], at
        if len(retries) < len(answers):
            self._breaker.succeeded()
            self._last_success = at if len(refusals) + len(retries) < len(answers) else self._last_success
            return
        self._counts["failures"] += 1
        before = self._breaker.opened
        asked = min(max(answer.after_s for answer in retries), self._settings.retry_after_max_s)
        self._breaker.failed(self._clock.monotonic(), asked)
        if self._breaker.opened > before:
            log.warning("sink %s is left alone for a while: %s", self.name, self._last_error)

    def _retry_at(self, attempts: int, after_s: float) -> float:
        """When a rule that failed ``attempts`` times before is due again: unix seconds."""
        first, most = self._settings.retry_first_s, self._settings.retry_max_s
        bound = min(first * 2.0 ** min(attempts, 30), most)
        asked = min(after_s, self._settings.retry_after_max_s, WAIT_S_MAX)
        return self._clock.time() + max(asked, bound * (0.5 + 0.5 * random.random()))

    async def _allowed(self, now: float) -> int:
        """How many items may be told now: what this controller has left of the rate, and what others leave of it."""
        if not self._rate_max:
            return self._batch_max
        most = min(float(self._batch_max), max(1.0, self._rate_max))
        self._budget = min(most, self._budget + (now - self._budget_at) * self._rate_max)
        self._budget_at = now
        if self._budget < 1:
            return 0
        left = int(min(self._budget, self._rate_max - await self._feed.recent() if self._rate_max >= 1 else 1))
        return max(0, left)

    async def _tidy(self, now: float) -> None:
        if now - self._tidied_at >= TIDY_S or not self._tidied_at:
            self._tidied_at = now
            await self._feed.tidy()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def look(self) -> None:
        """Look at what waits, for ``row`` and ``families``."""
        self._outlook = await self._feed.look()

    def row(self) -> SinkRow:
        """The sink as people see it."""
        counts, outlook = self._counts, self._outlook
        return SinkRow(
            sink=self.name,
            breaker=self._breaker.state(self._clock.monotonic()),
            pending=outlook.pending,
            lag_s=round(self._feed.lag_s(), 3),
            delivered=counts["delivered"],
            retries=counts["retries"],
            failures=counts["failures"],
            refused=outlook.refused,
            missed=outlook.missed,
            last_success=self._last_success,
            last_error_at=self._last_error_at,
            last_error=self._last_error,
            refusals=list(outlook.refusals),
        )

    def statistics(self) -> dict[str, int]:
        """Counters by name, and whether the breaker is open."""
        return {**self._counts, "breaker_openings": self._breaker.opened, "missed": self._outlook.missed}
