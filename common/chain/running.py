"""Running what is linked: lists, chains, blocks, gotos between them (L6).

A block's function returns a signal (``signals.py``). Here it is decided what runs next: on a hook point's list, where
``return`` and ``error`` reach the run's variables, and under exec and invoke, where they are the call's result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from common.chain.errors import LimitError, Span
from common.chain.nodes import BlockSource
from common.chain.run import Run
from common.chain.signals import (
    BARE_BLOCK,
    ENDS_CHAIN,
    ENDS_LIB,
    ERR,
    ERROR_LIB,
    EXIT,
    FAILED,
    FAULTED,
    FELL,
    FELL_EMPTY,
    GOTO,
    TERMINAL,
    VERB,
    Signal,
)
from common.chain.values import MISSING

LAST_TARGETS = 8
"""How many targets the error of the goto limit lists."""

Function = Callable[[Any, dict[str, Any], int], Signal]


class LinkedBlock:
    """A block ready to run: ``function(run, chain environment, depth) -> signal``. ``name`` is ``chain:block``."""

    __slots__ = ("chain", "function", "id", "index", "name", "runs", "source")

    def __init__(self, source: BlockSource, chain: LinkedChain, index: int) -> None:
        self.source, self.chain, self.index = source, chain, index
        self.id, self.runs = source.id, source.run is not False
        self.name = f"{chain.id}:{self.id}"
        self.function: Function = _not_linked

    @property
    def where(self) -> str:
        """``lib:chain:block``."""
        return f"{self.chain.name}:{self.id}"


def _not_linked(run: Any, env: dict[str, Any], depth: int) -> Signal:
    raise AssertionError("a block was run before it was linked")


class LinkedChain:
    """A chain's blocks by (priority, position), and the functions of those that run by themselves."""

    __slots__ = ("blocks", "functions", "id", "lib", "runs")

    def __init__(self, id: str, lib: LinkedLib, runs: bool) -> None:
        self.id, self.lib, self.runs = id, lib, runs
        self.blocks: tuple[LinkedBlock, ...] = ()
        self.functions: tuple[Function, ...] = ()

    @property
    def name(self) -> str:
        """``lib:chain``."""
        return f"{self.lib.id}:{self.id}"


class LinkedLib:
    """A list of chains by (priority, position); ``listed`` are those that run by themselves."""

    __slots__ = ("builds", "chains", "id", "listed", "writes")

    def __init__(self, id: str) -> None:
        self.id = id
        self.chains: tuple[LinkedChain, ...] = ()
        self.listed: tuple[LinkedChain, ...] = ()
        self.writes = self.builds = False


Target = LinkedBlock | LinkedChain | LinkedLib


class Origin(NamedTuple):
    """Where a goto stands: part of its signal, for the error of the goto limit."""

    block: LinkedBlock
    span: Span


# -- under exec and invoke ---------------------------------------------------------------------------------------------


def run_chain(
    run: Run, chain: LinkedChain, env: dict[str, Any], depth: int, start: LinkedBlock | None = None
) -> Signal:
    """Run a chain under an exec, or only its block ``start`` unless that jumps on.

    Returns the last signal; one of goto where another chain is to replace this one.
    """
    blocks, signal, single = chain.blocks, FELL_EMPTY, start is not None
    at = forced = start.index if start is not None else 0
    forced = forced if single else -1
    while at < len(blocks):
        block = blocks[at]
        if block.runs or at == forced:
            signal = block.function(run, env, depth)
            kind = signal[0]
            if kind == GOTO:
                target = signal[1]
                count_goto(run, target, signal[2])
                if type(target) is not LinkedBlock:
                    return signal
                at = forced = target.index
                single = False
                continue
            if kind >= TERMINAL or kind in ENDS_CHAIN:
                return signal
        if single:
            return signal
        at += 1
    return signal


def call_block(run: Run, block: LinkedBlock, env: dict[str, Any], depth: int) -> Signal:
    """Exec of a block in an environment of its own."""
    return _replaced(run, run_chain(run, block.chain, env, depth, block), depth)


def call_chain(run: Run, chain: LinkedChain, env: dict[str, Any], depth: int) -> Signal:
    """Exec of a chain."""
    return _replaced(run, run_chain(run, chain, env, depth), depth)


def _replaced(run: Run, signal: Signal, depth: int) -> Signal:
    """While a chain ends by goto to another one, that one takes its place with a copy of its environment."""
    while signal[0] == GOTO:
        signal = run_chain(run, signal[1], dict(signal[3]), depth)
    return signal


