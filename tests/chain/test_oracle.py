"""Oracle and compiled engine agree on generated programs: verb, values, errors, outputs and echoed text."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, note, settings

from tests.chain.generated import of_seed, programs, shown
from tests.chain.program import Program
from tests.chain.running import run_engine, run_oracle

SEEDS = 200
SEEDS_EACH = 25
EXAMPLES = 40


def check(program: Program, origin: str = "") -> None:
    """Both make the same of the program."""
    seen, error = run_engine(program)
    wanted = run_oracle(program)
    assert seen == wanted, f"{origin}\n{shown(program)}\n-- engine\n{seen}\n{error}\n-- oracle\n{wanted}"


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    derandomize=True,
)
@given(programs())
def test_drawn_programs(program: Program) -> None:
    """Programs that hypothesis draws, and makes small when they fail."""
    note(shown(program))
    check(program)


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_EACH))
def test_programs_of_seeds(first: int) -> None:
    """Larger programs than hypothesis likes to draw; the seed is in the failure."""
    for seed in range(first, first + SEEDS_EACH):
        check(of_seed(seed), f"seed {seed}")


def test_a_fresh_program_each_time() -> None:
    """Programs that no run of this test has seen; a failure prints seed and program, which becomes a case."""
    for seed in [random.randrange(2**60) for _ in range(SEEDS_EACH)]:
        check(of_seed(seed), f"seed {seed}")
