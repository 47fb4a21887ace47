"""Commands that become Python expressions instead of calls: comparisons, joining, prefixes (L11).

Each lowering gives the same results as the command's own code, which the tests compare; it returns None for a call
that is better made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.chain import comparing, values
from common.chain import nodes as n
from common.chain import pycode as py
from common.chain.commands.spec import BoundCall
from common.chain.compiler_expressions import Expressions
from common.chain.emitter import Form, Result, ok, pred
from common.chain.support import numbers

Lowering = Callable[[Expressions, n.Command, BoundCall], Result | None]
Typed = tuple[Any, str]

_ORDER = {"<": py.LT, "<=": py.LT_E, ">": py.GT, ">=": py.GT_E}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


# -- comparing ---------------------------------------------------------------------------------------------------------


def equality(e: Expressions, left: Typed, right: Typed, *, loose: bool) -> Any:
    """``left === right`` or ``left == right`` as a Python condition."""
    if py.is_const(left[0]) and not py.is_const(right[0]):
        left, right = right, left
    if py.is_const(left[0]):
        same = comparing.loose_equal if loose else comparing.equal
        return py.const(same(left[0].value, right[0].value))
    if py.is_const(right[0]):
        return _equals_constant(e, left, right[0].value, loose=loose)
    if loose:
        return py.call("loose_equal", [left[0], right[0]], e.span)
    if "str" in (left[1], right[1]):
        return py.compare(left[0], py.EQ, right[0])
    first, a = e.named(left[0])
    second, b = e.named(right[0])
    are_texts = py.classes_are(first, second, "str")
    return py.choose(are_texts, py.compare(a, py.EQ, b), py.call("equal", [a, b], e.span))


def _equals_constant(e: Expressions, left: Typed, value: Any, *, loose: bool) -> Any:
    constant = py.const(value)
    if value is None or type(value) is bool:
        return py.compare(left[0], py.IS, constant)
    if type(value) is str and (not loose or left[1] == "str" or values.to_number(value) is None):
        return py.compare(left[0], py.EQ, constant)
    if type(value) is float:
        return py.call("loose_equal" if loose else "equal", [left[0], constant])
    first, held = e.named(left[0])
    same_class = py.class_is(first, "str" if type(value) is str else "int")
    same = py.compare(held, py.EQ, constant)
    if loose:
        return py.choose(same_class, same, py.call("loose_equal", [held, constant]))
    return py.both(same_class, same)


def ordering(e: Expressions, operator: str, left: Typed, right: Typed, strict: bool = False) -> Any:
    """``left < right`` and the like: Ints inline where one side is a literal number. ``strict``: a String is no
    Number, whatever it looks like.
    """
    if py.is_const(left[0]) and not py.is_const(right[0]):
        left, right, operator = right, left, _MIRRORED[operator]
    if py.is_const(left[0]):
        given = left[0].value, right[0].value
        return py.const(numbers(operator, *given) if strict else comparing.compare(operator, *given))
    if py.is_const(right[0]) and type(right[0].value) in (int, float):
        first, held = e.named(left[0])
        is_int = py.class_is(first, "int")
        return py.choose(is_int, py.compare(held, _ORDER[operator], right[0]), _slow(operator, held, right[0], strict))
    return _slow(operator, left[0], right[0], strict)


def _slow(operator: str, left: Any, right: Any, strict: bool) -> Any:
    if strict:
        return py.call("numbers", [py.const(operator), left, right])
    return py.call("compare", [py.const(operator), left, right])


def comparison(e: Expressions, node: n.Comparison) -> Result:
    """A comparison with its operator."""
    left, right = e.sequence([(node.left, "peek"), (node.right, "peek")])
    if node.operator in _ORDER:
        return pred(ordering(e, node.operator, left, right))
    same = equality(e, left, right, loose=node.operator in ("==", "!="))
    return pred(same if node.operator in ("==", "===") else py.negate(same))


def _equality(*, negated: bool) -> Lowering:
    def lower(e: Expressions, node: n.Command, bound: BoundCall) -> Result | None:
        if set(bound.options) - {"loose"}:
            return None
        left, right = e.sequence([(arg, "peek") for arg in bound.args])
        same = equality(e, left, right, loose="loose" in bound.options)
        return pred(py.negate(same) if negated else same)

    return lower


def _ordering(operator: str) -> Lowering:
    def lower(e: Expressions, node: n.Command, bound: BoundCall) -> Result | None:
        if set(bound.options) - {"loose"}:
            return None
        left, right = e.sequence([(arg, "peek") for arg in bound.args])
        return pred(ordering(e, operator, left, right, strict="loose" not in bound.options))

    return lower


def _oneof(e: Expressions, node: n.Command, bound: BoundCall) -> Result | None:
    """``oneof`` with literal candidates of one class."""
    first, *candidates = bound.args
    if bound.options or not all(isinstance(item, n.Literal | n.Text) for item in candidates):
        return None
    classes = {type(item.value) for item in candidates}
    value, type_ = e.sequence([(first, "peek")])[0]
    choices = py.const(tuple(item.value for item in candidates))
    if py.is_const(value):
        return pred(py.const(any(comparing.equal(value.value, item.value) for item in candidates)))
    if classes == {str}:
        return pred(py.compare(value, py.IN, choices))
    if classes == {int}:
        first, held = e.named(value)
        return pred(py.both(py.class_is(first, "int"), py.compare(held, py.IN, choices)))
    held = e.hold(value)
    same = [equality(e, (held, type_), (py.const(item.value), ""), loose=False) for item in candidates]
    return pred(py.either(*same) if len(same) > 1 else same[0])


# -- text --------------------------------------------------------------------------------------------------------------


def _append(e: Expressions, node: n.Command, bound: BoundCall) -> Result | None:
    if bound.options:
        return None
    parts = e.sequence([(arg, "text") for arg in bound.args])
    return ok(e.limited(py.joined([part for part, _ in parts]), node), "str")


def _affix(method: str) -> Lowering:
    """``starts-with`` and ``ends-with``."""

    def lower(e: Expressions, node: n.Command, bound: BoundCall) -> Result | None:
        if bound.options:
            return None
        (value, _), (affix, _) = e.sequence([(arg, "text") for arg in bound.args])
        return pred(py.call(py.attr(_once(e, value), method), [affix]))

    return lower


def _once(e: Expressions, value: Any) -> Any:
    """A text constant is no place for an attribute of a conditional: keep expressions readable."""
    return value if not py.is_const(value) else e.hold(value)


def _strip(*, prefix: bool) -> Lowering:
    """``strip-prefix`` and ``strip-suffix``: the rest, or Err("") where it does not fit."""

    def lower(e: Expressions, node: n.Command, bound: BoundCall) -> Result | None:
        if bound.options:
            return None
        (value, _), (affix, _) = e.sequence([(arg, "text") for arg in bound.args])
        if py.is_const(value) and py.is_const(affix):
            whole, part = value.value, affix.value
            if not (whole.startswith(part) if prefix else whole.endswith(part)):
                return Result(Form.MIXED, py.name("ERR_EMPTY"), "str", faults=False)
            return ok(py.const(whole.removeprefix(part) if prefix else whole.removesuffix(part)), "str")
        value, affix = e.hold(value), e.hold(affix)
        size = py.const(len(affix.value)) if py.is_const(affix) else py.call("len", [affix])
        if prefix:
            fits = py.call(py.attr(value, "startswith"), [affix])
            rest = py.rest(value, size)
        else:
            fits = py.call(py.attr(value, "endswith"), [affix])
            rest = py.rest(value, None, py.subtract(py.call("len", [value]), size))
        return Result(Form.MIXED, py.choose(fits, rest, py.name("ERR_EMPTY")), "str", faults=False)

    return lower


LOWERINGS: dict[str, Lowering] = {
    "eq": _equality(negated=False),
    "ne": _equality(negated=True),
    "gt": _ordering(">"),
    "ge": _ordering(">="),
    "lt": _ordering("<"),
    "le": _ordering("<="),
    "oneof": _oneof,
    "append": _append,
    "starts-with": _affix("startswith"),
    "ends-with": _affix("endswith"),
    "strip-prefix": _strip(prefix=True),
    "strip-suffix": _strip(prefix=False),
}
