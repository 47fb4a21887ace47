"""Progress against a model that remembers everything (P5.7, P5.8)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud.progress import Progress, Sight
from common.models import WINDOW

sequences = st.integers(1, 200)


class Model:
    """A set of all that was seen, and the highest sequence up to which nothing is missing."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.floor = 0  # everything up to here counts as seen, because the node does not hold it any more

    @property
    def mark(self) -> int:
        mark = self.floor
        while mark + 1 in self.seen:
            mark += 1
        return mark

    def see(self, sequence: int) -> Sight:
        if sequence <= self.floor or sequence in self.seen:
            return Sight.SEEN
        if sequence > self.mark + WINDOW:
            return Sight.BEYOND
        self.seen.add(sequence)
        return Sight.NEW

    def raise_to(self, mark: int) -> int:
        before = self.mark
        if mark <= before:
            return 0
        skipped = sum(each not in self.seen for each in range(before + 1, mark + 1))
        self.floor = mark
        return skipped

    def also(self) -> list[int]:
        return sorted(each for each in self.seen if each > self.mark)


@given(st.lists(sequences, max_size=400))
def test_any_interleaving_and_duplication_is_judged_as_a_set_would(order: list[int]) -> None:
    """Each sequence is NEW at most once, SEEN ever after, and mark and also say exactly what was seen."""
    progress, model = Progress(), Model()
    for sequence in order:
        assert progress.see(sequence) is model.see(sequence)
        assert (progress.mark, progress.also()) == (model.mark, model.also())


@given(st.lists(st.tuples(st.booleans(), sequences), max_size=200))
def test_raising_the_mark_agrees_with_the_set(steps: list[tuple[bool, int]]) -> None:
    """raise_to skips exactly what was never seen, wherever it falls among single later ones (P5.8)."""
    progress, model = Progress(), Model()
    for is_raise, value in steps:
        if is_raise:
            assert progress.raise_to(value) == model.raise_to(value)
        else:
            assert progress.see(value) is model.see(value)
        assert (progress.mark, progress.also()) == (model.mark, model.also())
        restored = Progress(progress.mark, progress.above)
        assert restored.also() == model.also()


@given(st.permutations(list(range(1, WINDOW + 1))))
def test_a_full_window_in_any_order_ends_at_its_mark(order: list[int]) -> None:
    """All of the window, in whatever order: each new once, and nothing is left above the mark."""
    progress = Progress()
    assert [progress.see(each) for each in order] == [Sight.NEW] * WINDOW
    assert (progress.mark, progress.bits) == (WINDOW, 0)


def test_the_window_is_256_and_fits_its_column() -> None:
    """Sequence mark + 256 is taken, mark + 257 is beyond; what a store keeps of it has at most 64 characters."""
    progress = Progress(100)
    assert progress.see(357) is Sight.BEYOND
    for sequence in range(102, 357):
        assert progress.see(sequence) is Sight.NEW
    assert (len(progress.above), progress.highest) == (64, 356)
    assert progress.see(101) is Sight.NEW
    assert (progress.mark, progress.above) == (356, "")


def test_a_hostile_low_costs_nothing() -> None:
    """A low of nearly 2**63 moves the mark without a shift by as much."""
    progress = Progress(5, "3")
    assert progress.raise_to(2**62) == 2**62 - 5 - 2
    assert progress.also() == []
