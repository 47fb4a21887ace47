"""Load manifests: YAML or JSON to models, with everything that is no manifest, each with its line (flow F4).

A module of its own, because YAML takes longer to load than all else that an agent without files needs.
What would not work is for ``common.checks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import structs
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from common.errors import ConfigError
from common.manifests import Finding, Manifest, nearest
from common.rules import API_VERSION, ENDPOINT_KIND, RULE_KIND, Metadata, Rule, RuleEndpoint
from common.yamlnodes import compose, is_null, items, line_of, plain, read_text

MANIFESTS_MAX = 10_000

_KINDS: dict[str, type[Rule] | type[RuleEndpoint]] = {RULE_KIND: Rule, ENDPOINT_KIND: RuleEndpoint}
# What Kubernetes writes into an object and nobody here reads.
_PASSED_OVER: dict[type, tuple[str, ...]] = {
    Rule: ("status",),
    RuleEndpoint: ("status",),
    Metadata: (
        "generateName", "selfLink", "generation", "creationTimestamp", "deletionTimestamp",
        "deletionGracePeriodSeconds", "ownerReferences", "finalizers", "managedFields",
    ),
}  # fmt: skip

T = TypeVar("T", bound=msgspec.Struct)


def load_files(files: Iterable[str]) -> tuple[list[Manifest], list[Finding]]:
    """``load_manifests`` of several files; one that cannot be read is a finding."""
    manifests: list[Manifest] = []
    findings: list[Finding] = []
    for file in files:
        try:
            loaded, found = load_manifests(read_text(file), file)
        except ConfigError as exc:
            loaded, found = [], [Finding(exc.file, exc.line, "", "", exc.text)]
        manifests += loaded
        findings += found
    return manifests, findings


def load_manifests(text: str, file: str = "") -> tuple[list[Manifest], list[Finding]]:
    """Return the manifests of a YAML or JSON text (several documents, ``kind: List``) and what is wrong with the text.

    An object with a finding is not among the manifests.
    """
    manifests: list[Manifest] = []
    findings: list[Finding] = []
    try:
        nodes = [object_ for root in compose(text, file) for object_ in _objects(root)]
    except ConfigError as exc:
        return [], [Finding(file, exc.line, "", "", exc.text)]
    if len(nodes) > MANIFESTS_MAX:
        return [], [Finding(file, 0, "", "", f"{len(nodes)} objects, at most {MANIFESTS_MAX} in one text")]
    for node in nodes:
        reader = _Reader(file, node)
        value = reader.manifest()
        findings += reader.findings
        if value is not None and not reader.findings:
            manifests.append(Manifest(value, file, line_of(node), reader.lines))
    return manifests, findings


def _objects(root: Node) -> Iterator[Node]:
    """The objects of a document: itself, or the items of a ``kind: List``."""
    if isinstance(root, MappingNode):
        parts = {key.value: value for key, value in root.value if isinstance(key, ScalarNode)}
        kind, inside = parts.get("kind"), parts.get("items")
        if isinstance(kind, ScalarNode) and kind.value.endswith("List") and isinstance(inside, SequenceNode):
            yield from inside.value
            return
    yield root


class _Reader:
    """Reads one object and notes what is wrong and where each key stands."""

    def __init__(self, file: str, node: Node) -> None:
        self._file, self._node = file, node
        self._kind, self._name = "", ""
        self.findings: list[Finding] = []
        self.lines: dict[str, int] = {}

    def manifest(self) -> Rule | RuleEndpoint | None:
        try:
            top = {name: value for name, _, value in items(self._node, self._file)}
            self._identify(top)
            version, kind = _scalar(top.get("apiVersion")), _scalar(top.get("kind"))
            if version != API_VERSION:
                self._note(top.get("apiVersion", self._node), f"apiVersion is {version!r}, expected {API_VERSION}")
            cls = _KINDS.get(kind)
            if cls is None:
                self._note(top.get("kind", self._node), f"kind is {kind!r}, expected one of {', '.join(_KINDS)}")
                return None
            return self._struct(cls, self._node, "")
        except ConfigError as exc:
            self.findings.append(Finding(self._file, exc.line, self._kind, self._name, exc.text))
            return None

    def _identify(self, top: dict[str, Node]) -> None:
        self._kind = _scalar(top.get("kind")) or "object"
        metadata = top.get("metadata")
        pairs = metadata.value if isinstance(metadata, MappingNode) else []
        parts = {key.value: value for key, value in pairs if isinstance(key, ScalarNode)}
        self._name = f"{_scalar(parts.get('namespace')) or 'default'}/{_scalar(parts.get('name')) or '?'}"

    def _note(self, node: Node, text: str) -> None:
        self.findings.append(Finding(self._file, line_of(node), self._kind, self._name, text))

    def _struct(self, cls: type[T], node: Node, prefix: str) -> T | None:
        fields = {field.encode_name: field for field in structs.fields(cls)}
        before, arguments = len(self.findings), {}
        for name, key_node, value in items(node, self._file):
            key = prefix + name
            self.lines[key] = line_of(key_node)
            field = fields.get(name)
            if field is None:
                if name not in _PASSED_OVER.get(cls, ()):
                    self._note(key_node, f"unknown key {key}{nearest(name, fields)}")
            elif not is_null(value):
                arguments[field.name] = self._value(field.type, value, key)
        for name, field in fields.items():
            if field.required and field.name not in arguments:
                self._note(node, f"{prefix + name} is missing")
        return cls(**arguments) if len(self.findings) == before else None

    def _value(self, kind: Any, node: Node, key: str) -> Any:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if isinstance(node, MappingNode):
                return self._struct(kind, node, key + ".")
            return self._note(node, f"{key} must be a map")
        if kind is str:
            return node.value if isinstance(node, ScalarNode) else self._note(node, f"{key} must be a text")
        if kind == dict[str, str]:
            if not isinstance(node, MappingNode):
                return self._note(node, f"{key} must be a map of texts")
            return {name: self._entry(key, name, k, value) for name, k, value in items(node, self._file)}
        try:
            return msgspec.convert(plain(node, self._file), kind)
        except msgspec.ValidationError as exc:
            return self._note(node, f"{key}: {exc}")

    def _entry(self, key: str, name: str, key_node: Node, node: Node) -> str:
        self.lines[f"{key}.{name}"] = line_of(key_node)
        if isinstance(node, ScalarNode):
            return "" if is_null(node) else node.value
        self._note(node, f"{key}.{name} must be a text")
        return ""


def _scalar(node: Node | None) -> str:
    return str(node.value) if isinstance(node, ScalarNode) else ""
