"""Whose results count under which name: ownership by uid, and what a node may make in the counters (P6.4, R3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from cloud.handlers import status_message
from cloud.stores.bounds import OVERFLOW
from cloud.stores.tables import assignments
from common import codec
from common.codec import decode
from common.messaging.memory import MemoryHub
from common.models import Confirmation, ErrorMsg, ExecResult, LossRecord, Refusal
from edge.settings import UplinkSettings
from tests.cloud.node import node_on, running
from tests.cloud.samples import AT, bad, ok, open_store, status, totals, want
from tests.edge.support import Collected
from tests.support.wait import eventually


async def test_a_result_counts_only_for_a_rule_that_its_node_had(tmp_path: Path) -> None:
    """Right node, namespace, name and uid together; otherwise nothing of the message counts, and nothing is seen."""
    async with open_store(tmp_path) as store:
        await want(store, "overheat", "u1", edge_1={})
        strays = [
            status(1, [ok(rule_uid="u1"), ok(rule_uid="u2")]),
            status(2, [ok("cold", rule_uid="u1")]),
            status(3, [ok(rule_uid="u1")], node="edge-2"),
            status(4, [ok(rule_uid="u1")])._replace(namespace="plant"),
        ]
        outcome = await store.commit([*strays, status(5, [ok(rule_uid="u1"), ok()])])
        assert [(r.reason, r.message.sequence, list(r.uids)) for r in outcome.refused] == [
            ("not_assigned", 1, ["u2"]), ("not_assigned", 2, ["u1"]), ("not_assigned", 3, ["u1"]),
            ("not_assigned", 4, ["u1"]),
        ]  # fmt: skip
        assert [(c.through, c.also) for c in outcome.confirmed] == [(0, [5])]
        assert [(row.rule, row.uid, row.success) for row in await store.rules()] == [
            ("overheat", "", 1), ("overheat", "u1", 1),
        ]  # fmt: skip
        assert [row.refused for row in await store.nodes()] == [3, 1]


async def test_a_rule_that_was_taken_away_still_counts(tmp_path: Path) -> None:
    """A tombstone is enough, and what is remembered of a rule is not asked again."""
    async with open_store(tmp_path) as store:
        await want(store, "overheat", "u1", edge_1={})
        await store.write(lambda conn: conn.execute(update(assignments).values(desired=0, state="removed")).rowcount)
        for sequence in (1, 2):
            assert not (await store.commit([status(sequence, [ok(rule_uid="u1")])])).refused
        assert await totals(store) == (2, 0)


async def test_a_rule_that_is_assigned_later_is_taken_then(tmp_path: Path) -> None:
    """That a rule is not a node's is never remembered."""
    async with open_store(tmp_path) as store:
        assert (await store.commit([status(1, [ok(rule_uid="u1")])])).refused
        await want(store, "overheat", "u1", edge_1={})
        assert not (await store.commit([status(1, [ok(rule_uid="u1")])])).refused


async def test_the_node_is_told_which_rules_are_not_its_own(tmp_path: Path) -> None:
    """The answer names reason and uids, the message becomes one dead letter however often it comes (P5.9)."""
    hub = MemoryHub()
    async with running(tmp_path, hub) as controller, node_on(hub) as node:
        message = await node.results(1, [ok(), ok(rule_uid="u9")])
        await eventually(lambda: len(node.errors()) == 1)
        await node.layer.send(message)
        await eventually(lambda: len(node.errors()) == 2)
        told = node.errors()[0]
        assert (told.reason, told.uids) == ("not_assigned", ["u9"])
        assert told.detail.endswith("rule default/overheat with uid u9 was never assigned to node edge-1")

        async def kept_once() -> bool:
            letters = await controller.store.dead_letters()
            return [(letter.reason, letter.times) for letter in letters] == [("not_assigned", 2)]

        await eventually(kept_once)
        assert await totals(controller.store) == (0, 0)


