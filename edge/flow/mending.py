"""What hooks leave of an event, made whole again, so that whatever they did to it ends in one result (flow F2.7).

Hooks may change an event's fields, and Python lets them put anything there. What goes on must be sound: a wrong field
gets back what it had, or its default, and the message ends as failed with a text that names it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge.flow.events import Execution, Place, ReceiveEvent, SendEvent
from edge.messages import FlowMessage


class Sent(msgspec.Struct, frozen=True, eq=False):
    """What the router knows of an event by itself: hooks never see this."""

    msg: FlowMessage
    msgid: str
    source: str
    destination: str
    execution: Execution | None


def noted(event: SendEvent) -> Sent:
    """Note an event that no hook has had yet, or that is whole again."""
    return Sent(event.msg, event.msg.msgid, event.source.id, event.destination.id, event.execution)


NOTHING = Sent(FlowMessage(), "", "", "", None)  # of an event that a hook made up


def mend(event: SendEvent | ReceiveEvent, sent: Sent) -> str:
    """Make an event whole; returns what was wrong with it, "" for nothing. The execution is the router's own."""
    wrong = ""
    if isinstance(event, SendEvent):
        event.execution = sent.execution
        if not _is_place(event.source):
            wrong, event.source = _text("source", event.source), Place(sent.source)
        if not isinstance(event.clone_message, bool):
            wrong, event.clone_message = _text("clone_message", event.clone_message), False
    if not _is_place(event.destination):
        wrong, event.destination = _text("destination", event.destination), Place(sent.destination)
    return _mend_message(event, sent) or wrong


def _mend_message(event: SendEvent | ReceiveEvent, sent: Sent) -> str:
    wrong = ""
    if not isinstance(event.msg, FlowMessage):
        wrong, event.msg = _text("msg", event.msg), FlowMessage() if sent is NOTHING else sent.msg
    m = event.msg
    if not (
        isinstance(m.key, str) and isinstance(m.msgid, str) and isinstance(m.method, str) and isinstance(m.query, str)
        and isinstance(m.hops, int) and isinstance(m.time_ms, int) and isinstance(m.extra, dict)
        and isinstance(m.headers, dict) and isinstance(m.params, dict)
    ):  # fmt: skip
        whole = FlowMessage(msgid=sent.msgid)
        for name in ("key", "msgid", "method", "query", "hops", "time_ms", "extra", "headers", "params"):
            default = getattr(whole, name)
            if not isinstance(getattr(m, name), type(default)):
                wrong = wrong or _text(f"msg.{name}", getattr(m, name))
                setattr(m, name, default)
    return wrong


def _is_place(value: Any) -> bool:
    return isinstance(value, Place) and isinstance(value.id, str) and isinstance(value.port, int)


def _text(field: str, value: Any) -> str:
    if isinstance(value, Place):
        return f"event.{field} is a Place with id or port of another type"
    return f"event.{field} cannot be of type {type(value).__name__}"
