"""One rule's flood, hang, loop or error does not touch the others (flow F4, reliability R3 "load").

In one run, the same load of good rules is brought without and with messages for a bad rule, in turn. All results of the
good rules come, in order, none dropped; and the time they take is compared as a ratio, so that the machine's own speed
does not matter.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import pytest

from common.clock import ManualClock
from edge.flow.events import SendEvent
from edge.messages import DELIVERED, Arrival, Delivery, Ending, FlowMessage
from edge.rules.inturn import InTurn
from edge.rules.turns import Account, Turns
from edge.settings import FlowSettings
from edge.status import RuleRef
from tests.flow.chained import Chained, chained
from tests.support.wait import eventually

QUEUE_MAX = 100
FLOOD = 10 * QUEUE_MAX  # messages for the bad rule in one phase, ten times what its queue takes
GOOD = ("good-1", "good-2", "good-3")
EACH = 480  # messages for each good rule in one phase
BATCH = 15  # messages for each good rule that one turn of the loop brings, as a read of a socket does
BURSTS = 2  # in which the flood of a phase comes
PHASES = 3  # without the bad rule's messages, and as many with them
RATIO_MAX = 4.0  # of the good rules' time with and without; their fair share of four rules is below 2


def loop(iterations: int, then: str = "accept") -> str:
    """A chain that takes this many steps."""
    return f"for n in [{', '.join(map(str, range(iterations)))}] then\n  x = $n\nend\n{then}"


class Bad(NamedTuple):
    """A bad rule: its chain, what goes on around it, and the reasons that its results must have; drops at its full
    queue may come with them.
    """

    chain: str
    reasons: frozenset[str]
    hangs: bool = False
    hook: bool = False


BAD = {
    "flood": Bad(loop(300), frozenset({"", "queue_full"})),
    "hanging target": Bad("accept", frozenset({"target_timeout", "queue_full"}), hangs=True),
    "endless loop": Bad("goto main", frozenset({"chain_limit", "suspended"})),
    "slow chain": Bad(loop(9000), frozenset({"", "queue_full"})),
    "regex bomb": Bad('match-reg $MSG.payload "^(a+)+$" || reject', frozenset({"chain_reject"})),
    "raising hook": Bad("accept", frozenset({"hook_error"}), hook=True),
}


class Node(Chained):
    """Good rules and a bad one; messages go to one rule each."""

    def __init__(self, path: Path, bad: Bad) -> None:
        rules = "".join(chained(name, loop(20)) for name in GOOD) + chained("bad", bad.chain)
        flow = FlowSettings(journal_after_s=0.01, queue_max=QUEUE_MAX, running_max=50)
        super().__init__(path, "", flow=flow)
        self.load(rules.replace("  chain:", "  timeout: 200ms\n  chain:"))
        self.numbers, self.bad, self.flooded = count(), bad, 0
        self.kind.answer = self._answer
        self.reasons: dict[str, Counter[str]] = {name: Counter() for name in (*GOOD, "bad")}
        record = self.status.record

        def counted(rule: RuleRef, ending: Ending, **more: Any) -> None:
            record(rule, ending, **more)
            self.reasons[rule.name][ending.reason] += 1

        self.status.record = counted  # type: ignore[method-assign,assignment]
        if bad.hook:
            self.hooks.add("preRoute.bad", self._hook)

    def _answer(self, done: Callable[[Delivery], None]) -> None:
        if not (self.bad.hangs and self.kind.delivered[-1][0] == "bad"):
            done(DELIVERED)

    def _hook(self, event: SendEvent) -> None:
        if event.destination.id == "rule/default/bad":
            raise ValueError("by the test")

    def bring(self, rule: str) -> None:
        """A message for one rule."""
        message = FlowMessage(b"a" * 40 + b"!", "in/x", f"{rule}-{next(self.numbers)}")
        consumers = [w.consumer for w in self.kind.wirings if w.consumer.rule.name == rule]
        self.rules.arrived(Arrival(message, source="source/bus"), consumers)

    def ended_of(self, *rules: str) -> int:
        """How many executions of these rules have ended."""
        return sum(self.reasons[rule].total() for rule in rules)

    async def phase(self, flood: int) -> float:
        """Bring the good load, and meanwhile ``flood`` messages for the bad rule; return the CPU seconds until the good
        ones have all ended. Then wait for the bad ones.
        """
        self.results()  # so that the spool has room
        gc.collect()
        began, due = process_time(), self.ended_of(*GOOD) + EACH * len(GOOD)
        for number in range(EACH // BATCH):
            if number % (EACH // BATCH // BURSTS) == 0:
                for _ in range(flood // BURSTS):
                    self.bring("bad")
            for _ in range(BATCH):
                for name in GOOD:
                    self.bring(name)
            ended = due - len(GOOD) * (EACH - number * BATCH)
            while self.ended_of(*GOOD) < ended:  # a source waits for the batch before, as MQTT's window makes it
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        while self.ended_of(*GOOD) < due:
            await asyncio.sleep(0)
        took = process_time() - began
        self.flooded += flood
        await eventually(lambda: self.ended_of("bad") == self.flooded, interval=0.005)
        return took


class Burner:
    """A rule that always has messages, of which each takes ``cost_s`` seconds of ``clock``."""

    def __init__(self, turns: Turns, clock: ManualClock, cost_s: float) -> None:
        self._turns, self._clock, self._cost_s = turns, clock, cost_s
        self.used_s, self.messages, self.left = 0.0, 0, True
        self.account = Account()

    def turn(self) -> bool:
        """Let the time of one message pass."""
        if not self.left:
            return False
        began = self._clock.monotonic()
        self._clock.advance(self._cost_s)
        self.used_s += self._cost_s
        self.messages += 1
        self._turns.used(self.account, began, self._clock.monotonic())
        return True


async def test_a_slice_schedules_one_slice() -> None:
    """A rule that asks for turns within its turn, as each end of a message does, gets one slice each time round."""
    clock = ManualClock()
    turns = Turns(clock.monotonic)

    class Asking(Burner):
        def turn(self) -> bool:
            turns.later(self, self.account)
            return super().turn()

    asking = Asking(turns, clock, 3e-3)
    turns.later(asking, asking.account)
    for _ in range(6):
        await asyncio.sleep(0)
    asking.left = False
    assert turns.slices <= 6


async def test_turns_share_time_not_messages() -> None:
    """Rules that always have messages use the same time, whether one takes 10 us or 2 ms; the loop goes on between."""
    clock = ManualClock()
    turns = Turns(clock.monotonic)
    burners = [Burner(turns, clock, cost_s) for cost_s in (10e-6, 100e-6, 2e-3)]
    for burner in burners:
        turns.later(burner, burner.account)
    went_round = 0
    while sum(burner.used_s for burner in burners) < 0.15:
        await asyncio.sleep(0)
        went_round += 1
    for burner in burners:
        burner.left = False
    times = [burner.used_s for burner in burners]
    assert max(times) / min(times) < 4, times
    assert burners[0].messages > 10 * burners[2].messages
    assert went_round >= 10


async def test_work_beside_the_rules_takes_turns_with_them() -> None:
    """Chains of HTTP servers: while much of it waits, a rule gets as much time; each piece is done, in its order."""
    clock = ManualClock()
    turns = Turns(clock.monotonic)
    rule, beside = Burner(turns, clock, 100e-6), Burner(turns, clock, 2e-3)
    work = InTurn(turns, clock.monotonic)
    pieces = [asyncio.create_task(work.do(beside.turn)) for _ in range(50)]
    turns.later(rule, rule.account)
    done, _ = await asyncio.wait(pieces)
    rule.left = False
    assert (len(done), beside.messages) == (50, 50)
    assert rule.used_s > beside.used_s / 4


async def test_a_piece_of_work_that_fails_or_is_not_wanted_any_more() -> None:
    """Who waits gets the error; what nobody waits for is not done."""
    clock, ran = ManualClock(), list[int]()
    turns = Turns(clock.monotonic)
    work, busy = InTurn(turns, clock.monotonic), Burner(turns, clock, 5e-3)
    await work.do(busy.turn)  # it has used its time: what follows waits
    pieces = [asyncio.create_task(work.do(lambda n=n: ran.append(n))) for n in range(3)]  # type: ignore[misc]
    failing = asyncio.create_task(work.do(lambda: 1 // 0))
    await asyncio.sleep(0)
    pieces[1].cancel()
    await asyncio.wait([*pieces, failing])
    assert ran == [0, 2]
    assert isinstance(failing.exception(), ZeroDivisionError)


@pytest.fixture
async def bad_node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    """A node with the bad rule of the test's parameter."""
    node = Node(tmp_path, BAD[request.param])
    yield node
    await node.close()


@pytest.mark.parametrize("bad_node", BAD, indirect=True)
async def test_a_bad_rule_touches_no_other(bad_node: Node, request: pytest.FixtureRequest) -> None:
    """Counts, order and time of the good rules are as without it; its own messages all end, with their reasons."""
    reasons = bad_node.bad.reasons
    await bad_node.phase(FLOOD)  # everything is warm, and a chain that is to rest rests
    times: dict[int, list[float]] = {0: [], FLOOD: []}
    for _ in range(PHASES):
        for flood in times:
            times[flood].append(await bad_node.phase(flood))
    for name in GOOD:
        assert bad_node.reasons[name] == {"": (2 * PHASES + 1) * EACH}, name
        numbers = [int(m.msgid.rpartition("-")[2]) for rule, _, m in bad_node.kind.delivered if rule == name]
        assert numbers == sorted(numbers)
    assert bad_node.reasons["bad"].keys() - {"queue_full"} == reasons - {"queue_full"}
    assert bad_node.reasons["bad"].keys() >= reasons
    assert min(times[FLOOD]) / min(times[0]) < RATIO_MAX, times
