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
    assert max(outcome.accepted for outcomes in found for outcome in outcomes) > 10


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


@pytest.mark.parametrize(
    ("seed", "faults"),
    [
        (2132031424, [Fault(68, 0, 822239567, eio=8, eio_count=3)]),
        (701609428, [Fault(15, 0, 2013646712, eio=22, eio_count=3), Fault(62, 1, 1483737191, eio=5, eio_count=3)]),
        (986940121, [Fault(81, 0, 217608962, eio=23, eio_count=1), Fault(79, 1, 1446268833, eio=10, eio_count=3)]),
        (1050350129, [Fault(19, 2, 1870357774, eio=22, eio_count=3)]),
    ],
)
def test_several_fsyncs_that_fail_in_a_row(powerloss: Path, tmp_path: Path, seed: int, faults: list[Fault]):
    """Found by a soak: closing the file copies the WAL and deletes it; what failed fsyncs had left in the page cache
    only was then on the disk neither here nor there.
    """
    with Lives(powerloss, cuts.SIDES["edge"].__name__) as lives:
        cuts.one(lives, "edge", tmp_path / "life", seed, faults)


def test_the_tool_finds_commits_that_are_not_synced(powerloss: Path, tmp_path: Path, rng: random.Random):
    """The same lives with ``synchronous = NORMAL`` lose accepted results: else the test above would prove nothing."""
    with (
        Lives(powerloss, "tests.faults.careless") as lives,
        pytest.raises(AssertionError, match=r"accepted|gone without a confirmation|neither waits nor ended|not dense"),
    ):
        for _ in range(100):
            cuts.drawn(lives, "edge", tmp_path, rng)
