"""Lint of names: unknown, unused, shadowed, overwritten variables, and words that were meant to be one (L5, L12)."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from common.chain import nodes as n
from common.chain.commands.spec import Kind
from common.chain.lint_model import (
    CALLS,
    Finding,
    Mention,
    Program,
    Severity,
    Unit,
    commands,
    mentions,
    substitutions,
    walk,
)
from common.chain.paths import NAME
from common.chain.scopes import BLOCK, CHAIN, GLOBAL, INPUT, READ_ONLY_NAMES, RUN_NAMES, in_text_order

HINTS_MAX = 50
"""Of a name that is nearly the unknown one: it is costly to find."""


class Names:
    """The names of a program, and the checks on them. ``known``: the hook point's inputs are declared."""

    def __init__(self, program: Program, known: bool) -> None:
        self._program, self._known = program, known
        self._mentions: list[tuple[Unit, list[Mention]]] = [(unit, mentions(unit)) for unit in program.all]
        self._read: set[str] = set()
        self._written: dict[str, set[tuple[str, str]]] = {}
        """name -> (level, lib:chain) of what writes it outside of block level"""
        for unit, found in self._mentions:
            for mention in found:
                if mention.read:
                    self._read.add(mention.name)
                if mention.write and mention.level != BLOCK:
                    self._written.setdefault(mention.name, set()).add((mention.level, _chain(unit)))
        self._hints = 0
        self._forks = any(command.name == "goto" for unit in program.all for command in commands(unit))

    def findings(self) -> Iterator[Finding]:
        """All findings about names."""
        for unit, found in self._mentions[: len(self._program.units)]:
            yield from self._unknown(unit, found)
            yield from self._unused(unit, found)
            yield from self._shadowed(unit)
            for node in walk(unit.body):
                if isinstance(node, n.Body):
                    yield from self._overwritten(unit, node)
            yield from self._bare(unit)

    # -- unknown -------------------------------------------------------------------------------------------------------

    def _unknown(self, unit: Unit, found: list[Mention]) -> Iterator[Finding]:
        told: set[str] = set()
        for mention in found:
            name = mention.name
            if not (mention.read and mention.sure and mention.level in (CHAIN, GLOBAL)) or name in told:
                continue
            if name in READ_ONLY_NAMES or name in self._program.inputs:
                continue
            told.add(name)
            writers = self._written.get(name, set())
            if any(level == GLOBAL or chain == _chain(unit) for level, chain in writers):
                continue
            if writers and not self._forks:
                yield self._other_chain(unit, mention, writers)
            elif not writers and self._known:
                yield self._never(unit, mention, found)

    def _other_chain(self, unit: Unit, mention: Mention, writers: set[tuple[str, str]]) -> Finding:
        chain = min(chain for _, chain in writers)
        message = (
            f"${mention.name} is set in the chain {chain} only, whose variables are its own: set it with global there"
        )
        return unit.finding("PC-LINT-OTHER-CHAIN", Severity.WARNING, message, mention.span)

    def _never(self, unit: Unit, mention: Mention, found: list[Mention]) -> Finding:
        local = any(other.write and other.level == BLOCK and other.name == mention.name for other in found)
        names = [*self._program.inputs, *RUN_NAMES, *self._written, *(other.name for other in found if other.write)]
        self._hints += 1
        near = get_close_matches(mention.name, set(names) - {mention.name}, 1) if self._hints <= HINTS_MAX else []
        hint = ", it is declared further down" if local else f", did you mean ${near[0]}?" if near else ""
        message = f"${mention.name} is set nowhere and is no input{hint}"
        return unit.finding("PC-LINT-UNKNOWN-NAME", Severity.ERROR, message, mention.span)

    # -- unused, shadowed ----------------------------------------------------------------------------------------------

    def _unused(self, unit: Unit, found: list[Mention]) -> Iterator[Finding]:
        here = {mention.name for mention in found if mention.read}
        told: set[str] = set()
        for mention in found:
            name = mention.name
            if not mention.write or mention.level in (INPUT, "run") or name in told or name.startswith("_"):
                continue
            if mention.binds:
                continue  # for, case and match-result must have a name
            if name not in (here if mention.level == BLOCK else self._read):
                told.add(name)
                yield unit.finding("PC-LINT-UNUSED", Severity.WARNING, f"${name} is set and never read", mention.span)

    def _shadowed(self, unit: Unit) -> Iterator[Finding]:
        for name, level, span in unit.scopes.declared:
            outer = {other for other, chain in self._written.get(name, ()) if other == GLOBAL or chain == _chain(unit)}
            hidden = ""
            if name in self._program.inputs:
                hidden = "the input"
            elif level == BLOCK and outer & {CHAIN, GLOBAL}:
                hidden = "the chain's variable" if CHAIN in outer else "the global variable"
            elif level == CHAIN and GLOBAL in outer:
                hidden = "the global variable"
            if hidden:
                message = f"this ${name} hides {hidden} of the same name"
                yield unit.finding("PC-LINT-SHADOWED", Severity.WARNING, message, span)
        yield from self._undeclared(unit)

    def _undeclared(self, unit: Unit) -> Iterator[Finding]:
        """An assignment without a scope word where other blocks have the name as a global."""
        declared: set[str] = {name for name, _, _ in unit.scopes.declared}
        for node in walk(unit.body):
            if not isinstance(node, n.Assignment) or node.scope or node.target.steps or node.target.name in declared:
                continue
            if any(level == GLOBAL for level, _ in self._written.get(node.target.name, ())):
                declared.add(node.target.name)
                message = (
                    f"${node.target.name} is global elsewhere, and here it is the chain's own: write global before it"
                )
                yield unit.finding("PC-LINT-SHADOWED", Severity.WARNING, message, node.target.span)

    # -- overwritten ---------------------------------------------------------------------------------------------------

    def _overwritten(self, unit: Unit, body: n.Body) -> Iterator[Finding]:
        """An assignment that another one of the same body makes pointless, with nothing between that could look."""
        pending: dict[tuple[str, str], n.Assignment] = {}
        for statement in body.statements:
            read = _looks(unit, statement)
            if read is None:
                pending.clear()
                continue
            for key in [key for key in pending if key[0] in read] if read else ():
                del pending[key]
            if isinstance(statement, n.Assignment) and not statement.target.steps and statement.value is not None:
                name, level = statement.target.name, unit.scopes.level(statement.target)
                if name in RUN_NAMES or next(substitutions(statement.value), None) is not None:
                    continue  # the verb is chosen by each; a fault would leave the name as it is
                first, line = pending.get((name, level)), statement.span.line
                if first is not None:
                    message = f"${name} is set here and again in line {line}, and not read between"
                    yield unit.finding("PC-LINT-OVERWRITTEN", Severity.WARNING, message, first.span)
                pending[name, level] = statement

    # -- bare words ----------------------------------------------------------------------------------------------------

    def _bare(self, unit: Unit) -> Iterator[Finding]:
        """A bare word that is the name of a variable: a string, where a ``$`` was perhaps forgotten."""
        names = {name for name, _, _ in unit.scopes.declared} | set(self._program.inputs) | set(RUN_NAMES)
        for name, writers in self._written.items():
            if any(level == GLOBAL or chain == _chain(unit) for level, chain in writers):
                names.add(name)
        for word in _bare_words(unit):
            if word.value in names and NAME.fullmatch(word.value):
                message = (
                    f'"{word.value}" is a string here, and there is a variable of that name: ${word.value}, or quotes'
                )
                yield unit.finding("PC-LINT-BARE", Severity.WARNING, message, word.span)


