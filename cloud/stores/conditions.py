"""Conditions of rules, Ready and Degraded: found by queries over the whole store, kept in rows (protocol P8.1).

Theory of operation. Nothing that is as it should be is read: the queries give the assignments that are not fine, the
rules that fail too often, the conditions that say so, and the rules that have no condition yet. What differs from the
store is a transition. It is written, and its rule marked for the sinks, only if the store still says what was compared:
so any number of controllers may look, and a transition happens once. Ready is compared with its message, which says how
many nodes it is about, and how many are silent beside those: so the sinks hear also of the next node that falls silent.

Ready is of rules that are sent to nodes. False, Refused: a node refused the desired version. False, Pending: a node
that is heard does not run it yet. Unknown, NodeSilent: nodes were not heard for the stale time. False, NoNode: no node
is chosen. Else it is True. Degraded is of all rules: True, Failing, while the share of failures in the last minutes is
above a setting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Double, and_, bindparam, cast, delete, exists, func, select, update

from cloud.stores.bulk import dialect_insert
from cloud.stores.marking import mark_changed
from cloud.stores.rates import MINUTE, begin
from cloud.stores.status import (
    DEGRADED,
    FALSE,
    READY,
    TRUE,
    UNKNOWN,
    RuleKey,
    is_silent,
    silent,
)
from cloud.stores.tables import APPLIED, FAILED, assignments, conditions, errors, nodes, objects, rates
from common.rules import RULE_KIND

DETAIL_CHARS_MAX = 300  # of a node's finding in a message
ROWS_MAX = 100_000  # assignments that are not fine and are looked at; a fleet that has more of them is not fine anyway


class Terms(NamedTuple):
    """By what conditions are found. ``now`` is unix seconds; ``silence`` False: this controller could not have heard
    the nodes, so silence says nothing. Degraded is a rule whose failures are above ``share`` of all executions in the
    last ``minutes`` full minutes and the present one.
    """

    now: float
    stale_s: float
    silence: bool
    share: float
    minutes: int


class Transition(NamedTuple):
    """A condition that is to be another: what it is now (``was`` empty: there is none), and what it becomes (``status``
    empty: its rule is gone, and so is the condition).
    """

    key: RuleKey
    type: str
    was: str
    was_reason: str
    status: str
    reason: str
    message: str

    @property
    def before(self) -> tuple[str, str]:
        """Status and reason as they are now."""
        return self.was, self.was_reason


_State = tuple[str, str, str]  # status, reason, message


def transitions(conn: Connection, terms: Terms) -> list[Transition]:
    """Return what is to change now."""
    ready = _of_type(conn, READY, _ready(conn, terms), terms)
    if not terms.silence:  # who is deaf can tell neither that nodes are silent, nor how many
        ready = [each for each in ready if each.status != UNKNOWN and (each.status, each.reason) != each.before]
    degraded = _of_type(conn, DEGRADED, _degraded(conn, terms), terms)
    return [*_gone(conn), *ready, *(_with_last_error(conn, each) for each in degraded)]


def _of_type(conn: Connection, kind: str, bad: dict[RuleKey, _State], terms: Terms) -> list[Transition]:
    """Compare the rules that are not fine with what the store says, and the other way round."""
    fine, c = _FINE[kind], conditions.c
    query = select(c.namespace, c.rule, c.uid, c.status, c.reason, c.message)
    query = query.where(c.type == kind, c.status != fine[0])
    if kind == READY:
        query = query.where(_wanted(c.namespace, c.rule, c.uid))
    said: dict[RuleKey, _State] = {RuleKey(*row[:3]): (row[3], row[4], row[5]) for row in conn.execute(query)}
    compared = 3 if kind == READY else 2  # numbers in the message of Degraded change all the time
    without, found = _without_condition(conn, kind, terms), []
    for key in sorted({*bad, *said, *without}):
        was = ("", "", "") if key in without else said.get(key, fine)
        status, reason, message = state = bad.get(key, fine)
        if state[:compared] != was[:compared]:
            found.append(Transition(key, kind, was[0], was[1], status, reason, message))
    return found


def _wanted(namespace: Any, rule: Any, uid: Any) -> Any:
    o = objects.c
    return exists().where(o.kind == RULE_KIND, o.namespace == namespace, o.name == rule, o.uid == uid)


def _gone(conn: Connection) -> list[Transition]:
    """Return the Ready of rules that were deleted."""
    c = conditions.c
    query = select(c.namespace, c.rule, c.uid, c.status, c.reason).where(c.type == READY)
    rows = conn.execute(query.where(~_wanted(c.namespace, c.rule, c.uid)))
    return [Transition(RuleKey(*row[:3]), READY, row[3], row[4], "", "", "") for row in rows]


_FINE: dict[str, _State] = {
    READY: (TRUE, "Applied", "all assigned nodes run the desired version"),
    DEGRADED: (FALSE, "Working", "few or no failures lately"),
}


def _without_condition(conn: Connection, kind: str, terms: Terms) -> set[RuleKey]:
    """Return the rules that should have this condition and do not."""
    o = objects.c
    has = _has_condition(kind, o.namespace, o.name, o.uid)
    query = select(o.namespace, o.name, o.uid).where(o.kind == RULE_KIND, ~has)
    found = {RuleKey(*row) for row in conn.execute(query)}
    if kind == DEGRADED:
        r = rates.c
        recent = (r.span == MINUTE, r.start >= _since(terms))
        query = select(r.namespace, r.rule, r.uid).where(*recent, ~_has_condition(kind, r.namespace, r.rule, r.uid))
        found |= {RuleKey(*row) for row in conn.execute(query.distinct())}
    return found


def _has_condition(kind: str, namespace: Any, rule: Any, uid: Any) -> Any:
    c = conditions.c
    return exists().where(c.namespace == namespace, c.rule == rule, c.uid == uid, c.type == kind)


def _ready(conn: Connection, terms: Terms) -> dict[RuleKey, _State]:
    """Return the rules that are not ready, and why."""
    a, n, o = assignments.c, nodes.c, objects.c
    wanted = and_(o.kind == a.kind, o.namespace == a.namespace, o.name == a.name, o.uid == a.uid)
    fine = and_(a.reported == a.desired, a.state == APPLIED, ~is_silent(terms.now, terms.stale_s))
    columns = (a.namespace, a.name, a.uid, a.node, a.desired, a.refused, a.state, a.error, a.reported)
    query = (
        select(*columns, n.online, n.last_seen, n.since)
        .select_from(assignments.join(objects, wanted).outerjoin(nodes, n.node == a.node))
        .where(a.kind == RULE_KIND, a.desired > 0, ~fine)
        .order_by(a.node)
        .limit(ROWS_MAX)
    )
    found: dict[RuleKey, list[Any]] = {}
    for row in conn.execute(query):
        found.setdefault(RuleKey(*row[:3]), []).append(row)
    states = {key: _said(rows, terms) for key, rows in found.items()}
    query = select(o.namespace, o.name, o.uid).where(o.kind == RULE_KIND, ~exists().where(wanted, a.desired > 0))
    nobody = (FALSE, "NoNode", "no node is chosen by its node_name or nodeSelector")
    return states | {RuleKey(*row): nobody for row in conn.execute(query)}


def _unheard(row: Any, terms: Terms) -> bool:
    return row.last_seen is None or silent(row.online, row.last_seen, row.since, terms.now, terms.stale_s)


def _said(rows: list[Any], terms: Terms) -> _State:
    """Say what is wrong with a rule, given its assignments that are not fine: what is worst, and with which nodes."""
    unheard = [row for row in rows if _unheard(row, terms)]
    refused = [row for row in rows if row.state == FAILED and row.refused == row.desired]
    worst = refused or [row for row in rows if not _unheard(row, terms)] or unheard
    first, more = worst[0], f" and {len(worst) - 1} more" if len(worst) > 1 else ""
    silence = f"{'were' if len(unheard) > 1 else 'was'} not heard for longer than the stale time"
    if worst is unheard:
        return UNKNOWN, "NodeSilent", f"node {first.node}{more} {silence}"
    beside = f"; {len(unheard)} node{'s' if len(unheard) > 1 else ''} {silence}" if unheard else ""
    if worst is refused:
        finding = first.error[:DETAIL_CHARS_MAX]
        kept = f"; it keeps version {first.reported}" if first.reported else ""
        return FALSE, "Refused", f"node {first.node}{more} refused version {first.desired}: {finding}{kept}{beside}"
    return FALSE, "Pending", f"node {first.node}{more} does not run version {first.desired} yet{beside}"


def _degraded(conn: Connection, terms: Terms) -> dict[RuleKey, _State]:
    """Return the rules that fail too often, and how often."""
    r = rates.c
    key = (r.namespace, r.rule, r.uid)
    fails, both = func.sum(cast(r.fail, Double)), func.sum(cast(r.success, Double) + r.fail)
    query = select(*key, fails, both).where(r.span == MINUTE, r.start >= _since(terms)).group_by(*key)
    words = "{} of {} executions failed in the last {} minutes"
    return {
        RuleKey(*of): (TRUE, "Failing", words.format(int(failed), int(total), terms.minutes))
        for *of, failed, total in conn.execute(query.having(fails > terms.share * both))
    }


def _since(terms: Terms) -> int:
    return begin(terms.now, MINUTE) - terms.minutes * MINUTE


_LAST_ERROR = (
    select(errors.c.reason, errors.c.detail)
    .where(*(errors.c[name] == bindparam(f"of_{name}") for name in RuleKey._fields))
    .order_by(errors.c.last_at.desc())
    .limit(1)
)


def _with_last_error(conn: Connection, found: Transition) -> Transition:
    """Say also what failed last. Asked at a transition only."""
    if found.status != TRUE:
        return found
    row = conn.execute(_LAST_ERROR, {f"of_{name}": value for name, value in found.key._asdict().items()}).first()
    last = f", the last with {row.reason}: {row.detail[:DETAIL_CHARS_MAX]}" if row is not None else ""
    return found._replace(message=found.message + last)


_IS = [conditions.c[name] == bindparam(f"of_{name}") for name in (*RuleKey._fields, "type")]
_LOCKED = select(conditions.c.status, conditions.c.reason, conditions.c.message).where(*_IS).with_for_update()


def write_transitions(conn: Connection, found: Iterable[Transition], now: float, *, mark: bool) -> int:
    """Write those transitions that the store is still before; return how many they were.

    ``since`` becomes ``now`` when the status changes, and stays when only its reason does. With ``mark`` the rules are
    marked for the sinks.
    """
    changed = [each.key for each in sorted(found) if _write(conn, each, now)]
    if mark:
        mark_changed(conn, changed, now)
    return len(changed)


def _write(conn: Connection, each: Transition, now: float) -> bool:
    names = {**each.key._asdict(), "type": each.type}
    values = {"status": each.status, "reason": each.reason, "message": each.message}
    if not each.was:
        new = (
            dialect_insert(conn.dialect.name)(conditions).values(**names, **values, since=now).on_conflict_do_nothing()
        )
        return bool(conn.execute(new).rowcount)
    of = {f"of_{name}": value for name, value in names.items()}
    there = tuple(conn.execute(_LOCKED, of).first() or ())
    if there[:2] != (each.was, each.was_reason) or there == (each.status, each.reason, each.message):
        return False
    if not each.status:
        return bool(conn.execute(delete(conditions).where(*_IS), of).rowcount)
    since = {"since": now} if each.status != each.was else {}
    return bool(conn.execute(update(conditions).where(*_IS).values(**values, **since), of).rowcount)
