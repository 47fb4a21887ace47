"""The oracle: a small, slow evaluator of the process-chain language that walks the tree (L11).

Written from the design's text alone, so that it can judge the compiled engine: it shares with it the syntax tree, the
values and the specs of ordinary commands, and nothing of scopes, lowering, compiling and running.

    oracle = Oracle(inputs={"REQ": "read-only"})
    oracle.mount(lib)
    oracle.run({"REQ": {"path": "/"}})  # -> Outcome
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from common.chain import comparing, values
from common.chain import nodes as n
from common.chain.commands.spec import Registry
from common.chain.errors import ChainError, LimitError
from common.chain.parser import parse
from common.chain.values import MISSING
from tests.chain import oracle_controls
from tests.chain.oracle_eval import OK, Evaluator, given
from tests.chain.oracle_levels import Levels
from tests.chain.oracle_state import (
    Block,
    Chain,
    Exit,
    Frame,
    Jump,
    Leave,
    Lib,
    Limits,
    Outcome,
    Result,
    State,
    Target,
    Terminal,
    misuse,
    walked,
)

VERBS = ("accept", "reject", "drop", "forward", "server")
TARGETED = ("forward", "server")


class Oracle:
    """A hook point of its own (L7). ``inputs`` maps each name to ``read-only`` or ``writable``."""

    def __init__(
        self,
        *,
        inputs: Mapping[str, str] | None = None,
        verbs: Sequence[str] = VERBS,
        targeted: Sequence[str] = TARGETED,
        default: str = "reject",
        fail: str = "reject",
        missing: str = "lenient",
        libs: Mapping[str, n.LibSource] | None = None,
        registry: Registry,
        seed: int | None = None,
        now_ms: int = 0,
        limits: Limits | None = None,
    ) -> None:
        self.inputs, self.verbs, self.targeted = dict(inputs or {}), tuple(verbs), tuple(targeted)
        self.default, self.fail, self.missing = default, fail, missing
        self.registry, self.controls, self.terminal = registry, oracle_controls.CONTROLS, oracle_controls.terminal
        self._seed, self._now_ms, self._limits = seed, now_ms, limits or Limits()
        self.globals = {name: self._lib(lib) for name, lib in (libs or {}).items()}
        self.mounted: list[Lib] = []

    def canonical(self, word: str) -> str:
        """The verb that a word means: ``call-server`` is ``server``."""
        return "server" if word == "call-server" and word not in self.verbs else word

    def mount(self, source: n.LibSource) -> None:
        """Add a list of chains. The oracle expects what loads."""
        self.mounted.append(self._lib(source))

    def _lib(self, source: n.LibSource) -> Lib:
        lib = Lib(source.id)
        for chain in sorted(source.chains, key=lambda chain: chain.priority):
            made = Chain(chain.id, lib, [], chain.run is not False)
            for block in sorted(chain.blocks, key=lambda block: block.priority):
                body = parse(block.text)
                levels = Levels(body, self.inputs, self.registry)
                made.blocks.append(Block(block.id, body, levels, block.run is not False))
            lib.chains.append(made)
        return lib

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, given: Mapping[str, Any]) -> Outcome:
        """Run what is mounted and say what became of it."""
        state = State(self._limits, self._seed, self._now_ms)
        state.inputs = {name: values.copy(value) for name, value in given.items()}
        before = {name: values.copy(value) for name, value in given.items()}
        for name, access in self.inputs.items():
            if access == "read-only":
                state.freeze(state.inputs.get(name))
        state.verb, state.run = self.default, {"result": self.default, "error": "", "resp": ""}
        run = Evaluator(self, state)
        try:
            with deep_recursion():
                self._lists(run)
        except Terminal as control:
            self._decide(state, control)
        except Exit as control:
            if control.value is not MISSING:
                state.run["result"] = control.value
        except ChainError as error:
            return self._walkable(self._failed(state, str(error), error.code))
        if not state.ok:
            return self._walkable(self._failed(state, state.run["error"], ""))
        outputs = {
            name: state.inputs[name]
            for name, access in self.inputs.items()
            if access == "writable" and name in state.inputs and not same(state.inputs[name], before.get(name, MISSING))
        }
        result = state.run
        return self._walkable(
            Outcome(
                state.verb, state.target, result["result"], True, result["error"], result["resp"], outputs, state.output
            )
        )

    def _walkable(self, made: Outcome) -> Outcome:
        """The outcome, or a failure where it holds itself, or more than anybody could write out."""
        try:
            room = self._limits.outcome_chars_max
            for value in (made.value, made.error, made.resp, *made.outputs.values()):
                room = walked(value, room)
        except LimitError as error:
            return Outcome(self.fail, "", "", False, str(error), "", {}, made.output, error.code)
        return made

    def _decide(self, state: State, control: Terminal) -> None:
        state.verb, state.target, state.ok = control.verb, control.target, True
        if control.verb in ("reject", "drop") and control.target:
            state.run["error"] = control.target

    def _failed(self, state: State, error: Any, code: str) -> Outcome:
        return Outcome(self.fail, "", state.run["result"], False, error, state.run["resp"], {}, state.output, code)

    def _lists(self, run: Evaluator) -> None:
        for lib in self.mounted:
            try:
                self.chains(run, lib.chains, None, listed=True)
            except Leave as control:
                self._left(run.state, control)
                if not control.ok:
                    return

    def _left(self, state: State, control: Leave) -> None:
        """A unit of the list has ended by return or error."""
        state.ok = control.ok
        if not control.ok:
            state.run["result"] = state.run["error"] = given(control.value)
        elif control.value is not MISSING:
            state.run["result"] = control.value

    def chains(self, run: Evaluator, chains: Sequence[Chain], env: dict[str, Any] | None, *, listed: bool) -> Result:
        """Run a list of chains; a goto to one of them goes on behind it."""
        result, at, forced = OK, 0, False
        while at < len(chains):
            chain = chains[at]
            if chain.runs or forced:
                try:
                    result = self.chain(run, chain, {} if env is None else env, listed=listed)
                except Leave as control:
                    if control.level == "lib":
                        raise
                    result = self._unit_left(run, control, listed)
                except Jump as jump:
                    if jump.target.chain not in chains:
                        return self._tail(run, jump, listed)
                    at, env, forced = chains.index(jump.target.chain), dict(jump.env), True
                    continue
            at, env, forced = at + 1, None, False
        return result

    def _tail(self, run: Evaluator, jump: Jump, listed: bool) -> Result:
        """A chain that is not of this list takes over, and the list ends with it."""
        while True:
            assert jump.target.chain is not None
            try:
                return self.chain(run, jump.target.chain, dict(jump.env), listed=listed)
            except Leave as control:
                if control.level == "lib":
                    raise
                return self._unit_left(run, control, listed)
            except Jump as further:
                jump = further

    def chain(
        self, run: Evaluator, chain: Chain, env: dict[str, Any], *, start: Block | None = None, listed: bool
    ) -> Result:
        """Run a chain's blocks from its first, or only ``start`` unless that jumps on."""
        result, at, single = OK, 0, start is not None
        forced = start
        if start is not None:
            at = chain.blocks.index(start)
        while at < len(chain.blocks):
            block = chain.blocks[at]
            if block.runs or block is forced:
                try:
                    result = self.block(run, chain, block, env)
                    if listed:
                        run.state.ok = True
                except Leave as control:
                    if control.level != "block":
                        raise
                    result = self._unit_left(run, control, listed)
                except Jump as jump:
                    if jump.target.block is None or jump.target.chain is not chain:
                        if not listed:
                            return self._tail(run, jump, listed)
                        raise
                    at, forced, single = chain.blocks.index(jump.target.block), jump.target.block, False
                    continue
            if single:
                break
            at, forced = at + 1, None
        return result

    def _unit_left(self, run: Evaluator, control: Leave, listed: bool) -> Result:
        if listed:
            self._left(run.state, control)
        return Result(control.ok, given(control.value), raised="" if control.ok else control.level)

    def block(self, run: Evaluator, chain: Chain, block: Block, env: dict[str, Any]) -> Result:
        """Run one block in a fresh block environment."""
        run.state.step()
        return run.body(Frame(chain, block, env, {}), block.body)

    # -- targets -------------------------------------------------------------------------------------------------------

    def find(self, frame: Frame, kind: str, name: str) -> Target:
        """Resolve an id as seen from the text of ``frame``. Raises misuse where there is nothing."""
        for lib, parts in self._readings(frame.chain.lib, name.split(":")):
            found = self._in_lib(frame, lib, kind, parts)
            if found is not None:
                return found
        raise misuse("PC-RUN-TARGET")

    def _readings(self, own: Lib, parts: list[str]) -> list[tuple[Lib, list[str]]]:
        libs = [*self.mounted, *self.globals.values()]
        named = [(lib, parts[1:]) for lib in libs if len(parts) > 1 and lib.id == parts[0]]
        return [(own, parts), *((lib, parts) for lib in libs if lib is not own), *named]

    def _in_lib(self, frame: Frame, lib: Lib, kind: str, parts: list[str]) -> Target | None:
        if len(parts) == 1 and kind == "lib":
            return Target(lib) if lib.id == parts[0] else None
        if len(parts) == 1 and kind in ("", "block") and lib is frame.chain.lib:
            for block in frame.chain.blocks:
                if block.id == parts[0]:
                    return Target(lib, frame.chain, block)
        for chain in lib.chains:
            if chain.id == parts[0] and len(parts) == 1 and kind in ("", "chain"):
                return Target(lib, chain)
            for block in chain.blocks:
                if [chain.id, block.id] == parts and kind in ("", "block"):
                    return Target(lib, chain, block)
        return None


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Python's own limit is no limit of the language: a walk over 64 nested calls is deep."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, as L5 says."""
    return comparing.equal(a, b)
