"""What goes down to a node next, and what a node's replies, list and hash say of its assignments (protocol P6.2, P6.3).

Every controller may take any reply: it counts only while uid and version are still what the row says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, or_, select, update

from cloud.selection import ObjectKey, Selection
from cloud.stores.assigning import (
    SENT_BEFORE,
    changed_row,
    effective_labels,
    place_of,
    raise_revisions,
    set_rows,
)
from cloud.stores.desired import chunks, manifests_of
from cloud.stores.marking import mark_changed
from cloud.stores.tables import APPLIED, FAILED, PENDING, REMOVED, assignments, nodes
from common.message import DELETE, INSERT, UPDATE
from common.models import clean_text
from common.resource import is_label, is_name
from common.rules import ENDPOINT_KIND, RULE_KIND
from common.rulesync import APPLIED as SYNCED
from common.rulesync import ERROR_BYTES_MAX, REFUSED, SyncedObject, rules_version

CLAIM_MAX = 256  # messages to one node at a time
FOREIGN_MAX = 64  # deletes for one list of what a node has of another store; the next list brings the others
RESEND_AFTER_S = 5.0  # what was sent less long ago may still be on its way
_A = assignments.c


class Outgoing(NamedTuple):
    """One message to a node: operation, object, uid and version (a delete has one above all), and its content."""

    node: str
    operation: str
    key: ObjectKey
    uid: str
    version: int
    content: dict[str, Any]


class Reply(NamedTuple):
    """A node's answer: it took this version, or ``error`` says why not."""

    node: str
    key: ObjectKey
    uid: str
    version: int
    refused: bool = False
    error: str = ""


class Taken(NamedTuple):
    """How many replies changed something, and the nodes that something is to be sent to now."""

    acted: int
    due: set[str]


class NodeView(NamedTuple):
    """What decides of a node's sync. ``labels`` are those by which it should be chosen; None when that was done."""

    revision: int
    online: bool
    retired: bool
    labels: dict[str, str] | None


class Expected(NamedTuple):
    """The hash that a node has when all is well (P6.2), of which revision, and whether rows still wait for its word."""

    revision: int
    rules_version: str
    waiting: bool


# -- what to send ------------------------------------------------------------------------------------------------------


def _stage(row: Any) -> int:
    """The order in which a node gets things: never a rule without its endpoints."""
    if row.kind == RULE_KIND:
        return 2 if row.desired else 0
    return 1 if row.desired else 3


def claim(conn: Connection, node: str, at: float) -> list[Outgoing]:
    """Return what is to be sent to ``node`` now, at most CLAIM_MAX, and note that it is sent: one controller sends it.

    Nothing for a node that is offline or retired. A version that the node refused is not sent again.
    """
    there = conn.execute(select(nodes.c.online, nodes.c.retired_at).where(nodes.c.node == node)).first()
    if there is None or not there.online or there.retired_at:
        return []
    rows = conn.execute(select(assignments).where(_A.node == node, _A.state == PENDING).with_for_update()).all()
    held = conn.execute(select(_A.kind, _A.namespace, _A.name).where(_A.node == node, _A.desired > 0)).all()
    wanted = {ObjectKey(*row) for row in held}
    due = [
        row
        for row in sorted(rows, key=lambda row: (_stage(row), row.namespace, row.name))
        if not at - RESEND_AFTER_S < row.sent_at <= at
        # an endpoint that was made again: its new version takes the place of this one
        and (row.desired or row.kind == RULE_KIND or place_of(row)[1] not in wanted)
    ][:CLAIM_MAX]
    manifests = manifests_of(conn, [place_of(row)[1] for row in due if row.desired])
    set_rows(conn, [changed_row(row, row.changed_at, sent_at=at) for row in due])
    found = []
    for row in due:
        key = place_of(row)[1]
        if not row.desired:
            found.append(_delete(node, key, row.uid, expects(row)))
        elif key in manifests:
            operation = UPDATE if row.reported else INSERT
            found.append(Outgoing(node, operation, key, row.uid, row.desired, manifests[key]))
    return found


def waiting_for(conn: Connection, key: ObjectKey) -> list[str]:
    """The nodes that do not have an object as they should, in order."""
    of = (_A.kind == key.kind, _A.namespace == key.namespace, _A.name == key.name)
    return sorted(set(conn.execute(select(_A.node).where(*of, _A.state == PENDING)).scalars()))


def expects(row: Any) -> int:
    """The version in the message of a row, and in its answer: a delete's is above all that were inserted before it."""
    return int(row.desired or row.offered + 1)


