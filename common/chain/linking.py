"""Compiled blocks -> functions on a hook point: targets resolved, places and budgets filled in (L1, L6, L11).

Everything that can be wrong with what is mounted is found here at once: texts that do not compile, ids that are there
twice, literal targets that do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import FunctionType
from typing import Any

from common.chain.compiler import Cache, Compiled
from common.chain.emitter import Config, Link
from common.chain.errors import ChainError, ChainErrors, MisuseError, Span
from common.chain.nodes import LibSource
from common.chain.run import Budgets, Run
from common.chain.running import (
    LinkedBlock,
    LinkedChain,
    LinkedLib,
    Origin,
    Target,
    call_block,
    call_chain,
    call_lib,
)
from common.chain.signals import Signal
from common.chain.support import NAMES
from common.chain.trace import trace_begin, trace_called, trace_end, trace_mark

TARGET_CHARS_MAX = 200  # of an id in a message
TRACING = {
    "trace_begin": trace_begin, "trace_end": trace_end, "trace_mark": trace_mark, "trace_called": trace_called,
}  # fmt: skip


class Linker:
    """Links lists for one configuration. ``libs`` are the global chains, which everything linked here may call;
    ``errors`` is what is wrong with them.
    """

    def __init__(self, config: Config, cache: Cache, budgets: Budgets, libs: Mapping[str, LibSource]) -> None:
        self.config, self._cache, self._budgets = config, cache, budgets
        self.globals: dict[str, LinkedLib] = {}
        self._names = {**NAMES, **(TRACING if config.traced else {})}
        made = [self._shape(source) for source in libs.values()]
        self.globals = {lib.id: lib for lib, _ in made}
        self.errors = tuple(self._finish(made))

    def link(self, source: LibSource) -> LinkedLib:
        """Link one list. Raises ChainErrors with all that is wrong with it."""
        lib, errors = self.linked(source)
        if errors:
            raise ChainErrors(errors)
        return lib

    def linked(self, source: LibSource) -> tuple[LinkedLib, list[ChainError]]:
        """As ``link``, with all that is wrong instead of raising it."""
        made = self._shape(source)
        return made[0], self._finish([made])

    def _shape(self, source: LibSource) -> tuple[LinkedLib, list[ChainError]]:
        """Chains and blocks in their order, without functions yet."""
        lib = LinkedLib(source.id)
        errors: list[ChainError] = []
        chains = []
        for chain_source in sorted(source.chains, key=lambda chain: chain.priority):
            chain = LinkedChain(chain_source.id, lib, chain_source.run is not False)
            ordered = sorted(chain_source.blocks, key=lambda block: block.priority)
            chain.blocks = tuple(LinkedBlock(block, chain, at) for at, block in enumerate(ordered))
            errors += _twice(chain.blocks, "block")
            chains.append(chain)
        errors += _twice(chains, "chain")
        lib.chains = tuple(chains)
        return lib, errors

    def _finish(self, made: Sequence[tuple[LinkedLib, list[ChainError]]]) -> list[ChainError]:
        """Give every block its function, then every function its targets, and every list what runs by itself.

        Returns all that is wrong.
        """
        errors: list[ChainError] = []
        linked: list[tuple[LinkedBlock, dict[str, Any], Compiled]] = []
        for lib, found in made:
            errors += found
            for chain in lib.chains:
                for block in chain.blocks:
                    try:
                        linked.append(self._function(lib, block))
                    except ChainErrors as wrong:
                        errors += [error.at(block.where, block.source.text) for error in wrong.errors]
                chain.functions = tuple(block.function for block in chain.blocks if block.runs)
            lib.listed = tuple(chain for chain in lib.chains if chain.runs)
        for block, names, compiled in linked:
            errors += self._links(block, names, compiled)
        return errors

    def _function(self, lib: LinkedLib, block: LinkedBlock) -> tuple[LinkedBlock, dict[str, Any], Compiled]:
        """Make the function of one block; its links are not in its globals yet. Raises ChainErrors."""
        compiled = self._cache.compiled(block.source.text, self.config)
        lib.writes, lib.builds = lib.writes or compiled.writes, lib.builds or compiled.builds
        names = {**self._names, **compiled.constants, "__block__": block}
        block.function = FunctionType(compiled.code, names, block.name)
        return block, names, compiled

    def _links(self, block: LinkedBlock, names: dict[str, Any], compiled: Compiled) -> list[ChainError]:
        """Fill in the globals that depend on where the block is mounted."""
        errors = []
        for link in compiled.links:
            try:
                names[link.name] = _LINKS[link.what](self, block, link)
            except ChainError as error:
                errors.append(error.at(block.where, block.source.text))
        return errors

    # -- what a link becomes -------------------------------------------------------------------------------------------

    def _place(self, block: LinkedBlock, link: Link) -> str:
        return f"{block.name}:{link.data[0]}"

    def _origin(self, block: LinkedBlock, link: Link) -> Origin:
        return Origin(block, link.data[0])

    def _signal(self, block: LinkedBlock, link: Link) -> Signal:
        kind, value, line, *verb = link.data
        return (kind, value, f"{block.name}:{line}", *verb)

    def _exec(self, block: LinkedBlock, link: Link) -> Callable[..., Signal]:
        return exec_of(block.chain, self._literal(block, link))

    def _invoke(self, block: LinkedBlock, link: Link) -> Callable[..., Signal]:
        return invoke_of(self._literal(block, link))

    def _goto(self, block: LinkedBlock, link: Link) -> LinkedBlock | LinkedChain:
        target = resolve_goto(block.chain, self.globals, link.data[0])
        if target is None:
            raise self._unknown("goto", block, link, "", link.data[0])
        return target

    def _scope(self, block: LinkedBlock, link: Link) -> Scope:
        return Scope(block.chain, self.globals)

    def _string_quarter(self, block: LinkedBlock, link: Link) -> int:
        return self._budgets.string_bytes_max // 4  # so many characters are never more bytes than the limit

    def _depth_max(self, block: LinkedBlock, link: Link) -> int:
        return self._budgets.exec_depth_max

    def _self(self, block: LinkedBlock, link: Link) -> LinkedBlock:
        return block

    def _literal(self, block: LinkedBlock, link: Link) -> Target:
        sort, name = link.data
        target = resolve(block.chain, self.globals, sort, name)
        if target is None:
            raise self._unknown(link.what, block, link, sort, name)
        return target

    def _unknown(self, what: str, block: LinkedBlock, link: Link, sort: str, id: str) -> ChainError:
        message, near = unknown_target(what, sort, id), near_targets(block.chain, self.globals, id)
        return ChainError("PC-LINK-TARGET", message, link.span, expected=near)


_LINKS: dict[str, Callable[[Linker, LinkedBlock, Link], Any]] = {
    "place": Linker._place,
    "origin": Linker._origin,
    "signal": Linker._signal,
    "exec": Linker._exec,
    "invoke": Linker._invoke,
    "goto": Linker._goto,
    "scope": Linker._scope,
    "string_quarter": Linker._string_quarter,
    "depth_max": Linker._depth_max,
    "self": Linker._self,
}


def _twice(items: Sequence[LinkedBlock] | Sequence[LinkedChain], what: str) -> Iterator[ChainError]:
    """An error for every block or chain whose id another one before it has."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            blocks = (item,) if isinstance(item, LinkedBlock) else item.blocks
            yield duplicate(f"there are two {what}s with the id {item.id}", item.name, blocks)
        seen.add(item.id)


