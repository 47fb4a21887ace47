"""Keeping the spool within its bytes: fold the oldest results, and if that is not enough drop them, counted (P5.10)."""

from __future__ import annotations

from collections.abc import Sequence

from common.codec import CodecName
from common.message import new_id
from common.models import LOST_DROPPED, LossRecord
from common.resource import RULESTATUS
from edge.batching import Packed, loss, pack, unpack
from edge.folding import fold
from edge.spooldb import Changes, SpoolDb

STEP_ROWS = 1000
STEP_BYTES = 8 << 20
ROW_BYTES = 64  # of a result row beside its body, about


def fold_step(db: SpoolDb, changes: Changes, codec: CodecName, batch: tuple[int, int]) -> int:
    """Fold the oldest rows of the backlog, or when those are all different those of one rule; returns the bytes that it
    gains.

    What it does stands in ``changes``. Sums of weights do not change. ``batch`` bounds a row that several rules share,
    in results and bytes.
    """
    through = changes.state.backlog_through
    for rows in (
        db.oldest_results(STEP_BYTES, 0, through, rows_max=STEP_ROWS),
        db.oldest_of_a_rule(STEP_BYTES, through, rows_max=STEP_ROWS),
    ):
        old = [row for row in rows if row.kind == RULESTATUS]
        ids = [row.rows[0] for row in old]
        folded = fold(old, codec)
        packed = folded.packed
        if len(packed) > len(
            ids
        ):  # of mixed rows; a row for each rule would need new ids, behind everything that waits
            packed = pack(packed, *batch)
        gained = _size(old) - _size(packed)
        if gained > 0 and len(packed) <= len(ids):
            changes.gone_results += ids
            # In the places of what they stand for.
            changes.folded_results += [p._replace(rows=(row,)) for row, p in zip(ids, packed, strict=False)]
            changes.state.folded += folded.executions
            return gained
    return 0


def drop_step(db: SpoolDb, changes: Changes, codec: CodecName, wanted: int) -> int:
    """Drop the oldest rows, at least ``wanted`` bytes if there are so many, and keep a loss record; returns the
    bytes.
    """
    oldest = db.oldest_results(max(wanted, 1 << 16), 0, changes.state.backlog_through)
    rows = [row for row in oldest if row.kind == RULESTATUS]
    if not rows:
        return 0
    weight = sum(row.weight for row in rows)
    first, last = unpack(rows[0])[0], unpack(rows[-1])[-1]
    changes.gone_results += [row.rows[0] for row in rows]
    changes.state.dropped += weight
    changes.state.backlog -= weight
    record = LossRecord(
        new_id(),
        LOST_DROPPED,
        results=weight,
        since=first.first or first.time,
        until=last.time,
        reason="spool_full",
        detail="the spool reached edge.spool.bytes_max and nothing was left to fold",
    )
    changes.new_results.append(loss(record, codec))
    return _size(rows)


def _size(rows: Sequence[Packed]) -> int:
    return sum(len(row.body) + ROW_BYTES for row in rows)
