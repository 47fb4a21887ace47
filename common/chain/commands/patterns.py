"""Globs and regular expressions: what a pattern is turned into, once, when it is known (L8, L9).

Both run on RE2, whose time is linear in the text whatever the pattern. Patterns that are no more than a prefix, a
suffix, a whole text or a part of it become operations on strings, which cost a tenth. Ignoring case is what RE2 does
(simple folding of Unicode); the string operations serve only where text and pattern are ASCII, RE2 does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

PATTERN_CHARS_MAX = 2_000
"""The text of one pattern."""
PATTERNS_CACHED_MAX = 128
"""Compiled patterns kept of those that chains compute, for each kind of pattern; the least used one goes."""
REGEX_MEMORY_BYTES_MAX = 1_048_576
"""What RE2 may use for one pattern; a pattern that needs more is refused."""

Test = Callable[[str], bool]

_GLOB_SPECIAL = re.compile(r"[?\[\]{}\\]")
_SIMPLE_REGEX = re.compile(r"(\^?)((?:[^\\.^$*+?()\[\]{}|]|\\[-.^$*+?()\[\]{}|\\/])*)(\$?)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class PatternError(Exception):
    """A pattern cannot be used; ``str()`` says why."""


# -- RE2 ---------------------------------------------------------------------------------------------------------------


class Regex:
    """A compiled regular expression. ``groups`` is their number, ``names`` tells the number of each named one."""

    __slots__ = ("_search", "groups", "names")

    def __init__(self, pattern: str, ignore_case: bool, dot_all: bool = False) -> None:
        import re2  # when first needed: it costs 20 ms and 3 MB

        options = re2.Options()
        options.case_sensitive = not ignore_case
        options.dot_nl = dot_all
        options.max_mem = REGEX_MEMORY_BYTES_MAX
        options.log_errors = False
        try:
            compiled = re2.compile(_encoded(pattern), options)
        except re2.error as exc:
            reason = exc.args[0]
            said = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            raise PatternError(f"bad regular expression: {said}") from None
        self._search = compiled.search
        self.groups: int = compiled.groups
        self.names: dict[str, int] = {name.decode(): number for name, number in compiled.groupindex.items()}

    def test(self, text: str) -> bool:
        """True when the pattern is found in ``text``."""
        return self._search(_encoded(text)) is not None

    def find(self, text: str) -> list[str | None] | None:
        """Return the first match, then its groups (None for one that took no part), or None when nothing is found."""
        found = self._search(_encoded(text))
        if found is None:
            return None
        return [_decoded(found.group()), *(None if part is None else _decoded(part) for part in found.groups())]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # only a lone surrogate, which no chain can write, is replaced


def _decoded(part: bytes) -> str:
    return part.decode("utf-8", "replace")  # only \C, which takes a single byte, can cut a character


@lru_cache(maxsize=PATTERNS_CACHED_MAX)
def regex(pattern: str, ignore_case: bool) -> Regex:
    """Return the compiled expression, of those that were used last. Raises PatternError."""
    _check_length(pattern)
    return Regex(pattern, ignore_case)


@lru_cache(maxsize=PATTERNS_CACHED_MAX)
def regex_test(pattern: str, ignore_case: bool) -> Test:
    """Return a function that tells whether the expression is found in a text. Raises PatternError."""
    _check_length(pattern)
    simple = _SIMPLE_REGEX.fullmatch(pattern)
    if simple is None:
        return regex(pattern, ignore_case).test
    start, body, end = simple.groups()
    literal = _ESCAPED.sub(r"\1", body)

    def slow() -> Test:
        return regex(pattern, ignore_case).test

    if start:
        return _whole(literal, ignore_case, slow) if end else _starts(literal, ignore_case, slow)
    return _ends(literal, ignore_case, slow) if end else _contains(literal, ignore_case, slow)


def _check_length(pattern: str) -> None:
    if len(pattern) > PATTERN_CHARS_MAX:
        raise PatternError(f"pattern longer than {PATTERN_CHARS_MAX} characters")


# -- globs -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=PATTERNS_CACHED_MAX)
def glob_test(pattern: str, ignore_case: bool) -> Test:
    """Return a function that tells whether a glob matches a whole text. Raises PatternError.

    ``*`` is any text, also across ``/``; ``?`` one character; ``[ab]``, ``[a-z]``, ``[!a]`` one of a class;
    ``{a,b}`` one of several; ``**/`` any number of leading segments; a backslash takes the next character as it is.
    """
    _check_length(pattern)

    def slow() -> Test:
        return Regex(glob_regex(pattern), ignore_case, dot_all=True).test

    if _GLOB_SPECIAL.search(pattern) or pattern.startswith("**/") or "/**/" in pattern:
        return slow()
    parts = re.split(r"\*+", pattern)
    if len(parts) == 1:
        return _whole(pattern, ignore_case, slow)
    if len(parts) == 2 and not (parts[0] and parts[1]):
        return _starts(parts[0], ignore_case, slow) if parts[0] or not parts[1] else _ends(parts[1], ignore_case, slow)
    if len(parts) == 3 and not parts[0] and not parts[2]:
        return _contains(parts[1], ignore_case, slow)
    return slow()


def glob_regex(pattern: str) -> str:
    """Return the regular expression, anchored at both ends, that a glob means. Raises PatternError."""
    made: list[str] = []
    at, depth = 0, 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            piece, at = _star(pattern, at)
        elif char == "[":
            piece, at = _class(pattern, at)
        elif char == "\\":
            if at + 1 == len(pattern):
                raise PatternError("glob ends in a backslash")
            piece, at = _literal(pattern[at + 1]), at + 2
        else:
            depth += (char == "{") - (char == "}")
            if depth < 0:
                raise PatternError("glob has a } without {")
            piece, at = _plain(char, depth), at + 1
        made.append(piece)
    if depth:
        raise PatternError("glob has a { without }")
    return rf"\A(?:{''.join(made)})\z"


def _plain(char: str, depth: int) -> str:
    """What a character other than ``* [ \\`` means; ``depth`` counts the braces that are open after it."""
    if char == "?":
        return "."
    if char == "{":
        return "(?:"
    if char == "}":
        return ")"
    return "|" if char == "," and depth else _literal(char)


def _star(pattern: str, at: int) -> tuple[str, int]:
    """``*``, ``**``, and ``**/`` where a segment begins."""
    end = at
    while end < len(pattern) and pattern[end] == "*":
        end += 1
    begins = at == 0 or pattern[at - 1] == "/"
    if end - at == 2 and begins and pattern[end : end + 1] == "/":
        return "(?:.*/)?", end + 1
    return ".*", end


def _class(pattern: str, at: int) -> tuple[str, int]:
    """``[...]`` from its bracket on; a ``]`` that comes first belongs to the class."""
    first = at + 2 if pattern[at + 1 : at + 2] in ("!", "^") else at + 1
    end = pattern.find("]", first + 1)
    if end < 0:
        raise PatternError("glob has a [ without ]")
    inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", pattern[first:end])
    return f"[{'^' if first == at + 2 else ''}{inside}]", end + 1


def _literal(char: str) -> str:
    return re.escape(char) if char.isascii() else char


# -- the simple shapes -------------------------------------------------------------------------------------------------


class _Lazy:
    """The RE2 form of a simple pattern, made when a text needs it."""

    __slots__ = ("_make", "_test")

    def __init__(self, make: Callable[[], Test]) -> None:
        self._make = make
        self._test: Test | None = None

    def __call__(self, text: str) -> bool:
        if self._test is None:
            self._test = self._make()
        return self._test(text)


def _whole(literal: str, ignore_case: bool, make_slow: Callable[[], Test]) -> Test:
    if not ignore_case:
        return lambda text: text == literal
    if not literal.isascii():
        return make_slow()
    low, slow = literal.lower(), _Lazy(make_slow)
    return lambda text: text.lower() == low if text.isascii() else slow(text)


def _starts(literal: str, ignore_case: bool, make_slow: Callable[[], Test]) -> Test:
    if not ignore_case or not literal:
        return lambda text: text.startswith(literal)
    if not literal.isascii():
        return make_slow()
    low, size, slow = literal.lower(), len(literal), _Lazy(make_slow)

    def starts(text: str) -> bool:
        head = text[:size]
        return head.lower() == low if head.isascii() else slow(text)

    return starts


def _ends(literal: str, ignore_case: bool, make_slow: Callable[[], Test]) -> Test:
    if not ignore_case or not literal:
        return lambda text: text.endswith(literal)
    if not literal.isascii():
        return make_slow()
    low, size, slow = literal.lower(), len(literal), _Lazy(make_slow)

    def ends(text: str) -> bool:
        tail = text[-size:]
        return tail.lower() == low if tail.isascii() else slow(text)

    return ends


def _contains(literal: str, ignore_case: bool, make_slow: Callable[[], Test]) -> Test:
    if not ignore_case or not literal:
        return lambda text: literal in text
    if not literal.isascii():
        return make_slow()
    low, slow = literal.lower(), _Lazy(make_slow)
    return lambda text: low in text.lower() if text.isascii() else slow(text)
