"""Text of a block -> nodes (L2, L3). Purely syntactic: it knows no commands and no names.

Recursive descent over the lexer's tokens. A statement with an error is given up and reading goes on behind its end, so
that all errors of a text come at once, in the order of the text.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cached_property
from typing import NoReturn

from common.chain.errors import ChainErrors, Span
from common.chain.lexer_reading import Token
from common.chain.nodes import (
    Body,
    Branch,
    Case,
    Command,
    Condition,
    Expression,
    For,
    If,
    Literal,
    MatchResult,
    Statement,
    Text,
)
from common.chain.parser_arguments import RESERVED_ARGUMENTS, Failed
from common.chain.parser_statements import Statements
from common.chain.paths import NAME, RESERVED, Places

BLOCK_BYTES_MAX = 64 * 1024
STATEMENTS_NESTED_MAX = 16
BRANCHES_MAX = 100

_INSIDE = frozenset(("then", "elif", "else", "end", "when", "as", "in"))
# words of other languages, for the hint where an "end" is missing
_FOREIGN = {"fi": "end", "endif": "end", "esac": "end", "done": "end", "elsif": "elif", "elseif": "elif"}


def parse(text: str) -> Body:
    """Return the statements of a block. Raises ChainErrors with all errors of the text; spans are relative to it."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        message = f"U+{ord(text[exc.start]):04X} is half a character and no text"
        shown = Places(text.encode(errors="replace").decode())
        raise ChainErrors([shown.error("PC-PARSE-CHARACTER", message, exc.start, exc.end)]) from None
    if size > BLOCK_BYTES_MAX:
        message = f"the block has {size} bytes, {BLOCK_BYTES_MAX} are allowed: divide it into blocks, or exec one"
        fits = len(text.encode()[:BLOCK_BYTES_MAX].decode(errors="ignore"))
        raise ChainErrors([Places(text).error("PC-PARSE-SIZE", message, fits, fits + 1)])
    return _Parser(text).block()


