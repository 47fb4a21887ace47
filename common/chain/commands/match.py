"""Matching text: globs, regular expressions, templates of paths and hosts, MQTT filters, prefixes (L8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.chain.commands.patterns import PatternError, glob_test, regex, regex_test
from common.chain.commands.prepared import NOT_MATCHED, Made, call_with, specialise_with
from common.chain.commands.spec import Example, Opt, Param, Spec
from common.chain.commands.templates import ascii_lower, template

_CAPTURE = Opt("capture", "Write a list: what matched, then what each group or name captured.", out=True)
_CAPTURE_NAMED = Opt("capture-named", "Write a map from each name to what it captured.", out=True)
_NO_IGNORE_CASE = Opt("no-ignore-case", "Upper and lower case differ.")
_IGNORE_CASE = Opt("ignore-case", "Upper and lower case of ASCII letters are the same.", "i")
_VALUE = Param("value", "The text to look at.", type="text")

# -- globs and regular expressions -------------------------------------------------------------------------------------


def _glob(pattern: str, no_ignore_case: bool = False) -> Made:
    return glob_test(pattern, not no_ignore_case)


def _regex(pattern: str, no_ignore_case: bool = False) -> Made:
    return regex_test(pattern, not no_ignore_case)


def _regex_capture(pattern: str, no_ignore_case: bool = False) -> Made:
    compiled = regex(pattern, not no_ignore_case)
    find, names = compiled.find, compiled.names

    def capture(value: str) -> Any:
        groups = find(value)
        if groups is None:
            return NOT_MATCHED
        return True, groups, {name: groups[number] for name, number in names.items()}

    return capture


MATCH = Spec(
    "match",
    "match",
    "True when a glob matches the whole text; case is ignored. `*` is any text, also across `/`; `?` one character;"
    " `[a-z]` and `[!a]` a class; `{a,b}` alternatives; `**/` any number of leading segments; `\\` takes the next"
    " character as it is.",
    params=(_VALUE, Param("pattern", "The glob.", type="text")),
    options=(_NO_IGNORE_CASE,),
    ok="true",
    answers="false when it does not match",
    faults="a computed pattern that is no glob (a literal one is a load error)",
    examples=(
        Example('match "cam.LOCAL" "*.local"', True),
        Example('match "/apps/a/b" "/apps/*"', True),
        Example('match --no-ignore-case "ABC" "a*"', False, ok=False),
        Example('p = "[a"; match "a" $p', "match: glob has a [ without ]", ok=False),
    ),
    call=call_with("match", _glob),
    specialise=specialise_with(_glob),
    predicate=True,
)

MATCH_REG = Spec(
    "match-reg",
    "match",
    "True when a regular expression (RE2 syntax) is found in the text; case is ignored, and it need not match the whole"
    " text. A group that took no part is Null.",
    params=(_VALUE, Param("pattern", "The expression; single quotes keep its backslashes.", type="text")),
    options=(_NO_IGNORE_CASE, _CAPTURE, _CAPTURE_NAMED),
    ok="true",
    answers="false when it is not found; then nothing is captured",
    faults="a computed pattern that is no regular expression (a literal one is a load error)",
    effects=("writes",),
    examples=(
        Example("match-reg \"admin.example.com\" '^ADMIN\\.'", True),
        Example("match-reg --capture p \"a.local\" '^(.+)\\.(local|dev)$'; x = $p[2]", "local"),
        Example("match-reg --capture-named p \"a.local\" '^(?P<host>[^.]+)'; x = $p.host", "a"),
        Example("match-reg --no-ignore-case \"ABC\" 'b'", False, ok=False),
        Example("p = '('; match-reg \"a\" $p", "match-reg: bad regular expression: missing ): (", ok=False),
    ),
    call=call_with("match-reg", _regex),
    specialise=specialise_with(_regex),
    capturing=call_with("match-reg", _regex_capture),
    capturing_specialise=specialise_with(_regex_capture),
    predicate=True,
)

# -- templates ---------------------------------------------------------------------------------------------------------


def _path(pattern: str, ignore_case: bool = False) -> Made:
    return template(pattern, "/", ignore_case).test


def _path_capture(pattern: str, ignore_case: bool = False) -> Made:
    return _capture_of(pattern, "/", ignore_case)


def _host(pattern: str, no_ignore_case: bool = False) -> Made:
    return template(pattern, ".", not no_ignore_case).test


def _host_capture(pattern: str, no_ignore_case: bool = False) -> Made:
    return _capture_of(pattern, ".", not no_ignore_case)


def _capture_of(pattern: str, separator: str, ignore_case: bool) -> Made:
    made = template(pattern, separator, ignore_case)
    match, names = made.match, made.names

    def capture(value: str) -> Any:
        found = match(value)
        if found is None:
            return NOT_MATCHED
        captured = found[0]
        return True, [value, *captured], dict(zip(names, captured, strict=True))

    return capture


_TEMPLATE_FAULTS = "a computed pattern that is no template (a literal one is a load error)"

MATCH_PATH = Spec(
    "match-path",
    "match",
    "True when the segments of a path (between `/`) match those of a template: `{name}` captures within one segment,"
    " `**` at the end is any number of segments. Case matters.",
    params=(_VALUE, Param("pattern", "The template; names must be unique.", type="text")),
    options=(_IGNORE_CASE, _CAPTURE, _CAPTURE_NAMED),
    ok="true",
    answers="false when it does not match; then nothing is captured",
    faults=_TEMPLATE_FAULTS,
    effects=("writes",),
    examples=(
        Example('match-path "/apps/music/x/y" "/apps/{app}/**"', True),
        Example('match-path --capture-named p "/apps/music/x" "/apps/{app}/**"; app = $p.app', "music"),
        Example('match-path --capture p "/v1-beta/x" "/v{n}-{kind}/{rest}"; y = $p[2]', "beta"),
        Example('match-path "/Apps/music" "/apps/{app}"', False, ok=False),
        Example('p = "/**/x"; match-path "/a/x" $p', 'match-path: ** must be the last segment of "/**/x"', ok=False),
    ),
    call=call_with("match-path", _path),
    specialise=specialise_with(_path),
    capturing=call_with("match-path", _path_capture),
    capturing_specialise=specialise_with(_path_capture),
    predicate=True,
)

MATCH_HOST = Spec(
    "match-host",
    "match",
    "True when the labels of a host name (between `.`) match those of a template: `{name}` captures within one label,"
    " `**` at the end is any number of labels. Case of ASCII letters is ignored.",
    params=(_VALUE, Param("pattern", "The template; names must be unique.", type="text")),
    options=(_NO_IGNORE_CASE, _CAPTURE, _CAPTURE_NAMED),
    ok="true",
    answers="false when it does not match; then nothing is captured",
    faults=_TEMPLATE_FAULTS,
    effects=("writes",),
    examples=(
        Example('match-host "API.Example.com" "{service}.example.com"', True),
        Example('match-host --capture-named h "api-eu.example.com" "{app}-{zone}.**"; z = $h.zone', "eu"),
        Example('match-host "a.b.example.com" "{service}.example.com"', False, ok=False),
    ),
    call=call_with("match-host", _host),
    specialise=specialise_with(_host),
    capturing=call_with("match-host", _host_capture),
    capturing_specialise=specialise_with(_host_capture),
    predicate=True,
)

# -- prefixes ----------------------------------------------------------------------------------------------------------


def _starts_with(value: str, prefix: str, ignore_case: bool = False) -> bool:
    return ascii_lower(value).startswith(ascii_lower(prefix)) if ignore_case else value.startswith(prefix)


def _ends_with(value: str, suffix: str, ignore_case: bool = False) -> bool:
    return ascii_lower(value).endswith(ascii_lower(suffix)) if ignore_case else value.endswith(suffix)


STARTS_WITH = Spec(
    "starts-with",
    "match",
    "True when a text begins with a prefix.",
    params=(_VALUE, Param("prefix", "What it should begin with.", type="text")),
    options=(_IGNORE_CASE,),
    ok="true",
    answers="false when it does not",
    examples=(
        Example('starts-with "/api/v1" "/api/"', True),
        Example('starts-with -i "API" "ap"', True),
        Example('starts-with "example.com" "test"', False, ok=False),
    ),
    call=_starts_with,
    predicate=True,
)

ENDS_WITH = Spec(
    "ends-with",
    "match",
    "True when a text ends with a suffix.",
    params=(_VALUE, Param("suffix", "What it should end with.", type="text")),
    options=(_IGNORE_CASE,),
    ok="true",
    answers="false when it does not",
    examples=(Example('ends-with "a.html" ".html"', True), Example('ends-with "a.HTML" ".html"', False, ok=False)),
    call=_ends_with,
    predicate=True,
)

# -- MQTT filters ------------------------------------------------------------------------------------------------------


def topic_match(
    matches: Callable[[str, str], bool], check: Callable[[str], object], refused: type[Exception] = ValueError
) -> Spec:
    """Return the command ``topic-match`` of a host that knows topics.

    ``matches(filter, topic)`` tells whether a filter matches; ``check`` raises ``refused`` for what is no filter.
    """

    def prepare(filter_: str) -> Made:
        try:
            check(filter_)
        except refused as exc:
            raise PatternError(str(exc)) from None
        head = filter_.removesuffix("/#")
        if "+" in head or "#" in head:
            return lambda topic: matches(filter_, topic)
        if head == filter_:
            return lambda topic: topic == filter_
        below = head + "/"
        return lambda topic: topic == head or topic.startswith(below)

    def capture(filter_: str) -> Made:
        test, levels = prepare(filter_), filter_.split("/")

        def run(topic: str) -> Any:
            return (True, _wildcards(levels, topic)) if test(topic) else NOT_MATCHED

        return run

    return Spec(
        "topic-match",
        "match",
        "True when an MQTT topic filter matches a topic: `+` is one level, `#` at the end any number of levels.",
        params=(Param("topic", "The topic.", type="text"), Param("filter", "The filter.", type="text")),
        options=(Opt("capture", "Write a list: the topic, the level of each +, the levels of #.", out=True),),
        ok="true",
        answers="false when it does not match; then nothing is captured",
        faults="a computed filter that is none (a literal one is a load error)",
        effects=("writes",),
        examples=(
            Example('topic-match "home/kitchen/temp" home/+/temp', True),
            Example('topic-match --capture t "home/kitchen/temp" "home/+/#"; room = $t[1]', "kitchen"),
            Example('topic-match "office/temp" "home/#"', False, ok=False),
        ),
        call=call_with("topic-match", prepare),
        specialise=specialise_with(prepare),
        capturing=call_with("topic-match", capture),
        capturing_specialise=specialise_with(capture),
        predicate=True,
    )


def _wildcards(levels: list[str], topic: str) -> list[str]:
    """The topic, what each ``+`` of a filter that matches it stands for, and what ``#`` does."""
    parts = topic.split("/")
    found = [topic, *(parts[at] for at, level in enumerate(levels) if level == "+")]
    if levels[-1] == "#":
        found.append("/".join(parts[len(levels) - 1 :]))
    return found


SPECS = (MATCH, MATCH_REG, MATCH_PATH, MATCH_HOST, STARTS_WITH, ENDS_WITH)
