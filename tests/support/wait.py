"""Waiting with a deadline instead of sleeping, and ports that are free."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

from common.messaging.child import take_port


async def eventually(
    predicate: Callable[[], Any | Awaitable[Any]], timeout: float = 30.0, interval: float = 0.02, what: str = ""
) -> Any:
    """Poll ``predicate`` (plain or async) until it is true and return its value.

    Raises AssertionError after ``timeout`` seconds, with ``what`` or the predicate's name and its last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() >= deadline:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"not within {timeout} s: {name} (last value {value!r})")
        await asyncio.sleep(interval)


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nothing listens on at this moment."""
    return take_port("127.0.0.1", 0)
