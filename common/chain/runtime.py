"""A whole run: from inputs to outcome, and what becomes of errors on the way (L7, L9, L10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from common.chain.bounds import check_walkable
from common.chain.buckets import Buckets
from common.chain.commands.builtin import BUILTIN
from common.chain.commands.spec import Registry
from common.chain.compiler import FILE_NAME, Cache
from common.chain.emitter import Config
from common.chain.errors import NOWHERE, ChainError, LimitError, MisuseError, Span
from common.chain.linking import Linker
from common.chain.nodes import BlockSource, ChainSource, LibSource
from common.chain.run import STEPS_BETWEEN_LOOKS, Access, Budgets, Clock, Outcome, Run, StoppedClock
from common.chain.running import LinkedBlock, LinkedChain, LinkedLib, run_list
from common.chain.signals import ERR, TERMINAL, Signal
from common.chain.trace import close_trace
from common.chain.values import MISSING
from common.chain.verbs import COMMON, Verbs


class Program:
    """What a hook point runs: its mounted lists, and all that a run asks of its host."""

    def __init__(
        self,
        libs: Sequence[LinkedLib],
        *,
        budgets: Budgets,
        verbs: Verbs,
        inputs: Mapping[str, Access],
        default: str,
        fail: str,
        random: Random,
        clock: Clock,
        take: Callable[[str, float, float], bool],
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.libs, self.budgets, self.verbs, self.inputs = tuple(libs), budgets, verbs, inputs
        self.default, self.fail, self.random, self.take, self.log = default, fail, random, take, log
        self.monotonic, self.time = clock.monotonic, clock.time
        self.items_max = budgets.collection_items_max
        self.stretch = min(STEPS_BETWEEN_LOOKS, budgets.steps_max)
        self.writes, self.builds = any(lib.writes for lib in libs), any(lib.builds for lib in libs)


class Runner:
    """Runs a program; what stands behind a hook point."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def traced(self) -> Program:
        """The same program, compiled with trace."""
        raise NotImplementedError

    def run(self, inputs: Mapping[str, Any], trace: list[Any] | None = None) -> Outcome:
        """Run what is mounted over ``inputs`` (name -> value; the values of JSON). Never raises.

        The inputs are not changed; what chains changed of writable ones is in ``outputs``. With ``trace``, every
        statement that ran is added to it: [chain, block, line, ok, value, seconds].
        """
        run = Run(self.program, inputs)
        if trace is not None:
            run.program, run.trace = self.traced(), trace
        try:
            for lib in run.program.libs:
                if run_list(run, lib):
                    break
        except Exception as error:  # a run that breaks must fail closed, whatever broke it
            failed(run, error)
        else:
            if not run.ok:
                run.verb, run.decided, run.target = run.program.fail, False, ""
        if run.program.builds and (run.__dict__ or run.value.__class__ is not str):  # else it gives texts only
            _check_outcome(run)
        if trace is not None:
            close_trace(run)
        return run


def _check_outcome(run: Run) -> None:
    """The run fails where the host could not walk what it gives."""
    given = [run.value, run.error, run.resp, *run.outputs.values()]
    try:
        check_walkable(given, run.program.budgets.outcome_chars_max)
    except LimitError as error:
        run.value = run.resp = ""
        failed(run, error)


def failed(run: Run, error: Exception) -> None:
    """The run ends by a limit, misuse, or what no command should raise: the fail verb, the message in ``error``."""
    if isinstance(error, ChainError):
        placed = placed_error(error)
    else:
        what = "too deep recursion" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"
        placed = placed_error(
            MisuseError("PC-RUN-COMMAND", f"a command failed with {what}").with_traceback(error.__traceback__)
        )
    run.ok, run.error, run.code, run.where = False, str(placed), placed.code, place_text(placed)
    run.verb, run.target, run.decided = run.program.fail, "", False
    if run.program.log is not None:
        run.program.log(str(placed))


def place_text(error: ChainError) -> str:
    """``chain:block:line`` of an error."""
    parts = error.where.split(":")[-2:] if error.where else []
    return ":".join([*parts, str(error.span.line)]) if error.span.line else error.where


def placed_error(error: ChainError) -> ChainError:
    """The error with lib, chain, block, line, column and source line of the code that raised it.

    The code's positions are those of the block's text, so the innermost frame of a block says where it was. An error
    that is raised between blocks has its place already.
    """
    if error.span.line:
        return error
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE_NAME and "__block__" in trace.tb_frame.f_globals:
            found = trace
        trace = trace.tb_next
    if found is None:
        return error
    block: LinkedBlock = found.tb_frame.f_globals["__block__"]
    line, end_line, column, end_column = list(found.tb_frame.f_code.co_positions())[found.tb_lasti // 2]
    span = NOWHERE
    if line is not None and column is not None and end_line is not None and end_column is not None:
        span = Span(line, column + 1, end_line, end_column + 1)
    placed = type(error)(error.code, error.message, span, expected=error.expected)
    return placed.at(block.where, block.source.text)


# -- one block by itself -----------------------------------------------------------------------------------------------

_SHARED = Cache()


def evaluate(
    text: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    registry: Registry = BUILTIN,
    access: Access = Access.WRITABLE,
    verbs: Sequence[str] = tuple(COMMON),
    missing: str = "lenient",
    budgets: Budgets | None = None,
    seed: int = 0,
    clock: Clock | None = None,
) -> tuple[bool, Any, Outcome]:
    """Run one block, ``main:main``, by itself: status and value of its last statement, and the outcome of the run.

    A control gives its own status and value; after a limit or misuse the value is the error's text. Raises ChainErrors
    for a text that does not load.
    """
    given = dict(inputs or {})
    declared, words, limits = dict.fromkeys(given, access), Verbs(verbs), budgets or Budgets()
    linker = Linker(Config(declared, registry, words, missing == "strict"), _SHARED, limits, {})
    lib = linker.link(LibSource("main", (ChainSource("main", (BlockSource("main", text),)),)))
    clock = clock or StoppedClock()
    program = Program(
        [lib], budgets=limits, verbs=words, inputs=declared, default="reject", fail="reject", random=Random(seed),
        clock=clock, take=Buckets(clock.monotonic).take,
    )  # fmt: skip
    ended = _remembering(lib.chains[0])
    outcome = Runner(program).run(given)
    if not ended or outcome.code:
        return False, outcome.error, outcome
    kind, value, *_ = ended[-1]
    return kind < ERR or kind >= TERMINAL, "" if value is MISSING else value, outcome


def _remembering(chain: LinkedChain) -> list[Signal]:
    """Keep the signals of the chain's only block."""
    block, signals = chain.blocks[0], []
    function = block.function

    def remember(run: Any, env: dict[str, Any], depth: int) -> Signal:
        signals.append(function(run, env, depth))
        return signals[-1]

    block.function = remember
    chain.functions = (remember,)
    return signals
