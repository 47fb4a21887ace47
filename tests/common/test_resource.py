"""Clauses P2.1 to P2.3 and the names of P3.2."""

from __future__ import annotations

import pytest

from common import resource
from common.errors import ResourceError
from common.resource import Resource


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "node id not found"),
        ("node", "node id not found"),
        ("node//d/t", "node id not found"),
        ("node/n", "namespace not found"),
        ("node/n//t", "namespace not found"),
        ("node/n/d", "resource type not found"),
        ("node/n/d//x", "resource type not found"),
        ("node/n/d/t/", "resource name not found"),
        ("/x", "resource type not found"),
        ("rule/", "resource name not found"),
    ],
)
def test_p2_3_missing_segments(text: str, error: str) -> None:
    """Each missing or empty segment is its own error, with KubeEdge's words."""
    for strict in (False, True):
        with pytest.raises(ResourceError) as caught:
            Resource.parse(text, strict=strict and text.startswith("node"))
        assert caught.value.detail == error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node/n/d/t/x", Resource("n", "d", "t", "x")),
        ("node/n/d/t", Resource("n", "d", "t")),
        ("node/nodeid/d/rulestatus/x", Resource("nodeid", "d", "rulestatus", "x")),
        ("rule/x", Resource("", "", "rule", "x")),
    ],
)
def test_p2_2_parse_and_back(text: str, expected: Resource) -> None:
    """A resource parses, and its text is what was parsed."""
    assert Resource.parse(text, strict=True) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "error"),
    [("node/n/d/t/x/y", "6 segments, at most 5"), ("edge/n/d/t", "first segment is 'edge', not 'node'")],
)
def test_p2_3_strict(text: str, error: str) -> None:
    """Strict mode refuses what KubeEdge ignores."""
    assert Resource.parse(text).node == "n"
    with pytest.raises(ResourceError) as caught:
        Resource.parse(text, strict=True)
    assert caught.value.detail == error


def test_p2_1_builders() -> None:
    """Both forms of the seed's BuildResourceForRouter, and BuildResource."""
    assert resource.build_resource_for_router("", "rulestatus", "r") == "node/nodeid/default/rulestatus/r"
    assert resource.build_resource_for_router("ns", "rule", "r", node="e") == "node/e/ns/rule/r"
    assert resource.build_resource_for_edgecontroller("rule", "r") == "rule/r"
    assert resource.build_resource("n", "d", "t") == "node/n/d/t"
    assert Resource.parse("node/n/d/t/x").require_name() == "x"


@pytest.mark.parametrize("parts", [("", "x"), ("rule", "")])
def test_p2_1_router_parts_required(parts: tuple[str, str]) -> None:
    """An empty type or name is an error with KubeEdge's words."""
    text = "required parameter are not set (resourceID or resource type)"
    with pytest.raises(ResourceError) as caught:
        resource.build_resource_for_router("d", *parts)
    assert caught.value.detail == text
    with pytest.raises(ResourceError) as caught:
        resource.build_resource_for_edgecontroller(*parts)
    assert caught.value.detail == text


@pytest.mark.parametrize("parts", [("", "d", "t"), ("n", "", "t"), ("n", "d", "")])
def test_p2_1_build_resource_required(parts: tuple[str, str, str]) -> None:
    """Node, namespace and type are required."""
    with pytest.raises(ResourceError) as caught:
        resource.build_resource(*parts)
    assert caught.value.detail == "required parameter are not set (node id, namespace or resource type)"


def test_p2_3_name_required() -> None:
    """A nameless resource has no name to give."""
    with pytest.raises(ResourceError, match="resource name not found"):
        Resource("n", "d", "t").require_name()


BAD = ["", "-a", "a-", "A", "a_b", "a\n", "\na", "a b", "ä", "a/b", "+", "#", "a\x00", "٣"]


@pytest.mark.parametrize("text", ["a", "1", "a-b", "a" * 63, "cloud-x", "bus", "nodeid"])
def test_p3_2_node_ids(text: str) -> None:
    """DNS labels that are not reserved are node ids."""
    assert resource.check_node_id(text) == text


@pytest.mark.parametrize("text", [*BAD, "a.b", "a" * 64, "cloud", "cloud-1", "observer", "operator", "x-bus"])
def test_p3_2_bad_node_ids(text: str) -> None:
    """Everything else is refused."""
    with pytest.raises(ResourceError, match="node id"):
        resource.check_node_id(text)


@pytest.mark.parametrize("text", [*BAD, "a..b", ".a", "a.", "a.-b", "a" * 254])
def test_p3_2_bad_names(text: str) -> None:
    """Names are DNS subdomains of at most 253 characters."""
    assert not resource.is_name(text)


@pytest.mark.parametrize("text", ["a", "a.b", "1.2", "a-b.c-d", "a" * 253])
def test_p3_2_names(text: str) -> None:
    """DNS subdomains are names."""
    assert resource.is_name(text)
