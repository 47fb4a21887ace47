"""A node that lies, where no ACL of a broker helps: it harms at most itself, and is counted (reliability R3).

It is called edge-2, and everything it does is on topics that an ACL gives it. edge-1 is honest, and works on meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.controller import Controller
from cloud.settings import StoreSettings
from common.message import Message, new
from common.messaging.memory import MemoryHub
from common.models import DETAIL_BYTES_MAX, LOST_KINDS, WINDOW, Epoch, LossRecord, NodeBirth
from tests.cloud.node import ROOT, Node, body, node_on, running
from tests.cloud.samples import bad, epoch, ok
from tests.support.wait import eventually

HONEST, HOSTILE = "edge-1", "edge-2"
LOSSES_MAX = 20
ROUNDS = 20  # messages of the honest node


def _message(
    content: Any, version: str, *, low: int = 1, kind: str = "rulestatus", node: str = HOSTILE
) -> Message[Any]:
    message = new(
        source="router", group="resource", operation="update" if kind == "rulestatus" else "insert",
        resource=f"node/{node}/default/{kind}/overheat", content=content,
    )  # fmt: skip
    message.header.resourceversion, message.header.low = version, low
    return message


def _send(node: Node, message: Message[Any]) -> None:
    """Publish it on the hostile node's own topic, whatever its body says."""
    kind, operation = message.parsed_resource().type, message.route.operation
    node.raw(f"{ROOT}/up/{HOSTILE}/router:resource/{operation}/default/{kind}/overheat", body(message))


def _born(**more: Any) -> Callable[[Node], None]:
    birth = {"node": HOSTILE, "epoch": str(epoch()), "online": True, "session": 1, **more}
    return lambda node: node.presence(NodeBirth(**birth))


def _says(content: Any, version: str = f"{epoch()}.1", **more: Any) -> Callable[[Node], None]:
    return lambda node: _send(node, _message(content, version, **more))


def _many(number: int, make: Callable[[int], Callable[[Node], None]]) -> Callable[[Node], None]:
    def send(node: Node) -> None:
        for at in range(1, number + 1):
            make(at)(node)

    return send


LONG_ID = _message(ok(), f"{epoch()}.1")
LONG_ID.header.msg_id = "x" * 5000
MANY = [str(Epoch(n, epoch(n).uuid)) for n in range(1, WINDOW + 2)]

# What it does, the reason with which it is refused (none: it is taken, and harms nobody), and how often.
ATTACKS: dict[str, tuple[Callable[[Node], None], str, int]] = {
    "another node in the resource": (_says(ok(), node=HONEST), "route_mismatch", 1),
    "another node in the birth": (_born(node=HONEST), "route_mismatch", 1),
    "a birth with a window and more of epochs": (_born(previous=MANY), "undecodable", 1),
    "a jump of the sequence": (_says(ok(), f"{epoch()}.{10**17}"), "beyond_window", 1),
    "a sequence that no database holds": (_says(ok(), f"{epoch()}.{2**63}"), "undecodable", 1),
    "a jump of low": (_says(ok(), f"{epoch()}.{10**17}", low=10**17), "", 1),
    "the other's epoch and sequences": (_many(ROUNDS, lambda at: _says(ok(), f"{epoch()}.{at}")), "", ROUNDS),
    "an epoch that no other follows": (_says(ok(), f"{Epoch(10**17, epoch().uuid)}.1"), "", 1),
    "a count beyond measure": (_says(ok(count=2**62)), "undecodable", 1),
    "a long id": (lambda node: _send(node, LONG_ID), "undecodable", 1),
    "long details": (_many(30, lambda at: _says(bad(detail=f"{at}" * 40_000), f"{epoch()}.{at}")), "", 30),
    "loss records of any kind": (
        _many(50, lambda at: _says(LossRecord(f"l-{at}", f"kind-{at}", results=2**62), f"{epoch()}.{at}",
                                   kind="lossrecord")), "", 50,
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_node_that_lies_harms_at_most_itself(tmp_path: Path, attack: str) -> None:
    """R1.7, R3: refused with a reason and counted, or taken on its own account; the honest node's stays exact."""
    act, reason, times = ATTACKS[attack]
    hub = MemoryHub()
    store = StoreSettings(losses_per_node_max=LOSSES_MAX)
    async with (
        running(tmp_path, hub, store=store) as cloud,
        node_on(hub, HONEST) as honest,
        node_on(hub, HOSTILE) as liar,
    ):
        honest.presence(NodeBirth(HONEST, str(epoch()), online=True, session=1, next_sequence=1))
        for sequence in range(1, ROUNDS + 1):
            await honest.results(sequence, ok())
            if sequence == ROUNDS // 2:
                act(liar)
        await eventually(lambda: honest.confirmations() and honest.confirmations()[-1].through == ROUNDS)
        await eventually(lambda: _seen(cloud, reason, times))
        assert honest.errors() == []
        rows = {row.node: row for row in await cloud.store.nodes()}
        assert (rows[HONEST].conflict, rows[HONEST].lost, rows[HONEST].refused) == ("", {}, 0)
        counted = await cloud.store.counted()
        assert counted[HONEST].results == ROUNDS
        if reason:
            assert HOSTILE not in counted
        _is_bounded(tmp_path / "data" / "cloud.db")


def _seen(cloud: Controller, reason: str, times: int) -> bool:
    statistics = cloud.statistics()
    if reason:
        return bool(statistics["refusals"].get(f"reason_{reason}") == times)
    return bool(statistics["store"]["messages"] == ROUNDS + times)


def _is_bounded(file: Path) -> None:
    """What it sent takes no more room than the settings say."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as raw:
        (longest,) = raw.execute("SELECT coalesce(max(length(CAST(detail AS BLOB))), 0) FROM errors").fetchone()
        (losses,) = raw.execute("SELECT count(*) FROM losses WHERE node = ?", (HOSTILE,)).fetchone()
        (epochs,) = raw.execute("SELECT count(*) FROM progress WHERE node = ?", (HOSTILE,)).fetchone()
    raw.close()
    assert longest <= DETAIL_BYTES_MAX
    assert losses <= LOSSES_MAX + len(LOST_KINDS) + 1
    assert epochs <= 1


async def test_a_hostile_word_about_progress_confirms_nothing_of_others(tmp_path: Path) -> None:
    """A confirmation that a node sends upward, in the cloud's voice, is refused and counted, and confirms nothing."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as cloud, node_on(hub, HONEST) as honest, node_on(hub, HOSTILE) as liar:
        forged = new(
            source="edgecontroller", group="resource", operation="response",
            resource=f"node/{HOSTILE}/default/rulestatus", content={"epoch": str(epoch()), "through": 99, "also": []},
        )  # fmt: skip
        liar.raw(
            f"{ROOT}/up/{HOSTILE}/edgecontroller:resource/response/default/rulestatus/_", msgspec.json.encode(forged)
        )
        await honest.results(1, ok())
        await eventually(lambda: honest.confirmations())
        await eventually(lambda: _seen(cloud, "undecodable", 1))
        assert [each.through for each in honest.confirmations()] == [1]
