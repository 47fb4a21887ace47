"""Check manifests: one function for ``fieldpost check``, the cloud and the node (flow F4). All findings at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from common.errors import ConfigError, RefusedError
from common.manifests import Finding, Manifest, nearest
from common.masking import mask_urls
from common.messaging.endpoint import parse_endpoints
from common.resource import is_label, is_name
from common.rules import (
    ATTEMPTS_MAX,
    BACKOFF_S_MAX,
    ENDPOINT_KIND,
    EVENTBUS,
    REST,
    RESULTS_SINGLE,
    RESULTS_SUMMARY,
    SERVICEBUS,
    TIMEOUT_S_MAX,
    EndpointType,
    Rule,
    RuleEndpoint,
    parse_duration,
)
from common.templates import TopicTemplate, UrlTemplate, filter_levels
from common.topics import check_filter, overlaps

ENDPOINT_TYPES = (EVENTBUS, REST, SERVICEBUS)

NO_ENDPOINT = "is no RuleEndpoint of namespace"  # in the finding of a rule whose endpoint is not among the manifests
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]{0,62})\}")
_NODE_PATTERN = re.compile(r"[-a-z0-9*?]{1,63}")
LABELS_MAX = 64  # of a node, and in a nodeSelector
_LABEL_KEY = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def check(
    manifests: Sequence[Manifest],
    endpoint_types: Collection[EndpointType] = ENDPOINT_TYPES,
    *,
    unreadable: Iterable[Finding] = (),
    loops: bool = True,
) -> list[Finding]:
    """Return everything that would keep these manifests, taken together, from working; empty when all is well.

    Arguments:
        manifests: all rules and endpoints that belong together, from all files.
        endpoint_types: the types that the runtime knows.
        unreadable: findings of loading; an endpoint among them is not also reported as missing.
        loops: whether an eventbus target may match an eventbus source; over MQTT 3.1.1 nothing counts hops (F3).
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
    rules = [(m, m.value) for m in manifests if isinstance(m.value, Rule) and m.value.spec.enabled]
    findings += _check_repliers(rules, endpoints)
    if not loops:
        findings += _check_loops(rules, endpoints)
    return sorted(findings, key=lambda found: (found.file, found.line))


def check_text(
    text: str, file: str = "", endpoint_types: Collection[EndpointType] = ENDPOINT_TYPES
) -> tuple[list[Manifest], list[Finding]]:
    """Load and check one text. The findings are those of both; the manifests may be used when there are none."""
    from common.manifestfiles import load_manifests  # YAML: a start does not pay for it

    manifests, findings = load_manifests(text, file)
    both = findings + check(manifests, endpoint_types, unreadable=findings)
    return manifests, sorted(both, key=lambda found: (found.file, found.line))


