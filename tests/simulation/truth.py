"""What really happened, noted beside the simulated parts, and the promises of reliability R1 as checks on it.

A result's source id says all about it: ``<node.rule.numberxweight>``. So what a disk, a broker or a store holds is read
from the bytes, and not from what the parts believe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from common.resource import RULESTATUS
from edge.batching import Frozen
from edge.settings import UplinkSettings
from edge.spooltables import Changes, State

INPUT_RULE = "journalled"  # its results end when they end: no order among them
HEADER_BYTES = 600  # of a message, at most, on top of its results
_ID = re.compile(rb"<([a-z0-9-]+)\.([a-z0-9]+)\.(\d+)x(\d+)>")


class Violation(AssertionError):
    """A promise was broken."""


class Id(NamedTuple):
    """A result's identity."""

    node: str
    rule: str
    number: int
    weight: int

    def __str__(self) -> str:
        return f"<{self.node}.{self.rule}.{self.number}x{self.weight}>"


def ids_in(payload: bytes) -> list[Id]:
    """The results that some bytes hold, whatever the codec, in their order."""
    return [Id(node.decode(), rule.decode(), int(n), int(w)) for node, rule, n, w in _ID.findall(payload)]


def require(held: bool, text: str, *values: object) -> None:
    """Raise Violation with ``text`` (formatted with ``values``) unless ``held``."""
    if not held:
        raise Violation(text.format(*values))


class Told:
    """The callback of one result or input: whoever calls it says that the thing is durable."""

    __slots__ = ("id", "truth")

    def __init__(self, truth: NodeTruth, id: Id) -> None:
        self.truth, self.id = truth, id

    def __call__(self) -> None:
        require(
            self.id in self.truth.durable or self.id in self.truth.inputs, "{} told durable, is not on disk", self.id
        )
        self.truth.told.add(self.id)


