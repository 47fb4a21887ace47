"""Growing delays with jitter (reliability R2)."""

from __future__ import annotations

import itertools
import random

from common.backoff import Backoff


def test_delays_double_up_to_the_cap() -> None:
    """Each delay lies between half and all of a bound that doubles and then stays at the cap."""
    backoff = Backoff(0.2, 30.0, random.Random(1))
    for bound in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0):
        assert bound / 2 <= backoff.next() <= bound


def test_reset_begins_again() -> None:
    """After something worked the next delay is the first one."""
    backoff = Backoff(1.0, 60.0, random.Random(1))
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 1.0


def test_many_do_not_come_back_together() -> None:
    """A thousand nodes that lost the same broker spread over half of the bound."""
    delays = sorted(Backoff(2.0, 2.0, random.Random(seed)).next() for seed in range(1000))
    assert delays[0] < 1.05
    assert delays[-1] > 1.95
    assert max(b - a for a, b in itertools.pairwise(delays)) < 0.05


def test_one_seed_is_one_run() -> None:
    """The randomness is passed in, so a simulation can be repeated."""
    first, second = (Backoff(0.1, 10.0, random.Random(7)) for _ in range(2))
    assert [first.next() for _ in range(20)] == [second.next() for _ in range(20)]
