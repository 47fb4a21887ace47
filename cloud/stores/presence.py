"""Births, offline notices and retired epochs: who is there, and whose late messages no longer count (P3.4, P5.7, P5.8).

Presence is ordered by (epoch counter, session, offline after online), never by arrival: a late will of an earlier
connection is told from a present one, and a birth that a broker kept from long ago does not make a node young again.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from cloud.stores.tables import nodes, progress
from common.models import Epoch, NodeBirth

log = logging.getLogger(__name__)


def apply_presence(conn: Connection, birth: NodeBirth, epoch: Epoch, at: float) -> bool:
    """Take a birth or offline into the node's row. False when it is older than what is known, and so ignored."""
    row = conn.execute(select(nodes).where(nodes.c.node == birth.node).with_for_update()).mappings().first()
    if row is None:
        values = _values(birth, epoch, at, was_online=None)
        conn.execute(insert(nodes).values({"node": birth.node, "first_seen": at, "last_seen": at, **values}))
        return True
    conflict = _conflict(row, birth, epoch)
    if conflict:
        if row["conflict"] != conflict:
            log.warning("node %s: %s", birth.node, conflict)
            conn.execute(update(nodes).where(nodes.c.node == birth.node).values(conflict=conflict))
        return False
    known = (row["epoch_n"], row["session"], not row["online"])
    if row["epoch_n"] and (epoch.n, birth.session, not birth.online) < known:
        return False
    values = _values(birth, epoch, at, was_online=row["online"] if row["epoch_n"] else None)
    conn.execute(update(nodes).where(nodes.c.node == birth.node).values(**values))
    if birth.online:
        retire(conn, birth.node, values["lowest_n"], row["retired_through"])
    return True


def _values(birth: NodeBirth, epoch: Epoch, at: float, *, was_online: bool | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "online": birth.online,
        "epoch_n": epoch.n,
        "epoch_uuid": epoch.uuid,
        "session": birth.session,
    }
    if was_online is not birth.online:
        values["since"] = at
    if birth.online:
        named = [epoch, *(Epoch.parse(text) for text in birth.previous)]
        values |= {
            "lowest_n": min(each.n for each in named),
            "version": birth.version,
            "rules_version": birth.rules_version,
            "labels": msgspec.json.encode(birth.labels).decode(),
            "last_seen": at,
            "conflict": "",
        }
    if was_online is None:
        values["since"] = at
    return values


def _conflict(row: Any, birth: NodeBirth, epoch: Epoch) -> str:
    """Say why this birth cannot be of the spool that the store knows, or nothing (P5.8)."""
    if not birth.online:
        return ""
    if epoch.n < row["epoch_n"]:
        return f"born with epoch {epoch.n}, but epoch {row['epoch_n']} is known: a restored spool, or two nodes"
    if epoch.n == row["epoch_n"] and epoch.uuid != row["epoch_uuid"]:
        return f"epoch {epoch.n} is known under another id: a restored spool, or two nodes"
    return ""


def retire(conn: Connection, node: str, lowest_named: int, retired_through: int) -> int:
    """Retire every epoch below the lowest that the birth names and below the highest confirmed one (P5.7).

    Their progress rows go, ``retired_through`` stays and refuses their late messages. Returns the new value.
    """
    confirmed = conn.execute(
        select(progress.c.n)
        .where(progress.c.node == node, (progress.c.mark > 0) | (progress.c.bits > 0))
        .order_by(progress.c.n.desc())
        .limit(1)
    ).scalar()
    through = min(lowest_named, confirmed or 0) - 1
    if through <= retired_through:
        return retired_through
    conn.execute(delete(progress).where(progress.c.node == node, progress.c.n <= through))
    conn.execute(update(nodes).where(nodes.c.node == node).values(retired_through=through))
    return through
