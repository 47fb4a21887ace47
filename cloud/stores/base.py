"""The contract of a store and the values that go in and out (protocol P5.5, P5.7, P8.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection

from common.metrics import Histogram
from common.models import Epoch, ExecResult, LossRecord, NodeBirth, NodeStatus

T = TypeVar("T")

# Reasons with which a commit refuses a message.
STALE_EPOCH = "stale_epoch"  # its epoch is retired (P5.7)
BEYOND_WINDOW = "beyond_window"  # more than a window above the mark (P5.7); may be accepted when sent again later
CONFLICT = "conflict"  # its epoch is in doubt until a person decides (P5.8); the node keeps it
NOT_ASSIGNED = "not_assigned"  # it holds results of a rule of the cloud's that its node never had (P6.4)
TOO_MANY_EPOCHS = "too_many_epochs"  # the node has more epochs that are not retired than the setting allows
RETIRED = "retired"  # its node was deleted (P6.5); the node keeps it, in case it is added again
NOT_STORED = "not_stored"  # the database does not take it; never confirmed, so the node keeps it


class StatusMessage(NamedTuple):
    """One rulestatus or lossrecord message that passed all checks: order and progress are shared (P5.8).

    ``received_at`` is unix seconds by the controller's clock.
    """

    node: str
    epoch: Epoch
    sequence: int
    low: int
    msg_id: str
    results: Sequence[ExecResult]
    received_at: float
    namespace: str
    losses: Sequence[LossRecord] = ()


class Confirmed(NamedTuple):
    """What is committed of one (node, epoch) after a commit, and the last message that the commit held of it."""

    node: str
    epoch: Epoch
    through: int
    also: list[int]
    msg_id: str
    namespace: str


class RefusedStatus(NamedTuple):
    """A message that a commit did not take, with one of the reasons above.

    ``uids`` are those of the rules that are not its node's.
    """

    message: StatusMessage
    reason: str
    detail: str
    uids: Sequence[str] = ()


class CommitOutcome(msgspec.Struct):
    """What became of the messages of one ``commit``. ``results`` counts what is new, in results."""

    confirmed: list[Confirmed] = []
    refused: list[RefusedStatus] = []
    new: int = 0
    duplicate: int = 0
    results: int = 0


class LossSum(msgspec.Struct, frozen=True):
    """What a node lost of one kind. ``results`` are executions, as far as they are known; messages hold several."""

    records: int
    results: int
    messages: int


class LossRow(msgspec.Struct, frozen=True):
    """A loss record with the node it is about and ``origin``, who made it: ``edge`` or ``cloud`` (P5.8)."""

    node: str
    id: str
    kind: str
    results: int
    messages: int
    epoch: str
    first_sequence: int
    last_sequence: int
    since: str
    until: str
    reason: str
    detail: str
    received_at: float
    origin: str


class NodeRow(msgspec.Struct, frozen=True):
    """What the store knows of a node. Times are unix seconds, 0 when never; ``state`` and ``clock_skew_s`` (the node's
    clock less ours, None when it is not known) are filled by ``sessions``.

    ``since`` is when ``online`` last changed, ``conflict`` says what is wrong when two spools claim one id (P5.8),
    ``cloud_lost`` counts messages that the node holds no more and this store never saw, ``lost`` sums the loss records
    by kind. ``reported_at`` is when ``status`` came.
    """

    node: str
    state: str = ""
    online: bool = False
    epoch: str = ""
    session: int = 0
    version: str = ""
    rules_version: str = ""
    labels: dict[str, str] = {}
    status: NodeStatus | None = None
    first_seen: float = 0
    last_seen: float = 0
    since: float = 0
    retired_through: int = 0
    cloud_lost: int = 0
    duplicates: int = 0
    refused: int = 0
    conflict: str = ""
    reported_at: float = 0
    lost: dict[str, LossSum] = {}
    clock_skew_s: float | None = None


class RuleRow(msgspec.Struct, frozen=True):
    """Counts of a rule, over all nodes (``node`` empty) or of one node; always the sum of the same rows (P8.1).

    ``outcomes`` counts by ``<status>/<outcome>/<reason>`` as they came. Durations are microseconds. What follows is of
    all nodes only: percentiles of the last one to two hours, executions, and status and reason of the conditions.
    """

    namespace: str
    rule: str
    uid: str
    node: str
    success: int = 0
    fail: int = 0
    duration_sum: int = 0
    duration_max: int = 0
    first_at: float = 0
    last_success: float = 0
    last_failure: float = 0
    outcomes: dict[str, int] = {}
    p50_us: int = 0
    p95_us: int = 0
    last_minute: int = 0
    last_hour: int = 0
    last_day: int = 0
    ready: str = ""
    ready_reason: str = ""
    degraded: str = ""
    degraded_reason: str = ""


class ErrorRow(msgspec.Struct, frozen=True):
    """One distinct error of a rule: how often, first and last time, and where it was seen last (P8.1)."""

    namespace: str
    rule: str
    uid: str
    reason: str
    detail: str
    count: int
    first: float
    last: float
    node: str
    source_id: str
    step: str


class ResultRow(msgspec.Struct, frozen=True):
    """A single result from the ring (P8.6). ``id`` grows with each commit and is never used again."""

    id: int
    namespace: str
    rule: str
    uid: str
    node: str
    status: str
    outcome: str
    reason: str
    detail: str
    time: str
    received_at: float
    duration_us: int
    count: int
    source_id: str
    step: str
    msg_id: str


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that was refused: its first bytes, the digest and size of all, and why (P4.2).

    ``times`` is more than 1 for a message of an epoch in doubt, which its node sends again and again.
    """

    node: str
    topic: str
    reason: str
    detail: str
    sha256: str
    size: int
    payload: bytes
    at: float
    id: int = 0
    times: int = 1


