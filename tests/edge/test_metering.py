"""The agent's metrics: the names that were promised, with the values of its account (experience U6)."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from common.models import NodeStatus
from edge.metering import text


def test_the_account_is_in_the_metrics() -> None:
    """Every name of U6 for the edge is there with the right kind and value; lost results are told apart by kind."""
    status = NodeStatus(pending_results=7, pending_messages=2, spool_bytes=4096, resends=3, dead=1, dropped=5)
    found = {
        family.name.removeprefix("fieldpost_edge_"): family
        for family in text_string_to_metric_families(text(status, {("delivered", ""): 9, ("failed", "timeout"): 1}))
    }
    ended = {(s.labels["outcome"], s.labels["reason"]): s.value for s in found["results"].samples}
    assert ended == {("delivered", ""): 9, ("failed", "timeout"): 1}
    assert {s.labels["kind"]: s.value for s in found["lost_results"].samples} == {
        "dropped": 5,
        "set_aside": 0,
        "dead": 1,
    }
    values = {name: (found[name].type, found[name].samples[0].value) for name in found if len(found[name].samples) == 1}
    assert values["uplink_resends"] == ("counter", 3)
    assert values["uplink_unconfirmed"] == ("gauge", 2)
    assert values["spool_messages"] == ("gauge", 7)
    assert values["spool_bytes"] == ("gauge", 4096)
