"""The connections of an HTTP listener, bounded in number and in the time they may be silent (flow F3).

A module of its own, because aiohttp is loaded when the first listener starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_request import BaseRequest

from edge.settings import ListenerSettings

HEADERS_MAX = 128  # of one request; aiohttp answers 400 to more, and to a line of more than LINE_BYTES_MAX
LINE_BYTES_MAX = 8190
LINGER_S = 2.0  # for the rest of a body that nobody wants, before its connection is closed

_silent = logging.getLogger(f"{__name__}.malformed")
_silent.disabled = True

Handler = Callable[[BaseRequest], Awaitable[web.StreamResponse]]


class Connections(web.Server):
    """aiohttp's server, with ``connections_max`` and ``idle_s_max`` of the settings.

    One connection too many is closed at once (``refused``). One that has not brought a whole head in its time, since it
    was opened or the last answer was made, is closed as well (``slow``): that bounds who sends a byte now and then, who
    does not read its answer, and who says nothing.
    """

    def __init__(self, handler: Handler, settings: ListenerSettings) -> None:
        super().__init__(
            self._between_timers,
            access_log=None,
            logger=_silent,  # a traceback for each request that is no HTTP; they are counted, as ``malformed``
            auto_decompress=False,  # payloads are bytes end to end
            keepalive_timeout=settings.idle_s_max,  # begins when the answer is written, so never before ours
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
            lingering_time=LINGER_S,
        )
        self._answer, self._settings = handler, settings
        self._idle: dict[web.RequestHandler, asyncio.TimerHandle | None] = {}  # None: a request is being answered
        self.refused = self.slow = 0

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._idle)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """aiohttp tells of a new one; with TLS its handshake is over."""
        super().connection_made(handler, transport)
        if len(self._idle) >= self._settings.connections_max:
            self.refused += 1
            asyncio.get_running_loop().call_soon(transport.abort)  # its task must have begun, or aiohttp takes it amiss
        else:
            self._idle[handler] = self._timer(handler)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """aiohttp tells that one has ended."""
        super().connection_lost(handler, exc)
        timer = self._idle.pop(handler, None)
        if timer is not None:
            timer.cancel()

    async def _between_timers(self, request: BaseRequest) -> web.StreamResponse:
        handler = request.protocol
        timer = self._idle.get(handler)
        if timer is not None:
            timer.cancel()
            self._idle[handler] = None
        try:
            return await self._answer(request)
        finally:
            if handler in self._idle:
                self._idle[handler] = self._timer(handler)

    def _timer(self, handler: web.RequestHandler) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._settings.idle_s_max, self._too_slow, handler)

    def _too_slow(self, handler: web.RequestHandler) -> None:
        self.slow += 1
        if handler.transport is not None:
            handler.transport.abort()
