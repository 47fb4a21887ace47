"""Typed models that travel: ExecResult, confirmations, presence, statistics (protocol P1.4, P3.4, P5)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from common.errors import RefusedError

SUCCESS, FAIL = "SUCCESS", "FAIL"
ZERO_TIME = "0001-01-01T00:00:00Z"  # Go's zero time, what Error.Timestamp says on success
DETAIL_BYTES_MAX = 2048  # of an error detail (P8.1); longer is cut
SEQUENCE_MAX = 2**63 - 1
WINDOW = 256  # messages of one epoch that may be without a confirmation, and that one may come ahead of (P5.4, P5.7)
UIDS_MAX = 64  # that a refusal names; further ones are refused when the rest comes

# Outcomes (flow F5).
DELIVERED, FILTERED, REJECTED, FAILED, DROPPED = "delivered", "filtered", "rejected", "failed", "dropped"

Count = Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)]
Short = Annotated[str, Meta(max_length=512)]
_WIRE_NAMES = {
    "rule_id": "RuleID", "project_id": "ProjectID", "status": "Status", "error": "Error", "detail": "Detail",
    "timestamp": "Timestamp", "time": "Time", "outcome": "Outcome", "reason": "Reason", "duration_us": "DurationUs",
    "attempts": "Attempts", "rule_version": "RuleVersion", "source_id": "SourceID", "step": "Step", "count": "Count",
    "first": "First", "duration_sum": "DurationSum", "duration_max": "DurationMax", "rule_uid": "RuleUID",
}  # fmt: skip


class ErrorMsg(msgspec.Struct, rename=_WIRE_NAMES, gc=False):
    """Why an execution failed: a text for people (at most 2 KiB) and when (RFC 3339; Go's zero time on success)."""

    detail: str = ""
    timestamp: Short = ZERO_TIME


class ExecResult(msgspec.Struct, omit_defaults=True, rename=_WIRE_NAMES, gc=False):
    """What became of one execution, or a summary of several (``count`` > 1). Go names on the wire (P1.4).

    ``rule_id`` is the rule's name, ``project_id`` its namespace, ``status`` is SUCCESS or FAIL. Durations are
    microseconds, times RFC 3339. Everything after ``error`` is optional for a reader.
    """

    rule_id: Annotated[str, Meta(min_length=1, max_length=253)]
    project_id: Annotated[str, Meta(max_length=63)]
    status: Annotated[str, Meta(pattern=r"^(SUCCESS|FAIL)\Z", max_length=7)]
    error: ErrorMsg = msgspec.field(default_factory=ErrorMsg)
    time: Short = ""
    outcome: Short = ""
    reason: Short = ""
    duration_us: Count = 0
    attempts: Count = 1
    rule_version: Short = ""
    source_id: Short = ""
    step: Short = ""
    count: Annotated[int, Meta(ge=1, le=SEQUENCE_MAX)] = 1
    first: Short = ""
    duration_sum: Count = 0
    duration_max: Count = 0
    rule_uid: Short = ""


def rfc3339(at: float) -> str:
    """Return unix seconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clean_text(text: str, bytes_max: int = DETAIL_BYTES_MAX) -> str:
    """Return ``text`` without NUL and lone surrogates, at most ``bytes_max`` bytes: fit for all codecs and stores."""
    if len(text) <= bytes_max and text.isascii() and "\x00" not in text:
        return text
    raw = text.replace("\x00", "\ufffd").encode("utf-8", "replace")
    if len(raw) <= bytes_max:
        return raw.decode()
    mark = "…" if bytes_max >= 3 else ""  # three bytes
    return raw[: bytes_max - len(mark.encode())].decode("utf-8", "ignore") + mark


class Epoch(NamedTuple):
    """The life of a spool from one agent start to the next: ``<n>-<uuid7>``; only ``n`` orders epochs (P5.2)."""

    n: int
    uuid: str

    def __str__(self) -> str:
        return f"{self.n}-{self.uuid}"

    @classmethod
    def parse(cls, text: str) -> Epoch:
        """Parse ``<n>-<uuid>``. Raises RefusedError ``undecodable``."""
        epoch = _parse_epoch(text) if len(text) <= EPOCH_CHARS_MAX else None
        if epoch is None:
            raise RefusedError("undecodable", f"epoch {text[:80]!r} is not <n>-<uuid7>")
        return epoch


EPOCH_CHARS_MAX = 18 + 1 + 36
_EPOCH = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
_SEQUENCE = re.compile(r"[1-9][0-9]{0,17}")


@lru_cache(maxsize=4096)
def _parse_epoch(text: str) -> Epoch | None:
    found = _EPOCH.fullmatch(text)
    return Epoch(int(found[1]), found[2]) if found else None


def parse_version(text: str) -> tuple[Epoch, int]:
    """Parse a reliable message's ``resourceversion``, ``<epoch>.<sequence>``. Raises RefusedError ``undecodable``."""
    of, _, sequence = text.rpartition(".")
    epoch = _parse_epoch(of) if len(of) <= EPOCH_CHARS_MAX else None
    if epoch is None or not _SEQUENCE.fullmatch(sequence):
        raise RefusedError("undecodable", f"resourceversion {text[:80]!r} is not <n>-<uuid7>.<sequence>")
    return epoch, int(sequence)


class Confirmation(msgspec.Struct, omit_defaults=True):
    """The cloud's word that messages are committed: everything up to ``through``, and single later ones (P5.5)."""

    epoch: str
    through: Count
    also: Annotated[list[int], Meta(max_length=WINDOW)] = []


class Refusal(msgspec.Struct, omit_defaults=True):
    """The body of an ``error`` reply to a message that can never be accepted (P5.9).

    ``sha256`` (hex, of the payload) names the message when its id could not be read. With ``uids``, only the results of
    rules with these uids are refused: what else the message holds may come again in another one (P6.4).
    """

    reason: str
    detail: str = ""
    sha256: str = ""
    uids: Annotated[list[Short], Meta(max_length=UIDS_MAX)] = []


# Kinds of loss records (P5.8, P5.9, P5.10).
LOST_DROPPED, LOST_SET_ASIDE, LOST_VOID = "dropped", "set_aside", "void"
LOST_RESTORED, LOST_CLOUD = "restored_copy", "cloud_lost"
LOST_KINDS = (LOST_DROPPED, LOST_SET_ASIDE, LOST_VOID, LOST_RESTORED, LOST_CLOUD)


class LossRecord(msgspec.Struct, omit_defaults=True):
    """What was lost, where and why: one type for every kind of loss (P5.8). Never counted as results.

    It travels up like results, as content of ``lossrecord`` ``insert``, or is made by the cloud itself. ``results`` are
    executions, 0 when nobody can know; sequences are those of ``epoch`` that are gone; ``since`` and ``until`` bound
    the time of the lost results (RFC 3339).
    """

    id: Short
    kind: Short
    results: Count = 0
    messages: Count = 0
    epoch: Short = ""
    first_sequence: Count = 0
    last_sequence: Count = 0
    since: Short = ""
    until: Short = ""
    reason: Short = ""
    detail: str = ""


class NodeBirth(msgspec.Struct, omit_defaults=True):
    """Retained presence of a node (P3.4). Birth on connect, ``online: false`` as will and at a clean stop.

    ``previous`` are older epochs that still have unconfirmed messages; ``session`` counts the connects of this epoch,
    so that a late will of an earlier connection is told from a present one. ``follows`` is the last epoch before this
    one that froze a message, with its next sequence, ``<epoch>.<next>``: a cloud that knows more of that epoch has seen
    a spool that this one is an older copy of (P5.8).
    """

    node: str
    epoch: str
    online: bool
    session: Count = 0
    previous: Annotated[list[str], Meta(max_length=WINDOW)] = []
    follows: Short = ""
    next_sequence: Count = 0
    low: Count = 0
    version: Short = ""
    rules_version: Short = ""
    labels: Annotated[dict[str, str], Meta(max_length=64)] = {}
    time: Short = ""


class ControllerPresence(msgspec.Struct, omit_defaults=True):
    """Retained presence of a cloud controller (P3.4).

    ``standby``: it takes nothing of the uplink while another one does (P7.2). ``instance`` tells two processes apart
    that were given one id, ``sinks`` two controllers that do not tell the same sinks (empty: not said).
    """

    controller: str
    online: bool
    version: Short = ""
    time: Short = ""
    standby: bool = False
    instance: Short = ""
    sinks: Short = ""


class NodeStatus(msgspec.Struct, omit_defaults=True):
    """The agent's own statistics, sent every 15 s as ``nodestatus`` ``update``. Counts are since the spool began.

    In executions: accepted = confirmed + dead + dropped + set_aside + pending_results, always (P5.11). ``folded`` are
    those of which only a summary is left: they are counted, their details are gone. ``backlog_results`` are those of
    pending_results that wait behind what comes now, in a lane of their own (P5.6).
    """

    epoch: str = ""
    accepted: Count = 0
    confirmed: Count = 0
    pending_results: Count = 0
    pending_messages: Count = 0
    pending_inputs: Count = 0
    spool_bytes: Count = 0
    resends: Count = 0
    dead: Count = 0
    dropped: Count = 0
    set_aside: Count = 0
    folded: Count = 0
    backlog_results: Count = 0
    rules: Count = 0
    rules_version: Short = ""
    labels: Annotated[dict[str, str], Meta(max_length=64)] = {}
    rss_bytes: Count = 0
    uptime_s: Count = 0
    details: dict[str, Any] = {}
