"""Chains over messages: what a chain sees of a message, what it changes, and chains on the seven hook points (F2).

JSON is parsed only when a chain looks at the payload; a payload that no chain changed stays the bytes that came.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from common.chain.hookpoint import Engine, HookPoint, Mounted
from common.chain.nodes import LibSource
from common.chain.run import Access, Outcome
from common.errors import HookError
from edge.flow.events import CompleteEvent, ReceiveEvent, SendEvent
from edge.flow.hooks import POINTS
from edge.messages import FlowMessage

_LOOKS = r"\b{}\b(?!\.(?!payload\b))"  # $MSG as a whole, by index, or its payload
_EVENT_INPUTS = {
    "MSG": Access.WRITABLE,
    "SOURCE": Access.READ_ONLY,
    "DESTINATION": Access.READ_ONLY,
    "ERROR": Access.READ_ONLY,
}


def looks_at_payload(source: LibSource, name: str = "MSG") -> bool:
    """False when no block of these chains can read or write ``$MSG.payload``, or that of another input."""
    looks = re.compile(_LOOKS.format(name))
    return any(looks.search(block.text) for chain in source.chains for block in chain.blocks)


def view(message: FlowMessage, *, payload: bool = True) -> dict[str, Any]:
    """What a chain sees as ``$MSG``: ``topic`` (or, over HTTP, ``path``, ``method`` and ``query``), ``headers``,
    ``params``, ``_msgid``, ``hops``, ``time_ms``, and with ``payload`` the payload: JSON's value, else text, else null.
    """
    seen: dict[str, Any] = {
        "_msgid": message.msgid,
        "headers": message.headers,
        "params": message.params,
        "hops": message.hops,
        "time_ms": message.time_ms,
    }
    if message.method:
        seen["path"], seen["method"], seen["query"] = message.key, message.method, message.query
    else:
        seen["topic"] = message.key
    if payload:
        seen["payload"] = value_of(message.payload)
    return seen


def changed(message: FlowMessage, seen: Mapping[str, Any], made: Mapping[str, Any]) -> FlowMessage:
    """Return the message as a chain made it: ``seen`` is what it saw, ``made`` what it left. The id stays."""
    payload: Any = message.payload
    if "payload" in made and (made["payload"] != seen.get("payload") or "payload" not in seen):
        payload = made["payload"]
    key = made.get("path" if message.method else "topic")
    return msgspec.structs.replace(
        message,
        payload=payload,
        key=key if isinstance(key, str) and key else message.key,
        headers=texts(made.get("headers"), message.headers),
        params=texts(made.get("params"), message.params),
    )


def value_of(payload: Any) -> Any:
    """A payload as a chain sees it: JSON's value, else text, else null; what is no bytes stays as it is."""
    if not isinstance(payload, bytes):
        return payload
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def texts(made: Any, before: dict[str, str]) -> dict[str, str]:
    """A map of texts as a chain left it, names in lower case; ``before`` when it is no map."""
    if made == before or not isinstance(made, dict):
        return before
    return {str(name).lower(): str(value) for name, value in made.items() if value is not None}


class ChainPoints:
    """Chain lists on the seven hook points; they run after the Python hooks of the same point.

    ``accept`` (the default) goes on, ``drop`` halts quietly, ``reject`` halts with an error, and at ``preRoute``
    ``forward ID`` changes the destination.
    """

    def __init__(self, engine: Engine) -> None:
        self._points = {name: _point(name, engine) for name in POINTS}
        self.any = False

    def mount(self, name: str, source: LibSource) -> Mounted:
        """Mount a list on a hook point. Raises HookError for an unknown one, ChainErrors for what cannot run."""
        if name not in self._points:
            raise HookError(f"there is no hook {name!r}; there are {', '.join(POINTS)}")
        mounted = self._points[name].mount(source)
        self.any = True
        return mounted

    def unmount(self, name: str, mounted: Mounted) -> None:
        """Take a list away; what runs goes on with it."""
        self._points[name].unmount(mounted)
        self.any = any(point.mounted for point in self._points.values())

    def run(self, name: str, payload: Any) -> HookError | bool | None:
        """Run the chains of a point on one event, or at ``onSend`` on each of the list: the first halt halts all."""
        point = self._points[name]
        if not point.mounted:
            return None
        for event in payload if isinstance(payload, list) else (payload,):
            answer = self._decide(point, event)
            if answer is not None:
                return answer
        return None

    def _decide(self, point: HookPoint, event: SendEvent | ReceiveEvent | CompleteEvent) -> HookError | bool | None:
        seen = view(event.msg)
        outcome = point.run({"MSG": seen, **_ends(event)})
        if not outcome.ok or outcome.verb == "reject":
            return _error(point.name, event.msg, outcome)
        if outcome.verb == "drop":
            return False
        if "MSG" in outcome.outputs:
            event.msg = changed(event.msg, seen, outcome.outputs["MSG"])
        if outcome.verb == "forward" and isinstance(event, SendEvent):
            event.destination.id = outcome.target
        return None


def _point(name: str, engine: Engine) -> HookPoint:
    verbs = ("accept", "reject", "drop", "forward") if name == "preRoute" else ("accept", "reject", "drop")
    return HookPoint(name, engine=engine, inputs=_EVENT_INPUTS, verbs=verbs, default="accept", fail="reject")


def _ends(event: SendEvent | ReceiveEvent | CompleteEvent) -> dict[str, Any]:
    """The inputs beside the message: where it comes from, where it goes, and the error of what ended."""
    if isinstance(event, SendEvent):
        source = {"id": event.source.id, "port": event.source.port}
        return {"SOURCE": source, "DESTINATION": {"id": event.destination.id}, "ERROR": None}
    if isinstance(event, ReceiveEvent):
        return {"SOURCE": None, "DESTINATION": {"id": event.destination.id}, "ERROR": None}
    error = None if event.error is None else str(event.error)
    return {"SOURCE": {"id": event.node.id, "port": 0}, "DESTINATION": None, "ERROR": error}


def _error(name: str, message: FlowMessage, outcome: Outcome) -> HookError:
    error = HookError(f"chain on {name}, {outcome.where or 'at its end'}: {outcome.error or outcome.verb}")
    error.hook, error.msgid = name, message.msgid
    return error
