"""The error tree: every error that fieldpost raises on purpose.

::

    FieldpostError
    ├── ConfigError            a setting, file or manifest is wrong; names file, line and what to do
    ├── RefusedError           a message can never be accepted; carries a stable reason code
    │   ├── CodecError         its bytes break the limits or the schema (protocol P4.2)
    │   ├── ResourceError      its resource is not node/<node>/<namespace>/<type>[/<name>] (P2)
    │   ├── TopicError         its topic and its route do not make sense or do not agree (P3)
    │   └── TemplateError      a template has an unknown placeholder, or cannot be filled from this message
    ├── TransportError         the connection to the broker
    │   ├── NotConnectedError  nothing was sent; try again after the next connect
    │   ├── QueueFullError     a bounded queue is full; nothing was taken
    │   ├── ConnectError       the broker refused or could not be reached; says which and why
    │   └── WireError          what came is not MQTT
    ├── RequestTimeoutError    send_sync got no reply in time
    ├── RemoteError            the other side answered with the operation ``error``
    ├── StorageError           a database file cannot be used; nothing was accepted
    │   └── DamageError        its bytes are damaged; it is set aside, never deleted
    ├── HookError              a hook is not known, cannot be added or removed, or failed on a message
    ├── ExecutionError         an execution did not deliver; what onComplete is told
    ├── BrokerError            the embedded broker cannot be started
    ├── KubeError              the Kubernetes API server cannot be reached, or refused
    └── ControlError           a control socket does not answer, or refused the operation
"""

from __future__ import annotations

DETAIL_CHARS_MAX = 1024  # of a refusal


class FieldpostError(Exception):
    """Root of all errors raised on purpose; the command line prints it as one line without a traceback."""


class ConfigError(FieldpostError):
    """A setting, file or manifest is wrong.

    Arguments: ``text`` what is wrong and what to do; ``file`` and ``line`` where, when known (line counts from 1).
    """

    def __init__(self, text: str, *, file: str = "", line: int = 0) -> None:
        self.text, self.file, self.line = text, file, line
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(where + text)


class RefusedError(FieldpostError):
    """A message that can never be accepted (protocol P5.9).

    Arguments: ``reason`` a stable code (``undecodable``, ``too_large``, ``route_mismatch``, ``unknown_type``,
    ``invalid_topic``, ``invalid_resource``, ``stale_epoch``, ``beyond_window``); ``detail`` for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        if len(detail) > DETAIL_CHARS_MAX:  # it may quote hostile text, and it goes into replies and dead letters
            detail = detail[: DETAIL_CHARS_MAX - 1] + "…"
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


class CodecError(RefusedError):
    """The bytes of a message break a limit or the schema; ``reason`` is ``undecodable`` or ``too_large``."""


class ResourceError(RefusedError):
    """A resource cannot be built or parsed; the text is KubeEdge's where KubeEdge has one (protocol P2)."""

    def __init__(self, detail: str) -> None:
        super().__init__("invalid_resource", detail)


class TopicError(RefusedError):
    """A topic cannot be built, parsed, or does not agree with the message's route (protocol P3)."""

    def __init__(self, detail: str, reason: str = "invalid_topic") -> None:
        super().__init__(reason, detail)


class TemplateError(RefusedError):
    """A template of a target has a placeholder that nobody knows, or cannot be filled from a message (flow F3)."""

    def __init__(self, detail: str) -> None:
        super().__init__("template", detail)


class TransportError(FieldpostError):
    """Something about the connection to the broker."""


class NotConnectedError(TransportError):
    """Nothing was sent, because there is no connection (or it ended before the broker confirmed)."""


class QueueFullError(TransportError):
    """A bounded queue is full and took nothing; ``name`` says which, ``bound`` how many it holds."""

    def __init__(self, name: str, bound: int) -> None:
        self.name, self.bound = name, bound
        super().__init__(f"{name} is full ({bound})")


class ConnectError(TransportError):
    """The broker refused the connection or could not be reached.

    ``permanent`` is True when trying again cannot help before a person changes something (credentials, protocol).
    """

    def __init__(self, text: str, *, permanent: bool = False) -> None:
        self.permanent = permanent
        super().__init__(text)


class WireError(TransportError):
    """Bytes that came from the broker are not the MQTT that they should be; the text says what they are."""


class RequestTimeoutError(FieldpostError):
    """``send_sync`` got no reply within its timeout; a later reply is counted and dropped (protocol P7.3)."""


class RemoteError(FieldpostError):
    """The other side answered a request with the operation ``error``; ``content`` is its body."""

    def __init__(self, content: object) -> None:
        self.content = content
        super().__init__(str(content))


class StorageError(FieldpostError):
    """A database cannot be opened or written; what was not committed was not accepted."""


class DamageError(StorageError):
    """A database file is damaged. Whoever owns it sets it aside, never deletes it, and says what was in it."""


class HookError(FieldpostError):
    """A hook is not known, or a handler cannot be added or removed, or failed.

    Of a failure, ``hook``, ``label`` and ``msgid`` tell where and on which message; the cause is chained (flow F2.4).
    """

    hook = label = msgid = ""


class ExecutionError(FieldpostError):
    """An execution ended without being delivered or filtered; ``reason`` is its stable code (flow F5)."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


class BrokerError(FieldpostError):
    """The embedded broker cannot be started; the text says what to do."""


class KubeError(FieldpostError):
    """The Kubernetes API server cannot be reached (``code`` 0), or answered with an error.

    ``code`` is the HTTP status, ``reason`` the API's word for it (``Conflict``, ``Invalid``, ...), ``after_s`` the
    seconds after which it wants to be asked again (0: it did not say), ``named`` whether a 404 is about the one object
    asked for and not about its whole type.
    """

    def __init__(self, text: str, *, code: int = 0, reason: str = "", after_s: float = 0, named: bool = False) -> None:
        self.code, self.reason, self.after_s, self.named = code, reason, after_s, named
        super().__init__(text)

    @property
    def permanent(self) -> bool:
        """True when the same request can never work (P8.3). 401, 403, 404 and 409 end by a change elsewhere."""
        return self.code in (400, 405, 406, 413, 415, 422)


WRONG_USE = "wrong_use"  # kind of a ControlError about what the caller gave, not about what was asked


class ControlError(FieldpostError):
    """A control socket does not answer, or its process refused the operation.

    ``kind`` is ``unreachable`` when nobody answers; what an operation said of itself: ``not_found``, ``conflict``,
    ``refused`` (the text is findings, one a line); else the class of the other process's error, such as ConfigError.
    """

    def __init__(self, text: str, *, kind: str = "") -> None:
        self.kind = kind
        super().__init__(text)
