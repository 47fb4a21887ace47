"""Asking a controller through its HTTP API, for the command line on another host (architecture decision 9a).

A plain client of the standard library: a command asks once and ends, and starts faster without more. Pages are read to
their end, so that an answer is the same as through the control socket.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from common.api import PAGE_ROWS_MAX, Kind, Route, request_of, route_of
from common.clock import SystemClock
from common.errors import WRONG_USE, ControlError
from common.messaging.endpoint import is_loopback

TIMEOUT_S = 60.0  # without a byte; a stream sends a comment at least every cloud.api.heartbeat_s
ANSWER_BYTES_MAX = 64 * 1024 * 1024
LINE_BYTES_MAX = 1 << 20
RETRIES = 5  # in a row, of a stream that broke off
RETRY_S = 1.0
DATE_HALF_S = 0.5  # a Date is cut to whole seconds: on average it is so much behind


class Server(NamedTuple):
    """Where a controller's API is, and the file that holds the token for it; empty: none is sent."""

    url: str
    token_file: str = ""

    def call(self, operation: str, args: dict[str, Any]) -> Any:
        """Ask for an operation and return its answer. Raises ControlError: nobody answers, or it was refused."""
        route = _route(operation)
        if route.kind is not Kind.page:
            return self._once(route, args)
        wanted, rows, cursor = args.pop("limit", None), list[Any](), None
        while wanted is None or len(rows) < wanted:
            limit = PAGE_ROWS_MAX if wanted is None else min(wanted - len(rows), PAGE_ROWS_MAX)
            found = self._once(route, {**args, "limit": limit, "cursor": cursor})
            rows += found["items"]
            cursor = found["next"]
            if cursor is None:
                break
        return rows

    def stream(self, operation: str, args: dict[str, Any]) -> Iterator[Any]:
        """Yield the rows of a stream. One that breaks off goes on after the last row. Raises ControlError."""
        route, last, tries = _route(operation), "", 0
        while True:
            try:
                for number, row in self._events(route, args, last):
                    last, tries = number or last, 0
                    yield row
            except ControlError as exc:
                if exc.kind != "unreachable" or not last:
                    raise
                tries += 1
                if tries > RETRIES:
                    raise
            time.sleep(RETRY_S)

    def ready(self) -> Any:
        """What /readyz says. Raises ControlError when nobody answers."""
        with _Connection(self) as connection:
            return msgspec.json.decode(connection.read(connection.send("GET", "/readyz", b"", {})))

    def clock_skew(self) -> float:
        """The controller's clock less ours, in seconds, as well as a Date of whole seconds and the way there allow."""
        with _Connection(self) as connection:
            before = SystemClock().time()
            answer = connection.send("GET", "/healthz", b"", {})
            after = SystemClock().time()
            connection.read(answer)
        try:
            said = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
        except ValueError:
            raise ControlError(f"{self.url} sends no Date: is it a fieldpost controller?", kind="unreachable") from None
        return said + DATE_HALF_S - (before + after) / 2

    def _once(self, route: Route, args: dict[str, Any]) -> Any:
        with _Connection(self) as connection:
            answer = connection.ask(route, args, {})
            body = connection.read(answer)
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as exc:
            raise ControlError(f"{self.url}: the answer is not JSON: {exc}") from exc

    def _events(self, route: Route, args: dict[str, Any], last: str) -> Iterator[tuple[str, Any]]:
        with _Connection(self) as connection:
            answer = connection.ask(route, args, {"Last-Event-ID": last} if last else {})
            number = ""
            for line in connection.lines(answer):
                name, _, value = line.partition(":")
                if name == "id":
                    number = value.strip()
                elif name == "data":
                    yield number, msgspec.json.decode(value)