class Letters(msgspec.Struct, frozen=True):
    """Which dead letters: all that fit every field that is not empty. ``before`` is unix seconds, ``below`` an id.

    ``oldest``: where they are too many, the first ones are meant and not the last.
    """

    ids: Sequence[int] = ()
    node: str = ""
    reason: str = ""
    before: float = 0
    below: int | None = None
    oldest: bool = False


ALL_LETTERS = Letters()


class Counted(NamedTuple):
    """What the counters hold of a node: executions, and when the last one was added (unix seconds)."""

    results: int
    last_at: float


class Store(Protocol):
    """Durable state of the cloud. All methods belong to the event loop; every write is one of the group writer's.

    What a method that writes returned for is on disk. Raises StorageError when the write was given up (the process
    stops), QueueFullError when too much waits: nothing was written, and the caller's source sends again.
    """

    async def start(self) -> None:
        """Open, check and if need be create the database. Raises StorageError with one clear line."""
        ...

    async def stop(self) -> None:
        """Commit what waits and close."""
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` in one of the writer's transactions, and return what it returns once that is committed.

        For what is rare. It may run more than once, and may raise ControlError before it has changed anything.
        """
        ...

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query on a reader's connection and thread."""
        ...

    async def commit(self, messages: Sequence[StatusMessage]) -> CommitOutcome:
        """Commit effect and progress of the messages in one transaction; what was seen before has no effect (P5.5)."""
        ...

    async def keep_statistics(self, at: float, *, everything: bool = False) -> None:
        """Write rates and latencies that were gathered (all, or a second's share), and forget old ones.

        ``at`` is the wall clock (unix seconds). No count depends on it (P8.1).
        """
        ...

    async def presence(
        self, birth: NodeBirth, epoch: Epoch, at: float, *, retained: bool = False, received: int = 0
    ) -> bool:
        """Take a birth or an offline. False when it is older than what is known, and so ignored, or in conflict (P5.8).
        Raises RefusedError ``retired`` for a node that was deleted.

        ``retained``: a broker kept it. ``received``: the highest sequence of its epoch that came well before it.
        """
        ...

    async def replace(self, node: str, at: float) -> str:
        """Take the epoch chain that was heard last as the node's own, give up all others; say which (P6.5).

        Raises ControlError for a node that is not known.
        """
        ...

    async def report(self, node: str, status: NodeStatus, at: float) -> None:
        """Take a node's own statistics. Raises RefusedError ``retired`` for a node that was deleted."""
        ...

    async def dead_letter(self, letter: DeadLetter) -> None:
        """Keep a refused message, and count it on its node if that is known."""
        ...

    async def nodes(self) -> list[NodeRow]:
        """All nodes in order of their ids."""
        ...

    async def rules(
        self, *, namespace: str = "", rule: str = "", per_node: bool = False, after: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[RuleRow]:  # fmt: skip
        """Counts per rule, or per rule and node; empty filters take all.

        In order of namespace, rule, (node,) uid: at most ``limit`` of those that come ``after`` such a key.
        """
        ...

    async def results(
        self, *, limit: int = 100, namespace: str = "", rule: str = "", status: str = "", since: int | None = None,
        before: int | None = None,
    ) -> list[ResultRow]:  # fmt: skip
        """The newest ``limit`` results, or with ``since`` the oldest whose id is above it; in order of id.

        With ``before`` only those whose id is below it.
        """
        ...

    async def last_result(self) -> int:
        """The highest id in the ring, 0 when it is empty: where to begin to watch."""
        ...

    async def errors(self, *, namespace: str = "", rule: str = "") -> list[ErrorRow]:
        """The distinct errors, per rule the last one first."""
        ...

    async def dead_letters(self, *, limit: int = 100, which: Letters = ALL_LETTERS) -> list[DeadLetter]:
        """The newest ``limit`` dead letters of those, the last one first."""
        ...

    async def drop_letters(self, which: Letters) -> int:
        """Forget those dead letters; return how many they were."""
        ...

    async def losses(self, *, node: str = "", kind: str = "", limit: int = 100) -> list[LossRow]:
        """The newest loss records, the last one first."""
        ...

    async def counted(self) -> dict[str, Counted]:
        """What is counted of each node, over all rules."""
        ...

    def commit_seconds(self) -> Histogram:
        """How long transactions of the writer took."""
        ...

    def statistics(self) -> dict[str, int]:
        """Counters and gauges by name."""
        ...
