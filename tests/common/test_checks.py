"""Checks of manifests with HTTP endpoints, and of rules among each other (flow F3, F4)."""

from __future__ import annotations

import pytest

from common.checks import check, check_text
from common.manifestfiles import load_manifests
from common.topics import matches, overlaps

HEAD = "apiVersion: rules.kubeedge.io/v1\n"
ENDPOINTS = "".join(
    f"---\n{HEAD}kind: RuleEndpoint\nmetadata: {{name: {name}}}\n"
    f"spec: {{ruleEndpointType: {kind}, properties: {properties}}}\n"
    for name, kind, properties in (
        ("bus", "eventbus", "{}"), ("web", "rest", "{}"), ("app", "servicebus", "{service_port: 8080}"),
    )
)  # fmt: skip

GOOD = {
    "bus": ('{topic: "a/#"}', '{topic: "b/{node}"}'),
    "web": ("{path: '/lines/{line}/stop', method: 'POST, put', mode: async}", "{resource: 'https://x.example/{node}'}"),
    "app": ("{target_url: 'http://127.0.0.1/ask'}", "{path: '/ask/{node}', method: GET, headers: 'x-a, x-b'}"),
}


def rule(name: str, source: str, source_resource: str, target: str, target_resource: str) -> str:
    """A manifest."""
    return (
        f"---\n{HEAD}kind: Rule\nmetadata: {{name: {name}}}\nspec:\n"
        f"  {{source: {source}, sourceResource: {source_resource},\n"
        f"   target: {target}, targetResource: {target_resource}}}\n"
    )


def texts(text: str) -> list[str]:
    """What is wrong."""
    return [found.text for found in check_text(text)[1]]


@pytest.mark.parametrize("source", GOOD)
@pytest.mark.parametrize("target", GOOD)
def test_all_nine_pairs_pass(source: str, target: str) -> None:
    """KubeEdge admits three."""
    assert texts(ENDPOINTS + rule("a", source, GOOD[source][0], target, GOOD[target][1])) == []


@pytest.mark.parametrize(
    ("source", "resource", "text"),
    [
        ("web", "{}", "spec.sourceResource.path is missing: a source of type rest needs it"),
        ("web", "{path: lines}", "spec.sourceResource.path: 'lines' is no path"),
        ("web", "{path: /a?b}", "spec.sourceResource.path: '/a?b' is no path"),
        ("web", "{path: /a//b}", "spec.sourceResource.path: '/a//b' is no path"),
        ("web", "{path: '/{a}/{a}'}", "names a parameter twice"),
        ("web", "{path: '/a{b}'}", "a parameter is a whole segment"),
        ("web", "{path: /a, method: FETCH}", "'FETCH' is none of GET, HEAD"),
        ("web", "{path: /a, mode: fast}", "given 'fast', expected one of sync, async"),
        ("web", "{path: /a, topic: b}", "unknown key spec.sourceResource.topic"),
        ("app", "{target_url: 'ftp://x'}", "'ftp://x' is no http:// or https:// URL"),
        ("app", "{target_url: 'http://[::1'}", "target_url"),
    ],
)  # fmt: skip
def test_sources(source: str, resource: str, text: str) -> None:
    """Each mistake in the source's keys is one finding that says what is right."""
    (found,) = texts(ENDPOINTS + rule("a", source, resource, "bus", "{topic: b}"))
    assert text in found


@pytest.mark.parametrize(
    ("target", "resource", "text"),
    [
        ("web", "{}", "spec.targetResource.resource is missing: a target of type rest needs it"),
        ("web", "{resource: /a}", "'/a' is no http:// or https:// URL with a fixed host"),
        ("web", "{resource: 'http://{node}/a'}", "with a fixed host"),
        ("web", "{resource: 'http://a/{user}'}", "unknown {user}"),
        ("web", "{resource: 'http://a/', method: FETCH}", "'FETCH' is none of"),
        ("app", "{path: a}", "'a' is no path"),
    ],
)  # fmt: skip
def test_targets(target: str, resource: str, text: str) -> None:
    """Each mistake in the target's keys is one finding that says what is right."""
    (found,) = texts(ENDPOINTS + rule("a", "bus", '{topic: "x/y"}', target, resource))
    assert text in found


