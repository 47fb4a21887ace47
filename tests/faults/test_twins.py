"""Two agents with one node id, each with a spool of its own, at one broker (reliability R3, duplication; P5.8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.control import call, socket_path
from common.errors import ControlError
from tests.faults.pipeline import Child, Pipeline
from tests.support.brokers import Mosquitto
from tests.support.wait import eventually

RATE = 200


async def test_two_agents_with_one_id_are_shown_and_double_nothing(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """They end each other's connection for ever; the cloud shows a conflict in words, keeps a record of the loss, and
    counts no result twice.
    """
    (other_dir := tmp_path / "other").mkdir()
    twin = Child("tests.faults.edge_child", tmp_path / "twin.log")
    async with Pipeline(mosquitto, tmp_path, rate=RATE) as stack:
        stack.start_cloud()
        stack.start_edge()
        await eventually(stack.collect, 20)
        twin.start(stack.edge_proxy.url, other_dir, "twin", 10**9, RATE, mosquitto.protocol)
        try:
            row = await eventually(lambda: _in_conflict(stack), 30, what="the conflict is seen")
        finally:
            twin.kill()
        assert "two agents run with the node id" in row["conflict"]
        assert "fieldpost node replace" in row["conflict"]
        assert row["lost"]["restored_copy"]["records"] >= 1
        await stack.collect()
        assert stack.seen
        assert max(stack.seen.values()) == 1
        assert not [source for source in stack.seen if source.startswith("twin")]


async def _in_conflict(stack: Pipeline) -> Any:
    try:
        (row,) = await call(socket_path(stack.cloud_dir, "cloud"), "get.nodes")
    except ControlError:
        return None
    return row if row["state"] == "conflict" else None