class _Parser(Statements):
    """Statements. ``_nested`` counts the if, case, for and match-result that are open."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nested = 0

    def block(self) -> Body:
        """The whole text."""
        if self.stopped:
            self.give_up()
        body = self._body(frozenset())
        if self.errors:
            self.give_up()
        return body

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
        depth, header, at = self.depth, self.header, self.at
        try:
            return read()
        except Failed:
            self.depth, self.header = depth, header
            kind, value = self.tokens[self.at][:2]
            if kind != "word" or value not in RESERVED_ARGUMENTS or not self._nested or self.at == at:
                self._skip()  # else its ";" is missing, and the word closes what is open
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
                self.reserved(token)
            return self._compound(token)
        if kind == "branch" or (kind == "word" and value in _INSIDE and self.tokens[self.at + 1][0] != "="):
            self._stray(token)
        node = self.and_or()
        self._finish("the end of the statement", '"&&"', '"||"')
        return node

    def _finish(self, *expected: str) -> None:
        """A statement must end here."""
        token = self.tokens[self.at]
        if token[0] not in ("end", "eof"):
            self.unexpected(token, *expected)

    def _stray(self, token: Token) -> NoReturn:
        """A keyword without the statement that it belongs to."""
        word = token[1]
        if word == "end":
            message = '"end" closes nothing'
        elif token[0] == "branch":
            message = f'"{word}" belongs into a match-result'
        else:
            message = f'no open {_OWNERS[word]} takes "{word}" here'
        self.fail("PC-PARSE-KEYWORD", message, token)

    # -- compound statements -------------------------------------------------------------------------------------------

    def _compound(self, token: Token) -> Statement:
        """if, case, for or match-result, with the count of those that are open."""
        self._nested += 1
        if self._nested > STATEMENTS_NESTED_MAX:
            self.stopped = True
            message = f"statements are nested deeper than {STATEMENTS_NESTED_MAX}: put the inner ones into a block"
            self.error("PC-PARSE-NESTING", message, token[2], token[3])
            self.give_up()
        self.at += 1
        try:
            node = _COMPOUND[token[1]](self, token)
        finally:
            self._nested -= 1
        self._finish("the end of the statement")
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
            if not self.is_word("then"):
                words = () if node is _NOTHING else ('"&&"', '"||"')
                self.unexpected(self.tokens[self.at], '"then"', *words)
            self.at += 1
            return node
        except Failed:
            self.depth = depth
            self._skip("then")
            if self.tokens[self.at][0] == "end" and self.tokens[self.at + 1][:2] == ("word", "then"):
                self.at += 1
            if self.tokens[self.at][0] == "word":
                self.at += 1
            return None

    def _branch(self, start: int, ends: frozenset[str]) -> Branch:
        """``condition then body``, behind its keyword, which begins at ``start``."""
        condition = self._header(self.and_or)
        body = self._body(ends)
        return Branch(condition, body, self.span(start))

    def _if(self, token: Token) -> If:
        branches = [self._branch(token[2], _IN_IF)]
        while self.is_word("elif"):
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
            if not self.is_word("then"):
                subject.append(self.argument("a value", '"then"'))
                self._word("as")
                name.append(self._name())
            return _NOTHING

        self._header(read)
        branches: list[Branch] = []
        self._nothing_before('"when"', _IN_CASE)
        while self.is_word("when"):
            word = self._next()
            self._count(branches, word)
            branches.append(self._branch(word[2], _IN_CASE))
        if not branches:
            self.error("PC-PARSE-EXPECTED", '"case" has no "when"', token[2], token[3], ('"when"',))
        otherwise = self._otherwise()
        self._end(token)
        return Case(subject[0] if subject else None, "".join(name), tuple(branches), otherwise, self.span(token[2]))

    def _nothing_before(self, what: str, ends: frozenset[str]) -> None:
        """Read statements that stand where none may stand, and report them."""
        body = self._body(ends)
        if body.statements:
            start = self.places.offset(body.span.line, body.span.column)
            self.error("PC-PARSE-EXPECTED", f"no statement may stand before the first {what}", start, start + 1)

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
        self._nothing_before("ok(NAME) or err(NAME)", _IN_MATCH)
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
        if not self.is_word("else"):
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
        message = f'"{opener[1]}" has no "end"'
        self.error("PC-PARSE-END", message + self._hint, opener[2], opener[3], ('"end"',))
        raise Failed

    @cached_property
    def _hint(self) -> str:
        """The hint at a word that stands alone in its statement and was perhaps meant to be ``end``."""
        for before, token, after in zip(self.tokens, self.tokens[1:], self.tokens[2:], strict=False):
            word, line = token[1], self.places.span(token[2], token[2]).line
            if token[0] != "word":
                continue
            if word == "if" and before[:2] == ("word", "else"):
                return f': "else if" in line {line} opens one of its own, write "elif"'
            if word in _FOREIGN and (before[0] == "end" or before[:2] == ("word", "else")):
                return f': did you mean "{_FOREIGN[word]}" where "{word}" stands in line {line}?'
            if before[0] == after[0] == "end" and word != "end" and len(word) < 6 and get_close_matches(word, ["end"]):
                return f': did you mean "end" where "{word}" stands in line {line}?'
        return ""

    def _next(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def _word(self, word: str) -> None:
        if not self.is_word(word):
            self.unexpected(self.tokens[self.at], f'"{word}"')
        self.at += 1

    def _name(self) -> str:
        """A NAME that may be given to a variable."""
        token = self.take("word", "a name")
        if token[1] in RESERVED:
            self.reserved(token)
        if NAME.fullmatch(token[1]) is None:
            self.fail("PC-PARSE-NAME", f'"{token[1]}" is no name: letters, digits and "_", a digit not first', token)
        name: str = token[1]
        return name


_OWNERS = {"then": "if", "elif": "if", "else": "if or case", "when": "case", "as": "case", "in": "for"}
_IN_IF = frozenset(("elif", "else", "end"))
_IN_CASE = frozenset(("when", "else", "end"))
_IN_FOR = frozenset(("end",))
_IN_MATCH = frozenset(("ok(", "end"))
_NOTHING = Condition(Literal(True, "true"))
_COMPOUND: dict[str, Callable[[_Parser, Token], Statement]] = {
    "if": _Parser._if,
    "case": _Parser._case,
    "for": _Parser._for,
    "match-result": _Parser._match_result,
}
