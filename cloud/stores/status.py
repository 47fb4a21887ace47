"""The status of a rule as it is told onward: counts, latency, nodes, errors and conditions in one value (P8.1)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from cloud.stores.base import ErrorRow

READY, DEGRADED = "Ready", "Degraded"  # types of conditions
TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"  # their status
LOCAL = "local"  # origin of a rule that a node has of its own layers


class RuleKey(NamedTuple):
    """Which rule. A rule that is deleted and made again under its name has another ``uid``; local ones have none."""

    namespace: str
    rule: str
    uid: str


class NodeShare(msgspec.Struct, frozen=True):
    """What a rule did and is on one node. ``state`` is pending, applied, failed, stale or removed; empty for a local
    rule. Versions are 0 when there is none; ``error`` is the node's finding about the version that it refused.
    """

    node: str
    success: int = 0
    fail: int = 0
    state: str = ""
    desired: int = 0
    reported: int = 0
    error: str = ""
    last_at: float = 0


class Condition(msgspec.Struct, frozen=True):
    """A condition as Kubernetes has them; ``since`` is the time of its last transition (unix seconds)."""

    type: str
    status: str
    reason: str
    message: str
    since: float


class RuleStatus(msgspec.Struct, frozen=True):
    """Everything that a sink is told of a rule. ``version`` rises with every change (P8.2), ``generation`` is the
    desired version, 0 for a local rule. Durations are microseconds, times unix seconds, 0 when never.
    """

    namespace: str
    rule: str
    uid: str
    version: int
    generation: int = 0
    origin: str = LOCAL
    success: int = 0
    fail: int = 0
    last_success: float = 0
    last_failure: float = 0
    p50_us: int = 0
    p95_us: int = 0
    nodes: list[NodeShare] = []
    errors: list[ErrorRow] = []
    conditions: list[Condition] = []

    @property
    def key(self) -> RuleKey:
        """Which rule."""
        return RuleKey(self.namespace, self.rule, self.uid)
