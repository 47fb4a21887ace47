"""A node's whole configuration: layers become manifests, hooks and chains, with every finding at its place (F4, F6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import ConfigError
from common.rules import Rule
from edge.rules.configuration import Configuration, Wanted
from edge.rules.edits import Address, Edit
from tests.flow.node import ENDPOINTS, rule

LAYER = """\
endpoints:
  plant/bus: {ruleEndpointType: eventbus, properties: {}}
rules:
  plant/overheat:
    source: bus
    sourceResource: {topic: "devices/#", qos: 1}
    target: bus
    targetResource: {topic: alerts, retain: true}
    chain: accept
"""


def read(tmp_path: Path, edits: list[Edit] | None = None, **layers: str) -> Wanted:
    """Write and read layers (and manifests, a file of its own)."""
    places = []
    for name, text in layers.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(text)
        if name == "manifests":
            places.append(str(file))
    return Configuration(places, str(tmp_path)).read(edits or [])


def rules_of(wanted: Wanted) -> dict[str, Rule]:
    """The rules by namespace/name."""
    return {"/".join(m.key): m for m in wanted.manifests if isinstance(m, Rule)}


def test_layers_make_manifests(tmp_path: Path) -> None:
    """Rules and endpoints by namespace/name; numbers and truth values in resource maps are texts."""
    found = rules_of(read(tmp_path, user_gateway=LAYER))["plant/overheat"]
    assert (found.metadata.namespace, found.metadata.name) == ("plant", "overheat")
    assert found.spec.source_resource == {"topic": "devices/#", "qos": "1"}
    assert found.spec.target_resource == {"topic": "alerts", "retain": "true"}


def test_layers_over_manifests(tmp_path: Path) -> None:
    """A layer changes one key of a rule that a manifest file has, or takes the rule away."""
    post = "rules:\n  default/a: {timeout: 3s, chain: accept}\n  default/b: {$delete: true}\n"
    wanted = read(tmp_path, manifests=ENDPOINTS + rule("a") + rule("b"), post_gateway=post)
    rules = rules_of(wanted)
    assert list(rules) == ["default/a"]
    assert (rules["default/a"].spec.timeout, rules["default/a"].spec.target_resource) == ("3s", {"topic": "out/a"})
    origins = {".".join(key): str(origin) for key, _, origin in wanted.merged.leaves()}
    assert origins["rules.default/a.timeout"].startswith("post_gateway ")
    assert origins["rules.default/a.timeout"].endswith("post_gateway.yaml:2")
    assert origins["rules.default/a.targetResource.topic"].startswith("manifests ")


def test_hooks_and_hook_points(tmp_path: Path) -> None:
    """Handlers by point and label, chains by point."""
    wanted = read(tmp_path, user_gateway="""\
hooks: {preRoute: {audit: "json:dumps"}}
hook_points: {onSend: {main: {blocks: {main: {block: accept}}}}}
""")  # fmt: skip
    assert wanted.hooks == {"preRoute.audit": "json:dumps"}
    assert [chain.id for chain in wanted.points["onSend"].chains] == ["main"]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("source: bus", "source: buss", "user_gateway.yaml:5: Rule plant/overheat: source 'buss' is no RuleEndpoint"),
        ("chain: accept", "chain: acept", "user_gateway.yaml:9: Rule plant/overheat: PC-LINK-UNKNOWN-COMMAND: "),
        ("chain: accept", "chains: {m: {blocks: {}}}", "user_gateway.yaml:9: Rule plant/overheat: "),
        ("chain: accept", "chain: accept\n    timeout: 7", "user_gateway.yaml:4: Rule plant/overheat: Expected `str`"),
        ("chain: accept", "chian: accept", "yaml:9: Rule plant/overheat: unknown key chian; did you mean chain?"),
        ("endpoints:", "endpoint:", "user_gateway.yaml:1: 'endpoint' is unknown; did you mean endpoints?"),
        ("plant/overheat:\n", "plant/overheat: 3\n  other:\n", "yaml:4: Rule plant/overheat: must be a map"),
        ("chain: accept", "chain: |\n      accept\n      acept", "yaml:11: Rule plant/overheat: PC-LINK-UNKNOWN"),
        ("plant/overheat:\n", "plant/overheat:\n    metadata: [1]\n", "yaml:5: Rule plant/overheat: metadata must be"),
        ("rules:", "hooks: {preRute: {}}\nrules:", "there is no hook 'preRute'; did you mean preRoute?"),
        ("rules:", "hooks: {preRoute: {a: json}}\nrules:", "'json' is no module:function"),
        ("rules:", "hook_points: {preRute: {}}\nrules:", "there is no hook point 'preRute'; did you mean preRoute?"),
        ("rules:", "hook_points: {preRoute: {c: {blocks: {}}}}\nrules:", "user_gateway.yaml:3: "),
    ],
)  # fmt: skip
def test_findings_name_file_and_line(tmp_path: Path, old: str, new: str, text: str) -> None:
    """Also of what was merged of several layers."""
    assert old in LAYER
    with pytest.raises(ConfigError) as found:
        read(tmp_path, user_gateway=LAYER.replace(old, new, 1))
    assert text in str(found.value)


def test_a_finding_names_the_layer_that_is_wrong(tmp_path: Path) -> None:
    """Not the one in which the rule began."""
    with pytest.raises(ConfigError) as found:
        read(tmp_path, user_gateway=LAYER, post_gateway="rules:\n  plant/overheat:\n\n    timeout: 0s\n")
    assert str(found.value).startswith(str(tmp_path / "post_gateway.yaml:4: Rule plant/overheat: spec.timeout is 0s"))


def test_all_findings_at_once(tmp_path: Path) -> None:
    """Of files, layers, hooks and chains together."""
    with pytest.raises(ConfigError) as found:
        read(
            tmp_path,
            manifests=ENDPOINTS + rule("a").replace("source: bus", "source: none"),
            user_gateway="hooks: {preRoute: {a: b}}\nrules: {default/x: {source: bus}}\n",
        )
    text = str(found.value)
    assert all(part in text for part in ("'none' is no RuleEndpoint", "no module:function", "missing required field"))


def test_an_edit_is_checked_like_a_file(tmp_path: Path) -> None:
    """One that cannot run changes nothing and says why."""
    edit = Edit("set", Address.parse("plant/overheat:main:main"), "acept")
    with pytest.raises(ConfigError, match="PC-LINK-UNKNOWN-COMMAND"):
        read(tmp_path, [edit], user_gateway=LAYER)
    good = read(tmp_path, [edit._replace(text="drop")], user_gateway=LAYER)
    assert rules_of(good)["plant/overheat"].spec.chains == {"main": {"blocks": {"main": {"block": "drop"}}}}
