"""Topics: a function of the route and back, and MQTT filters (protocol P3).

Upward ``<root>/up/<node>/<source>:<group>/<operation>/<namespace>/<type>/<name>``, downward the same with ``down``.
From the topic alone the route can be rebuilt. An empty segment is ``_``, a segment that is exactly ``_`` is ``%5F``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from common.errors import ResourceError, TopicError
from common.message import MessageRoute
from common.resource import NODE_LITERAL, Resource, is_label

UP, DOWN, PRESENCE, STATUS = "up", "down", "presence", "status"
CLOUD = "cloud"  # the second level of a controller's presence; no node may be called so
SEGMENT_BYTES_MAX = 255
TOPIC_BYTES_MAX = 1024
_EMPTY = "_"


class RouteTopic(NamedTuple):
    """A topic taken apart: direction (``up`` or ``down``), node id, and the route that it states."""

    direction: str
    node: str
    route: MessageRoute
    resource: Resource


def encode_segment(text: str) -> str:
    """Percent-encode everything outside ``A-Z a-z 0-9 - _ . ~``; empty is ``_``, ``_`` is ``%5F`` (P3.2)."""
    if not text:
        return _EMPTY
    if text == _EMPTY:
        return "%5F"
    try:
        encoded = quote(text, safe="-_.~")
    except UnicodeEncodeError:
        raise TopicError(f"segment {text!r} holds a lone surrogate") from None
    if len(encoded) > SEGMENT_BYTES_MAX:
        raise TopicError(f"segment of {len(encoded)} bytes, at most {SEGMENT_BYTES_MAX}")
    return encoded


def decode_segment(text: str) -> str:
    """Undo ``encode_segment``. Raises TopicError for bytes that are not UTF-8 or a form that encode would not make."""
    if text == _EMPTY:
        return ""
    try:
        decoded = unquote_to_bytes(text).decode() if "%" in text else text
    except UnicodeDecodeError:
        raise TopicError(f"segment {text!r} is not UTF-8") from None
    if encode_segment(decoded) != text:
        raise TopicError(f"segment {text!r} is not in its one encoded form")
    return decoded


def topic_of(root: str, direction: str, node: str, route: MessageRoute) -> str:
    """Return the topic of a message with ``route`` to or from ``node``.

    Raises TopicError (too long, node not a DNS label) or ResourceError before anything is sent.
    """
    if not is_label(node):
        raise TopicError(f"node id {node!r} is not a DNS label")
    return _topic(root, direction, node, route.source, route.group, route.operation, route.resource)


@lru_cache(maxsize=16384)
def _topic(root: str, direction: str, node: str, source: str, group: str, operation: str, resource: str) -> str:
    parsed = Resource.parse(resource, strict=True)  # the topic has no place for what a lenient reader ignores
    if parsed.node not in ("", NODE_LITERAL, node):
        raise TopicError(f"resource {resource!r} is not of node {node!r}", "route_mismatch")
    if parsed.namespace and not is_label(parsed.namespace):
        raise TopicError(f"namespace {parsed.namespace!r} is not a DNS label")
    encode = encode_segment
    sender = f"{encode(source)}:{encode(group)}"
    _check_sender(sender)
    topic = "/".join((
        root, direction, node, sender, encode(operation),
        encode(parsed.namespace), encode(parsed.type), encode(parsed.name),
    ))  # fmt: skip
    if len(topic) > TOPIC_BYTES_MAX:
        raise TopicError(f"topic of {len(topic)} bytes, at most {TOPIC_BYTES_MAX}")
    return topic


@lru_cache(maxsize=16384)
def parse_topic(root: str, topic: str) -> RouteTopic:
    """Rebuild direction, node and route from a topic. Raises TopicError that says what is wrong.

    The result is shared: do not change it.
    """
    if len(topic.encode("utf-8", "surrogatepass")) > TOPIC_BYTES_MAX:
        raise TopicError(f"topic longer than {TOPIC_BYTES_MAX} bytes")
    parts = topic.split("/")
    if len(parts) != 8 or parts[0] != root or parts[1] not in (UP, DOWN):
        raise TopicError(f"not {root}/up|down/<node>/<source>:<group>/<operation>/<namespace>/<type>/<name>")
    _, direction, node, sender, operation, namespace, kind, name = parts
    if not is_label(node):
        raise TopicError(f"node id {node!r} is not a DNS label")
    source, colon, group = sender.partition(":")
    if not colon:
        raise TopicError(f"{sender!r} is not <source>:<group>")
    _check_sender(sender)
    decode = decode_segment
    resource = _resource(node, decode(namespace), decode(kind), decode(name))
    route = MessageRoute(
        source=decode(source), group=decode(group), operation=decode(operation), resource=str(resource)
    )
    return RouteTopic(direction, node, route, resource)


def _resource(node: str, namespace: str, kind: str, name: str) -> Resource:
    """Return the resource of a topic, or raise TopicError when its text would not be read back as the same resource."""
    resource = Resource(node, namespace, kind, name) if namespace else Resource("", "", kind, name)
    if namespace and not is_label(namespace):
        raise TopicError(f"namespace {namespace!r} is not a DNS label")
    try:
        same = Resource.parse(str(resource), strict=True) == resource
    except ResourceError as exc:
        raise TopicError(exc.detail) from None
    if not same:
        raise TopicError(f"type {kind!r} and name {name!r} do not make a resource")
    return resource


def _check_sender(sender: str) -> None:
    if len(sender) > SEGMENT_BYTES_MAX:
        raise TopicError(f"segment of {len(sender)} bytes, at most {SEGMENT_BYTES_MAX}")


def check_route(topic: RouteTopic, route: MessageRoute) -> None:
    """Raise TopicError ``route_mismatch`` unless the body states the topic's route (P3.3); ``destination`` is free."""
    stated = topic.route
    said = (route.source, route.group, route.operation, route.resource)
    if said == (stated.source, stated.group, stated.operation, stated.resource):
        return
    for part in ("source", "group", "operation"):
        if getattr(stated, part) != getattr(route, part):
            raise TopicError(
                f"body says {part} {getattr(route, part)!r}, topic {getattr(stated, part)!r}", "route_mismatch"
            )
    try:
        body = Resource.parse(route.resource, strict=True)
    except ResourceError as exc:
        raise TopicError(f"body says resource {route.resource!r}: {exc.detail}", "route_mismatch") from None
    if body.node == NODE_LITERAL:
        body = body._replace(node=topic.node)
    if body != topic.resource:
        raise TopicError(f"body says resource {route.resource!r}, topic {stated.resource!r}", "route_mismatch")


