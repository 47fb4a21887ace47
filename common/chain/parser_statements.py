"""Tokens -> statements that stand in one line: and, or, not, commands, comparisons and assignments (L3)."""

from __future__ import annotations

from typing import NoReturn

from common.chain.errors import Span
from common.chain.lexer_reading import Token
from common.chain.nodes import (
    And,
    Assignment,
    Command,
    Comparison,
    Condition,
    Expression,
    Group,
    Literal,
    Not,
    Or,
    Statement,
    Text,
    Variable,
)
from common.chain.parser_arguments import AFTER_ARGUMENTS, COMPARISONS, Arguments
from common.chain.paths import KEYWORDS, LITERALS, NAME, RESERVED, SCOPES, parse_path

_OPERANDS = frozenset(("number", "text", "variable", "${", "string", "$(", "[", "{", "bad"))
_MORE = frozenset(("word", "number", "text", "variable", "option"))
_COMMAND_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


class Statements(Arguments):
    """The part of the parser that reads statements other than if, case, for and match-result."""

    def and_or(self) -> Statement:
        """``and { "||" and }``."""
        first = self._and()
        if self.tokens[self.at][0] != "||":
            return first
        operands = [first]
        while self.tokens[self.at][0] == "||":
            self.at += 1
            operands.append(self._and())
        return Or(tuple(operands), _joined(first, operands[-1]))

    def _and(self) -> Statement:
        first = self._unary()
        if self.tokens[self.at][0] != "&&":
            return first
        operands = [first]
        while self.tokens[self.at][0] == "&&":
            self.at += 1
            operands.append(self._unary())
        return And(tuple(operands), _joined(first, operands[-1]))

    def _unary(self) -> Statement:
        token = self.tokens[self.at]
        if token[0] != "!":
            return self._primary(token)
        self.at += 1
        self.enter(token)
        operand = self._unary()
        self.depth -= 1
        return Not(operand, self.span(token[2]))

    def _primary(self, token: Token) -> Statement:
        kind, value, start, _ = token
        if kind == "word":
            follows = self.tokens[self.at + 1][0]
            if follows == "=":
                return self._assignment(start, "", self._target())
            if value in SCOPES:
                return self._scoped(token)
            if follows not in COMPARISONS and value not in LITERALS:
                return self._command(token)
        elif kind == "(":
            return self._group(token)
        elif kind not in _OPERANDS:
            self.unexpected(token, "a statement")
        return self._comparison(token)

    def _command(self, token: Token) -> Command:
        _, name, start, end = token
        if name == "then" and self.header:
            self.unexpected(token, "a condition")
        if name in KEYWORDS:
            message = f'"{name}" is a statement of its own and stands first in its line or behind ";"'
            self.fail("PC-PARSE-KEYWORD", message, token)
        if not _COMMAND_NAME_CHARS.issuperset(name) or not (name[0].isalpha() or name[0] == "_"):
            self.fail("PC-PARSE-EXPECTED", f'"{name}" is no name of a command', token, ("a statement",))
        self.at += 1
        span = self.places.span(start, end)
        arguments = self.arguments()
        if not arguments:
            return Command(name, (), span, span)
        return Command(name, arguments, self.span(start), span)

    def _group(self, token: Token) -> Group:
        header, self.header = self.header, False
        self.at += 1
        self.enter(token)
        body = self.and_or()
        self.take(")", '"&&"', '"||"', '")"')
        self.depth -= 1
        self.header = header
        return Group(body, self.span(token[2]))

    def _comparison(self, token: Token) -> Statement:
        """What begins with a value: a comparison, an assignment to a path, or a variable or literal as condition."""
        start = token[2]
        left = self.argument()
        operator = self.tokens[self.at]
        if operator[0] in COMPARISONS:
            self._no_bare_operand(left, token)
            self.at += 1
            second = self.tokens[self.at]
            right = self.argument()
            self._no_bare_operand(right, second)
            return Comparison(operator[0], left, right, self.span(start))
        if isinstance(left, Variable):
            if operator[0] != "=":
                return Condition(left, left.span)
            if left.default is not None:
                self.fail("PC-PARSE-ASSIGN", "the target of an assignment has no default", token)
            return self._assignment(start, "", left)
        if isinstance(left, Literal) and isinstance(left.value, bool):
            return Condition(left, left.span)
        if token[0] == "$(":
            message = "$(...) by itself is no statement: write the command without $( ), or $(...) == true"
            self.fail("PC-PARSE-SUBSTITUTION", message, ("$(", "", start, self.tokens[self.at - 1][3]))
        if operator[0] in AFTER_ARGUMENTS:
            whole = (token[0], "", start, self.tokens[self.at - 1][3])
            message = f"{self.shown(whole)} by itself is no statement"
            self.fail("PC-PARSE-EXPECTED", message, whole, ("a comparison", "a command"))
        self.unexpected(operator, *sorted(f'"{text}"' for text in COMPARISONS))

    def _no_bare_operand(self, operand: Expression, token: Token) -> None:
        """A bare word in a comparison is nearly always a forgotten ``$``."""
        if isinstance(operand, Text) and operand.bare:
            word = operand.value
            variable = f"${word} for the variable, " if parse_path(word, operand.span) else ""
            message = (
                f'"{word}" is a bare word, which no comparison takes: write {variable}"{word}" in quotes for the text'
            )
            self.error("PC-PARSE-OPERAND", message, token[2], token[3])

    # -- assignments ---------------------------------------------------------------------------------------------------

    def _scoped(self, token: Token) -> Assignment:
        """``scope NAME`` or ``scope target = value``."""
        self.at += 1
        target = self._target()
        scope = SCOPES[token[1]]
        if self.tokens[self.at][0] == "=":
            return self._assignment(token[2], scope, target)
        if target.steps:
            message = f'"{token[1]}" without a value declares a name, not a path'
            self.error("PC-PARSE-ASSIGN", message, token[2], self.tokens[self.at - 1][3])
        return Assignment(scope, target, None, self.span(token[2]))

    def _target(self) -> Variable:
        """The target of an assignment: a name or path, bare or with ``$``."""
        kind, value, start, end = token = self.tokens[self.at]
        self.at += 1
        if kind == "variable":
            variable: Variable = value
            return variable
        if kind != "word":
            self.unexpected(token, "a name")
        if value in RESERVED:
            self.reserved(token)
        span = self.places.span(start, end)
        target = parse_path(value, span) if NAME.fullmatch(value) is None else Variable(value, (), None, span)
        if target is None:
            self.fail("PC-PARSE-NAME", f'"{value}" is no name that can be assigned', token)
        return target

    def _assignment(self, start: int, scope: str, target: Variable) -> Assignment:
        """The right side, with the ``=``."""
        self.at += 1
        before = self.tokens[self.at]
        value = self.argument()
        follows = self.tokens[self.at]
        more = follows[0] in _MORE and not (self.header and self.is_word("then"))
        if more and isinstance(value, Text) and value.bare:
            end = self.at
            while self.tokens[end][0] in _MORE:
                end += 1
            text = self.text[before[2] : self.tokens[end - 1][3]]
            message = f"one value is assigned: write $({text}) for what the command gives, or put the text in quotes"
            self.fail("PC-PARSE-ASSIGN", message, ("", "", before[2], self.tokens[end - 1][3]))
        return Assignment(scope, target, value, self.span(start))

    def is_word(self, word: str) -> bool:
        token = self.tokens[self.at]
        return token[0] == "word" and token[1] == word

    def reserved(self, token: Token) -> NoReturn:
        """Give up: a word of the language stands where a name belongs."""
        self.fail("PC-PARSE-NAME", f'"{token[1]}" is a word of the language and no name', token)


def _joined(first: Statement, last: Statement) -> Span:
    return Span(first.span.line, first.span.column, last.span.end_line, last.span.end_column)
