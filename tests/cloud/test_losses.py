"""Loss records, the ledger, and the store's older schema (P5.8, P5.9, P5.11)."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud.ledger import account, fleet
from cloud.sessions import SETTLED_S
from cloud.stores.base import Counted, LossSum, NodeRow
from cloud.stores.leases import acquire
from common.clock import ManualClock
from common.control import call
from common.errors import ControlError, StorageError
from common.message import Message, new
from common.messaging.memory import MemoryHub
from common.models import LossRecord, NodeBirth, NodeStatus
from tests.cloud.node import Node, node_on, running
from tests.cloud.samples import AT, birth, epoch, ok, open_store, status, totals
from tests.support.wait import eventually

DROPPED = LossRecord(
    "l-1", "dropped", results=312, since="2026-01-01T00:00:00Z", until="2026-01-02T00:00:00Z", reason="spool_full"
)


async def send_losses(node: Node, sequence: int, content: Any) -> Message[Any]:
    """Send a lossrecord message as an agent does."""
    message = new(
        source="router", group="resource", operation="insert", resource=f"node/{node.name}/default/lossrecord/dropped",
        content=content,
    )  # fmt: skip
    message.header.resourceversion, message.header.low = f"{epoch()}.{sequence}", 1
    await node.layer.send(message)
    return message


async def send_status(node: Node, **counts: int) -> None:
    """Send a node's account."""
    resource = f"node/{node.name}/default/nodestatus/{node.name}"
    content = NodeStatus(epoch=str(epoch()), **counts)  # type: ignore[arg-type]
    await node.layer.send(
        new(source="router", group="resource", operation="update", resource=resource, content=content)
    )


async def test_loss_records_travel_like_results_and_are_kept_once(tmp_path: Path) -> None:
    """P5.8: they share order, progress and confirmation with results; sent again, or by another message, kept once."""
    hub = MemoryHub()
    path = tmp_path / "data" / "cloud.sock"
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        await node.results(1, ok())
        again = await send_losses(node, 2, DROPPED)
        await node.results(3, ok())
        await eventually(lambda: node.confirmations() and node.confirmations()[-1].through == 3)
        await node.layer.send(again)
        await send_losses(node, 4, [DROPPED, msgspec.structs.replace(DROPPED, id="l-2", results=8)])
        await eventually(lambda: node.confirmations()[-1].through == 4)
        rows = await call(path, "get.losses", node="edge-1", kind="dropped")
        assert sorted((row["id"], row["results"], row["origin"]) for row in rows) == [
            ("l-1", 312, "edge"), ("l-2", 8, "edge"),
        ]  # fmt: skip
        (row,) = await call(path, "get.nodes")
        assert row["lost"] == {"dropped": {"records": 2, "results": 320, "messages": 0}}
        assert await totals(controller.store) == (2, 0)
        assert "fieldpost_cloud_ledger_lost_dropped_results 320.0" in await call(path, "metrics")


async def test_a_void_record_takes_the_place_of_the_refused_message(tmp_path: Path) -> None:
    """P5.9: a record with the epoch and sequence of the message that was refused moves the progress over it."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        await node.results(1, ok())
        await node.results(2, [ok("other")], rule="overheat")
        await node.results(3, ok())
        await eventually(lambda: node.errors() and node.confirmations() and node.confirmations()[-1].also == [3])
        void = LossRecord("v-2", "void", results=1, messages=1, epoch=str(epoch()), first_sequence=2, last_sequence=2)
        await send_losses(node, 2, void)
        await eventually(lambda: node.confirmations()[-1].through == 3)
        assert [loss.kind for loss in await controller.store.losses()] == ["void"]
        assert await totals(controller.store) == (2, 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([DROPPED] * 257, "too_large"),
        (msgspec.structs.replace(DROPPED, id=""), "undecodable"),
        (msgspec.structs.replace(DROPPED, kind="k" * 65), "undecodable"),
        (None, "undecodable"),
        (ok(), "undecodable"),
    ],
)
async def test_what_a_loss_record_must_be(tmp_path: Path, content: Any, reason: str) -> None:
    """P5.9: a record without id or kind, too many of them, or something else: refused with a reason."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        await send_losses(node, 1, content)
        await eventually(lambda: [each.reason for each in node.errors()] == [reason])
        assert await controller.store.losses() == []


