"""Rules and endpoints as KubeEdge's manifests have them, and the small grammar of durations.

The models are wire-compatible with ``rules.kubeedge.io/v1``; ``chain``, ``chains``, ``enabled``, ``timeout``,
``retry``, ``results`` and ``nodeSelector`` are additions (flow F4). What is allowed in them is checked by
``common.checks``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import msgspec

from common.errors import ConfigError
from common.resource import DEFAULT_NAMESPACE

API_VERSION = "rules.kubeedge.io/v1"
RULE_KIND, ENDPOINT_KIND = "Rule", "RuleEndpoint"

TIMEOUT_S_MAX = 3600.0
BACKOFF_S_MAX = 3600.0
ATTEMPTS_MAX = 100

RESULTS_SINGLE, RESULTS_SUMMARY = "single", "summary"  # one for each execution; successes summed up once a second (F5)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h)")


class Metadata(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Kubernetes' object metadata, as far as it is used here."""

    name: str
    namespace: str = DEFAULT_NAMESPACE
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class RetryPolicy(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How often a delivery is tried (at least once) and the first wait between tries, a duration that then doubles."""

    attempts: int = 1
    backoff: str = "1s"

    @property
    def backoff_s(self) -> float:
        """The first wait in seconds."""
        return parse_duration(self.backoff)


class RuleSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a rule does: ``source`` and ``target`` name RuleEndpoints of the rule's namespace.

    ``node_selector`` are labels that a node must have; it and the source's ``node_name`` must both agree (P6.2).
    """

    source: str
    target: str
    source_resource: dict[str, str] = {}
    target_resource: dict[str, str] = {}
    chain: str = ""
    chains: Any = None
    enabled: bool = True
    timeout: str = "10s"
    retry: RetryPolicy = RetryPolicy()
    results: str = RESULTS_SINGLE
    node_selector: dict[str, str] = {}

    @property
    def timeout_s(self) -> float:
        """The time for one execution in seconds."""
        return parse_duration(self.timeout)


class EndpointSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What an endpoint is: ``rest``, ``eventbus``, ``servicebus`` or a type of a plug-in, and its properties."""

    rule_endpoint_type: str
    properties: dict[str, str] = {}


class Rule(msgspec.Struct, frozen=True, rename="camel"):
    """KubeEdge's Rule. Its identity is ``key``: namespace and name."""

    metadata: Metadata
    spec: RuleSpec
    api_version: str = API_VERSION
    kind: str = RULE_KIND

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.metadata.namespace, self.metadata.name


class RuleEndpoint(msgspec.Struct, frozen=True, rename="camel"):
    """KubeEdge's RuleEndpoint."""

    metadata: Metadata
    spec: EndpointSpec
    api_version: str = API_VERSION
    kind: str = ENDPOINT_KIND

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.metadata.namespace, self.metadata.name


class EndpointType(NamedTuple):
    """What the checks know about a type of endpoint: the keys that a rule's resource maps must and may have.

    None for ``source_required`` or ``target_required``: the type cannot be a source, or a target.
    """

    name: str
    source_required: tuple[str, ...] | None
    target_required: tuple[str, ...] | None
    source_optional: tuple[str, ...] = ()
    target_optional: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()


EVENTBUS = EndpointType(
    "eventbus",
    ("topic",),
    ("topic",),
    source_optional=("node_name", "qos"),
    target_optional=("qos", "retain"),
    properties=("broker",),
)
REST = EndpointType(
    "rest",
    ("path",),
    ("resource",),
    source_optional=("node_name", "method", "mode"),
    target_optional=("method", "headers", "content_type"),
)
SERVICEBUS = EndpointType(
    "servicebus",
    ("target_url",),
    ("path",),
    source_optional=("node_name", "mode"),
    target_optional=("method", "headers", "content_type"),
    properties=("service_port", "socket"),
)


def parse_duration(text: str) -> float:
    """Return the seconds of ``500ms``, ``10s``, ``2m``, ``1h`` or a sum such as ``1m30s``. Raises ConfigError."""
    if not _DURATION.fullmatch(text):
        raise ConfigError(f"{text!r} is not a duration such as 500ms, 10s or 2m")
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))


def node_matches(pattern: str, node: str) -> bool:
    """True when a source's ``node_name`` means ``node``: it is a name, a list with commas, or a glob (P6.2).

    Empty means every node.
    """
    return not pattern or any(fnmatchcase(node, part.strip()) for part in pattern.split(","))


def selects(spec: RuleSpec, node: str, labels: Mapping[str, str]) -> bool:
    """True when a rule is for ``node``: by the source's ``node_name`` and by the labels of ``nodeSelector`` (P6.2)."""
    return node_matches(spec.source_resource.get("node_name", ""), node) and all(
        labels.get(key) == value for key, value in spec.node_selector.items()
    )
