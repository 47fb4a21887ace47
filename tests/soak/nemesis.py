"""What a soak does to the pipeline: kills, wiped brokers, pauses, networks, power cuts; and how fast it recovers."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.faults.pipeline import Child, Pipeline
from tests.faults.test_network import MODES, heal
from tests.soak.report import Busy, Report
from tests.support.powerloss import MODES as LOSSES
from tests.support.powerloss import POWER_CUT, environment

RECOVERY_MAX_S = 40.0  # on a machine that has nothing else to do; longer as processes have to wait for it
SLOWDOWN_MAX = 3.0
BURSTS = (1, 1, 2, 3, 5)  # faults before the pipeline may recover
HASTE = 3  # times longer bursts, while there were fewer kills than there should be by now
PAUSE_S = 0.3  # at most, between two faults
COLD_PART = 0.15  # of the starts that are not forks
HALF_OPEN_S = 12.0  # longer than twice the keepalive of five seconds: the connection must be given up by itself


class Nemesis:
    """Breaks ``stack`` in ways that ``rng`` draws, and keeps the books in ``report``.

    ``library`` cuts the power; None runs without. Every process that ends and was not killed here is a problem, but
    for a power cut, after which it is started again.
    """

    def __init__(self, stack: Pipeline, report: Report, rng: random.Random, library: Path | None) -> None:
        self._stack, self._report, self._rng, self._library = stack, report, rng, library
        self._sides: dict[str, Child] = {"edge": stack.edge, "cloud": stack.cloud}
        self._cold = False  # since the last recovery something was started with all its imports
        self._burst: list[str] = []  # what was done since the last recovery
        self._faults: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (8, lambda: self._kill("edge")),
            (8, lambda: self._kill("cloud")),
            (7, self._wipe_broker),
            (3, self._kill_two),
            (2, self._pause),
            (4, self._break_network),
        ]

    async def __call__(self, until: float, kills: int = 0) -> None:
        """Break and let recover, until then (monotonic seconds) or until there were so many kills (0: no matter).

        Faults come alone or in bursts, one on what the last one has left.
        """
        weights, begun = [weight for weight, _ in self._faults], time.monotonic()
        while (now := time.monotonic()) < until and not (kills and self._report.has(kills)):
            self._cold, self._burst = False, []
            behind = sum(self._report.kills.values()) < kills * (now - begun) / (until - begun)
            for _ in range(self._rng.choice(BURSTS) * (HASTE if behind else 1)):
                (_, fault), *_ = self._rng.choices(self._faults, weights)
                await fault()
                await self.revive()
                await asyncio.sleep(self._rng.random() * PAUSE_S)
            await self._recover()
            self._report.progress()

    def start(self, side: str, *, calm: bool = False) -> None:
        """Start edge or cloud; unless ``calm``, its power will be cut after some number of operations on its files."""
        env = None
        if self._library is not None and not calm:
            cut = self._rng.choice([0, self._rng.randint(1, 300), self._rng.randint(1, 6000)])
            mode = self._rng.choice(list(LOSSES.values()))
            env = environment(self._library, cut=cut, mode=mode, seed=self._rng.randrange(1 << 31))
        cold = calm or self._rng.random() < COLD_PART
        self._cold |= cold
        if side == "edge":
            self._stack.start_edge(environment=env, cold=cold)
        else:
            self._stack.start_cloud(environment=env, cold=cold)

    async def revive(self) -> bool:
        """Start again what ended by a power cut; whether anything did."""
        ended = [side for side, child in self._sides.items() if child.ended is not None]
        for side in ended:
            child = self._sides[side]
            assert child.ended is not None
            if child.ended != POWER_CUT:
                self._report.problems.append(f"the {side} ended with {child.ended}: {child.tail()[-1500:]}")
            self._gone(side, child.ended)
            self.start(side)
        return bool(ended)

    def _gone(self, side: str, code: int) -> None:
        self._report.live_cuts[side] += code == POWER_CUT
        self._burst.append(f"{side} {'powered off' if code == POWER_CUT else 'killed'}")
        directory = self._stack.edge_dir if side == "edge" else self._stack.cloud_dir
        if code == POWER_CUT:
            for shared in directory.glob("*-shm"):  # it was memory
                shared.unlink()

    async def _kill(self, side: str) -> None:
        await asyncio.sleep(self._rng.random() * PAUSE_S)
        code = self._sides[side].kill()
        self._report.kills[side] += code == -signal.SIGKILL
        self._gone(side, code)
        self.start(side)

    async def _kill_two(self) -> None:
        await asyncio.gather(self._kill("edge"), self._kill("cloud"))

    async def _wipe_broker(self) -> None:
        first = self._rng.random() < 0.3
        if first:  # the edge finds the empty broker before the cloud does
            await self._stack.cloud_proxy.refuse()
        await self._stack.broker.kill()
        self._report.kills["broker"] += 1
        self._burst.append("broker killed and wiped, edge first" if first else "broker killed and wiped")
        self._stack.broker.wipe()
        await asyncio.sleep(self._rng.random() * 0.3)
        await self._stack.broker.start()
        if first:
            await asyncio.sleep(self._rng.random())
            await heal(self._stack.cloud_proxy)

    async def _pause(self) -> None:
        side = self._rng.choice(list(self._sides))
        child = self._sides[side]
        self._report.faults[f"pause of {side}"] += 1
        self._burst.append(f"pause of {side}")
        child.signal(signal.SIGSTOP)
        await asyncio.sleep(self._rng.choice([0.1, 1.0, 3.0]) * self._rng.random())
        child.signal(signal.SIGCONT)

    async def _break_network(self) -> None:
        mode = self._rng.choice(list(MODES))
        side = self._rng.choice(list(self._sides))
        proxy = self._stack.edge_proxy if side == "edge" else self._stack.cloud_proxy
        self._report.faults[mode] += 1
        self._burst.append(f"{mode} on the side of the {side}")
        await MODES[mode](proxy)
        long = mode == "half-open" and self._rng.random() < 0.1
        await asyncio.sleep(HALF_OPEN_S if long else self._rng.random() * 2)
        if self._rng.random() < 0.3:  # two faults at once
            await self._rng.choice([lambda: self._kill("edge"), lambda: self._kill("cloud")])()
        await heal(proxy)

    async def _recover(self) -> None:
        """Wait until the cloud counts a result that was accepted after the last fault, and note how long that took.

        A power cut meanwhile, which was armed when its process started, is a fault like others.
        """
        begun, accepted, busy = time.monotonic(), len(self._stack.accepted()), Busy()
        while (seconds := time.monotonic() - begun) < RECOVERY_MAX_S * min(busy.slowdown, SLOWDOWN_MAX):
            if await self.revive():
                begun, accepted, busy = time.monotonic(), len(self._stack.accepted()), Busy()
            await self._stack.collect()
            if any(source in self._stack.seen for source in self._stack.accepted()[accepted:]):
                self._report.recovered(time.monotonic() - begun, cold=self._cold, after=self._burst)
                return
            await asyncio.sleep(0.02)
        self._report.recovered(seconds, cold=self._cold, after=self._burst)
        self._report.problems.append(
            f"no recovery within {seconds:.1f} s after {', '.join(self._burst)}: {self._stack.edge.tail()[-800:]}"
        )