async def test_records_above_the_bound_are_added_up(tmp_path: Path) -> None:
    """A node's records are bounded; what comes then is summed by kind, so that no loss is forgotten."""
    async with open_store(tmp_path, losses_per_node_max=2) as store:
        for number in range(1, 6):
            record = LossRecord(f"l-{number}", "dropped", results=10, messages=1)
            await store.commit([status(number, [])._replace(losses=[record])])
        (row,) = await store.nodes()
        assert row.lost == {"dropped": LossSum(3, 50, 5)}
        assert {loss.id for loss in await store.losses()} == {"l-1", "l-2", "more-dropped"}


async def test_a_controller_restart_with_retained_births_is_no_conflict(tmp_path: Path) -> None:
    """P5.8: births that the broker kept, of epochs and sessions long past, change nothing and raise no alarm."""
    hub = MemoryHub()
    async with node_on(hub) as node:
        node.presence(birth(1, next_sequence=1))
        async with running(tmp_path, hub):
            for sequence in range(1, 40):
                await node.results(sequence, ok())
            await eventually(lambda: node.confirmations() and node.confirmations()[-1].through == 39)
        for _ in range(2):
            async with running(tmp_path, hub) as controller:
                await eventually(lambda: controller.sessions.statistics()["births"] == 1)
                (row,) = await controller.sessions.nodes()
                assert (row.conflict, row.state) == ("", "online")


async def test_results_wait_for_the_birth_that_came_before_them(tmp_path: Path) -> None:
    """P5.8: a birth and messages in queues of their own: a doubtful epoch's first message never slips through."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        node.presence(birth(2))
        await eventually(lambda: controller.sessions.statistics()["births"] == 1)
        node.presence(NodeBirth("edge-1", str(epoch(3)), True, session=1, previous=[str(epoch(2, tail=1))]))
        message = new(
            source="router", group="resource", operation="update", resource="node/edge-1/default/rulestatus",
            content=[ok()],
        )  # fmt: skip
        message.header.resourceversion = f"{epoch(3)}.1"
        await node.layer.send(message)
        await eventually(lambda: [each.reason for each in node.errors()] == ["conflict"])
        assert await totals(controller.store) == (0, 0)
        (letter,) = await eventually(lambda: controller.store.dead_letters())
        assert letter.reason == "conflict"
        await node.layer.send(message)
        await eventually(lambda: len(node.errors()) == 2)
        await eventually(lambda: _times(controller.store, 2))


async def _times(store: Any, times: int) -> bool:
    (letter,) = await store.dead_letters()
    return bool(letter.times == times)


async def test_a_birth_knows_what_had_come_well_before_it(tmp_path: Path) -> None:
    """P5.8: only what came a minute before a birth can prove that a spool was set back; brokers overtake."""
    hub, clock = MemoryHub(), ManualClock()
    async with running(tmp_path, hub, clock=clock) as controller, node_on(hub) as node:
        node.presence(birth(1, next_sequence=1))
        for sequence in (1, 2, 3):
            await node.results(sequence, ok())
        await eventually(lambda: node.confirmations() and node.confirmations()[-1].through == 3)
        node.presence(birth(1, session=2, next_sequence=2))
        await eventually(lambda: controller.sessions.statistics()["births"] == 2)
        assert (await controller.sessions.nodes())[0].conflict == ""
        clock.advance(SETTLED_S)
        for at, ignored in (("t1", 1), ("t2", 2)):  # an agent says it again
            node.presence(birth(1, session=3, next_sequence=2, time=at))
            await eventually(lambda ignored=ignored: controller.sessions.statistics()["ignored"] == ignored)
        (row,) = await controller.sessions.nodes()
        assert row.state == "conflict"
        assert "known up to message 3, but its agent goes on from 2" in row.conflict


def node_row(lost: dict[str, LossSum] | None = None, **counts: int) -> NodeRow:
    """A node that reported at AT."""
    return NodeRow("edge-1", "online", status=NodeStatus(**counts), reported_at=AT, lost=lost or {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "counted", "balance", "words"),
    [
        (node_row(accepted=10, confirmed=10), Counted(10, AT - 9), "ok", ""),
        (node_row(accepted=10, confirmed=7, pending_results=3), Counted(9, AT - 9), "ok", ""),
        (
            node_row(accepted=20, confirmed=8, dead=1, dropped=5, set_aside=4, pending_results=2,
                     lost={"dropped": LossSum(1, 5, 0)}),
            Counted(8, AT - 9), "ok", "dropped: 5 results given up by the node, mostly for want of room;",
        ),
        (node_row(accepted=10, confirmed=8), Counted(8, AT - 9), "off", "the difference is 2"),
        (node_row(accepted=9, confirmed=9), Counted(4, AT - 9), "off", "not counted here, and no loss record says"),
        (
            node_row(accepted=9, confirmed=9, lost={"cloud_lost": LossSum(2, 0, 5)}),
            Counted(4, AT - 9), "off", "5 results confirmed to the node and not counted here: see its 2 loss",
        ),
        (
            node_row(accepted=4, confirmed=4, lost={"restored_copy": LossSum(1, 0, 0)}),
            Counted(9, AT - 9), "off", "5 results more counted here than the node knows of: see its 1 loss",
        ),
        (
            node_row(accepted=4, confirmed=4, lost={"set_aside": LossSum(1, 0, 0)}),
            Counted(9, AT - 9), "off", "than the node knows of: see its 1 loss record of kind set_aside",
        ),
        (node_row(accepted=4, confirmed=4), Counted(9, AT + 5), "open", "its next one will tell"),
        (node_row(accepted=4, confirmed=4), Counted(9, AT + 3600), "off", "than the node knows of"),
        (NodeRow("edge-1"), Counted(9, AT), "open", "the node has not reported its account"),
    ],
)  # fmt: skip
def test_the_ledger_says_what_is_off_and_beside_which_loss(
    row: NodeRow, counted: Counted, balance: str, words: str
) -> None:
    """P5.11: the node's own sum, and confirmed <= counted <= confirmed + pending, each with words when it is off."""
    found = account(row, counted, AT + 20)
    assert found.balance == balance
    assert words in " | ".join(found.words)
    assert found.words or not words
    assert fleet([found]).counted == counted.results


