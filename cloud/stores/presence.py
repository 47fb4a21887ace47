"""Births, offline notices and retired epochs: who is there, and whose late messages no longer count (P3.4, P5.7, P5.8).

Presence is ordered by (epoch counter, session, offline after online), never by arrival: a late will of an earlier
connection is told from a present one, and a birth that a broker kept from long ago does not make a node young again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BindParameter, Connection, bindparam, delete, insert, select, update

from cloud.progress import Progress
from cloud.stores.bulk import Bulk, Prepared
from cloud.stores.conflicts import Claim, Held, Sight, Verdict, advice, judge, said_before
from cloud.stores.losses import Loss, cloud_lost, restored_copy
from cloud.stores.rings import saturating
from cloud.stores.tables import DOUBTFUL, NORMAL, nodes, progress, retired
from common.models import Epoch, NodeBirth

log = logging.getLogger(__name__)

RETIRED_MAX = 1000  # counters back from the last birth for which retired epochs are remembered of a node
DOUBTFUL_MAX = 64  # epochs in doubt that are remembered of a node, the last ones: an agent makes one at each start

# At the driver's speed: a birth needs six statements, and a thousand nodes come back at once.
_OF: BindParameter[str] = bindparam("of")
_N: BindParameter[int] = bindparam("n")
_UUID: BindParameter[str] = bindparam("uuid")
_IS = (progress.c.node == _OF, progress.c.n == _N, progress.c.uuid == _UUID)
_NODE = Prepared(select(nodes).where(nodes.c.node == _OF).with_for_update())
_HELD = Prepared(
    select(progress).where(progress.c.node == _OF).order_by(progress.c.n, progress.c.uuid).with_for_update()
)
_PAST = Prepared(
    select(retired.c.n, retired.c.uuid).where(
        retired.c.node == _OF, retired.c.n.between(bindparam("lowest"), bindparam("highest"))
    )
)
_SET_NODE = Prepared(update(nodes).where(nodes.c.node == _OF))
_CONFIRMED = Prepared(
    select(progress.c.n)
    .where(progress.c.node == _OF, progress.c.state == NORMAL, (progress.c.mark > 0) | (progress.c.above != ""))
    .order_by(progress.c.n.desc())
    .limit(1)
)
_COLUMNS = nodes.columns.keys()
_NEW_NODE = insert(nodes)
_DELETE = delete(progress).where(*_IS)
_REMEMBER = insert(retired)
_BELOW = select(progress).where(progress.c.node == _OF, progress.c.n <= _N, progress.c.state != DOUBTFUL)
_TOO_OLD = delete(retired).where(retired.c.node == _OF, retired.c.n < _N)
_ENDED = select(retired.c.ended).where(retired.c.node == _OF, retired.c.n == _N, retired.c.uuid == _UUID)
_ANY_OLDER = select(retired.c.n).where(retired.c.node == _OF, retired.c.n <= _N).limit(1)


class Taken(NamedTuple):
    """What became of a presence, and the losses that it showed."""

    taken: bool
    losses: Sequence[Loss] = ()
    retired: bool = False  # its node was deleted: refused


def apply_presence(conn: Connection, dialect_insert: Any, claim: Claim, at: float) -> Taken:
    """Take a birth or offline into the node's row. Not taken: older than what is known, or in conflict."""
    birth = claim.birth
    row = _node(conn, birth.node)
    if row is None:
        fresh = {"node": birth.node, "first_seen": at, "last_seen": at, "since": at}
        conn.execute(_NEW_NODE, fresh)
        row = _node(conn, birth.node)
        assert row is not None
    if row["retired_at"]:
        _SET_NODE.change(conn, {"of": birth.node, "refused": row["refused"] + 1})
        return Taken(False, retired=True)
    held = read_held(conn, birth.node)
    if not birth.online:
        return Taken(_offline(conn, row, held, claim, at))
    past = _past(conn, birth.node, [epoch.n for epoch in (claim.epoch, *claim.older())])
    verdict = judge(row, held, past, claim)
    if verdict.sight is Sight.OLD:
        return Taken(False)
    if verdict.sight is not Sight.GOOD:
        said = msgspec.json.encode(birth).decode()
        _SET_NODE.change(conn, {"of": birth.node, "claim": said})
        if verdict.sight is Sight.ASTRAY:
            return Taken(False)
        return Taken(False, [doubt(conn, dialect_insert, birth.node, claim.epoch, verdict, at, birth.session)])
    values = _values(birth, claim.epoch, at, was_online=row["online"] if row["epoch_n"] else None)
    if not claim.retained and said_before(row["claim"], birth) is None:  # else another controller knows more of it
        values["claim"] = ""  # who is in doubt is not the one that was heard last
    values["born_n"] = max(row["born_n"], claim.epoch.n)  # never lower, also when another chain was taken
    _SET_NODE.change(conn, {"of": birth.node, **values})
    known = _known(claim, held, past, row)
    losses = _take_epochs(conn, dialect_insert, known, claim, at)
    _retire_unnamed(conn, claim, {**held, **known}, known)
    retire(conn, birth.node, values["lowest_n"], row["retired_through"])
    if values["born_n"] > RETIRED_MAX:
        conn.execute(_TOO_OLD, {"of": birth.node, "n": values["born_n"] - RETIRED_MAX})
    return Taken(True, losses)


