"""The files of configuration layers: YAML, JSON or TOML -> layers with the line of each key (flow F6).

A module of its own, because a node without such files need not load YAML and TOML.
"""

from __future__ import annotations

import tomllib
from datetime import date, time
from pathlib import Path
from typing import Any

from yaml.nodes import MappingNode, Node, SequenceNode

from common.errors import ConfigError
from common.yamlnodes import compose, items, line_of, plain, read_text
from edge.rules.layers import LAYERS, Key, Layer

SUFFIXES = (".yaml", ".yml", ".json", ".toml")


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
            return Layer(name, str(file), _json_types(tomllib.loads(source)))
        except ValueError as exc:  # also of a number with thousands of digits
            raise ConfigError(f"not TOML: {exc}", file=str(file)) from exc
        except RecursionError as exc:
            raise ConfigError("not TOML: nested too deeply", file=str(file)) from exc
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


def _json_types(value: Any) -> Any:
    """What TOML has beyond JSON, dates and times, as their text; so does YAML here."""
    if isinstance(value, dict):
        return {name: _json_types(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_json_types(inner) for inner in value]
    return value.isoformat() if isinstance(value, date | time) else value


def _note_lines(node: Node, at: Key, file: str, lines: dict[Key, int]) -> None:
    if isinstance(node, MappingNode):
        for name, key_node, value in items(node, file):
            lines[(*at, name)] = line_of(key_node)
            _note_lines(value, (*at, name), file, lines)
    elif isinstance(node, SequenceNode):
        for number, part in enumerate(node.value):
            _note_lines(part, (*at, str(number)), file, lines)
