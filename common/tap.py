"""Tap: one line for each message on a broker, decoded in either codec, filtered (experience U2)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from common import codec as codecs
from common import topics
from common.errors import CodecError, TopicError
from common.models import ExecResult
from common.tables import printable

PAYLOAD_SHOWN_BYTES = 2048  # of what is not one of our messages


class Filter(NamedTuple):
    """What to show: empty means everything. ``status`` is SUCCESS or FAIL."""

    node: str = ""
    rule: str = ""
    status: str = ""


def tapped(root: str, topic: str, payload: bytes, wanted: Filter, at: float) -> Iterator[dict[str, Any]]:
    """Yield what to show of one packet: a map for each result in it, or one for any other message.

    ``at`` is unix seconds. Every map has ``time``, ``topic`` and ``kind`` (result, message, presence, other); a payload
    that cannot be decoded is shown with the reason, as text.
    """
    seen: dict[str, Any] = {"time": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"), "topic": topic}
    try:
        stated = topics.parse_topic(root, topic)
    except TopicError:
        yield from _foreign(root, topic, payload, wanted, seen)
        return
    resource = stated.resource
    seen |= {"node": stated.node, "direction": stated.direction, "operation": stated.route.operation}
    seen |= {"type": resource.type, "namespace": resource.namespace, "name": resource.name}
    if wanted.node not in ("", stated.node):
        return
    try:
        if resource.type == "rulestatus" and stated.direction == topics.UP:
            yield from _results(payload, wanted, seen)
        elif not wanted.rule and not wanted.status:
            message = codecs.decode(payload)
            header = {"msg_id": message.header.msg_id, "version": message.header.resourceversion}
            yield {"kind": "message", **seen, **header, "content": message.content}
    except CodecError as exc:
        yield {"kind": "message", **seen, "refused": str(exc), "payload": _shown(payload)}


def _results(payload: bytes, wanted: Filter, seen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    message = codecs.decode(payload, ExecResult | list[ExecResult])
    results = message.content if isinstance(message.content, list) else [message.content]
    for result in results:
        if wanted.rule in ("", result.rule_id) and wanted.status in ("", result.status):
            yield {
                "kind": "result",
                **seen,
                "version": message.header.resourceversion,
                "content": msgspec.to_builtins(result),
            }


def _foreign(root: str, topic: str, payload: bytes, wanted: Filter, seen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    levels = topic.split("/")
    presence = levels[:2] == [root, topics.PRESENCE]
    if wanted.rule or wanted.status or (wanted.node and not (presence and levels[2:] == [wanted.node])):
        return
    try:
        content: Any = codecs.decode_as(payload, dict[str, Any])
    except CodecError:
        content = _shown(payload)
    yield {"kind": "presence" if presence else "other", **seen, "content": content}


def _shown(payload: bytes) -> str:
    return payload[:PAYLOAD_SHOWN_BYTES].decode("utf-8", "backslashreplace")


def as_line(seen: dict[str, Any]) -> str:
    """One line for people: time, node, what it is, and what it says."""
    return printable(_line(seen))


def _line(seen: dict[str, Any]) -> str:
    clock = seen["time"][11:23]
    content = seen.get("content")
    if seen["kind"] == "result":
        assert isinstance(content, dict)
        error = content["Error"]["Detail"]
        told = f"{content['Status']:<7} {content.get('Outcome', '')} {content.get('Reason', '')}".rstrip()
        rule = f"{content['ProjectID']}/{content['RuleID']}"
        took = f" {content.get('DurationUs', 0) / 1000:.1f} ms"
        return f"{clock} {seen['node']:<12} {rule:<24} {told}{took}{'  ' + error if error else ''}"
    what = f"{seen['direction']} {seen['operation']} {seen['type']}" if "operation" in seen else seen["topic"]
    said = seen.get("refused") or msgspec.json.encode(content).decode()
    return f"{clock} {seen.get('node', ''):<12} {what:<24} {said}"
