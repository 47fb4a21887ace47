"""Which rule a request path means: anchored by segments, the most specific wins; of those the one with methods (F3).

A pattern is a path whose segments are literal or ``{name}``. Segments are percent-decoded once, after the split, so an
encoded slash stays inside its segment. One slash at the end means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

SEGMENTS_MAX = 64

_LONE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Pattern(NamedTuple):
    """A pattern with the methods that it takes (empty: all), and what it leads to."""

    path: str
    methods: frozenset[str]
    value: Any


class Match(NamedTuple):
    """What a path leads to, and its parameters; with ``allowed`` set, only other methods do."""

    value: Any
    params: dict[str, str]
    allowed: tuple[str, ...] = ()


class _Node:
    __slots__ = ("literal", "parameter", "patterns")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.patterns: list[tuple[Pattern, list[str]]] = []


class Paths:
    """Patterns in a tree. Left to right, a literal segment goes before a parameter."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self._root = _Node()
        for pattern in patterns:
            node, names = self._root, []
            for segment in split(pattern.path):
                if segment.startswith("{"):
                    names.append(segment[1:-1])
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.literal.setdefault(segment, _Node())
            node.patterns.append((pattern, names))
            node.patterns.sort(key=lambda known: not known[0].methods)  # one that takes all methods comes last

    def find(self, path: str, method: str) -> Match | None:
        """Return what ``path`` (still encoded) means for ``method``; None when no pattern fits the path.

        Raises ValueError for a path that is not UTF-8, or has more than SEGMENTS_MAX segments.
        """
        segments = [decode(segment) for segment in split(path)]
        if len(segments) > SEGMENTS_MAX:
            raise ValueError(f"more than {SEGMENTS_MAX} segments")
        allowed: set[str] = set()
        found = self._find(self._root, segments, 0, [], method, allowed)
        return found or (Match(None, {}, tuple(sorted(allowed))) if allowed else None)

    def _find(
        self, node: _Node, segments: list[str], at: int, values: list[str], method: str, allowed: set[str]
    ) -> Match | None:
        if at == len(segments):
            for pattern, names in node.patterns:
                if not pattern.methods or method in pattern.methods:
                    return Match(pattern.value, dict(zip(names, values, strict=True)))
                allowed.update(pattern.methods)
            return None
        literal = node.literal.get(segments[at])
        if literal is not None and (found := self._find(literal, segments, at + 1, values, method, allowed)):
            return found
        if node.parameter is not None and segments[at]:
            return self._find(node.parameter, segments, at + 1, [*values, segments[at]], method, allowed)
        return None


def split(path: str) -> list[str]:
    """The segments of a path, without its slashes at both ends; they stay encoded."""
    inner = path.removeprefix("/")
    inner = inner.removesuffix("/") if inner != "/" else ""
    return inner.split("/") if inner else []


def decode(segment: str) -> str:
    """A segment's text. Raises ValueError when its bytes are not UTF-8 or hold NUL, or a % stands alone."""
    if _LONE.search(segment):
        raise ValueError("a % without two hexadecimal digits behind it")
    text = unquote_to_bytes(segment).decode() if "%" in segment else segment
    if "\0" in text:
        raise ValueError("a NUL in the path")
    return text
