"""From a packet to a typed message: topic, codec, route check, presence (protocol P3, P4). No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from common import topics
from common.codec import decode, decode_as
from common.errors import CodecError, RefusedError, TopicError
from common.message import ERROR, RESOURCE_GROUP, UPDATE, Message, new
from common.messaging.base import Refused
from common.models import ControllerPresence, NodeBirth
from common.resource import DEFAULT_NAMESPACE, NODE, build_resource, is_label

PRESENCE_SOURCE = "presence"
RETAINED = "retained"
CONTROLLER = "controller"  # resource type of a controller's presence


class _Header(msgspec.Struct):
    msg_id: str = ""


class _Headed(msgspec.Struct):
    header: _Header


class Reader:
    """Makes messages of packets under one root. ``node`` is the reader's own id on the edge, empty in the cloud.

    ``content_types`` gives the content's type by resource type; what is not in it, and the content of every ``error``,
    stays a plain value.
    """

    def __init__(self, root: str, node: str, content_types: Mapping[str, Any]) -> None:
        self._root, self._node, self._types = root, node, content_types
        self._presence = f"{root}/{topics.PRESENCE}/"

    def read(self, topic: str, payload: bytes, retained: bool = False) -> Message[Any] | Refused | None:
        """Return the message, or why there is none. None: a presence that was cleared (an empty retained payload).

        The header's ``type`` of a presence that the broker had kept (``retained``) is RETAINED: it may be old (P5.8).
        """
        if topic.startswith(self._presence):
            found = self._read_presence(topic, payload)
            if retained and isinstance(found, Message):
                found.header.type = RETAINED
            return found
        try:
            parsed = topics.parse_topic(self._root, topic)
        except RefusedError as exc:
            return Refused(topic, payload, exc)
        kind = Any if parsed.route.operation == ERROR else self._types.get(parsed.resource.type, Any)
        message: Message[Any] | None = None
        try:
            message = decode(payload, kind)
            topics.check_route(parsed, message.route)
        except RefusedError as exc:
            msg_id = message.header.msg_id if message else _id_of(payload)
            return Refused(topic, payload, exc, parsed.node, parsed.route, msg_id)
        message.route.resource = parsed.route.resource  # the body may say ``nodeid`` where the topic knows the node
        return message

    def _read_presence(self, topic: str, payload: bytes) -> Message[Any] | Refused | None:
        if not payload:
            return None
        levels = topic.removeprefix(self._presence).split("/")
        try:
            if len(levels) == 1:
                return self._node_presence(levels[0], payload)
            if len(levels) == 2 and levels[0] == topics.CLOUD:
                return self._controller_presence(levels[1], payload)
            raise TopicError(f"{topic!r} is not the presence of a node or controller")
        except RefusedError as exc:
            return Refused(topic, payload, exc, levels[0] if len(levels) == 1 else "")

    def _node_presence(self, node: str, payload: bytes) -> Message[Any]:
        birth: NodeBirth = decode_as(payload, NodeBirth)
        _check_owner(node, birth.node)
        return _presence(build_resource(node, DEFAULT_NAMESPACE, NODE, node), birth)

    def _controller_presence(self, controller: str, payload: bytes) -> Message[Any]:
        presence: ControllerPresence = decode_as(payload, ControllerPresence)
        _check_owner(controller, presence.controller)
        resource = build_resource(self._node or controller, DEFAULT_NAMESPACE, CONTROLLER, controller)
        return _presence(resource, presence)


def _check_owner(topic_says: str, body_says: str) -> None:
    if not is_label(topic_says):
        raise TopicError(f"{topic_says!r} is not a DNS label")
    if topic_says != body_says:
        raise TopicError(f"body says {body_says!r}, topic {topic_says!r}", "route_mismatch")


def _presence(resource: str, content: Any) -> Message[Any]:
    return new(source=PRESENCE_SOURCE, group=RESOURCE_GROUP, operation=UPDATE, resource=resource, content=content)


def _id_of(payload: bytes) -> str:
    """The id of a message that cannot be decoded otherwise, or the empty text."""
    try:
        headed: _Headed = decode_as(payload, _Headed)
    except CodecError:
        return ""
    return headed.header.msg_id
