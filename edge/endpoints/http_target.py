"""HTTP as a target: pooled connections for each rule, the answer's real status and headers back (flow F3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from common.clock import Clock
from common.errors import ConfigError, TemplateError
from common.templates import UrlTemplate
from edge.endpoints.base import Rendering
from edge.endpoints.replies import HOP_BY_HOP
from edge.messages import Answer, Delivered, Delivery, FlowMessage, Rejected, Retry
from edge.settings import HttpClientSettings

if TYPE_CHECKING:
    import ssl

    import aiohttp

log = logging.getLogger(__name__)

RETRY_AFTER_S_MAX = 60.0  # of what a target may ask for
_OWN_HEADERS = HOP_BY_HOP | {"content-type"}
_UNLESS_PASSED = (  # else aiohttp says gzip, which who waits for the answer may not take, and its version
    ("accept-encoding", "identity"),
    ("user-agent", "fieldpost"),
)
BODYLESS = ("GET", "HEAD", "DELETE", "OPTIONS")


class HttpClient:
    """The connections of a node to HTTP targets: keep-alive, TLS verified, no proxy, no redirects, no cookies, and no
    request sent twice but by a rule's ``retry``. Raises ConfigError for a ``ca_file`` that cannot be used.

    Each rule has its own, so that one whose target hangs takes none away from others. aiohttp is imported when the
    first request is made, so that a node without HTTP targets starts light.
    """

    def __init__(self, settings: HttpClientSettings, clock: Clock) -> None:
        self.settings, self.clock = settings, clock
        self._ssl = _context(settings.ca_file) if settings.ca_file else True
        self._sessions: set[aiohttp.ClientSession] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.requests = self.unreachable = self.timeouts = 0

    def open(self, socket: str) -> aiohttp.ClientSession:
        """Connections over TCP, or to one unix socket."""
        import aiohttp

        most = self.settings.connections_per_rule_max
        connector: aiohttp.BaseConnector
        if socket:
            connector = aiohttp.UnixConnector(path=socket, limit=most)
        else:
            connector = aiohttp.TCPConnector(limit=most, ssl=self._ssl)
        session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            middlewares=(_once,),
        )
        self._sessions.add(session)
        return session

    def release(self, session: aiohttp.ClientSession) -> None:
        """Close the connections of a rule that is gone."""
        self._sessions.discard(session)
        task = asyncio.get_running_loop().create_task(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all connections."""
        for session in list(self._sessions):
            self.release(session)
        await asyncio.gather(*self._closing)

    def statistics(self) -> dict[str, int]:
        """Counters by name."""
        return {"requests": self.requests, "unreachable": self.unreachable, "timeouts": self.timeouts}


