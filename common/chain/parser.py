"""Text of a block -> nodes (L2, L3). Purely syntactic: it knows no commands and no names.

Recursive descent over the lexer's tokens. A statement with an error is given up and reading goes on behind its end, so
that all errors of a text come at once, in the order of the text.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import NoReturn

from common.chain.errors import ChainError, ChainErrors, Span
from common.chain.lexer import ERRORS_MAX, Token
from common.chain.nodes import (
    And,
    Assignment,
    Body,
    Branch,
    Case,
    Command,
    Comparison,
    Condition,
    Expression,
    For,
    Group,
    If,
    Literal,
    MatchResult,
    Not,
    Or,
    Statement,
    Text,
    Variable,
)
from common.chain.parser_arguments import COMPARISONS, Arguments, Failed
from common.chain.paths import KEYWORDS, LITERALS, NAME, RESERVED, SCOPES, parse_path

BLOCK_BYTES_MAX = 64 * 1024
STATEMENTS_NESTED_MAX = 16
BRANCHES_MAX = 100

_COMMAND_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_INSIDE = frozenset(("then", "elif", "else", "end", "when", "as", "in"))
# words of other languages, for the hint where an "end" is missing
_FOREIGN = {"fi": "end", "endif": "end", "esac": "end", "done": "end", "elsif": "elif", "elseif": "elif"}


def parse(text: str) -> Body:
    """Return the statements of a block. Raises ChainErrors with all errors of the text; spans are relative to it."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > BLOCK_BYTES_MAX:
        message = f"the block has {size} bytes, {BLOCK_BYTES_MAX} are allowed: divide it into blocks, or exec one"
        raise ChainErrors([ChainError("PC-PARSE-SIZE", message)])
    return _Parser(text).block()


