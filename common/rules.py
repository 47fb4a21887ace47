"""Rules and endpoints as KubeEdge's manifests have them, and the small grammars inside: durations, topic templates.

The models are wire-compatible with ``rules.kubeedge.io/v1``; ``chain``, ``chains``, ``enabled``, ``timeout`` and
``retry`` are additions (flow F4). What is allowed in them is checked by ``common.manifests``.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import msgspec

from common.errors import ConfigError, TopicError
from common.resource import DEFAULT_NAMESPACE
from common.topics import check_topic

API_VERSION = "rules.kubeedge.io/v1"
RULE_KIND, ENDPOINT_KIND = "Rule", "RuleEndpoint"

TIMEOUT_S_MAX = 3600.0
BACKOFF_S_MAX = 3600.0
ATTEMPTS_MAX = 100

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h)")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_TOPIC_LEVEL = re.compile(r"topic\[(0|[1-9][0-9]{0,2})\]")


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
    """What a rule does: ``source`` and ``target`` name RuleEndpoints of the rule's namespace."""

    source: str
    target: str
    source_resource: dict[str, str] = {}
    target_resource: dict[str, str] = {}
    chain: str = ""
    chains: Any = None
    enabled: bool = True
    timeout: str = "10s"
    retry: RetryPolicy = RetryPolicy()

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
KUBEEDGE_TYPES = ("rest", "eventbus", "servicebus")


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


class TopicTemplate:
    """A target's topic: text with ``{topic[n]}`` (level n of the message's topic, from 0), ``{node}``, ``{rule}``
    and ``{namespace}``.

    ``levels`` tells how many levels a message's topic must have. Raises TopicError for what can never be a topic.
    """  # fmt: skip

    def __init__(self, text: str) -> None:
        self.text, self.levels = text, 0
        self._parts: list[str | int] = []  # text in even places; in odd places a level, or the name of a value
        at = 0
        for found in _PLACEHOLDER.finditer(text):
            self._parts += (_literal(text, text[at : found.start()]), self._placeholder(found[1]))
            at = found.end()
        self._parts.append(_literal(text, text[at:]))
        check_topic("".join("x" if place % 2 else str(part) for place, part in enumerate(self._parts)))

    def _placeholder(self, inside: str) -> str | int:
        if inside in ("node", "rule", "namespace"):
            return inside
        level = _TOPIC_LEVEL.fullmatch(inside)
        if level is None:
            raise TopicError(
                f"template {self.text!r}: unknown {{{inside}}}; "
                "there are {topic[n]}, {node}, {rule}, {namespace}"
            )
        self.levels = max(self.levels, int(level[1]) + 1)
        return int(level[1])

    def render(self, topic: str, *, node: str, rule: str, namespace: str) -> str:
        """Return the topic for a message that came on ``topic``. Raises TopicError when that has too few levels."""
        if len(self._parts) == 1:
            return self.text
        levels = topic.split("/")
        if len(levels) < self.levels:
            raise TopicError(f"template {self.text!r} needs {self.levels} levels, {topic!r} has {len(levels)}")
        values = {"node": node, "rule": rule, "namespace": namespace}
        parts = self._parts
        return "".join(
            str(part) if not place % 2 else levels[part] if isinstance(part, int) else values[part]
            for place, part in enumerate(parts)
        )


def _literal(text: str, part: str) -> str:
    if "{" in part or "}" in part:
        raise TopicError(f"template {text!r}: a brace without its other one")
    return part


def filter_levels(filter_: str) -> int:
    """How many levels every topic that matches the filter surely has: ``a/+/b`` 3, ``a/#`` 1, ``#`` 1."""
    levels = filter_.split("/")
    if levels[0] == "$share":
        levels = levels[2:]
    return max(1, len(levels) - (levels[-1:] == ["#"]))
