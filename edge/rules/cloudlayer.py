"""The cloud's objects as a part of the layer ``node_gateway``, between the node's other layers (flow F6)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import structs

from common.manifests import Finding
from common.rules import ENDPOINT_KIND, RULE_KIND, Metadata
from common.rulesync import ObjectKey
from edge.rules.fitting import Version
from edge.rules.layers import CLOUD_LAYER, DELETE, Layer, Merged

_SECTION_OF = {ENDPOINT_KIND: "endpoints", RULE_KIND: "rules"}
_WHOLE = {"endpoints": {"ruleEndpointType"}, "rules": {"source", "target"}}  # what an object of its own has at least

Cloud = Mapping[ObjectKey, Version]


def layer_of(cloud: Cloud) -> Layer:
    """The layer that the objects make."""
    value: dict[str, Any] = {}
    for (kind, namespace, name), version in cloud.items():
        spec = {**version.manifest["spec"], "metadata": version.manifest["metadata"]}
        value.setdefault(_SECTION_OF[kind], {})[f"{namespace}/{name}"] = spec
    return Layer(CLOUD_LAYER, "", value)


def clashes(merged: Merged, cloud: Cloud) -> list[Finding]:
    """Objects of the cloud's under a name that the node has for its own. The same endpoint on both sides is none."""
    found, local = [], {section: _map(merged.value.get(section)) for section in _WHOLE}
    for (kind, namespace, name), version in cloud.items():
        key = _SECTION_OF[kind], f"{namespace}/{name}"
        own = local[key[0]].get(key[1])
        if own is None or (kind == ENDPOINT_KIND and _bare(own) == _bare(version.manifest["spec"])):
            continue
        text = f"this node has one of that name of its own, in {merged.origin(key)}: rename one of them"
        found.append(Finding("", 0, kind, key[1], text))
    return found


def _bare(spec: Any) -> Any:
    return {k: v for k, v in spec.items() if v and k != "metadata"} if isinstance(spec, dict) else spec


def without_idle(layer: Layer, merged: Merged) -> Layer:
    """The layer without what it says over objects that are not there: it waits for the cloud to send them."""
    idle = set(idle_overrides(layer, merged))
    value = {
        section: {name: spec for name, spec in inner.items() if (section, name) not in idle}
        if isinstance(inner, dict) else inner
        for section, inner in layer.value.items()
    }  # fmt: skip
    return layer._replace(value=value) if idle else layer


def idle_overrides(layer: Layer, merged: Merged) -> Iterable[tuple[str, str]]:
    """(section, name) of what a layer says over rules and endpoints that are not there, and are none by themselves."""
    for section, needed in _WHOLE.items():
        there, inner = merged.value.get(section), layer.value.get(section)
        for name, spec in inner.items() if isinstance(inner, dict) else ():
            known = isinstance(there, dict) and name in there
            if not known and isinstance(spec, dict) and not needed <= spec.keys() and spec.get(DELETE) is not True:
                yield section, name


def identified(metadata: Metadata, version: Version | None, spec: Mapping[str, Any]) -> Metadata:
    """The metadata with uid and version of the cloud's object, or none: results tell by these whose rule it was.

    Where this node's own layers change an object of the cloud's, a digest of what it says then is behind the number.
    """
    if version is None:
        return structs.replace(metadata, uid="", resource_version="")
    number = str(version.number)
    if spec != version.manifest["spec"]:
        number += "+" + hashlib.sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()[:8]
    return structs.replace(metadata, uid=version.uid, resource_version=number)


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
