"""Configuration layers of a node: files merged in order, later wins, and where each leaf came from (flow F6).

    user_gateway   the operator's, this node only
    boot_gateway   fleet-wide, from administration
    node_gateway   the cloud's: what the downlink brought, over a file of that name where one is provisioned
    post_gateway   the operator's, this node only

Maps merge by key, lists are the union by equality, scalars and null replace, ``$delete: true`` removes a key.
``edge.rules.layerfiles`` reads the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

CLOUD_LAYER = "node_gateway"
LAYERS = ("user_gateway", "boot_gateway", CLOUD_LAYER, "post_gateway")
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
