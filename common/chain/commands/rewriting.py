"""Rewriting a variable by a pattern: rewrite (globs), rewrite-reg, rewrite-path, rewrite-host (L8).

Each gets the variable's value and returns the new text, which the compiler writes back, or an Err, and then nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from common.chain import values
from common.chain.commands.limits import check_text
from common.chain.commands.patterns import PatternError, glob_test, regex
from common.chain.commands.prepared import keywords, known
from common.chain.commands.spec import (
    DYNAMIC,
    NO_MATCH,
    BadArgument,
    Example,
    Kind,
    Opt,
    Param,
    RunContext,
    Spec,
    Static,
    fault,
)
from common.chain.commands.templates import rewriting, template

Rewrite = Callable[[RunContext, Any], Any]
Prepare = Callable[..., Rewrite]
"""Gets pattern, template and the options as keywords. Raises PatternError."""


class TemplateError(PatternError):
    """Not the pattern but the template to write cannot be used."""


_GLOB_SPECIAL = re.compile(r"[*?\[\]{}\\]")
_REFERENCE = re.compile(r"\$([0-9])")


def _glob(pattern: str, new: str) -> Rewrite:
    test = glob_test(pattern, True)
    head = pattern.rstrip("*")
    keeps_tail = pattern.endswith("*") and new.endswith("*")
    if keeps_tail and _GLOB_SPECIAL.search(head):
        raise PatternError("a template that ends in * needs a pattern whose last * is its only special character")
    start, size = new.rstrip("*"), len(head)

    def rewrite(run: RunContext, value: Any) -> Any:
        text = values.text(value)
        if not test(text):
            return NO_MATCH
        return start + text[size:] if keeps_tail else new

    return rewrite


def _regex(pattern: str, new: str) -> Rewrite:
    compiled = regex(pattern, False)
    parts = _REFERENCE.split(new)
    literals, numbers = parts[::2], [int(number) for number in parts[1::2]]
    if numbers and max(numbers) > compiled.groups:
        raise TemplateError(f"the expression has no group ${max(numbers)}")
    size = sum(map(len, literals))

    def rewrite(run: RunContext, value: Any) -> Any:
        found = compiled.find(values.text(value))
        if found is None:
            return NO_MATCH
        captured = [found[number] or "" for number in numbers]
        check_text(run, size + sum(map(len, captured)))
        made = [literals[0]]
        for part, literal in zip(captured, literals[1:], strict=True):
            made += (part, literal)
        return "".join(made)

    return rewrite


def _segments(pattern: str, new: str, separator: str, ignore_case: bool) -> Rewrite:
    made = template(pattern, separator, ignore_case)
    try:
        target = rewriting(new, separator)
        target.check(made)
    except PatternError as exc:
        raise TemplateError(str(exc)) from None
    match, names = made.match, made.names

    def rewrite(run: RunContext, value: Any) -> Any:
        found = match(values.text(value))
        if found is None:
            return NO_MATCH
        captured, rest = found
        parts = target.parts(dict(zip(names, captured, strict=True)), rest)
        check_text(run, sum(map(len, parts)))
        return "".join(parts)

    return rewrite


def _path(pattern: str, new: str, ignore_case: bool = False) -> Rewrite:
    return _segments(pattern, new, "/", ignore_case)


def _host(pattern: str, new: str, no_ignore_case: bool = False) -> Rewrite:
    return _segments(pattern, new, ".", not no_ignore_case)


def _call(name: str, prepare: Prepare) -> Callable[..., Any]:
    def call(run: RunContext, value: Any, pattern: str, new: str, **options: Any) -> Any:
        try:
            rewrite = prepare(pattern, new, **options)
        except PatternError as exc:
            return fault(f"{name}: {exc}")
        return rewrite(run, value)

    return call


def _specialise(prepare: Prepare) -> Callable[[Static], Callable[..., Any] | None]:
    def specialise(static: Static) -> Callable[..., Any] | None:
        value, pattern, new = static.args
        if value is not DYNAMIC or pattern is DYNAMIC or new is DYNAMIC or not known(static):
            return None
        try:
            return prepare(values.text(pattern), values.text(new), **keywords(static))
        except PatternError as exc:
            raise BadArgument(str(exc), 2 if isinstance(exc, TemplateError) else 1) from None

    return specialise


_VARIABLE = Param("variable", "What to change.", Kind.UPDATE, "text")
_OK = "the new text, which is also written back"
_ANSWERS = '"" when the pattern does not match; then nothing is written'
_FAULTS = "a computed pattern or template that cannot be used (literal ones are load errors)"


def _spec(
    name: str,
    doc: str,
    pattern: str,
    new: str,
    prepare: Prepare,
    examples: tuple[Example, ...],
    options: tuple[Opt, ...] = (),
) -> Spec:
    return Spec(
        name,
        "text",
        doc,
        params=(_VARIABLE, Param("pattern", pattern, type="text"), Param("template", new, type="text")),
        options=options,
        ok=_OK,
        answers=_ANSWERS,
        faults=_FAULTS,
        effects=("writes",),
        examples=examples,
        call=_call(name, prepare),
        specialise=_specialise(prepare),
        needs_run=True,
        grows=True,
    )


REWRITE = _spec(
    "rewrite",
    "Rewrite a variable that a glob matches (case is ignored). When pattern and template both end in `*`, what the `*`"
    " of the pattern matched is kept; else the template is the new text.",
    "The glob.",
    "The new text.",
    _glob,
    (
        Example('u = "/kapi/svc/x"; rewrite $u "/kapi/svc/*" "/kapi/*"', "/kapi/x"),
        Example('h = "a.example.com"; rewrite h "*.example.com" "backend"; eq $h backend', True),
        Example('u = "/x"; rewrite $u "/kapi/*" "/*"', "", ok=False),
    ),
)

REWRITE_REG = _spec(
    "rewrite-reg",
    "Rewrite a variable in which a regular expression (RE2 syntax) is found; case matters. The template is the whole"
    " new text; `$0` is what matched, `$1` to `$9` are the groups (empty where one took no part), other `$` stay.",
    "The expression; single quotes keep its backslashes.",
    "The new text; single quotes keep its `$1`.",
    _regex,
    (
        Example("u = \"/test/a/7\"; rewrite-reg $u '^/test/(\\w+)(?:/(\\d+))?' '/new/$1/$2'", "/new/a/7"),
        Example("u = \"/x\"; rewrite-reg $u '^/test/' '/new'", "", ok=False),
    ),
)

REWRITE_PATH = _spec(
    "rewrite-path",
    "Rewrite a path by segments: a template like those of match-path, and one to write, which may use its names and, as"
    " a whole segment, its `**`. Case matters.",
    "The template to match.",
    "The template to write.",
    _path,
    (
        Example('p = "/kapi/s/a/b"; rewrite-path $p "/kapi/{service}/**" "/api/{service}/v1/**"', "/api/s/v1/a/b"),
        Example('p = "/KAPI/s"; rewrite-path --ignore-case $p "/kapi/{s}" "/{s}"', "/s"),
        Example('p = "/x"; rewrite-path $p "/kapi/{s}" "/{s}"', "", ok=False),
        Example(
            'p = "/x"; t = "/{b}"; rewrite-path $p "/{a}" $t', "rewrite-path: the pattern captures no {b}", ok=False
        ),
    ),
    (Opt("ignore-case", "Upper and lower case of ASCII letters are the same.", "i"),),
)

REWRITE_HOST = _spec(
    "rewrite-host",
    "Rewrite a host name by labels: a template like those of match-host, and one to write. Case of ASCII letters is"
    " ignored.",
    "The template to match.",
    "The template to write.",
    _host,
    (
        Example('h = "app.example.com"; rewrite-host $h "{app}.**" "{app}.internal.**"', "app.internal.example.com"),
        Example('h = "a.b"; rewrite-host $h "{app}.example.com" "{app}"', "", ok=False),
    ),
    (Opt("no-ignore-case", "Upper and lower case differ."),),
)

SPECS = (REWRITE, REWRITE_REG, REWRITE_PATH, REWRITE_HOST)
