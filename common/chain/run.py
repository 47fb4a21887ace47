"""One run of a hook point: its inputs, counters and variables, and at its end its outcome (L5, L7, L9).

A run is its own outcome, so that the shortest run makes one object. What few runs need (globals, copies, frozen
collections, output) has a default on the class and is made when first wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Any, Final, Protocol

from common.chain.errors import LimitError, MisuseError
from common.chain.values import COLLECTIONS, Set, check_depth, copy

if TYPE_CHECKING:
    from common.chain.verbs import Verbs

STEPS_BETWEEN_LOOKS: Final = 16
"""Steps between two looks at the step budget and the clock; a run that ends before never reads the clock."""


class Access(StrEnum):
    """What chains may do with an input of a hook point."""

    READ_ONLY = "read-only"
    WRITABLE = "writable"


@dataclass(frozen=True, slots=True)
class Budgets:
    """What one run may use (L9). Reaching one ends the run with its own error; all but the wall time are exact."""

    steps_max: int = 10_000
    """A step is one block entry or one iteration. ``PC-LIMIT-STEPS``."""
    exec_depth_max: int = 64
    """Nested exec and invoke. ``PC-LIMIT-DEPTH``."""
    gotos_max: int = 128
    """``PC-LIMIT-GOTO``, which lists the last targets."""
    wall_time_ms_max: int = 100
    """A backstop, 0 turns it off: counted from a run's 17th step, looked at every 16 steps. ``PC-LIMIT-TIME``."""
    output_bytes_max: int = 65_536
    """What ``echo`` writes, in UTF-8. ``PC-LIMIT-OUTPUT``."""
    string_bytes_max: int = 1_048_576
    """One string, in UTF-8. ``PC-LIMIT-STRING``."""
    collection_items_max: int = 10_000
    """Items of one list, map or set that a chain makes grow. ``PC-LIMIT-COLLECTION``."""
    outcome_chars_max: int = 16_777_216
    """Value, error, ``$resp`` and outputs together, as often as a walk comes by them. ``PC-LIMIT-OUTCOME``."""

    def __post_init__(self) -> None:
        """Raises ValueError for a budget that nothing could keep to."""
        for budget in fields(self):
            least = 0 if budget.name == "wall_time_ms_max" else 1
            if getattr(self, budget.name) < least:
                raise ValueError(f"{budget.name} is at least {least}")


class Clock(Protocol):
    """The host's clock."""

    def time(self) -> float:
        """Unix seconds, for the command ``now``."""

    def monotonic(self) -> float:
        """Seconds that only grow, for the wall time, trace and token buckets."""


class StoppedClock:
    """The clock of a host that gives none: time stands still, and so what runs is the same each time.

    ``now`` is 0, token buckets do not refill, and only the steps end a run that does not end by itself.
    """

    @staticmethod
    def time() -> float:
        """Always 0."""
        return 0.0

    monotonic = time


class Host(Protocol):
    """What a run asks of the program that it belongs to."""

    budgets: Budgets
    verbs: Verbs
    default: str
    fail: str
    stretch: int
    items_max: int
    libs: tuple[Any, ...]
    inputs: Mapping[str, Access]
    writes: bool
    builds: bool
    random: Random
    monotonic: Callable[[], float]
    time: Callable[[], float]
    take: Callable[[str, float, float], bool]
    log: Callable[[str], None] | None


class Outcome:
    """What the host gets of a run (L7), and all that it looks at.

    ``verb`` and ``target``: what was decided, else the default verb, or the fail verb after a failure. ``decided``:
    whether a terminal, ``exit VERB`` or an assignment to ``$result`` set the verb. ``value``: ``$result``. ``ok``:
    False after an unhandled ``error``, a limit or misuse, whose message is ``error`` and whose code is ``code`` (empty
    for an ``error``). ``resp``: ``$resp``. ``outputs``: the run's own copies of the writable inputs that it changed.
    ``steps``: steps used. ``where``: ``chain:block:line`` that decided, empty when the end was reached. ``output``:
    the lines of ``echo``.
    """

    __slots__ = (
        "__dict__", "decided", "globals", "inputs", "iterated", "left", "program", "target", "used", "value", "verb",
        "where",
    )  # fmt: skip

    ok: bool = True
    error: Any = ""
    resp: Any = ""
    code: str = ""
    output: tuple[str, ...] | list[str] = ()

    if TYPE_CHECKING:
        verb: str
        target: str
        decided: bool
        value: Any
        where: str

    @property
    def steps(self) -> int:
        """Steps used: block entries and iterations."""
        raise NotImplementedError

    @property
    def outputs(self) -> dict[str, Any]:
        """The changed writable inputs, by name; empty after a failure."""
        raise NotImplementedError

    def __repr__(self) -> str:
        shown = ("verb", "target", "value", "ok", "error", "resp", "outputs", "steps", "where")
        return f"Outcome({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