@pytest.mark.parametrize("codec_name", ["json", "msgpack"])
async def test_spool_and_store_agree_on_what_a_foreign_rule_leaves(tmp_path: Path, codec_name: codec.CodecName) -> None:
    """Of messages with results of several rules those of a foreign one end as dead letters, all others count once, and
    the account balances: nothing is lost and nothing is doubled.
    """
    it = Collected(tmp_path, window=UplinkSettings(batch_results=16))
    rules = [("own", ""), ("given", "u1"), ("foreign", "u9"), ("a", ""), ("b", ""), ("c", "")]
    for number in range(60):
        name, uid = rules[number % len(rules)]
        result = ExecResult(name, "default", "SUCCESS", ErrorMsg(), outcome="delivered", source_id=str(number))
        result.rule_uid = uid
        it.accept(result, codec_name)
    await eventually(lambda: len(it.durable) == 60)
    async with open_store(tmp_path) as store:
        await want(store, "given", "u1", edge_1={})
        handed = 0
        while it.spool.stats.pending:
            sent, handed = it.frozen[handed:], len(it.frozen)
            for frozen in sent:
                kind = list[ExecResult] | ExecResult if frozen.weight else LossRecord
                message = decode(frozen.payload, kind)
                outcome = await store.commit([status_message(message, AT)])
                for refused in outcome.refused:
                    refusal = Refusal(refused.reason, refused.detail, uids=list(refused.uids))
                    it.spool.void((frozen.epoch.n, frozen.sequence), refusal)
                for each in outcome.confirmed:
                    it.spool.confirm(Confirmation(str(each.epoch), each.through, each.also))
            await eventually(lambda: len(it.frozen) > handed or not it.spool.stats.pending)  # noqa: B023
        assert {row.rule: row.success for row in await store.rules()} == {
            name: 10 for name, uid in rules if uid != "u9"
        }
        ids = sorted(int(row.source_id) for row in await store.results(limit=100))
        assert ids == [n for n in range(60) if n % len(rules) != 2]
        lost = {loss.kind: loss.results for loss in await store.losses()}
    stats = it.spool.stats
    assert (stats.accepted, stats.confirmed, stats.dead, stats.dropped) == (60, 50, 10, 0)
    assert sum(lost.values()) <= 10
    assert await it.spool.letters("redrive", []) > 0
    await eventually(lambda: it.spool.stats.pending == 10)
    await it.spool.stop()


async def test_a_node_makes_a_bounded_number_of_rows(tmp_path: Path) -> None:
    """Whatever names, outcomes and reasons a node invents: beyond its bound all is counted exactly, under one name."""
    async with open_store(tmp_path, counters_per_node_max=10) as store:
        await store.commit([status(1, [ok("honest")], node="edge-2")])
        for sequence in range(1, 6):
            invented = [bad(f"rule-{sequence}-{n}", reason=f"reason-{n}", detail=f"d{n}") for n in range(4)]
            await store.commit([status(sequence, [*invented, ok("rule-1-0", outcome=f"o{sequence}")])])
        rows = await store.rules(per_node=True)
        assert sum(row.success + row.fail for row in rows if row.node == "edge-1") == 25
        other = next(row for row in rows if row.rule == OVERFLOW)
        assert (other.namespace, other.node, other.success, other.fail) == ("default", "edge-1", 3, 12)
        assert sum(len(row.outcomes) for row in rows if row.node == "edge-1") == 10 + 2
        assert {error.rule for error in await store.errors()} == {
            *(f"rule-{s}-{n}" for s in (1, 2) for n in range(4)),
            OVERFLOW,
        }
        assert store.statistics()["counters_overflowed"] > 0
        await store.commit([status(2, [ok("honest"), ok("more")], node="edge-2")])
        assert await totals(store, "honest") == (2, 0)
        assert await totals(store, "more") == (1, 0)


async def test_rows_that_are_known_need_no_room(tmp_path: Path) -> None:
    """However often a node adds to rows that it has, it keeps the room for new ones, up to the bound and no more."""
    async with open_store(tmp_path, counters_per_node_max=40) as store:
        for sequence in range(1, 31):
            await store.commit([status(sequence, [ok("a"), ok("b"), bad("b")])])
        for sequence in range(31, 51):
            await store.commit([status(sequence, [ok("a"), ok(f"new-{sequence}-1"), ok(f"new-{sequence}-2")])])
        found = {row.rule: row.success + row.fail for row in await store.rules()}
    assert (found.pop("a"), found.pop("b"), found.pop(OVERFLOW)) == (50, 60, 3)
    assert list(found.values()) == [1] * (40 - 3)


async def test_the_bound_holds_over_a_restart(tmp_path: Path) -> None:
    """Rows are counted in the store: another process goes on with the same room, and known rows go on counting."""
    async with open_store(tmp_path, counters_per_node_max=2) as store:
        await store.commit([status(1, [ok("a"), ok("b"), ok("c")])])
    async with open_store(tmp_path, counters_per_node_max=2) as store:
        await store.commit([status(2, [ok("a"), ok("b"), ok("d")])])
        found = {row.rule: row.success for row in await store.rules()}
    assert found == {"a": 2, "b": 2, OVERFLOW: 2}
