"""Three weeks offline: one node fills a small spool, comes back, and drains, while it goes on making results.

The product's Spool (its file on a real disk), Status and Uplink, and the product's store; writer, link and clock are
simulated. ``python -m tests.simulation offline --results 10000000`` runs it at full size and prints the account; every
promise that the account stands for is checked. The node is killed while it is offline and while it drains.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cloud.handlers import CONTENT_TYPES, status_message
from common.clock import ManualClock
from common.errors import NotConnectedError
from common.message import Message
from common.messaging.base import PUBLISHED
from common.messaging.inbound import Reader
from common.models import FAILED, Confirmation, ExecResult
from edge.settings import SpoolSettings, UplinkSettings
from edge.spool import Spool
from edge.status import DELIVERED_ENDING, Ending, RuleRef, Status
from edge.uplink import CHECK_S, SLOW_START, Uplink
from tests.simulation.disk import SteppedWriter
from tests.simulation.store import IN_MEMORY, SimStore
from tests.simulation.truth import require

NODE, ROOT, NAMESPACE = "edge-1", "fieldpost", "default"
FAILURES = [Ending(FAILED, reason, f"{reason} after 3 attempts", "target") for reason in ("timeout", "unreachable")]
GROUPS = (1, 10, 100, 1000)  # results in one commit, drawn
KILLS_OFFLINE, KILLS_DRAINING = 5, 2
DRAIN_S_MAX = 1e6  # virtual; a drain that takes longer does not end
Key = tuple[str, str, str]  # rule, status, reason


class Shape(NamedTuple):
    """What is run: ``live_per_s`` results come while it drains; a link has bytes a second and a round trip."""

    results: int = 10_000_000
    weeks: float = 3.0
    rules: int = 200
    spool_bytes: int = 50_000_000
    live_per_s: float = 10.0
    link_bytes_s: float = 250_000.0
    round_trip_s: float = 0.1
    seed: int = 1


class Account(msgspec.Struct):
    """What became of it. Results are executions; seconds are virtual but for ``took_s``."""

    accepted: int = 0
    counted: int = 0
    folded: int = 0
    details_kept: int = 0
    dropped: int = 0
    kills: int = 0
    file_bytes_max: int = 0
    wal_bytes_max: int = 0
    offline_s: float = 0.0
    drain_s: float = 0.0
    messages: int = 0
    messages_first_round_trip: int = 0
    messages_in_flight_max: int = 0
    messages_per_s: float = 0.0
    messages_per_s_max: int = 0
    live_results: int = 0
    live_delay_s_max: float = 0.0
    live_behind_messages_max: int = 0
    took_s: float = 0.0

    def __str__(self) -> str:
        rows = msgspec.structs.asdict(self).items()
        return "\n".join(f"{name:26s} {value:>14,{'.1f' if isinstance(value, float) else ''}}" for name, value in rows)


class _TimedLink:
    """A link with a rate and a round trip, both in virtual time. ``deliver`` is called when a payload has arrived."""

    payload_bytes_max = 131_072

    def __init__(self, events: Events, shape: Shape, deliver: Callable[[str, bytes], None]) -> None:
        self._events, self._shape, self._deliver = events, shape, deliver
        self._free_at = 0.0
        self.connected = True

    def publish(self, topic: str, payload: bytes, *, on_done: Callable[[int], None] | None = None, **more: Any) -> None:
        if not self.connected:
            raise NotConnectedError("not connected")
        self._free_at = max(self._free_at, self._events.now) + len(payload) / self._shape.link_bytes_s
        self._events.at(self._free_at + self._shape.round_trip_s / 2, self._arrive, topic, payload, on_done)

    def _arrive(self, topic: str, payload: bytes, on_done: Callable[[int], None] | None) -> None:
        if self.connected:
            self._deliver(topic, payload)
            if on_done is not None:
                on_done(PUBLISHED)


class Events:
    """What happens when, in virtual time."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    @property
    def now(self) -> float:
        return self._clock.monotonic()

    def at(self, when: float, act: Callable[..., None], *args: Any) -> None:
        """Let ``act`` happen at ``when``, monotonic seconds."""
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, act, args))

    def step(self) -> None:
        """Let the next thing happen."""
        when, _, act, args = heapq.heappop(self._heap)
        self._clock.advance(max(0.0, when - self.now))
        act(*args)


