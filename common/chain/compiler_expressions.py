"""Expressions in code: literals, interpolated text, ``$(...)``, and arguments in the order of the text (L2, L4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.chain import nodes as n
from common.chain import pycode as py
from common.chain import values
from common.chain.compiler_variables import Variables
from common.chain.emitter import Need, Result, has_substitution

_TYPES = {bool: "bool", int: "int", float: "float", type(None): "", str: "str"}


def literal_text(node: n.Literal) -> str:
    """A literal where text is wanted: a number as it is spelled."""
    return node.spelling if type(node.value) in (int, float) else values.text(node.value)


class Expressions(Variables):
    """Values and texts of expressions. ``statement`` comes from the layer of statements above."""

    def statement(self, node: n.Statement, need: Need) -> Result:
        """Compile one statement."""
        raise NotImplementedError

    def value(self, node: n.Expression, *, absent: Any = "", keep: bool = True, strict: bool = True) -> tuple[Any, str]:
        """The value of an expression, and its class name if known; see ``read`` for the options."""
        if isinstance(node, n.Literal | n.Text):
            return py.const(node.value), _TYPES[type(node.value)]
        if isinstance(node, n.Variable):
            return self.read(node, absent=absent, keep=keep, strict=strict)
        if isinstance(node, n.Interpolated):
            return self.interpolated(node), "str"
        if isinstance(node, n.Substitution):
            return self.value_of(self.statement(node.body, Need.BOTH))
        if isinstance(node, n.ListLiteral):
            return py.list_([item for item, _ in self.values(node.items)]), "list"
        keys = [py.const(key.value) for key, _ in node.entries]
        return py.dict_(keys, [item for item, _ in self.values([item for _, item in node.entries])]), "dict"

    def text(self, node: n.Expression) -> Any:
        """An expression where text is wanted: a str."""
        if isinstance(node, n.Literal):
            return py.const(literal_text(node))
        value, type = self.value(node, keep=False)
        if type == "str":
            return value
        first, held = self.named(value)
        return py.choose(py.class_is(first, "str"), held, py.call("text", [held], node.span))

    def values(self, nodes: Sequence[n.Expression]) -> list[tuple[Any, str]]:
        """Several values, evaluated in their order."""
        return self.sequence([(node, "value") for node in nodes])

    def sequence(self, wanted: Sequence[tuple[n.Expression, str]]) -> list[tuple[Any, str]]:
        """Evaluate in order. Modes: ``value``, ``peek`` (no reference is kept), ``raw`` (MISSING stays, but not
        under ``strict``), ``missing`` (it stays), ``text``.

        What stands before a ``$(...)`` is evaluated before it, into a register.
        """
        last = max((at for at, (node, _) in enumerate(wanted) if has_substitution(node)), default=-1)
        found: list[tuple[Any, str]] = []
        for at, (node, mode) in enumerate(wanted):
            if mode == "text":
                item = self.text(node), "str"
            elif mode in ("missing", "raw"):
                item = self.value(node, absent="M", strict=mode == "raw")
            else:
                item = self.value(node, keep=mode == "value")
            if at < last and not py.is_const(item[0]):
                register = self.temp()
                self.emit(py.assign(register, item[0]))
                item = py.name(register), item[1]
            found.append(item)
        return found

    def interpolated(self, node: n.Interpolated) -> Any:
        """A string with parts, within the budget of one string."""
        parts = self.sequence([(part, "text") for part in node.parts])
        return self.limited(py.joined([part for part, _ in parts]), node)

    def limited(self, joined: Any, node: Any) -> Any:
        """A text that was put together: looked at more closely where it may be longer than one string may be."""
        if py.is_atom(joined):
            return joined
        register = self.temp()
        short = py.compare(py.call("len", [py.bind(register, joined)]), py.LT_E, self.link("string_quarter"))
        return py.choose(short, py.name(register), py.call("checked", [py.name("run"), py.name(register)], node.span))
