"""Manifests: loading, checking, and the grammars inside (flow F4). All findings at once, each with its line."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from common.checks import check, check_text
from common.errors import ConfigError
from common.manifestfiles import load_files, load_manifests
from common.rules import (
    EVENTBUS,
    EndpointType,
    Rule,
    RuleEndpoint,
    node_matches,
    parse_duration,
)

ENDPOINT = """apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {name: bus, namespace: plant}
spec: {ruleEndpointType: eventbus, properties: {}}
---
"""
RULE = """apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata:
  name: overheat
  namespace: plant
spec:
  source: bus
  sourceResource: {topic: "devices/+/telemetry"}
  target: bus
  targetResource: {topic: "alerts/{topic[1]}"}
"""


def findings(rule: str = RULE, endpoint: str = ENDPOINT) -> list[str]:
    """What is wrong with the rule, as text."""
    return [str(found) for found in check_text(endpoint + rule, "r.yaml")[1]]


def test_a_good_text_has_no_findings() -> None:
    """A rule and its endpoint become models with KubeEdge's fields and our defaults."""
    manifests, found = check_text(ENDPOINT + RULE, "r.yaml")
    assert found == []
    endpoint, rule = (manifest.value for manifest in manifests)
    assert isinstance(endpoint, RuleEndpoint)
    assert isinstance(rule, Rule)
    assert endpoint.spec.rule_endpoint_type == "eventbus"
    assert rule.key == ("plant", "overheat")
    assert rule.spec.source_resource == {"topic": "devices/+/telemetry"}
    assert (rule.spec.enabled, rule.spec.timeout_s, rule.spec.retry.attempts, rule.spec.retry.backoff_s) == (
        True,
        10.0,
        1,
        1.0,
    )
    assert [(manifest.file, manifest.line) for manifest in manifests] == [("r.yaml", 1), ("r.yaml", 6)]


def test_kubernetes_own_fields_are_passed_over() -> None:
    """What kubectl writes into an object does not hinder it; ``kind: List`` holds several."""
    objects = [
        {
            "apiVersion": "rules.kubeedge.io/v1",
            "kind": "RuleEndpoint",
            "metadata": {"name": "bus", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
                         "managedFields": [{"a": 1}], "annotations": {"note": "\U0001f600"}},
            "spec": {"ruleEndpointType": "eventbus"},
            "status": {"anything": 1},
        }
    ]  # fmt: skip
    manifests, found = check_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent="\t"))
    assert found == []
    metadata = manifests[0].value.metadata
    assert (metadata.namespace, metadata.uid, metadata.resource_version) == ("default", "u", "7")
    assert metadata.annotations == {"note": "\U0001f600"}


def test_models_travel_as_kubeedge_writes_them() -> None:
    """The wire form has KubeEdge's names, and reads back to the same model."""
    rule = load_manifests(RULE)[0][0].value
    wire = json.loads(msgspec.json.encode(rule))
    assert wire["apiVersion"] == "rules.kubeedge.io/v1"
    assert wire["spec"] == {
        "source": "bus",
        "target": "bus",
        "sourceResource": {"topic": "devices/+/telemetry"},
        "targetResource": {"topic": "alerts/{topic[1]}"},
    }
    assert msgspec.json.decode(msgspec.json.encode(rule), type=Rule) == rule


