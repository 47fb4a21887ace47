"""What came with an HTTP request, read within its limits: the request, and the message in it (flow F3)."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple

from common.clock import Clock
from common.message import new_id
from edge.endpoints.replies import Reply, problem
from edge.messages import FlowMessage, hops_of
from edge.settings import ListenerSettings

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


class Request(NamedTuple):
    """A request that was read. ``path`` is still percent-encoded; header names are in lower case. ``remote`` is the
    address that it came from.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    remote: str = ""

    @property
    def wants_no_answer(self) -> bool:
        """The caller prefers 202 and the message's id over the answer (RFC 7240)."""
        return "respond-async" in self.headers.get("prefer", "").replace(" ", "").lower().split(",")


async def read_request(request: BaseRequest, settings: ListenerSettings) -> Request | Reply:
    """Read a request within its limits; a Reply when it is none, is too large, or does not come in time."""
    from aiohttp import web

    parts, size, most = [], 0, settings.body_bytes_max
    if request.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        return problem(501, "transfer_encoding", "of the transfer encodings only chunked is understood")
    try:
        async with asyncio.timeout(settings.body_s_max):
            if (request.content_length or 0) > most:
                return problem(413, "payload_too_large", f"the body has more than {most} bytes")
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async for part in request.content.iter_any():
                size += len(part)
                if size > most:
                    return problem(413, "payload_too_large", f"the body has more than {most} bytes")
                parts.append(part)
    except TimeoutError:
        return problem(408, "body_timeout", f"the body did not come within {settings.body_s_max:g} s")
    except (ConnectionError, web.RequestPayloadError):  # the client has gone, or what it sends is no body
        return problem(400, "body", "the body did not come whole")
    path, _, query = _origin_form(request.raw_path).partition("?")
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        lower, value = name.lower(), _text(value)
        headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
    return Request(request.method, path, query, headers, b"".join(parts), request.remote or "")


def message_of(request: Request, key: str, params: dict[str, str], clock: Clock) -> FlowMessage:
    """The message in a request."""
    hops = request.headers.get("fieldpost-hops", "").partition(",")[0]  # of several the first, which ours sets alone
    return FlowMessage(
        request.body,
        key,
        new_id(),
        request.headers,
        params,
        request.method,
        request.query,
        hops_of(hops),
        int(clock.time() * 1000),
    )


def _origin_form(target: str) -> str:
    """A request's target without scheme and authority, which a proxy's client sends (RFC 9112 3.2.2)."""
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        return target
    rest = target[absolute.end() :]
    return rest if rest.startswith("/") else f"/{rest}"


def _text(value: str) -> str:
    """A header's value; bytes that are no UTF-8, which came as lone surrogates, are replaced: no codec takes them."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
