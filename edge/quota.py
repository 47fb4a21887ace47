"""Keeping the spool within its bytes: fold the oldest results, and if that is not enough drop them, counted (P5.10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from common.codec import CodecName
from common.message import new_id
from common.models import LOST_DROPPED, LossRecord
from common.resource import RULESTATUS
from edge.batching import Packed, loss, pack, unpack
from edge.folding import fold
from edge.spooldb import SpoolDb
from edge.spooltables import Changes

STEP_ROWS = 1000
STEP_BYTES = 8 << 20
GOOD_GAIN = 4  # a step that gains less than this part of its bytes is the last resort
ROW_BYTES = 64  # of a result row beside its body, about
_DAMAGE = (msgspec.MsgspecError, ValueError, KeyError)  # what bits that have changed lead to


def fold_step(db: SpoolDb, changes: Changes, codec: CodecName, batch: tuple[int, int]) -> int:
    """Fold the oldest rows of the backlog, or, when those are of many rules, rows of some rules; returns the bytes that
    it gains.

    What it does stands in ``changes``. Sums of weights do not change. ``batch`` bounds a row that several rules share,
    in results and bytes.
    """
    best = _Step([], [], 0, 0)
    for rows in _candidates(db, changes.state.backlog_through):
        best = max(best, _fold(rows, codec, batch), key=lambda step: step.gained)
        if best.gained and best.gained * GOOD_GAIN >= _size(rows):
            break
    changes.gone_results += best.gone
    changes.folded_results += best.packed
    changes.state.folded += best.executions
    return best.gained


class _Step(NamedTuple):
    """A step that could be taken: ids of the rows that go, what takes their places, bytes gained, details lost."""

    gone: list[int]
    packed: list[Packed]
    gained: int
    executions: int


def _candidates(db: SpoolDb, through: int) -> Iterator[list[Packed]]:
    """Rows of the backlog to fold: the oldest, or, where those are of many rules, rows of one rule after the other,
    first in the older half.
    """
    oldest = db.oldest_results(STEP_BYTES, 0, through, rows_max=STEP_ROWS)
    yield oldest
    if oldest:
        yield db.oldest_of_rules(STEP_BYTES, (oldest[0].rows[0] + through) // 2, rows_max=STEP_ROWS)
        yield db.oldest_of_rules(STEP_BYTES, through, rows_max=STEP_ROWS)


def _fold(rows: list[Packed], codec: CodecName, batch: tuple[int, int]) -> _Step:
    old = [row for row in rows if row.kind == RULESTATUS]
    try:
        return _folded(old, codec, batch)
    except _DAMAGE:  # such a row stays, until the cloud refuses it (P5.9), and keeps no other from being folded
        return _folded([row for row in old if _is_sound(row)], codec, batch)


def _folded(old: list[Packed], codec: CodecName, batch: tuple[int, int]) -> _Step:
    ids = [row.rows[0] for row in old]
    folded = fold(old, codec)
    packed = folded.packed
    if len(packed) > len(ids):  # of mixed rows; a row for each rule would need new ids, behind everything that waits
        packed = pack(packed, *batch)
    gained = _size(old) - _size(packed)
    if gained <= 0 or len(packed) > len(ids):
        return _Step([], [], 0, 0)
    places = _places(old, packed)
    return _Step(
        ids, [p._replace(rows=(row,)) for row, p in zip(places, packed, strict=True)], gained, folded.executions
    )


def _is_sound(row: Packed) -> bool:
    """Whether the results of a row can be read, and are of the rule that it names."""
    try:
        results = unpack(row)
    except _DAMAGE:
        return False
    return not row.rule or {(r.project_id, r.rule_id) for r in results} == {(row.namespace, row.rule)}


def _places(old: list[Packed], packed: list[Packed]) -> list[int]:
    """The rows in whose places ``packed`` stands: each rule's oldest, or, where rules share rows, the oldest of all."""
    first: dict[tuple[str, str], int] = {}
    for row in old:
        first.setdefault((row.namespace, row.rule), row.rows[0])
    if all(row.rule for row in old):
        return [first[p.namespace, p.rule] for p in packed]
    return sorted(row.rows[0] for row in old)[: len(packed)]


def drop_step(db: SpoolDb, changes: Changes, codec: CodecName, wanted: int) -> int:
    """Drop the oldest rows, at least ``wanted`` bytes if there are so many, and keep a loss record; returns the
    bytes.
    """
    oldest = db.oldest_results(max(wanted, 1 << 16), 0, changes.state.backlog_through)
    rows = [row for row in oldest if row.kind == RULESTATUS]
    if not rows:
        return 0
    weight = sum(row.weight for row in rows)
    sound = [row for row in (rows[0], rows[-1]) if _is_sound(row)]
    first, last = (unpack(sound[0])[0], unpack(sound[-1])[-1]) if sound else (None, None)
    changes.gone_results += [row.rows[0] for row in rows]
    changes.state.dropped += weight
    changes.state.backlog -= weight
    record = LossRecord(
        new_id(),
        LOST_DROPPED,
        results=weight,
        since=(first.first or first.time) if first else "",
        until=last.time if last else "",
        reason="spool_full",
        detail="the spool reached edge.spool.bytes_max and nothing was left to fold",
    )
    changes.new_results.append(loss(record, codec))
    return _size(rows)


def _size(rows: Sequence[Packed]) -> int:
    return sum(len(row.body) + ROW_BYTES for row in rows)