def _bare_words(unit: Unit) -> Iterator[n.Text]:
    """The bare words that are given as values."""
    for node in walk(unit.body):
        values: list[n.Expression] = []
        if isinstance(node, n.Command) and node.name not in CALLS:
            bound = unit.scopes.bound.get(id(node))
            parts = in_text_order(bound) if bound else ()
            values = [part.node for part in parts if part.param and part.param.kind is Kind.VALUE]
        elif isinstance(node, n.Assignment) and node.value is not None:
            values = [node.value]
        elif isinstance(node, n.ListLiteral):
            values = list(node.items)
        elif isinstance(node, n.MapLiteral):
            values = [value for _, value in node.entries]
        yield from (value for value in values if isinstance(value, n.Text) and value.bare)


def _looks(unit: Unit, statement: n.Statement) -> set[str] | None:
    """The names that a statement may read; None when it may leave, or call or change what nobody can tell."""
    target = statement.target if isinstance(statement, n.Assignment) else None
    read: set[str] = set()
    for node in walk(statement):
        if isinstance(node, n.Variable) and (node is not target or node.steps):
            read.add(node.name)
        elif isinstance(node, n.Command):
            spec = unit.spec(node)
            if spec is None or {"ends", "writes"} & set(spec.effects) or id(node) in unit.scopes.verbs:
                return None
    return read


def _chain(unit: Unit) -> str:
    return f"{unit.lib.id}:{unit.chain.id}"