class HttpTarget:
    """One rule's HTTP target.

    Arguments: ``url`` is a template; ``socket`` a unix socket to connect to instead of the URL's host; ``resource`` the
    rule's ``targetResource``.
    """

    ready = True

    def __init__(
        self, client: HttpClient, url: str, resource: Mapping[str, str], rendering: Rendering, socket: str = ""
    ) -> None:
        self._client, self._url, self._socket = client, UrlTemplate(url), socket
        self._method = resource.get("method", "").strip().upper()
        self._content_type = resource.get("content_type", "")
        self._passed = [name.strip().lower() for name in resource.get("headers", "").split(",") if name.strip()]
        self._names = {"node": rendering.node, "namespace": rendering.namespace, "rule": rendering.rule}
        self._source = f"{rendering.node}/{rendering.namespace}/{rendering.rule}"
        self._timeout_s = rendering.timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def deliver(self, message: FlowMessage, done: Callable[[Delivery], None]) -> None:
        """Request. Delivered is a 2xx; network errors, 429 and 5xx may be tried again, other answers are final."""
        try:
            url = self._url.render(message.key, self._names, message.field, path=bool(message.method))
        except TemplateError as exc:
            return done(Rejected("target_url", exc.detail))
        task = asyncio.get_running_loop().create_task(self._request(url, message, done))
        self._tasks.add(task)  # the rule's bound of running executions bounds these
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Nothing more is wanted of what still runs."""
        for task in self._tasks:
            task.cancel()
        if self._session is not None:
            self._client.release(self._session)
            self._session = None

    async def _request(self, url: str, message: FlowMessage, done: Callable[[Delivery], None]) -> None:
        import aiohttp
        from yarl import URL

        self._client.requests += 1
        delivery: Delivery
        method = self._method or message.method or "POST"
        try:
            self._session = session = self._session or self._client.open(self._socket)
            async with session.request(
                method,
                URL(url, encoded=True),
                data=None if method in BODYLESS else message.body(),
                headers=self._headers(message),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            ) as response:
                if not 200 <= response.status <= 599:
                    raise ValueError(f"the target answered with the status {response.status}")
                body = await self._body(response)
                delivery = _verdict(response, body, self._client.settings.answer_bytes_max, self._client.clock.time())
        except TimeoutError:
            self._client.timeouts += 1
            delivery = Retry("target_timeout", f"the target did not answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            self._client.unreachable += 1
            cause = exc.__cause__ if type(exc) is aiohttp.ClientConnectionError else None
            delivery = Retry("target_unreachable", _words(cause or exc))
        except Exception as exc:  # a hook or a chain left in the message what no request can be made of
            log.exception("%s, message %s: no request can be made", self._source, message.msgid)
            delivery = Rejected("target_fault", f"{type(exc).__name__}: {exc}")
        done(delivery)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The answer's body; None when it is larger than allowed."""
        most, parts, size = self._client.settings.answer_bytes_max, [], 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > most:
                response.close()
                return None
            parts.append(part)
        return b"".join(parts)

    def _headers(self, message: FlowMessage) -> list[tuple[str, str]]:
        """CloudEvents in binary mode, the hop count, the trace, and what the rule lets pass (F3)."""
        from common.models import rfc3339

        headers = [
            ("ce-specversion", "1.0"),
            ("ce-type", "fieldpost.message"),
            ("ce-id", message.msgid),
            ("ce-source", _plain(self._source)),
            ("ce-subject", _plain(message.key)),
            ("ce-time", rfc3339(message.time_ms / 1000)),
            ("fieldpost-hops", str(message.hops + 1)),
            ("fieldpost-rule", _plain(f"{self._names['namespace']}/{self._names['rule']}")),
        ]
        kind = self._content_type or message.headers.get("content-type", "")
        if not kind:
            kind = "application/octet-stream" if isinstance(message.payload, bytes | str) else "application/json"
        headers.append(("content-type", _plain(kind)))
        asked = dict.fromkeys((*self._passed, "traceparent", "tracestate"))  # each once
        if message.method and isinstance(message.payload, bytes):  # as it came: still encoded as its headers say
            asked["content-encoding"] = None
        passed = [name for name in asked if name in message.headers and not name.startswith(("ce-", "fieldpost-"))]
        headers += [(name, _plain(message.headers[name])) for name in passed if name not in _OWN_HEADERS]
        return headers + [(name, value) for name, value in _UNLESS_PASSED if name not in passed]


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET, PUT or DELETE twice on its own (github.com/aio-libs/aiohttp/issues/10790): it
    does so after these two errors, and only a rule's ``retry`` may.
    """
    import aiohttp

    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:  # nothing was sent, and aiohttp does not try again
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise aiohttp.ClientConnectionError(str(exc)) from exc


def _context(ca_file: str) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"edge.http.ca_file: {ca_file}: {exc}") from exc
    return context


def _words(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


def _plain(text: str) -> str:
    """A header's value: visible ASCII, everything else percent-encoded, so that nothing can begin another header."""
    from urllib.parse import quote

    return quote(text, safe=" !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _verdict(response: aiohttp.ClientResponse, body: bytes | None, most: int, now: float) -> Delivery:
    status = response.status
    if body is None:
        return Rejected("target_answer_too_large", f"the target answered {status} with more than {most} bytes")
    headers = tuple((k.lower(), v) for k, v in response.headers.items() if k.lower() not in HOP_BY_HOP)
    answer = Answer(status, headers, body)
    if 200 <= status < 300:
        return Delivered(answer)
    reason, text = f"target_status_{status}", f"the target answered {status} {response.reason or ''}".rstrip()
    if status == 429 or status >= 500:
        from common.retryafter import http_date, retry_after

        theirs = http_date(response.headers.get("Date", ""), now)  # a date of theirs is meant by their clock
        after = min(retry_after(response.headers.get("Retry-After", ""), theirs), RETRY_AFTER_S_MAX)
        return Retry(reason, text, after, answer)
    return Rejected(reason, text, answer)
