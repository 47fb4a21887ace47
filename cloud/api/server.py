"""The listener of the API: uvicorn inside the controller's own event loop, with bounds on connections (R3, R4)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cloud.settings import ApiSettings
from common.errors import ConfigError
from common.messaging.child import is_loopback

KEEP_ALIVE_S = 5
STOP_S = 2  # for answers that are being written at a stop
BACKLOG = 128  # connections that the system holds until they are taken


class Connections:
    """The open connections by client address, and how many were refused or cut off."""

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.open: dict[Any, asyncio.Transport] = {}
        self._accepted = WeakSet[socket.socket]()  # those of whom TLS knows nothing yet, too
        self.counts = dict.fromkeys(("connections_refused", "connections_slow"), 0)

    def admit(self, accepted: socket.socket) -> None:
        """Take a connection. Raises ConnectionAbortedError, and closes it, when there are too many."""
        if sum(each.fileno() >= 0 for each in self._accepted) >= self.settings.connections_max:
            self.counts["connections_refused"] += 1
            accepted.close()
            raise ConnectionAbortedError
        self._accepted.add(accepted)

    def abort(self, client: Any) -> None:
        """Close the connection of this client at once, with all that waits to be written."""
        transport = self.open.get(tuple(client or ()))
        if transport is not None:
            transport.abort()


class _Socket(socket.socket):
    """The listening socket; asyncio stops to accept for this turn at a ConnectionAbortedError."""

    connections: Connections

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept one that may stay."""
        accepted, address = super().accept()
        self.connections.admit(accepted)
        return accepted, address


class _Connection(H11Protocol):
    """uvicorn's connection, bounded in the time of a request's head, and in what a reader leaves unread."""

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all = connections
        self._head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._all.open[self.client] = transport
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        if self._all.open.get(self.client) is self.transport:
            del self._all.open[self.client]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_came()
        elif self._head is None:
            self._await_head()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # an answer that nobody reads: to close would wait for the reader
            self._cut_off()
        else:
            super().timeout_keep_alive_handler()

    def _await_head(self) -> None:
        self._head = self.loop.call_later(self._all.settings.head_s_max, self._cut_off)

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cut_off(self) -> None:
        self._all.counts["connections_slow"] += 1
        self.transport.abort()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the controller's."""
        yield


class Listener:
    """Serves ``app`` from ``start`` to ``stop``; ``port`` is the one that is listened on."""

    def __init__(self, settings: ApiSettings, connections: Connections) -> None:
        self._settings, self._connections = settings, connections
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self, app: ASGIApp) -> None:
        """Listen. Raises ConfigError: the address cannot be had, or is open without protection."""
        settings = self._settings
        protect(settings)
        listener = _bind(settings.host, settings.port)
        listener.connections = self._connections
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=functools.partial(_Connection, connections=self._connections),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
            ssl_certfile=settings.certificate_file or None,
            ssl_keyfile=settings.key_file or None,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([listener]), name="api.server")
        while not self._server.started:
            if self._task.done():
                await self._task
                raise ConfigError(f"cloud.api: cannot serve on {settings.host}:{settings.port}")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop listening, and give answers that are being written a moment."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task


def protect(settings: ApiSettings) -> None:
    """Raise ConfigError unless the address is loopback, or has both a certificate and tokens (R4)."""
    if not is_loopback(settings.host):
        for name in ("certificate_file", "token_file"):
            if not getattr(settings, name):
                raise ConfigError(f"cloud.api.host {settings.host!r} is not loopback: that needs cloud.api.{name}")
    if not settings.certificate_file:
        return
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.certificate_file, settings.key_file or None)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"cloud.api.certificate_file: {settings.certificate_file}: {exc}") from exc


def _bind(host: str, port: int) -> _Socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = _Socket(family, kind, proto)
    except OSError as exc:
        raise ConfigError(f"cloud.api: cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
        listener.set_inheritable(False)
    except OSError as exc:
        listener.close()
        raise ConfigError(
            f"cloud.api: cannot listen on {host}:{port}: {exc.strerror}; choose another cloud.api.port"
        ) from exc
    return listener
