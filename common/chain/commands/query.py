"""Query strings: parse-query, build-query, query-get (L8).

A query is a Map from a name to its String, or to a List of Strings where the name occurs more than once. The codec
looks at the whole text first and decodes or encodes only the pairs that need it: most pairs of most queries do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from common.chain import values
from common.chain.commands.limits import check_items
from common.chain.commands.prepared import known
from common.chain.commands.spec import (
    DYNAMIC,
    NO_MATCH,
    Example,
    Opt,
    Param,
    RunContext,
    Spec,
    Static,
    fault,
    needed,
)
from common.chain.commands.uri import shown

# Two characters that stand for = and & while a query is encoded as a whole. Texts that hold them are encoded apart.
_EQUALS, _AND = "\x01", "\x02"
_KEPT = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789*-._~\x01\x02"
_UNSAFE = re.compile(r"[^A-Za-z0-9*._~\x01\x02-]+")
_UNSAFE_APART = re.compile(r"[^A-Za-z0-9*._~-]+")
_CHARS = {
    code: chr(int(code, 16)) for at in set(range(128)) - set(b"&=") for code in (f"{at:02x}", f"{at:02X}")
}  # fmt: skip
_ESCAPES = [f"%{code:02X}" for code in range(128)]
_ONE_BY_ONE_MAX = 8  # different characters to encode; beyond it a regular expression is faster


def _parse_query(run: RunContext, text: str) -> dict[str, Any]:
    if text[:1] == "?":
        text = text[1:]
    if len(text) >= run.collection_items_max:
        check_items(run, {}, text.count("&") + 1)
    if "+" in text:
        text = text.replace("+", " ")
    if "%" in text:
        plain = _unescaped(text)
        if plain is None:
            return _parse_apart(text)
        text = plain
    made: dict[str, Any] = {}
    for piece in text.split("&"):
        name, _, value = piece.partition("=")
        if name not in made:
            if piece:
                made[name] = value
        else:
            _repeat(made, name, piece, value)
    return made


def _parse_apart(text: str) -> dict[str, Any]:
    """The same, each name and value decoded by itself: one may hold an encoded ``&`` or ``=``, or more than ASCII."""
    made: dict[str, Any] = {}
    for piece in text.split("&"):
        name, _, value = piece.partition("=")
        if "%" in piece:
            name, value = _decoded(name), _decoded(value)
        if name in made:
            _repeat(made, name, piece, value)
        elif piece:
            made[name] = value
    return made


def _repeat(made: dict[str, Any], name: str, piece: str, value: str) -> None:
    """Add the value of a name that occurs again; an empty piece is no pair."""
    before = made[name]
    if type(before) is list:
        before += [value] if piece else []
    elif piece:
        made[name] = [before, value]


def _unescaped(text: str) -> str | None:
    """The whole query decoded at once, or None where its pairs could not be told apart then, or bytes are no ASCII."""
    first, *others = text.split("%")
    if not text.isascii():
        return None
    made = [first]
    for part in others:
        char = _CHARS.get(part[:2])
        if char is None:
            return None
        made.append(char + part[2:])
    return "".join(made)


def _decoded(text: str) -> str:
    """The text with ``%XX`` decoded; what is broken stays, what is not UTF-8 becomes U+FFFD."""
    return unquote_to_bytes(text.encode("utf-8", "replace")).decode("utf-8", "replace") if "%" in text else text


def _build_query(query: Any) -> Any:
    if type(query) is not dict:
        return needed("build-query", "a Map", query)
    pairs: list[str] = []
    for name, value in query.items():
        if type(value) is str:
            pairs.append(f"{name}{_EQUALS}{value}")
            continue
        for item in value if type(value) is list else (value,):
            if type(item) in values.COLLECTIONS:
                return fault(f"build-query: {shown(name)} holds a {values.type_name(item)}, a text needed")
            pairs.append(f"{name}{_EQUALS}{values.text(item)}")
    whole = _AND.join(pairs)
    if whole.count(_EQUALS) != len(pairs) or whole.count(_AND) != max(0, len(pairs) - 1):
        return _build_apart(query)
    return _encoded(whole).replace(_EQUALS, "=").replace(_AND, "&")


def _encoded(whole: str) -> str:
    """Encode all pairs at once. Where few different characters need it, each is replaced in the whole text."""
    left = whole.encode("utf-8", "replace").translate(None, _KEPT)
    if not left:
        return whole
    codes = set(left)
    if len(codes) > _ONE_BY_ONE_MAX or not left.isascii():
        return _UNSAFE.sub(_quoted, whole)
    if 37 in codes:  # % first: the others bring new ones
        whole = whole.replace("%", "%25")
    for code in codes:
        if code != 32 and code != 37:
            whole = whole.replace(chr(code), _ESCAPES[code])
    return whole.replace(" ", "+") if 32 in codes else whole


def _build_apart(query: dict[str, Any]) -> str:
    """The same, pair by pair."""
    pairs: list[str] = []
    for name, value in query.items():
        start = _UNSAFE_APART.sub(_quoted, name)
        items = value if type(value) is list else (value,)
        pairs += (f"{start}={_UNSAFE_APART.sub(_quoted, values.text(item))}" for item in items)
    return "&".join(pairs)


def _quoted(found: re.Match[str]) -> str:
    return quote(found[0], safe=" ", errors="replace").replace(" ", "+")


def _query_get(run: RunContext, query: Any, name: str, all: bool = False) -> Any:
    if type(query) is not dict:
        if type(query) is not str:
            return needed("query-get", "a Map or a String", query)
        query = _parse_query(run, query)
    found = query.get(name)
    if found is None:
        return NO_MATCH
    if type(found) is list:
        return found.copy() if all else found[0] if found else NO_MATCH
    return [found] if all else found


def _specialise_get(static: Static) -> Callable[..., Any] | None:
    query, name = static.args
    if query is not DYNAMIC or name is DYNAMIC or static.options or not known(static):
        return None
    key = values.text(name)

    def get(run: RunContext, query: Any) -> Any:
        if type(query) is dict:
            found = query.get(key)
            if type(found) is str:
                return found
        return _query_get(run, query, key)

    return get


PARSE_QUERY = Spec(
    "parse-query",
    "uri",
    "Take a query string apart. A leading `?` is left out, `+` is a blank, `%XX` is decoded; what cannot be decoded"
    " stays as it is.",
    params=(Param("text", "The query.", type="text"),),
    ok="a Map from each name to its String, or to a List of Strings where it occurs more than once",
    examples=(
        Example('parse-query "?a=1&b=x+y&a=%32"', {"a": ["1", "2"], "b": "x y"}),
        Example('parse-query "flag&&x="', {"flag": "", "x": ""}),
    ),
    call=_parse_query,
    needs_run=True,
)

BUILD_QUERY = Spec(
    "build-query",
    "uri",
    "Make a query string, without `?`, of a map like that of parse-query. Letters, digits and `* - . _ ~` stay, a blank"
    " becomes `+`, everything else `%XX`.",
    params=(Param("query", "Names with a scalar, or a List of scalars.", type="map"),),
    ok="a String",
    faults="no Map, a collection in it other than a List of scalars",
    examples=(
        Example('build-query {"a": [1, 2], "b": "x y/z"}', "a=1&a=2&b=x+y%2Fz"),
        Example('build-query {"a": {}}', 'build-query: "a" holds a Map, a text needed', ok=False),
    ),
    call=_build_query,
    grows=True,
)

QUERY_GET = Spec(
    "query-get",
    "uri",
    "One value of a query: of the map of parse-query, or of a query string.",
    params=(Param("query", "The map, or the text."), Param("name", "The name.", type="text")),
    options=(Opt("all", "All values, as a List."),),
    ok="the first value with this name, with --all a List of all",
    answers='"" when the name does not occur',
    faults="neither a Map nor a String",
    examples=(
        Example('q = $(parse-query "a=1&a=2"); query-get $q a', "1"),
        Example('query-get --all "a=1&a=2" a', ["1", "2"]),
        Example('query-get "a=1" b', "", ok=False),
        Example("query-get [1] a", "query-get: List given, a Map or a String needed", ok=False),
    ),
    call=_query_get,
    specialise=_specialise_get,
    needs_run=True,
)

SPECS = (PARSE_QUERY, BUILD_QUERY, QUERY_GET)