def _node(conn: Connection, node: str) -> dict[str, Any] | None:
    """Return, and lock, the row of a node."""
    rows = _NODE.fetch(conn, {"of": node})
    if not rows:
        return None
    found = dict(zip(_COLUMNS, rows[0], strict=True))
    return {**found, "online": bool(found["online"])}


def _past(conn: Connection, node: str, counters: Collection[int]) -> set[Epoch]:
    """Return the retired epochs of a node between the lowest and the highest of ``counters``, which are not none."""
    between = {"of": node, "lowest": min(counters), "highest": max(counters)}
    return {Epoch(n, uuid) for n, uuid in _PAST.fetch(conn, between)}


def read_held(conn: Connection, node: str) -> dict[Epoch, Held]:
    """Return, and lock, what is known of a node's epochs."""
    return dict(map(_known_of, _HELD.fetch(conn, {"of": node})))


def _known_of(row: Any) -> tuple[Epoch, Held]:
    _, n, uuid, mark, above, state, session, ended = row
    return Epoch(n, uuid), Held(Progress(mark, above), state, session, ended)


def write_held(conn: Connection, dialect_insert: Any, node: str, held: dict[Epoch, Held]) -> None:
    """Insert or replace these epochs' rows."""
    rows = [
        (node, *epoch, what.progress.mark, what.progress.above, what.state, what.session, what.ended)
        for epoch, what in sorted(held.items())
    ]
    if rows:
        _upsert(dialect_insert).execute(conn, rows)


@cache
def _upsert(dialect_insert: Any) -> Bulk:
    statement = dialect_insert(progress)
    changes = {name: statement.excluded[name] for name in ("mark", "above", "state", "session", "ended")}
    upsert = statement.on_conflict_do_update(index_elements=["node", "n", "uuid"], set_=changes)
    return Bulk(upsert, progress.columns.keys())


def _offline(conn: Connection, row: Any, held: dict[Epoch, Held], claim: Claim, at: float) -> bool:
    """Take an offline notice, unless it is late or of an epoch that does not speak for this node."""
    birth, epoch, present = claim.birth, claim.epoch, Epoch(row["epoch_n"], row["epoch_uuid"])
    if epoch in held and held[epoch].state != NORMAL:
        return False
    if epoch.n == present.n and epoch.uuid != present.uuid:
        return False
    if present.n and (epoch.n, birth.session, True) < (present.n, row["session"], not row["online"]):
        return False
    values = _values(birth, epoch, at, was_online=row["online"] if present.n else None)
    _SET_NODE.change(conn, {"of": birth.node, **values})
    return True


