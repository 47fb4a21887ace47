"""``python -m tests.soak --minutes M --seed S``: break everything, for as long as told, and print what became of it.

Nine tenths of the time faults, one tenth calm with the memory watched, then everything must be confirmed and counted.
With ``--kills N`` the faults end as soon as there were N kills and N power cuts, and come in longer bursts while there
were fewer than there should be by then; M minutes that are not enough for them are a failure. Most processes start as
forks of one that has imported their program, which is what makes a thousand kills fit; each seventh or so starts as a
user's would, and the report tells the recovery of both. Beside it short lives of spool and store have their power cut
at every operation, in each mode, again and again. Exit code 0 when nothing was lost, nothing doubled and everything
recovered, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.faults import cuts
from tests.faults.pipeline import Pipeline
from tests.soak.nemesis import Nemesis
from tests.soak.report import Report
from tests.support.brokers import NO_MOSQUITTO, Broker, Embedded, Mosquitto, find_mosquitto
from tests.support.nursery import Nursery
from tests.support.powerloss import NO_COMPILER, Lives, build, environment, find_compiler
from tests.support.wait import eventually

RATE = 400.0  # results a second
CALM_PART, CALM_MIN_S = 0.1, 10.0
SETTLE_S = 90.0
CUT_PAUSE_S = 0.2  # between two short lives, so that they leave the pipeline its share of the machine
WARM_PART, WARM_MIN_S = 0.3, 4.0  # of the calm, until memory is looked at: a process grows while it starts


class ShortLives(threading.Thread):
    """Power cuts at every operation of short lives of one side, until ``enough`` is set; each fifth one is drawn, with
    failed fsyncs before it.
    """

    def __init__(self, side: str, library: Path, directory: Path, report: Report) -> None:
        super().__init__(name=f"short lives of {side}", daemon=True)
        self._side, self._library, self._directory, self._report = side, library, directory / side, report
        self._rng, self._log = random.Random(f"{report.seed} {side}"), directory / f"{side}.log"
        directory.mkdir(exist_ok=True)
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                with Lives(self._library, cuts.SIDES[self._side].__name__, self._log) as lives:
                    self._sweep(lives)
            except Exception as exc:
                self._report.problems.append(f"{type(exc).__name__}: {exc}")
                self.enough.wait(1)

    def _sweep(self, lives: Lives) -> None:
        for number, outcome in enumerate(cuts.every(lives, self._side, self._directory, self._rng.randrange(1 << 31))):
            outcomes = [outcome]
            if number % 5 == 0:
                outcomes += cuts.drawn(lives, self._side, self._directory, self._rng, eio=True)
            for each in outcomes:
                self._report.short_cuts[self._side] += each.cut
                self._report.eio += each.cut and each.fault.eio > 0
            if self.enough.wait(CUT_PAUSE_S):
                return


def _rss_kib(pid: int) -> float:
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((float(line.split()[1]) for line in fields if line.startswith("VmRSS:")), 0.0)


async def _calm(stack: Pipeline, nemesis: Nemesis, report: Report, seconds: float) -> None:
    """No faults, processes that stay: what their memory does."""
    for side, child in (("edge", stack.edge), ("cloud", stack.cloud)):
        child.kill()
        nemesis.start(side, calm=True)
    await eventually(stack.collect, SETTLE_S, what="the calm begins")
    begun = time.monotonic()
    while (at := time.monotonic() - begun) < seconds:
        await stack.collect()
        await asyncio.sleep(0.5)
        for side, child in (("edge", stack.edge), ("cloud", stack.cloud)):
            if at > max(WARM_MIN_S, seconds * WARM_PART) and child.process is not None and child.ended is None:
                report.memory.setdefault(side, []).append((at, _rss_kib(child.process.pid)))


async def _break(stack: Pipeline, nemesis: Nemesis, report: Report, kills: int) -> None:
    """Faults, and then the calm."""
    seconds = report.minutes * 60
    calm = max(CALM_MIN_S, seconds * CALM_PART)
    nemesis.start("cloud")
    nemesis.start("edge")
    await nemesis(time.monotonic() + max(0.0, seconds - calm), kills)
    if kills and not report.has(kills):
        report.problems.append(f"{report.minutes:.1f} minutes were not enough for {kills} kills and power cuts")
    await _calm(stack, nemesis, report, calm)


async def _account(stack: Pipeline, report: Report) -> None:
    """What was accepted and counted, and the ledger's word on it."""
    report.accepted, report.counted, report.lost, report.doubled = await stack.account()
    balance, words = await stack.ledger()
    report.ledger = {"ok": "balanced", "off": "OFF"}[balance] + (f": {'; '.join(words)}" if words else "")
    if balance != "ok":
        report.problems.append("the ledger is off")


async def soak(broker: Broker, directory: Path, library: Path | None, report: Report, kills: int = 0) -> None:
    """Run it; what was found is in ``report``. ``kills`` end the faults early, 0: time alone does."""
    rng = random.Random(report.seed)
    async with broker, Pipeline(broker, directory, rate=RATE) as stack:
        nemesis = Nemesis(stack, report, rng, library)
        with ExitStack() as nurseries:
            for child in (stack.edge, stack.cloud):
                child.nursery = Nursery(child.module, environment(library) if library else None)
                nurseries.callback(child.nursery.close)
            try:
                await _break(stack, nemesis, report, kills)
                await stack.settled(SETTLE_S)
                await _account(stack, report)
            except AssertionError as exc:
                report.problems.append(str(exc))


def _broker(kind: str, directory: Path) -> Broker:
    if kind == "mosquitto" and find_mosquitto() is not None:
        return Mosquitto(directory, config_lines=["max_queued_messages 100"], verbose=False)
    if kind == "mosquitto":
        sys.stderr.write(f"{NO_MOSQUITTO}; the embedded broker serves\n")
    return Embedded(directory)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Combined faults on real processes.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=0, help="end the faults after so many kills and power cuts")
    parser.add_argument("--seed", type=int, default=None, help="of everything that is drawn; printed at the end")
    parser.add_argument("--broker", choices=["mosquitto", "embedded"], default="mosquitto")
    parser.add_argument("--keep", action="store_true", help="keep the directory also when nothing was wrong")
    chosen = parser.parse_args(argv)
    seed = random.randrange(1 << 31) if chosen.seed is None else chosen.seed
    report = Report(seed, chosen.minutes, can_cut=find_compiler() is not None)
    directory = Path(tempfile.mkdtemp(prefix="fieldpost-soak-"))
    library = build(directory) if find_compiler() is not None else None
    if library is None:
        sys.stderr.write(f"without power cuts: {NO_COMPILER}\n")
    lives = [ShortLives(side, library, directory / "lives", report) for side in cuts.SIDES] if library else []
    for life in lives:
        life.start()
    try:
        asyncio.run(soak(_broker(chosen.broker, directory / "broker"), directory, library, report, chosen.kills))
    finally:
        for life in lives:
            life.enough.set()
        for life in lives:
            life.join(60)
        sys.stdout.write("\n".join(report.lines()) + "\n")
    failed = bool(report.problems or report.lost or report.doubled)
    if failed or chosen.keep:
        sys.stdout.write(f"kept        {directory}\n")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
