"""Repeated requests made safe: an ``Idempotency-Key`` is executed once, and its answer given again (flow F3).

The memory is this process's: bounded in number and time. Over a restart a key is forgotten, but the message id is made
from it, so what receives the message can tell a repetition.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from hashlib import sha256
from uuid import UUID

from common.clock import Clock
from edge.endpoints.replies import Reply

KEY_CHARS_MAX = 255


class _Entry:
    __slots__ = ("digest", "reply", "until")

    def __init__(self, digest: bytes, until: float, reply: asyncio.Future[Reply]) -> None:
        self.digest, self.until, self.reply = digest, until, reply


class Keys:
    """The keys of one listener. ``repeated`` counts answers that were given again, ``forgotten`` keys at the bound."""

    def __init__(self, keys_max: int, keys_s: float, clock: Clock) -> None:
        self._max, self._seconds, self._clock = keys_max, keys_s, clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self.repeated = self.forgotten = 0

    def begin(self, scope: str, key: str, digest: bytes) -> asyncio.Future[Reply] | None:
        """Remember a key; None when it is new, else the first request's answer, which may be to come.

        Raises ValueError when the key came before with another request.
        """
        now = self._clock.monotonic()
        while self._entries and next(iter(self._entries.values())).until <= now:
            self._entries.popitem(last=False)
        entry = self._entries.get((scope, key))
        if entry is not None:
            if entry.digest != digest:
                raise ValueError("the idempotency key came before with another request")
            self.repeated += 1
            return entry.reply
        if len(self._entries) >= self._max:
            self._entries.popitem(last=False)
            self.forgotten += 1
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._entries[scope, key] = _Entry(digest, now + self._seconds, reply)
        return None

    def end(self, scope: str, key: str, reply: Reply) -> None:
        """Note the answer. One that says that nothing was done (503) is given, and forgotten: the next try counts."""
        entry = self._entries.get((scope, key))
        if entry is None:
            return
        if not entry.reply.done():
            entry.reply.set_result(reply)
        if reply.status == 503:
            del self._entries[scope, key]


def msgid_of(scope: str, key: str) -> str:
    """The message id for a key: the same at every repetition."""
    return str(UUID(bytes=sha256(f"{scope}\0{key}".encode()).digest()[:16], version=5))


def digest_of(method: str, path: str, body: bytes) -> bytes:
    """What tells one request from another."""
    hashed = sha256(f"{method} {path}\0".encode())
    hashed.update(body)
    return hashed.digest()
