"""The webhook sink: one signed POST per batch, to an address that was checked, within one deadline (P8.4, R4).

The name is resolved when a connection is made, every address that it has is checked, and the connection is made to one
of those: what the name means later does not matter. No redirects, no proxy, no cookies; of the answer only the status
counts, and of its body a little is read so that the connection can be used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from cloud.forwarders import events
from cloud.forwarders.addresses import literal, networks, objection
from cloud.forwarders.base import Answer, Delivered, Refused, Retry
from cloud.forwarders.events import Event
from cloud.settings.forward import WebhookSettings
from common.clock import Clock
from common.errors import ConfigError
from common.retryafter import retry_after
from common.tables import printable
from common.version import VERSION

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 2
BODY_S_MAX = 1.0  # to read the body of an answer whose status is known
BODY_S_MIN = 0.1  # before the deadline at which that is given up: a status that came is never lost for its body
SHOWN_CHARS_MAX = 200  # of an answer's body, in an error
TOO_MUCH = (400, 413, 422)  # answers that may be about one event of several

Found = list[tuple[int, str]]  # address family and address
Resolve = Callable[[str, int], Awaitable[Found]]


class Names:
    """Resolves names on a thread of its own, so that a name server that hangs holds up nobody else."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="webhook-names")

    async def resolve(self, host: str, port: int) -> Found:
        """Return all addresses of ``host``. Raises OSError."""

        def ask() -> Found:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found))

        return await asyncio.get_running_loop().run_in_executor(self._pool, ask)

    def close(self) -> None:
        """Wait for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Checked(AbstractResolver):
    """aiohttp's resolver, which it asks once for each connection: only checked addresses come out."""

    def __init__(self, resolve: Resolve, allowed: Sequence[Any]) -> None:
        self._resolve, self._allowed = resolve, allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolve(host, port)
        if not found:
            raise OSError(errno.ENOENT, "the name has no address")
        for _, text in found:
            address = literal(text)
            refused = "no address" if address is None else objection(address, self._allowed)
            if refused:
                raise OSError(errno.EACCES, f"refused: {refused}")
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=text, port=port, family=kind, proto=0, flags=flags)
            for kind, text in found
        ]

    async def close(self) -> None:
        pass


class WebhookSink:
    """Statuses of rules, or single results (``settings.tell``), to one URL.

    Arguments: ``name`` of the sink; ``root`` is in the events' source; ``resolve`` another way to resolve names.
    Raises ConfigError: a host that is never allowed, a secret or an authority that cannot be read.
    """

    def __init__(
        self, name: str, settings: WebhookSettings, clock: Clock, root: str, resolve: Resolve | None = None
    ) -> None:
        self.name, self._settings, self._clock, self._root = name, settings, clock, root
        self.batch_max, self.interval_s, self.rate_max = settings.batch_max, settings.interval_s, settings.rate_max
        self._url = URL(settings.url)
        self._allowed = networks(settings.allow_networks)
        self._names = Names()
        self._resolve: Resolve = resolve or self._names.resolve
        self._event_of: Callable[[str, Any], Event] = events.of_status if settings.tell == "rules" else events.of_result
        self._session: aiohttp.ClientSession | None = None
        self._status_by = 0.0
        address = literal(self._url.raw_host or "")
        if refused := objection(address, self._allowed) if address else "":
            raise ConfigError(f"{name}: url: {refused}")
        try:
            events.secrets_of(settings.secret_file)
        except ConfigError as exc:
            raise ConfigError(f"{name}: {exc}") from exc
        self._tls = self._context() if self._url.scheme == "https" else None

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._settings.ca_file or None)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"{self.name}: ca_file {self._settings.ca_file}: {exc}") from exc

    async def start(self) -> None:
        """See Sink."""
        connector = aiohttp.TCPConnector(
            limit=CONNECTIONS_MAX,
            use_dns_cache=False,
            resolver=_Checked(self._resolve, self._allowed),
            ssl=self._tls or True,
        )
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )

    async def stop(self) -> None:
        """See Sink."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._names.close()

    async def deliver(self, items: Sequence[Any]) -> Sequence[Answer]:
        """See Sink. A batch that the receiver refuses is told in halves, so that one item cannot refuse the others.

        What was answered before the deadline stays answered.
        """
        answers: list[Answer] = []
        try:
            async with asyncio.timeout(self._settings.timeout_s) as deadline:
                self._status_by = (deadline.when() or 0.0) - BODY_S_MIN
                await self._halved([self._event_of(self._root, item) for item in items], answers)
        except TimeoutError:
            late = Retry(f"no answer within {self._settings.timeout_s:g} s")
            answers += [late] * (len(items) - len(answers))
        return answers

    async def _halved(self, told: list[Event], answers: list[Answer]) -> None:
        answer, status = await self._post(told)
        if status not in TOO_MUCH or len(told) == 1:
            answers += [answer] * len(told)
            return
        middle = len(told) // 2
        await self._halved(told[:middle], answers)
        await self._halved(told[middle:], answers)

    async def _post(self, told: Sequence[Event]) -> tuple[Answer, int]:
        """Make one request; return the answer and the HTTP status, 0 without one."""
        if self._session is None:
            return Retry("stopped"), 0
        try:
            headers, body = self._signed(told)
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                shown = await self._drained(response)
                return self._answer(response, shown), response.status
        except ConfigError as exc:
            return Retry(str(exc)), 0
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            return Retry(printable(f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__)), 0

    def _signed(self, told: Sequence[Event]) -> tuple[dict[str, str], bytes]:
        body, key, at = events.body_of(told), events.key_of(told), int(self._clock.time())
        headers = {
            "Content-Type": events.ONE if len(told) == 1 else events.BATCH,
            "User-Agent": f"fieldpost/{VERSION}",
            "Idempotency-Key": key,
            "webhook-id": key,
            "webhook-timestamp": str(at),
        }
        if secrets := events.secrets_of(self._settings.secret_file):
            headers["webhook-signature"] = events.signature(secrets, key, at, body)
        return headers, body

    async def _drained(self, response: aiohttp.ClientResponse) -> str:
        """Read the body as far as it is short and comes at once; return its beginning, for people."""
        most, size, first = self._settings.answer_bytes_max, 0, b""
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError, ValueError):
            async with asyncio.timeout_at(min(asyncio.get_running_loop().time() + BODY_S_MAX, self._status_by)):
                async for part in response.content.iter_any():
                    size += len(part)
                    first += part[: SHOWN_CHARS_MAX - len(first)]
                    if size > most:
                        break
                else:
                    return first.decode("utf-8", "replace")
        response.close()
        return first.decode("utf-8", "replace")

    def _answer(self, response: aiohttp.ClientResponse, shown: str) -> Answer:
        status = response.status
        if 200 <= status < 300:
            return Delivered()
        text = printable(f"answered {status} {response.reason or ''} {shown}").strip()
        if 400 <= status < 500 and status not in (408, 429):
            return Refused(text)
        if 300 <= status < 400:
            text += ": redirects are not followed, set the new url"
        return Retry(text, retry_after(response.headers.get("Retry-After", ""), self._clock.time()))
