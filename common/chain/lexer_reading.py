"""What reading a text leaves behind: tokens, errors, comments. The lexer fills it; here is how errors are told.

Arguments that touch are told with the text in quotes that was probably meant; a run of them is told once.
"""

from __future__ import annotations

import re
from typing import Any

from common.chain.errors import ChainError
from common.chain.paths import KEYWORDS, NAME, Places

Token = tuple[str, Any, int, int]

ERRORS_MAX = 50

_RUN = re.compile(r"[^\s;]*")
_PATH = re.compile(rf"{NAME.pattern}(\.[\w-]+)*")
_NO_EXAMPLE = re.compile(r"[(){}\[\]]|.{60}")


class Reading:
    """The state of reading one text.

    ``tokens``, ``errors`` as (offset, error) and ``comments`` as (start, end) are the result; ``stopped`` says that so
    much is wrong that the rest was not read.
    """

    def __init__(self, text: str) -> None:
        self.places = Places(text)
        self.tokens: list[Token] = []
        self.errors: list[tuple[int, ChainError]] = []
        self.comments: list[tuple[int, int]] = []
        self._size = len(text)
        self._text = text + "\n"  # every line has its end, and every character one behind it
        self._stack: list[tuple[str, int, int]] = []  # open brackets: token, offset, tokens before
        self._glue = -1  # where an argument ended: what begins there touches it
        self._told = -1  # up to where touching words are reported
        self._line_start = self._line_end = -1
        self._restarts = 0
        self.stopped = False  # too much is wrong: the rest is not read

    def error(self, code: str, message: str, start: int, end: int, expected: tuple[str, ...] = ()) -> None:
        """Collect an error; its token is ``bad``."""
        end = min(end, self._size)
        self.errors.append((start, self.places.error(code, message, start, max(end, start), expected)))
        self.stopped = self.stopped or len(self.errors) >= ERRORS_MAX

    def _bad(self, code: str, message: str, start: int, end: int) -> None:
        self.tokens.append(("bad", "", start, end))
        self.error(code, message, start, end)

    def _line(self, position: int) -> int:
        """The offset of the end of the line. Kept, so that a long line is not searched again and again."""
        if not self._line_start <= position <= self._line_end:
            self._line_start, self._line_end = position, self._text.index("\n", position)
        return self._line_end

    def _touch(self, start: int) -> None:
        """Report, once for a run of them, arguments without a blank between. The statement is given up."""
        kind, value, before, _ = self.tokens[-1]
        self.tokens.append(("bad", "", start, start))
        if start <= self._told:
            return
        found = _RUN.match(self._text, start)
        self._told = found.end() if found else start
        run = self._text[before : self._told]
        message = "arguments are separated by blanks, and text is put together in double quotes"
        if kind == "word" and value in KEYWORDS:
            message = f'write a blank behind "{value}"'
        elif kind == "word" and self._text[start] == "[" and _PATH.fullmatch(value):
            message = f'write "${value}[...]" for an item of the variable'
        elif kind in ("word", "variable", "number", "option") and not _NO_EXAMPLE.search(run) and run.count("'") < 2:
            message = f"arguments are separated by blanks: write {_quoted(run)}"
        self.error("PC-PARSE-TOUCH", message, before if kind != "close" else start, self._told)


def _quoted(run: str) -> str:
    """The run of characters as one string: variables in braces, quotes gone."""
    braced = re.sub(rf"\$({_PATH.pattern})", r"${\1}", run)
    return '"' + braced.replace('"', "") + '"'
