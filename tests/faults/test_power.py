"""Power loss and failing fsyncs (reliability R3, storage): what was accepted or confirmed is there, exactly once.

A part of the points in each run, drawn by seed; ``make soak`` takes them all.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import cuts
from tests.support.powerloss import ALL, Fault, Lives

PAIRS = {"edge": 30, "cloud": 12}


@pytest.mark.parametrize("side", ["edge", "cloud"])
@pytest.mark.parametrize("eio", [False, True], ids=["cut", "cut-after-eio"])
def test_what_was_said_survives_every_power_cut(
    powerloss: Path, tmp_path: Path, rng: random.Random, side: str, eio: bool
):
    """R1.1: files open, quick_check is ok, each accepted id is there once, sequences are dense, the account balances.

    Two cuts one after the other, in random modes; also when fsync failed before, so that what seems to be on the disk
    is not. Then the file is used on.
    """
    with Lives(powerloss, cuts.SIDES[side].__name__) as lives:
        found = [cuts.drawn(lives, side, tmp_path, rng, eio=eio) for _ in range(PAIRS[side])]
    assert sum(outcome.cut for outcomes in found for outcome in outcomes) >= PAIRS[side]
    assert max(outcome.accepted for outcomes in found for outcome in outcomes) > 20


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_fsync_that_fails_while_the_file_is_made(powerloss: Path, tmp_path: Path, side: str):
    """A file whose making failed is refused, or is as safe as any: SQLite may stay in another journal mode and say so
    only to who asks, and then a power cut takes the last commit.
    """
    with Lives(powerloss, cuts.SIDES[side].__name__) as lives:
        for eio in range(1, 9):
            for cut in (100, 110):
                fault = Fault(cut, ALL, eio, eio=eio)
                cuts.one(lives, side, tmp_path / f"{eio}-{cut}", eio, [fault])


def test_the_tool_finds_commits_that_are_not_synced(powerloss: Path, tmp_path: Path, rng: random.Random):
    """The same lives with ``synchronous = NORMAL`` lose accepted results: else the test above would prove nothing."""
    with (
        Lives(powerloss, "tests.faults.careless") as lives,
        pytest.raises(AssertionError, match=r"accepted|gone without a confirmation|neither waits nor ended|not dense"),
    ):
        for _ in range(100):
            cuts.drawn(lives, "edge", tmp_path, rng)