class _Parser(Arguments):
    """Statements. ``_nested`` counts the if, case, for and match-result that are open."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nested = 0

    def block(self) -> Body:
        """The whole text."""
        if self.stopped:
            self._raise()
        body = self._body(frozenset())
        if self.errors:
            self._raise()
        return body

    def _raise(self) -> NoReturn:
        """Raise what was found, sorted, at most ERRORS_MAX."""
        errors = [error for _, error in sorted(self.errors, key=lambda pair: pair[0])]
        if self.stopped or len(errors) > ERRORS_MAX:
            rest = ChainError("PC-PARSE-MANY", "too much is wrong to go on: there may be more errors than these")
            errors = [*errors[:ERRORS_MAX], rest]
        raise ChainErrors(errors)

    # -- bodies and recovery -------------------------------------------------------------------------------------------

    def _body(self, ends: frozenset[str]) -> Body:
        """Statements up to a word of ``ends`` that stands first, which is left; or to the end of the text."""
        statements: list[Statement] = []
        tokens = self.tokens
        first = tokens[self.at][2]
        while True:
            kind, value, _, _ = tokens[self.at]
            if kind == "end":
                self.at += 1
            elif kind == "eof" or (kind == "word" and value in ends) or (kind == "branch" and "ok(" in ends):
                break
            else:
                statement = self._recovering(self._statement)
                if statement is not None:
                    statements.append(statement)
        if not statements:
            return Body((), self.places.span(first, first))
        begin, last = statements[0].span, statements[-1].span
        return Body(tuple(statements), Span(begin.line, begin.column, last.end_line, last.end_column))

    def _recovering(self, read: Callable[[], Statement]) -> Statement | None:
        """Call ``read``; where it gives up, go to the end of the statement and return None."""
        depth, header = self.depth, self.header
        try:
            return read()
        except Failed:
            self.depth, self.header = depth, header
            self._skip()
            return None

    def _skip(self, *words: str) -> None:
        """Go to the end of the statement, or to one of these words."""
        while True:
            kind, value = self.tokens[self.at][:2]
            if kind in ("end", "eof") or (kind == "word" and value in words):
                return
            self.at += 1

    def _statement(self) -> Statement:
        kind, value, _, _ = token = self.tokens[self.at]
        if kind == "word" and value in _COMPOUND:
            if self.tokens[self.at + 1][0] == "=":
                self._reserved(token)
            return self._compound(token)
        if kind == "branch" or (kind == "word" and value in _INSIDE and self.tokens[self.at + 1][0] != "="):
            self._stray(token)
        node = self.and_or()
        self._finish()
        return node

    def _finish(self) -> None:
        """A statement must end here."""
        token = self.tokens[self.at]
        if token[0] not in ("end", "eof"):
            self.unexpected(token, "the end of the statement", '"&&"', '"||"')

    def _stray(self, token: Token) -> NoReturn:
        """A keyword without the statement that it belongs to."""
        word = token[1]
        owners = {"then": "if", "elif": "if", "else": "if or case", "when": "case", "as": "case", "in": "for"}
        if word == "end":
            message = '"end" closes nothing'
        elif token[0] == "branch":
            message = f'"{word}" belongs into a match-result'
        else:
            message = f'"{word}" has no {owners[word]} that it belongs to'
        self.fail("PC-PARSE-KEYWORD", message, token)

    # -- compound statements -------------------------------------------------------------------------------------------

    def _compound(self, token: Token) -> Statement:
        """if, case, for or match-result, with the count of those that are open."""
        self._nested += 1
        if self._nested > STATEMENTS_NESTED_MAX:
            self.stopped = True
            message = f"statements are nested deeper than {STATEMENTS_NESTED_MAX}: put the inner ones into a block"
            self.error("PC-PARSE-NESTING", message, token[2], token[3])
            self._raise()
        self.at += 1
        node = _COMPOUND[token[1]](self, token)
        self._nested -= 1
        self._finish()
        return node

    def _header(self, read: Callable[[], Statement]) -> Statement:
        """What stands between a keyword and ``then``, with the ``then``. After an error reading goes on behind it."""
        start = self.at
        header, self.header = self.header, True
        node = self._recovering_to_then(read)
        self.header = header
        if node is not None:
            return node
        return Condition(Literal(True, "true", self.places.span(self.tokens[start][2], self.tokens[start][2])))

    def _recovering_to_then(self, read: Callable[[], Statement]) -> Statement | None:
        depth = self.depth
        try:
            node = read()
            self._then()
            return node
        except Failed:
            self.depth = depth
            self._skip("then")
            if self.tokens[self.at][0] == "end" and self.tokens[self.at + 1][:2] == ("word", "then"):
                self.at += 1
            if self.tokens[self.at][0] == "word":
                self.at += 1
            return None

    def _then(self) -> None:
        token = self.tokens[self.at]
        if token[0] != "word" or token[1] != "then":
            self.unexpected(token, '"then"', '"&&"', '"||"')
        self.at += 1

    def _branch(self, start: int, ends: frozenset[str]) -> Branch:
        """``condition then body``, behind its keyword, which begins at ``start``."""
        condition = self._header(self.and_or)
        body = self._body(ends)
        return Branch(condition, body, self.span(start))

    def _if(self, token: Token) -> If:
        branches = [self._branch(token[2], _IN_IF)]
        while self._is("elif"):
            word = self._next()
            self._count(branches, word)
            branches.append(self._branch(word[2], _IN_IF))
        otherwise = self._otherwise()
        self._end(token)
        return If(tuple(branches), otherwise, self.span(token[2]))

    def _case(self, token: Token) -> Case:
        subject: list[Expression] = []
        name: list[str] = []

        def read() -> Statement:
            if not self._is("then"):
                subject.append(self.argument("a value", '"then"'))
                self._word("as")
                name.append(self._name())
            return _NOTHING

        self._header(read)
        branches: list[Branch] = []
        self._skip_to_when()
        while self._is("when"):
            word = self._next()
            self._count(branches, word)
            branches.append(self._branch(word[2], _IN_CASE))
        if not branches:
            self.error("PC-PARSE-EXPECTED", '"case" has no "when"', token[2], token[3], ('"when"',))
        otherwise = self._otherwise()
        self._end(token)
        return Case(subject[0] if subject else None, "".join(name), tuple(branches), otherwise, self.span(token[2]))

    def _skip_to_when(self) -> None:
        """Between ``then`` and the first ``when`` stands nothing."""
        body = self._body(_IN_CASE)
        if body.statements:
            first = body.statements[0].span
            message = 'between "then" of the case and its first "when" stands nothing'
            self.errors.append((self._offset(first), self._at_span("PC-PARSE-EXPECTED", message, first, '"when"')))

    def _for(self, token: Token) -> For:
        names: list[str] = []
        collection: list[Expression] = []

        def read() -> Statement:
            names.append(self._name())
            if self.tokens[self.at][0] == ",":
                self.at += 1
                names.append(self._name())
            self._word("in")
            collection.append(self.argument())
            return _NOTHING

        self._header(read)
        body = self._body(_IN_FOR)
        self._end(token)
        value = collection[0] if collection else Text("", False, self.places.span(token[2], token[3]))
        return For(tuple(names), value, body, self.span(token[2]))

    def _match_result(self, token: Token) -> MatchResult:
        command = self._recovering(self._matched)
        between = self._body(_IN_MATCH)
        if between.statements:
            first = between.statements[0].span
            message = "a branch ok(NAME) or err(NAME) must come first"
            self.errors.append((self._offset(first), self._at_span("PC-PARSE-EXPECTED", message, first)))
        found: dict[str, tuple[str, Body]] = {}
        while self.tokens[self.at][0] == "branch":
            _, text, start, end = self._next()
            word, name = text[:-1].split("(")
            name = name.strip()
            if name in RESERVED:
                self.error("PC-PARSE-NAME", f'"{name}" is a word of the language and no name', start, end)
            if word in found:
                self.error("PC-PARSE-EXPECTED", f"the branch {word}(...) stands twice", start, end)
            found[word] = (name, self._body(_IN_MATCH))
        if not found:
            expected = ('"ok(NAME)"', '"err(NAME)"')
            self.error("PC-PARSE-EXPECTED", '"match-result" has no branch', token[2], token[3], expected)
        self._end(token)
        ok_name, ok = found.get("ok", ("", None))
        err_name, err = found.get("err", ("", None))
        return MatchResult(command or _NOTHING, ok_name, ok, err_name, err, self.span(token[2]))

    def _matched(self) -> Statement:
        """``$( command )`` of a match-result."""
        token = self.take("$(", '"$(command)"')
        command = self._substitution(token).body
        if not isinstance(command, Command):
            self.error("PC-PARSE-EXPECTED", "match-result takes one command", token[2], self.tokens[self.at - 1][3])
        return command

    def _otherwise(self) -> Body | None:
        if not self._is("else"):
            return None
        self._next()
        return self._body(_IN_FOR)

    def _count(self, branches: list[Branch], token: Token) -> None:
        if len(branches) == BRANCHES_MAX:
            message = f"more than {BRANCHES_MAX} branches: a map or a list with a for is shorter"
            self.error("PC-PARSE-BRANCHES", message, token[2], token[3])

    def _end(self, opener: Token) -> None:
        """The ``end`` of the statement that ``opener`` began."""
        token = self.tokens[self.at]
        if token[0] == "word" and token[1] == "end":
            self.at += 1
            return
        if token[0] == "word":  # else or elif behind an else
            self._stray(token)
        message = f'"{opener[1]}" has no "end"'
        self.error("PC-PARSE-END", message + self._foreign_end(), opener[2], opener[3], ('"end"',))
        raise Failed

    def _foreign_end(self) -> str:
        """A word that was perhaps meant to be ``end``."""
        before = "end"
        for kind, value, start, _ in self.tokens:
            if kind == "word" and before == "end" and value not in KEYWORDS:
                meant = _FOREIGN.get(value) or "".join(get_close_matches(value, ["end", "elif"], 1, 0.75))
                if meant:
                    line = self.places.span(start, start).line
                    return f': did you mean "{meant}" where "{value}" stands in line {line}?'
                before = kind
            else:
                before = kind if kind != "word" or value not in ("then", "else") else "end"
        return ""

    def _is(self, word: str) -> bool:
        token = self.tokens[self.at]
        return token[0] == "word" and token[1] == word

    def _next(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def _word(self, word: str) -> None:
        if not self._is(word):
            self.unexpected(self.tokens[self.at], f'"{word}"')
        self.at += 1

    def _name(self) -> str:
        """A NAME that may be given to a variable."""
        token = self.take("word", "a name")
        if token[1] in RESERVED:
            self._reserved(token)
        if NAME.fullmatch(token[1]) is None:
            self.fail("PC-PARSE-NAME", f'"{token[1]}" is no name: letters, digits and "_", a digit not first', token)
        name: str = token[1]
        return name

    def _reserved(self, token: Token) -> NoReturn:
        self.fail("PC-PARSE-NAME", f'"{token[1]}" is a word of the language and no name', token)

    def _offset(self, span: Span) -> int:
        """The offset of a span's beginning."""
        lines = self.text.split("\n")
        return sum(len(line) + 1 for line in lines[: span.line - 1]) + span.column - 1

    def _at_span(self, code: str, message: str, span: Span, *expected: str) -> ChainError:
        return ChainError(code, message, span, source=self.text.split("\n")[span.line - 1], expected=expected)

    # -- and, or, primary ----------------------------------------------------------------------------------------------

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
            self._reserved(token)
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
        if isinstance(value, Text) and value.bare and follows[0] in _MORE and not (self.header and self._is("then")):
            end = self.at
            while self.tokens[end][0] in _MORE:
                end += 1
            text = self.text[before[2] : self.tokens[end - 1][3]]
            message = f"one value is assigned: write $({text}) for what the command gives, or put the text in quotes"
            self.fail("PC-PARSE-ASSIGN", message, ("", "", before[2], self.tokens[end - 1][3]))
        return Assignment(scope, target, value, self.span(start))


def _joined(first: Statement, last: Statement) -> Span:
    return Span(first.span.line, first.span.column, last.span.end_line, last.span.end_column)


_IN_IF = frozenset(("elif", "else", "end"))
_IN_CASE = frozenset(("when", "else", "end"))
_IN_FOR = frozenset(("end",))
_IN_MATCH = frozenset(("ok(", "end"))
_OPERANDS = frozenset(("number", "text", "variable", "${", "string", "$(", "[", "{", "bad"))
_MORE = frozenset(("word", "number", "text", "variable", "option"))
_NOTHING = Condition(Literal(True, "true"))
_COMPOUND: dict[str, Callable[[_Parser, Token], Statement]] = {
    "if": _Parser._if,
    "case": _Parser._case,
    "for": _Parser._for,
    "match-result": _Parser._match_result,
}
