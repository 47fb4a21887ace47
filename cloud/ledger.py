"""The ledger: do the nodes' accounts and the cloud's counts agree, and if not, beside which loss (protocol P5.11)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cloud.sessions import Sessions
from cloud.stores.base import Counted, LossSum, NodeRow, Store
from common.clock import Clock
from common.models import LOST_CLOUD, LOST_DROPPED, LOST_RESTORED, LOST_SET_ASIDE, LOST_VOID

SETTLED_S = 2.0  # a report says nothing of what was counted later, or at about the same time
# What each kind of loss means, for people, and what they can do.
_WORDS = {
    LOST_DROPPED: "given up by the node, mostly for want of room; if that is often, raise edge.spool.bytes_max there",
    LOST_SET_ASIDE: "set aside with a damaged or missing spool; the file is in the node's data_dir, if it is anywhere",
    LOST_VOID: "refused for ever and kept on the node; there, fieldpost dlq ls --side edge says why: redrive or drop",
    LOST_RESTORED: "in doubt, because the spool was copied or replaced; they are not counted, so none counts twice",
    LOST_CLOUD: "lost with the cloud's earlier store; no node holds them any more, only that database does",
}

KINDS = tuple(_WORDS)
_NEW_ACCOUNT = (LOST_RESTORED, LOST_SET_ASIDE)  # the node's account began anew, or from an older state


class LedgerRow(msgspec.Struct, frozen=True):
    """The account of one node, in executions; those before ``counted`` are from its last report, ``report_age_s`` ago.

    ``balance`` is ``ok``, ``off``, or ``open`` when nobody can say yet; ``words`` say why. ``window_messages`` are
    messages that were not confirmed at the report.
    """

    node: str
    state: str
    balance: str
    words: list[str]
    report_age_s: float | None = None
    accepted: int = 0
    confirmed: int = 0
    dead: int = 0
    dropped: int = 0
    set_aside: int = 0
    pending: int = 0
    folded: int = 0
    window_messages: int = 0
    counted: int = 0
    losses: dict[str, LossSum] = {}
    conflict: str = ""


class FleetRow(msgspec.Struct, frozen=True):
    """The sums over all nodes, and how many nodes have which balance."""

    nodes: int
    ok: int
    off: int
    open: int
    accepted: int
    confirmed: int
    dead: int
    dropped: int
    set_aside: int
    pending: int
    folded: int
    counted: int
    losses: dict[str, LossSum]


OK, OFF, OPEN = "ok", "off", "open"
_SUMS = ("accepted", "confirmed", "dead", "dropped", "set_aside", "pending", "folded", "counted")


def account(row: NodeRow, counted: Counted, now: float) -> LedgerRow:
    """Balance one node's last report with what is counted of it."""
    words = [row.conflict] if row.conflict else []
    words += [_loss_words(kind, lost) for kind, lost in sorted(row.lost.items())]
    status = row.status
    if status is None or not row.reported_at:
        words.append("the node has not reported its account")
        return LedgerRow(
            row.node, row.state, OPEN, words, counted=counted.results, losses=row.lost, conflict=row.conflict
        )
    pending = status.pending_results
    ended = {name: getattr(status, name) for name in ("confirmed", "dead", "dropped", "set_aside")}
    missing = status.accepted - sum(ended.values()) - pending
    wrong = []
    if missing:
        wrong.append(
            f"on the node, {status.accepted} accepted are not {status.confirmed} confirmed + {status.dead} dead + "
            f"{status.dropped} dropped + {status.set_aside} set aside + {pending} pending: the difference is {missing}"
        )
    balance, compared = _compare(row, counted, status.confirmed, pending, now)
    return LedgerRow(
        node=row.node, state=row.state, balance=OFF if wrong else balance, words=[*wrong, *compared, *words],
        report_age_s=round(now - row.reported_at, 3), accepted=status.accepted, **ended, pending=pending,
        folded=status.folded, window_messages=status.pending_messages, counted=counted.results, losses=row.lost,
        conflict=row.conflict,
    )  # fmt: skip


