"""Layers: how they merge, where each leaf is from, and what is wrong with a file (flow F6)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from edge.rules.layerfiles import load_layers
from edge.rules.layers import Layer, merge


def merged(*values: dict[str, Any]) -> dict[str, Any]:
    """The merge of these layers."""
    return merge([Layer(f"layer-{number}", "", value) for number, value in enumerate(values)]).value


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": 4}}, {"a": {"b": 1, "c": 3, "d": 4}}),
        ({"a": [1, {"x": 1}]}, {"a": [{"x": 1}, 2, 1]}, {"a": [1, {"x": 1}, 2]}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1]}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": [2]}, {"a": [2]}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": {"$delete": True}}}, {"a": {"c": 2}}),
        ({"a": 1}, {"b": {"$delete": True}}, {"a": 1}),
        ({}, {"a": {"b": {"$delete": True}, "c": 1}}, {"a": {"c": 1}}),
        ({"a": {"b": 1}}, {"a": {"$delete": False, "c": 1}}, {"a": {"b": 1, "$delete": False, "c": 1}}),
    ],
)  # fmt: skip
def test_merging(one: dict[str, Any], other: dict[str, Any], both: dict[str, Any]) -> None:
    """Maps deep by key, lists as union by equality, scalars and null replace, $delete removes."""
    assert merged(one, other) == both


def test_a_later_layer_replaces_one_block_or_its_priority() -> None:
    """Chains, blocks, rules and hooks are maps by id: nothing else of them changes, and their order stays."""
    base = {"rules": {"default/a": {"chains": {"main": {"blocks": {"x": {"block": "1"}, "y": {"block": "2"}}}}}}}
    text = {"rules": {"default/a": {"chains": {"main": {"blocks": {"x": {"block": "3"}}}}}}}
    priority = {"rules": {"default/a": {"chains": {"main": {"blocks": {"x": {"priority": 9}}}}}}}
    blocks = merged(base, text, priority)["rules"]["default/a"]["chains"]["main"]["blocks"]
    assert list(blocks.items()) == [("x", {"block": "3", "priority": 9}), ("y", {"block": "2"})]


def write(directory: Path, **files: str) -> Path:
    """Files of layers: name with _ for the dot."""
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (directory / f"{stem}.{suffix}").write_text(text)
    return directory


def test_the_order_of_the_four_and_their_origins(tmp_path: Path) -> None:
    """user, boot, node, post; YAML, JSON and TOML; each leaf tells layer, file and line of what won."""
    write(
        tmp_path,
        post_gateway_yaml="x:\n  d: post\n",
        node_gateway_json='{"x": {"c": "node", "d": "node"},\n "n": 1}',
        boot_gateway_toml='[x]\nb = "boot"\nc = "boot"\n',
        user_gateway_yml="x:\n  a: user\n  b: user\n",
    )
    found = merge(load_layers(tmp_path))
    assert found.value == {"x": {"a": "user", "b": "boot", "c": "node", "d": "post"}, "n": 1}
    told = {".".join(key): (value, o.layer, Path(o.file).name, o.line) for key, value, o in found.leaves()}
    assert told == {
        "x.a": ("user", "user_gateway", "user_gateway.yml", 2),
        "x.b": ("boot", "boot_gateway", "boot_gateway.toml", 0),
        "x.c": ("node", "node_gateway", "node_gateway.json", 1),
        "x.d": ("post", "post_gateway", "post_gateway.yaml", 2),
        "n": (1, "node_gateway", "node_gateway.json", 2),
    }


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in pairwise("abcdefghi")
)  # ten to the ninth values in 400 bytes


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"user_gateway_yaml": "a: ["}, "user_gateway.yaml:2: not YAML"),
        ({"user_gateway_yaml": "- a"}, "user_gateway.yaml:1: a layer is a map"),
        ({"user_gateway_yaml": "a: 1\na: 2"}, "user_gateway.yaml:2: 'a' stands twice, first in line 1"),
        ({"user_gateway_yaml": "a: 1\n---\nb: 1"}, "user_gateway.yaml:3: a layer is one document"),
        ({"user_gateway_yaml": "rules: &x {a: *x}"}, "user_gateway.yaml:1: nested deeper than 64"),
        ({"user_gateway_yaml": "hooks: {a: &x [*x]}"}, "user_gateway.yaml:1: nested deeper than 64"),
        ({"user_gateway_yaml": "rules: " + "[" * 9000}, "user_gateway.yaml:1: nested deeper than 64"),
        ({"user_gateway_json": "[" * 9000}, "user_gateway.json:1: nested deeper than 64"),
        ({"user_gateway_yaml": BOMB}, "user_gateway.yaml:1: more than 200000 values, aliases followed"),
        ({"user_gateway_yaml": "? [a]\n: 1"}, "user_gateway.yaml:1: a key must be plain text"),
        ({"user_gateway_yaml": "a: \0"}, "user_gateway.yaml: not YAML: it holds a character"),
        ({"user_gateway_yaml": "#" * (5 << 20)}, "user_gateway.yaml: larger than 4194304 bytes"),
        ({"user_gateway_toml": "a = " + "[" * 9000}, "user_gateway.toml: not TOML: nested too deeply"),
        ({"user_gateway_toml": "a = " + "1" * 9000}, "user_gateway.toml: not TOML: "),
        ({"user_gateway_toml": "a = "}, "user_gateway.toml: not TOML: "),
        ({"user_gateway_json": "{"}, "user_gateway.json:2: not YAML"),
        ({"user_gateway_yaml": "{}", "user_gateway_json": "{}"}, "the layer user_gateway is there twice"),
    ],
)  # fmt: skip
def test_what_is_no_layer(tmp_path: Path, files: dict[str, str], text: str) -> None:
    """Said with file and line."""
    with pytest.raises(ConfigError) as found:
        merge(load_layers(write(tmp_path, **files)))
    assert text in str(found.value)


def test_a_tag_runs_nothing(tmp_path: Path) -> None:
    """YAML's tags for objects of Python are text as any other."""
    text = f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\nb: !!binary aGk=\nc: 2020-01-01\n"
    value = merge(load_layers(write(tmp_path, user_gateway_yaml=text))).value
    assert value == {"a": [str(tmp_path / "made")], "b": "aGk=", "c": "2020-01-01"}
    assert not (tmp_path / "made").exists()
    (tmp_path / "user_gateway.yaml").unlink()
    dated = merge(load_layers(write(tmp_path, user_gateway_toml="c = 2020-01-01\nd = [12:00:00]"))).value
    assert dated == {"c": "2020-01-01", "d": ["12:00:00"]}


def test_an_empty_file_is_an_empty_layer(tmp_path: Path) -> None:
    """So is none at all."""
    assert merge(load_layers(write(tmp_path, user_gateway_yaml="# nothing\n"))).value == {}
