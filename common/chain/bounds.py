"""What a host gets of a run, held to a size that it can walk: chains may share and nest collections as they like (L9).

A list that holds one other list twice, which holds a third one twice, and so on for forty levels, is made in forty
lines and is longer than any memory once it is written out; one that holds itself has no end at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.chain.errors import LimitError
from common.chain.values import COLLECTIONS, check_depth


def check_walkable(values: Iterable[Any], chars_max: int) -> None:
    """Raise LimitError for values with more than ``chars_max`` characters, or nested too deep for whoever walks them.

    Counted are the characters of texts and keys and one for any other value, as often as a walk would come by. What is
    shared is looked at once.
    """
    seen: dict[int, tuple[int, int]] = {}
    if sum(_measured(value, 0, seen)[0] for value in values) > chars_max:
        raise LimitError("PC-LIMIT-OUTCOME", f"what the run gives has more than {chars_max} characters")


def _measured(value: Any, depth: int, seen: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """The characters of a value and its levels of collections; ``seen`` has both for those that were met."""
    kind = type(value)
    if kind is str:
        return len(value), 0
    if kind not in COLLECTIONS:
        return 1, 0
    check_depth(depth)
    known = seen.get(id(value))
    if known is None:
        chars, levels = 1, 0
        if kind is dict:
            chars += sum(map(len, value))
        for item in value.values() if kind is dict else value:
            more, below = _measured(item, depth + 1, seen)
            chars += more
            levels = max(levels, below)
        known = seen[id(value)] = (chars, levels + 1)
    check_depth(depth + known[1] - 1)
    return known
