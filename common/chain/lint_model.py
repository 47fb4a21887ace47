"""What lint looks at: the blocks of some lists, parsed and analysed, and what their texts name (L12).

``Finding`` is what every check gives. ``Unit`` is one block. ``Program`` is all of them, with the ids that may be
called. ``mentions`` says of every variable in a block whether it is read or written, in the order of evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from common.chain import nodes as n
from common.chain.commands.spec import BoundCall, Kind, Registry, Spec
from common.chain.errors import ChainError, ChainErrors, Span
from common.chain.parser import parse
from common.chain.run import Access
from common.chain.scopes import BLOCK, Scopes, analyse, branches_in_order, in_text_order, sort_of
from common.chain.verbs import Verbs

CALLS = ("exec", "invoke", "goto")


class Severity(StrEnum):
    """How bad a finding is. Only errors make lint fail."""

    ERROR = "error"  # it does not load, or does not do what it says
    WARNING = "warning"  # probably not meant so
    INFO = "info"  # worth knowing


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that lint says. ``span`` and ``source`` are of the block's text; ``file`` and ``line`` of the file.

    ``code`` is stable. ``where`` is ``lib:chain:block``. ``fix`` is the line as it should be, where lint knows it.
    """

    code: str
    severity: Severity
    message: str
    where: str
    span: Span
    source: str = ""
    file: str = ""
    line: int = 0
    fix: str = ""

    def __str__(self) -> str:
        """The finding as people read it: severity, code, message, place, line with caret, fix."""
        place = f"{self.file}:{self.line}, {self.where}" if self.file else self.where
        error = ChainError(self.code, self.message, self.span, source=self.source, where=place)
        return f"{self.severity} {error}" + (f"\n  write {self.fix}" if self.fix else "")

    def as_json(self) -> dict[str, Any]:
        """The finding in JSON's types."""
        span = self.span
        place = {"line": span.line, "column": span.column, "end_line": span.end_line, "end_column": span.end_column}
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "span"}
        return {**plain, "severity": self.severity.value, "span": place}


@dataclass(slots=True, eq=False)
class Unit:
    """One block: its source, its place, and, where it parses, its statements and their names."""

    lib: n.LibSource
    chain: n.ChainSource
    block: n.BlockSource
    body: n.Body
    scopes: Scopes

    @property
    def where(self) -> str:
        """``lib:chain:block``."""
        return f"{self.lib.id}:{self.chain.id}:{self.block.id}"

    @property
    def runs(self) -> bool:
        """True when it runs by itself."""
        return self.block.run is not False and self.chain.run is not False

    def finding(self, code: str, severity: Severity, message: str, span: Span, fix: str = "") -> Finding:
        """A finding at a place of this block."""
        return finding(self.lib, self.block, self.where, code, severity, message, span, fix)

    def spec(self, command: n.Command) -> Spec | None:
        """The spec of a command that fits it."""
        bound = self.scopes.bound.get(id(command))
        return None if bound is None else bound.spec


def finding(
    lib: n.LibSource,
    block: n.BlockSource,
    where: str,
    code: str,
    severity: Severity,
    message: str,
    span: Span,
    fix: str,
) -> Finding:
    """A finding in a block, with its source line and its line of the file."""
    lines = block.text.split("\n")
    source = lines[span.line - 1].rstrip("\r") if 0 < span.line <= len(lines) else ""
    line = block.line + max(span.line, 1) - 1 if lib.file else 0
    return Finding(code, severity, message, where, span, source, lib.file, line, fix)


