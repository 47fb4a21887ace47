"""Dead letters for people: list, look, redrive, drop (P5.9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloud.settings import StoreSettings
from common.clock import ManualClock
from common.control import call
from common.errors import ControlError
from common.messaging.memory import MemoryHub
from common.models import NodeBirth
from tests.cloud.node import body, node_on, running, up_topic
from tests.cloud.samples import birth, epoch, ok, totals
from tests.support.wait import eventually


async def letters(path: Path, count: int) -> list[dict[str, Any]]:
    """The list when it is as long as it should be."""
    rows: list[dict[str, Any]] = await call(path, "dlq.ls")
    return rows if len(rows) == count else []


async def test_letters_are_listed_and_shown_as_text_or_hex(tmp_path: Path) -> None:
    """dlq.ls tells what was refused and why, without payloads; dlq.show gives the payload, readable where it is."""
    hub = MemoryHub()
    path = tmp_path / "data" / "cloud.sock"
    async with running(tmp_path, hub), node_on(hub) as node:
        node.raw(up_topic(), b"no message")
        node.raw(up_topic(), b"\xff\x00\x01")
        binary, text = await eventually(lambda: letters(path, 2))
        assert (text["node"], text["topic"], text["reason"]) == ("edge-1", up_topic(), "undecodable")
        assert (text["size"], text["kept"], text["whole"], text["times"]) == (10, 10, True, 1)
        shown = await call(path, "dlq.show", id=text["id"])
        assert (shown["encoding"], shown["payload"], shown["letter"]["id"]) == ("text", "no message", text["id"])
        shown = await call(path, "dlq.show", id=binary["id"])
        assert (shown["encoding"], shown["payload"]) == ("hex", "ff0001")
        assert await call(path, "dlq.ls", reason="conflict") == []
        with pytest.raises(ControlError, match="no dead letter has the id 99"):
            await call(path, "dlq.show", id=99)


async def test_a_conflict_is_redriven_after_it_is_settled_and_counts_once(tmp_path: Path) -> None:
    """P5.8, P5.9: refused again it stays; after node replace it counts; what the node sends as well counts once."""
    hub = MemoryHub()
    path = tmp_path / "data" / "cloud.sock"
    twin = epoch(1, tail=1)
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        await node.results(1, ok())
        node.presence(birth(1))
        node.presence(NodeBirth("edge-1", str(twin), True, session=1))
        message = await node.results(9, ok())
        message.header.resourceversion = f"{twin}.1"
        await node.layer.send(message)
        (letter,) = await eventually(lambda: letters(path, 1))
        assert letter["reason"] == "conflict"
        (redriven,) = await call(path, "dlq.redrive", reason="conflict")
        assert (redriven["id"], redriven["outcome"], redriven["reason"]) == (letter["id"], "refused", "conflict")
        assert [row["id"] for row in await call(path, "dlq.ls")] == [letter["id"]]
        before = (await totals(controller.store))[0]
        await call(path, "node.replace", node="edge-1")
        (redriven,) = await call(path, "dlq.redrive", ids=[letter["id"]])
        assert redriven["outcome"] == "redriven"
        assert await call(path, "dlq.ls") == []
        await node.layer.send(message)
        await eventually(lambda: controller.store.statistics()["duplicates"] == 1)
        assert await totals(controller.store) == (before + 1, 0)
        found = controller.statistics()["dead_letters"]
        assert (found["redriven"], found["refused"]) == (1, 1)


async def test_what_was_cut_or_can_never_be_read_stays(tmp_path: Path) -> None:
    """A letter whose payload was cut is refused with words; rubbish is refused again, and makes no second letter."""
    hub = MemoryHub()
    path = tmp_path / "data" / "cloud.sock"
    async with running(tmp_path, hub, store=StoreSettings(dead_letter_bytes_max=64)), node_on(hub) as node:
        node.raw(up_topic(), b"rubbish")
        node.raw(up_topic(), b"x" * 65)
        await eventually(lambda: letters(path, 2))
        rubbish, cut = await call(path, "dlq.redrive", node="edge-1")
        assert (rubbish["outcome"], rubbish["reason"]) == ("refused", "undecodable")
        assert cut["outcome"] == "cut"
        assert "only 64 of its 65 bytes were kept" in cut["detail"]
        assert len(await call(path, "dlq.ls")) == 2


async def test_of_many_the_oldest_are_redriven_first(tmp_path: Path) -> None:
    """A node's messages are in order of their sequence, and the cloud refuses what is far above what it has (P5.7)."""
    hub = MemoryHub()
    path = tmp_path / "data" / "cloud.sock"
    async with running(tmp_path, hub), node_on(hub) as node:
        for payload in (b"one", b"two", b"three"):
            node.raw(up_topic(), payload)
        oldest = min(row["id"] for row in await eventually(lambda: letters(path, 3)))
        (redriven,) = await call(path, "dlq.redrive", node="edge-1", limit=1)
        assert redriven["id"] == oldest


async def test_an_unknown_type_is_redriven_to_its_row(tmp_path: Path) -> None:
    """What no row takes is refused again with its reason, without a second letter."""
    hub = MemoryHub()
    path = tmp_path / "data" / "cloud.sock"
    async with running(tmp_path, hub), node_on(hub) as node:
        message = await node.results(1, ok())
        message.route.resource = "node/edge-1/default/configmap/x"
        node.raw(up_topic(rest="router:resource/update/default/configmap/x"), body(message))
        (letter,) = await eventually(lambda: letters(path, 1))
        (redriven,) = await call(path, "dlq.redrive", ids=[letter["id"]])
        assert (redriven["outcome"], redriven["reason"]) == ("refused", "unknown_type")
        assert len(await call(path, "dlq.ls")) == 1


async def test_letters_are_dropped_by_id_reason_and_age(tmp_path: Path) -> None:
    """dlq.drop takes what fits all that is said, says how many, is counted, and never takes all without a word."""
    hub, clock = MemoryHub(), ManualClock()
    path = tmp_path / "data" / "cloud.sock"
    async with running(tmp_path, hub, clock=clock) as controller, node_on(hub) as node:
        for payload in (b"one", b"two"):
            node.raw(up_topic(), payload)
        await eventually(lambda: letters(path, 2))
        clock.advance(3600)
        node.raw(up_topic(), b"three")
        three, _, one = await eventually(lambda: letters(path, 3))
        with pytest.raises(ControlError, match="say which"):
            await call(path, "dlq.drop")
        with pytest.raises(ControlError, match="say which"):
            await call(path, "dlq.redrive")
        assert await call(path, "dlq.drop", ids=[one["id"]]) == {"dropped": 1}
        assert await call(path, "dlq.drop", older_s=1800) == {"dropped": 1}
        assert await call(path, "dlq.drop", reason="conflict") == {"dropped": 0}
        assert [row["id"] for row in await call(path, "dlq.ls")] == [three["id"]]
        assert await call(path, "dlq.drop", reason="undecodable", node="edge-1") == {"dropped": 1}
        assert controller.statistics()["dead_letters"]["dropped"] == 3
