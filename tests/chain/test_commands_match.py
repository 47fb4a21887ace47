"""Commands that compare and match, against simple readings of what they mean."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import topics
from common.chain.commands import match
from common.chain.commands.builtin import BUILTIN
from common.chain.commands.patterns import (
    PATTERN_CHARS_MAX,
    PATTERNS_CACHED_MAX,
    PatternError,
    Regex,
    glob_regex,
    glob_test,
    regex,
    regex_test,
)
from common.chain.commands.spec import BadArgument, Static
from common.chain.commands.templates import Rewriting, Template, ascii_lower
from common.chain.values import MISSING, Set
from common.errors import TopicError
from tests.chain.fake_run import FakeRun, answer, called, captured, fault

WITH_TOPICS = BUILTIN.extended([match.topic_match(topics.matches, topics.check_filter, TopicError)])
FOLDING = st.text("aAkKsS\u212aſé/", max_size=6)  # the Kelvin sign and the long s fold to ASCII letters

# -- globs and regular expressions -------------------------------------------------------------------------------------


def slow_glob(pattern: str, text: str) -> bool:
    """Whether a glob of letters, ``*`` and ``?`` matches, by trying everything."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return slow_glob(pattern[1:], text) or (bool(text) and slow_glob(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and slow_glob(pattern[1:], text[1:])


@given(st.text("ab/*?", max_size=6).filter(lambda text: "**/" not in text), st.text("ab/", max_size=6))
def test_globs_match_the_whole_text(pattern: str, text: str) -> None:
    """``*`` is any text, also across /, ``?`` one character, and nothing may be left over."""
    assert glob_test(pattern, False)(text) == slow_glob(pattern, text)
    assert glob_test(pattern, True)(text.upper()) == slow_glob(pattern, text)


@given(st.lists(FOLDING, min_size=1, max_size=3), FOLDING)
def test_simple_globs_are_what_re2_says(parts: list[str], text: str) -> None:
    """The operations on strings fold case as RE2 does, outside of ASCII, too."""
    pattern = "*".join(parts)
    assert glob_test(pattern, True)(text) == Regex(glob_regex(pattern), True, dot_all=True).test(text)


