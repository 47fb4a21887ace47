"""Errors of chains: one shape for what is found when a text is loaded and for what ends a run (L10).

Every error carries a stable code, where it is (lib, chain, block, line, column), the source line with a caret, and what
was expected. Load errors are collected and raised together, as one ``ChainErrors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

SOURCE_CHARS_MAX = 160  # of the source line in the text of an error
TOO_MUCH = "too much is wrong to go on: behind this there may be more errors"
"""The message of ``PC-PARSE-MANY``, the last of the errors of a text that was not read to its end."""

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def node(cls: type[_T]) -> type[_T]:
    """Make a dataclass with slots that the type checker holds to be frozen.

    Python's own ``frozen`` checks it at run time too and makes an instance three times as dear; a cold load of a block
    makes hundreds of them.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@node
class Span:
    """A stretch of a block's text. Lines and columns count from 1, columns in characters; the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


NOWHERE = Span(0, 0, 0, 0)


class ChainError(Exception):
    """One thing that is wrong with a chain, or that ended a run.

    Arguments: ``code`` is stable: ``PC-PARSE-...`` (text), ``PC-LINK-...`` (names, targets, arguments),
    ``PC-RUN-...`` (misuse while running), ``PC-LIMIT-...`` (a budget). ``message`` says what is wrong and, where it
    can, what to write instead. ``span`` is the place in the block's text, ``source`` the line of ``span.line``.
    ``expected`` lists what would have been right there. ``where`` is ``lib:chain:block`` as far as it is known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        span: Span = NOWHERE,
        *,
        source: str = "",
        expected: Sequence[str] = (),
        where: str = "",
    ) -> None:
        self.code, self.message, self.span = code, message, span
        self.source, self.expected, self.where = source, tuple(expected), where
        super().__init__(code, message)

    def at(self, where: str, text: str = "") -> ChainError:
        """Return the same error, placed in block ``where`` with the block's ``text`` (for the source line)."""
        lines = text.split("\n")
        known = 0 < self.span.line <= len(lines)
        source = self.source or (lines[self.span.line - 1] if known else "")
        return type(self)(
            self.code, self.message, self.span, source=source, expected=self.expected, where=where or self.where
        )

    def __str__(self) -> str:
        """The whole error as text: code and message, place, source line with caret, what was expected."""
        lines = [f"{self.code}: {self.message}"]
        if self.span.line:
            place = f"line {self.span.line}, column {self.span.column}"
            lines.append(f"  at {self.where}, {place}" if self.where else f"  at {place}")
        elif self.where:
            lines.append(f"  at {self.where}")
        if self.source and self.span.line:
            lines += self._marked()
        if self.expected:
            lines.append(f"  expected {_alternatives(self.expected)}")
        return "\n".join(lines)

    def _marked(self) -> list[str]:
        """The source line, of a very long one a part, and below it the caret."""
        source, start = self.source, self.span.column - 1
        end = self.span.end_column - 1 if self.span.end_line == self.span.line else len(source)
        if len(source) > SOURCE_CHARS_MAX:
            first = max(0, min(start - SOURCE_CHARS_MAX // 2, len(source) - SOURCE_CHARS_MAX))
            source, start, end = source[first : first + SOURCE_CHARS_MAX], start - first, end - first
        end = max(start + 1, min(end, len(source)))
        return [f"  | {source}", f"  | {_blanks(source, start + 1)}{'^' * (end - start)}"]


def _blanks(source: str, column: int) -> str:
    """What stands before the caret: tabs stay tabs, so that the caret is under its character."""
    return "".join("\t" if char == "\t" else " " for char in source[: column - 1])


def _alternatives(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


class ChainErrors(Exception):
    """All that is wrong with a text, in the order of the text. ``errors`` has at least one."""

    def __init__(self, errors: Sequence[ChainError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, self.errors)))


class LimitError(ChainError):
    """A budget of the run is used up (L9); ``code`` is ``PC-LIMIT-...``."""


class MisuseError(ChainError):
    """What no chain may do while it runs (write to a read-only input, change what is iterated); ``PC-RUN-...``."""
