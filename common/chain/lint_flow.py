"""Lint of what can happen: lines that never run, ends without a verb, faults that nobody tests (L4, L6, L12).

A statement is summed up as the set of ways in which it can end. The walk follows literal execs into their blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from common.chain import nodes as n
from common.chain.commands.spec import Spec
from common.chain.errors import Span
from common.chain.lint_model import Finding, Program, Severity, Unit, commands, substitutions, walk

OK, ERR, RAISED = "ok", "err", "raised"  # raised: an Err that ends the list where nobody tests it
VERB, ERROR, RETURN, TO_CHAIN, TO_LIST = "verb", "error", "return", "chain", "list"
LEAVE, JUMP, LOOP = "exit", "goto", "loop"

Ways = frozenset[str]
_GOES_ON: Ways = frozenset((OK, ERR, RAISED))
_BOTH: Ways = frozenset((OK, ERR))
_ANY_END: Ways = frozenset((OK, ERR, RAISED, VERB))
"""Of a call of which nobody can tell where it goes, and of one within a circle of calls."""
_LEVELS = {"block": RETURN, "chain": TO_CHAIN, "lib": TO_LIST}


class Exit(NamedTuple):
    """A place of a block at which a run, or a part of it, ends without a verb."""

    way: str
    span: Span


class Flow:
    """The ways of every block of a program, and what was found on the walk."""

    def __init__(self, program: Program) -> None:
        self._program, self.verbs = program, program.verbs
        self._ways: dict[Unit, Ways] = {}
        self._exits: dict[Unit, list[Exit]] = {}
        self._unreachable: dict[Unit, list[tuple[Span, str]]] = {}
        self._here = frozenset(program.units)
        for unit in _callees_first(program):
            self._exits[unit], self._unreachable[unit] = [], []
            self._ways[unit] = _Walk(self, unit, self._exits[unit], self._unreachable[unit]).body(unit.body)

    def findings(self) -> Iterator[Finding]:
        """All findings about what can happen."""
        for unit in self._program.units:
            for span, reason in self._unreachable[unit]:
                yield unit.finding("PC-LINT-UNREACHABLE", Severity.WARNING, f"this never runs: {reason}", span)
        for lib in self._program.libs:
            yield from self._without_verb([unit for unit in self._program.units if unit.lib is lib])

    def called(self, unit: Unit, command: n.Command) -> Ways:
        """How an exec or invoke can end: a return or an error of the callee is its answer, a verb passes through."""
        blocks = self._program.called(unit, command)
        if blocks is None:
            return _ANY_END
        found: set[str] = set()
        for block in blocks:
            found |= self._ways.get(block, _ANY_END)
        if JUMP in found and not self._program.inlined(unit, command):
            found = found - {JUMP} | _ANY_END
        back = {OK if way in (RETURN, TO_CHAIN, TO_LIST) else RAISED if way == ERROR else way for way in found}
        return frozenset(back) or frozenset((OK,))

    # -- ends without a verb -------------------------------------------------------------------------------------------

    def _without_verb(self, units: list[Unit]) -> Iterator[Finding]:
        """Where the run of a list can end while nothing has decided."""
        running = [unit for unit in units if unit.runs]
        if not running:
            yield from (
                _no_verb(unit, "no block of this list runs by itself, it ends", unit.body.span) for unit in units[:1]
            )
        if not running or any(_sets_result(unit) for unit in units):
            return
        reached: list[Unit] = []
        for unit in running:
            ways = self._ways[unit]
            reached.append(unit)
            yield from self._exits_of(unit, (TO_LIST, LEAVE))
            if JUMP in ways or not ways & {*_GOES_ON, RETURN, TO_CHAIN}:
                break
        yield from self._exits_of_called(reached)
        last = reached[-1]
        if JUMP in self._ways[last] or not self._ways[last] & {*_GOES_ON, RETURN, TO_CHAIN}:
            return
        for unit in reached:
            if unit.chain is last.chain:
                yield from self._exits_of(unit, (TO_CHAIN, RETURN) if unit is last else (TO_CHAIN,))
        if self._ways[last] & {OK, ERR}:
            statements = last.body.statements
            span = statements[-1].span if statements else last.body.span
            yield _no_verb(last, "the list can end behind this", span)

    def _exits_of_called(self, reached: list[Unit]) -> Iterator[Finding]:
        """An exit in a block that is called ends the list, too."""
        seen, todo = set(reached), list(reached)
        while todo:
            for callee in _callees(self._program, todo.pop()):
                if callee not in seen:
                    seen.add(callee)
                    todo.append(callee)
                    if callee in self._here:
                        yield from self._exits_of(callee, (LEAVE,))

    def _exits_of(self, unit: Unit, ways: tuple[str, ...]) -> Iterator[Finding]:
        for exit_ in self._exits[unit]:
            if exit_.way in ways:
                yield _no_verb(unit, "the list can end here", exit_.span)


def _no_verb(unit: Unit, what: str, span: Span) -> Finding:
    message = f"{what} without a verb: the hook point's default verb decides"
    return unit.finding("PC-LINT-NO-VERB", Severity.INFO, message, span)


def _sets_result(unit: Unit) -> bool:
    return any(isinstance(node, n.Assignment) and node.target.name == "result" for node in walk(unit.body))


def _callees_first(program: Program) -> Iterator[Unit]:
    """All units, each behind those that it calls, as far as there is no cycle. Without recursion: chains are long."""
    seen: set[Unit] = set()
    for root in program.all:
        stack = [(root, iter(_callees(program, root)))] if root not in seen else []
        seen.add(root)
        while stack:
            unit, callees = stack[-1]
            callee = next((other for other in callees if other not in seen), None)
            if callee is None:
                stack.pop()
                yield unit
            else:
                seen.add(callee)
                stack.append((callee, iter(_callees(program, callee))))


def _callees(program: Program, unit: Unit) -> list[Unit]:
    return [callee for command in commands(unit) for callee in program.called(unit, command) or ()]


class _Walk:
    """One block: the ways of its statements."""

    def __init__(self, flow: Flow, unit: Unit, exits: list[Exit], unreachable: list[tuple[Span, str]]) -> None:
        self._flow, self._unit, self._exits, self._unreachable = flow, unit, exits, unreachable

    def body(self, body: n.Body | None) -> Ways:
        """Statements in order; what is behind one that always leaves is told."""
        if body is None or not body.statements:
            return frozenset((OK,))
        found: set[str] = set()
        last: Ways = frozenset()
        for at, statement in enumerate(body.statements):
            last = self.statement(statement)
            if RAISED in last:
                last = last - {RAISED} | {ERROR if isinstance(statement, n.Command) else ERR}
            found |= last - _GOES_ON
            if not last & _GOES_ON and at + 1 < len(body.statements):
                self._tell(body.statements[at + 1 :], f"line {statement.span.line} always leaves")
                return frozenset(found)
        return frozenset(found | last)

    def _tell(self, dead: Iterable[n.Statement], reason: str) -> None:
        first = next(iter(dead))
        self._unreachable.append((first.span, reason))

    def statement(self, node: n.Statement) -> Ways:
        """How one statement can end."""
        walk_: Callable[..., Ways] = _WALKS[type(node)]
        return walk_(self, node)

    def _command(self, node: n.Command) -> Ways:
        unit = self._unit
        spec = unit.spec(node)
        inner = self._arguments(node.arguments)
        if spec is None:
            return _BOTH
        if id(node) in unit.scopes.verbs:
            return frozenset((VERB,)) | inner
        if node.name in ("exec", "invoke"):
            return self._flow.called(unit, node) | inner
        if "ends" in spec.effects:
            return frozenset((self._end(node),)) | inner
        return inner | (_BOTH if can_fail(spec) else frozenset((OK,)))

    def _end(self, node: n.Command) -> str:
        """The way of a return, error, exit, goto, break or continue."""
        bound = self._unit.scopes.bound[id(node)]
        level = bound.options.get("from")
        word = level.value if isinstance(level, n.Text) else ""
        if node.name in ("return", "exit") and bound.args and _head(bound.args[0]) in self._flow.verbs:
            return VERB
        if node.name == "error":
            return _LEVELS[word] if word in ("block", "chain") else ERROR
        if node.name == "goto":
            return JUMP
        if node.name in ("break", "continue"):
            return LOOP
        way = LEAVE if node.name == "exit" else _LEVELS.get(word, RETURN)
        self._exits.append(Exit(way, node.span))
        return way

    def _arguments(self, arguments: Iterable[object]) -> Ways:
        """What commands inside of arguments do: they may leave, and their faults are the statement's."""
        found: set[str] = set()
        for argument in arguments:
            for node in substitutions(argument):
                found |= self.statement(node.body) - {OK}
        return frozenset(found)

    def _assignment(self, node: n.Assignment) -> Ways:
        if isinstance(node.value, n.Substitution):
            return self.statement(node.value.body) | (frozenset((ERR,)) if node.target.steps else frozenset())
        fails = _BOTH if node.target.steps else frozenset((OK,))  # what has no path is no collection
        return fails | self._arguments((node.value, node.target))

    def _value(self, node: n.Comparison | n.Condition) -> Ways:
        if isinstance(node, n.Condition) and isinstance(node.value, n.Literal):
            return frozenset((OK if node.value.value else ERR,))
        return _BOTH | self._arguments((node,))

    def _and(self, node: n.And) -> Ways:
        return self._sequence(node.operands, OK, "what is before it never succeeds")

    def _or(self, node: n.Or) -> Ways:
        return self._sequence(node.operands, ERR, "what is before it never fails")

    def _sequence(self, operands: tuple[n.Statement, ...], wanted: str, reason: str) -> Ways:
        """Operands run while the one before ends as ``wanted``."""
        found: set[str] = set()
        for at, operand in enumerate(operands):
            ways = self.statement(operand)
            last = at + 1 == len(operands)
            if not last and RAISED in ways:
                ways = ways - {RAISED} | {ERR}  # tested
            found |= ways if last else ways - {wanted}
            if not last and wanted not in ways:
                leaves = not ways & _GOES_ON
                self._tell(operands[at + 1 :], "what is before it always leaves" if leaves else reason)
                break
        return frozenset(found)

    def _not(self, node: n.Not) -> Ways:
        swapped = {OK: ERR, ERR: OK, RAISED: OK}
        return frozenset(swapped.get(way, way) for way in self.statement(node.operand))

    def _branches(self, node: n.If | n.Case) -> Ways:
        found: set[str] = set()
        if isinstance(node, n.Case):
            found |= self._arguments((node.subject,)) & {VERB, ERR}
        for branch in node.branches:
            found |= self.statement(branch.condition) - _GOES_ON
            found |= self.body(branch.body)
        found |= self.body(node.otherwise) if node.otherwise is not None else {OK}
        return frozenset(found)

    def _for(self, node: n.For) -> Ways:
        inside = self.body(node.body) - _GOES_ON - {LOOP}
        certain = isinstance(node.collection, n.ListLiteral | n.MapLiteral)  # what is no collection is a fault
        return (frozenset((OK,)) if certain else _BOTH) | inside | self._arguments((node.collection,))

    def _match_result(self, node: n.MatchResult) -> Ways:
        found = set(self.statement(node.command) - _GOES_ON)
        for body, ways in ((node.ok, {OK}), (node.err, {ERR})):
            found |= self.body(body) if body is not None else ways
        return frozenset(found)


_WALKS: dict[type, Callable[..., Ways]] = {
    n.Command: _Walk._command,
    n.Assignment: _Walk._assignment,
    n.Comparison: _Walk._value,
    n.Condition: _Walk._value,
    n.And: _Walk._and,
    n.Or: _Walk._or,
    n.Not: _Walk._not,
    n.Group: lambda walk_, node: walk_.statement(node.body),
    n.If: _Walk._branches,
    n.Case: _Walk._branches,
    n.For: _Walk._for,
    n.MatchResult: _Walk._match_result,
}


def can_fail(spec: Spec) -> bool:
    """True when a call with right arguments can end as Err."""
    return bool(spec.predicate or spec.answers or spec.faults or spec.group == "host")


def _head(node: n.Expression) -> str:
    """The first word that stands literally in a string."""
    if isinstance(node, n.Interpolated):
        node = node.parts[0] if isinstance(node.parts[0], n.Text) else n.Text("")
    words = node.value.split() if isinstance(node, n.Text) else []
    return words[0] if words else ""