def duplicate(message: str, where: str, blocks: Sequence[LinkedBlock]) -> ChainError:
    """The error for an id that is there already, told at the first line of what has it again."""
    if not blocks:
        return ChainError("PC-LINK-DUPLICATE", message, where=where)
    text = blocks[0].source.text
    span = Span(1, 1, 1, len(text.partition("\n")[0]) + 1)
    return ChainError("PC-LINK-DUPLICATE", message, span).at(blocks[0].where, text)


# -- targets -----------------------------------------------------------------------------------------------------------


def resolve(chain: LinkedChain, libs: Mapping[str, LinkedLib], sort: str, id: str) -> Target | None:
    """What ``id`` means in the text of ``chain``: a block of it, a chain of its list, what a global chain has; or None.

    ``sort`` is ``block``, ``chain`` or ``lib`` where the call says so, else empty.
    """
    parts = id.split(":")
    own = chain.lib
    around = [own, *(lib for lib in libs.values() if lib is not own)]
    found: list[Target | None] = []
    if len(parts) == 1:
        if sort in ("", "block"):
            found.append(_by_id(chain.blocks, id))
        if sort in ("", "chain"):
            found += [_by_id(lib.chains, id) for lib in around]
        if sort in ("", "lib"):
            found.append(_by_id(around, id))
    elif len(parts) == 2:
        if sort in ("", "block"):
            found += [_block(lib, parts) for lib in around]
        if sort in ("", "chain"):
            found += [_by_id(lib.chains, parts[1]) for lib in around if lib.id == parts[0]]
    elif len(parts) == 3 and sort in ("", "block"):
        found += [_block(lib, parts[1:]) for lib in around if lib.id == parts[0]]
    return next((target for target in found if target is not None), None)


