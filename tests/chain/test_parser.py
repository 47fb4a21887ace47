"""The parser: what texts mean, where their nodes lie, and every error with its exact text (L2, L3, L10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.chain import nodes
from common.chain.errors import ChainError, ChainErrors, Span
from common.chain.lexer_reading import ERRORS_MAX
from common.chain.parser import BLOCK_BYTES_MAX, BRANCHES_MAX, STATEMENTS_NESTED_MAX, parse
from common.chain.parser_arguments import BRACKETS_MAX
from tests.chain.shapes import short, spans

PARSING = Path(__file__).parent / "parsing"


def cases(path: Path) -> list[tuple[str, str, str]]:
    """(name, text, expected) of a file with ``=== name``, the text, ``---`` and what is expected, again and again."""
    found = []
    for case in ("\n" + path.read_text()).split("\n===")[1:]:
        head, _, expected = f"{case}\n".partition("\n---\n")
        name, _, text = head.partition("\n")
        found.append((f"{path.stem}:{name}", text, expected.rstrip("\n")))
    return found


MEANING = [(text, shape) for _, text, shape in cases(PARSING / "meaning.txt")]
ERRORS = [case for path in sorted((PARSING / "errors").glob("*.txt")) for case in cases(path)]


def errors(text: str) -> tuple[ChainError, ...]:
    """All errors of a text."""
    with pytest.raises(ChainErrors) as caught:
        parse(text)
    return caught.value.errors


def codes(text: str) -> list[str]:
    """The codes of all errors of a text."""
    return [error.code for error in errors(text)]


def places(text: str) -> list[tuple[int, int]]:
    """Line and column of all errors of a text."""
    return [(error.span.line, error.span.column) for error in errors(text)]


@pytest.mark.parametrize(("text", "shape"), MEANING)
def test_meaning(text: str, shape: str) -> None:
    """A text means what its shape says."""
    assert short(parse(text)) == shape


@pytest.mark.parametrize(("name", "text", "expected"), ERRORS, ids=[name for name, _, _ in ERRORS])
def test_errors(name: str, text: str, expected: str) -> None:
    """A wrong text is refused with exactly these errors: code, message, place, line with caret, what was expected."""
    with pytest.raises(ChainErrors) as caught:
        parse(text)
    assert str(caught.value) == expected, name


def test_there_are_cases() -> None:
    """The files of cases are found and read."""
    assert (len(ERRORS), len(MEANING)) > (45, 45)


def test_crlf_is_a_newline() -> None:
    """A text with carriage returns means the same."""
    for text, shape in MEANING:
        if '"' not in text and "'" not in text:
            assert short(parse(text.replace("\n", "\r\n"))) == shape


def test_half_characters_are_refused() -> None:
    """A lone surrogate is no text, in quotes neither, and its error can be printed."""
    with pytest.raises(ChainErrors) as caught:
        parse('a\necho "x\ud800"')
    assert str(caught.value) == (
        'PC-PARSE-CHARACTER: U+D800 is half a character and no text\n  at line 2, column 8\n  | echo "x?"\n  |        ^'
    )


def test_places_of_nodes() -> None:
    """Every node lies where its text is: lines and columns from 1, the end exclusive, multi-line ones included."""
    text = 'a\n  if eq $x.y "z" then\n    b "c\nd"\n  end'
    body = parse(text)
    (first, second) = body.statements
    assert first.span == Span(1, 1, 1, 2)
    assert isinstance(second, nodes.If)
    assert second.span == Span(2, 3, 5, 6)
    condition = second.branches[0].condition
    assert isinstance(condition, nodes.Command)
    assert (condition.span, condition.name_span) == (Span(2, 6, 2, 17), Span(2, 6, 2, 8))
    path = condition.arguments[0]
    assert isinstance(path, nodes.Variable)
    assert (path.span, path.steps[0].span) == (Span(2, 9, 2, 13), Span(2, 11, 2, 13))
    assert second.branches[0].body.span == Span(3, 5, 4, 3)


@pytest.mark.parametrize(("text", "_shape"), MEANING)
def test_places_lie_in_the_text(text: str, _shape: str) -> None:
    """No place lies outside of the text, and none ends before it begins."""
    lines = text.split("\n")
    for span in spans(parse(text)):
        begin, end = (span.line, span.column), (span.end_line, span.end_column)
        assert (1, 1) <= begin <= end
        assert span.end_line <= len(lines)
        assert span.end_column <= len(lines[span.end_line - 1]) + 1


def test_errors_come_in_the_order_of_the_text() -> None:
    """What the lexer finds and what the parser finds is told in the order of the lines."""
    with pytest.raises(ChainErrors) as caught:
        parse('a == 1\necho "\\d"\n$(b)\nc^\nelse')
    assert [error.span.line for error in caught.value.errors] == [1, 2, 3, 4, 5]


def test_block_size_is_limited() -> None:
    """64 KiB are read, one byte more is not; bytes are counted, not characters."""
    text = "a\n" * (BLOCK_BYTES_MAX // 2)
    assert len(parse(text).statements) == BLOCK_BYTES_MAX // 2
    assert codes(text + "a") == ["PC-PARSE-SIZE"]
    assert codes("é" * (BLOCK_BYTES_MAX // 2) + "a") == ["PC-PARSE-SIZE"]
    assert places(text + "a") == [(BLOCK_BYTES_MAX // 2 + 1, 1)]  # of the first character that is too much
    assert places("a\n" + "é" * BLOCK_BYTES_MAX) == [(2, BLOCK_BYTES_MAX // 2)]


def test_nested_statements_are_limited() -> None:
    """16 statements are nested, 17 are not."""

    def nested(depth: int) -> str:
        return "if a then\n" * depth + "end\n" * depth

    parse(nested(STATEMENTS_NESTED_MAX))
    assert codes(nested(STATEMENTS_NESTED_MAX + 1)) == ["PC-PARSE-NESTING", "PC-PARSE-MANY"]
    parse(nested(1) * (STATEMENTS_NESTED_MAX + 1))


@pytest.mark.parametrize(("opener", "closer"), [("$(a ", ")"), ("[", "]"), ("{a: ", "}"), ("${a ?? ", "}")])
def test_nested_brackets_are_limited(opener: str, closer: str) -> None:
    """64 brackets are nested, 65 are not; and one too deep is one error."""

    def nested(depth: int) -> str:
        return "a " + opener * depth + "1" + closer * depth

    parse(nested(BRACKETS_MAX))
    assert codes(nested(BRACKETS_MAX + 1)) == ["PC-PARSE-BRACKETS"]


def test_groups_nots_and_indices_are_limited() -> None:
    """Groups and ``!`` count as brackets do, and an index holds as many indices."""
    parse("(" * 32 + "!" * 32 + "a" + ")" * 32)
    assert codes("(" * 32 + "!" * 33 + "a" + ")" * 32) == ["PC-PARSE-BRACKETS"]
    parse("a " + "$a[" * 64 + "$b" + "]" * 64)
    assert codes("a " + "$a[" * 66 + "$b" + "]" * 66) == ["PC-PARSE-BRACKETS"]


@pytest.mark.parametrize(
    ("head", "branch"), [("if a then\n", "elif a then\n"), ("case then\nwhen a then\n", "when a then\n")]
)
def test_branches_are_limited(head: str, branch: str) -> None:
    """100 branches are read, one more is one error, and a hundred more are no more errors."""
    parse(head + branch * (BRANCHES_MAX - 1) + "end")
    assert codes(head + branch * BRANCHES_MAX + "end") == ["PC-PARSE-BRANCHES"]
    assert codes(head + branch * 2 * BRANCHES_MAX + "end") == ["PC-PARSE-BRANCHES"]


@pytest.mark.parametrize("line", ["a == 1\n", "a^\n", 'a "\\d"\n', "else\n", "a(\n"])
def test_errors_are_limited(line: str) -> None:
    """A text that is wrong everywhere has at most 50 errors, and a last one that says so."""
    found, where = codes(line * 2000), places(line * 2000)
    assert len(found) <= ERRORS_MAX + 1
    assert found[-1] == "PC-PARSE-MANY"
    assert where[-1] == where[-2]  # as far as the text was read


def test_long_lines_are_shown_in_part() -> None:
    """The error of a very long line shows what is around the caret, and the caret is under its character."""
    text = "echo " + "x" * 1000 + " ^ " + "y" * 1000
    with pytest.raises(ChainErrors) as caught:
        parse(text)
    shown = str(caught.value).split("\n")
    assert len(shown[2]) == len(shown[2].strip()) + 2 < 170
    assert shown[2][shown[3].index("^")] == "^"
