"""Server-sent events: results as they are committed, to a bounded number of watchers (experience U5).

A watcher reads the ring behind a mark of its own, so that one that reads slowly holds no memory here; one that lets a
line wait for longer than the bound is cut off, and goes on later from the last id it saw (``Last-Event-ID``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cloud.api.problems import ApiError
from cloud.settings import ApiSettings
from common.errors import FieldpostError

log = logging.getLogger(__name__)

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
_HEARTBEAT = b": nothing new\n\n"
_END = object()


class Streams:
    """The watchers of one controller. ``abort`` cuts off the connection of a client address."""

    def __init__(self, settings: ApiSettings, abort: Callable[[Any], None]) -> None:
        self.settings, self.abort = settings, abort
        self.stopping = asyncio.Event()
        self.watching = 0
        self.counts = dict.fromkeys(("streams", "streams_refused", "streams_slow", "streams_broken", "events"), 0)

    def open(self, items: AsyncIterator[Any]) -> Response:
        """Return the answer that streams ``items``, rows with an id. Raises ApiError when too many watch."""
        if self.watching >= self.settings.watchers_max:
            self.counts["streams_refused"] += 1
            said = f"{self.watching} streams are open already (cloud.api.watchers_max)"
            raise ApiError("overloaded", said)
        self.watching += 1  # here, and not when the answer begins: many may ask at once
        self.counts["streams"] += 1
        return _Stream(self, items)

    def stop(self) -> None:
        """End all streams."""
        self.stopping.set()


class _Stream(Response):
    """One answer that goes on until its reader leaves, is too slow, or the controller stops."""

    def __init__(self, owner: Streams, items: AsyncIterator[Any]) -> None:
        super().__init__()
        self._owner, self._items = owner, items

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        ends = [
            asyncio.create_task(_gone(receive), name="api.client-gone"),
            asyncio.create_task(self._owner.stopping.wait(), name="api.stream-stop"),
        ]
        item: asyncio.Future[Any] | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await self._write(send, b"retry: 1000\n\n")
            while True:
                item = item or asyncio.ensure_future(anext(self._items, _END))
                await asyncio.wait(
                    (item, *ends), timeout=self._owner.settings.heartbeat_s, return_when=asyncio.FIRST_COMPLETED
                )
                if any(end.done() for end in ends) or (item.done() and item.result() is _END):
                    break
                if not item.done():
                    await self._write(send, _HEARTBEAT)
                    continue
                self._owner.counts["events"] += 1
                await self._write(send, _event(item.result()))
                item = None
            await self._write(send, b"", more=False)
        except TimeoutError:
            self._owner.counts["streams_slow"] += 1
            self._owner.abort(scope.get("client"))
        except FieldpostError as exc:  # the store is away: the reader comes again, and goes on from its last id
            self._owner.counts["streams_broken"] += 1
            log.warning("a stream of results ended: %s", exc)
            self._owner.abort(scope.get("client"))
        finally:
            self._owner.watching -= 1
            await self._close([*ends, *([item] if item else [])])

    async def _write(self, send: Send, body: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(self._owner.settings.write_s_max):
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _close(self, futures: list[asyncio.Future[Any]]) -> None:
        for future in futures:
            future.cancel()
        await asyncio.gather(*futures, return_exceptions=True)
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(row: Any) -> bytes:
    return b"id: %d\nevent: result\ndata: %b\n\n" % (row.id, msgspec.json.encode(row))
