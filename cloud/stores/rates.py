"""Executions per minute, hour and day: rows that add up, so that several controllers show one truth (protocol P8.1).

Theory of operation. Everybody adds to rows of a minute. Minutes that are older than an hour become part of their hour,
hours that are older than a day part of their day, and days are dropped in the end; so an execution stands in one row at
any time, and each sum below reads few rows. Who folds deletes the rows and adds what the deletion returned: two who do
it at once never add the same row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Double, and_, case, cast, delete, func, or_, select

from cloud.stores.bulk import dialect_insert
from cloud.stores.rings import saturating
from cloud.stores.tables import rates

MINUTE, HOUR, DAY = 60, 3600, 86_400  # spans in seconds


def begin(at: float, span: int) -> int:
    """Return when the span began that ``at`` is in (unix seconds)."""
    return int(at) // span * span


def add(dialect: str) -> Any:
    """Return the statement that adds rows to ``rates``."""
    statement = dialect_insert(dialect)(rates)
    new = statement.excluded
    changes = {name: saturating(rates.c[name], new[name]) for name in ("success", "fail")}
    return statement.on_conflict_do_update(index_elements=list(rates.primary_key.columns.keys()), set_=changes)


def rates_query(now: float, *of: Any) -> Any:
    """Return the query for (namespace, rule, uid, last minute, last hour, last day) of the rules that ``of`` chooses.

    The minute is the last full one; hour and day go up to now.
    """
    c, minute = rates.c, begin(now, MINUTE)
    executions = cast(c.success, Double) + c.fail  # as the totals: no sum of hostile counts may overflow
    last = and_(c.span == MINUTE, c.start == minute - MINUTE)
    hour = and_(c.span == MINUTE, c.start > minute - HOUR)
    day = or_(c.span == MINUTE, and_(c.span == HOUR, c.start > minute - DAY))
    sums = [func.sum(case((when, executions), else_=0)) for when in (last, hour, day)]
    key = (c.namespace, c.rule, c.uid)
    return select(*key, *sums).where(*of, c.span < DAY, c.start > minute - DAY).group_by(*key)


def fold(conn: Connection, now: float, days: int) -> None:
    """Make hours of minutes and days of hours that are old enough; forget days that are older than ``days``."""
    for span, into, after in ((MINUTE, HOUR, HOUR), (HOUR, DAY, DAY)):
        old = delete(rates).where(rates.c.span == span, rates.c.start <= begin(now, MINUTE) - after - span)
        gone = conn.execute(old.returning(*rates.c)).all()
        if gone:
            conn.execute(add(conn.dialect.name), _summed(gone, into))
    conn.execute(delete(rates).where(rates.c.span == DAY, rates.c.start < begin(now, DAY) - days * DAY))


def _summed(rows: Sequence[Any], into: int) -> list[dict[str, Any]]:
    sums: dict[tuple[str, str, str, int], list[int]] = {}
    for row in rows:
        into_row = sums.setdefault((row.namespace, row.rule, row.uid, begin(row.start, into)), [0, 0])
        into_row[0] += row.success
        into_row[1] += row.fail
    return [
        {"namespace": key[0], "rule": key[1], "uid": key[2], "span": into, "start": key[3], "success": s, "fail": f}
        for key, (s, f) in sorted(sums.items())
    ]
