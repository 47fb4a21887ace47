"""Assignments: what each node is to have of the desired objects, and what it said of them (protocol P6.2 to P6.4).

A row is (node, kind, namespace, name, uid). ``desired`` is a version, 0 when the node is to have it no more; such a row
stays as a tombstone, because results of that object may still come. All functions run in a transaction of the writer's;
those that assign hold the lock of ``desired.lock``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, bindparam, case, delete, func, insert, literal, select, tuple_, update

from cloud.selection import Labels, ObjectKey, Selection, Wanted
from cloud.stores.desired import chunks
from cloud.stores.marking import mark_changed
from cloud.stores.status import is_silent
from cloud.stores.tables import APPLIED, FAILED, PENDING, REMOVED, STALE, assignments, nodes
from common.rules import RULE_KIND

TOMBSTONES_PER_NODE_MAX = (
    1000  # rows that are removed; above that the oldest go, and late results of theirs are refused
)
SENT_BEFORE = 1.0  # ``sent_at`` of a row whose present version was never sent, but some earlier one was

Place = tuple[str, ObjectKey]  # node and object
_A = assignments.c
KEY = ("node", "kind", "namespace", "name", "uid")
_ROW = [_A[name] == bindparam(f"of_{name}") for name in KEY]


def place_of(row: Any) -> Place:
    """The node and the object of a row."""
    return row.node, ObjectKey(row.kind, row.namespace, row.name)


def effective_labels(said: str, added: str) -> dict[str, str]:
    """The labels by which a node is chosen: its own, with those over them that a person gave it (both JSON)."""
    return {**msgspec.json.decode(said), **msgspec.json.decode(added)}


def fleet(conn: Connection) -> dict[str, Labels]:
    """The nodes that rules are assigned to, with the labels by which they were chosen last."""
    query = select(nodes.c.node, nodes.c.chosen_for).where(nodes.c.chosen_for != "", nodes.c.retired_at == 0)
    return {node: msgspec.json.decode(labels) for node, labels in conn.execute(query)}


def assign_objects(
    conn: Connection, keys: Collection[ObjectKey], before: Selection, after: Selection, at: float
) -> set[str]:
    """Assign objects that changed, and the endpoints that they use or used, anew; return the nodes that it concerns."""
    every = set(keys)
    for key in keys:
        every |= {*before.endpoints_of(key), *after.endpoints_of(key)}
    wanted = {(node, key): want for node, key, want in after.of_objects(sorted(every), fleet(conn))}
    rows: list[Any] = []
    by_place: dict[tuple[str, str], list[str]] = {}
    for key in sorted(every):
        by_place.setdefault((key.kind, key.namespace), []).append(key.name)
    for (kind, namespace), names in by_place.items():
        for some in chunks(names):
            where = (_A.kind == kind, _A.namespace == namespace, _A.name.in_(some))
            rows += conn.execute(select(assignments).where(*where)).all()
    return _assign(conn, rows, wanted, at)


def assign_nodes(conn: Connection, of: Mapping[str, Labels], selection: Selection, at: float) -> set[str]:
    """Assign everything anew to these nodes, whose labels are these now; return the nodes that it concerns."""
    rows = [row for some in chunks(sorted(of)) for row in conn.execute(select(assignments).where(_A.node.in_(some)))]
    wanted = {(node, key): want for node, labels in of.items() for key, want in selection.of_node(node, labels).items()}
    for node, labels in sorted(of.items()):
        told = msgspec.json.encode(labels, order="deterministic").decode()
        conn.execute(update(nodes).where(nodes.c.node == node).values(chosen_for=told))
    return _assign(conn, rows, wanted, at)


def _assign(conn: Connection, rows: Sequence[Any], wanted: Mapping[Place, Wanted], at: float) -> set[str]:
    left = dict(wanted)
    changed: list[dict[str, Any]] = []
    never: list[Any] = []
    for row in rows:
        want = wanted.get(place_of(row))
        version = want.version if want is not None and want.uid == row.uid else 0
        if version:
            del left[place_of(row)]
        if version == row.desired:
            continue
        if not version and not (row.reported or row.refused or row.sent_at):
            never.append(row)
        else:
            changed.append(_changed(row, version, at))
    fresh: list[dict[str, Any]] = [
        {**dict(zip(KEY, (node, *key, want.uid), strict=True)), "desired": want.version, "offered": want.version,
         "state": PENDING, "changed_at": at}
        for (node, key), want in sorted(left.items())
    ]  # fmt: skip
    set_rows(conn, changed)
    if never:
        conn.execute(delete(assignments).where(*_ROW), [_of(row) for row in never])
    if fresh:
        conn.execute(insert(assignments), fresh)
    concerned: set[str] = (
        {row["of_node"] for row in changed} | {row.node for row in never} | {row["node"] for row in fresh}
    )
    _bound_tombstones(conn, {row["of_node"] for row in changed if not row["desired"]})
    raise_revisions(conn, concerned)
    rules = {(row["of_namespace"], row["of_name"], row["of_uid"]) for row in changed if row["of_kind"] == RULE_KIND}
    rules |= {(row.namespace, row.name, row.uid) for row in never if row.kind == RULE_KIND}
    rules |= {(row["namespace"], row["name"], row["uid"]) for row in fresh if row["kind"] == RULE_KIND}
    mark_changed(conn, rules, at)
    return concerned


def _changed(row: Any, version: int, at: float) -> dict[str, Any]:
    """The new values of a row of which another version is desired, or none."""
    sent = SENT_BEFORE if row.sent_at else 0.0
    reported = row.reported if row.desired or row.sent_at <= SENT_BEFORE else 0  # its delete may have been done by now
    state = PENDING
    if version and reported == version:
        state = APPLIED
    elif version and row.refused == version:
        state = FAILED
    error = row.error if state == FAILED else ""
    offered = max(row.offered, version)
    return changed_row(
        row, at, desired=version, offered=offered, reported=reported, state=state, error=error, sent_at=sent
    )


def _of(row: Any) -> dict[str, Any]:
    return {f"of_{name}": getattr(row, name) for name in KEY}


_VALUES = ("desired", "offered", "reported", "refused", "state", "error", "sent_at")
_SET = update(assignments).where(*_ROW).values({name: bindparam(f"to_{name}") for name in (*_VALUES, "changed_at")})


def set_rows(conn: Connection, changed: Sequence[Mapping[str, Any]]) -> None:
    """Write rows: their key as ``of_<column>``, all other columns by name."""
    if changed:
        conn.execute(_SET, [{k if k[:3] == "of_" else f"to_{k}": v for k, v in row.items()} for row in changed])


def changed_row(row: Any, at: float, **new: Any) -> dict[str, Any]:
    """A row with new values, as ``set_rows`` takes it."""
    values = {name: getattr(row, name) for name in _VALUES}
    return {**_of(row), **values, "changed_at": at, **new}


def raise_revisions(conn: Connection, of: Iterable[str]) -> None:
    """Note that what these nodes are to have, or what they refused of it, has changed."""
    for some in chunks(sorted(of)):
        raised = update(nodes).where(nodes.c.node.in_(some))
        conn.execute(raised.values(rules_revision=nodes.c.rules_revision + 1))


def _bound_tombstones(conn: Connection, of: Collection[str]) -> None:
    for some in chunks(sorted(of)):
        count = func.count()
        query = select(_A.node, count).where(_A.node.in_(some), _A.state == REMOVED).group_by(_A.node)
        for node, number in conn.execute(query.having(count > TOMBSTONES_PER_NODE_MAX)).all():
            oldest = select(assignments).where(_A.node == node, _A.state == REMOVED).order_by(_A.changed_at)
            rows = conn.execute(oldest.limit(number - TOMBSTONES_PER_NODE_MAX)).all()
            conn.execute(delete(assignments).where(*_ROW), [_of(row) for row in rows])


def end_node(conn: Connection, node: str, at: float) -> None:
    """End all assignments of a node that is retired: nothing is sent to it any more."""
    rows = conn.execute(select(assignments).where(_A.node == node, _A.state != REMOVED)).all()
    set_rows(conn, [changed_row(row, at, desired=0, reported=0, refused=0, state=REMOVED, error="") for row in rows])
    raise_revisions(conn, [node])
    _bound_tombstones(conn, [node])
    mark_changed(conn, [(row.namespace, row.name, row.uid) for row in rows if row.kind == RULE_KIND], at)


# -- reads -------------------------------------------------------------------------------------------------------------


class AssignmentRow(msgspec.Struct, frozen=True):
    """What a node is to have of an object and what it has. ``state`` is pending, applied, failed, stale or removed;
    versions are 0 when there is none; ``error`` is the node's finding about the version that it refused.
    """

    node: str
    kind: str
    namespace: str
    name: str
    uid: str
    desired: int
    reported: int
    refused: int
    state: str
    error: str
    changed_at: float


class Summary(msgspec.Struct):
    """On how many nodes an object is wanted, and how many of them say what of it. ``removing`` has it still to go."""

    nodes: int = 0
    applied: int = 0
    pending: int = 0
    failed: int = 0
    stale: int = 0
    removing: int = 0


def shown_state(now: float, stale_s: float) -> Any:
    """SQL of a row's state as it is shown: stale when its node was not heard for ``stale_s``, be it on- or offline."""
    return case((and_(_A.desired > 0, is_silent(now, stale_s)), STALE), else_=_A.state)


