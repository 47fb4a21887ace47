"""From a node's message to the store and back, over a hub in this process (P5.5, P5.9, P7.2)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from cloud.controller import Controller
from cloud.handlers import status_message
from cloud.settings import QueueSettings
from cloud.stores.base import DeadLetter
from common.clock import ManualClock
from common.errors import RefusedError
from common.message import Message, new
from common.messaging.memory import MemoryHub
from common.models import WINDOW, ExecResult, NodeStatus
from tests.cloud.node import ROOT, body, node_on, running, up_topic
from tests.cloud.samples import AT, bad, birth, epoch, ok, totals
from tests.support.wait import eventually


async def test_results_in_confirmation_out_counts_right(tmp_path: Path) -> None:
    """One result, a list, and several rules at once are counted, then confirmed to the node with the last as parent."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        await node.results(1, ok(), rule="overheat", operation="insert")
        await node.results(2, [ok(), bad()], rule="overheat")
        last = await node.results(3, [ok(), ok("cold")], operation="patch")
        await eventually(lambda: node.confirmations() and node.confirmations()[-1].through == 3)
        assert await totals(controller.store) == (3, 1)
        assert await totals(controller.store, "cold") == (1, 0)
        reply = node.replies[-1]
        assert reply.header.parent_msg_id == last.header.msg_id
        assert reply.route.resource == "node/edge-1/default/rulestatus"
        assert node.confirmations()[-1].epoch == str(epoch())


async def test_a_message_sent_again_is_confirmed_again(tmp_path: Path) -> None:
    """A resend of the same bytes has no effect and a confirmation of its own (P5.6, P5.7)."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        message = await node.results(1, ok(), rule="overheat")
        await eventually(lambda: len(node.confirmations()) == 1)
        await node.layer.send(message)
        await eventually(lambda: len(node.confirmations()) == 2)
        assert await totals(controller.store) == (1, 0)


async def test_nothing_is_confirmed_while_the_store_has_not_committed(tmp_path: Path) -> None:
    """The confirmation comes after the commit: with the store held up there is none, then there is (P5.5)."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        held = sqlite3.connect(tmp_path / "data" / "cloud.db", isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        await node.results(1, ok(), rule="overheat")
        await eventually(lambda: controller.statistics()["layer"]["received"] >= 1)
        await asyncio.sleep(0)
        assert node.confirmations() == []
        held.execute("ROLLBACK")
        held.close()
        await eventually(lambda: node.confirmations())
        assert await totals(controller.store) == (1, 0)


def refused_cases() -> list[tuple[str, str, bytes, str]]:
    """(case, topic, payload, reason) of packets that can never be accepted."""
    good = new(
        source="router", group="resource", operation="update",
        resource="node/edge-1/default/rulestatus/overheat", content=ok(),
    )  # fmt: skip
    good.header.resourceversion = f"{epoch()}.1"
    other_node = msgspec.json.decode(body(good))
    other_node["route"]["resource"] = "node/edge-2/default/rulestatus/overheat"
    other_rule, other_space = msgspec.json.decode(body(good)), msgspec.json.decode(body(good))
    other_rule["content"]["RuleID"] = "cold"
    other_space["content"]["ProjectID"] = "kube-system"
    unversioned, low = msgspec.json.decode(body(good)), msgspec.json.decode(body(good))
    del unversioned["header"]["resourceversion"]
    low["header"]["low"] = 5
    empty = msgspec.json.decode(body(good))
    del empty["content"]
    unknown = msgspec.json.decode(body(good))
    unknown["route"]["resource"] = "node/edge-1/default/configmap/overheat"
    huge = msgspec.json.decode(body(good))
    huge["content"]["Count"] = 2**62
    dump = msgspec.json.encode
    topic = up_topic()
    return [
        ("not a message", topic, b"rubbish", "undecodable"),
        ("wrong type", topic, body(good).replace(b'"SUCCESS"', b"17"), "undecodable"),
        ("another node's resource", topic, dump(other_node), "route_mismatch"),
        ("another rule's result", topic, dump(other_rule), "route_mismatch"),
        ("another namespace's result", topic, dump(other_space), "route_mismatch"),
        ("no version", topic, dump(unversioned), "undecodable"),
        ("low above the sequence", topic, dump(low), "undecodable"),
        ("no content", topic, dump(empty), "undecodable"),
        ("a count beyond measure", topic, dump(huge), "undecodable"),
        ("unknown type", up_topic(rest="router:resource/update/default/configmap/overheat"), dump(unknown),
         "unknown_type"),
    ]  # fmt: skip