@given(st.sampled_from(("{}", "^{}", "{}$", "^{}$")), FOLDING, FOLDING, st.booleans())
def test_simple_expressions_are_what_re2_says(frame: str, literal: str, text: str, ignore_case: bool) -> None:
    """An expression that is only a literal, anchored or not, gives the same as RE2."""
    pattern = frame.format(literal)
    assert regex_test(pattern, ignore_case)(text) == Regex(pattern, ignore_case).test(text)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("[a-c]x", ["ax", "CX"], ["dx", "x"]),
        ("[!a-c]x", ["dx", "/x"], ["ax", "x"]),
        ("[]]", ["]"], ["[", ""]),
        ("[^]a]", ["b"], ["]", "a"]),
        ("[&~|\\]", ["&", "~", "|", "\\"], ["a"]),
        ("*.{jpg,p?g}", ["a.jpg", "a.PNG"], ["a.gif", "jpg"]),
        ("{a,{b,c}d}", ["a", "bd", "cd"], ["b", "d"]),
        ("a,b", ["a,b"], ["a"]),
        ("**/foo", ["foo", "a/foo", "a/b/foo"], ["afoo", "foo/a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("a/**", ["a/", "a/b/c"], ["a", "b/a/"]),
        ("a**b", ["ab", "a/b"], ["a"]),
        ("\\*\\?", ["*?"], ["ab", "\\*"]),
        ("a.b+(c)$^", ["a.b+(c)$^"], ["axb+(c)$^"]),
        ("?", ["é", "\n"], ["", "ab"]),
        ("*", ["", "a\nb"], []),
    ],
)
def test_globs(pattern: str, matching: list[str], others: list[str]) -> None:
    """Classes, alternatives, leading segments and escapes mean what the reference says."""
    assert [text for text in matching if not called("match", text, pattern)] == []
    assert [text for text in others if called("match", text, pattern)] == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("[a", "glob has a [ without ]"),
        ("{a", "glob has a { without }"),
        ("a}", "glob has a } without {"),
        ("a\\", "glob ends in a backslash"),
        ("[z-a]", "bad regular expression: invalid character class range: z-a"),
        ("a" * (PATTERN_CHARS_MAX + 1), f"pattern longer than {PATTERN_CHARS_MAX} characters"),
    ],
)
def test_bad_globs(pattern: str, message: str) -> None:
    """A computed pattern that is none is a fault, a literal one an error at that argument when the text is loaded."""
    assert fault(called("match", "a", pattern)) == f"match: {message}"
    spec = BUILTIN.get("match")
    assert spec is not None
    assert spec.specialise is not None
    with pytest.raises(BadArgument) as caught:
        spec.specialise(Static(("a", pattern), {}))
    assert (caught.value.message, caught.value.index) == (message, 1)


def test_case_of_expressions_and_globs() -> None:
    """match and match-reg ignore case unless told; match-path minds it, match-host does not (L8)."""
    assert called("match", "ABC", "a*")
    assert not called("match", "ABC", "a*", no_ignore_case=True)
    assert called("match-reg", "xABCx", "abc")
    assert not called("match-reg", "ABC", "abc", no_ignore_case=True)
    assert not called("match-path", "/A", "/a")
    assert called("match-path", "/A", "/a", ignore_case=True)
    assert called("match-host", "A.B", "a.b")
    assert not called("match-host", "A.B", "a.b", no_ignore_case=True)


def test_expressions_capture_groups() -> None:
    """A list has the match, then each group, Null where it took no part; a map the named ones."""
    got = captured("match-reg", "say é-12!", r"(?P<word>\pL+)-(?P<num>\d+)|(?P<none>x)")
    assert got == (True, ["é-12", "é", "12", None], {"word": "é", "num": "12", "none": None})
    assert answer(captured("match-reg", "abc", "x")) is False
    assert fault(captured("match-reg", "abc", "(")) == "match-reg: bad regular expression: missing ): ("


@pytest.mark.parametrize("pattern", ["(?=a)", r"(a)\1", "a{2000}", "[[:foo:]]", "(?<!a)b"])
def test_expressions_are_those_of_re2(pattern: str) -> None:
    """What RE2 does not have, because it could take more than linear time or space, is refused."""
    assert fault(called("match-reg", "a", pattern)).startswith("match-reg: bad regular expression: ")


def test_single_bytes_of_a_character() -> None:
    """An expression may take a single byte; what it cuts is shown as such and nothing fails."""
    assert captured("match-reg", "é", r"(\C)") == (True, ["\ufffd", "\ufffd"], {})


def test_dollar_is_the_end_of_the_text() -> None:
    """``$`` does not match before a newline, in neither form."""
    for pattern in ("a$", "^a$", "(a)$"):
        assert called("match-reg", "a", pattern)
        assert not called("match-reg", "a\n", pattern)


def test_computed_patterns_are_cached_within_a_limit() -> None:
    """However many patterns chains compute, a fixed number is kept."""
    for number in range(PATTERNS_CACHED_MAX + 20):
        called("match", "x", f"pattern-{number}*")
        called("match-reg", "x", f"pattern-{number}+")
    for cache in (glob_test, regex, regex_test):
        assert cache.cache_info().currsize == PATTERNS_CACHED_MAX


# -- templates ---------------------------------------------------------------------------------------------------------


def slow_segment(parts: list[str], text: str) -> list[str] | None:
    """What the names of a segment capture: the first one tries the longest text first, and so on."""
    literal, *rest = parts
    if not text.startswith(literal):
        return None
    left = text[len(literal) :]
    if not rest:
        return None if left else []
    for end in range(len(left), -1, -1):
        behind = slow_segment(rest[1:], left[end:])
        if behind is not None:
            return [left[:end], *behind]
    return None


@given(st.lists(st.text("ab-", max_size=2), min_size=1, max_size=4), st.text("ab-", max_size=8))
def test_names_take_as_much_as_they_can(literals: list[str], segment: str) -> None:
    """Within a segment the first name is as long as the rest allows, then the second, as if all were tried."""
    parts = [part for at, literal in enumerate(literals) for part in (literal, f"n{at}")][:-1]
    pattern = "".join(part if at % 2 == 0 else f"{{{part}}}" for at, part in enumerate(parts))
    found = Template(pattern, "/", False).match(segment)
    assert (None if found is None else found[0]) == slow_segment(parts, segment)
    assert Template(pattern, "/", True).test(segment.upper()) == (found is not None)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("/a/b", "/a/b", ([], None)),
        ("/a/b", "/a/b/", None),
        ("/a/b", "/a", None),
        ("/{x}", "/", ([""], None)),
        ("/{x}/**", "/a", (["a"], None)),
        ("/{x}/**", "/a/", (["a"], "")),
        ("/{x}/**", "/a/b/c", (["a"], "b/c")),
        ("**", "a/b", ([], "a/b")),
        ("/**", "a", None),
        ("", "", ([], None)),
    ],
)
def test_segments(pattern: str, text: str, found: Any) -> None:
    """Segments match one to one, and ``**`` takes any number of the last ones, none included."""
    made = Template(pattern, "/", False)
    assert made.match(text) == found
    assert made.test(text) == (found is not None)
    assert called("match-path", text, pattern) == (found is not None)


def test_templates_capture() -> None:
    """A list has the text, then what the names captured; the map the names. The rest is not captured."""
    got = captured("match-path", "/r/n1/p/x", "/r/{node}/{plane}/**")
    assert got == (True, ["/r/n1/p/x", "n1", "p"], {"node": "n1", "plane": "p"})
    got = captured("match-host", "API-eu.Example.com", "{app}-{zone}.example.com")
    assert got == (True, ["API-eu.Example.com", "API", "eu"], {"app": "API", "zone": "eu"})
    assert answer(captured("match-path", "/x", "/r/{node}")) is False


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("/{a}/{a}", 'a name occurs twice in "/{a}/{a}"'),
        ("/**/a", '** must be the last segment of "/**/a"'),
        ("/{a", 'no {name} in segment "{a"'),
        ("/a}", 'no {name} in segment "a}"'),
        ("/{}", 'no {name} in segment "{}"'),
        ("/{1a}", 'no {name} in segment "{1a}"'),
        ("/" + "a" * PATTERN_CHARS_MAX, f"pattern longer than {PATTERN_CHARS_MAX} characters"),
    ],
)
def test_bad_templates(pattern: str, message: str) -> None:
    """A template that cannot be used is a fault that says why."""
    with pytest.raises(PatternError, match=re.escape(message)):
        Template(pattern, "/", False)
    assert fault(called("match-path", "/a", pattern)) == f"match-path: {message}"


