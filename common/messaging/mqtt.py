"""MqttLayer: typed messages and request-reply over a Link (protocol P1 to P4, P7.3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal

import msgspec

from common import codec as codecs
from common import topics
from common.errors import NotConnectedError, RemoteError, RequestTimeoutError, ResourceError, TransportError
from common.message import DELETE, ERROR, INSERT, PATCH, QUERY, RESPONSE, UPDATE, UPLOAD, Message, reply
from common.messaging.base import (
    NOT_SENT,
    REPLY_TIMEOUT_S,
    Inbound,
    Link,
    MessageLayer,
    Properties,
    Refused,
    Subscription,
)
from common.messaging.connection import FAILED
from common.messaging.inbound import Reader
from common.messaging.replies import Replies

log = logging.getLogger(__name__)

RECEIVE_QUEUE_MAX = 10_000
SHARERS = "fieldpost"  # the group of the controllers' shared subscriptions
PROBE_S = 2.0  # after which a message that did not come back through a shared subscription never will
_SHARED_OPERATIONS = (INSERT, UPDATE, PATCH, DELETE, QUERY, UPLOAD)  # any controller may do these (P7.2)
_PLAIN_OPERATIONS = (RESPONSE, ERROR)  # only the one that asked

Side = Literal["edge", "cloud"]


class UplinkPart(Enum):
    """What a controller takes of the messages that go up; presence, replies and errors it takes in any case (P7.2)."""

    ALL = "all"
    SHARED = "shared"  # with the other members of its group, by the broker's shared subscriptions
    NOTHING = "nothing"  # another controller takes them


class MqttLayer(MessageLayer):
    """A message layer over any ``Link``. It owns the link's ``on_message`` and subscriptions, starts and stops it.

    ``on_connect`` and ``on_disconnect`` of the link stay free for the owner. Arguments: ``root`` of the topics;
    ``side``: the edge speaks upward for ``node``, the cloud downward to the node of each message's resource; ``codec``
    of what is sent; ``source`` and ``group`` of replies; ``content_types`` by resource type (default: any value);
    ``on_refused`` gets what cannot become a message; ``receive_queue_max`` messages wait for ``receive``, further ones
    are discarded and counted (P5.5); ``uplink`` is what a controller takes at the beginning.
    """

    def __init__(
        self,
        link: Link,
        *,
        root: str,
        side: Side,
        node: str = "",
        codec: codecs.CodecName = "json",
        source: str,
        group: str,
        content_types: Mapping[str, Any] | None = None,
        on_refused: Callable[[Refused], None] = lambda refused: None,
        receive_queue_max: int = RECEIVE_QUEUE_MAX,
        uplink: UplinkPart = UplinkPart.ALL,
        sharers: str = SHARERS,
    ) -> None:
        self.link, self._sharers = link, sharers
        self._root, self._side, self._node = topics.check_root(root), side, node
        self._codec, self._source, self._group = codec, source, group
        self._reader = Reader(root, node, content_types or {})
        self._on_refused = on_refused
        self._queue: asyncio.Queue[Message[Any]] = asyncio.Queue(receive_queue_max)
        self._replies = Replies()
        self._counts = dict.fromkeys(("sent", "received", "refused", "overflowed", "callback_errors"), 0)
        self._uplink = uplink
        self._probe: tuple[str, asyncio.Future[None]] | None = None  # a topic, and that something came on it
        link.on_message = self._take
        self._subscribe()

    @property
    def uplink(self) -> UplinkPart:
        """What this controller takes now."""
        return self._uplink

    def take_uplink(self, uplink: UplinkPart) -> None:
        """Take this part from now on, and after each connect."""
        self._uplink = uplink
        self._subscribe()

    async def probe_shares(self, topic: str, timeout: float = PROBE_S) -> bool:
        """True when the broker has shared subscriptions. Version 5 says it; of 3.1.1 a message on ``topic`` tells.

        Some brokers of version 3.1.1 have them, others grant them and deliver nothing. Raises NotConnectedError.
        """
        if self.link.shares is not None:
            return self.link.shares
        came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._probe = (topic, came)
        self._subscribe(f"$share/{self._sharers}-probe/{topic}")
        try:
            async with asyncio.timeout(timeout):
                self.link.publish(topic, b"probe")
                await came
        except TimeoutError:
            return False
        finally:
            self._probe = None
            self._subscribe()
        return True

    def _subscribe(self, *more: str) -> None:
        names = [*_filters(self._root, self._side, self._node, self._uplink, self._sharers), *more]
        self.link.subscribe([Subscription(name) for name in names])

    async def start(self) -> None:
        await self.link.start()

    async def stop(self) -> None:
        await self.link.stop()
        self._replies.fail_all("the message layer was stopped")

    async def send(self, message: Message[Any], *, qos: int = 1) -> None:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.link.publish(
            self._topic_of(message),
            codecs.encode(message, self._codec),
            qos=qos,
            properties=self._properties_of(message),
            on_done=lambda code: None if done.done() else done.set_result(code),
        )
        code = await done
        if code == NOT_SENT:
            raise NotConnectedError("the connection ended before the broker confirmed")
        if code >= FAILED:
            raise TransportError(f"the broker refused the message with reason 0x{code:02x}")
        self._counts["sent"] += 1

    async def receive(self) -> Message[Any]:
        return await self._queue.get()

    async def send_sync(self, message: Message[Any], timeout: float = REPLY_TIMEOUT_S) -> Message[Any]:
        header = msgspec.structs.replace(message.header, sync=True)
        answer = self._replies.expect(header.msg_id)
        try:
            async with asyncio.timeout(timeout):
                await self.send(Message(header, message.route, message.content))
                got = await answer
        except TimeoutError:
            route = message.route
            raise RequestTimeoutError(f"no reply to {route.operation} {route.resource} within {timeout:g} s") from None
        finally:
            self._replies.forget(header.msg_id)
        if got.route.operation == ERROR:
            raise RemoteError(got.content)
        return got

    async def respond(self, request: Message[Any], content: Any, *, operation: str = RESPONSE, qos: int = 0) -> None:
        answer = reply(request, content, source=self._source, group=self._group, operation=operation)
        await self.send(answer, qos=qos)

    def statistics(self) -> dict[str, int]:
        return {
            **self._counts,
            "late_replies": self._replies.late,
            "waiting": len(self._replies),
            "queued": self._queue.qsize(),
        }

    def _topic_of(self, message: Message[Any]) -> str:
        if self._side == "edge":
            return topics.topic_of(self._root, topics.UP, self._node, message.route)
        node = message.parsed_resource().node
        if not node:  # the two-segment form does not say where to
            raise ResourceError("node id not found")
        return topics.topic_of(self._root, topics.DOWN, node, message.route)

    def _properties_of(self, message: Message[Any]) -> Properties:
        header = message.header
        named = (
            ("msg_id", header.msg_id),
            ("parent_msg_id", header.parent_msg_id),
            ("resourceversion", header.resourceversion),
        )
        return Properties(
            codecs.CONTENT_TYPES[self._codec], self._codec == "json", tuple(pair for pair in named if pair[1])
        )

    def _take(self, inbound: Inbound) -> None:
        if self._probe is not None and inbound.topic == self._probe[0]:
            if not self._probe[1].done():
                self._probe[1].set_result(None)
            return
        message = self._reader.read(inbound.topic, inbound.payload, inbound.retain)
        if message is None:
            return
        if isinstance(message, Refused):
            return self._refuse(message)
        self._counts["received"] += 1
        if (
            message.header.parent_msg_id
            and message.route.operation in _PLAIN_OPERATIONS
            and self._replies.take(message)
        ):
            return
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self._counts["overflowed"] += 1

    def _refuse(self, refused: Refused) -> None:
        self._counts["refused"] += 1
        try:
            self._on_refused(refused)
        except Exception:
            self._counts["callback_errors"] += 1
            log.exception("on_refused failed for %s", refused.topic)


def _filters(
    root: str, side: Side, node: str, uplink: UplinkPart = UplinkPart.ALL, sharers: str = SHARERS
) -> list[str]:
    presence = f"{root}/{topics.PRESENCE}"
    if side == "edge":
        return [f"{root}/{topics.DOWN}/{node}/#", f"{presence}/{topics.CLOUD}/+"]
    filters = [f"{presence}/+", f"{presence}/{topics.CLOUD}/+"]
    up = f"{root}/{topics.UP}/+"
    if uplink is UplinkPart.ALL:
        return [*filters, f"{up}/#"]
    filters += [f"{up}/+/{operation}/#" for operation in _PLAIN_OPERATIONS]
    if uplink is UplinkPart.SHARED:
        filters += [f"$share/{sharers}/{up}/+/{operation}/#" for operation in _SHARED_OPERATIONS]
    return filters