class Outage:
    """One run over a spool in ``directory``."""

    def __init__(self, directory: Path, shape: Shape) -> None:
        self._file, self._shape = directory / "spool.db", shape
        self._rng, self._clock = random.Random(shape.seed), ManualClock()
        self._events = Events(self._clock)
        self._reader = Reader(ROOT, "", CONTENT_TYPES)
        self._store = SimStore(IN_MEMORY, lambda ids: None, lambda point: None)
        self._rules = [RuleRef(NAMESPACE, f"rule-{n:05d}", "1") for n in range(shape.rules)]
        self._truth: Counter[Key] = Counter()  # accepted, as those were told who made them
        self._live: dict[str, tuple[float, int]] = {}  # accepted since the return: when, and how many had arrived
        self._number = 0
        self._seen: set[tuple[str, int]] = set()  # messages, by epoch and sequence
        self._arrivals: Counter[int] = Counter()  # by second
        self._draining = False
        self.account = Account()

    def run(self) -> Account:
        """Run it, check it, and return the account. Raises Violation."""
        began = time.perf_counter()
        self._store.open()
        self._boot()
        self._be_offline()
        self._drain()
        self._check()
        self._spool._committer.db.close()
        self.account.took_s = time.perf_counter() - began
        return self.account

    # -- the node ------------------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        self._link = _TimedLink(self._events, self._shape, self._arrived)
        self._link.connected = False
        self._window = UplinkSettings()
        self._spool = Spool(
            self._file, NODE, ROOT, on_frozen=lambda frozen: self._uplink.add(frozen), on_fatal=_fatal,
            settings=SpoolSettings(bytes_max=self._shape.spool_bytes), window=self._window, clock=self._clock,
            writer=self._make_writer,
        )  # fmt: skip
        self._status = Status(self._spool, clock=self._clock)
        self._uplink = Uplink(
            self._link, self._spool.confirm, self._spool.void, self._spool.split,  # type: ignore[arg-type]
            settings=self._window, clock=self._clock, rng=self._rng,
        )  # fmt: skip
        left, _ = self._spool.open()
        self._spool.start()
        self._uplink.add(left)

    def _make_writer(self, *args: Any, **options: Any) -> SteppedWriter:
        self._writer = SteppedWriter(*args, **options)
        return self._writer

    def _kill(self) -> None:
        """Kill the node with results that it has not accepted yet, and start it again, disconnected."""
        self._record()
        self._link.connected = False
        self._spool._committer.db.close()
        self.account.kills += 1
        self._boot()

    def _record(self) -> None:
        self._number += 1
        rule = self._rules[self._rng.randrange(len(self._rules))]
        ending = FAILURES[self._number % 20 == 0] if self._number % 10 == 0 else DELIVERED_ENDING
        name = f"{'live' if self._draining else 'old'}-{self._number}"
        told = partial(
            self._told, name, (rule.name, "SUCCESS" if ending is DELIVERED_ENDING else "FAIL", ending.reason)
        )
        self._status.record(rule, ending, source_id=name, duration_us=self._number % 5000, on_durable=told)

    def _told(self, name: str, key: Key) -> None:
        self._truth[key] += 1
        if self._draining:
            self._live[name] = self._events.now, self.account.messages

    def _settle(self) -> None:
        """Let the writer commit what is queued and hand it over."""
        while self._writer.busy:
            self._writer.commit(8192)
            self._writer.hand_over()
        account = self.account
        account.file_bytes_max = max(account.file_bytes_max, self._file.stat().st_size)
        account.wal_bytes_max = max(account.wal_bytes_max, Path(f"{self._file}-wal").stat().st_size)

    # -- the outage ----------------------------------------------------------------------------------------------------

    def _be_offline(self) -> None:
        shape, made = self._shape, 0
        every_s = shape.weeks * 7 * 86400 / shape.results
        kills = sorted((self._rng.randrange(shape.results) for _ in range(KILLS_OFFLINE)), reverse=True)
        while made < shape.results:
            group = min(self._rng.choice(GROUPS), shape.results - made)
            for _ in range(group):
                self._record()
            self._clock.advance(group * every_s)
            self._settle()
            made += group
            if kills and made > kills[-1]:
                kills.pop()
                self._kill()
        self.account.offline_s = self._events.now
        require(self._spool.stats.folded > 0, "{} results are too few to fold", shape.results)

    # -- the return ----------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        self._draining, self._began = True, self._events.now
        self._backlog = self._spool.stats.pending
        self._connect()
        self._make_live()
        self._check_resends()
        for left in (self._backlog * part // (KILLS_DRAINING + 1) for part in range(KILLS_DRAINING, -1, -1)):
            while self._spool.stats.backlog > left or not (left or self._drained):
                require(self._events.now - self._began < DRAIN_S_MAX, "no end: {}", self._spool.stats)
                self._events.step()
                self._settle()
                flying = self._uplink.statistics()["unconfirmed"]
                self.account.messages_in_flight_max = max(self.account.messages_in_flight_max, flying)
            if left:
                self._kill()
                self._events.at(self._events.now + 1.0, self._connect)
        account = self.account
        account.messages_per_s = account.messages / account.drain_s
        account.messages_per_s_max = max(self._arrivals.values())

    @property
    def _drained(self) -> bool:
        return not (self._spool.stats.pending or self._spool.stats.window_messages)

    def _connect(self) -> None:
        self._live.clear()  # what waits at a connect is backlog
        self._link.connected = True
        self._uplink.connected()
        self._uplink.controller("cloud-1", online=True)

    def _make_live(self) -> None:
        """The node goes on making results, as long as there is a backlog."""
        self._record()
        self.account.drain_s = self._events.now - self._began
        if self._spool.stats.backlog or not self._link.connected:
            self._events.at(self._events.now + 1 / self._shape.live_per_s, self._make_live)

    def _check_resends(self) -> None:
        self._uplink.resend_due()
        self._events.at(self._events.now + CHECK_S, self._check_resends)

    # -- the cloud -----------------------------------------------------------------------------------------------------

    def _arrived(self, topic: str, payload: bytes) -> None:
        now = self._events.now
        message = self._reader.read(topic, payload)
        assert isinstance(message, Message), message
        status = status_message(message, self._clock.time())
        key = str(status.epoch), status.sequence
        if key not in self._seen:
            self._seen.add(key)
            self.account.messages += 1
            self._arrivals[int(now)] += 1
            self.account.messages_first_round_trip += now < self._began + self._shape.round_trip_s
            self._look(status.results)
        for it in self._store.commit([status]).confirmed:
            confirmation = Confirmation(str(it.epoch), it.through, it.also)
            self._events.at(now + self._shape.round_trip_s / 2, self._hear, self._link, confirmation)

    def _look(self, results: list[ExecResult]) -> None:
        account = self.account
        for result in results:
            account.details_kept += result.count == 1
            if result.source_id in self._live:
                since, before = self._live.pop(result.source_id)
                account.live_results += 1
                account.live_delay_s_max = max(account.live_delay_s_max, self._events.now - since)
                behind = account.messages - 1 - before
                account.live_behind_messages_max = max(account.live_behind_messages_max, behind)

    def _hear(self, link: _TimedLink, confirmation: Confirmation) -> None:
        if link is self._link and link.connected:
            self._uplink.confirmed(confirmation)

    # -- the account ---------------------------------------------------------------------------------------------------

    def _counted(self) -> Counter[Key]:
        with self._store._engine.connect() as conn:
            rows = conn.exec_driver_sql("SELECT rule, status, reason, sum(count) FROM counters GROUP BY 1, 2, 3")
            return Counter({(rule, status, reason): int(count) for rule, status, reason, count in rows})

    def _check(self) -> None:
        account, stats, counted = self.account, self._spool.stats, self._counted()
        account.accepted, account.counted = stats.accepted, counted.total()
        account.folded, account.dropped = stats.folded, stats.dropped
        require(self._truth.total() == stats.accepted, "told {}, accepted {}", self._truth.total(), stats.accepted)
        require(counted == self._truth, "counts differ: {}", list(_differing(counted, self._truth)))
        require(not account.dropped, "{} dropped, though everything folds", account.dropped)
        kept = account.accepted - account.folded
        require(account.details_kept == kept, "details of {} arrived, declared are {}", account.details_kept, kept)
        require(not self._live, "{} live results lost their detail", len(self._live))
        bytes_max = self._shape.spool_bytes
        require(account.file_bytes_max <= bytes_max, "{} bytes of {}", account.file_bytes_max, bytes_max)
        require(account.messages_first_round_trip <= SLOW_START, "{} at once", account.messages_first_round_trip)
        window = self._window.window_messages
        require(account.messages_in_flight_max <= window, "{} messages in flight", account.messages_in_flight_max)
        share = self._window.backlog_share
        most = account.messages_in_flight_max + math.ceil((SLOW_START + 1) / (1 - share))
        require(account.live_behind_messages_max <= most, "{} before a live result", account.live_behind_messages_max)


def _differing(one: Counter[Key], other: Counter[Key]) -> Iterator[tuple[Key, int, int]]:
    return ((key, one[key], other[key]) for key in sorted(one.keys() | other.keys()) if one[key] != other[key])


def _fatal(exc: BaseException) -> None:
    raise exc


def main(args: list[str]) -> int:
    """Read the arguments, run, and print the account. Raises Violation when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation offline", description=__doc__)
    for name, default in Shape._field_defaults.items():
        kind = type(default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=f"default {default:,}")
    shape = Shape(**vars(parser.parse_args(args)))
    with tempfile.TemporaryDirectory() as directory:
        account = Outage(Path(directory), shape).run()
    sys.stdout.write(f"{shape}\n{account}\n")
    return 0
