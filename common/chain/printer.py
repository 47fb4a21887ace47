"""Nodes -> the canonical text of one line: expressions, and the statements that stand in a line.

What the parser makes of the text equals the nodes, but for places. Lines, indentation and comments are format.py's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from common.chain import nodes
from common.chain.errors import NOWHERE

SCOPE_WORDS = {"": "", "global": "global ", "chain": "chain ", "block": "local "}

_PLAIN = re.compile(r'(?:[^"\\$\x00-\x1f\x7f]|\$(?![A-Za-z_{(]))*')
_RAW = re.compile(r"[^'\x00-\x1f\x7f]*")
_TO_ESCAPE = re.compile(r'["\\\x00-\x1f\x7f]|\$(?=[A-Za-z_{(]|$)')
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_OPTION = re.compile(r"--(?:[A-Za-z_][A-Za-z0-9_-]*)?|-[A-Za-z_][A-Za-z0-9_-]*")


def line_of(node: nodes.Expression | nodes.Option | nodes.Statement) -> str:
    """Return the text of an expression, or of a statement other than if, case, for and match-result."""
    text: str = _PRINTERS[type(node)](node)
    return text


def quoted(value: str) -> str:
    """Return a string in quotes: double ones where nothing needs an escape, else raw ones, else double with escapes."""
    if _PLAIN.fullmatch(value):
        return f'"{value}"'
    if _RAW.fullmatch(value):
        return f"'{value}'"
    return f'"{_escaped(value)}"'


def _escaped(value: str) -> str:
    return _TO_ESCAPE.sub(lambda found: _escape(found[0]), value)


def _escape(char: str) -> str:
    if char in '"\\$':
        return "\\" + char
    return _ESCAPES.get(char) or f"\\x{ord(char):02x}"


def _text(node: nodes.Text) -> str:
    return node.value if node.bare else quoted(node.value)


def _interpolated(node: nodes.Interpolated) -> str:
    parts = []
    for part in node.parts:
        if isinstance(part, nodes.Text):
            parts.append(_escaped(part.value))
        else:
            parts.append(_braced(part) if isinstance(part, nodes.Variable) else line_of(part))
    return f'"{"".join(parts)}"'


def path_of(node: nodes.Variable) -> str:
    """Return a variable's path without ``$``."""
    return node.name + "".join(map(_step, node.steps))


def _step(step: nodes.Step) -> str:
    mark = "?" if step.optional else ""
    key = step.key
    if isinstance(key, nodes.Text) and key.bare:
        return f"{mark}.{key.value}"
    if isinstance(key, nodes.Text):
        quote = "'" if '"' in key.value or "\\" in key.value or "$" in key.value else '"'
        return f"{mark}[{quote}{key.value}{quote}]"
    return f"{mark}[{key.spelling if isinstance(key, nodes.Literal) else '$' + path_of(key)}]"


def _variable(node: nodes.Variable) -> str:
    return "$" + path_of(node) if node.default is None else _braced(node)


def _braced(node: nodes.Variable) -> str:
    default = "" if node.default is None else f" ?? {line_of(node.default)}"
    return f"${{{path_of(node)}{default}}}"


def entry_of(entry: tuple[nodes.Text, nodes.Expression]) -> str:
    """Return one entry of a map: ``key: value``."""
    return f"{_text(entry[0])}: {line_of(entry[1])}"


def _list(node: nodes.ListLiteral) -> str:
    return f"[{', '.join(map(line_of, node.items))}]"


def _map(node: nodes.MapLiteral) -> str:
    return f"{{{', '.join(map(entry_of, node.entries))}}}"


def _option(node: nodes.Option) -> str:
    return node.spelling if node.value is None else f"{node.spelling}={line_of(node.value)}"


def _command(node: nodes.Command) -> str:
    words, ended = [node.name], False
    for argument in node.arguments:
        word = line_of(argument)
        if not ended and isinstance(argument, nodes.Text) and argument.bare and _OPTION.fullmatch(word):
            words.append("--")  # what looks like an option is none behind it
            ended = True
        words.append(word)
    return " ".join(words)


def target_of(node: nodes.Assignment) -> str:
    """Return what stands left of an assignment's ``=``, with its scope."""
    path = path_of(node.target)
    return SCOPE_WORDS[node.scope] + ("$" + path if node.target.steps else path)


def _assignment(node: nodes.Assignment) -> str:
    return target_of(node) if node.value is None else f"{target_of(node)} = {line_of(node.value)}"


def operand_of(node: nodes.Statement, inside: type) -> str:
    """Return an operand of an And or Or, in parentheses where its operator binds weaker than ``inside``."""
    weaker = isinstance(node, nodes.Or) or (isinstance(node, nodes.And) and inside is nodes.And)
    return f"({line_of(node)})" if weaker else line_of(node)


def _not(node: nodes.Not) -> str:
    inner = node.operand
    return "!" + line_of(nodes.Group(inner, NOWHERE) if isinstance(inner, nodes.And | nodes.Or) else inner)


_PRINTERS: dict[type, Callable[[Any], str]] = {
    nodes.Literal: lambda node: node.spelling,
    nodes.Text: _text,
    nodes.Interpolated: _interpolated,
    nodes.Variable: _variable,
    nodes.Substitution: lambda node: f"$({line_of(node.body)})",
    nodes.ListLiteral: _list,
    nodes.MapLiteral: _map,
    nodes.Option: _option,
    nodes.Command: _command,
    nodes.Assignment: _assignment,
    nodes.Comparison: lambda node: f"{line_of(node.left)} {node.operator} {line_of(node.right)}",
    nodes.Condition: lambda node: line_of(node.value),
    nodes.Not: _not,
    nodes.And: lambda node: " && ".join(operand_of(part, nodes.And) for part in node.operands),
    nodes.Or: lambda node: " || ".join(operand_of(part, nodes.Or) for part in node.operands),
    nodes.Group: lambda node: f"({line_of(node.body)})",
}
