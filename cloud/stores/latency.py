"""How long executions take: histograms that add up, whoever counted, and percentiles of them (protocol P8.1).

Buckets are spaced by powers of two, each in four equal parts, so a duration is told within a ninth of its value (below
8 us exactly) and no more than 160 buckets are ever needed. Rows of an hour add up; a percentile is of this hour and the
one before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from sqlalchemy import Connection, Double, cast, func, select

from cloud.stores.tables import latencies

SLOT_S = 3600  # length of a histogram in seconds
SLOTS = 2  # histograms that a percentile is of: this hour's and the last one's
DURATION_MAX = 2**40 - 1  # microseconds, 12 days; longer ones count as this
_TABLE_MAX = 2**16  # microseconds below which a bucket is looked up


def bucket_of(duration: int) -> int:
    """Return the bucket of a duration (microseconds from 0)."""
    duration = min(duration, DURATION_MAX)
    shift = duration.bit_length() - 3
    return duration if shift < 1 else (shift << 2) + (duration >> shift)


def middle_of(bucket: int) -> int:
    """Return the duration (microseconds) that stands for a bucket; no duration in it is off by more than a ninth."""
    if bucket < 8:
        return bucket
    shift = (bucket >> 2) - 1
    low, high = (4 + (bucket & 3)) << shift, (5 + (bucket & 3)) << shift
    return 2 * low * high // (low + high)  # as far from both, in parts of them


@cache
def _table() -> bytes:
    """The buckets of all durations below ``_TABLE_MAX``."""
    parts, at = [], 0
    while at < _TABLE_MAX:
        width = 1 << max(0, at.bit_length() - 3)
        parts.append(bytes([bucket_of(at)]) * width)
        at += width
    return b"".join(parts)


def histogram(durations: Sequence[int]) -> Counter[int]:
    """Return how many of ``durations`` (microseconds) are in each bucket."""
    try:
        return Counter(map(_table().__getitem__, durations))
    except IndexError:  # some are longer than the table
        return Counter(map(bucket_of, durations))


def percentiles(counts: Mapping[int, int], wanted: Iterable[float]) -> list[int]:
    """Return the durations (microseconds) below which the ``wanted`` shares (0 to 1) fall; 0 when nothing is counted.

    ``counts`` are executions by bucket.
    """
    total, found = sum(counts.values()), []
    for share in wanted:
        left, at = share * total, 0
        for at in sorted(counts):
            left -= counts[at]
            if left <= 0:
                break
        found.append(middle_of(at) if total else 0)
    return found


def slot_of(at: float) -> int:
    """Return the beginning of the hour of ``at``, both in unix seconds."""
    return int(at) // SLOT_S * SLOT_S


def durations(conn: Connection) -> dict[tuple[int, int], int]:
    """Return the executions of all rules that the store has, by the beginning of their hour and by bucket."""
    c = latencies.c
    rows = conn.execute(select(c.start, c.bucket, func.sum(cast(c["count"], Double))).group_by(c.start, c.bucket))
    return {(start, bucket): int(count) for start, bucket, count in rows}