def check_labels(labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Everything that keeps these from being labels of a node, as Kubernetes has them: key (empty: all) and text."""
    if len(labels) > LABELS_MAX:
        yield "", f"{len(labels)} labels, at most {LABELS_MAX}"
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            yield key, f"label {key[:80]!r} is no [prefix/]name of letters, digits, -, _ and ."
        elif not _LABEL_VALUE.fullmatch(value):
            yield key, f"label {key} has the value {value[:80]!r}, expected at most 63 letters, digits, -, _ and ."


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
        text = f"endpoint type {name!r} is unknown; there are {', '.join(types)}"
        yield manifest.finding("spec.ruleEndpointType", text)
        return
    for key in endpoint.spec.properties.keys() - set(kind.properties):
        text = f"an {name} endpoint has no property {key!r}{nearest(key, kind.properties)}"
        yield manifest.finding(f"spec.properties.{key}", text)
    if name == SERVICEBUS.name:
        yield from _check_service(manifest, endpoint.spec.properties)
    if broker := endpoint.spec.properties.get("broker", "") if name == EVENTBUS.name else "":
        try:
            parse_endpoints(broker)
        except ConfigError as exc:
            yield manifest.finding("spec.properties.broker", f"spec.properties.broker: {exc.text}")


def _check_service(manifest: Manifest, properties: Mapping[str, str]) -> Iterator[Finding]:
    port, path = "spec.properties.service_port", "spec.properties.socket"
    given = properties.get("service_port", "")
    if not given and not properties.get("socket"):
        yield manifest.finding("spec.properties", f"{port} is missing, 1 to 65535 (or {path}, a unix socket)")
    elif given and not (given.isascii() and given.isdigit() and 1 <= int(given) <= 65535):
        yield manifest.finding(port, f"{port} is {given!r}, expected 1 to 65535")
    elif given and properties.get("socket"):
        yield manifest.finding(path, f"{port} and {path} exclude each other")


def _check_rule(
    manifest: Manifest,
    rule: Rule,
    endpoints: Mapping[tuple[str, str], RuleEndpoint | None],
    types: Mapping[str, EndpointType],
) -> Iterator[Finding]:
    spec = rule.spec
    yield from _check_side(manifest, "source", spec.source, spec.source_resource, endpoints, types)
    yield from _check_side(manifest, "target", spec.target, spec.target_resource, endpoints, types)
    if spec.chain.strip() or spec.chains is not None:
        yield from _check_chains(manifest, rule)
    yield from _check_duration(manifest, "spec.timeout", spec.timeout, TIMEOUT_S_MAX)
    yield from _check_duration(manifest, "spec.retry.backoff", spec.retry.backoff, BACKOFF_S_MAX)
    if not 1 <= spec.retry.attempts <= ATTEMPTS_MAX:
        text = f"spec.retry.attempts is {spec.retry.attempts}, expected 1 to {ATTEMPTS_MAX}"
        yield manifest.finding("spec.retry.attempts", text)
    if spec.results not in (RESULTS_SINGLE, RESULTS_SUMMARY):
        text = f"spec.results is {spec.results!r}, expected {RESULTS_SINGLE} or {RESULTS_SUMMARY}"
        yield manifest.finding("spec.results", text)
    for label, text in check_labels(spec.node_selector):
        yield manifest.finding(f"spec.nodeSelector.{label}".rstrip("."), text)


def _check_chains(manifest: Manifest, rule: Rule) -> Iterator[Finding]:
    """What keeps the chains from running; the language is loaded when a rule has some."""
    from common.rulechains import findings

    below = "\n" in rule.spec.chain  # a text of several lines begins below its key
    for found in findings(rule.spec):
        finding = manifest.finding(found.key, found.text)
        if found.key == "spec.chain" and finding.line and found.line:
            finding = finding._replace(line=finding.line + found.line - (not below))
        yield finding


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
        text = f"{side} {name!r} {NO_ENDPOINT} {namespace!r}"
        import difflib  # for an error only: a start does not pay for it

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
            yield manifest.finding(f"{path}.{key}", f"unknown key {path}.{key}{nearest(key, required + optional)}")
        elif value and (test := _VALUES.get((kind.name, side, key))):
            try:
                test(value, manifest.value)
            except (ConfigError, RefusedError, ValueError) as exc:
                text = getattr(exc, "text", "") or getattr(exc, "detail", "") or str(exc)
                yield manifest.finding(f"{path}.{key}", f"{path}.{key}: {text}")


Rules = Sequence[tuple[Manifest, Rule]]
Endpoints = Mapping[tuple[str, str], RuleEndpoint | None]


def _type_of(rule: Rule, side: str, endpoints: Endpoints) -> str:
    endpoint = endpoints.get((rule.metadata.namespace, getattr(rule.spec, side)))
    return endpoint.spec.rule_endpoint_type if endpoint else ""


def _check_repliers(rules: Rules, endpoints: Endpoints) -> Iterator[Finding]:
    """One rule for each key of a source that is answered: who else would answer?"""
    first: dict[tuple[str, ...], Manifest] = {}
    for manifest, rule in rules:
        kind, namespace = _type_of(rule, "source", endpoints), rule.metadata.namespace
        resource = rule.spec.source_resource
        nodes = resource.get("node_name", "") + "".join(sorted(f" {k}={v}" for k, v in rule.spec.node_selector.items()))
        if kind == REST.name:
            path = re.sub(r"\{[^{}]*\}", "{}", resource.get("path", "")).strip("/")
            methods = [m.strip().upper() for m in resource.get("method", "*").split(",")]
            keys = [(kind, nodes, namespace, path, method) for method in methods]
        elif kind == SERVICEBUS.name:
            keys = [(kind, nodes, resource.get("target_url", ""), "", "")]
        else:
            continue
        for key in keys:
            other = first.setdefault(key, manifest)
            if other is not manifest:
                name = "/".join(other.value.key)
                yield manifest.finding("spec.sourceResource", f"rule {name} answers the same requests; only one can")
                break


def _check_loops(rules: Rules, endpoints: Endpoints) -> Iterator[Finding]:
    buses = [(m, r) for m, r in rules if _type_of(r, "source", endpoints) == EVENTBUS.name]
    for manifest, rule in rules:
        topic = rule.spec.target_resource.get("topic", "")
        if _type_of(rule, "target", endpoints) != EVENTBUS.name or not topic:
            continue
        reach = topic.replace("{namespace}", rule.metadata.namespace).replace("{rule}", rule.metadata.name)
        reach = re.sub(r"\{[^{}]*\}", "+", reach)
        reach = "/".join("+" if "+" in level else level for level in reach.split("/"))
        for other, listening in buses:
            filter_ = listening.spec.source_resource.get("topic", "")
            if filter_ and overlaps(reach, filter_):
                text = (
                    f"spec.targetResource.topic {topic!r} may match the source {filter_!r} of rule "
                    f"{'/'.join(other.value.key)}: a loop that nothing stops over MQTT 3.1.1; use another topic, "
                    "version 5, or allow it with edge.flow.loops"
                )
                yield manifest.finding("spec.targetResource.topic", text)


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


def _test_url(value: str, _: Rule | RuleEndpoint) -> None:
    template = UrlTemplate(value)
    url = urlsplit(template.example)
    if url.scheme not in ("http", "https") or not url.hostname or "{" in value.partition("://")[2].partition("/")[0]:
        raise ConfigError(f"{mask_urls(value)!r} is no http:// or https:// URL with a fixed host")


def _test_path(value: str, _: Rule | RuleEndpoint) -> None:
    if not value.startswith("/") or "?" in value or "#" in value or "//" in value:
        raise ConfigError(f"{value!r} is no path: it begins with / and has no ?, # or empty segment")
    names = _PARAMETER.findall(value)
    if len(set(names)) < len(names):
        raise ConfigError(f"{value!r} names a parameter twice")
    if any(("{" in part or "}" in part) and not _PARAMETER.fullmatch(part) for part in value.split("/")):
        raise ConfigError(f"{value!r}: a parameter is a whole segment, as in /lines/{{line}}")


def _test_path_template(value: str, _: Rule | RuleEndpoint) -> None:
    if not UrlTemplate(value).example.startswith("/"):
        raise ConfigError(f"{value!r} is no path: it begins with /")


def _test_methods(value: str, _: Rule | RuleEndpoint) -> None:
    for method in value.split(","):
        if method.strip().upper() not in METHODS:
            raise ConfigError(f"{method.strip()!r} is none of {', '.join(METHODS)}")


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
    ("rest", "source", "path"): _test_path,
    ("rest", "source", "node_name"): _test_node_name,
    ("rest", "source", "method"): _test_methods,
    ("rest", "source", "mode"): _test_one_of("sync", "async"),
    ("rest", "target", "resource"): _test_url,
    ("rest", "target", "method"): _test_methods,
    ("servicebus", "source", "target_url"): _test_url,
    ("servicebus", "source", "node_name"): _test_node_name,
    ("servicebus", "source", "mode"): _test_one_of("sync", "async"),
    ("servicebus", "target", "path"): _test_path_template,
    ("servicebus", "target", "method"): _test_methods,
}
