"""What rules carry: the message on its way through a node, how it arrived, and what a target says of it (flow F1, F3).

Sources make an Arrival, targets give a Delivery; between them hooks and chains may change the FlowMessage inside.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any, NamedTuple

import msgspec

HOPS_MAX = 16  # above that a message is stopped as FAIL ``loop`` (F3)
HOPS_TOLD_MAX = 999  # more is not believed, and more than enough


class FlowMessage(msgspec.Struct, rename={"msgid": "_msgid"}):
    """A message on its way through a node.

    ``key`` is what rules match: the topic, or the HTTP path (with its leading slash, without the query). ``payload``
    is the bytes that came, until a hook or a chain puts something else there: text, or what JSON can say.
    ``headers`` are HTTP headers (names in lower case) or MQTT 5 user properties. ``params`` are the ``{name}`` parts of
    a path, ``method`` and ``query`` HTTP's. ``hops`` counts the rules that it passed, on this node and others.
    ``time_ms`` is when it arrived, unix milliseconds. ``extra`` is for hooks. ``msgid`` survives cloning.
    """

    payload: Any = b""
    key: str = ""
    msgid: str = ""
    headers: dict[str, str] = {}
    params: dict[str, str] = {}
    method: str = ""
    query: str = ""
    hops: int = 0
    time_ms: int = 0
    extra: dict[str, Any] = {}

    def body(self) -> bytes:
        """The payload as bytes: as it came, or text as UTF-8, or anything else as JSON."""
        return body_of(self.payload)

    def field(self, path: tuple[str, ...]) -> str | None:
        """The text of ``payload.a.b``, ``headers.name`` or ``params.name``; None where there is none.

        A payload of bytes is read as JSON for it. What is neither text, number nor truth value has no text.
        """
        value: Any = getattr(self, path[0])
        if path[0] == "payload" and isinstance(value, bytes):
            try:
                value = msgspec.json.decode(value)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                return None
        for step in path[1:]:
            if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if isinstance(value, str | int | float) else None

    def clone(self) -> FlowMessage:
        """A deep copy with the same id."""
        return deepcopy(self)


def hops_of(told: str) -> int:
    """How many rules a message passed, as its header or user property tells; 0 for what is no number."""
    return min(int(told[:4]), HOPS_TOLD_MAX) if told.isascii() and told.isdigit() else 0


def body_of(payload: Any) -> bytes:
    """A payload as bytes: as it is, or text as UTF-8, or anything else as JSON."""
    if isinstance(payload, bytes):
        return payload
    return payload.encode() if isinstance(payload, str) else msgspec.json.encode(payload)


class Answer(NamedTuple):
    """What an HTTP target answered, for a source that waits for it. Header names in lower case, hop-by-hop left out."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Delivered(NamedTuple):
    """The target has the message and said so."""

    answer: Answer | None = None


class Retry(NamedTuple):
    """Not delivered now; trying again may help, ``after`` seconds at the earliest (0: the rule's own backoff)."""

    reason: str
    detail: str
    after: float = 0.0
    answer: Answer | None = None


class Rejected(NamedTuple):
    """Not delivered, and trying again cannot help."""

    reason: str
    detail: str
    answer: Answer | None = None


Delivery = Delivered | Retry | Rejected
DELIVERED = Delivered()


class Ending(NamedTuple):
    """How an execution ended: outcome and reason code (F5), a text for people, and the step that decided."""

    outcome: str = "delivered"
    reason: str = ""
    detail: str = ""
    step: str = ""


DELIVERED_ENDING = Ending()


class Arrival(msgspec.Struct, eq=False):
    """A message from a source.

    ``reliable`` tells that the source repeats the message until ``settle`` is called, which must be exactly once, when
    the result or the input is on disk for every rule that it went to (protocol P5.3). ``answered`` is called once when
    the execution of a source with one consumer has ended, with the target's answer if it gave one (HTTP sources).
    ``source`` is the node id of where it came from. ``journal_now``: the input goes to disk at once, not only when its
    execution takes long, and ``settle`` may be called then. ``seen`` is what the chains of its rules see of
    the message, once the first of them has looked.
    """

    message: FlowMessage
    reliable: bool = False
    settle: Callable[[], None] | None = None
    answered: Callable[[Ending, Answer | None], None] | None = None
    source: str = ""
    journal_now: bool = False
    seen: dict[str, Any] | None = None

    def rest(self) -> bytes:
        """For the journal: the source, and everything of the message but payload, key and id."""
        m = self.message
        return msgspec.msgpack.encode((self.source, m.headers, m.params, m.method, m.query, m.hops, m.time_ms))

    @classmethod
    def restored(cls, message: FlowMessage, rest: bytes) -> Arrival:
        """An arrival again from the journal. What cannot be read is left away: the input was accepted."""
        arrival, m = cls(message), message
        with suppress(msgspec.DecodeError):
            arrival.source, m.headers, m.params, m.method, m.query, m.hops, m.time_ms = msgspec.msgpack.decode(
                rest, type=tuple[str, dict[str, str], dict[str, str], str, str, int, int]
            )
        return arrival
