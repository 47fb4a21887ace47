"""Making text: append, strip, slice, split, case, replace (L8). Lengths and slices count UTF-8 bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from common.chain import values
from common.chain.commands.limits import check_items, check_text
from common.chain.commands.prepared import known
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
from common.chain.commands.templates import ascii_lower

IGNORE_CASE = Opt("ignore-case", "Upper and lower case of ASCII letters are the same.", "i")
_TEXT = Param("text", "The text.", type="text")
_RANGE = re.compile(r"([0-9]{0,18}):([0-9]{0,18})", re.ASCII)


def _append(*parts: str) -> str:
    return "".join(parts)


def _strip_prefix(text: str, prefix: str, ignore_case: bool = False) -> Any:
    if ignore_case:
        return text[len(prefix) :] if ascii_lower(text).startswith(ascii_lower(prefix)) else NO_MATCH
    return text[len(prefix) :] if text.startswith(prefix) else NO_MATCH


def _specialise_strip_prefix(static: Static) -> Callable[..., Any] | None:
    text, prefix = static.args
    if text is not DYNAMIC or prefix is DYNAMIC or static.options:
        return None
    head = values.text(prefix)
    size, answer = len(head), NO_MATCH
    return lambda text: text[size:] if text.startswith(head) else answer


def _strip_suffix(text: str, suffix: str, ignore_case: bool = False) -> Any:
    fits = ascii_lower(text).endswith(ascii_lower(suffix)) if ignore_case else text.endswith(suffix)
    return text[: len(text) - len(suffix)] if fits else NO_MATCH


def _specialise_strip_suffix(static: Static) -> Callable[..., Any] | None:
    text, suffix = static.args
    if text is not DYNAMIC or suffix is DYNAMIC or static.options:
        return None
    tail = values.text(suffix)
    size, answer = len(tail), NO_MATCH
    return lambda text: text[: len(text) - size] if text.endswith(tail) else answer


def _strlen(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _slice(text: str, range_: str) -> Any:
    found = _RANGE.fullmatch(range_)
    if found is None:
        return fault(f'slice: "{range_[:40]}" is no range, write start:end')
    return _cut(text, found)


def _cut(text: str, found: re.Match[str]) -> Any:
    data = text if text.isascii() else text.encode("utf-8", "surrogatepass")
    start = int(found[1] or 0)
    end = int(found[2]) if found[2] else len(data)
    if start > len(data) or end > len(data):
        return NO_MATCH
    part = data[start:end]
    if isinstance(part, str):
        return part
    try:
        return part.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # rare: the range cuts a character in two
        return NO_MATCH


def _specialise_slice(static: Static) -> Callable[..., Any] | None:
    text, range_ = static.args
    if range_ is DYNAMIC:
        return None
    found = _RANGE.fullmatch(values.text(range_))
    if found is None:
        raise BadArgument("no range, write start:end", 1)
    if text is not DYNAMIC:
        return None
    return lambda text: _cut(text, found)


def _split(run: RunContext, text: str, delimiter: str, skip_empty: bool = False) -> Any:
    if not delimiter:
        return fault("split: the delimiter is empty")
    if len(text) >= run.collection_items_max:
        check_items(run, [], text.count(delimiter) + 1)
    parts = text.split(delimiter)
    return [part for part in parts if part] if skip_empty else parts


def _split_capture(run: RunContext, text: str, delimiter: str, skip_empty: bool = False) -> Any:
    parts = _split(run, text, delimiter, skip_empty)
    return (parts, parts.copy()) if type(parts) is list else parts


def _delimiter(static: Static) -> str | None:
    """The literal delimiter of a split, or None where the call cannot be prepared."""
    text, delimiter = static.args
    if delimiter is DYNAMIC:
        return None
    if not values.text(delimiter):
        raise BadArgument("the delimiter is empty", 1)
    return values.text(delimiter) if text is DYNAMIC and known(static) else None


def _specialise_split(static: Static) -> Callable[..., Any] | None:
    delimiter = _delimiter(static)
    if delimiter is None:
        return None
    skip_empty = "skip-empty" in static.options

    def split(run: RunContext, text: str) -> Any:
        if len(text) >= run.collection_items_max:
            check_items(run, [], text.count(delimiter) + 1)
        parts = text.split(delimiter)
        return [part for part in parts if part] if skip_empty else parts

    return split


def _specialise_split_capture(static: Static) -> Callable[..., Any] | None:
    split = _specialise_split(static)
    if split is None:
        return None

    def capture(run: RunContext, text: str) -> Any:
        parts = split(run, text)
        return parts, parts.copy()

    return capture


def _lower(text: str) -> str:
    return text.lower()


def _upper(text: str) -> str:
    return text.upper()


def _trim(text: str) -> str:
    return text.strip()


def _replace(run: RunContext, value: Any, old: str, new: str, ignore_case: bool = False) -> Any:
    text = values.text(value)
    if not old:
        return fault("replace: the text to replace is empty")
    if not ignore_case:
        count = text.count(old)
        check_text(run, len(text) + count * (len(new) - len(old)))
        return text.replace(old, new) if count else NO_MATCH
    pieces, low, wanted = [], ascii_lower(text), ascii_lower(old)
    start = 0
    while (at := low.find(wanted, start)) >= 0:
        pieces.append(text[start:at])
        start = at + len(old)
    if not pieces:
        return NO_MATCH
    check_text(run, len(text) + len(pieces) * (len(new) - len(old)))
    return new.join([*pieces, text[start:]])


APPEND = Spec(
    "append",
    "text",
    "Join texts without anything between them.",
    params=(Param("part", "What to join.", type="text", repeated=True),),
    ok="the joined String",
    examples=(Example('append "a" 1 true', "a1true"), Example('append $nothing "x"', "x")),
    call=_append,
    grows=True,
)

STRIP_PREFIX = Spec(
    "strip-prefix",
    "text",
    "Take a prefix away.",
    params=(_TEXT, Param("prefix", "What it should begin with.", type="text")),
    options=(IGNORE_CASE,),
    ok="what follows the prefix",
    answers='"" when the text does not begin with it',
    examples=(
        Example('strip-prefix "/api/v1" "/api"', "/v1"),
        Example('strip-prefix -i "/API/v1" "/api"', "/v1"),
        Example('strip-prefix "/v1" "/api"', "", ok=False),
    ),
    call=_strip_prefix,
    specialise=_specialise_strip_prefix,
)

STRIP_SUFFIX = Spec(
    "strip-suffix",
    "text",
    "Take a suffix away.",
    params=(_TEXT, Param("suffix", "What it should end with.", type="text")),
    options=(IGNORE_CASE,),
    ok="what stands before the suffix",
    answers='"" when the text does not end with it',
    examples=(
        Example('strip-suffix "cam.example.com" ".example.com"', "cam"),
        Example('strip-suffix "cam.local" ".example.com"', "", ok=False),
    ),
    call=_strip_suffix,
    specialise=_specialise_strip_suffix,
)

STRLEN = Spec(
    "strlen",
    "text",
    "The length of a text in UTF-8 bytes.",
    params=(_TEXT,),
    ok="an Int",
    examples=(Example('strlen "abc"', 3), Example('strlen "é"', 2)),
    call=_strlen,
)

SLICE = Spec(
    "slice",
    "text",
    "A part of a text by byte offsets, the end not included; without start from the beginning, without end to the end.",
    params=(_TEXT, Param("range", "`start:end`, each may be left out.", type="text")),
    ok="the part; empty when the end does not lie behind the start",
    answers='"" when the range goes beyond the text or cuts a character in two',
    faults="a range that is none (a literal one is a load error)",
    examples=(
        Example('slice "abcdef" 1:4', "bcd"),
        Example('slice "abcdef" "4:"', "ef"),
        Example('slice "abc" 1:9', "", ok=False),
        Example('r = "x"; slice "abc" $r', 'slice: "x" is no range, write start:end', ok=False),
    ),
    call=_slice,
    specialise=_specialise_slice,
)

SPLIT = Spec(
    "split",
    "text",
    "Split a text at a delimiter.",
    params=(_TEXT, Param("delimiter", "What stands between the parts.", type="text")),
    options=(
        Opt("skip-empty", "Leave out empty parts."),
        Opt("capture", "Write the list to a variable, too.", out=True),
    ),
    ok="a List of Strings",
    faults="an empty delimiter (a literal one is a load error)",
    effects=("writes",),
    examples=(
        Example('split "a/b//c" "/"', ["a", "b", "", "c"]),
        Example('split --skip-empty "/a/b/" "/"', ["a", "b"]),
        Example('split --capture parts "a,b" ","; x = $parts[1]', "b"),
        Example('d = ""; split "abc" $d', "split: the delimiter is empty", ok=False),
    ),
    call=_split,
    specialise=_specialise_split,
    capturing=_split_capture,
    capturing_specialise=_specialise_split_capture,
    needs_run=True,
)

LOWER = Spec(
    "lower",
    "text",
    "The text in lower case.",
    params=(_TEXT,),
    ok="a String",
    examples=(Example('lower "ABC"', "abc"), Example('lower "É"', "é")),
    call=_lower,
    grows=True,
)

UPPER = Spec(
    "upper",
    "text",
    "The text in upper case.",
    params=(_TEXT,),
    ok="a String",
    examples=(Example('upper "abc"', "ABC"), Example('upper "é"', "É")),
    call=_upper,
    grows=True,
)

TRIM = Spec(
    "trim",
    "text",
    "The text without blanks and newlines at both ends.",
    params=(_TEXT,),
    ok="a String",
    examples=(Example('trim "  a b "', "a b"), Example('trim "\\n"', "")),
    call=_trim,
)

REPLACE = Spec(
    "replace",
    "text",
    "Replace every occurrence of a text in a variable.",
    params=(
        Param("variable", "What to change.", Kind.UPDATE, "text"),
        Param("old", "The text to look for.", type="text"),
        Param("new", "What to write in its place.", type="text"),
    ),
    options=(IGNORE_CASE,),
    ok="the new text, which is also written back",
    answers='"" when the text does not occur; then nothing is written',
    faults="an empty text to look for",
    effects=("writes",),
    examples=(
        Example('h = "a.io"; replace $h "io" "ai"', "a.ai"),
        Example('h = "AbaB"; replace -i h "AB" "x"; eq $h "xx"', True),
        Example('h = "a"; replace $h "b" "c"', "", ok=False),
    ),
    call=_replace,
    needs_run=True,
    grows=True,
)

SPECS = (APPEND, STRIP_PREFIX, STRIP_SUFFIX, STRLEN, SLICE, SPLIT, LOWER, UPPER, TRIM, REPLACE)