@pytest.mark.parametrize(
    ("old", "new", "line", "text"),
    [
        ("name: overheat", "name: Over_heat",
         9, "name 'Over_heat' is not a DNS subdomain"),
        ("  namespace: plant", "  namespace: a.b", 10, "namespace 'a.b' is not a DNS label"),
        ("  namespace: plant", "  namespac: plant",
         10, "unknown key metadata.namespac; did you mean namespace?"),
        ("source: bus", "source: bis",
         12, "source 'bis' is no RuleEndpoint of namespace 'plant'; did you mean 'bus'?"),
        ("target: bus", "target: elsewhere", 14, "target 'elsewhere' is no RuleEndpoint of"),
        ("  source: bus\n", "", 12, "spec.source is missing"),
        ('sourceResource: {topic: "devices/+/telemetry"}', "sourceResource: {}",
         13, "spec.sourceResource.topic is missing: a source of type eventbus needs it"),
        ('targetResource: {topic: "alerts/{topic[1]}"}', "targetResource: {}",
         15, "spec.targetResource.topic is missing: a target of type eventbus needs it"),
        ("{topic: \"devices", "{topik: \"devices",
         13, "spec.sourceResource.topic is missing"),
        ("devices/+/telemetry", "devices/+x", 13, "spec.sourceResource.topic: filter 'devices/+x': + must be"),
        ("devices/+/telemetry", "devices/#",
         15, "spec.targetResource.topic: {topic[1]} may not be there: a topic that matches 'devices/#'"),
        ("{topic[1]}", "{topic[3]}", 15, "spec.targetResource.topic: {topic[3]} may not be there"),
        ("{topic[1]}", "{user}", 15, "spec.targetResource.topic: template 'alerts/{user}': unknown {user}"),
        ("{topic[1]}", "{topic[1]", 15, "spec.targetResource.topic: template 'alerts/{topic[1]': a brace"),
        ("{topic[1]}", "#", 15, "spec.targetResource.topic: topic 'alerts/#' holds a wildcard"),
        ("{topic[1]}", "a b", 15, "spec.targetResource.topic: topic 'alerts/a b' holds a blank"),
        ("{topic: \"alerts", "{qos: 7, topic: \"alerts", 15, "spec.targetResource.qos: given '7'"),
        ("{topic: \"alerts", "{retain: yes, topic: \"alerts", 15, "spec.targetResource.retain: given 'yes'"),
        ("{topic: \"devices", "{node_name: \"a b\", topic: \"devices",
         13, "spec.sourceResource.node_name: 'a b' is no"),
        ("spec:\n", "spec:\n  timeout: 10\n", 12, "spec.timeout: '10' is not a duration"),
        ("spec:\n", "spec:\n  timeout: 0s\n", 12, "spec.timeout is 0s, expected more than 0 and at most 3600 s"),
        ("spec:\n", "spec:\n  retry: {attempts: 0}\n", 12, "spec.retry.attempts is 0, expected 1 to 100"),
        ("spec:\n", "spec:\n  retry:\n    backoff: 2x\n", 13, "spec.retry.backoff: '2x' is not a duration"),
        ("spec:\n", "spec:\n  retry: {attempts: x}\n", 12, "spec.retry.attempts: Expected `int`, got `str`"),
        ("spec:\n", "spec:\n  retry: 3\n", 12, "spec.retry must be a map"),
        ("spec:\n", "spec:\n  enabled: maybe\n", 12, "spec.enabled: Expected `bool`, got `str`"),
        ("spec:\n", "spec:\n  qos: 1\n", 12, "unknown key spec.qos"),
        ("spec:\n", "spec:\n  results: all\n", 12, "spec.results is 'all', expected single or summary"),
        ("kind: Rule\n", "kind: Rul\n", 7, "kind is 'Rul', expected one of Rule, RuleEndpoint"),
        ("v1\nkind: Rule\n", "v2\nkind: Rule\n", 6, "apiVersion is 'rules.kubeedge.io/v2', expected"),
    ],
)  # fmt: skip
def test_each_finding(old: str, new: str, line: int, text: str) -> None:
    """Each mistake is found, with its line and what to do."""
    assert old in RULE
    found = check_text(ENDPOINT + RULE.replace(old, new, 1), "r.yaml")[1]
    assert found
    assert found[0].line == line
    assert found[0].text.startswith(text)


def test_chains_are_checked() -> None:
    """A chain that cannot run is found with its line, in the inline and in the full form; a good one is none."""
    assert findings(RULE + "  chain: accept\n") == []
    assert findings(RULE + "  chains: {m: {blocks: {b: {block: accept}}}}\n") == []
    (found,) = findings(RULE + "  chain: |\n    accept\n    eq a\n")
    assert found.startswith("r.yaml:18: Rule plant/overheat: PC-LINK-ARITY")
    (found,) = findings(RULE + "  chains: {m: {blocks: {b: {block: acept}}}}\n")
    assert found.startswith("r.yaml:16: Rule plant/overheat: PC-LINK-UNKNOWN-COMMAND")
    (found,) = findings(RULE + "  chain: accept\n  chains: {m: {blocks: {b: {block: accept}}}}\n")
    assert "exclude each other" in found