@pytest.mark.parametrize("broker", ["http://x", "mqtt://user:s3cret@x", "mqtt://", "mqtt://x:99999"])
def test_the_broker_of_an_endpoint(broker: str) -> None:
    """An eventbus endpoint names a broker, and no password, which is not repeated."""
    (found,) = texts(ENDPOINTS.replace("{}", f"{{broker: '{broker}'}}", 1))
    assert found.startswith("spec.properties.broker: broker url ")
    assert "s3cret" not in found


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ("{}", "service_port is missing"), ("{service_port: 0}", "is '0', expected 1 to 65535"),
        ("{service_port: 69999}", "expected 1 to 65535"), ("{service_port: abcd}", "expected 1 to 65535"),
        ("{service_port: 80, socket: /run/a}", "exclude each other"),
        ("{port: 80, socket: /run/a}", "no property 'port'"),
    ],
)  # fmt: skip
def test_services(properties: str, text: str) -> None:
    """A servicebus endpoint says where its service listens."""
    (found,) = texts(ENDPOINTS.replace("{service_port: 8080}", properties))
    assert text in found


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("{path: /a}", "{path: /a}", True), ("{path: /a}", "{path: /a/}", True), ("{path: /a}", "{path: /b}", False),
        ("{path: '/{x}/b'}", "{path: '/{y}/b'}", True), ("{path: '/{x}'}", "{path: /a}", False),
        ("{path: /a, method: GET}", "{path: /a, method: POST}", False),
        ("{path: /a, method: 'GET,POST'}", "{path: /a, method: post}", True),
        ("{path: /a, node_name: n-1}", "{path: /a, node_name: n-2}", False),
    ],
)  # fmt: skip
def test_one_rule_answers(one: str, other: str, clash: bool) -> None:
    """Two rules cannot answer the same request; a more specific path beside a pattern can."""
    target = ("bus", "{topic: b}")
    found = texts(ENDPOINTS + rule("a", "web", one, *target) + rule("b", "web", other, *target))
    assert [("answers the same requests" in text) for text in found] == [True] * clash


def test_any_number_of_rules_on_a_topic() -> None:
    """An eventbus source fans out."""
    rules = "".join(rule(name, "bus", "{topic: in}", "bus", "{topic: out}") for name in "abc")
    assert texts(ENDPOINTS + rules) == []


@pytest.mark.parametrize(
    ("source", "target", "loop"),
    [
        ("in/#", "out/{topic[0]}", False), ("in/#", "in/{topic[0]}", True), ("#", "out", True),
        ("+/a", "{topic[0]}/a", True), ("+/a", "{topic[0]}/b", False), ("in/a", "in/a/b", False),
        ("in/#", "{namespace}/x", False), ("default/#", "{namespace}/x", True), ("a/#", "{rule}/x", True),
    ],
)  # fmt: skip
def test_loops_over_version_3(source: str, target: str, loop: bool) -> None:
    """Where nothing counts hops, a target that a source of the node may match is refused, with the way to allow it."""
    manifests, _ = load_manifests(
        ENDPOINTS + rule("a", "bus", f'{{topic: "{source}"}}', "bus", f'{{topic: "{target}"}}')
    )
    found = [one.text for one in check(manifests, loops=False)]
    assert [("edge.flow.loops" in text) for text in found] == [True] * loop
    assert check(manifests) == []


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("a", "a", True), ("a", "b", False), ("a/#", "a", True), ("a/#", "a/b/c", True), ("+/b", "a/+", True),
        ("a/b", "a", False), ("#", "x/y", True), ("a/+/c", "a/b/#", True), ("a/+/c", "a/b", False),
    ],
)  # fmt: skip
def test_overlap(one: str, other: str, both: bool) -> None:
    """Two filters overlap when some topic matches both; the same in both directions."""
    assert overlaps(one, other) is overlaps(other, one) is both
    if both:
        topic = "/".join(b if a in ("+", "#") else a for a, b in zip(one.split("/"), other.split("/"), strict=False))
        assert matches(one, topic.replace("+", "a").replace("#", "a")) or "#" in other
