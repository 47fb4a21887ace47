"""Requests that wait for their reply, and the memory of those that no longer do (protocol P7.3). No I/O, no clock."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

from common.errors import NotConnectedError
from common.message import Message

GIVEN_UP_MAX = 10_000  # ids of requests that nobody waits for any more; older ones are forgotten


class Replies:
    """Matches replies to waiters by parent id."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Message[Any]]] = {}
        self._given_up: OrderedDict[str, None] = OrderedDict()
        self.late = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, request_id: str) -> asyncio.Future[Message[Any]]:
        """Return a future for the reply. Whoever calls this calls ``forget`` in every case."""
        future: asyncio.Future[Message[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        return future

    def forget(self, request_id: str) -> None:
        """Stop waiting. Without a reply so far, one that comes later is counted and dropped."""
        future = self._waiting.pop(request_id, None)
        if future is None or (future.done() and not future.cancelled()):
            return
        self._given_up[request_id] = None
        if len(self._given_up) > GIVEN_UP_MAX:
            self._given_up.popitem(last=False)

    def take(self, reply: Message[Any]) -> bool:
        """True when the reply had a waiter, or came too late for it: then it is nobody else's."""
        parent = reply.header.parent_msg_id
        future = self._waiting.get(parent)
        if future is not None:
            if not future.done():
                future.set_result(reply)
            return True
        if parent in self._given_up:
            self.late += 1
            return True
        return False

    def fail_all(self, reason: str) -> None:
        """End every wait with NotConnectedError."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NotConnectedError(reason))
