"""The quick tier of the simulation: thousands of crashes, cuts and lies in a few seconds (reliability R1, R3)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from common.codec import encode
from common.models import Epoch, ExecResult
from edge.batching import Packed, freeze
from edge.folding import fold
from edge.settings import UplinkSettings
from edge.spooltables import Changes, State
from tests.simulation.truth import Id, NodeTruth, Violation, ids_in
from tests.simulation.world import SimulationError, World

FOUND = (1_000_710, 2_001_310, 3_000_753)  # seeds that once failed, by a fault of ours or of the simulation's
BASE_SEEDS = 200  # always the same, so that a change that breaks one of them is seen at once
BLOCKS = 6
RANDOM_SEEDS = 20  # others on every run; a failure prints its seed
REAL_SEEDS = 6


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The parts warn of each fault, as they should; here faults are all there is."""
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("block", range(BLOCKS))
def test_base_seeds_keep_every_promise(block: int) -> None:
    """R1.1 to R1.4, P5.11: whatever fails in these runs, all that was accepted is counted exactly once, in order."""
    for seed in range(block, BASE_SEEDS, BLOCKS):
        World(seed).run()


def test_random_seeds_keep_every_promise() -> None:
    """The same for seeds that nobody has run before."""
    rng = random.Random()
    for _ in range(RANDOM_SEEDS):
        World(rng.randrange(1 << 32)).run()


@pytest.mark.parametrize("seed", FOUND)
def test_what_once_broke_a_promise_keeps_it(seed: int) -> None:
    """Seeds that found something are run again."""
    World(seed).run()


@pytest.mark.parametrize("seed", range(1000, 1000 + REAL_SEEDS))
def test_models_do_what_sqlite_does(seed: int, tmp_path: Path) -> None:
    """The models of spool file and store are true: with real SQLite under both, every step of a run is the same."""
    model = World(seed, quota=False, trace_max=None)
    model.run()
    real = World(seed, directory=tmp_path, quota=False, trace_max=None)
    real.run()
    assert list(real.trace) == list(model.trace)


def test_a_seed_replays_to_the_last_step() -> None:
    """One seed is one run: the same actions at the same times with the same facts."""
    first = World(7, trace_max=None)
    done = first.run()
    again = World(7, trace_max=None)
    assert (again.run(), list(again.trace)) == (done, list(first.trace))


def test_a_failure_tells_its_seed_and_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run says which promise was broken, what happened last, and how to see it again."""
    monkeypatch.setattr(World, "_calm", lambda self: 1 / 0)
    with pytest.raises(SimulationError, match="seed 7: ZeroDivisionError") as caught:
        World(7).run()
    text = str(caught.value)
    assert "spool_commit" in text
    assert text.endswith("replay: python -m tests.simulation --seed 7")


def test_truth_follows_folded_results() -> None:
    """P5.10: results that were folded into a summary are counted when it is; each once, whatever its id shows."""
    truth = NodeTruth("edge-1", UplinkSettings())
    ids = [Id("edge-1", "r0", number, 1) for number in (1, 2, 3)]
    single = [ExecResult("r0", "default", "SUCCESS", source_id=str(each)) for each in ids]
    rows = [Packed("default", "r0", "json", 1, 1, encode(result)) for result in single]
    epoch = Epoch(1, "")
    truth.committed(Changes(State(epoch, accepted=3), new_results=rows), 3)
    summary = fold(rows, "json").packed
    truth.committed(
        Changes(State(epoch, accepted=3), gone_results=[1, 2, 3], new_results=summary), 3, [row.body for row in rows]
    )
    message = freeze(summary[0], epoch, 1, 1, root="fieldpost", node="edge-1", timestamp=0)
    sent = Changes(State(epoch, 2, accepted=3), gone_results=[4], new_messages=[message])
    truth.committed(sent, 3, [summary[0].body])
    truth.count(ids_in(message.payload))
    assert truth.counted == set(ids)
    truth.committed(Changes(State(epoch, 2, accepted=3, confirmed=3), gone_messages=[(1, 1)]), 0)
    truth.settled()
    with pytest.raises(Violation, match="counted twice"):
        truth.count(ids_in(message.payload))
