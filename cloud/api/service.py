"""The API as one part of the controller: put together, started, stopped (R4)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from cloud.api.app import Api
from cloud.api.bounds import Bounds
from cloud.api.health import Health
from cloud.api.server import Connections, Listener, protect
from cloud.api.streams import Streams
from cloud.api.tokens import Tokens, own_token_file
from cloud.audit import Audit
from cloud.settings import ApiSettings
from common.api import API_ROOT, Kind
from common.clock import Clock
from common.control import Operation

log = logging.getLogger(__name__)


class ApiService:
    """The API of one controller, from ``start`` to ``stop``.

    Arguments: ``operations`` are those of the control socket; ``metrics`` gives Prometheus' text; ``data_dir`` holds
    the token of its own, when no file with tokens is set. ``port`` is the one that is listened on.
    """

    def __init__(
        self,
        settings: ApiSettings,
        data_dir: Path,
        operations: Mapping[str, Operation],
        metrics: Callable[[], Awaitable[str]],
        *,
        audit: Audit,
        health: Health,
        clock: Clock,
    ) -> None:
        self._settings, self._data_dir, self._clock = settings, data_dir, clock
        self._operations, self._metrics, self._audit, self._health = operations, metrics, audit, health
        self._connections = Connections(settings)
        self._listener = Listener(settings, self._connections)
        self._bounds: Bounds | None = None
        self._api: Api | None = None
        self._streams: Streams | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before the start."""
        return self._listener.port

    async def start(self) -> None:
        """Read the tokens and listen. Raises ConfigError."""
        settings = self._settings
        protect(settings)
        tokens = Tokens(
            Path(settings.token_file) if settings.token_file else own_token_file(self._data_dir), self._clock
        )
        tokens.load()
        self._streams = Streams(settings, self._connections.abort)
        self._api = Api(
            settings, self._operations, self._metrics,
            tokens=tokens, audit=self._audit, health=self._health, streams=self._streams, clock=self._clock,
        )  # fmt: skip
        paths = {API_ROOT + route.path for route in self._api.routes if route.kind is Kind.stream}
        self._bounds = Bounds(self._api.app(), settings, paths, self._connections.abort)
        await self._listener.start(self._bounds)
        scheme = "https" if settings.certificate_file else "http"
        log.info("the API listens on %s://%s:%d%s", scheme, settings.host, self.port, API_ROOT)

    async def stop(self) -> None:
        """End streams, let other answers be written, and stop listening."""
        if self._streams is not None:
            self._streams.stop()
        await self._listener.stop()

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name."""
        found = {**self._connections.counts, "connections": len(self._connections.open)}
        if self._bounds is not None and self._api is not None:
            found |= {**self._bounds.counts, "running": self._bounds.running, **self._api.statistics()}
        return found
