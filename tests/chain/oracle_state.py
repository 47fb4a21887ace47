"""What the oracle's parts share: results, controls, frames, and the state of one run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from common.chain import nodes as n
from common.chain.errors import ChainError, LimitError, MisuseError
from common.chain.values import MISSING, Set
from tests.chain.oracle_levels import Levels


class Outcome(NamedTuple):
    """What the host gets of a run (L7). ``code`` is that of the limit or misuse which ended it, or empty."""

    verb: str
    target: str
    value: Any
    ok: bool
    error: Any
    resp: Any
    outputs: dict[str, Any]
    output: list[str]
    code: str = ""


class Result(NamedTuple):
    """How a statement ended. ``raised`` is the level of an ``error`` that reached an exec, else empty."""

    ok: bool
    value: Any
    fault: bool = False
    raised: str = ""


class Passed(Exception):
    """A fault in ``$(...)`` that makes the statement around it fault."""

    def __init__(self, value: Any) -> None:
        self.value = value
        super().__init__(value)


class Control(Exception):
    """What leaves statements: the base of all controls."""


class Leave(Control):
    """``return`` or ``error``: ends the unit ``level``. ``value`` is MISSING for a bare one."""

    def __init__(self, ok: bool, level: str, value: Any) -> None:
        self.ok, self.level, self.value = ok, level, value
        super().__init__(level)


class Terminal(Control):
    """A verb with its target."""

    def __init__(self, verb: str, target: str) -> None:
        self.verb, self.target = verb, target
        super().__init__(verb)


class Exit(Control):
    """``exit``; ``value`` is MISSING for a bare one."""

    def __init__(self, value: Any) -> None:
        self.value = value
        super().__init__()


class Loop(Control):
    """``break`` (with its value) or ``continue``."""

    def __init__(self, word: str, value: Any = "") -> None:
        self.word, self.value = word, value
        super().__init__(word)


class Jump(Control):
    """``goto`` a resolved target; ``env`` is the chain environment at the goto."""

    def __init__(self, target: Target, env: dict[str, Any]) -> None:
        self.target, self.env = target, env
        super().__init__()


@dataclass(eq=False)
class Block:
    """A block, parsed, with the levels of its names."""

    id: str
    body: n.Body
    levels: Levels
    runs: bool


@dataclass(eq=False)
class Chain:
    """A chain with its blocks in the order of running."""

    id: str
    lib: Lib
    blocks: list[Block]
    runs: bool


@dataclass(eq=False)
class Lib:
    """A list of chains in the order of running."""

    id: str
    chains: list[Chain] = field(default_factory=list)


class Target(NamedTuple):
    """What an exec, invoke or goto found: a block, a chain or a lib (the parts that are not given are None)."""

    lib: Lib
    chain: Chain | None = None
    block: Block | None = None


@dataclass(eq=False)
class Frame:
    """One running block: where its text is from, and its environments."""

    chain: Chain
    block: Block
    env: dict[str, Any]
    local: dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """The oracle's budgets (L9)."""

    steps: int = 10_000
    gotos: int = 128
    depth: int = 64
    string_bytes_max: int = 1_048_576
    collection_items_max: int = 10_000
    output_bytes_max: int = 65_536
    outcome_chars_max: int = 16_777_216


class State:
    """One run: globals, inputs, run variables, counters. It is also the RunContext of commands."""

    def __init__(self, limits: Limits, seed: int | None, now_ms: int) -> None:
        self.limits = limits
        self.string_bytes_max, self.collection_items_max = limits.string_bytes_max, limits.collection_items_max
        self.globals: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}
        self.run: dict[str, Any] = {}
        self.verb = self.target = ""
        self.ok = True
        self.output: list[str] = []
        self.steps = self.gotos = self.depth = 0
        self._random, self._now_ms = random.Random(seed), now_ms
        self._frozen: dict[int, Any] = {}
        self._iterated: list[Any] = []
        self._buckets: dict[str, float] = {}

    def random(self) -> float:
        """The next random number of the run's seed."""
        return self._random.random()

    def now_ms(self) -> int:
        """The fixed time of the oracle."""
        return self._now_ms

    def echo(self, text: str) -> None:
        """Keep a line of output."""
        self.output.append(text)
        if sum(len(line.encode("utf-8", "surrogatepass")) + 1 for line in self.output) > self.limits.output_bytes_max:
            raise LimitError("PC-LIMIT-OUTPUT", "")

    def take(self, key: str, rate: float, burst: float) -> bool:
        """Take a token of a bucket that was full at the start of the run; no time passes while it lasts."""
        self._buckets[key] = left = self._buckets.get(key, burst) - 1
        return left >= 0

    def changing(self, collection: Any, size: int = 0) -> None:
        """Refuse what is frozen, iterated or would become too large."""
        if id(collection) in self._frozen:
            raise MisuseError("PC-RUN-READ-ONLY", "")
        if any(collection is iterated for iterated in self._iterated):
            raise MisuseError("PC-RUN-ITERATED", "")
        if size > self.collection_items_max:
            raise LimitError("PC-LIMIT-COLLECTION", "")

    def freeze(self, value: Any, *, deep: bool = True) -> None:
        """Make a collection read-only, and what is in it."""
        if id(value) in self._frozen or not isinstance(value, list | dict | Set):
            return
        self._frozen[id(value)] = value
        if deep and not isinstance(value, Set):
            for part in value.values() if isinstance(value, dict) else value:
                self.freeze(part)

    @contextmanager
    def iterating(self, collection: Any) -> Iterator[None]:
        """While this lasts, nobody may change the collection."""
        self._iterated.append(collection)
        try:
            yield
        finally:
            self._iterated.pop()

    def step(self) -> None:
        """Count one block entry or iteration."""
        self.steps += 1
        if self.steps > self.limits.steps:
            raise LimitError("PC-LIMIT-STEPS", "")

    def lookup(self, frame: Frame, level: str, name: str) -> Any:
        """Read a name, from its level outward."""
        if level == "run":
            return self.run[name]
        places = {"block": frame.local, "chain": frame.env, "global": self.globals}
        for place in list(places)[list(places).index(level) :]:
            if name in places[place]:
                return places[place][name]
        return self.inputs.get(name, MISSING)


def walked(value: Any, room: int, depth: int = 0) -> int:
    """The characters of ``room`` that are left behind a value that is written out."""
    if isinstance(value, list | dict | Set) and depth >= 100:
        raise LimitError("PC-LIMIT-NESTING", "")
    room -= len(value) if isinstance(value, str) else 1
    if room < 0:
        raise LimitError("PC-LIMIT-OUTCOME", "")
    if isinstance(value, dict):
        for key, item in value.items():
            room = walked(item, room - len(key), depth + 1)
    elif isinstance(value, list | Set):
        for item in value:
            room = walked(item, room, depth + 1)
    return room


def first_word(text: str) -> tuple[str, str]:
    """The first word of a text and the rest, both without blanks around."""
    head, _, rest = text.strip().partition(" ")
    return head, rest.strip()


def misuse(code: str) -> ChainError:
    """A misuse of which only the code matters."""
    return MisuseError(code, "")
