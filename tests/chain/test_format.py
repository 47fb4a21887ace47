"""``chain fmt``: one way of writing, the same meaning, all comments (L12)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.chain import nodes
from common.chain.errors import ChainErrors
from common.chain.format import LINE_CHARS_MAX, format_body, format_text
from common.chain.lexer import Lexer
from common.chain.parser import parse
from tests.chain.shapes import bare
from tests.chain.test_fuzz_parser import ANY
from tests.chain.test_parser import MEANING
from tests.support.examples import examples

UNTIDY = """\
// first


x="a";$y.b  =  'it"s'   # behind x and y
if  $a&&b  then c;d # behind d

  # before e
  e
  # last of the body
elif f then # behind the header
   else
# of else
end   # behind end
case $x as v then when $v==1 then g
   # before when
   when (h) then end
for k,v in {a:1,} then echo "${k} $(f "x")" \\
   'y\\d' --o="p" -- -z ; end
match-result $(parse-uri $u) # behind the head
 err(e) reject
 ok(u) # behind ok
   accept end_of
end
x = [ # inside
 1 ]
# the end
"""

TIDY = """\
// first

x = "a"
$y.b = 'it"s'  # behind x and y
if $a && b then
  c
  d  # behind d

  # before e
  e
  # last of the body
elif f then  # behind the header
else
# of else
end  # behind end
case $x as v then
  when $v == 1 then
    g
  # before when
  when (h) then
end
for k, v in {a: 1} then
  echo "${k} $(f "x")" 'y\\d' --o="p" -- -z
end
match-result $(parse-uri $u)  # behind the head
  err(e)
    reject
  ok(u)  # behind ok
    accept end_of
end
# inside
x = [1]
# the end
"""


def test_one_way_of_writing() -> None:
    """Blanks, line ends, quotes and indentation become the same everywhere; every comment stays at its code."""
    assert format_text(UNTIDY) == TIDY
    assert format_text(TIDY) == TIDY


@pytest.mark.parametrize(("text", "_shape"), MEANING)
def test_meaning_stays(text: str, _shape: str) -> None:
    """The formatted text means the same, and formatting it again changes nothing."""
    formatted = format_text(text)
    assert bare(parse(formatted)) == bare(parse(text))
    assert format_text(formatted) == formatted
    assert bare(parse(format_body(parse(text)))) == bare(parse(text))


def comments_of(text: str) -> list[str]:
    """The comments of a text."""
    return sorted(text[start:end].rstrip() for start, end in Lexer(text).run().comments)


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(st.sampled_from([text for text, _ in MEANING]), max_size=4), st.data())
def test_comments_are_kept(texts: list[str], data: st.DataObject) -> None:
    """A comment behind any line, or on a line of its own, is kept, and the meaning with it."""
    lines = "\n".join(texts).split("\n")
    for number in data.draw(st.lists(st.integers(0, len(lines) - 1), max_size=5, unique=True), label="lines"):
        lines[number] += data.draw(st.sampled_from([" # c", "\n# own", "\n\n   # own"]), label="comment")
    text = "\n".join(lines)
    try:
        body = parse(text)
    except ChainErrors:
        return  # the comment went into a quote or behind a backslash
    formatted = format_text(text)
    assert bare(parse(formatted)) == bare(body)
    assert comments_of(formatted) == comments_of(text)
    assert format_text(formatted) == formatted


@settings(max_examples=examples(400), deadline=None)
@given(ANY.map(" ".join))
def test_any_text(text: str) -> None:
    """Whatever parses keeps its meaning."""
    try:
        body = parse(text)
    except ChainErrors:
        return
    formatted = format_text(text)
    assert bare(parse(formatted)) == bare(body)
    assert format_text(formatted) == formatted


@settings(max_examples=examples(500), deadline=None)
@given(st.text(max_size=12), st.text(max_size=5))
def test_strings(value: str, other: str) -> None:
    """Any text can be written as a string, alone and beside an expansion, and is read as the same."""
    if re.search("[\ud800-\udfff]", value + other):
        return
    variable = nodes.Variable("x")
    parts: list[nodes.Text | nodes.Variable] = [nodes.Text(value), variable, nodes.Text(other)]
    kept = tuple(part for part in parts if part != nodes.Text(""))
    command = nodes.Command("echo", (nodes.Text(value), nodes.Interpolated(kept)))
    assert bare(parse(format_body(nodes.Body((command,))))) == bare(nodes.Body((command,)))


def test_quotes() -> None:
    """Double quotes where nothing needs an escape, else raw ones, else double ones with escapes."""
    text = r"""echo 'a' '^a$' 'a\d' '$a' "it's" "it's \"\"" "a\nb" '${x}' "\x07" """
    assert format_text(text).strip() == text.replace("'a' '^a$'", '"a" "^a$"').strip()


def test_long_lines_are_broken() -> None:
    """A line that is too long is broken behind its operators, in a condition too, and inside of lists and maps."""
    word = "w" * 60
    text = f"a {word} && b {word} || c\nif a {word} && b {word} then c; end\n"
    text += f"x = [{word}, {word}]\ny = {{a: {word}, b: {word}}}"
    formatted = format_text(text)
    assert formatted == (
        f"a {word} && b {word} ||\n  c\nif a {word} &&\n    b {word} then\n  c\nend\n"
        f"x = [\n  {word},\n  {word},\n]\ny = {{\n  a: {word},\n  b: {word},\n}}\n"
    )
    assert bare(parse(formatted)) == bare(parse(text))
    assert format_text(formatted) == formatted
    assert LINE_CHARS_MAX < 124


def test_wrong_text_is_not_formatted() -> None:
    """A text that does not parse is refused with its errors."""
    with pytest.raises(ChainErrors):
        format_text("a == 1")


def test_empty_text() -> None:
    """Nothing stays nothing, and only comments stay comments."""
    assert format_text("") == format_text("\n\n;;\n") == ""
    assert format_text("\n# a\n\n\n# b") == "# a\n\n# b\n"