class Program:
    """All blocks of the lists and of the global chains; ``units`` has those of the lists, in the order of running."""

    def __init__(
        self,
        libs: Iterable[n.LibSource],
        globals_: Mapping[str, n.LibSource],
        *,
        inputs: Mapping[str, Access],
        registry: Registry,
        verbs: Verbs,
    ) -> None:
        self.libs, self.verbs, self.inputs, self.registry = tuple(libs), verbs, inputs, registry
        self._analysis: dict[str, Any] = {"inputs": inputs, "registry": registry, "verbs": verbs}
        self.units = [unit for lib in self.libs for unit in self._units(lib)]
        others = [lib for lib in globals_.values() if lib not in self.libs]
        self.all = [*self.units, *(unit for lib in others for unit in self._units(lib))]
        self._globals = frozenset(lib.id for lib in globals_.values())
        self._ids = self._index()

    def _units(self, lib: n.LibSource) -> Iterator[Unit]:
        for chain in sorted(lib.chains, key=lambda chain: chain.priority):
            for block in sorted(chain.blocks, key=lambda block: block.priority):
                try:
                    body = parse(block.text)
                except ChainErrors:
                    continue  # a load error, which lint tells as such
                yield Unit(lib, chain, block, body, analyse(body, **self._analysis))

    def called(self, unit: Unit, command: n.Command) -> list[Unit] | None:
        """The blocks that a literal exec, invoke or goto runs, in their order; None when nobody can tell."""
        return self._meant(unit, command)[1]

    def inlined(self, unit: Unit, command: n.Command) -> bool:
        """True for the exec of a block of the own chain: it runs in the caller's place, so that its goto leaves both.

        What else is called is a chain of its own, in which a goto stays.
        """
        sort, blocks = self._meant(unit, command)
        return command.name == "exec" and sort == "block" and blocks is not None and blocks[0].chain is unit.chain

    def _meant(self, unit: Unit, command: n.Command) -> tuple[str, list[Unit] | None]:
        """What sort of target a literal exec, invoke or goto has, and its blocks; "" and None when nobody can tell."""
        bound = unit.scopes.bound.get(id(command))
        if command.name not in CALLS or bound is None or not bound.args or not isinstance(bound.args[0], n.Text):
            return "", None
        only = sort_of(bound)
        for sort, key in _meanings(unit, tuple(bound.args[0].value.split(":"))):
            if only not in ("", sort) or key[0] not in ("", unit.lib.id, *self._globals):
                continue
            found = self._ids.get((sort, *key), [])
            if found:
                return sort, found if sort == "block" else [each for each in found if each.block.run is not False]
        return "", None

    def _index(self) -> dict[tuple[str, ...], list[Unit]]:
        """The blocks behind every id: (sort, list, chain, block) as far as needed, the list "" for any global chain."""
        ids: dict[tuple[str, ...], list[Unit]] = {}
        for unit in self.all:
            lib, chain, block = unit.lib.id, unit.chain.id, unit.block.id
            ids.setdefault(("block", lib, chain, block), [unit])
            ids.setdefault(("chain", lib, chain), []).append(unit)
            if unit.chain.run is not False:
                ids.setdefault(("lib", lib), []).append(unit)
            if lib in self._globals:
                ids.setdefault(("block", "", chain, block), [unit])
                same_id = ids.setdefault(("chain", "", chain), [])
                if not same_id or same_id[0].lib is unit.lib:
                    same_id.append(unit)  # of two lists with such a chain the first counts
        return ids


