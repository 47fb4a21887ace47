"""Resources, ``node/<node>/<namespace>/<type>[/<name>]`` and back, and the names in them (protocol P2, P3.2)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from common.errors import ResourceError

# Resource types (P1.3), spelled as in KubeEdge. Unknown ones pass through.
POD, CONFIGMAP, SECRET, NODE = "pod", "configmap", "secret", "node"
PODLIST, PODSTATUS, NODESTATUS = "podlist", "podstatus", "nodestatus"
RULE, RULEENDPOINT, RULESTATUS = "rule", "ruleendpoint", "rulestatus"
LOSSRECORD = "lossrecord"  # ours, not KubeEdge's (P5.8)
TYPES = (POD, CONFIGMAP, SECRET, NODE, PODLIST, PODSTATUS, NODESTATUS, RULE, RULEENDPOINT, RULESTATUS)

DEFAULT_NAMESPACE = "default"
NODE_LITERAL = (
    "nodeid"  # what KubeEdge's router writes where the node id belongs; a reader takes it as the topic's node
)

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_CHARS_MAX, _NAME_CHARS_MAX = 63, 253
_SHORT_CHARS = 1024  # of a resource that is remembered; a topic has no more
_RESERVED_NODE = re.compile(r"cloud(-[0-9]+)?|observer|operator|.*-bus")


def is_label(text: str) -> bool:
    """True for a DNS label (at most 63 characters): what node ids and namespaces must be (P3.2)."""
    return len(text) <= _LABEL_CHARS_MAX and _is_label(text)


@lru_cache(maxsize=16384)
def _is_label(text: str) -> bool:
    return _LABEL.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """True for a DNS subdomain (at most 253 characters): what rule and endpoint names must be (P3.2)."""
    return len(text) <= _NAME_CHARS_MAX and _SUBDOMAIN.fullmatch(text) is not None


def check_node_id(text: str) -> str:
    """Return ``text`` if it can be a node id, else raise ResourceError that says why (P3.2, reliability R4)."""
    if not is_label(text):
        raise ResourceError(f"node id {text!r} is not a DNS label (a-z, 0-9 and - inside, at most 63 characters)")
    if _RESERVED_NODE.fullmatch(text):
        raise ResourceError(
            f"node id {text!r} is reserved (cloud, cloud-<n>, observer, operator, and what ends in -bus)"
        )
    return text


class Resource(NamedTuple):
    """A parsed resource. The two-segment form of KubeEdge's edgecontroller has an empty node and namespace (P2.2)."""

    node: str
    namespace: str
    type: str
    name: str = ""

    def __str__(self) -> str:
        if not self.node and not self.namespace:
            return f"{self.type}/{self.name}"
        base = f"node/{self.node}/{self.namespace}/{self.type}"
        return f"{base}/{self.name}" if self.name else base

    @classmethod
    def parse(cls, text: str, *, strict: bool = False) -> Resource:
        """Parse ``text``; each missing or empty segment is its own error, with KubeEdge's words (P2.3).

        ``strict`` also refuses extra segments and a first segment other than ``node``; otherwise extra segments are
        ignored and the first is not looked at, as in KubeEdge. A two-segment text is ``<type>/<name>``.
        """
        return _parse_short(text, strict) if len(text) <= _SHORT_CHARS else _parse(text, strict)

    def require_name(self) -> str:
        """Return the name, or raise ResourceError ``resource name not found``."""
        if not self.name:
            raise ResourceError("resource name not found")
        return self.name


def build_resource(node: str, namespace: str, kind: str, name: str = "") -> str:
    """Return ``node/<node>/<namespace>/<kind>[/<name>]``. Raises ResourceError when a required part is empty (P2.1)."""
    if not node or not namespace or not kind:
        raise ResourceError("required parameter are not set (node id, namespace or resource type)")
    return str(Resource(node, namespace, kind, name))


def build_resource_for_router(namespace: str, kind: str, name: str, *, node: str = NODE_LITERAL) -> str:
    """KubeEdge's router form: an empty namespace becomes ``default``; empty type or name is an error (P2.1).

    ``node`` should be the real node id; left out, it is KubeEdge's literal ``nodeid``.
    """
    if not name or not kind:
        raise ResourceError("required parameter are not set (resourceID or resource type)")
    return build_resource(node, namespace or DEFAULT_NAMESPACE, kind, name)


def build_resource_for_edgecontroller(kind: str, name: str) -> str:
    """The edgecontroller's two-segment form ``<type>/<name>`` (P2.2)."""
    if not name or not kind:
        raise ResourceError("required parameter are not set (resourceID or resource type)")
    return f"{kind}/{name}"


def _parse(text: str, strict: bool) -> Resource:
    parts = text.split("/")
    if len(parts) == 2 and parts[0] != "node":
        kind, name = _segment(parts, 0, "resource type not found"), _segment(parts, 1, "resource name not found")
        return Resource("", "", kind, name)
    if strict and parts[0] != "node":
        raise ResourceError(f"first segment is {parts[0]!r}, not 'node'")
    if strict and len(parts) > 5:
        raise ResourceError(f"{len(parts)} segments, at most 5")
    node = _segment(parts, 1, "node id not found")
    namespace = _segment(parts, 2, "namespace not found")
    kind = _segment(parts, 3, "resource type not found")
    name = _segment(parts, 4, "resource name not found") if len(parts) > 4 else ""
    return Resource(node, namespace, kind, name)


_parse_short = lru_cache(maxsize=16384)(_parse)  # a message's resource is asked for several times on its way


def _segment(parts: list[str], index: int, missing: str) -> str:
    if index >= len(parts) or not parts[index]:
        raise ResourceError(missing)
    return parts[index]
