"""The parser meets any text: it gives nodes or ChainErrors, in time that grows with the text's size and no faster."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.chain import nodes
from common.chain.errors import ChainErrors
from common.chain.parser import parse
from tests.chain.shapes import spans
from tests.support.examples import examples

WORDS = (
    "if then else elif end case when as for in match-result a -1 3.5 --o --o= -- -x export local true null echo é 🙂"
)
SIGNS = """ok(x) err(y) $( ) ( [ ] { } " ' $a ${a} ${a ?? "x" 'y' && || ! = == < ; \\ # //
$ .b [0] ["k"] [$ k: "k": , ? ?? & ^"""
BLANKS = ["\n", " ", "\t", "\\\n", "\0", "\ud800", "\r\n"]
ANY = st.lists(st.sampled_from([*WORDS.split(), *SIGNS.split(), *BLANKS]), max_size=60)

# texts that could make a careless reader slow: the whole text is one of these, again and again
SLOW = [
    '"',
    "'",
    "(",
    "[",
    "{",
    "$(",
    "{a:",
    "${",
    "${a~??",
    "$a[",
    "[[$a[",
    '"${',
    '"$(',
    '"$(a~"',
    '"\\',
    "a~",
    "a$b",
    "a'",
    'a"~',
    "\\@",
    "~",
    "@",
    "#",
    "#~@",
    "//@",
    "if~x~then@",
    "elif~x~then@",
    "else~",
    "end@",
    "1",
    "-1.",
    "--a",
    "-",
    "a~&&~",
    "!",
    "x=",
    "x=@",
    "==~",
    "]",
    "{~@",
    '{"',
    "{a",
    "ok(",
    "$a?",
    "for~",
    "a@",
    "x~=~1@",
    "1,",
    "a;",
    "\\",
    "a^",
    "é",
    '"\\d"',
    '"$a',
    "${a}",
    '"${a}',
    ".",
    "$a.b",
    "case@",
    "edn@",
    "edn~",
    "a%@",
    "%",
    "ok(a)@",
    "match-result~$(a)@",
    "k:",
    ":~",
]  # ~ is a blank, @ a newline, % a carriage return


def read(text: str) -> nodes.Body | None:
    """The nodes, or None for a text that is refused."""
    try:
        return parse(text)
    except ChainErrors as wrong:
        caught = wrong
    assert caught.errors
    assert all(error.code.startswith("PC-PARSE-") and error.message for error in caught.errors)
    assert str(caught)
    return None


@settings(max_examples=examples(500), deadline=None)
@given(st.one_of(ANY.map("".join), ANY.map(" ".join), st.text(max_size=80)))
def test_any_text_is_nodes_or_errors(text: str) -> None:
    """Nothing but ChainErrors leaves the parser, and every place lies in the text."""
    body = read(text)
    lines = text.split("\n")
    for span in spans(body) if body else []:
        assert 1 <= span.line <= span.end_line <= len(lines)
        assert span.end_column <= len(lines[span.end_line - 1]) + 1


def work_of(do: Callable[[], object]) -> int:
    """The number of calls, of Python and of C, that something takes."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        do()
    finally:
        sys.setprofile(before)
    return calls


def work(text: str) -> int:
    """The number of calls that it takes to read a text."""
    return work_of(lambda: read(text))


@pytest.mark.parametrize("piece", [piece.translate({126: " ", 64: "\n", 37: "\r"}) for piece in SLOW])
def test_work_is_linear(piece: str) -> None:
    """Four times the text is at most about four times the work, whatever the text is made of."""
    small, large = (piece * (size // len(piece.encode())) for size in (2_000, 8_000))
    assert work(large) <= 4.5 * work(small) + 1000


def cpu_seconds(text: str) -> float:
    """The processor time of one reading."""
    before = time.process_time()
    read(text)
    return time.process_time() - before


@pytest.mark.parametrize("piece", [piece.translate({126: " ", 64: "\n", 37: "\r"}) for piece in SLOW])
def test_time_is_linear(piece: str) -> None:
    """What no call shows, the work inside of a regular expression: 16 times the text takes no 64 times as long.

    A quadratic reader would take 256 times as long. The small text is long enough for the clock.
    """
    small, large = (piece * (size // len(piece.encode())) for size in (4_000, 64_000))
    ratios = []
    for _ in range(3):
        ratios.append(cpu_seconds(large) / max(cpu_seconds(small), 1e-4))
        if ratios[-1] < 64:
            return
    pytest.fail(f"{piece!r}: 16 times the text took {ratios} times as long")


def test_recursion_is_bounded() -> None:
    """The deepest text that is allowed needs a part of Python's stack only."""
    text = "if a then\n" * 15 + "a " + "$(b " * 62 + "[!" + ")" * 62
    assert read(text + "\nend" * 15) is None
    deep = "if a then\n" * 16 + "a " + "$(b && c " * 64 + ")" * 64 + "\nend" * 16
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len_of_stack() + 650)
    try:
        assert read(deep) is not None
    finally:
        sys.setrecursionlimit(limit)


def len_of_stack() -> int:
    """The number of frames that are open here."""
    frame: Any = sys._getframe()
    depth = 0
    while frame:
        frame, depth = frame.f_back, depth + 1
    return depth
