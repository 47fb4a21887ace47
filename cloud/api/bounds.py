"""What surrounds every request: bounds on number, body and time, security headers, and no traceback ever (R3, R4).

A plain ASGI middleware: it wraps ``receive`` and ``send`` and keeps nothing of a body. A large answer is written in
parts, so that a slow reader holds its own place here, until its deadline, and never the memory of the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud.api.problems import ApiError, problem
from cloud.settings import ApiSettings
from common.clock import Clock

log = logging.getLogger(__name__)

PART_BYTES = 1 << 16  # of an answer in one write
KEYS_MAX = 10_000  # callers whose requests of this second are counted apart
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
OVER_TLS = ((b"strict-transport-security", b"max-age=31536000"),)


class Rate:
    """How often something happened in this second, by key; above ``KEYS_MAX`` keys, all others are one."""

    def __init__(self, per_s_max: int, clock: Clock) -> None:
        self._max, self._clock = per_s_max, clock
        self._second = -1
        self._seen: Counter[str] = Counter()

    def full(self, key: str) -> bool:
        """The key had its share of this second."""
        return self._now()[self._key(key)] >= self._max

    def add(self, key: str) -> None:
        """Count one."""
        self._now()[self._key(key)] += 1

    def _key(self, key: str) -> str:
        return key if key in self._seen or len(self._seen) < KEYS_MAX else ""

    def _now(self) -> Counter[str]:
        second = int(self._clock.monotonic())
        if second != self._second:
            self._second = second
            self._seen.clear()
        return self._seen


class Bounds:
    """The middleware around ``app``.

    Arguments: ``streams`` are the paths whose answers go on, which have bounds of their own; ``abort`` cuts off the
    connection of a client address, with all that waits to be written.
    """

    def __init__(
        self, app: ASGIApp, settings: ApiSettings, streams: Collection[str], abort: Callable[[Any], None]
    ) -> None:
        self._app, self._settings, self._streams, self._abort = app, settings, streams, abort
        self.running = 0
        names = ("requests", "overloaded", "deadlines", "body_too_large", "slow_readers", "faults")
        self.counts = dict.fromkeys(names, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        self.counts["requests"] += 1
        request = _Request(self, scope, receive, send, self._settings.body_bytes_max)
        if scope["path"] in self._streams:
            return await self._guard(request, None)
        if self.running >= self._settings.requests_max:
            self.counts["overloaded"] += 1
            said = f"{self.running} requests run already (cloud.api.requests_max)"
            return await request.answer("overloaded", said)
        self.running += 1
        try:
            await self._guard(request, self._settings.request_s_max)
        finally:
            self.running -= 1

    async def _guard(self, request: _Request, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                return await self._app(request.scope, request.receive, request.send)
        except TimeoutError:
            self.counts["deadlines"] += 1
            if not request.started:
                name, what = ("body_timeout", "body") if request.reading else ("deadline", "answer")
                return await request.answer(name, f"no {what} within {seconds:g} s (cloud.api.request_s_max)")
            self.counts["slow_readers"] += 1
        except Exception:
            self.counts["faults"] += 1
            log.exception("api: %s failed", request.scope["path"][:256])
            if not request.started:
                return await request.answer("internal", "the request failed; its error is in the controller's log")
        self._abort(request.scope.get("client"))


class _Request:
    """One request on its way: counts its body, adds the headers, and splits what is large."""

    def __init__(self, owner: Bounds, scope: Scope, receive: Receive, send: Send, body_bytes_max: int) -> None:
        self.scope, self.started, self.reading = scope, False, False
        self._owner, self._receive, self._send, self._left = owner, receive, send, body_bytes_max
        self._headers = [*HEADERS, *(OVER_TLS if scope["scheme"] == "https" else ())]

    async def receive(self) -> Message:
        """Give the next part of the body. Raises ApiError when it is larger than the bound."""
        self.reading = True
        message = await self._receive()
        self.reading = False
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self._owner.counts["body_too_large"] += 1
                raise ApiError("body_too_large", "the body has more bytes than cloud.api.body_bytes_max")
        return message

    async def send(self, message: Message) -> None:
        """Write a part of the answer; what is large goes in parts, each when the one before was taken."""
        if message["type"] == "http.response.start":
            self.started = True
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        body = message.get("body", b"")
        if len(body) <= PART_BYTES:
            return await self._send(message)
        for at in range(0, len(body), PART_BYTES):
            more = message.get("more_body", False) or at + PART_BYTES < len(body)
            await self._send({**message, "body": body[at : at + PART_BYTES], "more_body": more})

    async def answer(self, name: str, detail: str) -> None:
        """Answer with a problem."""
        await problem(name, detail, self.scope["path"])(self.scope, self.receive, self.send)
