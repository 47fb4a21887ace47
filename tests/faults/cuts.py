"""Power cuts one after the other: each life in a directory of its own, some on what earlier lives left there."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from tests.faults import accepting, committing
from tests.support.powerloss import MODES, Fault, Lives

SIDES: dict[str, ModuleType] = {"edge": accepting, "cloud": committing}


class Outcome(NamedTuple):
    """One fault that was survived: whether the power was cut, and how many were accepted or confirmed before."""

    fault: Fault
    cut: bool
    accepted: int


def one(lives: Lives, side: str, directory: Path, seed: int, faults: list[Fault]) -> list[Outcome]:
    """Live with each fault in turn in one directory, check after each, then live on without. Raises AssertionError."""
    directory.mkdir(parents=True)
    outcomes = []
    for number, fault in enumerate([*faults, Fault()]):
        life = lives.live(directory, seed + number, fault)
        failed_early = life.code == 1 and fault.eio  # a file that cannot even be made is refused at the start
        assert life.cut or life.code == 0 or failed_early, f"{side}, seed {seed}, {fault}: the life ended with {life}"
        # Looked at in a copy: opening the file would repair what the next life has to.
        shutil.copytree(directory, looked_at := directory.with_name(f"{directory.name}-{number}"))
        try:
            outcomes.append(Outcome(fault, life.cut, SIDES[side].check(looked_at)))
        except Exception as exc:
            raise AssertionError(f"{side}, seed {seed}, after {faults[: number + 1]}: {exc}") from exc
        shutil.rmtree(looked_at)
    shutil.rmtree(directory)
    return outcomes


def every(lives: Lives, side: str, directory: Path, seed: int) -> Iterator[Outcome]:
    """Cut at every operation of a life until one ends by itself, in each mode."""
    for mode in MODES.values():
        cut = 1
        while True:
            first, *_ = one(lives, side, directory / f"{mode}-{cut}", seed, [Fault(cut, mode, seed + cut)])
            if not first.cut:
                break
            yield first
            cut += 1


def drawn(lives: Lives, side: str, directory: Path, rng: random.Random, *, eio: bool = False) -> list[Outcome]:
    """Two random cuts one after the other, with ``eio`` each after some failed fsyncs."""
    faults = []
    for _ in range(2):
        failing = {"eio": rng.randint(1, 24), "eio_count": rng.randint(1, 3)} if eio else {}
        mode = rng.choice(list(MODES.values()))
        faults.append(Fault(rng.randint(1, 160), mode, rng.randrange(1 << 31), **failing))
    name, seed = f"{rng.randrange(1 << 48):x}", rng.randrange(1 << 31)
    return one(lives, side, directory / name, seed, faults)
