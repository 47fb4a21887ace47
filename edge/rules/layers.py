"""Configuration layers of a node: files merged in order, later wins, and where each leaf came from (flow F6).

    user_gateway   the operator's, this node only
    boot_gateway   fleet-wide, from administration
    node_gateway   the cloud's: what the downlink brought, over a file of that name where one is provisioned
    post_gateway   the operator's, this node only

Maps merge by key, lists are the union by equality, scalars and null replace, ``$delete: true`` removes a key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from yaml.nodes import MappingNode, Node, SequenceNode

from common.errors import ConfigError
from common.yamlnodes import compose, items, line_of, plain, read_text

CLOUD_LAYER = "node_gateway"
LAYERS = ("user_gateway", "boot_gateway", CLOUD_LAYER, "post_gateway")
SUFFIXES = (".yaml", ".yml", ".json", ".toml")
DELETE = "$delete"

Key = tuple[str, ...]


class Origin(NamedTuple):
    """Where a leaf came from: the layer's name, its file, and the line (0 when the format does not tell)."""

    layer: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.layer} {self.file}:{self.line}" if self.line else f"{self.layer} {self.file}".strip()


class Layer(NamedTuple):
    """One layer: its content in JSON's types, and the line of each key."""

    name: str
    file: str
    value: dict[str, Any]
    lines: Mapping[Key, int] = {}


class Merged(NamedTuple):
    """All layers in one: the value, and the origin of every leaf and of every map."""

    value: dict[str, Any]
    origins: dict[Key, Origin]

    def origin(self, key: Key) -> Origin:
        """The origin of a key, or of what is nearest around it."""
        while key and key not in self.origins:
            key = key[:-1]
        return self.origins.get(key, Origin(""))

    def leaves(self) -> Iterator[tuple[Key, Any, Origin]]:
        """Every leaf with its origin, in the order of the value."""
        yield from self._walk((), self.value)

    def _walk(self, key: Key, value: Any) -> Iterator[tuple[Key, Any, Origin]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from self._walk((*key, name), inner)
        elif key:
            yield key, value, self.origin(key)


def load_layers(directory: Path) -> list[Layer]:
    """Read the layers that are in a directory, in their order. A layer that is not there is empty.

    Raises ConfigError with file and line for a file that cannot be read, or a layer that is there twice.
    """
    layers: list[Layer] = []
    for name in LAYERS:
        files = [directory / (name + suffix) for suffix in SUFFIXES if (directory / (name + suffix)).exists()]
        if len(files) > 1:
            raise ConfigError(f"the layer {name} is there twice: {files[0].name} too", file=str(files[1]))
        if files:
            layers.append(load_layer(name, files[0]))
    return layers


def load_layer(name: str, file: Path) -> Layer:
    """Read one layer: YAML, JSON or TOML by its ending. Raises ConfigError."""
    source = read_text(str(file))
    if file.suffix == ".toml":
        try:
            return Layer(name, str(file), tomllib.loads(source))
        except tomllib.TOMLDecodeError as exc:
            raise ConfigError(f"not TOML: {exc}", file=str(file)) from exc
    roots = compose(source, str(file))
    if not roots:
        return Layer(name, str(file), {})
    if len(roots) > 1:
        raise ConfigError("a layer is one document", file=str(file), line=line_of(roots[1]))
    root = roots[0]
    if not isinstance(root, MappingNode):
        raise ConfigError(
            "a layer is a map of rules, endpoints, hooks and hook_points", file=str(file), line=line_of(root)
        )
    lines: dict[Key, int] = {}
    _note_lines(root, (), str(file), lines)
    return Layer(name, str(file), plain(root, str(file)), lines)


def merge(layers: list[Layer], merged: Merged | None = None) -> Merged:
    """Merge layers in their order, into ``merged`` when it is given."""
    merged = merged or Merged({}, {})
    for layer in layers:
        _merge_map(merged.value, layer.value, (), layer, merged.origins)
    return merged


def _merge_map(into: dict[str, Any], new: Mapping[str, Any], at: Key, layer: Layer, origins: dict[Key, Origin]) -> None:
    for name, value in new.items():
        key = (*at, name)
        if isinstance(value, dict) and value.get(DELETE) is True:
            into.pop(name, None)
            _forget(origins, key)
        elif isinstance(value, dict):
            if not isinstance(into.get(name), dict):
                if name in into:
                    _forget(origins, key)
                into[name] = {}
                origins[key] = _origin(layer, key)
            _merge_map(into[name], value, key, layer, origins)
        elif isinstance(value, list) and isinstance(into.get(name), list):
            into[name] = into[name] + [part for part in value if part not in into[name]]
            origins[key] = _origin(layer, key)
        else:
            if name in into:
                _forget(origins, key)
            into[name] = value
            origins[key] = _origin(layer, key)


def _origin(layer: Layer, key: Key) -> Origin:
    return Origin(layer.name, layer.file, layer.lines.get(key, 0))


def _forget(origins: dict[Key, Origin], key: Key) -> None:
    for known in [k for k in origins if k[: len(key)] == key]:
        del origins[known]


def _note_lines(node: Node, at: Key, file: str, lines: dict[Key, int]) -> None:
    if isinstance(node, MappingNode):
        for name, key_node, value in items(node, file):
            lines[(*at, name)] = line_of(key_node)
            _note_lines(value, (*at, name), file, lines)
    elif isinstance(node, SequenceNode):
        for number, part in enumerate(node.value):
            _note_lines(part, (*at, str(number)), file, lines)