def call_lib(run: Run, lib: LinkedLib, env: dict[str, Any], depth: int) -> Signal:
    """Exec of a list: every chain has an environment of its own, the first one ``env``."""
    signal, at, forced = FELL_EMPTY, 0, -1
    while at < len(lib.chains):
        chain = lib.chains[at]
        if chain.runs or at == forced:
            signal = run_chain(run, chain, env, depth)
            if signal[0] == GOTO:
                if signal[1] not in lib.chains:
                    return _replaced(run, signal, depth)
                at = forced = lib.chains.index(signal[1])
                env = dict(signal[3])
                continue
            if signal[0] >= TERMINAL or signal[0] in ENDS_LIB:
                return signal
        env = {}
        at += 1
    return signal


def count_goto(run: Run, target: Any, origin: Origin) -> None:
    """One goto more. Raises LimitError PC-LIMIT-GOTO with the last targets."""
    run.gotos_count += 1
    run.gotos = (*run.gotos, target.name)[-LAST_TARGETS:]
    gotos_max = run.program.budgets.gotos_max
    if run.gotos_count > gotos_max:
        last = ", ".join(run.gotos)
        message = f"more than {gotos_max} gotos, the last ones to {last}"
        raise LimitError("PC-LIMIT-GOTO", message, origin.span).at(origin.block.where, origin.block.source.text)


# -- on the hook point's lists -----------------------------------------------------------------------------------------


def run_list(run: Run, lib: LinkedLib) -> bool:
    """Run one list; True when the run has ended. What is usual is here, all else in ``_go_on``."""
    for chain in lib.listed:
        env: dict[str, Any] = {}
        for function in chain.functions:
            signal = function(run, env, 0)
            kind = signal[0]
            if kind == FELL or kind == FAILED:  # noqa: SIM109 - twice as fast
                continue
            if kind == VERB:
                _, run.target, run.where, run.verb = signal
                run.decided = True
                return True
            if kind >= ERR:
                block = next(block for block in chain.blocks if block.function is function)
                return _go_on(run, lib, chain, block.index + 1, env, signal)
            run.where = signal[2]
            if kind < BARE_BLOCK:
                run.value = signal[1]
            if kind in ENDS_CHAIN:
                if kind in ENDS_LIB:
                    return False
                break
    return False


def settle(run: Run, signal: Signal) -> bool:
    """What a signal means on a hook point's list; True when the run ends with it."""
    kind = signal[0]
    if kind in (FELL, FAILED, FAULTED):
        run.ok = True
        return False
    run.where = signal[2]
    if kind == VERB:
        run.verb, run.target, run.decided, run.ok = signal[3], signal[1], True, True
        return True
    if kind == EXIT:
        if signal[1] is not MISSING:
            run.value = signal[1]
        return True
    run.ok = kind < ERR
    if kind >= ERR:
        run.error = run.value = signal[1]
    elif kind < BARE_BLOCK:
        run.value = signal[1]
    return bool(kind == ERROR_LIB)


def _go_on(run: Run, lib: LinkedLib, chain: LinkedChain, at: int, env: dict[str, Any], signal: Signal) -> bool:
    """Go on with a list after ``signal`` of a block; ``at`` is the place of the block behind it."""
    while True:
        forced, kind = -1, signal[0]
        if kind == GOTO:
            target = signal[1]
            count_goto(run, target, signal[2])
            if type(target) is LinkedBlock:
                at = forced = target.index
            else:
                chain, env, at = target, dict(signal[3]), 0
        elif settle(run, signal):
            return True
        elif kind in ENDS_LIB:
            return False
        elif kind in ENDS_CHAIN:
            at = len(chain.blocks)
        while at >= len(chain.blocks) or not (chain.blocks[at].runs or at == forced):
            if at < len(chain.blocks):
                at += 1
                continue
            following = _next_chain(lib, chain)
            if following is None:
                return False
            chain, env, at = following, {}, 0
        signal = chain.blocks[at].function(run, env, 0)
        at += 1


def _next_chain(lib: LinkedLib, chain: LinkedChain) -> LinkedChain | None:
    """The chain that runs behind ``chain``; none after a global chain."""
    if chain.lib is not lib:
        return None
    behind = lib.chains[lib.chains.index(chain) + 1 :]
    return next((following for following in behind if following.runs), None)
