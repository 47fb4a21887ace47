"""Whose rules are whose: a result of a rule of the cloud's is taken only from a node that had the rule (protocol P6.4).

A result names its rule by namespace, name and uid. With a uid it is the cloud's rule, and the node must have a row of
it in ``assignments``, whatever its state: tombstones stay, so what a node still has to tell of a rule that was taken
away counts. Without one it is a rule of the node's own layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter

from sqlalchemy import Connection

from cloud.stores.base import StatusMessage
from cloud.stores.bulk import KeyLookup
from cloud.stores.tables import assignments
from common.rules import RULE_KIND

KNOWN_MAX = 100_000  # assignments that are remembered; above that all are forgotten, and looked up again

_uid_of = attrgetter("rule_uid")
_rule_of = attrgetter("rule_id", "rule_uid")
_Pair = tuple[str, str]  # rule, uid
_Place = tuple[str, str]  # node, namespace


class Owners:
    """Tells which messages hold results of rules that are not their node's. Writer thread only.

    That a rule is a node's is remembered, which is safe with any number of controllers: its row stays for good. That it
    is not is asked each time.
    """

    def __init__(self) -> None:
        self._known: dict[_Place, set[_Pair]] = {}
        self._size = 0
        self._there = KeyLookup(assignments, ("node", "kind", "namespace", "name", "uid"))

    def strays(
        self, conn: Connection, messages: Iterable[StatusMessage]
    ) -> tuple[dict[int, list[_Pair]], Callable[[], None]]:
        """Return the rules that are not their node's by the ``id()`` of their message, and what to call after the
        commit.
        """
        asked: list[tuple[StatusMessage, list[_Pair]]] = []
        for message in messages:
            if any(map(_uid_of, message.results)):
                known = self._known.get((message.node, message.namespace), set())
                new = [pair for pair in set(map(_rule_of, message.results)) - known if pair[1]]
                if new:
                    asked.append((message, new))
        if not asked:
            return {}, _nothing
        keys = {(message.node, RULE_KIND, message.namespace, *pair) for message, pairs in asked for pair in pairs}
        there = self._there.present(conn, sorted(keys))
        found: dict[int, list[_Pair]] = {}
        for message, pairs in asked:
            stray = [pair for pair in pairs if (message.node, RULE_KIND, message.namespace, *pair) not in there]
            if stray:
                found[id(message)] = sorted(stray)
        return found, lambda: self._remember(there)

    def _remember(self, there: set[tuple[str, ...]]) -> None:
        if self._size + len(there) > KNOWN_MAX:
            self._known.clear()
            self._size = 0
        for node, _, namespace, rule, uid in there:
            self._known.setdefault((node, namespace), set()).add((rule, uid))
        self._size += len(there)


def _nothing() -> None:
    pass
