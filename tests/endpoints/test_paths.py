"""Which rule a path means: anchored, by segments, the most specific wins (flow F3)."""

from __future__ import annotations

import pytest

from edge.endpoints.paths import SEGMENTS_MAX, Paths, Pattern

PATTERNS = ("/", "/a", "/a/b", "/a/{x}", "/a/{x}/c", "/a/b/{y}", "/{z}/b", "/a.c", "/lines/{line}/stop")


def paths(*patterns: str, methods: str = "") -> Paths:
    """Patterns that lead to themselves."""
    return Paths(Pattern(p, frozenset(methods.split(",")) if methods else frozenset(), p) for p in patterns)


@pytest.mark.parametrize(
    ("path", "pattern", "params"),
    [
        ("/", "/", {}), ("", "/", {}), ("/a", "/a", {}), ("/a/", "/a", {}), ("/a/b", "/a/b", {}),
        ("/a/q", "/a/{x}", {"x": "q"}), ("/a/b/c", "/a/b/{y}", {"y": "c"}), ("/a/q/c", "/a/{x}/c", {"x": "q"}),
        ("/q/b", "/{z}/b", {"z": "q"}), ("/a.c", "/a.c", {}), ("/lines/7/stop", "/lines/{line}/stop", {"line": "7"}),
        ("/a/x%2Fy", "/a/{x}", {"x": "x/y"}), ("/a/%E2%82%AC", "/a/{x}", {"x": "€"}), ("/a/%62", "/a/b", {}),
        ("/a/b%252F", "/a/{x}", {"x": "b%2F"}), ("/a/+", "/a/{x}", {"x": "+"}), ("/%61", "/a", {}),
        # what KubeEdge's unanchored search over the whole URI takes for one of these
        ("/ab", None, {}), ("/abc/b/d", None, {}), ("/a/b/d/e", None, {}), ("/x/a/b", None, {}), ("/axc", None, {}),
        ("/lines/7/stopped", None, {}), ("/lines//stop", None, {}), ("/lines/7/stop/now", None, {}), ("//a", None, {}),
        ("/A", None, {}),
    ],
)  # fmt: skip
def test_matching(path: str, pattern: str | None, params: dict[str, str]) -> None:
    """Literal before parameter, left to right; nothing matches a part; one slash at the end means nothing."""
    for order in (PATTERNS, PATTERNS[::-1]):
        found = paths(*order).find(path, "POST")
        assert (found and found.value) == pattern
        assert found is None or found.params == params


def test_a_longer_way_is_found_when_the_literal_leads_nowhere() -> None:
    """/a/{x}/c is right for /a/b/c when /a/b has nothing below."""
    found = paths("/a/b", "/a/{x}/c").find("/a/b/c", "GET")
    assert found is not None
    assert (found.value, found.params) == ("/a/{x}/c", {"x": "b"})


def test_methods() -> None:
    """One path, several rules by method; another method is told which there are."""
    tree = Paths([Pattern("/a", frozenset({"GET"}), 1), Pattern("/a", frozenset({"POST", "PUT"}), 2)])
    assert [found.value for m in ("GET", "PUT") if (found := tree.find("/a", m))] == [1, 2]
    refused = tree.find("/a", "DELETE")
    assert refused is not None
    assert (refused.value, refused.allowed) == (None, ("GET", "POST", "PUT"))


@pytest.mark.parametrize("path", ["/a/%ff", "/a/%00", "/a/%C3", "/x" * (SEGMENTS_MAX + 1)])
def test_what_is_no_path(path: str) -> None:
    """Bytes that are no UTF-8, NUL, and too many segments are refused, not matched."""
    with pytest.raises(ValueError):
        paths(*PATTERNS).find(path, "GET")
