"""What the loop asks of the spool's writer, and what the writer hands back for each group (protocol P5.1 to P5.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from common.models import Confirmation, Epoch
from edge.batching import Frozen, Packed
from edge.lanes import Split
from edge.letters import Letters, Look, Void
from edge.spooltables import Input

Callback = Callable[[], None]


class Accept(msgspec.Struct):
    """A result to make durable. ``input_id`` names the journalled input that it ends, if any."""

    packed: Packed
    on_durable: Callback | None = None
    input_id: str = ""


class Journal(msgspec.Struct):
    """An input to make durable because its execution takes longer."""

    input: Input
    on_durable: Callback | None = None


class Again(msgspec.Struct):
    """Nothing new: what is held back may fit now."""


Op = Again | Accept | Journal | Confirmation | Split | Void | Letters | Look


class SpoolStats(msgspec.Struct):
    """The spool's account after a commit. ``accepted``, ``confirmed``, ``pending`` and ``backlog`` weigh executions
    (P5.11).

    ``previous`` are older epochs with messages on disk, oldest first: what a birth must name (P5.7).
    """

    epoch: Epoch
    low: int
    next_sequence: int
    accepted: int
    confirmed: int
    waiting_rows: int = 0
    window_messages: int = 0
    inputs: int = 0
    bytes_used: int = 0
    held: int = 0
    dead: int = 0
    dropped: int = 0
    set_aside: int = 0
    folded: int = 0
    backlog: int = 0
    previous: list[Epoch] = []
    follows: str = ""

    @property
    def pending(self) -> int:
        """Accepted, and neither confirmed nor given up (P5.11)."""
        return self.accepted - self.confirmed - self.dead - self.dropped - self.set_aside


class Committed(msgspec.Struct):
    """The outcome of one group, handed to the loop: whom to tell, what to publish, and the account."""

    durable: list[Callback]
    frozen: list[Frozen]
    stats: SpoolStats
    done: list[tuple[asyncio.Future[Any], Any]] = []
    accepted: int = 0
