"""Paths of variables: ``NAME`` and its steps, and where offsets of a text lie in its lines (L5).

The lexer reads a path wherever a ``$`` begins one. ``parse_path`` reads a whole string as a path: a *ref* argument may
be written as a bare or quoted name.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from common.chain.errors import ChainError, Span
from common.chain.nodes import Literal, Step, Text, Variable

KEYWORDS = frozenset(("if", "then", "elif", "else", "end", "case", "when", "as", "for", "in", "match-result"))
SCOPES = {"global": "global", "export": "global", "chain": "chain", "block": "block", "local": "block"}
LITERALS = {"true": True, "false": False, "null": None}
RESERVED = KEYWORDS | set(SCOPES) | set(LITERALS)
INDEX_DEPTH_MAX = 64
MESSAGE_CHARS_MAX = 400

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STEP = re.compile(
    r"""(\?)?(?:\.([\w-]+)                             # .segment
       |\[(?:(-?(?:0|[1-9][0-9]{0,17}))\]              # an integer
         |"([^"\\$\n]*)"\]|'([^'\n]*)'\]               # a quoted key
         |\$(\{)?(?=[A-Za-z_])))                       # a variable, which may have steps of its own""",
    re.VERBOSE,
)
_TO_BRACKET = re.compile(r"[^\]\n;]*\]?")


class Places:
    """The lines of a text: turns offsets into spans."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0]
        position = text.find("\n")
        while position >= 0:
            self._starts.append(position + 1)
            position = text.find("\n", position + 1)
        self._starts.append(len(text) + 2)

    def span(self, start: int, end: int) -> Span:
        """Return the span from offset ``start`` up to, not including, offset ``end``."""
        starts = self._starts
        line = bisect_right(starts, start)
        first = starts[line - 1]
        if end <= starts[line]:
            return Span(line, start - first + 1, line, end - first + 1)
        last = bisect_right(starts, end)
        return Span(line, start - first + 1, last, end - starts[last - 1] + 1)

    def offset(self, line: int, column: int) -> int:
        """Return the offset of a line and column, both from 1."""
        return self._starts[line - 1] + column - 1

    def error(self, code: str, message: str, start: int, end: int, expected: tuple[str, ...] = ()) -> ChainError:
        """Return an error at a place of the text, with its source line."""
        span = self.span(start, end)
        message = message if len(message) <= MESSAGE_CHARS_MAX else message[:MESSAGE_CHARS_MAX] + "..."
        first = self._starts[span.line - 1]
        source = self._text[first : self._starts[span.line] - 1].rstrip("\r\n")
        return ChainError(code, message, span, source=source, expected=expected)


class PathError(Exception):
    """A path is wrong between ``start`` and ``end``; ``message`` says how."""

    def __init__(self, code: str, message: str, start: int, end: int) -> None:
        self.code, self.message, self.start, self.end = code, message, start, end
        super().__init__(message)


def read_path(text: str, start: int, at: int, places: Places, depth: int = 0) -> tuple[Variable, int]:
    """Read ``NAME{step}`` at offset ``at``, as long as it goes. ``start`` is where its ``$`` or ``${`` begins.

    Returns the variable and the offset behind it. There must be a NAME at ``at``. Raises PathError.
    """
    found = NAME.match(text, at)
    assert found is not None, "the caller has seen a letter"
    name, end = found[0], found.end()
    if name in RESERVED:
        raise PathError("PC-PARSE-NAME", f'"{name}" is a word of the language and no name', start, end)
    if text[end] not in ".?[":
        return Variable(name, (), None, places.span(start, end)), end
    steps = []
    while text[end] in ".?[":
        step, after = _read_step(text, end, places, depth)
        if step is None:
            break
        steps.append(step)
        end = after
    return Variable(name, tuple(steps), None, places.span(start, end)), end


def _read_step(text: str, at: int, places: Places, depth: int) -> tuple[Step | None, int]:
    """Read one step; None where what follows is no step (a ``.`` or ``?`` that ends a sentence)."""
    found = _STEP.match(text, at)
    if found is None:
        if text[at] == "[" or text.startswith("?[", at):
            _bad_index(text, at)
        return None, at
    optional, segment, number, double, single, brace = found.groups()
    end = found.end()
    key: Text | Literal | Variable
    if segment is not None:
        span = places.span(at, end)
        return Step(Text(segment, True, span), optional is not None, span), end
    span = places.span(text.index("[", at) + 1, end - 1)
    if number is not None:
        key = Literal(int(number), number, span)
    elif double is not None or single is not None:
        key = Text(double if single is None else single, False, span)
    else:
        key, end = _read_nested(text, at, end, brace is not None, places, depth + 1)
    return Step(key, optional is not None, places.span(at, end)), end


def _read_nested(text: str, at: int, name: int, braced: bool, places: Places, depth: int) -> tuple[Variable, int]:
    """Read the variable of an index, and the brackets behind it. ``name`` is where its name begins."""
    if depth > INDEX_DEPTH_MAX:
        raise PathError("PC-PARSE-BRACKETS", f"brackets are nested deeper than {INDEX_DEPTH_MAX}", at, at + 1)
    key, end = read_path(text, name - 1 - braced, name, places, depth)
    if braced:
        if text[end] != "}":
            _bad_index(text, at)
        end += 1
        key = Variable(key.name, key.steps, None, places.span(name - 2, end))
    if text[end] != "]":
        _bad_index(text, at)
    return key, end + 1


def _bad_index(text: str, at: int) -> None:
    """Raise the error for an index that is none, showing the quoted form of a bare word."""
    bracket = text.index("[", at)
    found = _TO_BRACKET.match(text, bracket + 1)
    assert found is not None, "the pattern matches everything"
    if not found[0].endswith("]"):
        raise PathError("PC-PARSE-BRACKET", '"[" has no "]"', bracket, bracket + 1)
    end, word = found.end(), found[0][:-1].strip()
    message = "an index is an integer, a quoted string or a variable"
    if re.fullmatch(r"-?(?:0|[1-9][0-9]{0,17})", word):
        message += f": write [{word}]"
    elif re.fullmatch(r"[\w.-]+", word):
        message += f': write ["{word}"] or [${word}]' if NAME.fullmatch(word) else f': write ["{word}"]'
    raise PathError("PC-PARSE-INDEX", message, bracket, max(end, bracket + 1))


def parse_path(text: str, span: Span) -> Variable | None:
    """Return the variable that the whole of ``text`` names (``a.b["c"]``), with ``span``; None when it names none."""
    if NAME.match(text) is None:
        return None
    try:
        variable, end = read_path(text + "\n", 0, 0, Places(text))
    except PathError:
        return None
    return Variable(variable.name, variable.steps, None, span) if end == len(text) else None
