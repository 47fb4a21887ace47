"""Load and check manifests: one function for ``fieldpost apply``, the cloud and the node (flow F4).

Loading tells what is no manifest, checking what would not work; both report everything they find, each with its line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import structs
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from common.errors import ConfigError, RefusedError
from common.resource import is_label, is_name
from common.rules import (
    API_VERSION,
    ATTEMPTS_MAX,
    BACKOFF_S_MAX,
    ENDPOINT_KIND,
    EVENTBUS,
    KUBEEDGE_TYPES,
    RULE_KIND,
    TIMEOUT_S_MAX,
    EndpointType,
    Metadata,
    Rule,
    RuleEndpoint,
    TopicTemplate,
    filter_levels,
    parse_duration,
)
from common.topics import check_filter
from common.yamlnodes import compose, is_null, items, line_of, plain, read_text

MANIFESTS_MAX = 10_000
ENDPOINT_TYPES = (EVENTBUS,)  # what this version knows

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
_NODE_PATTERN = re.compile(r"[-a-z0-9*?]{1,63}")
_NO_CHAINS = "process chains come with a later version: this one cannot run the rule; remove {} or use a newer version"

T = TypeVar("T", bound=msgspec.Struct)


class Finding(NamedTuple):
    """One thing that is wrong: where (line from 1, 0 when unknown), in which object, and what to do about it."""

    file: str
    line: int
    kind: str
    name: str
    text: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return where + (f"{self.kind} {self.name}: " if self.kind else "") + self.text


class Manifest(NamedTuple):
    """A Rule or RuleEndpoint, and where it and its keys stand (``lines``: dotted key -> line)."""

    value: Rule | RuleEndpoint
    file: str = ""
    line: int = 0
    lines: Mapping[str, int] = {}

    def finding(self, key: str, text: str) -> Finding:
        """A Finding at ``key``, or at the nearest key around it."""
        line = 0
        while not line and key:
            line, key = self.lines.get(key, 0), key.rpartition(".")[0]
        return Finding(self.file, line or self.line, self.value.kind, "/".join(self.value.key), text)


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


def check(
    manifests: Sequence[Manifest],
    endpoint_types: Collection[EndpointType] = ENDPOINT_TYPES,
    *,
    unreadable: Iterable[Finding] = (),
) -> list[Finding]:
    """Return everything that would keep these manifests, taken together, from working; empty when all is well.

    Arguments:
        manifests: all rules and endpoints that belong together, from all files.
        endpoint_types: the types that the runtime knows.
        unreadable: findings of loading; an endpoint among them is not also reported as missing.
    """
    findings = list(_duplicates(manifests))
    types = {kind.name: kind for kind in endpoint_types}
    endpoints: dict[tuple[str, str], RuleEndpoint | None] = {
        (namespace, name): None
        for found in unreadable
        if found.kind == ENDPOINT_KIND
        for namespace, _, name in [found.name.partition("/")]
    }
    for manifest in manifests:
        if isinstance(manifest.value, RuleEndpoint):
            endpoints[manifest.value.key] = manifest.value
    for manifest in manifests:
        findings += _check_names(manifest)
        if isinstance(manifest.value, Rule):
            findings += _check_rule(manifest, manifest.value, endpoints, types)
        else:
            findings += _check_endpoint(manifest, manifest.value, types)
    return sorted(findings, key=lambda found: (found.file, found.line))


def check_text(
    text: str, file: str = "", endpoint_types: Collection[EndpointType] = ENDPOINT_TYPES
) -> tuple[list[Manifest], list[Finding]]:
    """Load and check one text. The findings are those of both; the manifests may be used when there are none."""
    manifests, findings = load_manifests(text, file)
    both = findings + check(manifests, endpoint_types, unreadable=findings)
    return manifests, sorted(both, key=lambda found: (found.file, found.line))


# Loading: nodes -> models


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
                    self._note(key_node, f"unknown key {key}{_nearest(name, fields)}")
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


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known) or 'none'}"


# Checking: models -> findings


def _duplicates(manifests: Iterable[Manifest]) -> Iterator[Finding]:
    first: dict[tuple[str, tuple[str, str]], Manifest] = {}
    for manifest in manifests:
        other = first.setdefault((manifest.value.kind, manifest.value.key), manifest)
        if other is not manifest:
            yield manifest.finding("metadata.name", f"stands twice, first at {other.file}:{other.line}")


def _check_names(manifest: Manifest) -> Iterator[Finding]:
    namespace, name = manifest.value.key
    if not is_name(name):
        text = f"name {name!r} is not a DNS subdomain (a-z, 0-9, - and . inside, at most 253 characters)"
        yield manifest.finding("metadata.name", text)
    if not is_label(namespace):
        text = f"namespace {namespace!r} is not a DNS label (a-z, 0-9 and - inside, at most 63 characters)"
        yield manifest.finding("metadata.namespace", text)


def _check_endpoint(manifest: Manifest, endpoint: RuleEndpoint, types: Mapping[str, EndpointType]) -> Iterator[Finding]:
    name = endpoint.spec.rule_endpoint_type
    kind = types.get(name)
    if kind is None:
        known = f"this version knows {', '.join(types)}"
        text = f"comes with a later version; {known}" if name in KUBEEDGE_TYPES else f"is unknown; {known}"
        yield manifest.finding("spec.ruleEndpointType", f"endpoint type {name!r} {text}")
        return
    for key in endpoint.spec.properties.keys() - set(kind.properties):
        text = f"an {name} endpoint has no property {key!r}{_nearest(key, kind.properties)}"
        yield manifest.finding(f"spec.properties.{key}", text)


def _check_rule(
    manifest: Manifest,
    rule: Rule,
    endpoints: Mapping[tuple[str, str], RuleEndpoint | None],
    types: Mapping[str, EndpointType],
) -> Iterator[Finding]:
    spec = rule.spec
    yield from _check_side(manifest, "source", spec.source, spec.source_resource, endpoints, types)
    yield from _check_side(manifest, "target", spec.target, spec.target_resource, endpoints, types)
    for field in ("chain", "chains"):
        if getattr(spec, field):
            yield manifest.finding(f"spec.{field}", _NO_CHAINS.format(f"spec.{field}"))
    yield from _check_duration(manifest, "spec.timeout", spec.timeout, TIMEOUT_S_MAX)
    yield from _check_duration(manifest, "spec.retry.backoff", spec.retry.backoff, BACKOFF_S_MAX)
    if not 1 <= spec.retry.attempts <= ATTEMPTS_MAX:
        text = f"spec.retry.attempts is {spec.retry.attempts}, expected 1 to {ATTEMPTS_MAX}"
        yield manifest.finding("spec.retry.attempts", text)


def _check_side(
    manifest: Manifest,
    side: str,
    name: str,
    resource: Mapping[str, str],
    endpoints: Mapping[tuple[str, str], RuleEndpoint | None],
    types: Mapping[str, EndpointType],
) -> Iterator[Finding]:
    """Check ``source`` or ``target``: the endpoint is there, and its type takes the keys of the resource map."""
    namespace, _ = manifest.value.key
    if (namespace, name) not in endpoints:
        text = f"{side} {name!r} is no RuleEndpoint of namespace {namespace!r}"
        near = difflib.get_close_matches(name, [n for ns, n in endpoints if ns == namespace], n=1, cutoff=0.5)
        yield manifest.finding(f"spec.{side}", text + (f"; did you mean {near[0]!r}?" if near else ""))
        return
    endpoint = endpoints[namespace, name]
    kind = types.get(endpoint.spec.rule_endpoint_type) if endpoint else None
    if kind is not None:
        yield from _check_resource(manifest, side, kind, resource)


def _check_resource(
    manifest: Manifest, side: str, kind: EndpointType, resource: Mapping[str, str]
) -> Iterator[Finding]:
    """Check ``sourceResource`` or ``targetResource``: the keys by type, then each value."""
    path = f"spec.{side}Resource"
    required = kind.source_required if side == "source" else kind.target_required
    optional = kind.source_optional if side == "source" else kind.target_optional
    if required is None:
        yield manifest.finding(f"spec.{side}", f"an endpoint of type {kind.name} cannot be a {side}")
        return
    for key in required:
        if not resource.get(key):
            yield manifest.finding(path, f"{path}.{key} is missing: a {side} of type {kind.name} needs it")
    for key, value in resource.items():
        if key not in required + optional:
            yield manifest.finding(f"{path}.{key}", f"unknown key {path}.{key}{_nearest(key, required + optional)}")
        elif value and (test := _VALUES.get((kind.name, side, key))):
            try:
                test(value, manifest.value)
            except (ConfigError, RefusedError) as exc:
                text = exc.text if isinstance(exc, ConfigError) else exc.detail
                yield manifest.finding(f"{path}.{key}", f"{path}.{key}: {text}")


def _check_duration(manifest: Manifest, key: str, text: str, most: float) -> Iterator[Finding]:
    try:
        seconds = parse_duration(text)
    except ConfigError as exc:
        yield manifest.finding(key, f"{key}: {exc.text}")
        return
    if not 0 < seconds <= most:
        yield manifest.finding(key, f"{key} is {text}, expected more than 0 and at most {most:g} s")


def _test_filter(value: str, _: Rule | RuleEndpoint) -> None:
    check_filter(value)


def _test_template(value: str, rule: Rule | RuleEndpoint) -> None:
    template = TopicTemplate(value)
    source = rule.spec.source_resource.get("topic", "") if isinstance(rule, Rule) else ""
    if source and template.levels > filter_levels(source):
        raise ConfigError(
            f"{{topic[{template.levels - 1}]}} may not be there: a topic that matches {source!r} has at least "
            f"{filter_levels(source)} levels, counted from 0"
        )


def _test_node_name(value: str, _: Rule | RuleEndpoint) -> None:
    for part in value.split(","):
        if not _NODE_PATTERN.fullmatch(part.strip()):
            raise ConfigError(f"{part.strip()!r} is no node id and no pattern of one with * and ?")


def _test_one_of(*choices: str) -> Callable[[str, Rule | RuleEndpoint], None]:
    def test(value: str, _: Rule | RuleEndpoint) -> None:
        if value not in choices:
            raise ConfigError(f"given {value!r}, expected one of {', '.join(choices)}")

    return test


# (endpoint type, side, key) -> what raises when the value is wrong
_VALUES: dict[tuple[str, str, str], Callable[[str, Rule | RuleEndpoint], None]] = {
    ("eventbus", "source", "topic"): _test_filter,
    ("eventbus", "source", "node_name"): _test_node_name,
    ("eventbus", "source", "qos"): _test_one_of("0", "1"),
    ("eventbus", "target", "topic"): _test_template,
    ("eventbus", "target", "qos"): _test_one_of("0", "1"),
    ("eventbus", "target", "retain"): _test_one_of("true", "false"),
}