class NodeTruth:
    """The truth about one node: what its disk took, what the broker saw, what the cloud counted."""

    def __init__(self, node: str, window: UplinkSettings) -> None:
        self.node, self.window = node, window
        self.durable: set[Id] = set()
        self.inputs: set[Id] = set()  # on disk at some time
        self.told: set[Id] = set()
        self.counted: set[Id] = set()
        self.dropped: set[Id] = set()  # given up at the spool's bound, and counted as such
        self.accepted_weight = self.counted_weight = self.confirmed_weight = self.dropped_weight = 0
        self.frozen: dict[tuple[int, int], list[Id]] = {}  # all that ever were
        self.in_window: dict[tuple[int, int], Frozen] = {}
        self._window_weight = self._window_bytes = 0  # of the messages in it, without the headers that come on top
        self.in_frozen: set[Id] = set()
        self._stands_for: dict[Id, set[Id]] = {}  # what was folded into a result that keeps its own id (P5.10)
        self._arrived: set[bytes] = set()
        self._last_arrived: dict[tuple[str, bool], int] = {}  # by rule and lane
        self._behind: set[Id] = set()  # went in the backlog's lane
        self._in_a_row = [0, 0]  # messages of the backlog, and live ones, while the other lane waited
        self._last_epoch = 0
        self._next: dict[int, int] = {}

    # -- the disk ------------------------------------------------------------------------------------------------------

    def lanes(self, changes: Changes, behind: Sequence[bytes], waiting: tuple[int, int]) -> None:
        """A transaction is about to be made: ``behind`` are the backlog's rows that it takes away, ``waiting`` the rows
        of backlog and live lane before it. Neither may wait while the other has more than its share (P5.6).
        """
        self._behind.update(each for body in behind for each in ids_in(body))
        taken = len(behind), len(changes.gone_results) - len(behind)
        left = [rows - gone for rows, gone in zip(waiting, taken, strict=True)]
        if changes.state.epoch.n != self._last_epoch:  # turns go by sequences, which begin anew
            self._in_a_row = [0, 0]
        share = self.window.backlog_share
        most = math.ceil(share / (1 - share)), math.ceil((1 - share) / share)
        for message in changes.new_messages:
            if not message.weight:  # a loss record names no results: it may have been the turn of either lane
                self._in_a_row = [0, 0]
                continue
            lane = 0 if self._behind.issuperset(ids_in(message.payload)) else 1
            self._in_a_row[1 - lane] = 0
            self._in_a_row[lane] += left[1 - lane] > 0
            require(
                self._in_a_row[lane] <= most[lane],
                "{} messages in a row of lane {}, of the other {} rows wait", most[lane] + 1, lane, left[1 - lane],
            )  # fmt: skip
        for lane in (0, 1):
            if not left[1 - lane]:
                self._in_a_row[lane] = 0

    def committed(
        self, changes: Changes, pending_weight: int, gone: Iterable[bytes] = (), backlog_weight: int = 0
    ) -> None:
        """A transaction of the spool is on disk; ``pending_weight`` is what its tables weigh together now,
        ``backlog_weight`` what the backlog does, ``gone`` the result rows that it took away: into messages, or into
        summaries.
        """
        state = changes.state
        self._fold(changes, gone)
        for item in changes.new_inputs:
            self.inputs.update(ids_in(item.payload))
        for packed in (*changes.new_results, *changes.folded_results):
            self._accept(ids_in(packed.body))
        for key in changes.gone_messages:
            require(key in self.in_window, "message {} was deleted, and it was not there", key)
            lost = [each for each in self.frozen[key] if each not in self.counted]
            require(not lost, "message {} was deleted, but the cloud has not counted {}", key, lost)
            self._leave(self.in_window.pop(key))
        for message in changes.new_messages:
            self._freeze(message)
        require(
            state.pending == pending_weight and not state.dead and not state.set_aside,
            "ledger: pending {}, tables weigh {}: {}", state.pending, pending_weight, state,
        )  # fmt: skip
        require(state.backlog == backlog_weight, "ledger says backlog {}, it weighs {}", state.backlog, backlog_weight)
        require(state.dropped == self.dropped_weight, "ledger says dropped {}: {}", state.dropped, self.dropped_weight)
        require(
            state.accepted == self.accepted_weight, "ledger says accepted {}, disk took {}",
            state.accepted, self.accepted_weight,
        )  # fmt: skip
        self.confirmed_weight = state.confirmed
        self._check_window(state)
        self.check_counts()

    def _fold(self, changes: Changes, gone: Iterable[bytes]) -> None:
        """Rows that are gone without being sent were folded into those that took their place, or dropped."""
        before = {each for body in gone for each in ids_in(body)}
        left = (*changes.new_results, *changes.folded_results)
        kept = {each for packed in left for each in ids_in(packed.body)}
        sent = {each for message in changes.new_messages for each in ids_in(message.payload)}
        for each in before - kept - sent:
            heirs = [other for other in kept & before if other.rule == each.rule]
            if not heirs:
                require(any(packed.kind != RULESTATUS for packed in left), "{} is gone without a loss record", each)
                self._drop(self._stands_for.pop(each, {each}))
                continue
            heir = min((other for other in heirs if other.number > each.number), default=heirs[0])
            self._stands_for.setdefault(heir, {heir}).update(self._stands_for.pop(each, {each}))

    def _drop(self, ids: set[Id]) -> None:
        self.dropped |= ids
        self.dropped_weight += sum(each.weight for each in ids)

    def _all_of(self, ids: Iterable[Id]) -> list[Id]:
        """``ids`` with all that was folded into them."""
        return [each for one in ids for each in self._stands_for.get(one, (one,))]

    def _accept(self, ids: Iterable[Id]) -> None:
        for each in ids:
            if each not in self.durable:
                self.durable.add(each)
                self.accepted_weight += each.weight

    def _freeze(self, message: Frozen) -> None:
        key = (message.epoch.n, message.sequence)
        require(message.weight > 0 or key not in self.frozen, "message {} was given up as void", key)
        require(key not in self.frozen, "epoch and sequence {} used twice", key)
        expected = self._next.get(message.epoch.n, 1)
        require(message.sequence == expected, "sequence {} of epoch {}, expected {}", key[1], key[0], expected)
        self._next[message.epoch.n] = expected + 1
        ids = self.frozen[key] = self._all_of(ids_in(message.payload))
        twice = self.in_frozen.intersection(ids)
        require(not twice and len(set(ids)) == len(ids), "{} frozen twice", twice or ids)
        self.in_frozen.update(ids)
        self._accept(ids)
        self.in_window[key] = message
        self._window_weight += message.weight
        self._window_bytes += len(message.payload) - HEADER_BYTES
        low = min(sequence for n, sequence in self.in_window if n == key[0])
        require(
            low <= key[1] < low + self.window.window_messages,
            "sequence {} of epoch {}, a window above {}",
            key[1],
            key[0],
            low,
        )

    def _leave(self, message: Frozen) -> None:
        self._window_weight -= message.weight
        self._window_bytes -= len(message.payload) - HEADER_BYTES

    def _check_window(self, state: State) -> None:
        window, bounds = self.in_window, self.window
        if state.epoch.n != self._last_epoch:
            require(state.epoch.n > self._last_epoch, "epoch {} after {}", state.epoch.n, self._last_epoch)
            self._last_epoch = state.epoch.n
        require(len(window) <= bounds.window_messages, "{} messages in the window", len(window))
        size = self._window_bytes
        require(len(window) < 2 or size <= bounds.window_bytes, "{} bytes in the window", size)

    # -- the broker ----------------------------------------------------------------------------------------------------

    def arrived(self, payload: bytes) -> None:
        """The broker received a message: the first time, order per rule must hold (R1.3)."""
        if payload in self._arrived:
            return
        self._arrived.add(payload)
        for each in ids_in(payload):
            require(each in self.durable, "{} was published before it was durable", each)
            if each.rule != INPUT_RULE:
                lane = each.rule, each in self._behind
                last = self._last_arrived.get(lane, 0)
                require(last < each.number, "{} arrived after number {} of its rule and lane", each, last)
                self._last_arrived[lane] = each.number

    # -- the cloud -----------------------------------------------------------------------------------------------------

    def count(self, ids: Iterable[Id]) -> None:
        """The cloud's transaction that counts ``ids`` is committed."""
        for each in self._all_of(ids):
            require(each not in self.counted, "{} counted twice", each)
            require(each in self.durable, "{} counted, was never accepted", each)
            self.counted.add(each)
            self.counted_weight += each.weight
        self.check_counts()

    def check_counts(self) -> None:
        """P5.11: confirmed <= counted <= confirmed + in window."""
        window = self._window_weight
        require(
            self.confirmed_weight <= self.counted_weight <= self.confirmed_weight + window,
            "confirmed {}, counted {}, in window {}", self.confirmed_weight, self.counted_weight, window,
        )  # fmt: skip

    # -- at the end ----------------------------------------------------------------------------------------------------

    def settled(self) -> None:
        """Everything is drained: nothing is lost, nothing doubled."""
        known = self.counted | self.dropped
        require(self.told <= known, "told durable, never counted: {}", sorted(self.told - known)[:5])
        require(self.durable == known, "accepted, never counted: {}", sorted(self.durable - known)[:5])
        require(not self.counted & self.dropped, "counted though dropped: {}", self.counted & self.dropped)
        require(
            self.accepted_weight - self.dropped_weight == self.confirmed_weight == self.counted_weight,
            "accepted {}, confirmed {}, counted {}", self.accepted_weight, self.confirmed_weight, self.counted_weight,
        )  # fmt: skip