def _values(birth: NodeBirth, epoch: Epoch, at: float, *, was_online: bool | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "online": birth.online,
        "epoch_n": epoch.n,
        "epoch_uuid": epoch.uuid,
        "session": birth.session,
    }
    if was_online is not birth.online:
        values["since"] = at
    if birth.online:
        named = [epoch, *(Epoch.parse(text) for text in birth.previous)]
        values |= {
            "lowest_n": min(each.n for each in named),
            "version": birth.version,
            "rules_version": birth.rules_version,
            "labels": msgspec.json.encode(birth.labels).decode(),
            "last_seen": at,
        }
    return values


def _known(
    claim: Claim, held: Mapping[Epoch, Held], past: Collection[Epoch], row: Mapping[str, Any]
) -> dict[Epoch, Held]:
    """Return what is held of each epoch that a good birth names. One that was retired stays retired: a birth that comes
    late still names it, and its messages would count again.
    """
    found = {claim.epoch: held.get(claim.epoch, Held(Progress()))}
    oldest = max(row["retired_through"], row["born_n"] - RETIRED_MAX)
    for epoch in claim.older():
        if epoch in held or (epoch.n > oldest and epoch not in past):
            found[epoch] = held.get(epoch, Held(Progress()))
    return found


def _take_epochs(
    conn: Connection, dialect_insert: Any, known: dict[Epoch, Held], claim: Claim, at: float
) -> list[Loss]:
    """Know every epoch that a good birth names, and see what it says that this store should know and does not."""
    birth, own, losses = claim.birth, known[claim.epoch], list[Loss]()
    losses += _raise(birth.node, claim.epoch, own.progress, birth.low - 1, at)
    known[claim.epoch] = own._replace(session=max(own.session, birth.session))
    if claim.follows is not None and claim.follows[0] in known:
        epoch, following = claim.follows
        if str(epoch) not in birth.previous:  # all of it was confirmed once
            losses += _raise(birth.node, epoch, known[epoch].progress, following - 1, at)
        known[epoch] = known[epoch]._replace(ended=following)
    write_held(conn, dialect_insert, birth.node, known)
    lost = sum(loss.record.messages for loss in losses)
    if lost:
        of_node = update(nodes).where(nodes.c.node == birth.node)
        conn.execute(of_node.values(cloud_lost=saturating(nodes.c.cloud_lost, lost)))
    return losses


def _retire_unnamed(conn: Connection, claim: Claim, held: Mapping[Epoch, Held], named: Collection[Epoch]) -> None:
    """Retire the epochs that a good birth does not name, below the highest confirmed one (P5.7), and those that were
    named once and have never sent; all of them older than its own, for of later ones a birth that comes late says
    nothing.

    Each by itself: a message that stays stuck in an old epoch must not keep all later ones open until there are too
    many.
    """
    normal = {epoch: what for epoch, what in held.items() if what.state == NORMAL}
    confirmed = max((epoch.n for epoch, what in normal.items() if what.progress.highest), default=0)
    _forget(
        conn,
        claim.birth.node,
        [
            (*epoch, _end(what))
            for epoch, what in sorted(normal.items())
            if epoch not in named and epoch.n < claim.epoch.n and (epoch.n < confirmed or not what.progress.highest)
        ],
    )


def _end(what: Held) -> int:
    """The first sequence of a retired epoch that its spool cannot have: all that it had was confirmed, or its birth
    would name it. 0 for one that a person gave up.
    """
    return what.ended or (what.progress.highest + 1 if what.state == NORMAL else 0)


def _raise(node: str, epoch: Epoch, seen: Progress, mark: int, at: float) -> list[Loss]:
    first, lost = seen.mark + 1, seen.raise_to(mark)
    if not lost:
        return []
    log.warning(
        "node %s: %d messages of epoch %s up to %d were confirmed once and are unknown here: the store was restored or "
        "replaced", node, lost, epoch, mark,
    )  # fmt: skip
    return [cloud_lost(node, epoch, first, mark, lost, at)]


