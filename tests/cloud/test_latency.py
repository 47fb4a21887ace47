"""Histograms of durations: what a bucket stands for, that they add up, and percentiles (P8.1)."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cloud.stores.latency import DURATION_MAX, bucket_of, histogram, middle_of, percentiles

durations = st.lists(st.integers(0, 2**42), min_size=1, max_size=200)


@given(st.integers(0, DURATION_MAX))
def test_a_bucket_is_right_within_a_ninth(duration: int) -> None:
    """What stands for a bucket is off by at most a ninth of any duration in it, and exact below 8 us."""
    middle = middle_of(bucket_of(duration))
    assert abs(middle - duration) * 9 <= duration
    if duration < 8:
        assert middle == duration


@given(durations, durations)
def test_histograms_add_up(some: list[int], others: list[int]) -> None:
    """The sum of two histograms is the histogram of all, whichever way a bucket was found."""
    together = histogram([*some, *others])
    assert histogram(some) + histogram(others) == together
    assert together == Counter(map(bucket_of, [*some, *others]))


@given(durations)
def test_buckets_grow_with_durations(some: list[int]) -> None:
    """A longer duration is never in a lower bucket, and there are at most 160 of them."""
    buckets = [bucket_of(duration) for duration in sorted(some)]
    assert buckets == sorted(buckets)
    assert max(buckets) < 160


@given(durations)
def test_percentiles_are_those_of_the_durations(some: list[int]) -> None:
    """p50 and p95 are within a ninth of the nearest rank of all durations; of nothing they are 0."""
    ordered = sorted(min(duration, DURATION_MAX) for duration in some)
    for share, found in zip((0.5, 0.95), percentiles(histogram(some), (0.5, 0.95)), strict=True):
        exact = ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]
        assert abs(found - exact) * 9 <= exact
    assert percentiles({}, (0.5,)) == [0]