def test_all_findings_at_once() -> None:
    """Several mistakes in several objects are one answer, in the order of the text."""
    text = (ENDPOINT + RULE).replace("eventbus", "wire") + "  timeout: x\n---\n" + RULE + "---\n{}\n"
    found = check_text(text, "r.yaml")[1]
    texts = [one.text for one in found]
    assert [one.line for one in found] == sorted(one.line for one in found)
    assert any("endpoint type 'wire' is unknown; there are eventbus, rest, servicebus" in text for text in texts)
    assert any("'x' is not a duration" in text for text in texts)
    assert any("stands twice, first at r.yaml:6" in text for text in texts)
    assert any("kind is ''" in text for text in texts)


def test_properties_that_nobody_reads_are_found() -> None:
    """An endpoint's property that its type does not have is not silently ignored."""
    (found,) = findings(endpoint=ENDPOINT.replace("properties: {}", "properties: {colour: red}"))
    assert "an eventbus endpoint has no property 'colour'" in found


def test_endpoints_are_of_one_namespace() -> None:
    """A rule sees only the endpoints of its own namespace, as in KubeEdge."""
    found = findings(endpoint=ENDPOINT.replace("plant", "other"))
    assert len(found) == 2
    assert all("is no RuleEndpoint of namespace 'plant'" in text for text in found)


def test_an_unreadable_endpoint_is_not_also_missing() -> None:
    """One mistake in an endpoint is one finding, not one for each rule that uses it."""
    assert len(findings(endpoint=ENDPOINT.replace("properties", "propertys"))) == 1


def test_types_are_given_as_a_value() -> None:
    """Plug-ins bring types; the checks take what they need from the description."""
    sink = EndpointType("sink", None, ("queue",))
    text = ENDPOINT.replace("eventbus", "sink")
    manifests, _ = load_manifests(text + RULE)
    found = [one.text for one in check(manifests, [EVENTBUS, sink])]
    assert found == [
        "an endpoint of type sink cannot be a source",
        "spec.targetResource.queue is missing: a target of type sink needs it",
        "unknown key spec.targetResource.topic; known: queue",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [", 2), ("- 1", 1), ("just text", 1), ("x: {", 2), ("apiVersion: {}\nkind: []", 1), ("[" * 5000, 1)],
)
def test_what_is_no_manifest(text: str, line: int) -> None:
    """Any text is answered with findings, never with a traceback."""
    manifests, found = load_manifests(text, "f")
    assert manifests == []
    assert (found[0].file, found[0].line) == ("f", line)


def test_empty_texts_hold_nothing() -> None:
    """Empty documents and comments are no findings."""
    assert load_manifests("") == ([], [])
    assert load_manifests("---\n# nothing\n---\n") == ([], [])


def test_files_are_checked_together(tmp_path: Path) -> None:
    """Endpoints and rules may be in different files; a file that cannot be read is a finding."""
    (tmp_path / "e.yaml").write_text(ENDPOINT)
    (tmp_path / "r.yaml").write_text(RULE)
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    names = [str(tmp_path / name) for name in ("r.yaml", "e.yaml")]
    manifests, found = load_files(names)
    assert (found, check(manifests)) == ([], [])
    found = load_files([str(tmp_path / "none.yaml"), str(tmp_path / "bad.yaml")])[1]
    assert [one.text for one in found] == ["cannot read it: No such file or directory", "is not UTF-8 text"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("10s", 10), ("2m", 120), ("1h", 3600), ("1m30s", 90), ("1.5s", 1.5), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    """Durations as Kubernetes writes them."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "10 s", "1d", "1s\n", "1e3s", ".5s", "١s", "9" * 5000 + "s"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused, with an example of what is right."""
    with pytest.raises(ConfigError, match="is not a duration such as 500ms"):
        parse_duration(text)


def test_node_names() -> None:
    """A source may name one node, several, a pattern, or nothing for every node (protocol P6.2)."""
    assert node_matches("", "edge-1")
    assert node_matches("edge-1", "edge-1")
    assert node_matches("edge-*", "edge-1")
    assert node_matches("a, edge-?", "edge-1")
    assert not node_matches("edge-1", "edge-10")
    assert not node_matches("edge-?", "edge-10")
