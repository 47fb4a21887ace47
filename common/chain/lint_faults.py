"""Lint of faults that nobody tests, and of values that are compared loosely (L4, L5, L12)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from common.chain import nodes as n
from common.chain.commands.spec import BoundCall
from common.chain.lint_model import Finding, Program, Severity, Unit, walk

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LITERAL = (n.Literal, n.Text)


def untested_faults(program: Program) -> Iterator[Finding]:
    """Every statement that a fault can end as Err while nobody looks at its status.

    The value of a block's last statement is the status of an exec: it is not told where the block is called.
    """
    called = {unit for unit in program.all if unit.block.run is False or unit.chain.run is False}
    for unit in program.all:
        for node in walk(unit.body):
            if isinstance(node, n.Command):
                called.update(program.called(unit, node) or ())
    for unit in program.units:
        yield from _in_body(unit, unit.body, tail=unit in called)


def _in_body(unit: Unit, body: n.Body | None, tail: bool) -> Iterator[Finding]:
    statements = body.statements if body else ()
    for at, statement in enumerate(statements):
        last = tail and at + 1 == len(statements)
        match statement:
            case n.If() | n.Case():
                for branch in statement.branches:
                    yield from _in_body(unit, branch.body, last)
                yield from _in_body(unit, statement.otherwise, last)
            case n.For():
                yield from _in_body(unit, statement.body, False)
            case n.MatchResult():
                yield from _in_body(unit, statement.ok, last)
                yield from _in_body(unit, statement.err, last)
            case _:
                if not last:
                    yield from _in_line(unit, statement)


def _in_line(unit: Unit, statement: n.Statement) -> Iterator[Finding]:
    """The operand whose status nobody tests: the last one."""
    while isinstance(statement, n.And | n.Or | n.Group):
        statement = statement.body if isinstance(statement, n.Group) else statement.operands[-1]
    names = list(dict.fromkeys(_faults(unit, statement)))
    if names:
        effect = "nothing is written" if isinstance(statement, n.Assignment) else "the block goes on"
        if isinstance(statement, n.Command) and statement.name not in names:
            effect = f"{statement.name} does not run"
        message = f"a fault of {' or '.join(names)} is not tested, {effect}: add || and what to do"
        yield unit.finding("PC-LINT-FAULT", Severity.WARNING, message, statement.span)


def _faults(unit: Unit, node: object) -> Iterator[str]:
    """The commands whose fault makes a statement an Err."""
    if isinstance(node, n.Substitution):
        yield from _faults(unit, node.body)
    elif isinstance(node, n.Assignment):
        yield from _faults(unit, node.value)
    elif isinstance(node, n.Command):
        bound = unit.scopes.bound.get(id(node))
        if bound is None or bound.spec.name in ("capture", "first-ok"):
            return
        if bound.spec.faults and not _settled(bound):
            yield node.name
        for argument in node.arguments:
            yield from _faults(unit, argument)
    elif isinstance(node, n.Interpolated | n.ListLiteral):
        for part in node.parts if isinstance(node, n.Interpolated) else node.items:
            yield from _faults(unit, part)
    elif isinstance(node, n.MapLiteral):
        for _, value in node.entries:
            yield from _faults(unit, value)


def _settled(bound: BoundCall) -> bool:
    """True when the text settles that there is no fault: what can be wrong is literal, and was looked at on loading."""
    given = bound.args[1:] if "literal one" in bound.spec.faults else bound.args
    return all(isinstance(argument, _LITERAL) for argument in given)


def loose(program: Program) -> Iterator[Finding]:
    """Every comparison that takes a Number and a String of the same digits as equal, where that can matter."""
    for unit in program.units:
        for node in walk(unit.body):
            if isinstance(node, n.Comparison) and node.operator in ("==", "!=") and _crosses(node.left, node.right):
                message = f'"{node.operator}" takes the number 1 and the text "1" as equal, "{node.operator}=" does not'
                yield unit.finding("PC-LINT-LOOSE", Severity.INFO, message, node.span)
            elif isinstance(node, n.Command):
                bound = unit.scopes.bound.get(id(node))
                if bound is not None and bound.options.get("loose") is True:
                    message = '--loose takes the number 1 and the text "1" as equal'
                    yield unit.finding("PC-LINT-LOOSE", Severity.INFO, message, node.span)


def _crosses(left: n.Expression, right: n.Expression) -> bool:
    """False when one side is a literal that no loose rule touches."""
    for side in (left, right):
        if isinstance(side, n.Text) and not _NUMBER.fullmatch(side.value):
            return False
        if isinstance(side, n.Literal) and (side.value is None or isinstance(side.value, bool)):
            return False
        if isinstance(side, n.ListLiteral | n.MapLiteral):
            return False
    return True
