"""What a node may make in the counters: a bounded number of rows, so that no node fills the store with names (R3).

Rule, outcome and reason are the node's words. Each node may make so many rows; what would make a further one is counted
exactly, too, but in the row of the node's status under the rule ``OVERFLOW``, which is no name that a rule can have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Connection, func, literal_column, select

from cloud.counting import CounterKey, ErrorKey, ErrorTally, Tally
from cloud.stores.bulk import KeyLookup, Lookup
from cloud.stores.tables import counters
from common.resource import DEFAULT_NAMESPACE

OVERFLOW = "_other"  # an underscore is in no DNS name
ROOM_SHARE = 8  # a node's rows are counted again when it may have made this part of its bound
NODES_MAX = 65_536  # whose room is remembered; above that all are forgotten, and their rows counted again

_HELD = (
    select(counters.c.node, func.count())
    .where(counters.c.rule != literal_column(f"'{OVERFLOW}'"))
    .group_by(counters.c.node)
)


class CounterBound:
    """Stops at the bound. Writer thread only, in a transaction that holds the locks of the nodes.

    Which rows are there already is not asked as long as a node has room for all that it touches: each takes room as if
    it were new, and when the room is used up the node's rows are counted. Between two counts a controller does not see
    what others make, so with several of them a node can get beyond its bound by their rooms.
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._room: dict[str, int] = {}  # by node: rows that it may touch before they are counted
        self._held = Lookup(lambda names: _HELD.where(counters.c.node.in_(names)))
        self._there = KeyLookup(counters, CounterKey._fields)
        self.overflowed = 0  # tallies that were counted under OVERFLOW

    def apply(self, conn: Connection, tallies: dict[CounterKey, Tally]) -> Bounded:
        """Return the tallies within the bound, to be ``note``d when they are committed."""
        room, touched = self._room, Counter([key[0] for key in tallies])
        short = {node: rows for node, rows in touched.items() if rows > room.get(node, 0)}
        beyond = self._beyond(conn, tallies, short) if short else []
        for node, rows in touched.items():
            room[node] -= rows
        if len(room) > NODES_MAX:
            room.clear()
        return _moved(tallies, beyond) if beyond else Bounded(tallies, {})

    def note(self, bounded: Bounded) -> None:
        """Count what was counted under OVERFLOW."""
        self.overflowed += bounded.beyond

    def _beyond(
        self, conn: Connection, tallies: Mapping[CounterKey, Tally], short: Mapping[str, int]
    ) -> list[CounterKey]:
        """Give these nodes room by the rows that they have; return the tallies that are new and find none."""
        held: dict[str, int] = dict(self._held.fetch(conn, sorted(short)))
        beyond: list[CounterKey] = []
        for node, rows in short.items():
            left = max(0, self._rows_max - held.get(node, 0))
            self._room[node] = max(rows, min(left, self._rows_max // ROOM_SHARE))
            if rows > left:
                keys = [key for key in tallies if key[0] == node]
                there = self._there.present(conn, keys)
                beyond += [key for key in keys if key not in there][left:]
        return beyond


class Bounded:
    """Tallies by the keys under which they are counted, and which rules are counted under OVERFLOW alone."""

    def __init__(
        self,
        tallies: dict[CounterKey, Tally],
        moved: Mapping[tuple[str, str, str], tuple[str, str, str]],
        beyond: int = 0,
    ) -> None:
        self.tallies, self._moved = tallies, moved
        self.beyond = beyond  # tallies that are counted under OVERFLOW

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


def _moved(tallies: dict[CounterKey, Tally], beyond: list[CounterKey]) -> Bounded:
    """Count the tallies of ``beyond`` in their nodes' rows of OVERFLOW."""
    out = set(beyond)
    kept = {key: tally for key, tally in tallies.items() if key not in out}
    named = {key.of_rule for key in kept}
    rule = (DEFAULT_NAMESPACE, OVERFLOW, "")
    for key in beyond:
        other = kept.setdefault(CounterKey(key.node, *rule, key.status, "", ""), tallies[key])
        if other is not tallies[key]:
            other.merge(tallies[key])
    moved = {key.of_rule: rule for key in beyond if key.of_rule not in named}
    return Bounded({key: kept[key] for key in sorted(kept)}, moved, len(beyond))
