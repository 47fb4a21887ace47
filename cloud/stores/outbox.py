"""The outbox: which sink was told which version of which rule, and who is telling it now (protocol P8.2).

A rule is pending for a sink while its version in ``changes`` is above the one in the sink's row of ``deliveries``. To
tell it, a controller claims the row for some seconds, reads the rule's status, tells it, and settles the version that
it told. A controller that dies leaves a claim that runs out; whoever takes it then tells the same version again, so a
sink hears everything at least once. Versions never go back: an answer that comes late, after another controller told
more, settles nothing.

What is due is found on a reader's connection, over all rules; the claim looks again at those few rows alone, so the
writer is never held up by a large outbox. Times are the controllers' wall clocks: a value that lies further ahead than
it could have been set is a clock that jumped, and holds nothing up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from cloud.stores.bulk import dialect_insert
from cloud.stores.status import RuleKey
from cloud.stores.tables import changes, deliveries, objects
from common.rules import RULE_KIND

CLAIM_S_MAX = 3600.0  # of any claim
WAIT_S_MAX = 7200.0  # of any wait before a rule is told again
SKEW_S_MAX = 5.0  # between the clocks of controllers
FORGOTTEN = 2**62  # version of a rule that is gone, and that the sink was asked to forget
GONE_KEPT_S = 86_400.0  # that a deleted rule stays in the outbox, for the results that come late
LOOKED_AT_MAX = 1000  # pending rules that a look reads one by one
REFUSALS_MAX = 10  # that a look names

MARK = RuleKey("", "", "")  # key of a sink's row that is a mark in the ring of single results, not a rule (P8.6)
_KEY = RuleKey._fields
_TOLD = func.coalesce(deliveries.c.version, 0)
_TOLD_AT = func.coalesce(deliveries.c.delivered_at, 0)


class Terms(NamedTuple):
    """Who tells whom, and how often. ``forgets``: the sink keeps a state per rule, which it can be asked to clear, and
    is told nothing of rules that are gone.
    """

    sink: str
    holder: str
    interval_s: float = 0
    forgets: bool = False


class Claimed(NamedTuple):
    """A rule that is now ours to tell: its version, the one that the sink has, and how often it failed in a row."""

    key: RuleKey
    version: int
    told: int
    attempts: int


class Note(NamedTuple):
    """What became of one rule: told (or ``refused``, with the reason), or, with ``retry_at`` not 0, not now."""

    key: RuleKey
    version: int
    refused: str = ""
    retry_at: float = 0


class Waiting(NamedTuple):
    """A pending rule as a look sees it. ``told`` and ``told_at`` are 0 when the sink knows nothing of it."""

    key: RuleKey
    version: int
    changed_at: float
    told: int
    told_at: float


class Look(NamedTuple):
    """The outbox of one sink: how many rules are pending, when the next is due (0: none is pending), the pending ones
    that were told longest ago, and how many versions are refused, with key and reason of some.
    """

    pending: int
    next_at: float
    waiting: list[Waiting]
    refused: int
    refusals: list[tuple[RuleKey, str]]


def due(conn: Connection, terms: Terms, now: float, limit: int) -> list[RuleKey]:
    """Return at most ``limit`` rules that may be told now, the one that was told longest ago first."""
    query = (
        select(*(changes.c[name] for name in _KEY))
        .select_from(_joined(terms.sink))
        .where(_pending(terms), _due_at(terms, now) <= now)
        .order_by(_waits_since(), changes.c.changed_at)
        .limit(limit)
    )
    return [RuleKey(*row) for row in conn.execute(query)]


def look(conn: Connection, terms: Terms, now: float) -> Look:
    """Return what waits for the sink."""
    joined, pending = _joined(terms.sink), _pending(terms)
    sums = select(func.count(), func.min(_due_at(terms, now))).select_from(joined).where(pending)
    count, next_at = conn.execute(sums).one()
    columns = [changes.c[name] for name in (*_KEY, "version", "changed_at")]
    rows = select(*columns, _TOLD, _TOLD_AT).select_from(joined).where(pending).order_by(_TOLD_AT).limit(LOOKED_AT_MAX)
    waiting = [Waiting(RuleKey(n, r, u), *more) for n, r, u, *more in conn.execute(rows)] if count else []
    d = deliveries.c
    refused = (d.sink == terms.sink, d.refused != "")
    number = conn.execute(select(func.count()).select_from(deliveries).where(*refused)).scalar_one()
    named = select(d.namespace, d.rule, d.uid, d.refused).where(*refused).limit(REFUSALS_MAX)
    refusals = [(RuleKey(*row[:3]), row[3]) for row in conn.execute(named)] if number else []
    return Look(count, next_at or 0, waiting, number, refusals)


def recent(conn: Connection, terms: Terms, now: float) -> int:
    """Return how many rules the sink was told in the last second, or is being told by others, by any controller."""
    d = deliveries.c
    told = and_(d.delivered_at > now - 1, d.delivered_at <= now + SKEW_S_MAX)
    others = and_(d.claimed_by.not_in(["", terms.holder]), d.claimed_until > now, d.claimed_until < now + CLAIM_S_MAX)
    query = select(func.count()).select_from(deliveries).where(d.sink == terms.sink, or_(told, others))
    return int(conn.execute(query).scalar_one())


def claim(
    conn: Connection, terms: Terms, keys: Sequence[RuleKey], limit: int, now: float, until: float
) -> list[Claimed]:
    """Take ``limit`` of ``keys`` that are still due and that nobody else holds, until ``until`` (unix seconds); those
    that were told longest ago come first.
    """
    if not keys:
        return []
    ordered, d = sorted(keys), deliveries.c
    fresh = (
        select(literal(terms.sink), *(changes.c[name] for name in _KEY), literal(0))
        .select_from(_joined(terms.sink))
        .where(tuple_(*(changes.c[name] for name in _KEY)).in_(ordered), d.sink.is_(None))
        .order_by(*(changes.c[name] for name in _KEY))
    )
    conn.execute(_insert(conn).from_select(["sink", *_KEY, "version"], fresh).on_conflict_do_nothing())
    version = select(changes.c.version).where(*(changes.c[name] == d[name] for name in _KEY)).scalar_subquery()
    wanted = tuple_(*(d[name] for name in _KEY)).in_(ordered)
    found = conn.execute(
        select(*(d[name] for name in _KEY), func.coalesce(version, 0), d.version, d.attempts)
        .where(d.sink == terms.sink, wanted, _due_at(terms, now) <= now, or_(version > d.version, d.namespace == ""))
        .order_by(_waits_since())
        .limit(limit)
        .with_for_update(skip_locked=True, of=deliveries)
    )
    ours = [Claimed(RuleKey(n, r, u), *more) for n, r, u, *more in found]
    if ours:
        taken = tuple_(*(d[name] for name in _KEY)).in_(sorted(each.key for each in ours))
        held = update(deliveries).where(d.sink == terms.sink, taken)
        conn.execute(held.values(claimed_until=until, claimed_by=terms.holder))
    return ours


def begin_mark(conn: Connection, sink: str, version: int) -> None:
    """Give a sink of single results its mark, unless it has one."""
    conn.execute(_insert(conn).values(sink=sink, **MARK._asdict(), version=version).on_conflict_do_nothing())


def settle(conn: Connection, terms: Terms, notes: Sequence[Note], now: float) -> None:
    """Write what became of claimed rules, and let go of those claims that are still ours."""
    told = [note for note in notes if not note.retry_at]
    if told:
        rows = [_bound(terms, note, {"to_refused": note.refused, "to_at": now}) for note in sorted(told)]
        conn.execute(_SETTLE, rows)
    again = [note for note in notes if note.retry_at]
    if again:
        conn.execute(_AGAIN, [_bound(terms, note, {"to_next": note.retry_at}) for note in sorted(again)])


def release(conn: Connection, sink: str, holder: str) -> None:
    """Let go of all claims of a controller, so that another one takes them at once."""
    d = deliveries.c
    mine = (d.sink == sink, d.claimed_by == holder)
    conn.execute(update(deliveries).where(*mine).values(claimed_until=0, claimed_by=""))


def mark_of(conn: Connection, terms: Terms, now: float) -> tuple[int, float]:
    """Return the sink's mark in the ring (0: it has none), and when it may be told more (0: at once)."""
    d = deliveries.c
    at = select(d.version, _due_at(terms, now)).where(d.sink == terms.sink, *(d[n] == "" for n in _KEY))
    row = conn.execute(at).one_or_none()
    return (int(row[0]), float(row[1])) if row else (0, 0.0)