async def test_the_ledger_of_a_running_fleet(tmp_path: Path) -> None:
    """P5.11: over the control socket: per node and in sum, with the conflict's words, and one node on demand."""
    hub, clock = MemoryHub(), ManualClock()
    path = tmp_path / "data" / "cloud.sock"
    async with running(tmp_path, hub, clock=clock), node_on(hub) as node, node_on(hub, "edge-2") as other:
        node.presence(birth(1))
        await node.results(1, [ok(count=5), ok()])
        await eventually(lambda: node.confirmations())
        await other.results(1, ok())
        await eventually(lambda: other.confirmations())
        clock.advance(30)
        await send_status(node, accepted=7, confirmed=6, pending_results=1, pending_messages=1, folded=5)
        await eventually(lambda: _reported(path))
        clock.advance(5)
        found = await call(path, "ledger")
        first, second = found["nodes"]
        assert (first["balance"], first["counted"], first["report_age_s"]) == ("ok", 6, 5.0)
        assert (first["pending"], first["window_messages"], first["folded"]) == (1, 1, 5)
        assert (second["balance"], second["counted"]) == ("open", 1)
        total = found["fleet"]
        assert (total["nodes"], total["ok"], total["open"], total["counted"]) == (2, 1, 1, 7)
        node.presence(NodeBirth("edge-1", str(epoch(1, tail=1)), True, session=1))
        await eventually(lambda: _in_conflict(path))
        (row,) = (await call(path, "ledger", node="edge-1"))["nodes"]
        assert "fieldpost node replace edge-1" in row["conflict"]
        assert row["words"][0] == row["conflict"]
        assert "fieldpost_cloud_ledger_nodes_conflict 1.0" in await call(path, "metrics")
        assert await call(path, "node.replace", node="edge-1") == {"node": "edge-1", "epoch": str(epoch(1, tail=1))}
        assert (await call(path, "ledger", node="edge-1"))["nodes"][0]["conflict"] == ""
        with pytest.raises(ControlError, match="edge-9 is not known"):
            await call(path, "ledger", node="edge-9")


