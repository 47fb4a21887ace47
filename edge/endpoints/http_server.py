"""An HTTP listener for sources: takes requests within its limits, and writes what the execution answers (flow F3).

What a request means is for its owner (``rest``, ``servicebus``): a function from the request to an Asked or a Reply.
The answer is written when the execution has ended and its result is on disk; in asynchronous mode when the input is.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.checks import METHODS
from common.clock import Clock
from common.errors import ConfigError
from common.models import DROPPED
from edge.endpoints.base import OnArrival
from edge.endpoints.http_request import Request, read_request
from edge.endpoints.idempotency import KEY_CHARS_MAX, Keys, digest_of, msgid_of
from edge.endpoints.replies import Reply, accepted, problem, reply_of
from edge.messages import HOPS_MAX, Answer, Arrival, Ending, FlowMessage
from edge.settings import ListenerSettings

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.web_request import BaseRequest

    from edge.endpoints.connections import Connections

log = logging.getLogger(__name__)


ANSWER_MARGIN_S = 5.0  # over the rule's timeout, until a request is answered 503 without its result on disk
STOP_S = 2.0  # for answers that are being written at a stop


class Asked(NamedTuple):
    """What a request asks for: the message, who takes it, the scope of its idempotency key, how long it may take."""

    message: FlowMessage
    consumers: Sequence[Any]
    source: str
    scope: str
    asynchronous: bool
    timeout_s: float


Route = Callable[[Request], Asked | Reply]


class HttpPoints:
    """The hook points of an HTTP server: nothing is mounted. ``edge.rules.httpchains`` runs chains there."""

    async def before(self, request: Request) -> Request | Reply | None:
        """``pre_req``: the request as it goes on, an answer instead, or None to close the connection."""
        return request

    async def choose(self, request: Request, route: Route) -> Asked | Reply | None:
        """``main``: what the request asks for; ``route`` says what its path means."""
        return route(request)

    async def after(self, request: Request, reply: Reply) -> Reply:
        """``post_resp``: the answer as it is written."""
        return reply


class HttpListener:
    """One listener.

    Arguments: ``name`` for messages; ``route`` says what a request means; ``on_arrival`` takes the messages.
    """

    def __init__(
        self, name: str, settings: ListenerSettings, route: Route, on_arrival: OnArrival, clock: Clock
    ) -> None:
        self._name, self._settings, self._route, self._on_arrival = name, settings, route, on_arrival
        self._clock = clock
        self._keys = Keys(settings.keys_max, settings.keys_s, clock)
        self._runner: web.ServerRunner | None = None
        self._connections: Connections | None = None
        self._token = b""
        self._waiting = 0
        self._asking: set[_Waiting] = set()
        self._paused = False
        self.points = HttpPoints()
        self.port = 0
        self._counts = dict.fromkeys(("requests", "refused", "overloaded", "unauthorised", "closed"), 0)

    async def start(self) -> None:
        """Listen. Raises ConfigError for an address that cannot be had, or one that is open without protection."""
        from aiohttp import web

        from edge.endpoints.connections import Connections

        if self._runner is not None:
            return
        settings = self._settings
        context = self._protection()
        connections = Connections(self._handle, settings)
        runner = web.ServerRunner(connections, shutdown_timeout=STOP_S)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, ssl_context=context, backlog=512)
            await site.start()
        except OSError as exc:
            await runner.cleanup()
            where = f"{settings.host}:{settings.port}"
            raise ConfigError(f"edge.{self._name}: cannot listen on {where}: {exc.strerror or exc}") from exc
        self._runner, self._connections = runner, connections
        self.port = runner.addresses[0][1]
        log.info("%s sources listen on %s:%d", self._name, settings.host, self.port)

    def pause(self) -> None:
        """Answer 503 from now on."""
        self._paused = True

    async def stop(self) -> None:
        """Answer 503 to who still waits, let answers be written, close everything."""
        for waiting in self._asking:
            waiting.give_up()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name."""
        keys = {"repeated": self._keys.repeated, "keys_forgotten": self._keys.forgotten}
        now = self._connections
        connections = {
            "connections": now.open if now else 0,
            "connections_refused": now.refused if now else 0,
            "connections_slow": now.slow if now else 0,
            "malformed": now.requests_count - self._counts["requests"] if now else 0,
        }
        return {**self._counts, **connections, **keys, "waiting": self._waiting, "port": self.port}

    # -- one request ---------------------------------------------------------------------------------------------------

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        self._counts["requests"] += 1
        try:
            reply = await self._reply(request)
        except Exception:  # a fault of ours is an answer, too, and never a traceback on the wire
            log.exception("%s: request failed", self._name)
            reply = problem(500, "internal", "see the agent's log")
        if reply is None:
            self._counts["closed"] += 1
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=403)
        self._counts["refused"] += reply.status >= 400
        response = web.Response(status=reply.status, body=reply.body)
        response.headers.popall("Content-Type", None)
        response.headers["Server"] = "fieldpost"  # not which version of what has which holes
        for name, value in reply.headers:
            response.headers.add(name, value)
        return response

    async def _reply(self, request: BaseRequest) -> Reply | None:
        if self._token and not _authorised(request.headers.get("Authorization", ""), self._token):
            self._counts["unauthorised"] += 1
            return problem(401, "unauthorised", "a bearer token is needed")
        if request.method not in METHODS:
            return problem(405, "method", f"{request.method[:20]} is not taken here", allow=", ".join(METHODS))
        if self._paused or self._waiting >= self._settings.requests_max:
            self._counts["overloaded"] += 1
            return problem(503, "stopping" if self._paused else "requests_max", "try again later")
        self._waiting += 1
        try:
            read = await read_request(request, self._settings)
            if isinstance(read, Reply):
                return read
            if self._paused:  # while the body came
                return problem(503, "stopping", "try again later")
            return await self._answer(read)
        finally:
            self._waiting -= 1

    async def _answer(self, request: Request) -> Reply | None:
        points = self.points  # of one version for the whole request, whatever a reload brings meanwhile
        before = await points.before(request)
        request = before if isinstance(before, Request) else request
        asked = await points.choose(request, self._route) if isinstance(before, Request) else before
        reply = await self._execute(asked, request) if isinstance(asked, Asked) else asked
        return await points.after(request, reply) if reply is not None else None

    async def _execute(self, asked: Asked, request: Request) -> Reply:
        key = request.headers.get("idempotency-key", "")
        if not key:
            return await self._ask(asked)
        if len(key) > KEY_CHARS_MAX:
            return problem(400, "idempotency_key", f"the key has more than {KEY_CHARS_MAX} characters")
        try:
            earlier = self._keys.begin(
                asked.scope, key, digest_of(request.method, request.path, request.query, request.body)
            )
        except ValueError as exc:
            return problem(422, "idempotency_key", str(exc))
        if earlier is not None:
            return await asyncio.shield(earlier)
        asked.message.msgid = msgid_of(asked.scope, key)
        reply = problem(503, "stopping", "try again later")
        try:
            reply = await self._ask(asked)
        finally:
            self._keys.end(asked.scope, key, reply)
        return reply

    async def _ask(self, asked: Asked) -> Reply:
        """Make the execution, and wait until its answer may be given."""
        message = asked.message
        if message.hops > HOPS_MAX:
            return problem(508, "loop", f"the request passed {message.hops} rules", msgid=message.msgid)
        waiting = _Waiting(message, asked.asynchronous)
        arrival = Arrival(
            message, False, waiting.settle, waiting.answered, source=asked.source, journal_now=asked.asynchronous
        )
        self._asking.add(waiting)
        try:
            self._on_arrival(arrival, asked.consumers)
            async with asyncio.timeout(asked.timeout_s + ANSWER_MARGIN_S):
                return await waiting.reply
        except TimeoutError:
            detail = "the result could not be put on disk in time; the request may have been executed"
            return problem(503, "not_durable", detail, msgid=waiting.msgid)
        finally:
            self._asking.discard(waiting)

    # -- protection ----------------------------------------------------------------------------------------------------

    def _protection(self) -> ssl.SSLContext | None:
        settings, name = self._settings, f"edge.{self._name}"
        if settings.token_file:
            try:
                self._token = Path(settings.token_file).read_bytes().strip()
            except OSError as exc:
                raise ConfigError(f"{name}.token_file: cannot read {settings.token_file}: {exc.strerror}") from exc
            if not self._token:
                raise ConfigError(f"{name}.token_file: {settings.token_file} is empty")
        if not settings.certificate_file:
            if not _is_loopback(settings.host):
                raise ConfigError(
                    f"{name}.host {settings.host!r} is not loopback: that needs {name}.certificate_file and "
                    f"{name}.token_file"
                )
            return None
        if not _is_loopback(settings.host) and not self._token:
            raise ConfigError(f"{name}.host {settings.host!r} is not loopback: that needs {name}.token_file")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(settings.certificate_file, settings.key_file or None)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"{name}.certificate_file: {settings.certificate_file}: {exc}") from exc
        return context


class _Waiting:
    """A request that waits: for the ending and for the disk, or in asynchronous mode for the disk alone."""

    def __init__(self, message: FlowMessage, asynchronous: bool) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.msgid, self._asynchronous = message.msgid, asynchronous  # hooks may change the message
        self._ended: Reply | None = None
        self._dropped = self._durable = False

    def answered(self, ending: Ending, answer: Answer | None) -> None:
        """The execution has ended."""
        self._ended, self._dropped = reply_of(self.msgid, ending, answer), ending.outcome == DROPPED
        self._look()

    def settle(self) -> None:
        """Its result, or in asynchronous mode its input, is on disk."""
        self._durable = True
        self._look()

    def _look(self) -> None:
        if not self._durable or self.reply.done():
            return
        if self._asynchronous and not self._dropped:
            self.reply.set_result(accepted(self.msgid))
        elif self._ended is not None:
            self.reply.set_result(self._ended)

    def give_up(self) -> None:
        """The node stops before the end."""
        if not self.reply.done():
            detail = "try again later; the request may have been executed"
            self.reply.set_result(problem(503, "stopping", detail, msgid=self.msgid))


def _authorised(header: str, token: bytes) -> bool:
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(errors="replace"), token)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
