"""Desired state: the rules and endpoints that are wanted, whoever said so (protocol P6.1, P6.2).

Functions over a connection; those that change something run in one of the writer's transactions, after ``lock``: so
one change follows the other, also with several controllers, and what was checked before is still so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import structs
from sqlalchemy import Connection, delete, insert, select, update

from cloud.selection import Name, ObjectKey, Selection, Wanted
from cloud.stores.bulk import dialect_insert
from cloud.stores.tables import objects, revisions
from common.errors import ControlError
from common.message import new_id
from common.rules import ENDPOINT_KIND, EVENTBUS, RULE_KIND, Rule, RuleEndpoint

API, KUBERNETES = "api", "kubernetes"  # origins: who owns an object
CREATED, CONFIGURED, UNCHANGED = "created", "configured", "unchanged"  # what became of an object, in kubectl's words
_OWNED = {
    KUBERNETES: "belongs to Kubernetes: delete it there, with kubectl",
    API: "was applied with fieldpost: delete it there",
}
OBJECTS = "objects"  # the row of ``revisions``
NAMES_AT_ONCE = 500  # in one statement
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"  # a second copy of the manifest

Value = Rule | RuleEndpoint
_KINDS: dict[str, type[Value]] = {RULE_KIND: Rule, ENDPOINT_KIND: RuleEndpoint}


class SupersededError(ControlError):
    """The desired state is no longer what the change was checked against: check again."""


class ObjectRow(msgspec.Struct, frozen=True):
    """A desired object. ``manifest`` is as the nodes get it; times are unix seconds, ``origin`` says who owns it."""

    kind: str
    namespace: str
    name: str
    uid: str
    version: int
    manifest: dict[str, Any]
    origin: str
    created_at: float
    updated_at: float

    @property
    def key(self) -> ObjectKey:
        """Which object."""
        return ObjectKey(self.kind, self.namespace, self.name)


class Changed(NamedTuple):
    """What became of an object that was applied or deleted."""

    key: ObjectKey
    uid: str
    version: int
    outcome: str


def chunks(items: Iterable[Any], size: int = NAMES_AT_ONCE) -> Iterator[list[Any]]:
    """The items in lists that fit into one statement."""
    every = list(items)
    for at in range(0, len(every), size):
        yield every[at : at + size]


def read_revision(conn: Connection) -> int:
    """The revision of the desired objects; it rises with each change."""
    return conn.execute(select(revisions.c.revision).where(revisions.c.name == OBJECTS)).scalar() or 0


def lock(conn: Connection) -> int:
    """Keep all other changes of the desired state out until the transaction ends; return the revision."""
    conn.execute(dialect_insert(conn.dialect.name)(revisions).values(name=OBJECTS, revision=0).on_conflict_do_nothing())
    query = select(revisions.c.revision).where(revisions.c.name == OBJECTS).with_for_update()
    return int(conn.execute(query).scalar_one())


def _raise_revision(conn: Connection, to: int) -> None:
    conn.execute(update(revisions).where(revisions.c.name == OBJECTS).values(revision=to))


def read_selection(conn: Connection, known: Selection | None = None) -> Selection:
    """The Selection of all objects; ``known`` when nothing has changed since."""
    revision = read_revision(conn)
    if known is not None and known.revision == revision:
        return known
    c = objects.c
    rows = conn.execute(select(c.kind, c.uid, c.version, c.manifest)).all()
    return Selection.of(((_decode(kind, text), Wanted(uid, version)) for kind, uid, version, text in rows), revision)


def read_around(
    conn: Connection, values: Sequence[Value], known: Selection | None
) -> tuple[Selection, list[tuple[Value, str]]]:
    """The Selection, and what the check of ``values`` needs of the desired objects, each with its origin.

    That is their own earlier versions, the endpoints of their namespaces, and the rules that a change of an endpoint
    could break, or that answer requests, as only one can. Not all rules: there may be ten thousand.
    """
    selection = read_selection(conn, known)
    query = select(objects.c.manifest, objects.c.origin).where(objects.c.kind == ENDPOINT_KIND)
    found: dict[ObjectKey, tuple[Value, str]] = {}
    for some in chunks(sorted({value.metadata.namespace for value in values})):
        for text, origin in conn.execute(query.where(objects.c.namespace.in_(some))):
            endpoint = _decode(ENDPOINT_KIND, text)
            found[ObjectKey(ENDPOINT_KIND, *endpoint.key)] = endpoint, origin
    telling = {
        key
        for key, (value, _) in found.items()
        if isinstance(value, RuleEndpoint) and value.spec.rule_endpoint_type != EVENTBUS.name
    }
    for value in values:
        key = ObjectKey(value.kind, *value.key)
        if isinstance(value, RuleEndpoint) and (key not in found or found[key][0].spec != value.spec):
            telling.add(key)
    rules = {name for key in telling for name in selection.users.get((key.namespace, key.name), ())}
    rules |= {value.key for value in values if isinstance(value, Rule)}
    for key, row in _rows_of(conn, [ObjectKey(RULE_KIND, *name) for name in sorted(rules)]).items():
        found[key] = _decode(RULE_KIND, row.manifest), row.origin
    return selection, list(found.values())


def objects_of(conn: Connection, kind: str = "", namespace: str = "", name: str = "") -> list[ObjectRow]:
    """The objects that fit what is not empty, in order."""
    c = objects.c
    wanted = [column == value for column, value in ((c.kind, kind), (c.namespace, namespace), (c.name, name)) if value]
    query = select(objects).where(*wanted).order_by(c.kind, c.namespace, c.name)
    return [
        ObjectRow(**{**row, "manifest": msgspec.json.decode(row["manifest"])}) for row in conn.execute(query).mappings()
    ]


def manifests_of(conn: Connection, keys: Iterable[ObjectKey]) -> dict[ObjectKey, dict[str, Any]]:
    """The manifests of these objects, as they go to the nodes; without those that are gone."""
    found: dict[ObjectKey, dict[str, Any]] = {}
    for (kind, namespace), names in _grouped(keys).items():
        for some in chunks(names):
            c = objects.c
            query = select(c.name, c.manifest).where(c.kind == kind, c.namespace == namespace, c.name.in_(some))
            for name, text in conn.execute(query):
                found[ObjectKey(kind, namespace, name)] = msgspec.json.decode(text)
    return found


def _grouped(keys: Iterable[ObjectKey]) -> dict[Name, list[str]]:
    found: dict[Name, list[str]] = {}
    for key in keys:
        found.setdefault((key.kind, key.namespace), []).append(key.name)
    return found


def _rows_of(conn: Connection, keys: Iterable[ObjectKey]) -> dict[ObjectKey, Any]:
    found: dict[ObjectKey, Any] = {}
    for (kind, namespace), names in _grouped(keys).items():
        for some in chunks(names):
            c = objects.c
            query = select(objects).where(c.kind == kind, c.namespace == namespace, c.name.in_(some))
            found |= {ObjectKey(kind, namespace, row.name): row for row in conn.execute(query)}
    return found


def apply_objects(
    conn: Connection, values: Sequence[Value], selection: Selection, *, origin: str, at: float
) -> tuple[list[Changed], Selection]:
    """Insert or update these objects, which were checked; return what became of each, and the new Selection.

    An equal manifest makes no new version. A new object gets a uid of its own; one from Kubernetes brings it along, and
    another uid under a known name is another object. The caller holds the lock and assigns anew.
    """
    there = _rows_of(conn, (ObjectKey(value.kind, *value.key) for value in values))
    done, fresh, changes, taken = [], [], [], []
    for value in values:
        key, row = ObjectKey(value.kind, *value.key), there.get(ObjectKey(value.kind, *value.key))
        given = value.metadata.uid if origin == KUBERNETES else ""
        bare = stamped(value, "", 0)
        if row is not None and given in ("", row.uid):
            if row.origin == origin and stamped(_decode(row.kind, row.manifest), "", 0) == bare:
                done.append(Changed(key, row.uid, row.version, UNCHANGED))
                continue
            uid, version, outcome = row.uid, row.version + 1, CONFIGURED
        else:
            uid, version, outcome = given or new_id(), 1, CREATED
        new = {"uid": uid, "version": version, "origin": origin, "updated_at": at}
        new |= {"manifest": _encode(stamped(bare, uid, version))}
        where = {"kind": key.kind, "namespace": key.namespace, "name": key.name}
        if row is None:
            fresh.append({**where, **new, "created_at": at})
        else:
            created = row.created_at if uid == row.uid else at
            changes.append({f"of_{name}": text for name, text in where.items()} | new | {"created_at": created})
        done.append(Changed(key, uid, version, outcome))
        taken.append((bare, Wanted(uid, version)))
    if not taken:
        return done, selection
    if fresh:
        conn.execute(insert(objects), fresh)
    for change in changes:
        of = _is(ObjectKey(*(change.pop(f"of_{name}") for name in ("kind", "namespace", "name"))))
        conn.execute(update(objects).where(*of).values(change))
    _raise_revision(conn, selection.revision + 1)
    return done, selection.changed(taken, (), selection.revision + 1)


def delete_objects(
    conn: Connection, keys: Sequence[ObjectKey], selection: Selection, *, origin: str
) -> tuple[list[Changed], Selection]:
    """Delete these objects; return what they were, and the new Selection. The caller holds the lock and assigns anew.

    Raises ControlError for one that is not there or belongs to another origin, and for an endpoint that rules use
    which stay.
    """
    there = _rows_of(conn, keys)
    for key in keys:
        if key not in there:
            raise ControlError(f"{words_of(key)} is not there", kind="not_found")
        if there[key].origin != origin:
            raise ControlError(f"{words_of(key)} {_OWNED[there[key].origin]}", kind="conflict")
    going = {(key.namespace, key.name) for key in keys if key.kind == RULE_KIND}
    for key in keys:
        used = sorted(set(selection.users.get((key.namespace, key.name), ())) - going)
        if key.kind == ENDPOINT_KIND and used:
            names = ", ".join(name for _, name in used[:10]) + (f" and {len(used) - 10} more" if len(used) > 10 else "")
            text = f"{words_of(key)} is in use by {_plural(len(used), 'rule')}: {names}; delete those first"
            raise ControlError(text, kind="conflict")
    for key in keys:
        conn.execute(delete(objects).where(*_is(key)))
    _raise_revision(conn, selection.revision + 1)
    done = [Changed(key, there[key].uid, there[key].version, "deleted") for key in keys]
    return done, selection.changed((), keys, selection.revision + 1)


def _is(key: ObjectKey) -> list[Any]:
    return [objects.c.kind == key.kind, objects.c.namespace == key.namespace, objects.c.name == key.name]


def words_of(key: ObjectKey) -> str:
    """``rule plant/overheat``, as people read it."""
    return f"{'rule' if key.kind == RULE_KIND else 'endpoint'} {key.namespace}/{key.name}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def stamped(value: Value, uid: str, version: int) -> Value:
    """``value`` with this uid and version in its metadata, as it goes to the nodes; 0 for none."""
    annotations = {name: text for name, text in value.metadata.annotations.items() if name != LAST_APPLIED}
    metadata = structs.replace(
        value.metadata, uid=uid, resource_version=str(version) if version else "", annotations=annotations
    )
    return structs.replace(value, metadata=metadata)


def _encode(value: Value) -> str:
    told = msgspec.to_builtins(value)
    told["metadata"]["namespace"] = value.metadata.namespace  # said also where it is the default
    return msgspec.json.encode(told).decode()


def _decode(kind: str, text: str) -> Value:
    value: Value = msgspec.json.decode(text, type=_KINDS[kind])
    return value