def _meanings(unit: Unit, parts: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What an id may mean, nearest first: a block of the chain, a chain of the list, a global chain."""
    lib = unit.lib.id
    if len(parts) == 1:
        yield "block", (lib, unit.chain.id, *parts)
        yield "chain", (lib, *parts)
        yield "chain", ("", *parts)
        yield "lib", parts
    elif len(parts) == 2:
        yield "block", (lib, *parts)
        yield "block", ("", *parts)
        yield "chain", parts
    else:
        yield "block", parts


def walk(node: Any) -> Iterator[Any]:
    """Every node below ``node``, itself included, in the order of the text."""
    if isinstance(node, tuple):
        for part in node:
            yield from walk(part)
    elif is_dataclass(node) and not isinstance(node, Span):
        yield node
        for field in fields(node):
            yield from walk(getattr(node, field.name))


def substitutions(node: Any) -> Iterator[n.Substitution]:
    """The commands in ``$(...)`` below ``node``, without those that are inside of others."""
    if isinstance(node, n.Substitution):
        yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from substitutions(part)
    elif is_dataclass(node) and not isinstance(node, Span):
        for field in fields(node):
            yield from substitutions(getattr(node, field.name))


def commands(unit: Unit) -> Iterator[n.Command]:
    """All commands of a block."""
    return (node for node in walk(unit.body) if isinstance(node, n.Command))


# -- mentions ----------------------------------------------------------------------------------------------------------


class Mention(NamedTuple):
    """One place where a name stands. ``binds``: a for, case or match-result gives it its value.

    ``sure`` is False for a read that says what happens when there is nothing: ``?.``, ``??``, ``type``.
    """

    name: str
    level: str
    span: Span
    read: bool = False
    write: bool = False
    binds: bool = False
    sure: bool = True


def mentions(unit: Unit) -> list[Mention]:
    """Every mention of a name in a block, in the order of evaluation."""
    return list(_Mentions(unit).body(unit.body))


class _Mentions:
    def __init__(self, unit: Unit) -> None:
        self._scopes = unit.scopes

    def body(self, body: n.Body | None) -> Iterator[Mention]:
        for statement in body.statements if body else ():
            yield from self.statement(statement)

    def statement(self, node: n.Statement) -> Iterator[Mention]:
        match node:
            case n.Command():
                yield from self._command(node)
            case n.Assignment():
                if node.value is not None:
                    yield from self.expression(node.value)
                yield from self._target(node.target)
            case n.Comparison():
                yield from self.expression(node.left)
                yield from self.expression(node.right)
            case n.Condition():
                yield from self.expression(node.value)
            case n.And() | n.Or():
                for operand in node.operands:
                    yield from self.statement(operand)
            case n.Not():
                yield from self.statement(node.operand)
            case n.Group():
                yield from self.statement(node.body)
            case _:
                yield from self._compound(node)

    def _compound(self, node: n.If | n.Case | n.For | n.MatchResult) -> Iterator[Mention]:
        match node:
            case n.For():
                yield from self.expression(node.collection)
                yield from (self._bound(name, node.span) for name in node.names)
                yield from self.body(node.body)
            case n.MatchResult():
                yield from self.statement(node.command)
                for name, body in branches_in_order(node):
                    yield self._bound(name, node.span)
                    yield from self.body(body)
            case n.If() | n.Case():
                if isinstance(node, n.Case) and node.subject is not None:
                    yield from self.expression(node.subject)
                    yield self._bound(node.name, node.span)
                for branch in node.branches:
                    yield from self.statement(branch.condition)
                    yield from self.body(branch.body)
                yield from self.body(node.otherwise)

    def _bound(self, name: str, span: Span) -> Mention:
        return Mention(name, BLOCK, span, write=True, binds=True)

    def _command(self, node: n.Command) -> Iterator[Mention]:
        bound = self._scopes.bound.get(id(node))
        if bound is None:
            for argument in node.arguments:
                value = argument.value if isinstance(argument, n.Option) else argument
                if value is not None:
                    yield from self.expression(value)
            return
        yield from self._call(bound)

    def _call(self, bound: BoundCall) -> Iterator[Mention]:
        outs = {opt.name for opt in bound.spec.options if opt.out}
        given = list(in_text_order(bound))
        for part in given:
            kind = part.param.kind if part.param else Kind.VALUE
            if part.name in outs:
                continue
            if kind in (Kind.UPDATE, Kind.WRITE) and isinstance(part.node, n.Variable):
                creates = bound.spec.name.endswith("-create")
                writes = bound.spec.name != "delete" and not part.node.steps
                yield self._mention(part.node, read=not creates, write=writes, sure=not creates)
            elif kind is not Kind.NAME:
                sure = not (part.param and part.param.missing)
                yield from self.expression(part.node, sure)
        for part in given:
            if part.name in outs and isinstance(part.node, n.Variable):
                yield self._mention(part.node, write=True)

    def _target(self, node: n.Variable) -> Iterator[Mention]:
        for step in node.steps:
            if isinstance(step.key, n.Variable):
                yield from self.expression(step.key)
        yield self._mention(node, read=bool(node.steps), write=not node.steps)

    def _mention(self, node: n.Variable, **what: bool) -> Mention:
        return Mention(node.name, self._scopes.levels.get(id(node), "chain"), node.span, **what)

    def expression(self, node: n.Expression, sure: bool = True) -> Iterator[Mention]:
        match node:
            case n.Variable():
                for step in node.steps:
                    if isinstance(step.key, n.Variable):
                        yield from self.expression(step.key)
                sure = sure and node.default is None and not (node.steps and node.steps[0].optional)
                yield self._mention(node, read=True, sure=sure)
                if node.default is not None:
                    yield from self.expression(node.default)
            case n.Substitution():
                yield from self.statement(node.body)
            case n.Interpolated() | n.ListLiteral():
                for part in node.parts if isinstance(node, n.Interpolated) else node.items:
                    yield from self.expression(part)
            case n.MapLiteral():
                for _, value in node.entries:
                    yield from self.expression(value)
