"""The simulation can fail: it finds every mistake that ``mutants`` makes in the product."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, mutated
from tests.simulation.world import SimulationError, World

SEEDS_MAX = 500


@pytest.mark.parametrize("name", MUTANTS)
def test_mistake_is_found(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Within SEEDS_MAX seeds a run with this mistake breaks a promise; the same seed is clean without it."""
    caplog.set_level("CRITICAL")
    with mutated(name):
        found = next((seed for seed in range(SEEDS_MAX) if _breaks(seed)), None)
    assert found is not None, f"{SEEDS_MAX} seeds did not notice"
    assert not _breaks(found)


def _breaks(seed: int) -> bool:
    try:
        World(seed).run()
    except SimulationError:
        return True
    return False