def _by_id(items: Sequence[Any], id: str) -> Any:
    return next((item for item in items if item.id == id), None)


def _block(lib: LinkedLib, parts: Sequence[str]) -> LinkedBlock | None:
    chain = _by_id(lib.chains, parts[0])
    return None if chain is None else _by_id(chain.blocks, parts[1])


def resolve_goto(chain: LinkedChain, libs: Mapping[str, LinkedLib], id: str) -> LinkedBlock | LinkedChain | None:
    """What a goto to ``id`` in the text of ``chain`` goes to: a block of that chain, or another chain."""
    target = resolve(chain, libs, "", id)
    if isinstance(target, LinkedLib):
        return target.chains[0] if len(target.chains) == 1 else None
    if isinstance(target, LinkedBlock) and target.chain is not chain:
        return None
    return target


def unknown_target(what: str, sort: str, id: str) -> str:
    """The message for a target that is not there, on loading and in a run, where any text may stand for the id."""
    shown = id if len(id) <= TARGET_CHARS_MAX else f"{id[:TARGET_CHARS_MAX]}..."
    return f'{what}: there is no {sort or "block or chain"} "{shown}"'


def near_targets(chain: LinkedChain, libs: Mapping[str, LinkedLib], id: str) -> list[str]:
    """What the text of ``chain`` may have meant by ``id``."""
    known = dict.fromkeys([*(block.id for block in chain.blocks), *(other.id for other in chain.lib.chains), *libs])
    return get_close_matches(id, known, n=3, cutoff=0.6)


def exec_of(chain: LinkedChain, target: Target) -> Callable[..., Signal]:
    """A function ``(run, chain environment, depth) -> signal`` that executes ``target`` from the text of ``chain``."""
    if isinstance(target, LinkedBlock) and target.chain is chain:
        return target.function
    if isinstance(target, LinkedBlock):
        return lambda run, env, depth: call_block(run, target, {}, depth)
    if isinstance(target, LinkedChain):
        return lambda run, env, depth: call_chain(run, target, {}, depth)
    return lambda run, env, depth: call_lib(run, target, {}, depth)


def invoke_of(target: Target) -> Callable[..., Signal]:
    """A function ``(run, arguments, depth) -> signal`` that executes ``target`` in a fresh environment."""
    call: Any = (
        call_block if isinstance(target, LinkedBlock) else call_chain if isinstance(target, LinkedChain) else call_lib
    )

    def invoke(run: Run, arguments: dict[str, Any], depth: int) -> Signal:
        run.sealed = (arguments, run.sealed)
        signal: Signal = call(run, target, {"__args": arguments}, depth)
        return signal

    return invoke


class Scope:
    """Targets that are known only when the run comes to them, as seen from the text of one chain."""

    def __init__(self, chain: LinkedChain, libs: Mapping[str, LinkedLib]) -> None:
        self._chain, self._libs = chain, libs

    def exec(self, run: Run, sort: str, id: str, env: dict[str, Any], depth: int) -> Signal:
        """``exec $id``."""
        return exec_of(self._chain, self._find("exec", sort, id))(run, env, depth)

    def invoke(self, run: Run, sort: str, id: str, arguments: dict[str, Any], depth: int) -> Signal:
        """``invoke $id``."""
        return invoke_of(self._find("invoke", sort, id))(run, arguments, depth)

    def goto(self, id: str) -> LinkedBlock | LinkedChain:
        """``goto $id``."""
        target = resolve_goto(self._chain, self._libs, id)
        if target is None:
            raise self._unknown("goto", "", id)
        return target

    def _find(self, what: str, sort: str, id: str) -> Target:
        target = resolve(self._chain, self._libs, sort, id)
        if target is None:
            raise self._unknown(what, sort, id)
        return target

    def _unknown(self, what: str, sort: str, id: str) -> MisuseError:
        near = near_targets(self._chain, self._libs, id)
        return MisuseError("PC-RUN-TARGET", unknown_target(what, sort, id), expected=near)
