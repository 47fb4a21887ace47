"""The calls to the API server: get, list, watch, create, replace, patch; each with a deadline for all of it.

A client of this kind that has no total deadline waits for ever on a server that hangs (reliability R2), so there is no
call without one. Answers are bounded, redirects are not followed, nothing is tried again here but a sign-in that
expired: when to try again is for whoever knows what the call was for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from common.clock import Clock
from common.errors import ConfigError, KubeError
from common.kube.access import Access, Token
from common.metrics import Counters

TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024  # of one answer; a page of a list is the largest
EVENT_BYTES_MAX = 8 * 1024 * 1024  # of one event of a watch; etcd takes objects of 1.5 MiB
CONNECTIONS_MAX = 16
WATCH_GRACE_S = 10.0  # after the time at which the server was told to end a watch
RETRY_AFTER_S_MAX = 300.0
TEXT_CHARS_MAX = 500  # of an error's text
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"

Object = dict[str, Any]


class KubeClient:
    """A pool of connections to one API server. Belongs to one event loop; ``close`` when done.

    Arguments: ``access``; ``clock``; ``timeout_s`` seconds for a whole call, connecting and reading included.
    """

    def __init__(self, access: Access, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._access, self._timeout_s = access, timeout_s
        self._token = Token(access, clock.monotonic)
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._counters = Counters("requests", "errors", "timeouts", "unreachable", "throttled", "conflicts")

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return self._access.server

    async def close(self) -> None:
        """Let go of all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return dict(self._counters)

    async def get(self, path: str, **query: str) -> Object:
        """Return an object or a page of a list. Raises KubeError."""
        return await self._call("GET", path, query)

    async def create(self, path: str, value: Object) -> Object:
        """Create an object in the collection ``path`` and return it as it is now. Raises KubeError."""
        return await self._call("POST", path, {}, value, JSON)

    async def replace(self, path: str, value: Object) -> Object:
        """Put a whole object, ``metadata.resourceVersion`` as its precondition. Raises KubeError."""
        return await self._call("PUT", path, {}, value, JSON)

    async def patch(self, path: str, value: Object) -> Object:
        """Merge ``value`` into an object (RFC 7386) and return it as it is now.

        ``metadata.resourceVersion`` in it is a precondition: KubeError 409 when the object has changed since.
        """
        return await self._call("PATCH", path, {}, value, MERGE_PATCH)

    async def watch(
        self, path: str, version: str, seconds: float, opened: Callable[[], None] = lambda: None
    ) -> AsyncIterator[Object]:
        """Yield the events after ``version``, bookmarks too, until the server ends it, after ``seconds`` at the latest.

        ``opened`` is called when the server has begun to answer, which may be long before the first event. An event of
        type ERROR is raised as the KubeError that it holds: 410 when the version is too old.
        """
        query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        query["timeoutSeconds"] = str(max(1, int(seconds)))
        limits = aiohttp.ClientTimeout(total=seconds + WATCH_GRACE_S, sock_connect=self._timeout_s)
        self._counters["requests"] += 1
        try:
            response = await self._send("GET", path, query, None, "", limits)
            async with response:
                if response.status != 200:
                    raise _error(response, await self._body(response))
                opened()
                async for line in _lines(response):
                    event = _decoded(line)
                    if event.get("type") == "ERROR":
                        raise _status_error(event.get("object") or {}, 0)
                    yield event
        except (aiohttp.ClientError, OSError) as exc:
            raise self._failed(exc) from exc
        except KubeError:
            self._counters["errors"] += 1
            raise

    async def _call(
        self, method: str, path: str, query: Mapping[str, str], value: Object | None = None, kind: str = ""
    ) -> Object:
        body = None if value is None else msgspec.json.encode(value)
        limits = aiohttp.ClientTimeout(total=self._timeout_s)
        self._counters["requests"] += 1
        try:
            for last in (False, True):
                response = await self._send(method, path, query, body, kind, limits)
                async with response:
                    answer = await self._body(response)
                    if 200 <= response.status < 300:
                        return _decoded(answer)
                    if response.status == 401 and not last and self._token.renew():
                        continue
                    raise _error(response, answer)
        except (aiohttp.ClientError, OSError) as exc:
            raise self._failed(exc) from exc
        except KubeError as exc:
            self._counters["errors"] += 1
            self._counters["throttled"] += exc.code == 429
            self._counters["conflicts"] += exc.code == 409
            raise
        raise AssertionError("the last try returns or raises")

    async def _send(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None, kind: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:  # fmt: skip
        headers = {"Accept": JSON, "User-Agent": "fieldpost"}
        if kind:
            headers["Content-Type"] = kind
        try:
            if token := self._token.text():
                headers["Authorization"] = f"Bearer {token}"
            session = self._session or await self._open()
        except ConfigError as exc:
            raise KubeError(str(exc)) from exc
        return await session.request(
            method, self._access.server + path, params=query, data=body, headers=headers,
            timeout=limits, allow_redirects=False, server_hostname=self._access.tls_name or None,
        )  # fmt: skip

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                context = await asyncio.to_thread(self._access.ssl_context)
                connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, ssl=context if context is not None else True)
                self._session = aiohttp.ClientSession(connector=connector, auto_decompress=True)
            return self._session

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > ANSWER_BYTES_MAX:
                response.close()
                raise KubeError(f"{self.server} answered with more than {ANSWER_BYTES_MAX} bytes")
            parts.append(part)
        return b"".join(parts)

    def _failed(self, exc: Exception) -> KubeError:
        if isinstance(exc, TimeoutError):
            self._counters["timeouts"] += 1
            return KubeError(f"{self.server} did not answer in time")
        self._counters["unreachable"] += 1
        return KubeError(f"{self.server}: {exc or type(exc).__name__}"[:TEXT_CHARS_MAX])


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of a body as they come. aiohttp's own reader of lines refuses those above 128 KiB."""
    rest = b""
    async for part in response.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > EVENT_BYTES_MAX:
            raise KubeError(f"an event of a watch has more than {EVENT_BYTES_MAX} bytes")
    if rest.strip():
        yield rest


def _decoded(body: bytes) -> Object:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise KubeError(f"the answer is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise KubeError("the answer is no object")
    return value


def _error(response: aiohttp.ClientResponse, body: bytes) -> KubeError:
    try:
        status = _decoded(body)
    except KubeError:
        status = {"message": body[:TEXT_CHARS_MAX].decode("utf-8", "replace").strip(), "code": response.status}
    told = response.headers.get("Retry-After", "")
    after_s = float(told) if told.isascii() and told.isdigit() and len(told) < 6 else 0.0
    return _status_error({**status, "code": response.status}, after_s)


def _status_error(status: Object, after_s: float) -> KubeError:
    """A KubeError of the API's Status object; everything in it may be missing."""
    details = status.get("details")
    details = details if isinstance(details, dict) else {}
    code = status.get("code")
    code = code if isinstance(code, int) else 500
    seconds = details.get("retryAfterSeconds")
    after_s = after_s or (float(seconds) if isinstance(seconds, int) and seconds > 0 else 0.0)
    text = str(status.get("message") or f"the API server answered {code}")[:TEXT_CHARS_MAX]
    return KubeError(
        text, code=code, reason=str(status.get("reason") or ""), after_s=min(after_s, RETRY_AFTER_S_MAX),
        named=bool(details.get("name")),
    )  # fmt: skip
