"""The agent's metrics in Prometheus' terms (experience U6), from what it says of itself anyway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from common.metrics import Family, exposition
from common.models import NodeStatus


def text(status: NodeStatus, outcomes: Mapping[tuple[str, str], int]) -> str:
    """Return Prometheus' text. ``outcomes`` counts executions by outcome and reason: the agent's own codes."""
    return exposition("edge", _families(status, outcomes))


def _families(status: NodeStatus, outcomes: Mapping[tuple[str, str], int]) -> Iterator[Family]:
    ended = [({"outcome": outcome, "reason": reason}, float(n)) for (outcome, reason), n in sorted(outcomes.items())]
    yield Family("results", "counter", "executions by how they ended, since the start", list(ended))
    lost = {"dropped": status.dropped, "set_aside": status.set_aside, "dead": status.dead}
    samples = [({"kind": kind}, float(count)) for kind, count in lost.items()]
    yield Family(
        "lost_results", "counter", "results that the cloud will not count, since the spool began", list(samples)
    )
    yield Family("accepted_results", "counter", "results that were put on disk", [({}, status.accepted)])
    yield Family("confirmed_results", "counter", "results that the cloud has confirmed", [({}, status.confirmed)])
    yield Family("uplink_resends", "counter", "messages that were sent again", [({}, status.resends)])
    yield Family("uplink_unconfirmed", "gauge", "messages sent and not confirmed", [({}, status.pending_messages)])
    yield Family("spool_messages", "gauge", "results on disk that are not confirmed", [({}, status.pending_results)])
    yield Family("spool_bytes", "gauge", "bytes of the spool on disk", [({}, status.spool_bytes)])
    yield Family("spool_inputs", "gauge", "inputs whose execution has not ended", [({}, status.pending_inputs)])
    yield Family("rules", "gauge", "rules that run", [({}, status.rules)])
    yield Family("resident_bytes", "gauge", "memory of the process", [({}, status.rss_bytes)])
    yield Family("uptime_seconds", "gauge", "since the agent started", [({}, status.uptime_s)])
