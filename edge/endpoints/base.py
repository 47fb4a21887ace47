"""The contracts of endpoints: what arrives from a source, and what a target says of a delivery (flow F3, F5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec


class Arrival(msgspec.Struct):
    """A message from a source. ``key`` is what rules match: the topic, or the path. ``payload`` is bytes, untouched.

    ``reliable`` tells that the source repeats the message until ``settle`` is called, which must be exactly once, when
    the result or the input is on disk for every rule that it went to (protocol P5.3).
    """

    msg_id: str
    key: str
    payload: bytes
    reliable: bool = False
    settle: Callable[[], None] | None = None


class Delivered(NamedTuple):
    """The target has the message and said so."""


class Retry(NamedTuple):
    """Not delivered now; trying again may help, ``after`` seconds at the earliest (0: the rule's own backoff)."""

    reason: str
    detail: str
    after: float = 0.0


class Rejected(NamedTuple):
    """Not delivered, and trying again cannot help."""

    reason: str
    detail: str


Delivery = Delivered | Retry | Rejected
DELIVERED = Delivered()


class Target(Protocol):
    """Where a rule delivers to."""

    @property
    def ready(self) -> bool:
        """False while a delivery must fail because there is no connection yet."""
        ...

    def deliver(self, message: Arrival, done: Callable[[Delivery], None]) -> None:
        """Deliver ``message``; ``done`` is called exactly once, now or later. Does not raise."""
        ...
