"""The lexer: kinds of tokens, where they lie, comments, and going on after what cannot be read (L2)."""

from __future__ import annotations

import pytest

from common.chain.lexer import RESTARTS_MAX, Lexer
from common.chain.lexer_reading import ERRORS_MAX


def kinds(text: str) -> list[str]:
    """The kinds of all tokens but the last end and eof."""
    return [kind for kind, _, _, _ in Lexer(text).run().tokens[:-2]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a 1 -x --y=z", ["word", "number", "option", "option", "=", "word"]),
        ("-a/b -1x 1.2.3 - --", ["word"] * 5),
        ('\'r\' "p" "e\\n"', ["text"] * 3),
        ('"a${b}c$(d)"', ["string", "chunk", "variable", "chunk", "$(", "word", ")", "close"]),
        ("${a ?? 1}", ["${", "??", "number", "}"]),
        ("{a: 1, 'b': $c}", ["{", "key", "number", ",", "key", "variable", "}"]),
        ("ok(x) a ok (x)", ["branch", "word", "word", "(", "word", ")"]),
        ("a==1!=2===3", ["word", "==", "number", "!=", "number", "===", "number"]),
        (
            "$a!==1<=2>=3<4>5=6",
            ["variable", "!==", "number", "<=", "number", ">=", "number", "<", "number", ">", "number", "=", "number"],
        ),
        ("a;b\n\nc", ["word", "end", "word", "end", "word"]),
        ("a && \n b || # c\n\n d", ["word", "&&", "word", "||", "word"]),
        ("a \\\n b", ["word", "word"]),
        ("(a\nb)\nc", ["(", "word", "word", ")", "end", "word"]),
        ("a^b", ["word", "bad", "word"]),
    ],
)
def test_kinds(text: str, expected: list[str]) -> None:
    """Texts have these tokens; newlines count outside of brackets and not behind an operator."""
    assert kinds(text) == expected


def test_values_and_places() -> None:
    """A token has its value, and the offsets of its text."""
    assert Lexer('ab "c\\n"').run().tokens == [
        ("word", "ab", 0, 2),
        ("text", "c\n", 3, 8),
        ("end", "\n", 8, 8),
        ("eof", "", 8, 8),
    ]


def test_comments() -> None:
    """Comments leave no token, and their places are kept; inside of words and quotes there are none."""
    text = "// a\nb # c\n  // d\n#e\nf#g '# h' x // i;# j\n[# k\n 1, # l\n]"
    lexer = Lexer(text).run()
    assert [text[start:end] for start, end in lexer.comments] == ["// a", "# c", "// d", "#e", "# j", "# l"]


@pytest.mark.parametrize("opener", ['"', "'", "(", "[", "$(", "{a: ", '"$(', '"${a ?? '])
def test_what_nothing_closes_is_left_behind(opener: str) -> None:
    """A quote or a bracket that nothing closes costs its line, and the next one is read."""
    lexer = Lexer(f"a {opener}b\nc d\n").run()
    assert [value for kind, value, _, _ in lexer.tokens if kind == "word"] == ["a", "c", "d"]
    assert len(lexer.errors) == 1


def test_reading_is_given_up() -> None:
    """Too many openers that nothing closes, or too many errors, end the reading."""
    openers = Lexer("a (\n" * (RESTARTS_MAX + 5)).run()
    assert (openers.stopped, len(openers.errors)) == (True, RESTARTS_MAX)
    errors = Lexer("^ " * 1000).run()
    assert (errors.stopped, len(errors.errors)) == (True, ERRORS_MAX)
    assert not Lexer("^ " * (ERRORS_MAX - 1)).run().stopped