class _Connection:
    """One connection: a request, and its answer with every trouble as a ControlError."""

    def __init__(self, server: Server) -> None:
        self._server = server
        if "@" in server.url:
            raise _wrong("server: the URL holds a user or password; use --token-file")
        try:
            parts = urlsplit(server.url)
            port = parts.port
        except ValueError as exc:
            raise _wrong(f"server {server.url!r}: {exc}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise _wrong(f"server {server.url!r}: expected http://HOST:PORT or https://HOST:PORT")
        if parts.scheme == "http" and server.token_file and not is_loopback(parts.hostname):
            raise _wrong(f"server {server.url}: a token is never sent without TLS to another host; use https")
        self._http = http.client.HTTPConnection(parts.hostname, port, timeout=TIMEOUT_S)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._http = http.client.HTTPSConnection(parts.hostname, port, timeout=TIMEOUT_S, context=context)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def ask(self, route: Route, args: dict[str, Any], headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send a request and return the answer's head. Raises ControlError for any answer but 200."""
        asking = request_of(route, args)
        answer = self.send(asking.method, asking.target, asking.body, headers)
        if answer.status != http.HTTPStatus.OK:
            raise _refusal(self._server, answer.status, self.read(answer))
        return answer

    def send(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send a request and return the answer's head, whatever its status."""
        if body:
            headers = {**headers, "Content-Type": "application/json"}
        if self._server.token_file:
            headers = {**headers, "Authorization": f"Bearer {_token(self._server.token_file)}"}
        try:
            self._http.request(method, target, body or None, headers)
            return self._http.getresponse()
        except (OSError, http.client.HTTPException) as exc:
            raise self._trouble(exc) from exc

    def read(self, answer: http.client.HTTPResponse) -> bytes:
        """Read the rest of an answer."""
        try:
            body = answer.read(ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as exc:
            raise self._trouble(exc) from exc
        if len(body) > ANSWER_BYTES_MAX:
            raise ControlError(f"{self._server.url}: the answer is larger than {ANSWER_BYTES_MAX} bytes")
        return body

    def lines(self, answer: http.client.HTTPResponse) -> Iterator[str]:
        """Yield the lines of a stream until it ends."""
        while True:
            try:
                line = answer.readline(LINE_BYTES_MAX)
            except (OSError, http.client.HTTPException) as exc:
                raise self._trouble(exc) from exc
            if not line:
                raise ControlError(f"{self._server.url}: the stream ended", kind="unreachable")
            yield line.decode(errors="replace").rstrip("\r\n")

    def _trouble(self, exc: Exception) -> ControlError:
        url = self._server.url
        if isinstance(exc, ssl.SSLCertVerificationError):
            told = f"{exc.verify_message}; SSL_CERT_FILE names the file of the authority that signed it"
            return ControlError(f"{url}: its certificate is not trusted: {told}", kind="unreachable")
        if isinstance(exc, ssl.SSLError):
            return ControlError(f"{url}: no TLS there: {exc.reason or exc}", kind="unreachable")
        said = f"no answer within {TIMEOUT_S:g} s" if isinstance(exc, TimeoutError) else _words(exc)
        return ControlError(f"no cloud controller answers at {url}: {said}", kind="unreachable")


def _wrong(text: str) -> ControlError:
    return ControlError(text, kind=WRONG_USE)


def _words(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def _route(operation: str) -> Route:
    route = route_of(operation)
    if route is None:
        raise ControlError(f"{operation} is not part of the API: ask on the controller's own host")
    return route


def _token(file: str) -> str:
    try:
        words = Path(file).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as exc:
        raise _wrong(f"token file {file}: {_words(exc)}") from exc
    if len(words) != 1:
        raise _wrong(f"token file {file}: expected one token and nothing else")
    return words[0]


def _refusal(server: Server, status: int, body: bytes) -> ControlError:
    """What an answer that is no 200 says: the detail of its problem, and for who may not ask also what to do."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return ControlError(f"{server.url} answers {status}: is it a fieldpost controller?", kind="unreachable")
    detail = str(problem.get("detail") or problem.get("title") or status)
    if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return ControlError(f"{detail}: {_token_advice(server, status)}", kind="denied")
    return ControlError(detail, kind=str(problem.get("type", "")).rpartition(":")[2])


def _token_advice(server: Server, status: int) -> str:
    if not server.token_file:
        return "name the file that holds one with --token-file or FIELDPOST_TOKEN_FILE"
    if status == http.HTTPStatus.FORBIDDEN:
        return f"the token in {server.token_file} is a viewer's, use an operator's"
    return f"the one in {server.token_file} is not among those of cloud.api.token_file there"


def server_of(url: str, token_file: str) -> Server:
    """Return the server of these options; the file of the token is of this user, so ``~`` means its home."""
    return Server(url.rstrip("/"), os.path.expanduser(token_file))
