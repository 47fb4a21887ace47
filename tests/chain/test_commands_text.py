"""Commands that make and rewrite text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.chain.commands.builtin import BUILTIN
from common.chain.commands.spec import DYNAMIC, BadArgument, Static
from common.chain.errors import LimitError
from common.chain.values import MISSING
from tests.chain.fake_run import FakeRun, answer, called, captured, fault

TEXT = st.text("aAé/€", max_size=8)


def test_append_joins() -> None:
    """Texts are joined as they are."""
    assert called("append", "a", "", "b") == "ab"


@given(TEXT, TEXT)
def test_what_is_stripped_was_there(text: str, part: str) -> None:
    """A prefix or suffix is taken away exactly where the text has it; else the answer is empty."""
    for name, whole in (("strip-prefix", part + text), ("strip-suffix", text + part)):
        assert called(name, whole, part) == text
        assert called(name, whole.upper(), part.upper(), ignore_case=True) == text.upper()
    got = called("strip-prefix", text, part)
    assert got == text[len(part) :] if text.startswith(part) else answer(got) == ""
    assert called("starts-with", text, part) == text.startswith(part)
    got = called("strip-suffix", text, part)
    assert got == text[: len(text) - len(part)] if text.endswith(part) else answer(got) == ""
    assert called("ends-with", text, part) == text.endswith(part)


@given(TEXT, st.integers(0, 20), st.integers(0, 20))
def test_slices_count_bytes(text: str, start: int, end: int) -> None:
    """A slice is one of the UTF-8 bytes; one that leaves the text or cuts a character is an answer."""
    data = text.encode()
    got = called("slice", text, f"{start}:{end}")
    try:
        part = data[start:end].decode()
    except UnicodeDecodeError:
        part = None  # type: ignore[assignment]
    if start > len(data) or end > len(data) or part is None:
        assert answer(got) == ""
    else:
        assert got == part
    assert called("strlen", text) == len(data)


@pytest.mark.parametrize("range_", ["", "1", "a:b", "-1:2", "1:2:3", " 1:2", "1 : 2", "٣:4", "1" * 19 + ":"])
def test_bad_ranges(range_: str) -> None:
    """A range that is none is a fault, a literal one a load error."""
    assert fault(called("slice", "abc", range_)) == f'slice: "{range_}" is no range, write start:end'
    spec = BUILTIN.get("slice")
    assert spec is not None
    assert spec.specialise is not None
    with pytest.raises(BadArgument):
        spec.specialise(Static((DYNAMIC, range_), {}))


def test_split() -> None:
    """Empty parts stay unless they are skipped; a captured list is apart from the value."""
    assert called("split", "/a//b/", "/") == ["", "a", "", "b", ""]
    assert called("split", "/a//b/", "/", skip_empty=True) == ["a", "b"]
    value, copied = captured("split", "a,b", ",")
    assert value == copied == ["a", "b"]
    assert value is not copied
    assert fault(captured("split", "a", "")) == "split: the delimiter is empty"


def test_split_has_a_limit() -> None:
    """More parts than a collection may have end the run, prepared or not."""
    run = FakeRun(collection_items_max=3)
    assert called("split", "a,b,c", ",", run=run) == ["a", "b", "c"]
    spec = BUILTIN.get("split")
    assert spec is not None
    assert spec.specialise is not None
    prepared: Any = spec.specialise(Static((DYNAMIC, ","), {}))
    for call in (lambda: called("split", "a,b,c,d", ",", run=run), lambda: prepared(run, "a,b,c,d")):
        with pytest.raises(LimitError, match="PC-LIMIT-COLLECTION"):
            call()


def test_case_and_blanks() -> None:
    """lower, upper and trim know all letters and blanks."""
    assert called("lower", "ÀB") == "àb"
    assert called("upper", "straße") == "STRASSE"
    assert called("trim", "\t a b \n\u00a0") == "a b"


@given(st.text("aAb", max_size=8), st.text("aAb", min_size=1, max_size=2), st.text("xé", max_size=2))
def test_replace(text: str, old: str, new: str) -> None:
    """Every occurrence from left to right is replaced; without one the answer is empty."""
    for ignore_case, flags in ((False, 0), (True, re.IGNORECASE)):
        options = {"ignore_case": True} if ignore_case else {}
        wanted, count = re.subn(re.escape(old), new, text, flags=flags)
        got = called("replace", text, old, new, **options)
        assert got == wanted if count else answer(got) == ""


def test_replace_of_other_values() -> None:
    """A variable that holds no String has its text replaced; a missing one is empty; an empty text is not replaced."""
    assert called("replace", 1001, "0", "2") == "1221"
    assert answer(called("replace", MISSING, "a", "b")) == ""
    assert fault(called("replace", "abc", "", "x")) == "replace: the text to replace is empty"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("replace", ("a" * 100, "a", "b" * 11)),
        ("rewrite-reg", ("a" * 100, "a+", "$0" * 11)),
        ("rewrite-path", ("a" * 100, "{x}", "{x}" * 11)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"ignore_case": True}])
def test_large_texts_are_not_even_made(name: str, arguments: tuple[str, ...], options: dict[str, bool]) -> None:
    """What would be longer than a string may be ends the run before the memory is taken."""
    if options and name == "rewrite-reg":
        options = {}
    assert called(name, *arguments, run=FakeRun(string_bytes_max=1_100), **options)
    with pytest.raises(LimitError, match="PC-LIMIT-STRING"):
        called(name, *arguments, run=FakeRun(string_bytes_max=1_000), **options)


@pytest.mark.parametrize(
    ("value", "pattern", "template", "wanted"),
    [
        ("/kapi/svc/x/y", "/kapi/svc/*", "/kapi/*", "/kapi/x/y"),
        ("/KAPI/svc/X", "/kapi/*", "/*", "/svc/X"),
        ("/kapi/x", "/kapi/**", "/*", "/x"),
        ("a.example.com", "*.example.com", "backend", "backend"),
        ("/kapi/x", "/kapi/*", "/home", "/home"),
        ("/home", "/HOME", "/home", "/home"),
        ("/kapi/x", "/kapi/x", "/a*", "/a*"),
    ],
)
def test_rewrite(value: str, pattern: str, template: str, wanted: str) -> None:
    """A template with a tail keeps what the last * matched; any other is the new text."""
    assert called("rewrite", value, pattern, template) == wanted


def test_rewrite_that_cannot_be() -> None:
    """No match is an answer; a tail whose beginning is not known is refused."""
    assert answer(called("rewrite", "/x", "/kapi/*", "/*")) == ""
    assert fault(called("rewrite", "/a/b/c", "/*/b/*", "/*")) == (
        "rewrite: a template that ends in * needs a pattern whose last * is its only special character"
    )
    assert fault(called("rewrite", "/a", "[", "x")) == "rewrite: glob has a [ without ]"


def test_rewrite_by_expression() -> None:
    """The template is the whole new text, with groups by one digit; groups that took no part are empty."""
    assert called("rewrite-reg", "/test/a/7", r"^/test/(\w+)(?:/(\d+))?", "/new/$1/$2") == "/new/a/7"
    assert called("rewrite-reg", "/test/a", r"^/test/(\w+)(?:/(\d+))?", "/new/$1/$2") == "/new/a/"
    assert called("rewrite-reg", "xaby", "a(b)", "<$0$1$10>$$ $x") == "<abbb0>$$ $x"
    assert answer(called("rewrite-reg", "ABC", "b", "x")) == ""
    assert fault(called("rewrite-reg", "abc", "b", "$1")) == "rewrite-reg: the expression has no group $1"


@pytest.mark.parametrize(
    ("value", "pattern", "template", "wanted"),
    [
        ("/kapi/s/a/b", "/kapi/{x}/**", "/api/{x}/v1/**", "/api/s/v1/a/b"),
        ("/kapi/s", "/kapi/{x}/**", "/api/{x}/**", "/api/s"),
        ("/kapi/s/", "/kapi/{x}/**", "/api/{x}/**", "/api/s/"),
        ("/kapi/s/a", "/kapi/{x}/**", "/**/{x}", "/a/s"),
        ("/kapi/s", "/kapi/{x}/**", "/**/{x}", "/s"),
        ("/a-b", "/{x}-{y}", "/{y}/{x}{x}", "/b/aa"),
    ],
)
def test_rewrite_of_segments(value: str, pattern: str, template: str, wanted: str) -> None:
    """Names and the rest go where the template has them; a rest of no segments leaves none."""
    assert called("rewrite-path", value, pattern, template) == wanted
    host = [text.replace("/", ".") for text in (value, pattern, template, wanted)]
    assert called("rewrite-host", host[0].upper(), *host[1:3]).lower() == host[3]


def test_rewrite_of_segments_that_cannot_be() -> None:
    """No match is an answer, a template that uses what is not captured a fault."""
    assert answer(called("rewrite-path", "/x", "/kapi/{s}", "/{s}")) == ""
    assert answer(called("rewrite-host", "A.b", "a.{x}", "{x}", no_ignore_case=True)) == ""
    assert fault(called("rewrite-path", "/x", "/{a}", "/{b}")) == "rewrite-path: the pattern captures no {b}"
    assert fault(called("rewrite-path", "/x", "/{a}", "/**")) == "rewrite-path: the pattern has no **"
