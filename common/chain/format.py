"""``chain fmt``: the text of a block in one way of writing, with its comments and single blank lines.

A statement a line, two blanks a level, long lines broken behind ``&&`` and ``||`` and inside of lists and maps. The
result means the same: the parser makes the same nodes of it, but for places. Formatting twice changes nothing.

A comment on a line of its own stays before what it is before; one behind code stays behind it; one inside of a
statement comes before the statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.chain import nodes
from common.chain.errors import Span
from common.chain.lexer import Lexer
from common.chain.parser import parse
from common.chain.printer import entry_of, line_of, operand_of, target_of

LINE_CHARS_MAX = 100  # what is longer is broken where that is possible
INDENT = "  "


class _Item(NamedTuple):
    """Some lines of output, and where in the source, as offsets, their code begins and ends."""

    text: str
    depth: int
    start: int = 0
    end: int = 0
    opens: bool = False  # a body follows
    closes: bool = False  # a body ends before it


def format_text(text: str) -> str:
    """Return the text of a block in canonical form. Raises ChainErrors where it does not parse."""
    body = parse(text)
    source = Lexer(text).run()
    return "".join(line + "\n" for line in _Merge(source, text).lines(_Layout(source).body(body, 0)))


def format_body(body: nodes.Body) -> str:
    """Return the canonical text of nodes that need not come from a text: without comments and blank lines."""
    return "".join(line + "\n" for item in _Layout(None).body(body, 0) for line in _indented(item))


def _indented(item: _Item) -> list[str]:
    return [INDENT * item.depth + line for line in item.text.split("\n")]


class _Layout:
    """Nodes -> items in the order of the source, which is needed for their places only."""

    def __init__(self, source: Lexer | None) -> None:
        self._source = source
        self._token = 0

    def body(self, body: nodes.Body | None, depth: int) -> Iterator[_Item]:
        """The items of some statements."""
        for node in body.statements if body else ():
            match node:
                case nodes.If():
                    yield from self._if(node, depth)
                case nodes.Case():
                    yield from self._case(node, depth)
                case nodes.For():
                    names = ", ".join(node.names)
                    yield self._header(node, f"for {names} in {line_of(node.collection)} then", depth)
                    yield from self.body(node.body, depth + 1)
                    yield self._closing("end", depth)
                case nodes.MatchResult():
                    yield from self._match_result(node, depth)
                case _:
                    start, end = self._place(node.span)
                    yield _Item(_broken(node, INDENT, LINE_CHARS_MAX - 2 * depth), depth, start, end)

    def _if(self, node: nodes.If, depth: int) -> Iterator[_Item]:
        for index, branch in enumerate(node.branches):
            yield self._branch("elif" if index else "if", branch, depth, closes=bool(index))
            yield from self.body(branch.body, depth + 1)
        yield from self._otherwise(node.otherwise, depth)
        yield self._closing("end", depth)

    def _case(self, node: nodes.Case, depth: int) -> Iterator[_Item]:
        subject = "" if node.subject is None else f" {line_of(node.subject)} as {node.name}"
        yield self._header(node, f"case{subject} then", depth)
        for index, branch in enumerate(node.branches):
            yield self._branch("when", branch, depth + 1, closes=bool(index))
            yield from self.body(branch.body, depth + 2)
        yield from self._otherwise(node.otherwise, depth + 1)
        yield self._closing("end", depth)

    def _match_result(self, node: nodes.MatchResult, depth: int) -> Iterator[_Item]:
        start, _ = self._place(node.span)
        _, end = self._place(node.command.span)
        yield _Item(f"match-result $({line_of(node.command)})", depth, start, end, opens=True)
        branches = [("ok", node.ok_name, node.ok), ("err", node.err_name, node.err)]
        written = [(word, name, body) for word, name, body in branches if body is not None]
        written.sort(key=lambda branch: (branch[2].span.line, branch[2].span.column))
        for index, (word, name, body) in enumerate(written):
            start, end = self._next("branch")
            yield _Item(f"{word}({name})", depth + 1, start, end, opens=True, closes=bool(index))
            yield from self.body(body, depth + 2)
        yield self._closing("end", depth)

    def _branch(self, word: str, branch: nodes.Branch, depth: int, closes: bool) -> _Item:
        room = LINE_CHARS_MAX - 2 * depth - len(word) - 6
        text = f"{word} {_broken(branch.condition, 2 * INDENT, room)} then"
        return self._header(branch, text, depth)._replace(closes=closes)

    def _header(self, node: nodes.Statement | nodes.Branch, text: str, depth: int) -> _Item:
        start, _ = self._place(node.span)
        return _Item(text, depth, start, self._next("word", "then")[1], opens=True)

    def _otherwise(self, body: nodes.Body | None, depth: int) -> Iterator[_Item]:
        if body is not None:
            yield self._closing("else", depth)._replace(opens=True)
            yield from self.body(body, depth + 1)

    def _closing(self, word: str, depth: int) -> _Item:
        start, end = self._next("word", word)
        return _Item(word, depth, start, end, closes=True)

    def _place(self, span: Span) -> tuple[int, int]:
        """Where a node begins and ends. Keywords are looked for behind the beginning."""
        if self._source is None:
            return 0, 0
        offset, tokens = self._source.places.offset, self._source.tokens
        start = offset(span.line, span.column)
        while tokens[self._token][2] < start:
            self._token += 1
        return start, offset(span.end_line, span.end_column)

    def _next(self, kind: str, word: str = "") -> tuple[int, int]:
        """Where the next such token begins and ends. Items come in the order of the source."""
        if self._source is None:
            return 0, 0
        tokens = self._source.tokens
        while tokens[self._token][0] != kind or (word and tokens[self._token][1] != word):
            self._token += 1
        self._token += 1
        return tokens[self._token - 1][2:]


class _Merge:
    """Items and comments -> lines."""

    def __init__(self, source: Lexer, text: str) -> None:
        self._places, self._comments, self._text = source.places, source.comments, text
        self._lines: list[str] = []
        self._last = 0  # the source's line that was written last
        self._trailing = False  # a comment may stand behind the last line
        self._opened = True  # no blank line goes here

    def lines(self, items: Iterator[_Item]) -> list[str]:
        """The lines of all items, with every comment."""
        next_comment = 0
        for item in items:
            while next_comment < len(self._comments) and self._comments[next_comment][0] < item.end:
                self._comment(self._comments[next_comment], item)
                next_comment += 1
            self._gap(self._line(item.start), closes=item.closes)
            self._lines += _indented(item)
            self._last, self._trailing, self._opened = self._line(item.end), True, item.opens
        for comment in self._comments[next_comment:]:
            self._comment(comment, _Item("", 0, len(self._text), len(self._text)))
        return self._lines

    def _line(self, offset: int) -> int:
        return self._places.span(offset, offset).line

    def _comment(self, comment: tuple[int, int], before: _Item) -> None:
        """Write a comment: behind the last line if it stands there in the source, else before ``before``."""
        start, end = comment
        place, text = self._places.span(start, end), self._text[start:end].rstrip()
        if self._trailing and place.line == self._last and start < before.start:
            self._lines[-1] += "  " + text
            self._trailing = False
            return
        keyword = self._places.span(before.start, before.start)
        of_the_body = before.closes and place.column > keyword.column
        self._gap(place.line, closes=False)
        self._lines.append(INDENT * (before.depth + of_the_body) + text)
        self._last, self._trailing, self._opened = place.line, False, False

    def _gap(self, line: int, closes: bool) -> None:
        if line > self._last + 1 and not self._opened and not closes:
            self._lines.append("")


def _broken(node: nodes.Statement, indent: str, room: int) -> str:
    """A statement of one line, or broken where it is longer than ``room``; lines but the first have ``indent``."""
    line = line_of(node)
    if len(line) <= room:
        return line
    if isinstance(node, nodes.Or | nodes.And):
        operator = " ||" if isinstance(node, nodes.Or) else " &&"
        return f"{operator}\n{indent}".join(operand_of(part, type(node)) for part in node.operands)
    if isinstance(node, nodes.Assignment) and isinstance(node.value, nodes.ListLiteral):
        return _rows(f"{target_of(node)} = [", [line_of(item) for item in node.value.items], "]")
    if isinstance(node, nodes.Assignment) and isinstance(node.value, nodes.MapLiteral):
        return _rows(f"{target_of(node)} = {{", [entry_of(entry) for entry in node.value.entries], "}")
    return line


def _rows(head: str, rows: Sequence[str], tail: str) -> str:
    return "\n".join([head, *(f"{INDENT}{row}," for row in rows), tail])
