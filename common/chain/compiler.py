"""Text of a block -> Python code (L11): parse, scopes, emission, and a cache by text and version.

The code of a block is the same wherever it is mounted; what differs (its targets, its places, the host's budgets) are
globals of the function that ``linking.py`` makes of it.
"""

from __future__ import annotations

import ast
import gc
from collections import OrderedDict
from dataclasses import dataclass
from types import CodeType
from typing import Any

from common.chain import nodes as n
from common.chain import pycode as py
from common.chain.compiler_statements import Statements
from common.chain.compiler_variables import MISSING, hoisted_of, local_of
from common.chain.emitter import CHAIN_PREFIX, Config, Form, Link, Need, Result, may_build, may_write
from common.chain.errors import ChainError, ChainErrors
from common.chain.parser import parse
from common.chain.run import Access
from common.chain.scopes import BLOCK, Scopes, analyse
from common.chain.signals import FELL

VERSION = 1
"""Of the code that is generated; part of the key of the cache."""
FILE_NAME = "<chain>"
"""Where Python thinks that the code of blocks is; it tells their frames from others."""
CACHED_BLOCKS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Compiled:
    """The code of a block, without its tree, which is much larger. ``writes``: it may change a collection, or run what
    does. ``builds``: it may put one collection into another, or run what does.
    """

    code: CodeType
    constants: dict[str, Any]
    notes: dict[str, str]
    links: tuple[Link, ...]
    writes: bool
    builds: bool


class Cache:
    """Compiled blocks by text, version and configuration; the least recently used goes first."""

    def __init__(self, blocks_max: int = CACHED_BLOCKS_MAX) -> None:
        self._blocks: OrderedDict[tuple[Any, ...], Compiled] = OrderedDict()
        self._blocks_max = blocks_max
        self.hits = self.misses = 0

    def compiled(self, text: str, config: Config) -> Compiled:
        """The code of ``text``. Raises ChainErrors with all that is wrong with it."""
        key = (text, VERSION, config.key)
        found = self._blocks.get(key)
        if found is not None:
            self.hits += 1
            self._blocks.move_to_end(key)
            return found
        self.misses += 1
        self._blocks[key] = made = compile_block(text, config)
        if len(self._blocks) > self._blocks_max:
            self._blocks.popitem(last=False)
        return made


def compile_block(text: str, config: Config) -> Compiled:
    """Compile one block. Raises ChainErrors with all errors of the text, or else of its names and calls.

    Python's cycle collector waits meanwhile: the trees are thousands of objects that go at the end without it.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return translate(text, config)[0]
    finally:
        if collects:
            gc.enable()


def translate(text: str, config: Config) -> tuple[Compiled, ast.Module]:
    """Compile one block, and return the Python tree that it became, too."""
    body = parse(text)
    scopes = analyse(body, inputs=config.inputs, registry=config.registry, verbs=config.verbs)
    e = Statements(scopes, config)
    try:
        code = _statements(e, body)
        errors = [*scopes.errors, *e.errors]
        if errors:
            raise ChainErrors(sorted(errors, key=lambda error: (error.span.line, error.span.column)))
        tree = ast.Module([py.function("block", ["run", "c", "d"], code)], [])
        module = compile(tree, FILE_NAME, "exec")
    except RecursionError:
        message = "this block nests too many statements and $(...) in one another"
        raise ChainErrors([ChainError("PC-LINK-COMPLEX", message, body.span)]) from None
    function = next(constant for constant in module.co_consts if isinstance(constant, CodeType))
    effects = may_write(body, scopes), may_build(body, scopes)
    return Compiled(function, e.constants, e.notes, tuple(e.links.values()), *effects), tree


def _statements(e: Statements, body: n.Body) -> list[Any]:
    """The statements of the block's function."""
    scopes = e.scopes
    e.deleted = {prefix(name) for name in scopes.deleted for prefix in (local_of, CHAIN_PREFIX.__add__)}
    e.count_step(body.span)
    e.hoisted = _hoisted(scopes, e.config)
    for name in sorted(e.hoisted):
        e.emit(py.assign(hoisted_of(name), e.from_chain(name, MISSING)))
    result = e.body(body, Need.BOTH)
    if result.form is not Form.NEVER:
        e.emit(py.return_(_fell(e, result)))
    return [py.assign(local, py.name("M")) for local in e.initial] + e.out


def _hoisted(scopes: Scopes, config: Config) -> set[str]:
    """Read-only inputs that are read several times in a block in which nothing can hide them meanwhile."""
    if scopes.calls:
        return set()
    levels = {name for name, level, _ in scopes.declared if level != BLOCK}
    return {
        name
        for name, access in config.inputs.items()
        if access is Access.READ_ONLY and scopes.reads.get(name, 0) > 1 and name not in levels | scopes.written
    }


def _fell(e: Statements, result: Result) -> Any:
    """The signal of falling off the end."""
    expr = result.expr
    if result.form is Form.PRED:
        return py.choose(expr, py.name("FELL_TRUE"), py.name("FAILED_FALSE"))
    if result.form is Form.OK:
        if py.is_const(expr):
            return py.const((FELL, expr.value, ""))
        return py.tuple_([py.const(FELL), expr, py.const("")])
    if result.form is Form.MIXED and isinstance(expr, ast.Name) and expr.id == "ERR_EMPTY":
        return py.name("FAILED_EMPTY")
    return py.call("fell", [e.mixed(result)])
