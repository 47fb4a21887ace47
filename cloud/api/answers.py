"""What each operation answers, as types: the OpenAPI document is made from these, and a test holds answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cloud.deadletters import LetterRow, Redriven, ShownLetter
from cloud.forwarders.forwarder import SinkRow
from cloud.ledger import FleetRow, LedgerRow
from cloud.stores.assigning import AssignmentRow, Summary
from cloud.stores.auditing import AuditRow
from cloud.stores.base import ErrorRow, LossRow, NodeRow, ResultRow, RuleRow
from cloud.stores.onenode import ObjectOnNode
from cloud.stores.status import Condition, NodeShare


class Account(msgspec.Struct, frozen=True):
    """The ledger: the account of each node, and the sums over those."""

    nodes: list[LedgerRow]
    fleet: FleetRow


class Replaced(msgspec.Struct, frozen=True):
    """A node, and the epoch with which it goes on."""

    node: str
    epoch: str


class Dropped(msgspec.Struct, frozen=True):
    """How many dead letters were forgotten."""

    dropped: int


class Statistics(msgspec.Struct, frozen=True):
    """Counters and gauges by part; which there are depends on the version."""

    controller: dict[str, Any]
    store: dict[str, Any]


class ChangedObject(msgspec.Struct, frozen=True):
    """What became of a rule or endpoint (created, configured, unchanged, deleted), and for how many nodes it is."""

    kind: str
    namespace: str
    name: str
    uid: str
    version: int
    outcome: str
    nodes: int


class CheckedTexts(msgspec.Struct, frozen=True):
    """How many rules and endpoints were checked without a finding."""

    objects: int


class ChangedNode(msgspec.Struct, frozen=True):
    """What became of a node: added, changed or deleted."""

    node: str
    outcome: str


class WantedObject(msgspec.Struct, kw_only=True):
    """A rule or endpoint that is wanted, with its manifest and on how many nodes it is what; times are unix seconds.

    ``enabled``, ``source`` and ``target`` are of a rule, ``type`` is of an endpoint.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    version: int
    manifest: dict[str, Any]
    origin: str
    created_at: float
    updated_at: float
    summary: Summary
    enabled: bool = True
    source: str = ""
    target: str = ""
    type: str = ""


class DescribedRule(WantedObject, kw_only=True):
    """All that is known of a rule; ``words`` sum it up, a line each; the rest is as sinks are told it (P8.1).

    ``version`` is 0 and ``manifest`` empty for one that is not wanted: ``origin`` is ``local`` (nodes have it of their
    own) or ``gone`` (it was deleted), and so is the state of its nodes.
    """

    words: list[str]
    success: int
    fail: int
    last_success: float
    last_failure: float
    p50_us: int
    p95_us: int
    last_minute: int
    last_hour: int
    last_day: int
    nodes: list[NodeShare]
    conditions: list[Condition]
    errors: list[ErrorRow]


class DescribedNode(msgspec.Struct, frozen=True):
    """What is known of a node; ``words`` sum it up, a line each, with what to do; ``letters`` are dead ones here."""

    node: NodeRow
    words: list[str]
    account: LedgerRow
    objects: list[ObjectOnNode]
    errors: list[ErrorRow]
    losses: list[LossRow]
    letters: int


# operation -> its answer; of pages and streams the type of one row
ANSWERS: Mapping[str, Any] = {
    "get.nodes": NodeRow,
    "get.rules": RuleRow,
    "get.results": ResultRow,
    "get.errors": ErrorRow,
    "get.losses": LossRow,
    "get.sinks": SinkRow,
    "get.audit": AuditRow,
    "node.replace": Replaced,
    "ledger": Account,
    "dlq.ls": LetterRow,
    "dlq.show": ShownLetter,
    "dlq.redrive": list[Redriven],
    "dlq.drop": Dropped,
    "watch.results": ResultRow,
    "statistics": Statistics,
    "apply": list[ChangedObject],
    "check": CheckedTexts,
    "get.objects": WantedObject,
    "get.assignments": AssignmentRow,
    "describe.rule": DescribedRule,
    "describe.node": DescribedNode,
    "delete": list[ChangedObject],
    "enable": list[ChangedObject],
    "disable": list[ChangedObject],
    "node.add": ChangedNode,
    "node.delete": ChangedNode,
}
