"""Templates of segments, for paths (``/``) and hosts (``.``): ``/apps/{app}/**``, ``{app}-web.example.com`` (L8).

``{name}`` captures within one segment, as much as it can, also nothing; ``**`` as the last segment is any number of
segments. Case is ignored for ASCII letters only. Matching is linear in the text.
"""

from __future__ import annotations

import re
from functools import lru_cache

from common.chain.commands.patterns import PATTERN_CHARS_MAX, PATTERNS_CACHED_MAX, PatternError

_REST = "**"
_CAPTURE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def ascii_lower(text: str) -> str:
    """Return ``text`` with its ASCII letters in lower case; it keeps its length."""
    return text.lower() if text.isascii() else text.translate(_LOWER)


def _fragments(segment: str) -> list[str]:
    """A segment taken apart: literal, name, literal, name, ..., literal. Raises PatternError."""
    parts = _CAPTURE.split(segment)
    if any("{" in literal or "}" in literal for literal in parts[::2]):
        raise PatternError(f'no {{name}} in segment "{segment}"')
    return parts


class Template:
    """A pattern of segments. ``names`` are its captures from left to right; ``rest`` says that it ends in ``**``."""

    __slots__ = ("_ignore_case", "_mixed", "_size", "_words", "head", "names", "rest", "separator")

    def __init__(self, pattern: str, separator: str, ignore_case: bool) -> None:
        if len(pattern) > PATTERN_CHARS_MAX:
            raise PatternError(f"pattern longer than {PATTERN_CHARS_MAX} characters")
        segments = pattern.split(separator)
        self.rest = segments[-1] == _REST
        if self.rest:
            segments.pop()
        if _REST in segments:
            raise PatternError(f'** must be the last segment of "{pattern}"')
        self.separator, self._ignore_case, self._size = separator, ignore_case, len(segments)
        names: list[str] = []
        self._words: list[tuple[int, str]] = []
        self._mixed: list[tuple[int, list[str]]] = []
        for at, segment in enumerate(segments):
            parts = _fragments(ascii_lower(segment) if ignore_case and "{" not in segment else segment)
            if len(parts) == 1:
                self._words.append((at, parts[0]))
                continue
            names += parts[1::2]
            literals = parts[::2]
            self._mixed.append((at, [ascii_lower(part) for part in literals] if ignore_case else literals))
        self.names = tuple(names)
        if len(set(names)) < len(names):
            raise PatternError(f'a name occurs twice in "{pattern}"')
        self.head = "" if self.names or ignore_case else separator.join(segments)

    def match(self, text: str) -> tuple[list[str], str | None] | None:
        """Return the captures from left to right and what ``**`` stands for (None where there is no segment for it),
        or None when the text does not match.
        """
        size = self._size
        parts = text.split(self.separator, size)
        if len(parts) != size and (not self.rest or len(parts) < size):
            return None
        for at, word in self._words:
            if parts[at] != word and not (self._ignore_case and ascii_lower(parts[at]) == word):
                return None
        captured: list[str] = []
        for at, literals in self._mixed:
            if len(literals) == 2 and not literals[0] and not literals[1]:
                captured.append(parts[at])
            elif not self._capture(parts[at], literals, captured):
                return None
        return captured, parts[size] if len(parts) > size else None

    def test(self, text: str) -> bool:
        """True when the text matches."""
        if self.head:
            return text == self.head or (self.rest and text.startswith(self.head + self.separator))
        return self.match(text) is not None

    def _capture(self, segment: str, literals: list[str], captured: list[str]) -> bool:
        """Append what stands between the literals. The first name takes as much as it can, then the second, which is
        to say that each literal stands as far to the right as the ones behind it allow.
        """
        compared = ascii_lower(segment) if self._ignore_case else segment
        first, last = literals[0], literals[-1]
        if len(segment) < len(first) + len(last) or not (compared.startswith(first) and compared.endswith(last)):
            return False
        end = len(segment) - len(last)
        found: list[str] = []
        for literal in reversed(literals[1:-1]):
            at = compared.rfind(literal, len(first), end)
            if at < 0:
                return False
            found.append(segment[at + len(literal) : end])
            end = at
        found.append(segment[len(first) : end])
        found.reverse()
        captured += found
        return True


class Rewriting:
    """A template to write: literals, ``{name}`` for what was captured, ``**`` as a segment for the rest."""

    __slots__ = ("names", "rest", "segments", "separator")

    def __init__(self, text: str, separator: str) -> None:
        if len(text) > PATTERN_CHARS_MAX:
            raise PatternError(f"template longer than {PATTERN_CHARS_MAX} characters")
        self.separator = separator
        self.segments = [None if part == _REST else _fragments(part) for part in text.split(separator)]
        self.rest = None in self.segments
        self.names = {name for segment in self.segments if segment for name in segment[1::2]}

    def check(self, template: Template) -> None:
        """Raise PatternError when it uses what the pattern ``template`` does not capture."""
        unknown = self.names.difference(template.names)
        if unknown:
            raise PatternError(f"the pattern captures no {{{min(unknown)}}}")
        if self.rest and not template.rest:
            raise PatternError("the pattern has no **")

    def parts(self, captured: dict[str, str], rest: str | None) -> list[str]:
        """Return the pieces of the new text, to be joined."""
        made: list[str] = []
        before = ""
        for segment in self.segments:
            if segment is None and rest is None:
                continue
            made.append(before)
            before = self.separator
            if segment is None:
                made.append(rest or "")
            else:
                made += (part if at % 2 == 0 else captured[part] for at, part in enumerate(segment))
        return made


@lru_cache(maxsize=PATTERNS_CACHED_MAX)
def template(pattern: str, separator: str, ignore_case: bool) -> Template:
    """Return the pattern made ready, of those that were used last. Raises PatternError."""
    return Template(pattern, separator, ignore_case)


@lru_cache(maxsize=PATTERNS_CACHED_MAX)
def rewriting(text: str, separator: str) -> Rewriting:
    """Return the template to write made ready, of those that were used last. Raises PatternError."""
    return Rewriting(text, separator)
