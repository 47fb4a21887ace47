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
REPLIES_BYTES_MAX = 16 << 20  # of all answers that one listener remembers


class _Entry:
    __slots__ = ("digest", "reply", "size", "until")

    def __init__(self, digest: bytes, until: float, reply: asyncio.Future[Reply]) -> None:
        self.digest, self.until, self.reply, self.size = digest, until, reply, 0


class Keys:
    """The keys of one listener: at most ``keys_max`` beside those of requests that still wait, with answers of at most
    REPLIES_BYTES_MAX. ``repeated`` counts answers that were given again, ``forgotten`` keys at a bound.
    """

    def __init__(self, keys_max: int, keys_s: float, clock: Clock) -> None:
        self._max, self._seconds, self._clock = keys_max, keys_s, clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self.repeated = self.forgotten = self.bytes = 0

    def begin(self, scope: str, key: str, digest: bytes) -> asyncio.Future[Reply] | None:
        """Remember a key; None when it is new, else the first request's answer, which may be to come.

        Raises ValueError when the key came before with another request.
        """
        now = self._clock.monotonic()
        while self._entries and (oldest := next(iter(self._entries.values()))).until <= now and oldest.reply.done():
            self._forget(next(iter(self._entries)))
        entry = self._entries.get((scope, key))
        if entry is not None:
            if entry.digest != digest:
                raise ValueError("the idempotency key came before with another request")
            self.repeated += 1
            return entry.reply
        if len(self._entries) >= self._max:
            self._forget_oldest()
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._entries[scope, key] = _Entry(digest, now + self._seconds, reply)
        return None

    def end(self, scope: str, key: str, reply: Reply) -> None:
        """Note the answer. One that says that nothing was done (503) is given, and forgotten: the next try counts.

        Called once for each ``begin`` that returned None; till then the key stays.
        """
        entry = self._entries[scope, key]
        entry.reply.set_result(reply)
        entry.size = len(reply.body)
        self.bytes += entry.size
        if reply.status == 503:
            self._forget((scope, key))
        while self.bytes > REPLIES_BYTES_MAX and self._forget_oldest():
            pass

    def _forget_oldest(self) -> bool:
        """Forget the oldest key whose request has its answer: one that still waits would be executed twice."""
        name = next((name for name, entry in self._entries.items() if entry.reply.done()), None)
        if name is None:
            return False
        self._forget(name)
        self.forgotten += 1
        return True

    def _forget(self, name: tuple[str, str]) -> None:
        self.bytes -= self._entries.pop(name).size


def msgid_of(scope: str, key: str) -> str:
    """The message id for a key: the same at every repetition."""
    return str(UUID(bytes=sha256(f"{scope}\0{key}".encode()).digest()[:16], version=5))


def digest_of(method: str, path: str, query: str, body: bytes) -> bytes:
    """What tells one request from another."""
    hashed = sha256(f"{method} {path}?{query}\0".encode())
    hashed.update(body)
    return hashed.digest()
