"""What a forwarder takes from the store and how it writes back what became of it: rules, or single results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from cloud.forwarders.base import Answer

RetryAt = Callable[[int, float], float]  # (failures in a row, what the sink asked for) -> unix seconds


class Refusal(msgspec.Struct, frozen=True):
    """What a sink will never take: which rule, and why."""

    rule: str
    reason: str


class Outlook(NamedTuple):
    """What waits for a sink: how many, when the next is due (unix seconds, 0: nothing waits), and what it refused."""

    pending: int = 0
    next_at: float = 0
    refused: int = 0
    refusals: Sequence[Refusal] = ()
    missed: int = 0  # that were gone before they were told


class Feed(Protocol):
    """One sink's work, as its forwarder does it. Methods raise StorageError and QueueFullError as the store does."""

    name: str

    @property
    def ready(self) -> bool:
        """False while the sink can be told nothing."""
        ...

    async def start(self) -> None:
        """Make what must be there before the first commit."""
        ...

    async def take(self, limit: int, until: float) -> Sequence[Any]:
        """Claim and read at most ``limit`` items, until ``until`` (unix seconds)."""
        ...

    async def deliver(self, items: Sequence[Any]) -> Sequence[Answer]:
        """Hand them to the sink; one answer for each. Raises nothing on purpose."""
        ...

    async def settle(self, items: Sequence[Any], answers: Sequence[Answer], retry_at: RetryAt) -> None:
        """Write the answers down."""
        ...

    async def release(self) -> None:
        """Let go of what is claimed."""
        ...

    async def look(self) -> Outlook:
        """Look at what waits."""
        ...

    async def tidy(self) -> None:
        """Clear what is gone."""
        ...

    async def recent(self) -> int:
        """How many items any controller told in the last second."""
        ...

    def lag_s(self) -> float:
        """Age of the oldest item that waits, in seconds."""
        ...
