"""JSON and time: parse-json, build-json, json-get, now (L8)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from common.chain import values
from common.chain.commands.limits import check_items
from common.chain.commands.patterns import PATTERN_CHARS_MAX, PATTERNS_CACHED_MAX, PatternError
from common.chain.commands.spec import (
    DYNAMIC,
    NO_MATCH,
    BadArgument,
    Example,
    Param,
    RunContext,
    Spec,
    Static,
    fault,
    needed,
)
from common.chain.commands.uri import shown

_STEP = re.compile(r'\.?([^.\[\]"]+)|\[([0-9]{1,18})\]|\["([^"]*)"\]')
_JSON = Param("json", "The JSON, or a collection.")


@lru_cache(maxsize=PATTERNS_CACHED_MAX)
def json_path(path: str) -> tuple[str | int, ...]:
    """Return the steps of a path like ``a.b[0]["x y"]``, of those that were used last. Raises PatternError."""
    if len(path) > PATTERN_CHARS_MAX:
        raise PatternError(f"path longer than {PATTERN_CHARS_MAX} characters")
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or (found[1] is not None and (at > 0) != (path[at] == ".")):
            raise PatternError(f"{shown(path)} is no path")
        steps.append(int(found[2]) if found[2] else found[3] if found[3] is not None else found[1])
        at = found.end()
    return tuple(steps)


def _items_bounded(run: RunContext, text: str, value: Any) -> None:
    """Look at the sizes of what was parsed, where the text has enough commas for a large collection."""
    if text.count(",") < run.collection_items_max:
        return
    left = [value]
    while left:
        found = left.pop()
        if type(found) is list or type(found) is dict:
            check_items(run, found, len(found))
            left += found.values() if type(found) is dict else found


def _parse_json(run: RunContext, text: str) -> Any:
    try:
        value = values.from_json(text)
    except ValueError as exc:
        return fault(f"parse-json: {exc}")
    _items_bounded(run, text, value)
    return value


def _build_json(run: RunContext, value: Any) -> str:
    return values.to_json(value, run.string_bytes_max)


def _json_get(run: RunContext, given: Any, path: str) -> Any:
    try:
        steps = json_path(path)
    except PatternError as exc:
        return fault(f"json-get: {exc}")
    return _follow(run, given, steps)


def _follow(run: RunContext, given: Any, steps: tuple[str | int, ...]) -> Any:
    value = given
    if type(given) is not dict and type(given) is not list:
        if type(given) is not str:
            return needed("json-get", "JSON", given)
        try:
            value = values.from_json(given)
        except ValueError as exc:
            return fault(f"json-get: {exc}")
    for step in steps:
        value = values.index(value, step)
        if value is values.MISSING:
            return NO_MATCH
    if type(value) in values.COLLECTIONS and type(given) is str:
        _items_bounded(run, given, value)
    return value


def _specialise_json_get(static: Static) -> Any:
    given, path = static.args
    if path is DYNAMIC:
        return None
    try:
        steps = json_path(values.text(path))
    except PatternError as exc:
        raise BadArgument(str(exc), 1) from None
    return (lambda run, given: _follow(run, given, steps)) if given is DYNAMIC else None


def _now(run: RunContext) -> int:
    return run.now_ms()


PARSE_JSON = Spec(
    "parse-json",
    "data",
    "The value of a JSON text. An integer beyond 64 bits becomes a Float.",
    params=(Param("text", "The JSON.", type="text"),),
    ok="the value",
    faults="no JSON, NaN or an infinity, collections nested deeper than 100 levels",
    examples=(
        Example("parse-json '{\"a\": [1, 2.5, null]}'", {"a": [1, 2.5, None]}),
        Example("parse-json '[1,]'", "parse-json: no JSON at byte 3", ok=False),
    ),
    call=_parse_json,
    needs_run=True,
)

BUILD_JSON = Spec(
    "build-json",
    "data",
    "The JSON of a value, without blanks; a set is a list.",
    params=(Param("value", "The value."),),
    ok="a String",
    examples=(Example('build-json {"a": [1, 2.5, null]}', '{"a":[1,2.5,null]}'), Example('build-json "x"', '"x"')),
    call=_build_json,
    needs_run=True,
)

JSON_GET = Spec(
    "json-get",
    "data",
    'One value of a JSON text or of a collection, by a path like `a.b[0]["x y"]`; an empty path is all of it.',
    params=(_JSON, Param("path", "The path.", type="text")),
    ok="the value",
    answers='"" when there is nothing at the path',
    faults="no JSON, a computed path that is none (a literal one is a load error)",
    examples=(
        Example('json-get \'{"a": {"b": [1, 2]}}\' "a.b[1]"', 2),
        Example("json-get '{\"x y\": 5}' '[\"x y\"]'", 5),
        Example("json-get '{\"a\": 1}' b", "", ok=False),
        Example("json-get '{' b", "json-get: the text ends too early", ok=False),
    ),
    call=_json_get,
    specialise=_specialise_json_get,
    needs_run=True,
)

NOW = Spec(
    "now",
    "data",
    "The time in Unix milliseconds.",
    ok="an Int",
    effects=("clock",),
    examples=(Example("t = $(now); gt $t 1700000000000", True), Example("t = $(now); is-number $t", True)),
    call=_now,
    needs_run=True,
)

SPECS = (PARSE_JSON, BUILD_JSON, JSON_GET, NOW)
