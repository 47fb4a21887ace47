"""What a sink is: takes statuses of rules, and says of each what became of it (protocol P8.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from cloud.stores.base import ResultRow
from cloud.stores.status import RuleKey, RuleStatus


class Delivered(NamedTuple):
    """The sink has it."""


class Retry(NamedTuple):
    """Not now: again after ``after_s`` seconds, or when 0 with the forwarder's own backoff."""

    reason: str
    after_s: float = 0


class Refused(NamedTuple):
    """The sink will never take this version; it is kept and shown, and the next version is tried again."""

    reason: str


Answer = Delivered | Retry | Refused


class AnySink(Protocol):
    """What all sinks have. A sink keeps nothing: what must survive is in the outbox.

    ``name`` is its key in the outbox and in metrics. At most ``batch_max`` items come at once, a rule's at most once
    in ``interval_s`` seconds, and in all at most ``rate_max`` a second (0: any number).
    """

    name: str
    batch_max: int
    interval_s: float
    rate_max: float

    async def start(self) -> None:
        """Get ready. A sink that cannot be reached now starts all the same."""
        ...

    async def stop(self) -> None:
        """Let go of connections."""
        ...


class Sink(AnySink, Protocol):
    """A place to which statuses of rules go."""

    async def deliver(self, statuses: Sequence[RuleStatus]) -> Sequence[Answer]:
        """Deliver, within a deadline of the sink's own; one answer for each, in order. Raises nothing."""
        ...


class ResultSink(AnySink, Protocol):
    """A place to which single results go (P8.6)."""

    async def deliver(self, rows: Sequence[ResultRow]) -> Sequence[Answer]:
        """As ``Sink.deliver``."""
        ...


@runtime_checkable
class Connects(Protocol):
    """A sink that needs a connection of somebody else: it is told nothing while there is none."""

    @property
    def connected(self) -> bool:
        """True while something can be told. Whoever connects calls ``Forwarding.wake``."""
        ...


@runtime_checkable
class Forgets(Protocol):
    """A sink that keeps a state for each rule, and can clear it when the rule is gone."""

    async def forget(self, keys: Sequence[RuleKey]) -> Sequence[Answer]:
        """Clear what the sink has of these rules; as ``Sink.deliver``."""
        ...