def unsent(conn: Connection, messages: Iterable[Outgoing]) -> None:
    """Note that these could not be sent after all."""
    for message in messages:
        of = (_A.node == message.node, _A.kind == message.key.kind, _A.namespace == message.key.namespace)
        of = (*of, _A.name == message.key.name, _A.uid == message.uid)  # type: ignore[assignment]
        conn.execute(update(assignments).where(*of).values(sent_at=SENT_BEFORE))


# -- what came back ----------------------------------------------------------------------------------------------------


def take_replies(conn: Connection, replies: Sequence[Reply], selection: Selection, at: float) -> Taken:
    """Take nodes' answers, each while it is still about what the row wants (P7.2)."""
    acted, due, refusals = 0, set[str](), set[str]()
    rules: set[tuple[str, str, str]] = set()
    for reply in replies:
        rows = _rows_under(conn, reply.node, reply.key)
        row = next((each for each in rows if each.uid == reply.uid), None)
        if row is None or expects(row) != reply.version or row.state == REMOVED:
            continue
        new = _answered(row, reply)
        if all(getattr(row, name) == value for name, value in new.items()):
            continue
        acted += 1
        changed = [changed_row(row, at, **new)]
        if new["state"] == APPLIED:  # an object that was made again has taken the place of the older one
            changed += [_removed(each, at) for each in rows if each.uid != reply.uid and each.state != REMOVED]
        set_rows(conn, changed)
        if FAILED in (row.state, new["state"]):
            refusals.add(reply.node)
        if reply.key.kind == RULE_KIND:
            rules |= {(each["of_namespace"], each["of_name"], each["of_uid"]) for each in changed}
        elif new["state"] == APPLIED and _retry_users(conn, reply.node, [reply.key], selection, at):
            due.add(reply.node)
    raise_revisions(conn, refusals | due)
    mark_changed(conn, rules, at)
    return Taken(acted, due)


def _rows_under(conn: Connection, node: str, key: ObjectKey) -> Sequence[Any]:
    of = (_A.node == node, _A.kind == key.kind, _A.namespace == key.namespace, _A.name == key.name)
    return conn.execute(select(assignments).where(*of).with_for_update()).all()


def _answered(row: Any, reply: Reply) -> dict[str, Any]:
    error = clean_text(reply.error, ERROR_BYTES_MAX)
    if reply.refused and not row.desired:
        return {"error": error, "state": row.state}
    if reply.refused:
        return {"refused": reply.version, "state": FAILED, "error": error}
    if not row.desired:
        return {"reported": 0, "state": REMOVED, "error": ""}
    return {"reported": reply.version, "refused": 0, "state": APPLIED, "error": ""}


def _removed(row: Any, at: float) -> dict[str, Any]:
    return changed_row(row, at, reported=0, state=REMOVED, error="")


def _retry_users(
    conn: Connection, node: str, endpoints: Collection[ObjectKey], selection: Selection, at: float
) -> bool:
    """Offer rules again that the node refused while it lacked an endpoint of theirs that it has now."""
    users = {name for key in endpoints for name in selection.users.get((key.namespace, key.name), ())}
    failed = select(assignments).where(_A.node == node, _A.kind == RULE_KIND, _A.state == FAILED)
    rows = [row for row in conn.execute(failed) if (row.namespace, row.name) in users]
    set_rows(
        conn, [changed_row(row, at, refused=0, state=PENDING, error="", sent_at=SENT_BEFORE) for row in rows]
    )  # fmt: skip
    return bool(rows)


def take_list(
    conn: Connection, node: str, items: Sequence[SyncedObject], selection: Selection, at: float, since: float
) -> list[Outgoing]:
    """Take what a node says that it has; what was sent before ``since`` and is not in the list is to be sent again.

    Returns deletes of what it has and this store never gave it, at most FOREIGN_MAX.
    """
    said = {(ObjectKey(item.kind, item.namespace, item.name), item.uid): item for item in items}
    rows = conn.execute(select(assignments).where(_A.node == node).with_for_update()).all()
    known = {(place_of(row)[1], row.uid) for row in rows}
    changed = []
    for row in rows:
        if row.state == REMOVED and (place_of(row)[1], row.uid) not in said:
            continue
        new = _listed(row, said.get((place_of(row)[1], row.uid)))
        if new["state"] == PENDING and SENT_BEFORE < row.sent_at < since:
            new["sent_at"] = SENT_BEFORE
        if any(getattr(row, name) != value for name, value in new.items()):
            changed.append(changed_row(row, at, **new))
    set_rows(conn, changed)
    here = [
        ObjectKey(row["of_kind"], row["of_namespace"], row["of_name"])
        for row in changed
        if row["of_kind"] == ENDPOINT_KIND and row["state"] == APPLIED
    ]
    retried = _retry_users(conn, node, here, selection, at) if here else False
    if changed or retried:  # also when no hash changes by it: who remembers that nothing waits must look again
        raise_revisions(conn, [node])
    mark_changed(
        conn, [(r["of_namespace"], r["of_name"], r["of_uid"]) for r in changed if r["of_kind"] == RULE_KIND], at
    )  # fmt: skip
    foreign = [(key, uid) for key, uid in sorted(said) if (key, uid) not in known and _is_name(key)]
    return [_delete(node, key, uid, said[key, uid].version + 1) for key, uid in foreign[:FOREIGN_MAX]]


