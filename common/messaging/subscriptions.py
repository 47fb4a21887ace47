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
    deliver a message once for each filter that matches. What the session is known to have is not subscribed again:
    brokers would send every retained message once more.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, Subscription] = {}
        self._gone: dict[str, None] = {}
        self._awaited: dict[int, list[Subscription]] = {}  # by packet id
        self._held: dict[str, Subscription] = {}  # acknowledged in the session that the broker keeps

    @property
    def complete(self) -> bool:
        """True when no SUBACK is awaited."""
        return not self._awaited

    def replace(self, items: Sequence[Subscription]) -> tuple[list[str], list[Subscription]]:
        """Want these from now on; return the filters that are gone, and what is new or changed. Raises TopicError."""
        before, self._wanted = self._wanted, {check_filter(item.filter): item for item in items}
        gone = [name for name in before if name not in self._wanted]
        for name in gone:
            self._held.pop(name, None)
        self._gone = {name: None for name in (*self._gone, *gone) if name not in self._wanted}
        return gone, [item for name, item in self._wanted.items() if before.get(name) != item]

    def begin(
        self,
        subscribe: Callable[[Sequence[Subscription]], int],
        unsubscribe: Callable[[Sequence[str]], None],
        session_present: bool = False,
    ) -> None:
        """Send everything on a new connection, or with ``session_present`` what its session does not have yet.

        What is gone goes last, so that no message falls in between.
        """
        self._awaited.clear()
        if not session_present:
            self._held.clear()
        self.send([item for name, item in self._wanted.items() if self._held.get(name) != item], subscribe)
        gone = list(self._gone)
        for at in range(0, len(gone), FILTERS_MAX):
            unsubscribe(gone[at : at + FILTERS_MAX])

    def send(self, items: Sequence[Subscription], subscribe: Callable[[Sequence[Subscription]], int]) -> None:
        """Send ``items`` with ``subscribe``, which returns the packet id."""
        for at in range(0, len(items), FILTERS_MAX):
            some = items[at : at + FILTERS_MAX]
            self._awaited[subscribe(some)] = list(some)

    def refused(self) -> list[Subscription]:
        """What is wanted, and neither acknowledged nor awaited: the broker refused it."""
        awaited = {item.filter for items in self._awaited.values() for item in items}
        return [item for name, item in self._wanted.items() if self._held.get(name) != item and name not in awaited]

    def answered(self, mid: int, codes: Sequence[int]) -> list[tuple[str, int]]:
        """Note a SUBACK; return the filters that the broker refused, with the codes."""
        answers = list(zip(self._awaited.pop(mid, []), codes, strict=False))
        self._held.update((item.filter, item) for item, code in answers if code < FAILED)
        return [(item.filter, code) for item, code in answers if code >= FAILED]