def presence_topic(root: str, node: str) -> str:
    """The retained presence topic of a node (P3.4)."""
    return f"{root}/{PRESENCE}/{node}"


def controller_presence_topic(root: str, controller: str) -> str:
    """The retained presence topic of a cloud controller (P3.4)."""
    return f"{root}/{PRESENCE}/{CLOUD}/{controller}"


def status_topic(root: str, namespace: str, rule: str) -> str:
    """The retained topic of a rule's status, as the cloud tells it onward (P3.4)."""
    return f"{root}/{STATUS}/{namespace}/{rule}"


def check_root(root: str) -> str:
    """Return ``root`` if it can be the first topic level, else raise TopicError."""
    if not root or encode_segment(root) != root or root == _EMPTY:
        raise TopicError(f"root {root!r} must be one level of A-Z a-z 0-9 - _ . ~")
    return root


def check_filter(text: str) -> str:
    """Return ``text`` if it is a legal MQTT topic filter, else raise TopicError that names the fault."""
    _check_text(text)
    levels = text.split("/")
    for at, level in enumerate(levels):
        if "#" in level and (level != "#" or at != len(levels) - 1):
            raise TopicError(f"filter {text!r}: # must be the whole last level")
        if "+" in level and level != "+":
            raise TopicError(f"filter {text!r}: + must be a whole level")
    return text


def check_topic(text: str) -> str:
    """Return ``text`` if it is a legal topic to publish to on every broker we support, else raise TopicError.

    Blanks are refused: the embedded broker closes the connection on them, and the client would re-send for ever (P3.2).
    """
    _check_text(text)
    if "+" in text or "#" in text:
        raise TopicError(f"topic {text!r} holds a wildcard")
    if any(char.isspace() for char in text):
        raise TopicError(f"topic {text!r} holds a blank")
    return text


def _check_text(text: str) -> None:
    if not text:
        raise TopicError("topic is empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise TopicError(f"topic {text!r} holds a lone surrogate") from None
    if size > TOPIC_BYTES_MAX:
        raise TopicError(f"topic of {size} bytes, at most {TOPIC_BYTES_MAX}")
    if any(ord(char) < 32 or 127 <= ord(char) < 160 or ord(char) & 0xFFFE == 0xFFFE for char in text):
        raise TopicError(f"topic {text!r} holds a control character")


def matches(filter_: str, topic: str) -> bool:
    """True when the MQTT filter matches the topic; wildcards at the start do not match ``$`` topics (MQTT 4.7.2)."""
    if topic.startswith("$") and filter_[:1] in ("+", "#"):
        return False
    wanted, levels = filter_.split("/"), topic.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return True
        if at >= len(levels) or level not in ("+", levels[at]):
            return False
    return len(wanted) == len(levels)


def covers(wide: str, narrow: str) -> bool:
    """True when every topic that ``narrow`` matches is matched by ``wide``."""
    a, b = wide.split("/"), narrow.split("/")
    for at, level in enumerate(a):
        if level == "#":
            return not (at == 0 and b[0].startswith("$"))
        if at >= len(b) or b[at] == "#":
            return False
        if level != b[at] and (level != "+" or (at == 0 and b[0].startswith("$"))):
            return False
    return len(a) == len(b)


def overlaps(one: str, other: str) -> bool:
    """True when there is a topic that both filters match."""
    return _overlap(one.split("/"), other.split("/"))


def _overlap(one: list[str], other: list[str]) -> bool:
    for a, b in zip(one, other, strict=False):
        if "#" in (a, b):
            return True
        if a != b and "+" not in (a, b):
            return False
    shorter, longer = sorted((one, other), key=len)
    return len(one) == len(other) or longer[len(shorter)] == "#"