def _listed(row: Any, item: SyncedObject | None) -> dict[str, Any]:
    """What a row becomes by the node's own word; None: the node has nothing of it."""
    if item is None:
        state = PENDING if row.desired else REMOVED
        return {"reported": 0, "refused": 0, "state": state, "error": ""}
    if item.state == REFUSED:
        new = {"reported": item.running, "refused": item.version, "error": item.error}
        return {**new, "state": FAILED if row.desired == item.version else PENDING}
    state = APPLIED if row.desired == item.version else PENDING
    return {"reported": item.version, "refused": 0, "state": state, "error": ""}


def _is_name(key: ObjectKey) -> bool:
    return key.kind in (RULE_KIND, ENDPOINT_KIND) and is_label(key.namespace) and is_name(key.name)


def _delete(node: str, key: ObjectKey, uid: str, version: int) -> Outgoing:
    metadata = {"name": key.name, "namespace": key.namespace, "uid": uid, "resourceVersion": str(version)}
    return Outgoing(node, DELETE, key, uid, version, {"metadata": metadata})


# -- the hash ----------------------------------------------------------------------------------------------------------


def views(conn: Connection, of: Collection[str]) -> dict[str, NodeView]:
    """What decides of the sync of these nodes; without those that are not known."""
    n, found = nodes.c, {}
    columns = (n.node, n.rules_revision, n.online, n.retired_at, n.labels, n.added_labels, n.chosen_for)
    for some in chunks(sorted(of)):
        for node, revision, online, retired, said, added, chosen in conn.execute(
            select(*columns).where(n.node.in_(some))
        ):
            labels = effective_labels(said, added)
            found[node] = NodeView(revision, online, bool(retired), None if _same(chosen, labels) else labels)
    return found


def _same(chosen: str, labels: Mapping[str, str]) -> bool:
    return bool(chosen) and effective_labels(chosen, "{}") == labels


def expected(conn: Connection, of: Mapping[str, int]) -> dict[str, Expected]:
    """The hashes of these nodes, which are of these revisions or later."""
    items: dict[str, list[SyncedObject]] = {node: [] for node in of}
    waiting: set[str] = set()
    for some in chunks(sorted(of)):
        query = select(assignments).where(_A.node.in_(some), or_(_A.desired > 0, _A.state == PENDING))
        for row in conn.execute(query):
            if row.state == PENDING:
                waiting.add(row.node)
            if row.desired:
                items[row.node].append(synced(row))
    return {node: Expected(of[node], rules_version(items[node]), node in waiting) for node in of}


def synced(row: Any) -> SyncedObject:
    """What a node says of a row's object when all is well."""
    refused = row.desired == row.refused
    running = row.reported if refused else row.desired
    return SyncedObject(
        row.kind, row.namespace, row.name, row.uid, row.desired, REFUSED if refused else SYNCED, running, row.error
    )


def wanted_of(conn: Connection, node: str) -> list[SyncedObject]:
    """The list that ``node`` is to have (P6.6)."""
    query = select(assignments).where(_A.node == node, _A.desired > 0).order_by(_A.kind, _A.namespace, _A.name)
    return [synced(row) for row in conn.execute(query)]


def settle(conn: Connection, of: Mapping[str, int], at: float) -> int:
    """Take a hash that is as expected as the word that all is well, where replies were lost.

    Argument: the nodes, each with the revision that the hash was compared at. Returns how many rows that changed.
    """
    changed: list[dict[str, Any]] = []
    for node, revision in sorted(of.items()):
        found = conn.execute(select(nodes.c.rules_revision).where(nodes.c.node == node).with_for_update()).scalar()
        if found == revision:
            rows = conn.execute(select(assignments).where(and_(_A.node == node, _A.state == PENDING))).all()
            changed += [
                changed_row(
                    row, at, reported=row.desired, refused=0, error="", state=APPLIED if row.desired else REMOVED
                )
                for row in rows
            ]
    set_rows(conn, changed)
    rules: list[tuple[str, str, str]] = [
        (row["of_namespace"], row["of_name"], row["of_uid"]) for row in changed if row["of_kind"] == RULE_KIND
    ]
    mark_changed(conn, rules, at)
    return len(changed)
