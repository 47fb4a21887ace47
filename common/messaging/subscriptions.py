"""What a link is subscribed to, and which SUBACKs are still awaited. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from common.messaging.base import Subscription
from common.messaging.connection import FAILED
from common.topics import check_filter

FILTERS_MAX = 8  # in one SUBSCRIBE; managed brokers take no more


class Subscriptions:
    """The wanted set, kept over connections, and the book of one connection's SUBSCRIBE packets.

    What was wanted once is unsubscribed at every connect: a persistent session at the broker still has it, and brokers
    deliver a message once for each filter that matches.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, Subscription] = {}
        self._gone: dict[str, None] = {}
        self._awaited: dict[int, list[str]] = {}  # filters by packet id

    @property
    def complete(self) -> bool:
        """True when no SUBACK is awaited."""
        return not self._awaited

    def replace(self, items: Sequence[Subscription]) -> tuple[list[str], list[Subscription]]:
        """Want these from now on; return the filters that are gone, and what is new or changed. Raises TopicError."""
        before, self._wanted = self._wanted, {check_filter(item.filter): item for item in items}
        gone = [name for name in before if name not in self._wanted]
        self._gone = {name: None for name in (*self._gone, *gone) if name not in self._wanted}
        return gone, [item for name, item in self._wanted.items() if before.get(name) != item]

    def begin(
        self, subscribe: Callable[[Sequence[Subscription]], int], unsubscribe: Callable[[Sequence[str]], None]
    ) -> None:
        """Send everything on a new connection. What is gone goes last, so that no message falls in between."""
        self._awaited.clear()
        self.send(list(self._wanted.values()), subscribe)
        gone = list(self._gone)
        for at in range(0, len(gone), FILTERS_MAX):
            unsubscribe(gone[at : at + FILTERS_MAX])

    def send(self, items: Sequence[Subscription], subscribe: Callable[[Sequence[Subscription]], int]) -> None:
        """Send ``items`` with ``subscribe``, which returns the packet id."""
        for at in range(0, len(items), FILTERS_MAX):
            some = items[at : at + FILTERS_MAX]
            self._awaited[subscribe(some)] = [item.filter for item in some]

    def answered(self, mid: int, codes: Sequence[int]) -> list[tuple[str, int]]:
        """Note a SUBACK; return the filters that the broker refused, with the codes."""
        filters = self._awaited.pop(mid, [])
        return [(name, code) for name, code in zip(filters, codes, strict=False) if code >= FAILED]
