"""Which sequences of an epoch are committed: a mark and a window above it (protocol P5.7). Pure values."""

from __future__ import annotations

from enum import Enum

from common.models import WINDOW


class Sight(Enum):
    """What ``Progress.see`` says of a sequence."""

    NEW = "new"  # never seen: give it its effect
    SEEN = "seen"  # committed before: confirm it again, no effect
    BEYOND = "beyond"  # above the window: refuse it


class Progress:
    """Everything up to ``mark`` is committed, and what ``bits`` says above it.

    Bit i of ``bits`` stands for the sequence ``mark + 2 + i``: ``mark + 1`` needs none, because seeing it moves the
    mark. A store keeps them as ``above``, hexadecimal and empty when there are none: no database has so long integers.
    """

    __slots__ = ("bits", "mark")

    def __init__(self, mark: int = 0, above: str = "") -> None:
        self.mark, self.bits = mark, int(above, 16) if above else 0

    @property
    def above(self) -> str:
        """What is committed above the mark, as a store keeps it."""
        return f"{self.bits:x}" if self.bits else ""

    def see(self, sequence: int) -> Sight:
        """Take one sequence (from 1) and say whether it is new, seen or beyond. Only NEW changes anything."""
        ahead = sequence - self.mark
        if ahead <= 0:
            return Sight.SEEN
        if ahead > WINDOW:
            return Sight.BEYOND
        if ahead == 1:
            self._advance()
            return Sight.NEW
        bit = 1 << (ahead - 2)
        if self.bits & bit:
            return Sight.SEEN
        self.bits |= bit
        return Sight.NEW

    def holds(self, sequence: int) -> bool:
        """True when this sequence was seen."""
        ahead = sequence - self.mark
        return ahead <= 0 or (1 < ahead <= WINDOW and bool(self.bits & (1 << (ahead - 2))))

    def _advance(self) -> None:
        """Move the mark over its successor and over all that were seen right behind it."""
        self.mark += 1
        while self.bits & 1:
            self.bits >>= 1
            self.mark += 1
        self.bits >>= 1

    def raise_to(self, mark: int) -> int:
        """Move the mark up to ``mark`` because the node holds nothing below any more (P5.8).

        Returns how many sequences were skipped without being seen; 0 when the mark is there already.
        """
        if mark <= self.mark:
            return 0
        skipped = mark - self.mark
        shift = min(skipped - 1, WINDOW)  # a shift by what a hostile node says could need all memory
        passed = self.bits & ((1 << shift) - 1)
        above = self.bits >> shift  # bit 0 is the new mark + 1
        self.mark = mark
        while above & 1:
            above >>= 1
            self.mark += 1
        self.bits = above >> 1
        return skipped - passed.bit_count()

    @property
    def highest(self) -> int:
        """The highest sequence that is committed, 0 when none is."""
        return self.mark + 1 + self.bits.bit_length() if self.bits else self.mark

    def also(self) -> list[int]:
        """Return the single sequences above the mark that are committed, in order: the Confirmation's ``also``."""
        found, bits, at = [], self.bits, self.mark + 2
        while bits:
            if bits & 1:
                found.append(at)
            bits >>= 1
            at += 1
        return found

    def __repr__(self) -> str:
        return f"Progress(mark={self.mark}, also={self.also()})"
