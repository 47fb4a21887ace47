"""Text of a block -> tokens (L2). One pass over the text, one compiled pattern for what stands outside of strings.

A token is a plain tuple (kind, value, start, end): they are made by the hundred and live for a moment. Kinds:

    word number option          bare words; numbers and options are still to be looked at
    text string chunk close     'raw' and "plain" strings; string chunk* close for one with ``${...}`` or ``$(...)``
    variable                    ``$path`` and ``${path}``, the value is the node
    ${ ??                       ``${path ?? default}``: the value of ``${`` is the node without the default
    key branch                  the key of a map; ``ok(name)`` and ``err(name)``
    end eof                     a statement's end; the text's end
    bad                         something whose error is reported already: the parser gives up the statement silently
    $( ( ) [ ] { } , && || ! = == != === !== < <= > >=       as they are

Newlines inside brackets, comments and joins leave no token. Errors are collected; what cannot be read on (a quote or a
bracket that nothing closes) is left behind, and reading goes on in the next line, ``RESTARTS_MAX`` times.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from common.chain.lexer_reading import Reading
from common.chain.nodes import Variable
from common.chain.paths import NAME, PathError, read_path

RESTARTS_MAX = 8

WORD_CHARS = r"\w\-.:/*?@%+~#"
_MASTER = re.compile(
    rf"""[ \t\r]*(?:\\\r?\n[ \t\r]*)*(?:
      (?P<branch>(?:ok|err)\([ \t]*[A-Za-z_][A-Za-z0-9_]*[ \t]*\)(?![{WORD_CHARS}]))
    | (?P<word>[^\W\d][{WORD_CHARS}]*)
    | (?P<variable>\$(?=[A-Za-z_]))
    | (?P<newline>\n(?:[ \t\r]*//[^\n]*)?)
    | (?P<operator>===|!==|==|!=|<=|>=|&&|\|\||[=<>!,])
    | (?P<plain>"[^"\\$]*")
    | (?P<opener>\$?\(|\[|\{{)
    | (?P<closer>[)\]}}])
    | (?P<number>-?[0-9]+(?:\.[0-9]+)?(?![{WORD_CHARS}]))
    | (?P<option>--?[A-Za-z_][A-Za-z0-9_-]*(?![{WORD_CHARS}]))
    | (?P<comment>(?<![^ \t\r\n;])\#[^\n]*)
    | (?P<other_word>[{WORD_CHARS}]+)
    | (?P<raw>'[^']*')
    | (?P<semicolon>;)
    | (?P<brace>\$\{{)
    | (?P<quote>["'])
    | (?P<other>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORD = _MASTER.groupindex["word"]
_KEY = re.compile(
    r"""[ \t\r\n]*("(?:[^"\\$\n]|\\[^\n])*"|'[^'\n]*'|[A-Za-z_][\w.-]*)[ \t\r\n]*:(?!//)""",
    re.VERBOSE,
)
_PART = re.compile(
    r"""(?P<plain>[^"\\$]+)
      | \\(?:(?P<simple>["\\ntr$])|x(?P<byte>[0-9a-fA-F]{2})|u\{(?P<point>[0-9a-fA-F]{1,6})\})
      | (?P<command>\$\() | (?P<brace>\$\{) | (?P<name>\$[A-Za-z_][\w.]*) | (?P<dollar>\$) | (?P<close>")
      | (?P<escape>\\(?:x[^"\s]{0,2}|u\{?[^"\s}]{0,6}\}?|.)?)""",
    re.VERBOSE | re.DOTALL,
)
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r"}
_KEY_RUN = re.compile(r"[^\s;,}]*")
_PATH_SIGNS = re.compile(r"[\s;,()\[\]]")
_BLANKS = re.compile(r"[ \t\r\n]*")
_CLOSES = {")": ("(", "$("), "]": ("[",), "}": ("{", "${")}
_CLOSED_BY = {"(": ")", "$(": ")", "[": "]", "{": "}", "${": "}", '"': '"'}


class Lexer(Reading):
    """Reads one text; its result is in the attributes of Reading."""

    def run(self) -> Lexer:
        """Read the whole text."""
        text, tokens, stack, size = self._text, self.tokens, self._stack, self._size
        match, handlers = _MASTER.match, _HANDLERS
        position = self._first()
        while True:
            while position <= size and not self.stopped:
                if stack and stack[-1][0] == "{" and tokens[-1][0] in "{,":
                    position = self._key(position)
                found = match(text, position)
                if found is None:
                    break  # nothing but blanks is left
                kind = found.lastindex or 0
                start, position = found.span(kind)
                if kind == _WORD:
                    if start == self._glue:
                        self._touch(start)
                    tokens.append(("word", text[start:position], start, position))
                    self._glue = position
                else:
                    position = handlers[kind](self, start, position)
            if not self._stack or self.stopped:
                break
            position = self._restart()
        if not tokens or tokens[-1][0] != "end":
            tokens.append(("end", "", self._size, self._size))
        tokens.append(("eof", "", self._size, self._size))
        return self

    def _first(self) -> int:
        """A ``//`` comment in the first line follows no newline."""
        blanks = _BLANKS.match(self._text)
        start = blanks.end() if blanks else 0
        if not self._text.startswith("//", start):
            return 0
        end = self._text.index("\n", start)
        self.comments.append((start, end))
        return end

    # -- outside of strings --------------------------------------------------------------------------------------------

    def _newline(self, start: int, end: int) -> int:
        if end > start + 1:
            self.comments.append((self._text.index("//", start), end))
        if not self._stack and self.tokens and self.tokens[-1][0] not in ("end", "&&", "||"):
            self.tokens.append(("end", "\n", start, start))
        return end

    def _comment(self, start: int, end: int) -> int:
        self.comments.append((start, end))
        return end

    def _semicolon(self, start: int, end: int) -> int:
        if self._stack:
            self._bad("PC-PARSE-BRACKET", f'";" cannot stand inside of "{self._stack[-1][0]}"', start, end)
        else:
            self.tokens.append(("end", ";", start, end))
        return end

    def _other_word(self, start: int, end: int) -> int:
        return self._argument("word", self._text[start:end], start, end)

    def _number(self, start: int, end: int) -> int:
        return self._argument("number", self._text[start:end], start, end)

    def _option(self, start: int, end: int) -> int:
        return self._argument("option", self._text[start:end], start, end)

    def _branch(self, start: int, end: int) -> int:
        return self._argument("branch", self._text[start:end], start, end)

    def _plain(self, start: int, end: int) -> int:
        return self._argument("text", self._text[start + 1 : end - 1], start, end)

    def _argument(self, kind: str, value: Any, start: int, end: int) -> int:
        if start == self._glue:
            self._touch(start)
        self.tokens.append((kind, value, start, end))
        self._glue = end
        return end

    def _variable(self, start: int, end: int) -> int:
        try:
            variable, end = read_path(self._text, start, end, self.places)
        except PathError as wrong:
            self._bad(wrong.code, wrong.message, wrong.start, wrong.end)
            return max(self._behind_path(start), wrong.end)
        return self._argument("variable", variable, start, end)

    def _behind_path(self, start: int) -> int:
        """The end of a path that is wrong: a blank, a comma or a closing bracket that is not its own."""
        depth = 0
        for found in _PATH_SIGNS.finditer(self._text, start):
            sign = found[0]
            if sign == "[":
                depth += 1
            elif sign == "]" and depth:
                depth -= 1
            else:
                return found.start()
        return self._size

    def _brace(self, start: int, end: int) -> int:
        """``${path}`` or the beginning of ``${path ?? default}``, inside of strings and outside."""
        text = self._text
        if start == self._glue:
            self._touch(start)
        name = _end_of_blanks(text, end)
        if NAME.match(text, name) is None:
            return self._bad_brace(start, end)
        try:
            variable, end = read_path(text, start, name, self.places)
        except PathError as wrong:
            self._bad(wrong.code, wrong.message, wrong.start, wrong.end)
            return self._to_brace(wrong.end)
        end = _end_of_blanks(text, end)
        if text.startswith("}", end):
            variable = Variable(variable.name, variable.steps, None, self.places.span(start, end + 1))
            self.tokens.append(("variable", variable, start, end + 1))
            self._glue = end + 1
            return end + 1
        if not text.startswith("??", end):
            return self._bad_brace(start, end)
        self._stack.append(("${", start, len(self.tokens)))
        self.tokens += (("${", variable, start, end), ("??", "", end, end + 2))
        return end + 2

    def _bad_brace(self, start: int, end: int) -> int:
        stop = self._to_brace(end)
        message = "between ${ and } stand a variable's path and perhaps ?? with a default"
        self._bad("PC-PARSE-DOLLAR", message, start, stop)
        return stop

    def _to_brace(self, position: int) -> int:
        """Skip to behind the ``}`` of this line, for what is wrong between braces."""
        line = self._text.index("\n", position) if position < len(self._text) else position
        brace = self._text.find("}", position, line)
        return brace + 1 if brace >= 0 else line

    def _operator(self, start: int, end: int) -> int:
        operator = self._text[start:end]
        self.tokens.append((operator, operator, start, end))
        return end

    def _opener(self, start: int, end: int) -> int:
        if start == self._glue:
            self._touch(start)
        bracket = self._text[start:end]
        self._stack.append((bracket, start, len(self.tokens)))
        self.tokens.append((bracket, bracket, start, end))
        return end

    def _closer(self, start: int, end: int) -> int:
        bracket = self._text[start:end]
        if not self._stack or self._stack[-1][0] not in _CLOSES[bracket]:
            return self._mismatch(bracket, start, end)
        self._stack.pop()
        self.tokens.append((bracket, bracket, start, end))
        if self._stack and self._stack[-1][0] == '"':
            return self._parts(end)
        self._glue = end
        return end

    def _mismatch(self, bracket: str, start: int, end: int) -> int:
        """A closing bracket where none, or another, is open. Only a bracket that is open further out closes it."""
        if not self._stack:
            self._bad("PC-PARSE-BRACKET", f'"{bracket}" closes nothing', start, end)
            return end
        opener, at, _ = self._stack[-1]
        message = f'"{opener}" needs "{_CLOSED_BY[opener]}" before this "{bracket}"'
        self._bad("PC-PARSE-BRACKET", message, at, at + len(opener))
        while len(self._stack) > 1 and self._stack[-1][0] not in (*_CLOSES[bracket], '"'):
            self._stack.pop()
        if self._stack[-1][0] in _CLOSES[bracket]:
            return self._closer(start, end)
        self._stack.pop()  # it was meant to be closed here
        return end if not self._stack or self._stack[-1][0] != '"' else self._parts(end)

    def _key(self, position: int) -> int:
        """The key of a map's entry, with its colon."""
        found = _KEY.match(self._text, position)
        if found is None:
            return self._no_key(position)
        key = found[1]
        if key[0] == '"' and "\\" in key:
            inner = Lexer(key).run()
            if inner.errors or inner.tokens[0][0] != "text":
                return self._no_key(position)
            key = f"'{inner.tokens[0][1]}'"
        bare = key[0] not in "\"'"
        self.tokens.append(("key", (key if bare else key[1:-1], bare), found.start(1), found.end(1)))
        return found.end()

    def _no_key(self, position: int) -> int:
        """Something else than a key: the map's end, a comment, or what is wrong."""
        start = _end_of_blanks(self._text, position)
        if not self._text.startswith(("}", "#", "//"), start) and start < self._size:
            found = _KEY_RUN.match(self._text, start)
            self._told = max(start + 1, found.end() if found else 0)
            message = 'here stands a key, a word or a string without ${...}, and ":" behind it'
            self._bad("PC-PARSE-KEY", message, start, self._told)
        return position

    def _other(self, start: int, end: int) -> int:
        char, code = self._text[start], "PC-PARSE-CHARACTER"
        if char == "$":
            code, message = "PC-PARSE-DOLLAR", 'a name, "{" or "(" belongs behind "$": quote one that stands for itself'
        elif char == "\\":
            message = "a backslash joins lines and stands last in its line: quote it elsewhere"
        elif char in "&|":
            message = f'"{char}" is nothing by itself: write "{char}{char}", or quote it'
        else:
            shown = f'"{char}"' if char.isprintable() and char != '"' else f"U+{ord(char):04X}"
            message = f"{shown} can stand only in quotes"
        self._bad(code, message, start, end)
        return end

    # -- strings -------------------------------------------------------------------------------------------------------

    def _quote(self, start: int, end: int) -> int:
        """A string with escapes or expansions, or one that nothing closes."""
        if start == self._glue:
            self._touch(start)
            if self._text.find(self._text[start], end, self._line(end)) < 0:
                return self._told  # an apostrophe
        self._stack.append((self._text[start], start, len(self.tokens)))
        if self._text[start] == "'":
            return self._size + 1
        self.tokens.append(("string", "", start, end))
        return self._parts(end)

    def _parts(self, position: int) -> int:
        """Read a double-quoted string on, up to its end or to the next ``$(`` or ``${ ... ??``."""
        text, start = self._text, position
        pieces: list[str] = []
        while True:
            found = _PART.match(text, position) if position < self._size else None
            if found is None:
                return self._size + 1  # nothing closes it
            kind, at, position = found.lastgroup or "", position, found.end()
            if kind not in ("command", "brace", "close"):
                pieces.append(self._piece(kind, found))
                continue
            if pieces:
                self.tokens.append(("chunk", "".join(pieces), start, at))
            if kind == "close":
                return self._close(at, position)
            self._glue = -1
            depth = len(self._stack)
            position = self._opener(at, position) if kind == "command" else self._brace(at, position)
            if len(self._stack) > depth:
                return position
            start, pieces = position, []

    def _piece(self, kind: str, found: re.Match[str]) -> str:
        """What a stretch of a string stands for."""
        value = found[0]
        if kind == "plain" or kind == "dollar":
            return value
        if kind == "simple":
            return _SIMPLE.get(found["simple"], found["simple"])
        if kind == "byte":
            return chr(int(found["byte"], 16))
        start, end = found.span()
        if kind == "point":
            number = int(found["point"], 16)
            if number < 0x110000 and not 0xD800 <= number < 0xE000:
                return chr(number)
            self.error("PC-PARSE-ESCAPE", f'"{value}" is no Unicode character', start, end)
        elif kind == "name":
            name = value[1:].rstrip(".")
            message = f'write "${{{name}}}" for the variable, "\\${name}" for the text'
            self.error("PC-PARSE-DOLLAR", message, start, start + len(name) + 1)
        else:
            message = f'"{value.rstrip()}" is no escape: write "\\\\", or put the text in single quotes'
            self.error("PC-PARSE-ESCAPE", message, start, end)
        return value

    def _close(self, at: int, position: int) -> int:
        """The closing quote. A string without expansions becomes one ``text``."""
        _, start, index = self._stack.pop()
        pieces = len(self.tokens) - index
        if pieces == 1 or (pieces == 2 and self.tokens[-1][0] == "chunk"):
            value = self.tokens[-1][1]
            del self.tokens[index:]
            self.tokens.append(("text", value, start, position))
        else:
            self.tokens.append(("close", "", at, position))
        self._glue = position
        return position

    # -- what is wrong -------------------------------------------------------------------------------------------------

    def _restart(self) -> int:
        """The text ended inside of brackets or a quote: report it, and go on behind the line of the outermost one."""
        _, first, index = self._stack[0]
        line = self._line(first)
        opener, at, _ = self._stack[-1] if self._stack[-1][1] < line else self._stack[0]
        del self.tokens[index:]
        self.tokens.append(("bad", "", first, first + 1))
        self.errors = [(offset, error) for offset, error in self.errors if offset < line]
        self.comments = [pair for pair in self.comments if pair[0] < line]
        self._stack.clear()
        self._glue = -1
        self._restarts += 1
        if opener in "\"'":
            self.error("PC-PARSE-STRING", f"this {opener} has no closing {opener}", at, at + 1)
        else:
            self.error("PC-PARSE-BRACKET", f'"{opener}" has no "{_CLOSED_BY[opener]}"', at, at + len(opener))
        self.stopped = self.stopped or self._restarts == RESTARTS_MAX
        return line


def _end_of_blanks(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return found.end() if found else position


_BY_GROUP: dict[str, Callable[[Lexer, int, int], int]] = {
    "newline": Lexer._newline,
    "comment": Lexer._comment,
    "number": Lexer._number,
    "option": Lexer._option,
    "branch": Lexer._branch,
    "variable": Lexer._variable,
    "plain": Lexer._plain,
    "raw": Lexer._plain,
    "other_word": Lexer._other_word,
    "operator": Lexer._operator,
    "semicolon": Lexer._semicolon,
    "opener": Lexer._opener,
    "closer": Lexer._closer,
    "brace": Lexer._brace,
    "quote": Lexer._quote,
    "other": Lexer._other,
}
_HANDLERS = {index: _BY_GROUP[name] for name, index in _MASTER.groupindex.items() if name != "word"}
