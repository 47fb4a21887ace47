"""The message: header, route, content, wire-compatible with KubeEdge's beehive model (protocol P1)."""

from __future__ import annotations

import os
import time
from random import Random
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from common.resource import Resource

T = TypeVar("T")
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # what every codec and store can hold

# Operations (P1.3). Unknown ones pass through: these are names, not an enum at decode.
INSERT, DELETE, QUERY, UPDATE = "insert", "delete", "query", "update"
PATCH, UPLOAD, RESPONSE, ERROR = "patch", "upload", "response", "error"
OPERATIONS = (INSERT, DELETE, QUERY, UPDATE, PATCH, UPLOAD, RESPONSE, ERROR)

# Module and group names (P1.3), spelled as in KubeEdge.
CLOUDHUB, EDGECONTROLLER, DEVICECONTROLLER = "cloudhub", "edgecontroller", "devicecontroller"
SYNCCONTROLLER, DYNAMICCONTROLLER, CLOUDSTREAM = "synccontroller", "dynamiccontroller", "cloudStream"
ROUTER, USER_GROUP, RESOURCE_GROUP = "router", "user", "resource"
MODULES = (CLOUDHUB, EDGECONTROLLER, DEVICECONTROLLER, SYNCCONTROLLER, DYNAMICCONTROLLER, CLOUDSTREAM, ROUTER)


_random = Random()  # seeded by the system, once: to ask it for each id costs more than the rest of making one
os.register_at_fork(after_in_child=_random.seed)
_last_id = 0  # milliseconds and a counter of 12 bits, as one number


def new_id() -> str:
    """Return a new message id: a uuid7 (RFC 9562, with a counter of 12 bits behind the milliseconds) as text.

    Ids sort by time of creation within a thread, also when the clock steps back.
    """
    global _last_id
    stamp = now_ms() << 12
    _last_id = stamp = stamp if stamp > _last_id else _last_id + 1
    number = (stamp >> 12 << 16 | 0x7000 | stamp & 0xFFF) << 64 | 1 << 63 | _random.getrandbits(62)
    text = number.to_bytes(16, "big").hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def now_ms() -> int:
    """Return the wall clock in unix milliseconds: what a header's ``timestamp`` holds. Never used for order."""
    return time.time_ns() // 1_000_000


class MessageHeader(msgspec.Struct, omit_defaults=True, gc=False):
    """Who a message is: ids, creation time, version. ``timestamp`` is unix milliseconds.

    ``resourceversion`` of a reliable message is ``<epoch>.<sequence>`` (P5.2); ``low`` is the sender's lowest
    unconfirmed sequence, an additive field that KubeEdge does not have.
    """

    msg_id: str
    timestamp: Integer
    parent_msg_id: str = ""
    resourceversion: str = ""
    sync: bool = False
    type: str = ""
    low: Integer = 0


class MessageRoute(msgspec.Struct, omit_defaults=True, gc=False):
    """Where a message comes from and what it does to which resource. ``destination`` is not part of the topic."""

    source: str = ""
    destination: str = ""
    group: str = ""
    operation: str = ""
    resource: str = ""


class Message(msgspec.Struct, Generic[T]):
    """A message as in KubeEdge: ``{"header": ..., "route": ..., "content": ...}``.

    ``content`` is any JSON value, or a typed model where the receiver knows the resource type.
    """

    header: MessageHeader
    route: MessageRoute = msgspec.field(default_factory=MessageRoute)
    content: T = None  # type: ignore[assignment]

    def parsed_resource(self) -> Resource:
        """Return the route's resource, parsed. Raises ResourceError with KubeEdge's text (P2.3)."""
        return Resource.parse(self.route.resource)

    def is_reply_to(self, request: Message[Any]) -> bool:
        """True when this message answers ``request``: its parent id is the request's id."""
        return bool(self.header.parent_msg_id) and self.header.parent_msg_id == request.header.msg_id


def new(
    parent_id: str = "",
    *,
    source: str = "",
    group: str = "",
    operation: str = "",
    resource: str = "",
    content: Any = None,
) -> Message[Any]:
    """Make a message with a new id and the present time: KubeEdge's ``NewMessage`` with ``BuildRouter`` (P1.2)."""
    return Message(
        MessageHeader(msg_id=new_id(), timestamp=now_ms(), parent_msg_id=parent_id),
        MessageRoute(source=source, group=group, operation=operation, resource=resource),
        content,
    )


def reply(
    request: Message[Any], content: Any, *, source: str = "", group: str = "", operation: str = RESPONSE
) -> Message[Any]:
    """Answer ``request``: new id, parent = the request's id, resource copied (P1.2).

    ``source`` and ``group`` are the *responder's*; KubeEdge copies the requester's, so its replies look as if the
    requester had sent them.
    """
    return new(
        request.header.msg_id,
        source=source,
        group=group,
        operation=operation,
        resource=request.route.resource,
        content=content,
    )


def reply_error(request: Message[Any], content: Any, *, source: str = "", group: str = "") -> Message[Any]:
    """Answer ``request`` with the operation ``error``; ``content`` is a text, or a map with a reason (P1.2, P5.9)."""
    return reply(request, content, source=source, group=group, operation=ERROR)


def clone(message: Message[T]) -> Message[T]:
    """Return a copy with a new id; everything else is kept (P1.2; KubeEdge drops version, sync, type, destination)."""
    header = msgspec.structs.replace(message.header, msg_id=new_id())
    return Message(header, msgspec.structs.replace(message.route), message.content)
