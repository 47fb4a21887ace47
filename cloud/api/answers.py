"""What each operation answers, as types: the OpenAPI document is made from these, and a test holds answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cloud.deadletters import LetterRow, Redriven, ShownLetter
from cloud.ledger import FleetRow, LedgerRow
from cloud.stores.auditing import AuditRow
from cloud.stores.base import ErrorRow, LossRow, NodeRow, ResultRow, RuleRow


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


# operation -> its answer; of pages and streams the type of one row
ANSWERS: Mapping[str, Any] = {
    "get.nodes": NodeRow,
    "get.rules": RuleRow,
    "get.results": ResultRow,
    "get.errors": ErrorRow,
    "get.losses": LossRow,
    "get.audit": AuditRow,
    "node.replace": Replaced,
    "ledger": Account,
    "dlq.ls": LetterRow,
    "dlq.show": ShownLetter,
    "dlq.redrive": list[Redriven],
    "dlq.drop": Dropped,
    "watch.results": ResultRow,
    "statistics": Statistics,
}