class Run(Outcome):
    """The state of a run while it lasts; also the ``RunContext`` of commands that need it."""

    __slots__ = ()

    deadline: float = 0.0
    gotos: tuple[str, ...] = ()
    gotos_count: int = 0
    output_bytes: int = 0
    frozen: dict[int, Any] | None = None
    sealed: tuple[Any, Any] | None = None
    owned: Mapping[str, dict[int, Any]] = {}
    changed: frozenset[str] = frozenset()
    trace: list[Any] | None = None

    if TYPE_CHECKING:
        inputs: Mapping[str, Any]
        program: Host
        left: int
        used: int
        globals: dict[str, Any] | None
        iterated: tuple[Any, Any] | None

    def __init__(self, program: Host, inputs: Mapping[str, Any]) -> None:
        self.program = program
        self.inputs = inputs
        self.left = self.used = program.stretch
        self.value = self.verb = program.default
        self.where = self.target = ""
        self.decided = False
        self.globals = self.iterated = None

    @property
    def steps(self) -> int:
        return self.used - self.left

    @property
    def outputs(self) -> dict[str, Any]:
        if not self.ok:
            return {}
        return {name: self.inputs[name] for name in self.program.inputs if name in self.changed}

    # -- what commands use ---------------------------------------------------------------------------------------------

    @property
    def string_bytes_max(self) -> int:
        """Bytes of one string."""
        return self.program.budgets.string_bytes_max

    @property
    def collection_items_max(self) -> int:
        """Items of one collection."""
        return self.program.items_max

    def random(self) -> float:
        """The next number in [0, 1) of the engine's seedable generator."""
        return self.program.random.random()

    def now_ms(self) -> int:
        """Unix milliseconds of the host's clock."""
        return int(self.program.time() * 1000)

    def echo(self, text: str) -> None:
        """Add a line to the run's output and to the debug log. Raises LimitError PC-LIMIT-OUTPUT."""
        self.output_bytes += len(text.encode("utf-8", "surrogatepass")) + 1
        bytes_max = self.program.budgets.output_bytes_max
        if self.output_bytes > bytes_max:
            raise LimitError("PC-LIMIT-OUTPUT", f"the run's output is longer than {bytes_max} bytes")
        self.output = [*self.output, text]
        if self.program.log is not None:
            self.program.log(text)

    def take(self, key: str, rate: float, burst: float) -> bool:
        """Take one token of the host's bucket ``key``."""
        return self.program.take(key, rate, burst)

    def changing(self, collection: Any, size: int = 0) -> None:
        """Refuse a change of what is read-only or being iterated, and growth beyond the budget; see RunContext."""
        if size > self.program.items_max:
            raise LimitError("PC-LIMIT-COLLECTION", f"a collection of more than {self.program.items_max} items")
        frozen = self.frozen
        if frozen is None:
            frozen = self.freeze_inputs()
        if (frozen and id(collection) in frozen) or (self.sealed is not None and _holds(self.sealed, collection)):
            raise MisuseError("PC-RUN-READ-ONLY", "this collection is read-only")
        if self.iterated is not None and _holds(self.iterated, collection):
            raise MisuseError("PC-RUN-ITERATED", "this collection is being iterated and cannot be changed")
        for name, copies in self.owned.items():
            if id(collection) in copies:
                self.changed |= {name}

    # -- copies and frozen collections ---------------------------------------------------------------------------------

    def freeze_inputs(self) -> dict[int, Any]:
        """Collect every collection of the host's inputs: chains may change none of them, only copies of their own."""
        frozen: dict[int, Any] = {}
        self.frozen = frozen
        for name, value in self.inputs.items():
            if name not in self.owned:
                _collect(value, frozen, 0)
        return frozen

    def own(self, name: str) -> bool:
        """Give the run its own copy of the writable input ``name``; False where it has it, or nothing ever writes.

        The copy is made before a chain holds a reference into the input, so that every alias is one into the copy.
        """
        if name in self.owned or not self.program.writes or name not in self.inputs:
            return False
        original = self.inputs[name]
        if self.frozen is not None:
            _collect(original, self.frozen, 0)
        copies: dict[int, Any] = {}
        self.inputs = {**self.inputs, name: copy(original, copies)}
        self.owned = {**self.owned, name: {id(made): made for made in copies.values()}}
        return True

    # -- budgets -------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """The steps of one stretch are used: look at the step budget and the clock, and begin the next stretch."""
        program = self.program
        budgets = program.budgets
        done = self.used - self.left
        if done > budgets.steps_max:
            self.used, self.left = budgets.steps_max, 0
            raise LimitError("PC-LIMIT-STEPS", f"more than {budgets.steps_max} steps")
        if budgets.wall_time_ms_max:
            now = program.monotonic()
            if not self.deadline:
                self.deadline = now + budgets.wall_time_ms_max / 1000
            elif now > self.deadline:
                raise LimitError("PC-LIMIT-TIME", f"longer than {budgets.wall_time_ms_max} ms")
        stretch = min(STEPS_BETWEEN_LOOKS - 1, budgets.steps_max - done)
        self.used, self.left = done + stretch, stretch

    def set_result(self, value: Any) -> None:
        """An explicit assignment to ``$result``: a declared verb as its first word decides (L7)."""
        self.value = value
        if type(value) is str:
            found = self.program.verbs.of_text(value)
            if found is not None:
                self.verb, self.target = found
                self.decided = True


def _holds(entry: tuple[Any, Any] | None, collection: Any) -> bool:
    """True where a linked list has this very collection."""
    while entry is not None:
        if entry[0] is collection:
            return True
        entry = entry[1]
    return False


def _collect(value: Any, found: dict[int, Any], depth: int) -> None:
    """Add ``value`` and every collection in it to ``found``, by identity."""
    kind = type(value)
    if kind not in COLLECTIONS or id(value) in found:
        return
    check_depth(depth)
    found[id(value)] = value
    if kind is not Set:
        for item in value.values() if kind is dict else value:
            if type(item) in COLLECTIONS:
                _collect(item, found, depth + 1)
