"""What the fault tests share: the power-loss library, built once."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.support.powerloss import NO_COMPILER, build, find_compiler


@pytest.fixture(scope="session")
def powerloss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that cuts the power."""
    if find_compiler() is None:
        pytest.skip(NO_COMPILER)
    return build(tmp_path_factory.mktemp("powerloss"))


@pytest.fixture
def rng() -> random.Random:
    """Randomness whose seed is in the output of a test that fails; FAULTS_SEED chooses it."""
    seed = int(os.environ.get("FAULTS_SEED") or random.randrange(1 << 32))
    os.write(1, f"FAULTS_SEED={seed}\n".encode())  # captured, shown on failure
    return random.Random(seed)
