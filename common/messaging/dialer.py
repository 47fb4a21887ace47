"""How a connection comes up: which address, which protocol version, and the broker's yes."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable

from common.errors import ConnectError
from common.messaging.connection import UNSUPPORTED_VERSION, Accepted, Connection, Session
from common.messaging.endpoint import Endpoint, parse_endpoints, read_password, tls_context
from common.messaging.stream import Stream, open_stream
from common.settings import BrokerSettings

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0  # for TCP and TLS, and again for the broker's CONNACK
V5, V311 = 5, 4


class Dialer:
    """Makes one connection per ``dial``. After a failure the next address of the URL's list has its turn (P5.12).

    Arguments: ``session`` makes the CONNECT's contents for a version and password; ``begin`` sends it.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        session: Callable[[int, str], Session],
        begin: Callable[[Stream, Session], Connection],
    ) -> None:
        self._settings, self._client_id = settings, client_id
        self._session, self._begin = session, begin
        self._endpoints = parse_endpoints(settings.url)
        self._failures = 0
        self._version = V311 if settings.protocol == "3.1.1" else V5
        self._try_old = False  # one attempt with 3.1.1, after version 5 got no answer at all

    async def check(self) -> None:
        """Raise ConfigError for files that are missing and what else can never work."""
        read_password(self._settings)
        for endpoint in self._endpoints:
            await self._context(endpoint)

    async def dial(self) -> tuple[Connection, Accepted]:
        """Connect to one address. Raises ConnectError, or ConfigError when a file is gone by now."""
        endpoint = self._endpoints[self._failures % len(self._endpoints)]
        try:
            return await self._dial(endpoint)
        except Exception:
            self._failures += 1
            raise

    async def _dial(self, endpoint: Endpoint) -> tuple[Connection, Accepted]:
        version, self._try_old = V311 if self._try_old else self._version, False
        connection, accepted = await self._connect(endpoint, version)
        if accepted.code == UNSUPPORTED_VERSION and self._settings.protocol == "auto":
            self._version = V311 if version == V5 else V5
            if version == V5:
                log.info("%s: %s does not speak MQTT 5, going on with 3.1.1", self._client_id, endpoint)
                connection, accepted = await self._connect(endpoint, V311)
                version = V311
        if accepted.code:
            raise ConnectError(f"{endpoint} refuses {self._client_id}: {accepted.text}", permanent=True)
        log.info("%s: connected to %s, MQTT %s", self._client_id, endpoint, "5" if version == V5 else "3.1.1")
        return connection, accepted

    async def _connect(self, endpoint: Endpoint, version: int) -> tuple[Connection, Accepted]:
        """Return the broker's answer and the connection, which is dropped if the answer is no."""
        context, session = await self._context(endpoint), self._session(version, read_password(self._settings))
        try:
            stream = await open_stream(endpoint.host, endpoint.port, context, CONNECT_TIMEOUT_S)
        except OSError as exc:  # TimeoutError and ssl.SSLError too
            raise ConnectError(f"cannot reach {endpoint}: {exc or 'no answer'}") from exc
        try:
            connection = self._begin(stream, session)
        except BaseException:
            stream.shut()
            raise
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                accepted = await connection.accepted
        except TimeoutError:
            connection.drop("no CONNACK")
            raise ConnectError(f"{endpoint} does not answer CONNECT") from None
        except BaseException:
            connection.drop("cancelled")
            raise
        if accepted is None:
            # Closed without a word: perhaps it knows no version 5, perhaps it is going down. So one attempt with
            # 3.1.1, but nothing is concluded for later.
            self._try_old = version == V5 and self._settings.protocol == "auto"
            raise ConnectError(f"{endpoint} closed the connection: {connection.ended.result()}")
        if accepted.code:
            connection.drop(accepted.text)
        return connection, accepted

    async def _context(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        return await asyncio.to_thread(tls_context, self._settings.tls, endpoint) if endpoint.tls else None