async def _reported(path: Path) -> bool:
    return bool((await call(path, "get.nodes"))[0]["reported_at"] > 0)


async def _in_conflict(path: Path) -> bool:
    return bool((await call(path, "get.nodes"))[0]["state"] == "conflict")


VERSION_1 = """
CREATE TABLE counters (namespace VARCHAR(63) NOT NULL, rule VARCHAR(253) NOT NULL, node VARCHAR(63) NOT NULL,
  uid VARCHAR(64) NOT NULL, status VARCHAR(7) NOT NULL, outcome VARCHAR(64) NOT NULL, reason VARCHAR(64) NOT NULL,
  count BIGINT NOT NULL, duration_sum BIGINT NOT NULL, duration_max BIGINT NOT NULL, first_at DOUBLE NOT NULL,
  last_at DOUBLE NOT NULL, PRIMARY KEY (namespace, rule, node, uid, status, outcome, reason)) WITHOUT ROWID;
CREATE TABLE dead_letters (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL, topic TEXT NOT NULL,
  reason TEXT NOT NULL, detail TEXT NOT NULL, sha256 VARCHAR(64) NOT NULL, size BIGINT NOT NULL,
  payload BLOB NOT NULL, at DOUBLE NOT NULL);
CREATE TABLE errors (namespace VARCHAR(63) NOT NULL, rule VARCHAR(253) NOT NULL, uid VARCHAR(64) NOT NULL,
  digest VARCHAR(32) NOT NULL, reason VARCHAR(64) NOT NULL, detail TEXT NOT NULL, count BIGINT NOT NULL,
  first_at DOUBLE NOT NULL, last_at DOUBLE NOT NULL, node VARCHAR(63) NOT NULL, source_id TEXT NOT NULL,
  step TEXT NOT NULL, PRIMARY KEY (namespace, rule, uid, digest));
CREATE TABLE fieldpost_schema (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE TABLE nodes (node VARCHAR(63) NOT NULL, online BOOLEAN NOT NULL, epoch_n BIGINT NOT NULL,
  epoch_uuid VARCHAR(36) NOT NULL, lowest_n BIGINT NOT NULL, session BIGINT NOT NULL, version TEXT NOT NULL,
  rules_version TEXT NOT NULL, labels TEXT NOT NULL, status TEXT NOT NULL, first_seen DOUBLE NOT NULL,
  last_seen DOUBLE NOT NULL, since DOUBLE NOT NULL, retired_through BIGINT NOT NULL, cloud_lost BIGINT NOT NULL,
  duplicates BIGINT NOT NULL, refused BIGINT NOT NULL, "conflict" TEXT NOT NULL, PRIMARY KEY (node));
CREATE TABLE progress (node VARCHAR(63) NOT NULL, n BIGINT NOT NULL, uuid VARCHAR(36) NOT NULL, mark BIGINT NOT NULL,
  bits BIGINT NOT NULL, PRIMARY KEY (node, n, uuid)) WITHOUT ROWID;
CREATE TABLE results (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, namespace VARCHAR(63) NOT NULL,
  rule VARCHAR(253) NOT NULL, uid TEXT NOT NULL, node VARCHAR(63) NOT NULL, status VARCHAR(7) NOT NULL,
  outcome TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, time TEXT NOT NULL, received_at DOUBLE NOT NULL,
  duration_us BIGINT NOT NULL, count BIGINT NOT NULL, source_id TEXT NOT NULL, step TEXT NOT NULL,
  msg_id TEXT NOT NULL);
CREATE INDEX results_by_rule ON results (namespace, rule, id);
INSERT INTO fieldpost_schema VALUES (1);
INSERT INTO counters VALUES ('default', 'overheat', 'edge-1', '', 'SUCCESS', 'delivered', '', 7, 700, 100, 1, 2);
INSERT INTO dead_letters VALUES (3, 'edge-1', 't', 'undecodable', 'd', 'ab', 1, x'00', 5);
INSERT INTO nodes VALUES ('edge-1', 1, 2, '0193aaaa-0000-7000-8000-000000020000', 2, 1, '0.1', '', '{}',
  '{"accepted":7,"confirmed":7}', 1, 2, 1, 1, 4, 0, 0, '');
INSERT INTO progress VALUES ('edge-1', 2, '0193aaaa-0000-7000-8000-000000020000', 7, 20);
"""


