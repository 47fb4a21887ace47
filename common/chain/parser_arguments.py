"""Tokens -> expressions: what stands as an argument or a right side (L2, L3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from common.chain.errors import TOO_MUCH, ChainError, ChainErrors, Span
from common.chain.lexer import Lexer
from common.chain.lexer_reading import ERRORS_MAX, Token
from common.chain.nodes import (
    Argument,
    Expression,
    Interpolated,
    ListLiteral,
    Literal,
    MapLiteral,
    Option,
    Substitution,
    Text,
    Variable,
)
from common.chain.paths import LITERALS

if TYPE_CHECKING:
    from common.chain.nodes import Statement

SHOWN_CHARS_MAX = 60  # of a word in a message
BRACKETS_MAX = 64  # nested brackets, and "!" in a row, together
RESERVED_ARGUMENTS = frozenset(("end", "else", "elif", "when"))
COMPARISONS = frozenset(("==", "!=", "===", "!==", "<", "<=", ">", ">="))
AFTER_ARGUMENTS = frozenset(("end", "eof", "&&", "||", ")"))
_FOREIGN_OPERATORS = {"and": "&&", "or": "||", "AND": "&&", "OR": "||"}
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_INT_DIGITS_MAX = 20


class Failed(Exception):
    """The statement is given up; its error is collected."""


class Arguments(ABC):
    """The part of the parser that reads expressions. ``errors`` holds (offset, error)."""

    def __init__(self, text: str) -> None:
        lexer = Lexer(text).run()
        self.text, self.places, self.stopped = text, lexer.places, lexer.stopped
        self.tokens: list[Token] = lexer.tokens
        self.errors: list[tuple[int, ChainError]] = lexer.errors
        self.at = 0  # the token that is next
        self.header = False  # in a header: the bare word "then" ends the arguments
        self.depth = 0  # open brackets

    # -- tools ---------------------------------------------------------------------------------------------------------

    def span(self, start: int) -> Span:
        """The span from offset ``start`` to the end of the last token that was taken."""
        return self.places.span(start, self.tokens[self.at - 1][3])

    def error(self, code: str, message: str, start: int, end: int, expected: tuple[str, ...] = ()) -> None:
        """Collect an error."""
        self.errors.append((start, self.places.error(code, message, start, max(end, start + 1), expected)))
        if len(self.errors) >= ERRORS_MAX:
            self.stopped = True
            self.give_up()

    def give_up(self) -> NoReturn:
        """Raise what was found, in the order of the text."""
        errors = [error for _, error in sorted(self.errors, key=lambda pair: pair[0])]
        if self.stopped:
            last = errors[-1]
            errors.append(ChainError("PC-PARSE-MANY", TOO_MUCH, last.span, source=last.source))
        raise ChainErrors(errors)

    def fail(self, code: str, message: str, token: Token, expected: tuple[str, ...] = ()) -> NoReturn:
        """Collect an error at a token, unless one was collected there already, and give up the statement."""
        if token[0] != "bad":
            self.error(code, message, token[2], token[3], expected)
        raise Failed

    def unexpected(self, token: Token, *expected: str) -> NoReturn:
        """Give up: another token was expected. A word that is nearly right is pointed out."""
        found = self.shown(token)
        message = f"{found} is not expected here"
        if token[0] == "word":
            near = get_close_matches(token[1], [word.strip('"') for word in expected], 1)
            meant = _FOREIGN_OPERATORS.get(token[1]) or "".join(near)
            message += f': did you mean "{meant}"?' if meant else ""
        self.fail("PC-PARSE-EXPECTED", message, token, expected)

    def shown(self, token: Token) -> str:
        """The token as it stands in the text, or what it is."""
        if token[0] in ("end", "eof"):
            return "the end of the statement" if token[0] == "end" else "the end of the text"
        text = self.text[token[2] : min(token[3], token[2] + SHOWN_CHARS_MAX)].split("\n")[0]
        text += "..." if len(text) == SHOWN_CHARS_MAX else ""
        return text if text[:1] == '"' else f'"{text}"'

    def take(self, kind: str, *expected: str) -> Token:
        """Take the next token, which must be of this kind."""
        token = self.tokens[self.at]
        if token[0] != kind:
            self.unexpected(token, *(expected or (f'"{kind}"',)))
        self.at += 1
        return token

    def enter(self, token: Token) -> None:
        """Count a bracket that opens. Raises Failed beyond BRACKETS_MAX."""
        self.depth += 1
        if self.depth > BRACKETS_MAX:
            self.fail("PC-PARSE-BRACKETS", f'brackets and "!" are nested deeper than {BRACKETS_MAX}', token)

    # -- arguments -----------------------------------------------------------------------------------------------------

    def arguments(self) -> tuple[Argument, ...]:
        """The arguments of a command, up to what ends it."""
        tokens, options = self.tokens, True
        found: list[Argument] = []
        while True:
            kind, value, _, _ = token = tokens[self.at]
            if kind in AFTER_ARGUMENTS:
                return tuple(found)
            if kind == "word":
                if value == "then" and self.header:
                    return tuple(found)
                if value == "--" and options:
                    options = False
                    self.at += 1
                    continue
                found.append(self.word(token))
                self.at += 1
            elif kind == "option" and options:
                found.append(self.option(token))
            else:
                if kind in COMPARISONS or kind in "=!,":
                    self._operator_among_arguments(token)
                found.append(self.argument())

    def _operator_among_arguments(self, token: Token) -> NoReturn:
        kind, before = token[0], self.tokens[self.at - 1]
        after = self.tokens[self.at + 1]
        if before[3] == token[2] or (after[2] == token[3] and after[0] != "end"):
            message = f'"{kind}" is no part of a word: put the text in quotes'
        elif kind in COMPARISONS:
            message = f'"{kind}" compares two values and is no argument: quote it, or compare $(...) {kind} ...'
        else:
            message = f'"{kind}" is no argument: put it in quotes'
        self.fail("PC-PARSE-ARGUMENT", message, token)

    def option(self, token: Token) -> Option:
        """``--name``, ``-x``, or ``--name=value`` where nothing stands between."""
        _, spelling, start, end = token
        self.at += 1
        equals = self.tokens[self.at]
        value = None
        if equals[0] == "=" and equals[2] == end:
            self.at += 1
            if self.tokens[self.at][2] != equals[3]:
                self.fail("PC-PARSE-ARGUMENT", f'the value of {spelling} follows "=" without a blank', equals)
            value = self.argument()
        return Option(spelling.lstrip("-"), spelling, value, self.span(start))

    def argument(self, *expected: str) -> Expression:
        """One argument."""
        token = self.tokens[self.at]
        read = _READERS.get(token[0])
        if read is None:
            self.unexpected(token, *(expected or ("a value",)))
        self.at += 1
        value: Expression = read(self, token)
        return value

    def word(self, token: Token) -> Expression:
        """A bare word: one of the words true, false and null, or a string."""
        _, value, start, end = token
        if value in LITERALS:
            return Literal(LITERALS[value], value, self.places.span(start, end))
        if value in RESERVED_ARGUMENTS:
            message = f'"{value}" as an argument must be quoted; as a keyword it stands first in its statement'
            self.fail("PC-PARSE-KEYWORD", message + f': write "; {value}"', token)
        return Text(value, True, self.places.span(start, end))

    def _number(self, token: Token) -> Expression:
        """A literal number; with a leading zero or beyond 64 bits it is a string."""
        _, spelling, start, end = token
        span = self.places.span(start, end)
        digits = spelling.removeprefix("-").partition(".")[0]
        if len(digits) > 1 and digits[0] == "0":
            return Text(spelling, True, span)
        if "." in spelling:
            number = float(spelling)
            return Literal(number, spelling, span) if abs(number) != float("inf") else Text(spelling, True, span)
        if len(digits) < _INT_DIGITS_MAX and _INT_MIN <= int(spelling) <= _INT_MAX:
            return Literal(int(spelling), spelling, span)
        return Text(spelling, True, span)

    def _text(self, token: Token) -> Text:
        return Text(token[1], False, self.places.span(token[2], token[3]))

    def _bare(self, token: Token) -> Text:
        return Text(token[1], True, self.places.span(token[2], token[3]))

    def _variable(self, token: Token) -> Variable:
        variable: Variable = token[1]
        return variable

    def _default(self, token: Token) -> Variable:
        """``${path ?? default}``, behind the path."""
        variable: Variable = token[1]
        self.enter(token)
        self.take("??")
        value = self.tokens[self.at]
        default = self.argument("a literal", "a variable")
        if not isinstance(default, Literal | Text | Variable) or (isinstance(default, Text) and default.bare):
            message = "a default is a literal or a variable"
            if isinstance(default, Text):
                message = f'"{default.value}" is a bare word: write "{default.value}" in quotes, or a variable with $'
            self.error("PC-PARSE-DEFAULT", message, value[2], self.tokens[self.at - 1][3])
        self.take("}")
        self.depth -= 1
        return Variable(variable.name, variable.steps, default, self.span(token[2]))

    def _string(self, token: Token) -> Interpolated:
        """A double-quoted string with expansions, behind its opening quote."""
        parts: list[Text | Variable | Substitution] = []
        while True:
            part = self.tokens[self.at]
            self.at += 1
            if part[0] == "close":
                return Interpolated(tuple(parts), self.span(token[2]))
            if part[0] == "chunk":
                parts.append(self._text(part))
            elif part[0] in ("variable", "${", "$("):
                parts.append(_READERS[part[0]](self, part))
            else:
                raise Failed  # bad

    def _substitution(self, token: Token) -> Substitution:
        header, self.header = self.header, False
        self.enter(token)
        body = self.and_or()
        self.take(")", '"&&"', '"||"', '")"')
        self.depth -= 1
        self.header = header
        return Substitution(body, self.span(token[2]))

    def _list(self, token: Token) -> ListLiteral:
        items: list[Expression] = []
        self.enter(token)
        while self.tokens[self.at][0] != "]":
            items.append(self.argument("a value", '"]"'))
            if self.tokens[self.at][0] != "]":
                self.take(",", '","', '"]"')
        self.at += 1
        self.depth -= 1
        return ListLiteral(tuple(items), self.span(token[2]))

    def _map(self, token: Token) -> MapLiteral:
        entries: dict[str, tuple[Text, Expression]] = {}
        self.enter(token)
        while self.tokens[self.at][0] != "}":
            key = self.take("key", 'a key and ":"', '"}"')
            (name, bare), start, end = key[1:]
            if name in entries:
                self.error("PC-PARSE-KEY", f'the key "{name}" stands twice in this map', start, end)
            entries[name] = (Text(name, bare, self.places.span(start, end)), self.argument())
            if self.tokens[self.at][0] != "}":
                self.take(",", '","', '"}"')
        self.at += 1
        self.depth -= 1
        return MapLiteral(tuple(entries.values()), self.span(token[2]))

    @abstractmethod
    def and_or(self) -> Statement:
        """The statement inside of ``$(...)``; see the parser."""


_READERS: dict[str, Callable[[Any, Token], Any]] = {
    "word": Arguments.word,
    "number": Arguments._number,
    "option": Arguments._bare,
    "text": Arguments._text,
    "variable": Arguments._variable,
    "${": Arguments._default,
    "string": Arguments._string,
    "$(": Arguments._substitution,
    "[": Arguments._list,
    "{": Arguments._map,
}
