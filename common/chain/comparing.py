"""Equality, strict and loose, and the order of numbers (L5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.chain.values import check_depth, to_number


def equal(a: Any, b: Any) -> bool:
    """Strict equality: same type and value; Int is not Float; lists in order, maps and sets in any order.

    Raises LimitError for collections that are nested too deep.
    """
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is list or kind is dict:
        return _deep_equal(a, b, equal, {}, 0)
    return bool(a == b)


def loose_equal(a: Any, b: Any) -> bool:
    """Loose equality: strict, and Int with Float, and a Number with a String of a number's form; deep likewise.

    Raises LimitError for collections that are nested too deep.
    """
    kind, other = type(a), type(b)
    if kind is other:
        return _deep_equal(a, b, loose_equal, {}, 0) if kind is list or kind is dict else bool(a == b)
    if kind is int or kind is float:
        number = to_number(b)
        return number is not None and bool(a == number)
    if (other is int or other is float) and kind is str:
        number = to_number(a)
        return number is not None and bool(number == b)
    return False


def _deep_equal(
    a: Any, b: Any, same: Callable[[Any, Any], bool], seen: dict[tuple[int, int], None], depth: int
) -> bool:
    """Compare two lists or two maps. A pair that is met again counts as equal: it is decided where it was met first,
    which makes shared and circular collections cost what they hold.
    """
    if a is b:
        return True
    if len(a) != len(b):
        return False
    pair = (id(a), id(b))
    if pair in seen:
        return True
    seen[pair] = None
    check_depth(depth)
    if type(a) is dict:
        return a.keys() == b.keys() and all(_same(item, b[key], same, seen, depth) for key, item in a.items())
    return all(_same(left, right, same, seen, depth) for left, right in zip(a, b, strict=True))


def _same(a: Any, b: Any, same: Callable[[Any, Any], bool], seen: dict[tuple[int, int], None], depth: int) -> bool:
    kind = type(a)
    if (kind is list or kind is dict) and kind is type(b):
        return _deep_equal(a, b, same, seen, depth + 1)
    return same(a, b)


def compare(op: str, a: Any, b: Any) -> bool:
    """True when ``a op b`` for op ``<``, ``<=``, ``>``, ``>=``: only two Numbers after the loose rule, else False."""
    left, right = to_number(a), to_number(b)
    if left is None or right is None:
        return False
    if op == "<":
        return left < right
    if op == "<=":
        return left <= right
    return left > right if op == ">" else left >= right
