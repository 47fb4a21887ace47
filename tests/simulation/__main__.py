"""Run seeds: ``python -m tests.simulation --seeds 10000`` runs many, ``--seed N`` replays one and shows its steps.

``--jobs`` processes share the seeds, and a line says once in a while how far they are. ``--real`` puts real SQLite
files under spool and store: slower, and the same to the last step. Ends with status 1 when a promise was broken; each
broken one is printed when it is found: the seed, its last steps and the command that replays it.
``offline`` as the first argument runs tests/simulation/offline.py.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.simulation import offline
from tests.simulation.world import Outcome, SimulationError, World

CHUNK_SEEDS = 100
COLLECT_SEEDS = (
    25  # between two garbage collections: a run leaves cycles, and looking for them all the time costs a tenth
)
FAILURES_SHOWN = 3
PROGRESS_S = 10.0


def simulate(seed: int, *, real: bool = False, trace_max: int | None = 60) -> tuple[Outcome, World]:
    """Run one seed, over a model or over SQLite files in a directory of its own. Raises SimulationError."""
    if not real:
        world = World(seed, trace_max=trace_max)
        return world.run(), world
    with tempfile.TemporaryDirectory() as directory:
        world = World(seed, directory=Path(directory), trace_max=trace_max)
        return world.run(), world


def _chunk(args: tuple[int, int, bool]) -> tuple[int, list[int], list[str]]:
    """Run some seeds in a process of the pool: how many, the sums of their outcomes, what failed."""
    start, count, real = args
    logging.disable()
    sums, failures = [0] * len(Outcome._fields), []
    for seed in range(start, start + count):
        if seed % COLLECT_SEEDS == 0:
            gc.collect()
        try:
            outcome, _ = simulate(seed, real=real)
        except SimulationError as exc:
            failures.append(str(exc))
            continue
        sums = [total + value for total, value in zip(sums, outcome, strict=True)]
    return count, sums, failures


def _chunks(start: int, count: int, real: bool) -> Iterator[tuple[int, int, bool]]:
    for at in range(start, start + count, CHUNK_SEEDS):
        yield at, min(CHUNK_SEEDS, start + count - at), real


def _prepare() -> None:
    """Begin a process of the pool: what is loaded stays, so no collection looks at it."""
    logging.disable()
    gc.freeze()
    gc.disable()


def _many(start: int, count: int, jobs: int, real: bool) -> int:
    """Run ``count`` seeds on ``jobs`` processes and say what came out; the exit status."""
    began = shown = time.monotonic()
    done = failed = 0
    sums = [0] * len(Outcome._fields)
    with multiprocessing.Pool(jobs, _prepare) as pool:
        parts: Iterable[tuple[int, list[int], list[str]]] = pool.imap_unordered(_chunk, _chunks(start, count, real))
        for number, part, failures in parts:
            done += number
            sums = [total + value for total, value in zip(sums, part, strict=True)]
            for text in failures[: max(0, FAILURES_SHOWN - failed)]:
                _say(f"\n{text}\n")
            failed += len(failures)
            if (now := time.monotonic()) >= shown + PROGRESS_S:
                left = (count - done) * (now - began) / done
                _say(f"{done} of {count} seeds, {_rate(done, now - began)}, {failed} failed, {left:.0f} s to go")
                shown = now
    seconds = time.monotonic() - began
    facts = ", ".join(f"{value} {name}" for name, value in zip(Outcome._fields, sums, strict=True))
    _say(f"{done} seeds from {start} in {seconds:.1f} s on {jobs} processes: {_rate(done, seconds)}\n{facts}")
    _say(f"{failed} failed" if failed else "clean: none lost, none doubled")
    return 1 if failed else 0


def _rate(done: int, seconds: float) -> str:
    return f"{done / seconds * 60:.0f} seeds a minute"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _one(seed: int, real: bool) -> int:
    try:
        outcome, world = simulate(seed, real=real, trace_max=None)
    except SimulationError as exc:
        sys.stdout.write(f"{exc}\n")
        return 1
    sys.stdout.write("\n".join(map(str, world.trace)) + f"\nseed {seed} is clean: {outcome}\n")
    return 0


def main() -> int:
    """Read the arguments and run."""
    if sys.argv[1:2] == ["offline"]:
        logging.disable()
        return offline.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this seed and show all its steps")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run (default 1000)")
    parser.add_argument("--start", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--real", action="store_true", help="with real SQLite files under spool and store")
    args = parser.parse_args()
    logging.disable()
    if args.seed is not None:
        return _one(args.seed, args.real)
    return _many(args.start, args.seeds, args.jobs, args.real)


if __name__ == "__main__":
    sys.exit(main())
