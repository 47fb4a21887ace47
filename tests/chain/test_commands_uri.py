"""Commands on URIs and queries, compared with the standard library where it says the same."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.chain.commands.query import _parse_apart as parse_query_apart
from common.chain.commands.query import _parse_query as parse_query
from common.chain.errors import LimitError
from tests.chain.fake_run import FakeRun, answer, called, fault

QUERY_TEXT = st.text("aA0=&+%2Bé /?\x01\x02-_.~*", max_size=8)
MAPS = st.dictionaries(QUERY_TEXT, QUERY_TEXT | st.lists(QUERY_TEXT, min_size=2, max_size=3), max_size=5)


def pairs_of(query: dict[str, Any]) -> list[tuple[str, str]]:
    """The names and values of a query, one by one."""
    return [(key, item) for key, value in query.items() for item in (value if isinstance(value, list) else [value])]


# -- percent-encoding --------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_encoding_round_trips(text: str) -> None:
    """What is encoded has only unreserved characters and %XX, and is decoded to what it was."""
    encoded = called("url_encode", text)
    assert encoded == quote(text, safe="")
    assert called("url_decode", encoded) == text


@given(st.text("a%4f+é", max_size=8))
def test_decoding_is_strict(text: str) -> None:
    """Every % needs two hexadecimal digits and the bytes must be UTF-8; + stays."""
    got = called("url_decode", text)
    broken = any(len(part) < 2 or not set(part[:2]) <= set("4fa") for part in text.split("%")[1:])
    if broken:
        assert fault(got).startswith("url_decode: % without two hexadecimal digits in ")
    elif isinstance(got, str):
        assert got == unquote(text, errors="strict")
    else:
        assert fault(got).endswith(" is not UTF-8")


# -- queries -----------------------------------------------------------------------------------------------------------


@given(QUERY_TEXT | st.lists(st.tuples(QUERY_TEXT, QUERY_TEXT), max_size=12).map(
    lambda pairs: "&".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in pairs)
))  # fmt: skip
def test_queries_are_read_like_forms(text: str) -> None:
    """The pairs are those of a form, in order of first occurrence, with repeated names gathered."""
    expected: dict[str, list[str]] = {}
    for key, value in parse_qsl(text.removeprefix("?"), keep_blank_values=True, max_num_fields=100):
        expected.setdefault(key, []).append(value)
    got = called("parse-query", text)
    assert list(got) == list(expected)
    assert {key: value if isinstance(value, list) else [value] for key, value in got.items()} == expected


@given(st.lists(st.sampled_from([*"aé=&+%", "%2", "%26", "%3d", "%41", "%C3%A9", "%E2%82"]), max_size=8).map("".join))
def test_a_query_is_the_same_decoded_whole_and_piece_by_piece(text: str) -> None:
    """That most queries are decoded before they are split shows nowhere, whatever escapes they have."""
    assert parse_query(FakeRun(), text) == parse_query_apart(text.replace("+", " "))


@given(MAPS)
def test_queries_round_trip(query: dict[str, Any]) -> None:
    """What is built is the pairs, each encoded, and is read back as the same map."""
    built = called("build-query", query)
    assert built == "&".join(f"{quote_plus(key, '*')}={quote_plus(value, '*')}" for key, value in pairs_of(query))
    assert called("parse-query", built) == query


def test_large_queries_round_trip() -> None:
    """Many pairs, and many characters to encode, take the other ways through the codec."""
    query = {f"k{number}": f"{number}%+ é" for number in range(50)}
    built = called("build-query", query)
    assert called("parse-query", built) == query
    assert called("build-query", {"a": "!\"#$%&'(),/:;<=>?@[]^`{|}+ "}) == "a=" + quote_plus(
        "!\"#$%&'(),/:;<=>?@[]^`{|}+ "
    )
    assert called("build-query", {"a b": "%25+&=", "c": "x"}) == "a+b=%2525%2B%26%3D&c=x"


def test_broken_encoding_in_queries_stays() -> None:
    """A query is never refused: what cannot be decoded stays, bytes that are not UTF-8 are replaced."""
    assert called("parse-query", "a=%zz&b=%&c=%ff") == {"a": "%zz", "b": "%", "c": "\ufffd"}


def test_queries_of_other_values() -> None:
    """Scalars are texts; other collections than lists of scalars have no place in a query."""
    assert called("build-query", {"a": 1, "b": True, "c": None, "d": [1.0, "x"]}) == "a=1&b=true&c=&d=1&d=x"
    assert called("build-query", {"a": []}) == ""
    assert fault(called("build-query", {"a": [[1]]})) == 'build-query: "a" holds a List, a text needed'
    assert fault(called("build-query", "a=1")) == "build-query: String given, a Map needed"


def test_query_get() -> None:
    """The first value or all of a name, of a map or a text; an absent name is an answer."""
    assert called("query-get", "a=1&b=2&a=3", "a") == "1"
    assert called("query-get", "a=1&b=2&a=3", "a", all=True) == ["1", "3"]
    assert called("query-get", {"a": "1"}, "a", all=True) == ["1"]
    assert called("query-get", {"a": 5}, "a") == 5
    assert answer(called("query-get", {"a": []}, "a")) == ""
    assert answer(called("query-get", "a=1", "b")) == ""
    assert fault(called("query-get", 5, "a")) == "query-get: Number given, a Map or a String needed"


def test_queries_have_a_limit() -> None:
    """More pairs than a collection may have items end the run."""
    run = FakeRun(collection_items_max=2)
    assert called("parse-query", "a&b", run=run) == {"a": "", "b": ""}
    with pytest.raises(LimitError, match="PC-LIMIT-COLLECTION"):
        called("parse-query", "a&b&c", run=run)


# -- authorities and URIs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("example.com", ("example.com", None, False, None)),
        ("Example.com:8443", ("Example.com", 8443, True, None)),
        ("u:p@example.com:1", ("example.com", 1, True, "u:p")),
        ("@h", ("h", None, False, "")),
        ("[::1]:80", ("[::1]", 80, True, None)),
        ("1.2.3.4", ("1.2.3.4", None, False, None)),
    ],
)
def test_authorities(text: str, wanted: tuple[Any, ...]) -> None:
    """Userinfo, host and port are taken apart and nothing is changed."""
    got = called("parse-authority", text)
    assert tuple(got.values()) == wanted
    assert list(got) == ["host", "port", "has_port", "userinfo"]


@pytest.mark.parametrize(
    "text", ["", ":80", "a:", "a:x", "a b", "a/b", "a?b", "a#b", "a@b@c", "a\\b", "http://a", "é", "[::1", "a:123456"]
)
def test_what_is_no_authority(text: str) -> None:
    """What could be read in two ways, or is something else, is a fault."""
    assert fault(called("parse-authority", text)) == f'parse-authority: "{text}" is no authority'


def test_ports() -> None:
    """A port has 16 bits; the default one is an Int or its text."""
    assert fault(called("parse-authority", "a:65536")) == "parse-authority: port 65536 is above 65535"
    for default in (80, "80"):
        assert called("parse-authority", "a", default_port=default)["port"] == 80
        assert called("parse-authority", "a:1", default_port=default)["port"] == 1
    for default in (-1, 65_536, "x", 1.5, True, ""):
        assert fault(called("parse-authority", "a", default_port=default)).startswith(
            "parse-authority: the default port"
        )


LABEL = st.text("abcXYZ019", min_size=1, max_size=5)
PATHS = st.lists(st.text("abc-_~!%41", max_size=4).filter(lambda text: "%" not in text), max_size=4).map(
    lambda parts: "".join("/" + part for part in parts)
)


URIS = st.tuples(
    st.sampled_from(("http", "HTTPS", "ws", "mqtt", "tcp")),
    st.sampled_from(("", "u@", "u:p@", ":@")),
    st.lists(LABEL, min_size=1, max_size=3).map(".".join),
    st.sampled_from(("", ":80", ":443", ":8080")),
    PATHS,
    st.sampled_from(("", "?", "?a=b&c=%20", "?x?y")),
    st.sampled_from(("", "#", "#f/?")),
)


@given(URIS)
def test_uris_are_read_like_the_library_does(parts: tuple[str, ...]) -> None:
    """Each part is what the standard library finds; built again from its parts, the URI is read as the same."""
    uri = "{}://{}{}{}{}{}{}".format(*parts)
    got, split = called("parse-uri", uri), urlsplit(uri)
    default = {"http": 80, "https": 443, "ws": 80}.get(split.scheme)
    assert (got["scheme"], got["host"]) == (split.scheme, split.hostname)
    assert got["effective_port"] == (split.port or default)
    assert got["port"] == (None if split.port == default else split.port)
    assert got["has_port"] == (got["port"] is not None)
    assert (got["username"], got["password"]) == (split.username or "", split.password)
    assert got["path"] == (split.path or ("/" if default else ""))
    assert (got["query"] or "", got["fragment"] or "") == (split.query, split.fragment)
    built = called("build-uri", got)
    again = called("parse-uri", built)
    assert again == got or (parts[1] == ":@" and again["authority"] == got["authority"])


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/a/../b", "/b"), ("/a/./b", "/a/b"), ("/..", "/"), ("/../../a", "/a"), ("/a/..", "/"), ("/a/.", "/a/"),
        ("/a/%2e%2E/b", "/b"), ("/a/.b/..c/...", "/a/.b/..c/..."), ("", "/"), ("//a", "//a"), ("/a//../b", "/a/b"),
        ("/%2fa", "/%2fa"),
    ],
)  # fmt: skip
def test_dot_segments_are_applied(path: str, wanted: str) -> None:
    """No path of a web address hides where it leads, encoded dots included; other schemes keep theirs."""
    assert called("parse-uri", "http://x" + path)["path"] == wanted
    assert path[:2] == "//" or called("parse-uri", "urn:" + path)["path"] == path


@pytest.mark.parametrize(
    "text",
    ["", "abc", "/a", "//h/a", "1a:b", "http://a b", "http://a\\@b", "http://a/\n", "http://a/\x00", "a:b c", "ht~p:x"],
)
def test_what_is_no_uri(text: str) -> None:
    """Relative references, blanks, control characters and backslashes are a fault."""
    assert fault(called("parse-uri", text)) == f'parse-uri: "{text}" is no absolute URI'


def test_uris_with_bad_authorities() -> None:
    """A web address needs a host, and every authority must be one."""
    assert fault(called("parse-uri", "http:/x")) == "parse-uri: a http URI needs a host"
    assert fault(called("parse-uri", "http://")) == "parse-uri: a http URI needs a host"
    assert fault(called("parse-uri", "http://a:b:c/")) == 'parse-uri: "a:b:c" is no authority'
    assert fault(called("parse-uri", "http://a:70000/")) == "parse-uri: port 70000 is above 65535"
    assert called("parse-uri", "file:///a")["host"] is None
    assert called("parse-uri", "mailto:a@b")["path"] == "a@b"


def test_long_texts_are_shortened_in_messages() -> None:
    """A message shows the beginning of what is wrong."""
    assert fault(called("parse-uri", "a" * 100)) == f'parse-uri: "{"a" * 57}..." is no absolute URI'


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"scheme": "HTTPS", "host": "Example.com", "port": 443}, "https://example.com/"),
        ({"scheme": "http", "host": "h", "port": "8080", "path": "a"}, "http://h:8080/a"),
        ({"scheme": "http", "host": "h", "username": "u@", "password": "p:/"}, "http://u%40:p%3A%2F@h/"),
        ({"scheme": "http", "authority": "u@h:1", "path": "/x"}, "http://u@h:1/x"),
        ({"scheme": "http", "host": "h", "path": "/a b?#é%20", "query": "a b#'", "fragment": "x y"},
         "http://h/a%20b%3F%23%C3%A9%20?a%20b%23%27#x%20y"),
        ({"scheme": "urn", "path": "a:b"}, "urn:a:b"),
        ({"scheme": "file", "path": "//a"}, "file:/.//a"),
        ({"scheme": "tcp", "host": "_", "path": "/80"}, "tcp://_/80"),
        ({"scheme": "tcp", "host": "h", "query": "", "fragment": ""}, "tcp://h?#"),
        ({"scheme": "http", "host": "h", "port": None, "effective_port": 80, "has_port": False}, "http://h/"),
    ],
)  # fmt: skip
def test_building_uris(parts: dict[str, Any], wanted: str) -> None:
    """Parts are put together, what may not stand in them is encoded, what is encoded stays."""
    assert called("build-uri", parts) == wanted


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "List given, a Map needed"),
        ({}, '"" is no scheme'),
        ({"scheme": "1x"}, '"1x" is no scheme'),
        ({"scheme": "http"}, "a http URI needs a host"),
        ({"scheme": "x", "port": 1}, "username, password and port need a host"),
        ({"scheme": "x", "authority": "h", "port": 1}, "username, password and port need a host"),
        ({"scheme": "x", "username": "u"}, "username, password and port need a host"),
        ({"scheme": "x", "host": "h", "port": 70_000}, '"70000" is no port'),
        ({"scheme": "x", "host": "a/b"}, '"a/b" is no authority'),
        ({"scheme": "x", "host": "h", "color": "red"}, 'unknown key "color"'),
        ({"scheme": "x", "host": "h", "path": 5}, "path must be a String"),
    ],
)
def test_parts_that_make_no_uri(parts: Any, message: str) -> None:
    """A fault says which part is wrong."""
    assert fault(called("build-uri", parts)) == f"build-uri: {message}"