@pytest.mark.parametrize(("case", "topic", "payload", "reason"), refused_cases())
async def test_what_can_never_be_accepted_is_answered_kept_and_blocks_nothing(
    tmp_path: Path, case: str, topic: str, payload: bytes, reason: str
) -> None:
    """Error with a reason to the node, a dead letter with the bytes' digest, and the next message counts (P5.9)."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        node.raw(topic, payload)
        await node.results(1, ok(), rule="overheat")
        await eventually(lambda: node.confirmations() and node.errors())
        assert [each.reason for each in node.errors()] == [reason], case
        assert await totals(controller.store) == (1, 0)
        (letter,) = await eventually(lambda: controller.store.dead_letters())
        assert (letter.node, letter.reason) == ("edge-1", reason)
        if case == "not a message":
            assert node.errors()[0].sha256 == sha256(payload).hexdigest() == letter.sha256
            assert letter.payload == payload
        else:
            assert node.errors()[0].sha256 == ""
            parent = [m.header.parent_msg_id for m in node.replies if m.route.operation == "error"]
            assert parent == [msgspec.json.decode(payload)["header"]["msg_id"]]
        assert controller.statistics()["refusals"][f"reason_{reason}"] == 1


async def test_a_refused_sequence_is_answered_with_its_reason(tmp_path: Path) -> None:
    """Beyond the window: an error that names the reason; the rest of the batch is confirmed (P5.7)."""
    hub = MemoryHub()
    async with running(tmp_path, hub), node_on(hub) as node:
        far = await node.results(WINDOW + 1, ok())
        await node.results(1, ok())
        await eventually(lambda: node.confirmations() and node.errors())
        assert node.errors()[0].reason == "beyond_window"
        assert [m.header.parent_msg_id for m in node.replies if m.route.operation == "error"] == [far.header.msg_id]


async def test_a_flood_of_rubbish_is_answered_with_a_trickle(tmp_path: Path) -> None:
    """Error replies to a node are bounded per second; what is suppressed is counted; other nodes get theirs."""
    hub, clock = MemoryHub(), ManualClock()
    queues = QueueSettings(refusals_per_node_max=5)
    async with (
        running(tmp_path, hub, clock=clock, queues=queues) as controller,
        node_on(hub) as node,
        node_on(hub, "edge-2") as other,
    ):
        for _ in range(100):
            node.raw(up_topic(), b"rubbish")
        other.raw(up_topic("edge-2"), b"rubbish")
        await eventually(lambda: other.errors())
        await eventually(lambda: controller.statistics()["refusals"]["letters"] == 101)
        assert len(node.errors()) == 5
        assert controller.statistics()["refusals"]["answers_suppressed"] == 95
        clock.advance(1.0)
        node.raw(up_topic(), b"rubbish")
        await eventually(lambda: len(node.errors()) == 6)


async def test_an_error_about_an_error_is_never_sent(tmp_path: Path) -> None:
    """A broken reply is kept as dead letter and not answered, or two sides could answer each other for ever."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        node.raw(up_topic(rest="router:resource/error/default/rulestatus/_"), b"rubbish")
        await eventually(lambda: controller.store.dead_letters())
        assert controller.statistics()["refusals"]["answers"] == 0
        assert {reply.route.source for reply in node.replies} <= {"presence"}


async def test_presence_and_statistics_make_the_nodes_state(tmp_path: Path) -> None:
    """online after a birth, unknown when silent for the stale time or before any birth, offline when it says so."""
    hub, clock = MemoryHub(), ManualClock()
    async with running(tmp_path, hub, clock=clock) as controller, node_on(hub) as node, node_on(hub, "edge-2") as mute:

        async def states() -> list[str]:
            return [row.state for row in await controller.sessions.nodes()]

        await mute.results(1, ok())
        await eventually(lambda: mute.confirmations())
        node.presence(birth(labels={"site": "a"}))
        await eventually(lambda: _is(states, ["online", "unknown"]))
        clock.advance(61)
        assert await states() == ["unknown", "unknown"]
        status = new(
            source="router", group="resource", operation="update", resource="node/edge-1/default/nodestatus/edge-1",
            content=NodeStatus(accepted=3),
        )  # fmt: skip
        await node.layer.send(status)
        await eventually(lambda: _is(states, ["online", "unknown"]))
        clock.jump(-3600)
        assert await states() == ["unknown", "unknown"]
        await node.layer.send(status)
        await eventually(lambda: _is(states, ["online", "unknown"]))
        node.presence(birth(online=False))
        await eventually(lambda: _is(states, ["offline", "unknown"]))
        assert (await controller.sessions.nodes())[0].labels == {"site": "a"}