def assignments_of(
    conn: Connection,
    now: float,
    stale_s: float,
    *,
    kind: str = "",
    namespace: str = "",
    name: str = "",
    node: str = "",
    uid: str = "",
    after: Sequence[str] = (),
    limit: int | None = None,
) -> list[AssignmentRow]:
    """The assignments that fit what is not empty, in order of object and node, without those that ended.

    At most ``limit`` of those that come ``after`` a (kind, namespace, name, node, uid).
    """
    given = ((_A.kind, kind), (_A.namespace, namespace), (_A.name, name), (_A.node, node), (_A.uid, uid))
    wanted = [column == value for column, value in given if value]
    columns = [
        shown_state(now, stale_s).label("state") if field == "state" else _A[field]
        for field in AssignmentRow.__struct_fields__
    ]
    query = select(*columns).outerjoin_from(assignments, nodes, nodes.c.node == _A.node)
    order = (_A.kind, _A.namespace, _A.name, _A.node, _A.uid)
    if after:
        wanted.append(tuple_(*order) > tuple_(*map(literal, after)))
    query = query.where(_A.state != REMOVED, *wanted).order_by(*order).limit(limit)
    return [AssignmentRow(*row) for row in conn.execute(query)]


def summaries(
    conn: Connection, now: float, stale_s: float, *, kind: str = "", namespace: str = "", name: str = ""
) -> dict[tuple[ObjectKey, str], Summary]:
    """The Summary of each object that fits what is not empty, by its key and uid."""
    given = ((_A.kind, kind), (_A.namespace, namespace), (_A.name, name))
    told = select(
        _A.kind, _A.namespace, _A.name, _A.uid, (_A.desired > 0).label("wanted"),
        shown_state(now, stale_s).label("state"),
    )  # fmt: skip
    told = told.outerjoin_from(assignments, nodes, nodes.c.node == _A.node).where(_A.state != REMOVED)
    rows = told.where(*(column == value for column, value in given if value)).subquery()
    query: Any = select(*rows.c, func.count()).group_by(*rows.c)
    found: dict[tuple[ObjectKey, str], Summary] = {}
    for of_kind, of_namespace, of_name, uid, desired, state, count in conn.execute(query):
        summary = found.setdefault((ObjectKey(of_kind, of_namespace, of_name), uid), Summary())
        if not desired:
            summary.removing += count
            continue
        summary.nodes += count
        setattr(summary, state, getattr(summary, state) + count)
    return found
