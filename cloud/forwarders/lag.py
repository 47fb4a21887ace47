"""How late a sink is: the age of the oldest change that it was not told (metric ``forwarder_lag_seconds``).

``changes`` holds when a rule changed last, not when it first changed after what a sink knows. So what is pending is
looked at again and again, and what was pending before keeps the time at which it began to be. A rule that is noticed
with one change is as old as that change; with several, at most as old as the last look that did not see it.
"""

from __future__ import annotations

from cloud.stores.outbox import LOOKED_AT_MAX, Look
from cloud.stores.status import RuleKey


class Lag:
    """Follows the looks at one sink's outbox. Times are unix seconds."""

    def __init__(self) -> None:
        self._since: dict[RuleKey, tuple[int, float]] = {}  # version that the sink has, when it became old
        self._looked_at = 0.0
        self.since = 0.0  # when the oldest change was made that the sink was not told, 0: it knows all

    def update(self, look: Look, now: float) -> None:
        """Take a look that was made at ``now``."""
        before, self._since = self._since, {}
        unseen = self._looked_at if len(before) < LOOKED_AT_MAX else 0.0  # what a full look left out may be old
        for row in look.waiting:
            told, since = before.get(row.key, (-1, 0.0))
            if told != row.told:
                since = row.changed_at if row.version <= row.told + 1 else max(row.told_at, unseen)
            self._since[row.key] = (row.told, min(since or row.changed_at, row.changed_at))
        self._looked_at = now
        self.since = min((since for _, since in self._since.values()), default=0.0)

    def seconds(self, now: float) -> float:
        """The lag now."""
        return max(0.0, now - self.since) if self.since else 0.0
