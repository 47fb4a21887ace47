"""What passes a hook point: SendEvent, ReceiveEvent, CompleteEvent, and the nodes between which they pass (flow F1).

They are mutable where a hook may change them. While no hook and no chain is there, none of them is ever made.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from edge.messages import Ending, FlowMessage


class Execution(Protocol):
    """A (message, rule) on its way; the router tells it when it goes no further."""

    def stop(self, ending: Ending) -> None:
        """End with ``ending``; a second call does nothing."""


class Node(Protocol):
    """Whatever sends and takes messages: a source, a rule, a target, a local service."""

    id: str

    def receive(self, message: FlowMessage, execution: Execution | None) -> None:
        """Handle the message; called between ``onReceive`` and ``postReceive``. ``execution`` is None for an event
        that a hook made up.
        """

    def failed(self, error: BaseException, message: FlowMessage) -> None:
        """Take an error that a hook point has with a message that this node sends or receives."""


class Place(msgspec.Struct):
    """One end of an event: the node's id, the node once it is known, and the port that sent."""

    id: str
    node: Node | None = None
    port: int = 0


class SendEvent(msgspec.Struct):
    """A message from one node to another. ``clone_message``: the router copies it before ``preDeliver``.

    ``execution`` belongs to the router: it ties the event to its outcome.
    """

    msg: FlowMessage
    source: Place
    destination: Place
    clone_message: bool = False
    execution: Execution | None = None


class ReceiveEvent(msgspec.Struct):
    """A message at the node that is about to take it."""

    msg: FlowMessage
    destination: Place


class CompleteEvent(msgspec.Struct):
    """A node is done with a message; ``error`` is why it failed, or None."""

    msg: FlowMessage
    node: Place
    error: BaseException | None = None


def msgid_of(payload: Any) -> str:
    """The id of the message in a hook's payload, "" where there is none; of a list the first."""
    if isinstance(payload, list):
        payload = payload[0] if payload else None
    message = getattr(payload, "msg", None)
    return str(message.msgid) if isinstance(message, FlowMessage) and isinstance(message.msgid, str) else ""
