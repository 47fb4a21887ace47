"""Loss records: each is kept once, whoever made it, and summed by kind (protocol P5.8, P5.11)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Double, cast, func, select

from cloud.counting import TOTAL_MAX
from cloud.stores.base import LossRow, LossSum
from cloud.stores.rings import saturating
from cloud.stores.tables import losses
from common.models import LOST_CLOUD, LOST_KINDS, LOST_RESTORED, Epoch, LossRecord, clean_text, rfc3339

EDGE, CLOUD = "edge", "cloud"
_SUMS = ("results", "messages")


class Loss(NamedTuple):
    """A record to keep, of which node, who made it, and when it came (unix seconds)."""

    node: str
    record: LossRecord
    origin: str
    at: float


def cloud_lost(node: str, epoch: Epoch, first: int, last: int, messages: int, at: float) -> Loss:
    """The record of messages that were confirmed once, that the node holds no more, and that are unknown here."""
    record = LossRecord(
        id=f"cloud-{epoch}-{first}-{last}", kind=LOST_CLOUD, messages=min(messages, TOTAL_MAX), epoch=str(epoch),
        first_sequence=first, last_sequence=last, until=rfc3339(at), reason="store_restored",
        detail="they were confirmed once and are unknown here: the cloud's store was restored or wiped",
    )  # fmt: skip
    return Loss(node, record, CLOUD, at)


def restored_copy(node: str, key: str, epoch: str, first: int, last: int, detail: str, at: float) -> Loss:
    """The record of a conflict: ``first`` to ``last`` of ``epoch`` are in doubt, 0 where nobody can know."""
    record = LossRecord(
        id=key, kind=LOST_RESTORED, messages=max(0, last - first + 1) if last else 0, epoch=epoch,
        first_sequence=first, last_sequence=last, until=rfc3339(at), reason="conflict", detail=detail,
    )  # fmt: skip
    return Loss(node, record, CLOUD, at)


def write_losses(conn: Connection, insert: Any, found: Iterable[Loss], per_node_max: int) -> None:
    """Keep the records that are new. A node that has its number of records gets further ones added up, by kind."""
    by_node: dict[str, list[Loss]] = {}
    for loss in found:
        by_node.setdefault(loss.node, []).append(loss)
    for node, records in sorted(by_node.items()):
        held = conn.execute(select(func.count()).select_from(losses).where(losses.c.node == node)).scalar() or 0
        room = max(0, per_node_max - held)
        if records[:room]:
            kept = insert(losses).on_conflict_do_nothing(index_elements=["node", "id"])
            conn.execute(kept, [_row(loss) for loss in records[:room]])
        for loss in records[room:]:
            _add_up(conn, insert, loss)


def _add_up(conn: Connection, insert: Any, loss: Loss) -> None:
    known = select(losses.c.id).where(losses.c.node == loss.node, losses.c.id == loss.record.id)
    if conn.execute(known).first() is not None:
        return
    kind = (
        loss.record.kind if loss.record.kind in LOST_KINDS else "other"
    )  # a hostile node may name any number of kinds
    values = _row(loss) | {"id": f"more-{kind}", "kind": kind, "detail": "further records, added up", "epoch": "",
                           "first_sequence": 0, "last_sequence": 0}  # fmt: skip
    statement = insert(losses).values(values)
    new = statement.excluded
    changes = {name: saturating(losses.c[name], new[name]) for name in _SUMS} | {"until": new["until"]}
    conn.execute(statement.on_conflict_do_update(index_elements=["node", "id"], set_=changes))


def _row(loss: Loss) -> dict[str, Any]:
    record = loss.record
    return {
        "node": loss.node, "id": record.id, "kind": record.kind, "results": min(record.results, TOTAL_MAX),
        "messages": min(record.messages, TOTAL_MAX), "epoch": record.epoch, "first_sequence": record.first_sequence,
        "last_sequence": record.last_sequence, "since": record.since, "until": record.until, "reason": record.reason,
        "detail": clean_text(record.detail), "received_at": loss.at, "origin": loss.origin,
    }  # fmt: skip


def losses_of(conn: Connection, node: str, kind: str, limit: int) -> list[LossRow]:
    """See Store.losses."""
    columns = [losses.c[name] for name in LossRow.__struct_fields__]
    wanted = [column == value for column, value in ((losses.c.node, node), (losses.c.kind, kind)) if value]
    order = (losses.c.received_at.desc(), losses.c.node, losses.c.id)
    return [LossRow(*row) for row in conn.execute(select(*columns).where(*wanted).order_by(*order).limit(limit))]


def sums(conn: Connection) -> dict[str, dict[str, LossSum]]:
    """Return what each node lost, by kind."""
    totals = [func.sum(cast(losses.c[name], Double)) for name in _SUMS]
    query = select(losses.c.node, losses.c.kind, func.count(), *totals).group_by(losses.c.node, losses.c.kind)
    found: dict[str, dict[str, LossSum]] = {}
    for node, kind, records, results, messages in conn.execute(query.order_by(losses.c.node, losses.c.kind)):
        found.setdefault(node, {})[kind] = LossSum(records, int(results), int(messages))
    return found
