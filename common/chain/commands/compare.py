"""Comparing values: eq, ne, oneof, gt, ge, lt, le, range (L5, L8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.chain import comparing, values
from common.chain.commands.prepared import known
from common.chain.commands.spec import DYNAMIC, Example, Opt, Param, Spec, Static, fault
from common.chain.commands.templates import ascii_lower

_IGNORE_CASE = Opt("ignore-case", "Two Strings are equal when they differ only in the case of ASCII letters.", "i")
_LOOSE = Opt("loose", "Int and Float compare by value, and a String of a number's form with a Number.", "l")
_PAIR = (Param("left", "One value."), Param("right", "The other."))
_SCALARS = (str, int, float, bool, type(None))


def _same(a: Any, b: Any, ignore_case: bool, loose: bool) -> bool:
    if ignore_case and type(a) is str and type(b) is str:
        return ascii_lower(a) == ascii_lower(b)
    return comparing.loose_equal(a, b) if loose else comparing.equal(a, b)


def _eq(a: Any, b: Any, ignore_case: bool = False, loose: bool = False) -> bool:
    return _same(a, b, ignore_case, loose)


def _ne(a: Any, b: Any, ignore_case: bool = False, loose: bool = False) -> bool:
    return not _same(a, b, ignore_case, loose)


def _specialise_eq(static: Static) -> Callable[..., Any] | None:
    """A comparison with a literal String needs nothing but ``==``: no other type is equal to a str."""
    left, right = static.args
    literal, other = (right, left) if left is DYNAMIC else (left, right)
    if static.options or other is not DYNAMIC or type(literal) is not str:
        return None
    return lambda value: value == literal


def _specialise_ne(static: Static) -> Callable[..., Any] | None:
    if _specialise_eq(static) is None:
        return None
    literal = static.args[1] if static.args[0] is DYNAMIC else static.args[0]
    return lambda value: value != literal


def _oneof(value: Any, *candidates: Any, ignore_case: bool = False, loose: bool = False) -> bool:
    return any(_same(value, candidate, ignore_case, loose) for candidate in candidates)


def _specialise_oneof(static: Static) -> Callable[..., Any] | None:
    """Literal scalars become one table for each type, as no two types are equal."""
    value, *candidates = static.args
    if static.options or any(type(item) not in _SCALARS for item in candidates):
        return None
    table: dict[type, set[Any]] = {}
    for item in candidates:
        table.setdefault(type(item), set()).add(item)
    nothing: set[Any] = set()
    if value is not DYNAMIC:
        found = type(value) in table and value in table[type(value)]
        return lambda: found
    if len(table) == 1:
        [(kind, items)] = table.items()
        return lambda value: type(value) is kind and value in items
    return lambda value: type(value) in _SCALARS and value in table.get(type(value), nothing)


def _ordering(operator: str) -> Callable[..., bool]:
    def call(a: Any, b: Any, loose: bool = False) -> bool:
        if not loose and (type(a) not in (int, float) or type(b) not in (int, float)):
            return False
        return comparing.compare(operator, a, b)

    return call


def _range(value: Any, low: Any, high: Any) -> Any:
    bottom, top = values.to_number(low), values.to_number(high)
    if bottom is None or top is None:
        return fault(f"range: {values.type_name(low if bottom is None else high)} is no bound, it must be a number")
    number = values.to_number(value)
    return number is not None and bottom <= number <= top


def _specialise_range(static: Static) -> Callable[..., Any] | None:
    value, low, high = static.args
    if value is not DYNAMIC or low is DYNAMIC or high is DYNAMIC:
        return None
    bottom, top = values.to_number(low), values.to_number(high)
    if bottom is None or top is None or not known(static):
        return None
    to_number = values.to_number

    def within(value: Any) -> bool:
        number = to_number(value)
        return number is not None and bottom <= number <= top

    return within


EQ = Spec(
    "eq",
    "match",
    "True when two values are equal: of one type, lists item by item, maps and sets in any order.",
    params=_PAIR,
    options=(_IGNORE_CASE, _LOOSE),
    ok="true",
    answers="false when they are not equal",
    examples=(
        Example("eq 1 1", True),
        Example('eq 1 "1"', False, ok=False),
        Example('eq --loose 1 "1"', True),
        Example('eq -i "Host" "HOST"', True),
    ),
    call=_eq,
    specialise=_specialise_eq,
    predicate=True,
)

NE = Spec(
    "ne",
    "match",
    "True when two values are not equal; the opposite of eq.",
    params=_PAIR,
    options=(_IGNORE_CASE, _LOOSE),
    ok="true",
    answers="false when they are equal",
    examples=(Example('ne 1 "1"', True), Example('ne --ignore-case "A" "a"', False, ok=False)),
    call=_ne,
    specialise=_specialise_ne,
    predicate=True,
)

ONEOF = Spec(
    "oneof",
    "match",
    "True when a value equals one of the candidates, as eq compares.",
    params=(Param("value", "What is looked for."), Param("candidate", "What it may be.", repeated=True)),
    options=(_IGNORE_CASE, _LOOSE),
    ok="true",
    answers="false when no candidate is equal",
    examples=(
        Example("port = 8443; oneof $port 443 8443", True),
        Example('oneof "443" 443 8443', False, ok=False),
        Example("oneof -i GET get head", True),
    ),
    call=_oneof,
    specialise=_specialise_oneof,
    predicate=True,
)


def _ordering_spec(name: str, operator: str, words: str, good: str, bad: str) -> Spec:
    return Spec(
        name,
        "match",
        f"True when the left Number is {words} the right one.",
        params=_PAIR,
        options=(Opt("loose", "A String of a number's form counts as that Number.", "l"),),
        ok="true",
        answers="false when it is not, and when one of them is no Number",
        examples=(Example(good, True), Example(bad, False, ok=False)),
        call=_ordering(operator),
        predicate=True,
    )


GT = _ordering_spec("gt", ">", "greater than", "gt 10 9", 'gt "10" 9')
GE = _ordering_spec("ge", ">=", "at least", 'ge --loose "2" 2', "ge 1 2")
LT = _ordering_spec("lt", "<", "less than", "lt 1.5 2", "lt abc 2")
LE = _ordering_spec("le", "<=", "at most", "le 2 2", "le 3 2")

RANGE = Spec(
    "range",
    "match",
    "True when a number lies between two bounds, both included. Strings of a number's form count as Numbers.",
    params=(
        Param("value", "The number."),
        Param("low", "The lower bound.", type="number"),
        Param("high", "The upper bound.", type="number"),
    ),
    ok="true",
    answers="false when it lies outside, and when the value is no number",
    faults="a bound that is no number",
    examples=(
        Example("range 8080 1024 65535", True),
        Example('range "3.14" 0 3', False, ok=False),
        Example("low = abc; range 1 $low 3", "range: String is no bound, it must be a number", ok=False),
    ),
    call=_range,
    specialise=_specialise_range,
    predicate=True,
)

SPECS = (EQ, NE, ONEOF, GT, GE, LT, LE, RANGE)
