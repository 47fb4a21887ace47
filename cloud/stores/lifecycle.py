"""Nodes that a person adds and retires (protocol P6.5). A retired node's row stays: it refuses what still comes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection, insert, select, update

from cloud.stores.assigning import effective_labels, end_node
from cloud.stores.base import RETIRED
from cloud.stores.tables import nodes
from common.errors import ControlError, RefusedError


def retired_error(node: str) -> RefusedError:
    """What a retired node is answered."""
    return RefusedError(RETIRED, f"node {node} was deleted; fieldpost node add {node} takes it back")


def add_node(conn: Connection, node: str, labels: Mapping[str, str] | None, at: float) -> tuple[bool, dict[str, str]]:
    """Make a node one of the fleet, for the first time or again; return whether it was not before, and its labels.

    ``labels`` go over those that the node states of itself; None leaves what was given before.
    """
    row = conn.execute(
        select(nodes.c.labels, nodes.c.added_labels, nodes.c.retired_at).where(nodes.c.node == node).with_for_update()
    ).first()
    added = msgspec.json.encode(labels or {}, order="deterministic").decode()
    if row is None:
        conn.execute(insert(nodes).values(node=node, first_seen=at, last_seen=at, since=at, added_labels=added))
        return True, effective_labels("{}", added)
    added = row.added_labels if labels is None else added
    since = {"since": at} if row.retired_at else {}
    conn.execute(update(nodes).where(nodes.c.node == node).values(retired_at=0, added_labels=added, **since))
    return bool(row.retired_at), effective_labels(row.labels, added)


def retire_node(conn: Connection, node: str, at: float) -> None:
    """Take a node out of the fleet: its assignments end, and its late messages are refused.

    Raises ControlError for one that is not known, or was deleted before.
    """
    row = conn.execute(select(nodes.c.retired_at).where(nodes.c.node == node).with_for_update()).first()
    if row is None or row.retired_at:
        before = "; it was deleted before" if row is not None else ""
        raise ControlError(f"node {node} is not known here{before}", kind="not_found")
    out = {"retired_at": at, "online": False, "since": at, "chosen_for": "", "conflict": ""}
    conn.execute(update(nodes).where(nodes.c.node == node).values(out))
    end_node(conn, node, at)