def to_forget(conn: Connection, sink: str, limit: int) -> list[tuple[RuleKey, bool]]:
    """Return rules that are gone and that the sink still has; with each, whether another rule lives under its name."""
    d, heir = deliveries.c, changes.alias()
    same_name = (heir.c.namespace == d.namespace, heir.c.rule == d.rule, heir.c.uid != d.uid)
    unknown = ~exists().where(*(changes.c[name] == d[name] for name in _KEY))
    query = (
        select(*(d[name] for name in _KEY), exists().where(*same_name, ~_gone(heir)))
        .where(d.sink == sink, d.version > 0, d.version < FORGOTTEN, d.namespace != "", or_(unknown, _gone(deliveries)))
        .limit(limit)
    )
    return [(RuleKey(*row[:3]), bool(row[3])) for row in conn.execute(query)]


def trim(conn: Connection, terms: Terms, now: float) -> None:
    """Drop the rows of rules that are gone: of this sink when it has nothing of them, of all after a day."""
    d = deliveries.c
    unknown = ~exists().where(*(changes.c[name] == d[name] for name in _KEY))
    done = or_(d.version == 0, d.version >= FORGOTTEN) if terms.forgets else literal(True)
    conn.execute(delete(deliveries).where(d.sink == terms.sink, d.namespace != "", unknown, done))
    conn.execute(delete(changes).where(changes.c.changed_at < now - GONE_KEPT_S, _gone(changes)))