def _compare(row: NodeRow, counted: Counted, confirmed: int, pending: int, now: float) -> tuple[str, list[str]]:
    """Hold what is counted against the node's word: confirmed <= counted <= confirmed + pending.

    What was counted after the report may explain more. Not a time that is still to come: the clock was wrong then.
    """
    if counted.results < confirmed:
        less = f"{_many(confirmed - counted.results, 'result')} confirmed to the node and not counted here"
        return OFF, [less + _beside(row, LOST_CLOUD)]
    if counted.results <= confirmed + pending:
        return OK, []
    more = counted.results - confirmed - pending
    if counted.last_at > row.reported_at - SETTLED_S and not row.reported_at <= now < counted.last_at:
        return OPEN, [f"{_many(more, 'result')} more counted than the node's last report knows: its next one will tell"]
    return OFF, [f"{_many(more, 'result')} more counted here than the node knows of" + _beside(row, *_NEW_ACCOUNT)]


def _beside(row: NodeRow, *kinds: str) -> str:
    """Name the node's loss records of these kinds, which may explain a difference."""
    named = [f"{_many(row.lost[kind].records, 'loss record')} of kind {kind}" for kind in kinds if kind in row.lost]
    if not named:
        return ", and no loss record says why"
    return f": see its {' and '.join(named)} (fieldpost get losses --node {row.node})"


def _loss_words(kind: str, lost: LossSum) -> str:
    known = lost.results or lost.messages
    amount = _many(known, "result" if lost.results else "message") if known else "an unknown number of results"
    return f"{kind}: {amount} {_WORDS.get(kind, 'lost')} ({_many(lost.records, 'loss record')})"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def fleet(rows: Iterable[LedgerRow]) -> FleetRow:
    """Return the sums over the nodes."""
    found = list(rows)
    sums = {name: sum(getattr(row, name) for row in found) for name in _SUMS}
    balances = {name: sum(row.balance == name for row in found) for name in (OK, OFF, OPEN)}
    return FleetRow(nodes=len(found), **balances, **sums, losses=_add(row.losses for row in found))


def _add(all_losses: Iterable[Mapping[str, LossSum]]) -> dict[str, LossSum]:
    total: dict[str, LossSum] = {}
    for losses in all_losses:
        for kind, lost in losses.items():
            known = total.get(kind, LossSum(0, 0, 0))
            total[kind] = LossSum(
                known.records + lost.records, known.results + lost.results, known.messages + lost.messages
            )
    return total


class Ledger:
    """Reads accounts and counts together."""

    def __init__(self, sessions: Sessions, store: Store, clock: Clock) -> None:
        self._sessions, self._store, self._clock = sessions, store, clock
        self._balances: dict[str, int] = {}
        self._losses: dict[str, int] = {}

    async def rows(self, node: str = "") -> tuple[list[LedgerRow], FleetRow]:
        """Return the account of each node, or of one, and the fleet's sums over those."""
        counted = await self._store.counted()  # first: a report that comes in between only knows more
        now = self._clock.time()
        found = [
            account(row, counted.get(row.node, Counted(0, 0)), now)
            for row in await self._sessions.nodes()
            if node in ("", row.node)
        ]
        total = fleet(found)
        if not node:
            self._balances = {f"nodes_{name}": getattr(total, name) for name in (OK, OFF, OPEN)}
        return found, total

    async def refresh(self) -> None:
        """Read anew what metrics show of losses and conflicts; cheap, unlike ``rows``, which sums all counters."""
        nodes = await self._sessions.nodes()
        lost = _add(row.lost for row in nodes)
        self._losses = {"nodes_conflict": sum(bool(row.conflict) for row in nodes)}
        for kind in _WORDS:  # the kinds that are known: a node must not make up names of metrics
            found = lost.get(kind, LossSum(0, 0, 0))
            self._losses |= {f"lost_{kind}_results": found.results, f"lost_{kind}_messages": found.messages}

    def statistics(self) -> dict[str, int]:
        """Gauges: nodes by balance when the ledger was last read, nodes in conflict and losses at the last refresh."""
        return self._balances | self._losses
