"""kill -9 of a process that commits: what it confirmed is there, once, and nothing is half there (P5.5, R1)."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from tests.cloud.samples import open_store, status, totals

ROOT = Path(__file__).resolve().parents[2]
KILLS = 5


async def test_kill_9_keeps_what_was_confirmed_and_nothing_by_halves(tmp_path: Path) -> None:
    """After each kill counts equal progress exactly, and progress is at least what was confirmed."""
    seed = random.randrange(2**32)
    rng, through = random.Random(seed), 0
    for _ in range(KILLS):
        confirmed = _run_and_kill(tmp_path, through + 1, rng.randint(1, 60))
        async with open_store(tmp_path) as store:
            probe = await store.commit([status(1)])  # seen long ago: only asks where the mark is
            through = probe.confirmed[0].through
            success, fail = await totals(store)
        assert (probe.new, probe.duplicate) == (0, 1), f"seed {seed}"
        assert through >= confirmed > 0, f"seed {seed}"
        assert (success, fail) == (2 * through, through), f"seed {seed}"


def _run_and_kill(directory: Path, first: int, lines: int) -> int:
    """Run the child until it has written ``lines`` lines, kill it in the middle of its work, return its last line."""
    command = [sys.executable, "-m", "tests.cloud.crash_child", str(directory), str(first)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = 0
        for _ in range(lines):
            line = child.stdout.readline()
            assert line, "the child ended by itself"
            last = int(line)
        child.kill()
        rest = child.stdout.read().split("\n")[:-1]  # whole lines only
    return int(rest[-1]) if rest else last