@pytest.mark.sqlite
async def test_a_store_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    """An older store keeps its counts, progress, nodes and letters, gets the new columns, and is migrated once."""
    with sqlite3.connect(tmp_path / "cloud.db") as conn:
        conn.executescript(VERSION_1)
    conn.close()
    for again in range(2):
        async with open_store(tmp_path) as store:
            outcome = await store.commit([status(sequence, of=epoch(2)) for sequence in (7, 11, 13)])
            assert (outcome.new, outcome.duplicate, outcome.confirmed[0].also) == (0, 3, [11, 13])
            assert await totals(store) == (7, 0)
            (row,) = await store.nodes()
            assert (row.epoch, row.retired_through, row.cloud_lost) == (str(epoch(2)), 1, 4)
            assert len(await store.losses()) == again
            (letter,) = await store.dead_letters()
            assert (letter.id, letter.times) == (3, 1)
            assert await store.presence(birth(2, session=2), epoch(2), AT)
            assert not await store.presence(birth(2, session=2), epoch(2, tail=1), AT)


@pytest.mark.sqlite
async def test_a_store_of_version_2_is_brought_up_to_date(tmp_path: Path) -> None:
    """The tables that came with version 3 are made; what was there stays as it is, with the key of version 4."""
    async with open_store(tmp_path) as store:
        await store.commit([status(1)])
    with sqlite3.connect(tmp_path / "cloud.db") as conn:
        for table in ("objects", "assignments", "changes", "deliveries", "leases"):
            conn.execute(f"DROP TABLE {table}")
        for column in ("retired_at", "added_labels", "chosen_for", "rules_revision"):
            conn.execute(f"ALTER TABLE nodes DROP COLUMN {column}")
        conn.execute("ALTER TABLE progress ADD COLUMN bits BIGINT NOT NULL DEFAULT 0")
        conn.execute("ALTER TABLE progress DROP COLUMN above")
        conn.execute("DROP INDEX counters_by_rule")
        conn.execute("UPDATE fieldpost_schema SET version = 2")
    conn.close()
    async with open_store(tmp_path) as store:
        assert await store.write(lambda conn: acquire(conn, "uplink", "cloud-1", 5))
        assert (await store.commit([status(1), status(2)])).new == 1


@pytest.mark.sqlite
async def test_a_store_of_version_4_is_brought_up_to_date(tmp_path: Path) -> None:
    """What is committed above the mark, then one integer, is known as before; the counters stay where they are."""
    async with open_store(tmp_path) as store:
        await store.commit([status(1), status(3), status(64)])
    with sqlite3.connect(tmp_path / "cloud.db") as conn:
        conn.execute(f"ALTER TABLE progress ADD COLUMN bits BIGINT NOT NULL DEFAULT {1 << 61 | 1}")
        conn.execute("ALTER TABLE progress DROP COLUMN above")
        conn.execute("UPDATE fieldpost_schema SET version = 4")
    conn.close()
    async with open_store(tmp_path) as store:
        outcome = await store.commit([status(1), status(3), status(64)])
        assert (outcome.new, outcome.confirmed[0].through, outcome.confirmed[0].also) == (0, 1, [3, 64])
        assert await totals(store) == (3, 0)


@pytest.mark.sqlite
async def test_an_update_that_breaks_off_is_done_again(tmp_path: Path) -> None:
    """A migration is one transaction: a store is of one version or the other, never of both."""
    with sqlite3.connect(tmp_path / "cloud.db") as conn:
        conn.executescript(VERSION_1 + "CREATE INDEX dead_letters_by_digest ON errors (digest);")  # in its way
    conn.close()
    with pytest.raises(StorageError, match="dead_letters_by_digest already exists"):
        async with open_store(tmp_path):
            pass
    with sqlite3.connect(tmp_path / "cloud.db") as conn:
        assert conn.execute("SELECT version FROM fieldpost_schema").fetchone() == (1,)
        assert "state" not in [column[1] for column in conn.execute("PRAGMA table_info(progress)")]
        conn.execute("DROP INDEX dead_letters_by_digest")
    conn.close()
    async with open_store(tmp_path) as store:
        assert await totals(store) == (7, 0)