def test_templates_to_write_use_what_is_captured() -> None:
    """A name or a rest that the pattern does not capture is refused."""
    with pytest.raises(PatternError, match=r"captures no \{b\}"):
        Rewriting("/{b}", "/").check(Template("/{a}", "/", False))
    with pytest.raises(PatternError, match=r"has no \*\*"):
        Rewriting("/**", "/").check(Template("/{a}", "/", False))
    with pytest.raises(PatternError, match="longer than"):
        Rewriting("a" * (PATTERN_CHARS_MAX + 1), "/")


@given(st.text(max_size=8))
def test_ascii_lower_keeps_length(text: str) -> None:
    """Only ASCII letters change, and places stay what they are."""
    low = ascii_lower(text)
    assert len(low) == len(text)
    assert all(a == b or (a.isascii() and a.isupper() and b == a.lower()) for a, b in zip(text, low, strict=True))


# -- topics ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from(("a", "b", "+", "")), min_size=1, max_size=4), st.booleans(), st.text("ab/$", max_size=6)
)
def test_prepared_filters_are_filters(levels: list[str], rest: bool, topic: str) -> None:
    """A prepared filter says what the matcher of topics says; what it captures puts the topic together again."""
    filter_ = "/".join([*levels, "#"] if rest else levels)
    if not filter_:
        return
    expected = topics.matches(filter_, topic)
    assert called("topic-match", topic, filter_, registry=WITH_TOPICS) == expected
    got = captured("topic-match", topic, filter_, registry=WITH_TOPICS)
    if not expected:
        assert answer(got) is False
        return
    whole, *levels_found = got[1]
    parts = iter(levels_found)
    again = [next(parts) if level in ("+", "#") else level for level in filter_.split("/")]
    assert whole == topic
    assert "/".join(again).removesuffix("/" if topic.count("/") < filter_.count("/") else "") == topic


