"""``fieldpost describe``: all that is known of one rule or one node, and in words what to do about it (experience U2).

Words are lines for people: the first says how it is, each further one names a trouble and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import structs
from sqlalchemy import Connection

from cloud.ledger import Ledger, LedgerRow
from cloud.operations_rules import Name, RuleArgs, read_args, shown_object
from cloud.selection import ObjectKey
from cloud.sessions import CONFLICT, OFFLINE, ONLINE, Sessions
from cloud.stores.assigning import Summary, summaries
from cloud.stores.base import NodeRow, Store
from cloud.stores.desired import ObjectRow, objects_of, words_of
from cloud.stores.onenode import NodeFacts, ObjectOnNode, counted_uids, facts_of
from cloud.stores.status import NodeShare, RuleKey, RuleStatus, rule_statuses
from cloud.stores.tables import APPLIED, FAILED, REMOVED
from common.clock import Clock
from common.control import Operation
from common.errors import ControlError
from common.rules import RULE_KIND
from common.version import VERSION

ROWS_MAX = 32  # errors and losses that a description shows
NAMED_MAX = 10  # nodes or rules that its words name
SKEW_TOLD_S = 5.0  # a clock that is further off is told
_OF_STATUS = (
    "success", "fail", "last_success", "last_failure", "p50_us", "p95_us", "last_minute", "last_hour", "last_day",
    "conditions", "errors",
)  # fmt: skip


class _NodeArgs(msgspec.Struct, forbid_unknown_fields=True):
    node: Name


# What each operation takes, for who describes them.
ARGUMENTS: dict[str, type[msgspec.Struct]] = {"describe.rule": RuleArgs, "describe.node": _NodeArgs}


class Descriptions:
    """The operations by name. Wrong arguments are a ControlError that names the argument."""

    def __init__(self, store: Store, sessions: Sessions, ledger: Ledger, clock: Clock, stale_s: float) -> None:
        self._store, self._sessions, self._ledger = store, sessions, ledger
        self._clock, self._stale_s = clock, stale_s

    def table(self) -> dict[str, Operation]:
        """Return name -> operation, for ``ControlServer``."""
        return {"describe.rule": self.describe_rule, "describe.node": self.describe_node}

    async def describe_rule(self, args: dict[str, Any]) -> Any:
        """All that is known of one rule: manifest, status as the sinks have it, and ``words`` that sum it up.

        Of a rule that is not wanted, but counted, there is no manifest: nodes have it of their own, or it was deleted.
        """
        wanted, now = read_args(args, RuleArgs), self._clock.time()
        key = ObjectKey(RULE_KIND, wanted.namespace, wanted.rule)

        def query(conn: Connection) -> dict[str, Any]:
            uids = counted_uids(conn, key.namespace, key.name)
            rows = objects_of(conn, *key)
            if not rows and not uids:
                raise ControlError(f"{words_of(key)} is not there", kind="not_found")
            own = "" in uids
            uid = rows[0].uid if rows else "" if own else uids[0]
            of = RuleKey(key.namespace, key.name, uid)
            (status,) = rule_statuses(conn, [of], now=now, stale_s=self._stale_s, errors_max=ROWS_MAX)
            if not rows:
                return _counted_only(key, status)
            told = summaries(conn, now, self._stale_s, kind=RULE_KIND, namespace=key.namespace, name=key.name)
            return _described(rows[0], status, told.get((key, uid), Summary()), own)

        return await self._store.read(query)

    async def describe_node(self, args: dict[str, Any]) -> Any:
        """All that is known of one node: presence, account, objects, errors, losses, and ``words`` on what to do."""
        node, now = read_args(args, _NodeArgs).node, self._clock.time()
        row = next((each for each in await self._sessions.nodes() if each.node == node), None)
        if row is None:
            raise ControlError(f"node {node} is not known here", kind="not_found")
        (account,), _ = await self._ledger.rows(node)
        facts = await self._store.read(lambda conn: facts_of(conn, node, now, self._stale_s, ROWS_MAX))
        return {
            "node": row, "account": account, **facts._asdict(), "words": list(_node_words(row, account, facts, now)),
        }  # fmt: skip


# -- rules -------------------------------------------------------------------------------------------------------------


def _described(row: ObjectRow, status: RuleStatus, summary: Summary, own: bool) -> dict[str, Any]:
    """Nodes that had the rule and have not any more are shown when they counted something."""
    words = _rule_words(row, [share for share in status.nodes if share.desired])
    if own:
        words.append("a rule of this name in nodes' own files is counted beside it: fieldpost get rules shows both")
    return {
        **shown_object(row, summary),
        **{name: getattr(status, name) for name in _OF_STATUS},
        "words": words,
        "nodes": [share for share in status.nodes if share.state != REMOVED or share.success or share.fail],
    }


def _counted_only(key: ObjectKey, status: RuleStatus) -> dict[str, Any]:
    on = f"counted on {len(status.nodes)} {'node' if len(status.nodes) == 1 else 'nodes'}"
    words = (
        f"rule {key.name}: of nodes' own files, {on}; there fieldpost edge config show --origin says where it stands"
    )
    if status.uid:
        words = f"rule {key.name}: deleted, was {on}"
    row = ObjectRow(*key, status.uid, 0, {}, status.origin, 0, 0)
    return {
        **shown_object(row, Summary()),
        **{name: getattr(status, name) for name in _OF_STATUS},
        "words": [words],
        "nodes": [structs.replace(share, state=status.origin) for share in status.nodes],
    }


def _rule_words(row: ObjectRow, shares: Sequence[NodeShare]) -> list[str]:
    """``running on 3 of 4 nodes``, then a line for each node that refused a version."""
    running = sum(share.state == APPLIED for share in shares)
    first = f"rule {row.name}: running on {running} of {len(shares)} nodes"
    if not row.manifest["spec"].get("enabled", True):
        first = f"rule {row.name}: disabled, as {running} of {len(shares)} nodes know"
    failed = [share for share in shares if share.error]
    lines = [f"{each.node} refused version {each.refused}: {_line(each.error)}" for each in failed[:NAMED_MAX]]
    more = len(failed) - NAMED_MAX
    return [first, *lines, *([f"and {more} more nodes refused it"] if more > 0 else [])]


def _line(error: str) -> str:
    """A finding as one line: without the picture of the place, which a description shows below."""
    lines = [line.strip() for line in error.splitlines()]
    return " ".join(line for line in lines if not line.startswith("|"))


# -- nodes -------------------------------------------------------------------------------------------------------------

_ADVICE: Mapping[str, str] = {
    ONLINE: "",
    OFFLINE: ": start its agent, or read its log; its results wait on its disk",
    CONFLICT: "",  # the conflict itself says what to do
}
_SILENT = ": look whether its agent runs and reaches the broker, and whether this controller does"


def _node_words(row: NodeRow, account: LedgerRow, facts: NodeFacts, now: float) -> Iterator[str]:
    yield f"node {row.node}: {row.state}{_ADVICE.get(row.state, _SILENT)}"
    if row.conflict:
        yield row.conflict
    yield from _account_words(row, account)
    yield from _object_words(facts.objects)
    if facts.letters:
        yield f"{facts.letters} of its messages are dead letters here: fieldpost dlq ls says why"
    if row.clock_skew_s is not None and abs(row.clock_skew_s) > SKEW_TOLD_S:
        yield f"its clock is {row.clock_skew_s:+.0f} s off: set it by NTP"
    if row.version not in ("", VERSION):
        yield f"it runs version {row.version}, this controller {VERSION}: upgrade controllers first, then nodes"


def _account_words(row: NodeRow, account: LedgerRow) -> Iterator[str]:
    status = row.status
    if row.state == ONLINE and status is not None and status.epoch not in ("", row.epoch):
        yield (
            f"its statistics are of epoch {status.epoch}, its birth of {row.epoch}: unless it restarted seconds ago, "
            "two agents run with this node id; stop one, or give it an id of its own"
        )
    if account.dead:
        yield f"{account.dead} results are dead letters on the node: fieldpost dlq ls --side edge says why, there"
    if account.pending and row.state == ONLINE:
        yield f"{account.pending} results wait on the node: if they do not get fewer, its log says what holds them up"
    yield from (words for words in account.words if words != row.conflict)


def _object_words(objects: Sequence[ObjectOnNode]) -> Iterator[str]:
    wanted = [each for each in objects if each.desired]
    if wanted:
        applied = sum(each.state == APPLIED for each in wanted)
        yield f"{applied} of {len(wanted)} rules and endpoints that are wanted there run in the wanted version"
    failed = [each for each in wanted if each.state == FAILED]
    for each in failed[:NAMED_MAX]:
        yield f"{each.namespace}/{each.name}: version {each.refused} is refused: {_line(each.error)}"
    if len(failed) > NAMED_MAX:
        yield f"and {len(failed) - NAMED_MAX} more are refused"