def _insert(conn: Connection) -> Any:
    return dialect_insert(conn.dialect.name)(deliveries)


def _joined(sink: str) -> Any:
    same = (deliveries.c[name] == changes.c[name] for name in _KEY)
    return changes.outerjoin(deliveries, and_(deliveries.c.sink == sink, *same))


def _pending(terms: Terms) -> ColumnElement[bool]:
    newer = changes.c.version > _TOLD
    return and_(newer, ~_gone(changes)) if terms.forgets else newer


def _gone(of: Any) -> ColumnElement[bool]:
    """SQL: the rule of a row of ``of`` was deleted. A local rule (no uid) is never gone while it is in ``changes``."""
    o = objects.c
    wanted = exists().where(o.kind == RULE_KIND, o.namespace == of.c.namespace, o.name == of.c.rule, o.uid == of.c.uid)
    return and_(of.c.uid != "", ~wanted)


def _due_at(terms: Terms, now: float) -> ColumnElement[float]:
    """SQL: when the sink may be told of the rule, 0 for at once."""
    d = deliveries.c
    at = case((now + SKEW_S_MAX < _TOLD_AT, 0.0), (_TOLD_AT > 0, _TOLD_AT + terms.interval_s), else_=0.0)
    at = _later(at, _unless_far(d.next_at, now + WAIT_S_MAX))
    theirs = case((d.claimed_by == terms.holder, 0.0), else_=_unless_far(d.claimed_until, now + CLAIM_S_MAX))
    found: ColumnElement[float] = _later(at, theirs)
    return found


def _waits_since() -> Any:
    """SQL: since when a rule waits for its turn: from the last time it was told, or was to be told again. So what fails
    again and again lets the others pass, and is never passed over for good.
    """
    return _later(_TOLD_AT, func.coalesce(deliveries.c.next_at, 0))


def _unless_far(column: Any, most: float) -> Any:
    return case((column > most, 0.0), else_=func.coalesce(column, 0.0))


def _later(one: Any, other: Any) -> Any:
    return case((one > other, one), else_=other)


def _bound(terms: Terms, note: Note, more: dict[str, Any]) -> dict[str, Any]:
    of = {f"of_{name}": value for name, value in note.key._asdict().items()}
    return {"of_sink": terms.sink, "of_holder": terms.holder, "to_version": note.version, **of, **more}


def _update() -> Any:
    d = deliveries.c
    ours = d.claimed_by == bindparam("of_holder")
    let_go = {
        "claimed_until": case((ours, 0.0), else_=d.claimed_until),
        "claimed_by": case((ours, ""), else_=d.claimed_by),
    }
    of_rule = [d[name] == bindparam(f"of_{name}") for name in ("sink", *_KEY)]
    return update(deliveries).where(*of_rule).values(let_go)


def _settling() -> Any:
    d = deliveries.c
    version = bindparam("to_version", type_=BigInteger)
    newer = d.version > version  # somebody told more meanwhile
    return _update().values(
        version=case((newer, d.version), else_=version),
        refused=case((newer, d.refused), else_=bindparam("to_refused")),
        delivered_at=bindparam("to_at", type_=Double),
        attempts=0,
        next_at=0.0,
    )


_SETTLE = _settling()
_AGAIN = _update().values(
    attempts=deliveries.c.attempts
    + case((deliveries.c.version < bindparam("to_version", type_=BigInteger), 1), else_=0),
    next_at=bindparam("to_next", type_=Double),
)
