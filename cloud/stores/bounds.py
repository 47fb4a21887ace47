"""What a node may make in the counters: a bounded number of rows, so that no node fills the store with names (R3).

Rule, outcome and reason are the node's words. Each node may make so many rows; what would make a further one is counted
exactly, too, but in the row of the node's status under the rule ``OVERFLOW``, which is no name that a rule can have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, bindparam, insert, select, update

from cloud.counting import CounterKey, ErrorKey, ErrorTally, Tally
from cloud.stores.bulk import KeyLookup
from cloud.stores.tables import counter_rows, counters
from common.resource import DEFAULT_NAMESPACE

OVERFLOW = "_other"  # an underscore is in no DNS name
KNOWN_MAX = 65_536  # rows that are remembered; above that all are forgotten, and looked up again

_OF = counter_rows.c.node == bindparam("of")
_ROWS = select(counter_rows.c.rows).where(_OF)
_SET = update(counter_rows).where(_OF)
_FIRST = insert(counter_rows).values(node=bindparam("of"))


class CounterBound:
    """Tells which rows of counters are there already, and stops at the bound. Writer thread only.

    What is known is safe to keep: a row of counters is never deleted.
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._known: set[CounterKey] = set()
        self._there = KeyLookup(counters, CounterKey._fields)
        self.overflowed = 0  # tallies that were counted under OVERFLOW

    def apply(self, conn: Connection, tallies: dict[CounterKey, Tally]) -> tuple[Bounded, Callable[[], None]]:
        """Return the tallies within the bound, and what to call once they are committed. Needs the nodes' locks."""
        known = self._known
        new = [key for key in tallies if key not in known]
        if not new:
            return Bounded(tallies, {}), _nothing
        by_node: dict[str, list[CounterKey]] = {}
        for key in new:
            by_node.setdefault(key.node, []).append(key)
        beyond: list[CounterKey] = []
        for node, keys in by_node.items():
            beyond += self._beyond(conn, node, keys)
        bounded = _moved(tallies, beyond) if beyond else Bounded(tallies, {})
        fresh = set(new).difference(beyond)

        def committed() -> None:
            if len(known) + len(fresh) > KNOWN_MAX:
                known.clear()
            known.update(fresh)
            self.overflowed += len(beyond)

        return bounded, committed

    def _beyond(self, conn: Connection, node: str, keys: list[CounterKey]) -> list[CounterKey]:
        """Return those keys of a node that are new and for which there is no room; count the others as its rows."""
        there = self._there.present(conn, keys)
        new = [key for key in keys if key not in there]
        if not new:
            return []
        held: int | None = conn.execute(_ROWS, {"of": node}).scalar()
        room = max(0, self._rows_max - (held or 0))
        rows = (held or 0) + len(new[:room])
        conn.execute(_FIRST if held is None else _SET, {"of": node, "rows": rows})
        return new[room:]


class Bounded:
    """Tallies by the keys under which they are counted, and which rules are counted under OVERFLOW alone."""

    def __init__(
        self, tallies: dict[CounterKey, Tally], moved: Mapping[tuple[str, str, str], tuple[str, str, str]]
    ) -> None:
        self.tallies, self._moved = tallies, moved

    def errors(self, found: dict[ErrorKey, ErrorTally]) -> dict[ErrorKey, ErrorTally]:
        """Return errors under the rules under which their executions are counted, in order of their keys."""
        if not self._moved:
            return found
        named: dict[ErrorKey, ErrorTally] = {}
        for key, tally in found.items():
            rule = self._moved.get(key[:3], key[:3])
            same = named.setdefault(ErrorKey(*rule, *key[3:]), tally)
            if same is not tally:
                same.count += tally.count
        return dict(sorted(named.items()))


def _nothing() -> None:
    pass


def _moved(tallies: dict[CounterKey, Tally], beyond: list[CounterKey]) -> Bounded:
    """Count the tallies of ``beyond`` in their nodes' rows of OVERFLOW."""
    out = set(beyond)
    kept = {key: tally for key, tally in tallies.items() if key not in out}
    named = {key.of_rule for key in kept}
    rule = (DEFAULT_NAMESPACE, OVERFLOW, "")
    for key in beyond:
        other = kept.setdefault(CounterKey(*rule[:2], key.node, "", key.status, "", ""), tallies[key])
        if other is not tallies[key]:
            other.merge(tallies[key])
    moved = {key.of_rule: rule for key in beyond if key.of_rule not in named}
    return Bounded({key: kept[key] for key in sorted(kept)}, moved)