def test_bad_filters() -> None:
    """A computed filter that is none is a fault with the reason of the host's check."""
    assert "# must be the whole last level" in fault(called("topic-match", "a", "a/#/b", registry=WITH_TOPICS))


# -- comparing ---------------------------------------------------------------------------------------------------------


def test_comparing() -> None:
    """eq is strict, --loose adds numbers, --ignore-case texts; ne is its opposite."""
    assert called("eq", 1, 1)
    assert not called("eq", 1, 1.0)
    assert called("eq", 1, "1.0", loose=True)
    assert called("eq", "Ab", "aB", ignore_case=True)
    assert not called("eq", "É", "é", ignore_case=True)
    assert called("ne", "1", 1)
    assert not called("ne", "1", 1, loose=True)
    assert called("oneof", "B", "a", "b", ignore_case=True)
    assert not called("oneof", True, 1, "true")
    assert called("oneof", 443, "443", loose=True)


def test_ordering() -> None:
    """gt and its kin take Numbers only, with --loose also their texts; nothing else is ordered."""
    assert called("gt", 2, 1)
    assert not called("gt", "2", 1)
    assert called("gt", "2", 1, loose=True)
    assert called("ge", 2, 2.0)
    assert called("lt", 1, 1.5)
    assert called("le", 2, 2)
    assert not any(called(name, True, 0, loose=True) for name in ("gt", "ge", "lt", "le"))


def test_range() -> None:
    """Both bounds belong to the range; a value that is no number lies outside; a bound that is none is a fault."""
    assert [called("range", value, 1, "5") for value in (1, "5", 3.5)] == [True] * 3
    assert [called("range", value, 1, 5) for value in (0, 5.01, "x", None, True, [2])] == [False] * 6
    assert fault(called("range", 1, 1, None)) == "range: Null is no bound, it must be a number"


def test_match_include() -> None:
    """Lists and sets hold items, maps keys and their values; a missing collection holds nothing."""
    assert called("match-include", [1, [2]], [2])
    assert not called("match-include", [1], "1")
    assert called("match-include", Set(["1"]), 1)
    assert not called("match-include", Set(["a"]), "a", "b")
    assert called("match-include", {"a": ["1", "2"]}, "a", "1", "2")
    assert not called("match-include", {"a": "1"}, "a", "1", "2")
    assert called("match-include", {"1": None}, 1)
    assert not called("match-include", {"a": 1}, None)
    assert [called("match-include", nothing, "a") for nothing in (MISSING, None, "")] == [False] * 3
    assert fault(called("match-include", 5, "a")) == "match-include: Number given, a collection needed"


def test_matching_needs_no_run() -> None:
    """Predicates on text are pure, so that the compiler may settle calls of literals when it loads a text."""
    run = FakeRun()
    called("match", "a", "a*", run=run)
    assert (run.lines, run.taken) == ([], [])
    assert not any(spec.needs_run for spec in BUILTIN.specs() if spec.group == "match")