def doubt(
    conn: Connection, dialect_insert: Any, node: str, epoch: Epoch, verdict: Verdict, at: float, session: int = 0
) -> Loss:
    """Put an epoch in doubt: it is counted no more until a person decides. Returns the record, the same each time."""
    held = read_held(conn, node)
    own = held.get(epoch, Held(Progress()))
    write_held(
        conn, dialect_insert, node, {epoch: own._replace(state=DOUBTFUL, session=max(session, own.session))}
    )  # fmt: skip
    text = alarm(conn, node, verdict.text)
    others = sorted(e for e, what in held.items() if what.state == DOUBTFUL and e != epoch)
    for old in others[: max(0, len(others) + 1 - DOUBTFUL_MAX)]:
        conn.execute(_DELETE, {"of": node, "n": old.n, "uuid": old.uuid})
    return restored_copy(node, f"conflict-{epoch}", verdict.epoch, verdict.first, verdict.last, text, at)


def alarm(conn: Connection, node: str, found: str) -> str:
    """Put the node in conflict, until ``node replace``; return the words that it shows."""
    text = advice(node, found)
    if conn.execute(select(nodes.c.conflict).where(nodes.c.node == node)).scalar() != text:
        log.warning("node %s: %s", node, text)
        conn.execute(update(nodes).where(nodes.c.node == node).values(conflict=text))
    return text


def _forget(conn: Connection, node: str, epochs: Sequence[tuple[int, str, int]]) -> None:
    """Delete these epochs (counter, uuid, ended) from ``progress``, and remember only that there were such."""
    if not epochs:
        return
    there = _past(conn, node, [n for n, *_ in epochs])
    fresh = [{"node": node, "n": n, "uuid": uuid, "ended": e} for n, uuid, e in epochs if (n, uuid) not in there]
    if fresh:
        conn.execute(_REMEMBER, fresh)
    conn.execute(_DELETE, [{"of": node, "n": n, "uuid": uuid} for n, uuid, _ in epochs])


class Origin(Enum):
    """Whose message it is, of an epoch that is not held and not newer than the newest."""

    RETIRED = "retired"  # it came before, in the known spool
    FOREIGN = "foreign"  # the known spool never had it
    UNKNOWN = "unknown"  # older than what is remembered: nobody can tell


def origin_of(conn: Connection, node: str, epoch: Epoch, sequence: int, retired_through: int, newest: int) -> Origin:
    """Say whose a message is, by what is remembered of retired epochs. ``newest`` is the highest known counter."""
    ended = conn.execute(_ENDED, {"of": node, "n": epoch.n, "uuid": epoch.uuid}).scalar()
    if ended is not None:
        return Origin.FOREIGN if 0 < ended <= sequence else Origin.RETIRED
    if epoch.n < newest - RETIRED_MAX:
        return Origin.UNKNOWN
    if epoch.n > retired_through or conn.execute(_ANY_OLDER, {"of": node, "n": epoch.n}).first() is not None:
        return Origin.FOREIGN
    return Origin.UNKNOWN


def retire(conn: Connection, node: str, lowest_named: int, retired_through: int) -> int:
    """Retire every epoch below the lowest that the birth names and below the highest confirmed one (P5.7).

    Their progress rows go, ``retired_through`` stays and refuses their late messages; an epoch in doubt stays in doubt.
    Returns the new value.
    """
    confirmed = _CONFIRMED.fetch(conn, {"of": node})
    through = min(lowest_named, confirmed[0][0] if confirmed else 0) - 1
    if through <= retired_through:
        return retired_through
    below = map(_known_of, conn.execute(_BELOW, {"of": node, "n": through}))
    _forget(conn, node, [(*epoch, _end(what)) for epoch, what in below])
    _SET_NODE.change(conn, {"of": node, "retired_through": through})
    return through