async def test_a_controller_that_is_cut_off_knows_nothing(tmp_path: Path) -> None:
    """While this controller is not connected, who said online is unknown; back again, it is online."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        node.presence(birth())
        await eventually(lambda: _is(lambda: _states(controller), ["online"]))
        hub.set_available(False)
        assert await _states(controller) == ["unknown"]
        hub.set_available(True)
        assert await _states(controller) == ["online"]


async def test_a_birth_of_another_node_is_refused(tmp_path: Path) -> None:
    """What the body says of another node is refused: the topic decides who speaks (P3.3)."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        node.raw(f"{ROOT}/presence/edge-1", msgspec.json.encode(birth(node="edge-9")))
        forged = new(
            source="router", group="resource", operation="update", resource="node/edge-1/default/node/edge-9",
            content=birth(node="edge-9"),
        )  # fmt: skip
        await node.layer.send(forged)
        letters = await eventually(lambda: _letters(controller, 2))
        assert {letter.reason for letter in letters} == {"route_mismatch"}
        assert [row.node for row in await controller.store.nodes()] == []


async def test_a_reply_that_nobody_waits_for_is_counted(tmp_path: Path) -> None:
    """response and error that no request waits for are counted by operation (P7.2)."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        for operation in ("response", "error"):
            reply = new("0", source="r", group="g", operation=operation, resource="node/edge-1/default/pod/a")
            await node.layer.send(reply)
        await eventually(lambda: controller.statistics()["handlers"].get("unasked_error") == 1)
        assert controller.statistics()["handlers"]["unasked_response"] == 1


def message_of(resource: str, content: object, version: str = f"{epoch()}.1") -> Message[object]:
    """A rulestatus message as the layer hands it over."""
    made = new(resource=resource, operation="update", content=content)
    made.header.resourceversion = version
    return made


def test_an_empty_list_only_moves_the_progress() -> None:
    """What stands in for a message that could not be accepted has no results and is accepted (P5.9)."""
    found = status_message(message_of("node/edge-1/default/rulestatus", []), AT)
    assert (found.sequence, list(found.results)) == (1, [])


@pytest.mark.parametrize(
    ("resource", "content", "version", "text"),
    [
        ("rulestatus/overheat", ok(), f"{epoch()}.1", "names no node"),
        ("node/EDGE/default/rulestatus/overheat", ok(), f"{epoch()}.1", "names no node"),
        ("node/edge-1/default/rulestatus", [ok("no/name")], f"{epoch()}.1", "not a DNS subdomain"),
        ("node/edge-1/default/rulestatus", [ok()], f"{epoch()}.0", "resourceversion"),
        ("node/edge-1/default/rulestatus", [ok()], "1.1", "resourceversion"),
        ("node/edge-1/default/rulestatus", {"RuleID": "a"}, f"{epoch()}.1", "neither"),
        ("node/edge-1/default/rulestatus", [ExecResult("a", "", "SUCCESS")], f"{epoch()}.1", "ProjectID"),
    ],
)
def test_what_a_rulestatus_message_must_be(resource: str, content: object, version: str, text: str) -> None:
    """Each rule that a message breaks is named in the refusal."""
    with pytest.raises(RefusedError, match=text):
        status_message(message_of(resource, content, version), AT)


async def _is(states: Callable[[], Awaitable[list[str]]], wanted: list[str]) -> bool:
    return await states() == wanted


async def _states(controller: Controller) -> list[str]:
    return [row.state for row in await controller.sessions.nodes()]


async def _letters(controller: Controller, count: int) -> list[DeadLetter]:
    rows = await controller.store.dead_letters()
    return rows if len(rows) == count else []
