"""``node replace``: a person says which of the spools that claim a node's id is the right one (protocol P5.8, P6.5)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from cloud.progress import Progress
from cloud.stores.conflicts import Claim, Held
from cloud.stores.losses import Loss, restored_copy
from cloud.stores.presence import read_held, write_held
from cloud.stores.tables import DOUBTFUL, NORMAL, REPLACED, nodes, retired
from common.errors import ControlError
from common.models import Epoch, NodeBirth

log = logging.getLogger(__name__)


def replace_node(conn: Connection, dialect_insert: Any, node: str, at: float) -> tuple[str, list[Loss]]:
    """Take the epoch chain that was heard last as the node's own and give up all others; see Store.replace.

    Given up epochs are remembered as such, so that their late messages are refused whatever their counter is. Returns
    the epoch that is taken, and a loss record for each one that is given up.
    """
    row = conn.execute(select(nodes).where(nodes.c.node == node).with_for_update()).mappings().first()
    if row is None:
        raise ControlError(f"node {node} is not known here", kind="not_found")
    held = read_held(conn, node)
    birth = msgspec.json.decode(row["claim"], type=NodeBirth) if row["claim"] else None
    own = held.get(Epoch.parse(birth.epoch)) if birth is not None else None
    if birth is not None and own is not None and (own.state != NORMAL or own.ended):  # not a late birth: it has spoken
        present = Epoch.parse(birth.epoch)
        claim = Claim(birth, present)
        past = _ends(conn, claim)
        chain = _claimed(held, claim, past)
        named = [present, *map(Epoch.parse, birth.previous)]
        values = {
            "epoch_n": present.n, "epoch_uuid": present.uuid, "session": birth.session, "online": birth.online,
            "born_n": max(row["born_n"], row["epoch_n"], present.n), "lowest_n": min(each.n for each in named),
            "retired_through": min(row["retired_through"], min(each.n for each in named) - 1),
        }  # fmt: skip
    else:
        present, values = Epoch(row["epoch_n"], row["epoch_uuid"]), {}
        chain = {epoch: what for epoch, what in held.items() if what.state == NORMAL}
    if values:  # the new chain will use counters that the old one had; what both had stays counted
        conn.execute(delete(retired).where(retired.c.node == node))
        kept = [{"node": node, "n": e.n, "uuid": e.uuid, "ended": 0} for e in past if e not in chain]
        if kept:
            conn.execute(insert(retired), kept)
    given_up = {e: what._replace(state=REPLACED) for e, what in held.items() if e not in chain}
    write_held(conn, dialect_insert, node, chain | given_up)
    conn.execute(update(nodes).where(nodes.c.node == node).values(**values, conflict="", claim=""))
    log.warning("node %s: epoch %s was taken as its own by node replace", node, present)
    return str(present), [_record(node, e, held[e], present, at) for e in sorted(given_up) if held[e].state != REPLACED]


def _ends(conn: Connection, claim: Claim) -> dict[Epoch, int]:
    """Return which of the older epochs that a birth names are retired, each with its next sequence, 0 if not known."""
    older = claim.older()
    rows = conn.execute(
        select(retired.c.n, retired.c.uuid, retired.c.ended).where(
            retired.c.node == claim.birth.node, retired.c.n.in_({epoch.n for epoch in older})
        )
    )
    found = {Epoch(n, uuid): ended for n, uuid, ended in rows}
    return {epoch: found[epoch] for epoch in older if epoch in found}


def _claimed(held: dict[Epoch, Held], claim: Claim, past: Mapping[Epoch, int]) -> dict[Epoch, Held]:
    """Return the claimed chain's epochs, each as far as its spool knows it: what it makes from there on counts.

    An epoch that was retired was counted up to its end, before it was copied or after; where that is not known it stays
    retired.
    """
    birth = claim.birth
    ends = {claim.epoch: birth.next_sequence}
    if claim.follows is not None:
        ends[claim.follows[0]] = claim.follows[1]
    chain = {}
    for epoch in (claim.epoch, *claim.older()):
        if past.get(epoch) == 0:
            continue
        what, following = held.get(epoch, Held(Progress(past.get(epoch, 1) - 1))), ends.get(epoch, 0)
        if 0 < following <= what.progress.highest:
            what = what._replace(progress=Progress(following - 1))
        session = birth.session if epoch == claim.epoch else what.session
        ended = following if claim.follows and epoch == claim.follows[0] else 0
        chain[epoch] = what._replace(state=NORMAL, session=session, ended=ended)
    return chain


def _record(node: str, epoch: Epoch, what: Held, present: Epoch, at: float) -> Loss:
    doubted = "was in doubt and " if what.state == DOUBTFUL else ""
    first = what.progress.mark + 1
    detail = (
        f"epoch {epoch} {doubted}was given up in favour of {present}: what it had from message {first} on is not "
        "counted here"
    )
    return restored_copy(node, f"replaced-{epoch}", str(epoch), first, 0, detail, at)
