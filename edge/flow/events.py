"""What passes a hook point: SendEvent, ReceiveEvent, CompleteEvent, and the message inside (flow F1).

They are mutable where a hook may change them. On a node without hooks none of them is ever made.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from common.message import new_id


class FlowMessage(msgspec.Struct, rename={"msgid": "_msgid"}):
    """A message on its way through a node.

    ``msgid`` survives cloning. ``key`` is the topic or path that it came on. ``payload`` stays the bytes that came
    until somebody puts something else there: text, or what JSON can say. ``headers`` are HTTP headers or MQTT user
    properties. ``extra`` is for hooks.
    """

    payload: Any = b""
    key: str = ""
    msgid: str = ""
    headers: dict[str, str] = {}
    extra: dict[str, Any] = {}


class Place(msgspec.Struct):
    """One end of an event: the node's id, the node itself once it is known, and the port that sent."""

    id: str
    node: Node | None = None
    port: int = 0


class SendEvent(msgspec.Struct):
    """A message from one node to another. ``clone_message``: the router copies it before ``preDeliver``."""

    msg: Any
    source: Place
    destination: Place
    clone_message: bool = False


class ReceiveEvent(msgspec.Struct):
    """A message at the node that is about to take it."""

    msg: Any
    destination: Place


class CompleteEvent(msgspec.Struct):
    """A node is done with a message; ``error`` is why it failed, or None."""

    msg: Any
    node: Place
    error: BaseException | None = None


class Node(Protocol):
    """Whatever sends and takes messages: a source, a rule, a target, a local service."""

    id: str

    def take(self, event: ReceiveEvent) -> None:
        """Handle the message; called between ``onReceive`` and ``postReceive``."""

    def failed(self, error: BaseException, msg: Any) -> None:
        """Take an error that a hook point or the router has with a message of this node."""


def msgid_of(payload: Any) -> str:
    """The id of the message in a hook's payload, "" where there is none; of a list the first."""
    if isinstance(payload, list):
        payload = payload[0] if payload else None
    msg = getattr(payload, "msg", None)
    found = msg.get("_msgid", "") if isinstance(msg, dict) else getattr(msg, "msgid", "")
    return str(found)


def ensure_msgid(msg: FlowMessage) -> FlowMessage:
    """Give a message without an id one; returns the same object."""
    if not msg.msgid:
        msg.msgid = new_id()
    return msg
