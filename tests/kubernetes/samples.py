"""Rules, endpoints and statuses to test with."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, select

from cloud.sources.kubernetes import manifest_of
from cloud.stores.base import ErrorRow
from cloud.stores.status import DEGRADED, FALSE, READY, TRUE, Condition, NodeShare, RuleStatus
from cloud.stores.tables import objects
from common.manifests import Manifest
from common.rules import API_VERSION

AT = 1_763_683_200.0


def rule(name: str = "relay", source: str = "bus", target: str = "bus", **spec: Any) -> dict[str, Any]:
    """A Rule between two topics."""
    places = {"sourceResource": {"topic": f"in/{name}"}, "targetResource": {"topic": f"out/{name}"}}
    return {
        "apiVersion": API_VERSION, "kind": "Rule", "metadata": {"name": name},
        "spec": {"source": source, "target": target, **places, **spec},
    }  # fmt: skip


def endpoint(name: str = "bus", kind: str = "eventbus", **properties: str) -> dict[str, Any]:
    """A RuleEndpoint."""
    spec: dict[str, Any] = {"ruleEndpointType": kind, **({"properties": properties} if properties else {})}
    return {"apiVersion": API_VERSION, "kind": "RuleEndpoint", "metadata": {"name": name}, "spec": spec}


def error(reason: str = "target_timeout", detail: str = "no answer", count: int = 1, last: float = AT) -> ErrorRow:
    """A distinct error of a rule."""
    return ErrorRow("default", "relay", "", reason, detail, count, AT, last, "edge-1", "m-1", "endpoint web")


def status(uid: str, version: int = 1, success: int = 0, fail: int = 0, name: str = "relay", **more: Any) -> RuleStatus:
    """The status of a rule of Kubernetes' on one node."""
    fields: dict[str, Any] = {
        "generation": 1, "origin": "kubernetes", "last_success": AT if success else 0.0,
        "nodes": [NodeShare("edge-1", success, fail, state="applied", desired=1, reported=1)],
        "conditions": [
            Condition(READY, TRUE, "Applied", "1 of 1 nodes runs it", AT),
            Condition(DEGRADED, FALSE, "NoErrors", "", AT),
        ],
    }  # fmt: skip
    return RuleStatus("default", name, uid, version, success=success, fail=fail, **(fields | more))


def manifests_of(conn: Connection) -> list[Manifest]:
    """All wanted objects."""
    found = []
    for (text,) in conn.execute(select(objects.c.manifest)):
        value = msgspec.json.decode(text)
        manifest, _ = manifest_of(value["kind"], value)
        assert manifest is not None
        found.append(manifest)
    return found
