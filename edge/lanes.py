"""Two lanes out of the spool: the backlog and what happens now, with a fair share of the window (protocol P5.6).

A result row with an id up to the boundary ``backlog_through`` of the spool's state is backlog, any other is live: the
lane of a row is on disk without a column of its own, and a million rows change it by one number. The boundary only
rises, so each lane goes in the order of its rows, and a row that became backlog never is live again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

from edge.batching import Packed
from edge.spooltables import Changes, State


class Split(msgspec.Struct):
    """The order to begin the live lane anew: everything that waits now is backlog."""


class Lanes(msgspec.Struct, frozen=True):
    """How many result rows wait in each lane."""

    backlog: int = 0
    live: int = 0

    @property
    def rows(self) -> int:
        """Of both."""
        return self.backlog + self.live

    def after(self, changes: Changes, before: State) -> Lanes:
        """What waits when ``changes`` are committed to a spool in state ``before``."""
        through = changes.state.backlog_through
        backlog, live = (self.rows, 0) if through > before.backlog_through else (self.backlog, self.live)
        behind = sum(row <= through for row in changes.gone_results)
        folded = len(changes.folded_results)  # in the places of backlog rows
        return Lanes(backlog - behind + folded, live - (len(changes.gone_results) - behind) + len(changes.new_results))


def split(state: State, waiting: int) -> None:
    """Make backlog of everything that waits: ``waiting`` executions."""
    state.backlog_through, state.backlog = state.next_row - 1, waiting


def is_backlogs_turn(sequence: int, share: float) -> bool:
    """Whether a message with this sequence is the backlog's when both lanes wait: evenly spread, ``share`` of all.

    It needs no memory, so turns go on over a crash, and a commit that is repeated gives the same turns.
    """
    return int((sequence + 1) * share) > int(sequence * share)


def in_turn(backlog: Sequence[Packed], live: Sequence[Packed], sequence: int, share: float) -> Iterator[Packed]:
    """What to freeze as ``sequence``, ``sequence + 1`` and so on: each lane in its order, in turns; one takes all when
    the other is empty.
    """
    old, new = deque(backlog), deque(live)
    while old or new:
        yield (old if old and (not new or is_backlogs_turn(sequence, share)) else new).popleft()
        sequence += 1
