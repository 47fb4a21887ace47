"""A rule's status as it stands in its Kubernetes object (protocol P8.3). Values in, values out; no calls.

``conditions`` has two writers: what a rule does is told by the sink, whether its newest text was accepted
(``Accepted``) by the source. Each keeps the other's. Versions of desired state are not the object's generations: which
generation is wanted, the source's condition says.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from cloud.stores.base import ErrorRow
from cloud.stores.status import FALSE, READY, TRUE, Condition, RuleStatus
from common.models import clean_text

Object = dict[str, Any]

ACCEPTED = "Accepted"  # the condition of the source: is the newest generation what the nodes are to run?
ERROR_BYTES_MAX = 512  # of one error's detail here; the store has all of it
REFUSALS_MAX = 5
_OPTIONAL = ("observedGeneration", "lastSuccessTime", "lastFailureTime")  # absent when never


def told(status: RuleStatus, current: Object, errors_max: int) -> Object:
    """The fields of ``status`` in Kubernetes' words. ``current`` is the status that is there, for conditions."""
    errors = sorted(status.errors, key=lambda row: row.last, reverse=True)[:errors_max]
    generation = observed_generation(current)
    states = Counter(node.state for node in status.nodes)
    states["assigned"] = len(status.nodes) - states["removed"]
    fields: Object = {
        "observedGeneration": generation,
        "desiredVersion": status.generation,
        "statusVersion": status.version,
        "successMessages": status.success,
        "failMessages": status.fail,
        "lastSuccessTime": stamp(status.last_success) if status.last_success else None,
        "lastFailureTime": stamp(status.last_failure) if status.last_failure else None,
        "latencyMicroseconds": {"p50": status.p50_us, "p95": status.p95_us},
        "errors": [_sentence(row) for row in errors],
        "errorDetails": [_error(row) for row in errors],
        "nodes": {name: states[name] for name in ("assigned", "applied", "pending", "failed", "stale")},
        "refusals": [
            {"node": node.node, "version": node.desired, "error": clean_text(node.error, ERROR_BYTES_MAX)}
            for node in status.nodes
            if node.error and node.state == "failed"
        ][:REFUSALS_MAX],
        "conditions": _conditions(status, conditions_of(current), generation),
    }
    return {name: value for name, value in fields.items() if value is not None}


def patch(fields: Object) -> Object:
    """The merge patch that makes ``fields`` of any older status: what is absent must be taken away by name."""
    return {**dict.fromkeys(_OPTIONAL), **fields}


def same(fields: Object, current: Object) -> bool:
    """True when ``current`` says all of ``fields`` already; the version alone is no difference."""
    return all(current.get(name) == value for name, value in fields.items() if name != "statusVersion") and not any(
        name in current and name not in fields for name in _OPTIONAL
    )


def conditions_of(current: Object) -> list[Object]:
    """The conditions of a status, as far as they are any."""
    found = current.get("conditions")
    return [c for c in found if isinstance(c, dict) and "type" in c] if isinstance(found, list) else []


def observed_generation(current: Object) -> int | None:
    """The generation that the nodes are to have: the last one that was accepted, None when none was."""
    for value in conditions_of(current):
        if value["type"] == ACCEPTED and value.get("status") == TRUE:
            current = value
    found = current.get("observedGeneration")
    return found if isinstance(found, int) else None


def condition(value: Condition, generation: int | None) -> Object:
    """A condition in Kubernetes' words."""
    made = {
        "type": value.type,
        "status": value.status,
        "reason": value.reason,
        "message": value.message,
        "lastTransitionTime": stamp(value.since),
    }
    return made if generation is None else {**made, "observedGeneration": generation}


def stamp(at: float) -> str:
    """Unix seconds as Kubernetes writes times: RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")


def _conditions(status: RuleStatus, current: list[Object], generation: int | None) -> list[Object]:
    """Ours, and those of others that are there. A newest text that was refused makes Ready false."""
    ours = {value.type: condition(value, generation) for value in status.conditions}
    others = [value for value in current if value["type"] not in ours]
    for other in others:
        if other["type"] == ACCEPTED and other.get("status") == FALSE:
            ours[READY] = {**other, "type": READY}
            others = [value for value in others if value["type"] != READY]
    return sorted([*ours.values(), *others], key=lambda value: str(value["type"]))


def _sentence(row: ErrorRow) -> str:
    where = f" on {row.node}" if row.node else ""
    detail = f": {clean_text(row.detail, ERROR_BYTES_MAX)}" if row.detail else ""
    return f"{row.reason}{detail} ({row.count} times, last at {stamp(row.last)}{where})"


def _error(row: ErrorRow) -> Object:
    return {
        "reason": row.reason,
        "detail": clean_text(row.detail, ERROR_BYTES_MAX),
        "count": row.count,
        "firstTime": stamp(row.first),
        "lastTime": stamp(row.last),
        "node": row.node,
        "sourceId": clean_text(row.source_id, ERROR_BYTES_MAX),
        "step": clean_text(row.step, ERROR_BYTES_MAX),
    }
