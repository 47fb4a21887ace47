"""Nodes without their places, to compare what two texts mean; and as short text, to state what one means."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from common.chain import nodes
from common.chain.errors import NOWHERE, Span


def bare(node: Any) -> Any:
    """The same node with no place in it."""
    if isinstance(node, tuple):
        return tuple(map(bare, node))
    if isinstance(node, Span):
        return NOWHERE
    if is_dataclass(node) and not isinstance(node, type):
        return type(node)(**{field.name: bare(getattr(node, field.name)) for field in fields(node)})
    return node


def spans(node: Any) -> list[Span]:
    """All places in a node and below it."""
    if isinstance(node, tuple):
        return [span for part in node for span in spans(part)]
    if isinstance(node, Span):
        return [node]
    if is_dataclass(node):
        return [span for field in fields(node) for span in spans(getattr(node, field.name))]
    return []


def short(node: Any) -> str:
    """A node as one line: ``(and (eq $a "x") (return))``. Bare words are bare, strings quoted, options as written."""
    shape = _SHAPES.get(type(node))
    assert shape is not None, f"no shape for {node!r}"
    return shape(node)


def _path(variable: nodes.Variable) -> str:
    steps = "".join(f"{'?' * step.optional}[{short(step.key)}]" for step in variable.steps)
    default = "" if variable.default is None else f" ?? {short(variable.default)}"
    return f"${variable.name}{steps}{default}"


def _body(body: nodes.Body | None) -> str:
    return "-" if body is None else "{" + "; ".join(map(short, body.statements)) + "}"


def _list(word: str, parts: Any) -> str:
    return f"({' '.join([word, *map(short, parts)])})"


def _assign(node: nodes.Assignment) -> str:
    value = "" if node.value is None else " " + short(node.value)
    return f"({node.scope or 'set'} {_path(node.target)}{value})"


def _case(node: nodes.Case) -> str:
    subject = "" if node.subject is None else f" {short(node.subject)} as {node.name}"
    return f"(case{subject} {_branches(node)})"


def _branches(node: nodes.If | nodes.Case) -> str:
    parts = [f"{short(branch.condition)} {_body(branch.body)}" for branch in node.branches]
    return " | ".join(parts) + f" | {_body(node.otherwise)}"


def _match(node: nodes.MatchResult) -> str:
    return f"(match {short(node.command)} ok {node.ok_name} {_body(node.ok)} err {node.err_name} {_body(node.err)})"


def _option(node: nodes.Option) -> str:
    return node.spelling if node.value is None else f"{node.spelling}={short(node.value)}"


_SHAPES: dict[type, Any] = {
    nodes.Literal: lambda node: f"{node.value!r}:{node.spelling}",
    nodes.Text: lambda node: node.value if node.bare else repr(node.value),
    nodes.Interpolated: lambda node: _list("str", node.parts),
    nodes.Variable: _path,
    nodes.Substitution: lambda node: "$" + short(node.body),
    nodes.ListLiteral: lambda node: _list("list", node.items),
    nodes.MapLiteral: lambda node: f"(map {' '.join(f'{short(k)}={short(v)}' for k, v in node.entries)})",
    nodes.Option: _option,
    nodes.Command: lambda node: _list(node.name, node.arguments),
    nodes.Assignment: _assign,
    nodes.Comparison: lambda node: f"({short(node.left)} {node.operator} {short(node.right)})",
    nodes.Condition: lambda node: f"(is {short(node.value)})",
    nodes.Not: lambda node: _list("not", (node.operand,)),
    nodes.And: lambda node: _list("and", node.operands),
    nodes.Or: lambda node: _list("or", node.operands),
    nodes.Group: lambda node: _list("group", (node.body,)),
    nodes.If: lambda node: f"(if {_branches(node)})",
    nodes.Case: _case,
    nodes.For: lambda node: f"(for {','.join(node.names)} in {short(node.collection)} {_body(node.body)})",
    nodes.MatchResult: _match,
    nodes.Body: _body,
}
