"""What the store bounds, and presence: rings, dead letters, nodes' rows (P8.1, P8.6, P4.2, P3.4)."""

from __future__ import annotations

from pathlib import Path

from cloud.counting import TOTAL_MAX
from cloud.stores.base import DeadLetter
from common.models import NodeBirth, NodeStatus
from tests.cloud.samples import AT, bad, birth, epoch, ok, open_store, status, totals, want


async def test_the_error_ring_keeps_the_last_distinct_ones(tmp_path: Path) -> None:
    """Over many commits a rule keeps its last 32 distinct errors, with exact counts of those that stayed."""
    async with open_store(tmp_path) as store:
        for number in range(1, 51):
            results = [bad(detail=f"d{number}"), bad(detail="always", source_id=f"s{number}")]
            await store.commit([status(number, results, at=AT + number)])
        rows = await store.errors(rule="overheat")
        assert len(rows) == 32
        always = next(row for row in rows if row.detail == "always")
        assert (always.count, always.first, always.last, always.source_id) == (50, AT + 1, AT + 50, "s50")
        assert {row.detail for row in rows} == {"always", *(f"d{n}" for n in range(20, 51))}
        assert rows[0].last == AT + 50
        assert await totals(store) == (0, 100)


async def test_errors_of_one_rule_push_out_none_of_another(tmp_path: Path) -> None:
    """The ring is per rule (P8.1)."""
    async with open_store(tmp_path, errors_per_rule_max=3) as store:
        await store.commit([status(1, [bad("quiet", "rare")])])
        for number in range(2, 12):
            await store.commit([status(number, [bad("loud", f"d{number}")], at=AT + number)])
        assert [row.detail for row in await store.errors(rule="quiet")] == ["rare"]
        assert [row.detail for row in await store.errors(rule="loud")] == ["d11", "d10", "d9"]


async def test_the_result_ring_is_bounded_per_rule(tmp_path: Path) -> None:
    """A rule keeps at most a tenth more than its bound, the newest ones; ids grow and are never used again."""
    async with open_store(tmp_path, ring_rule_max=100, ring_rate_max=1000) as store:
        await store.commit([status(1, [bad("quiet")])])
        for number in range(2, 60):
            await store.commit([status(number, [ok(source_id=f"s{number}")] * 9, at=AT + number)])
        rows = await store.results(rule="overheat", limit=1000)
        assert 100 <= len(rows) <= 110
        assert rows[-1].source_id == "s59"
        assert [row.id for row in rows] == sorted(row.id for row in rows)
        assert len(await store.results(rule="quiet")) == 1
        last = rows[-1].id
    async with open_store(tmp_path, ring_rule_max=1, ring_rate_max=1000) as store:
        await store.commit([status(60)])
        (row,) = await store.results(rule="overheat")
        assert row.id == last + 1 == await store.last_result()


async def test_the_result_ring_is_bounded_in_all(tmp_path: Path) -> None:
    """Many rules together keep at most a tenth more than the total bound."""
    async with open_store(tmp_path, ring_total_max=50) as store:
        for number in range(1, 41):
            await store.commit([status(number, [ok(f"rule-{number}-{k}") for k in range(5)], at=AT + number)])
        assert 50 <= len(await store.results(limit=1000)) <= 55
        assert len(await store.rules()) == 200


async def test_results_are_found_by_rule_status_and_id(tmp_path: Path) -> None:
    """Filters combine; ``since`` gives the oldest after an id, otherwise the newest, always in order of id."""
    async with open_store(tmp_path) as store:
        await store.commit([status(1, [ok("a"), bad("a"), ok("b"), bad("b", "other")])])
        assert [(row.rule, row.status) for row in await store.results(status="FAIL")] == [("a", "FAIL"), ("b", "FAIL")]
        assert [row.detail for row in await store.results(rule="b", status="FAIL")] == ["other"]
        assert [row.id for row in await store.results(limit=2)] == [3, 4]
        assert [row.id for row in await store.results(limit=2, since=1)] == [2, 3]
        row = (await store.results(rule="a", status="FAIL"))[0]
        assert (row.node, row.reason, row.received_at, row.msg_id) == ("edge-1", "timeout", AT, "id-1")


async def test_dead_letters_are_cut_and_bounded(tmp_path: Path) -> None:
    """A dead letter keeps its first bytes with digest and size of all, and only the last ones stay (P4.2)."""
    async with open_store(tmp_path, dead_letters_max=20, dead_letter_bytes_max=4) as store:
        await store.presence(birth(), epoch(), AT)
        for number in range(60):
            letter = DeadLetter("edge-1", "t", "undecodable", f"n{number}\x00", "ab" * 32, 9, b"123456789", AT)
            await store.dead_letter(letter)
        rows = await store.dead_letters(limit=100)
        assert 20 <= len(rows) <= 22
        assert (rows[0].detail, rows[0].payload, rows[0].size) == ("n59\ufffd", b"1234", 9)
        assert (await store.nodes())[0].refused == 60


async def test_a_rule_row_tells_times_durations_and_outcomes(tmp_path: Path) -> None:
    """Totals say last success and last failure by the cloud's receive time, durations and outcomes (P8.1)."""
    async with open_store(tmp_path) as store:
        await store.commit([status(1, [ok(), ok()]), status(1, [bad()], node="edge-2", at=AT + 7)])
        await store.commit([status(2, [ok(outcome="filtered", count=5, duration_sum=50, duration_max=20)], at=AT + 9)])
        (row,) = await store.rules()
        assert (row.success, row.fail, row.duration_sum, row.duration_max) == (7, 1, 550, 300)
        assert (row.first_at, row.last_success, row.last_failure) == (AT, AT + 9, AT + 7)
        assert row.outcomes == {"SUCCESS/delivered": 2, "SUCCESS/filtered": 5, "FAIL/failed/timeout": 1}


async def test_a_rule_that_is_made_again_starts_from_zero(tmp_path: Path) -> None:
    """Counts and errors are per uid of the rule (P6.2)."""
    async with open_store(tmp_path) as store:
        for uid in ("u1", "u2"):
            await want(store, "overheat", uid, edge_1={})
        await store.commit([status(1, [bad(rule_uid="u1")] * 3), status(2, [bad(rule_uid="u2")])])
        assert [(row.uid, row.fail) for row in await store.rules()] == [("u1", 3), ("u2", 1)]
        assert [(row.uid, row.count) for row in await store.errors()] == [("u1", 3), ("u2", 1)]


async def test_huge_counts_saturate_and_break_no_read(tmp_path: Path) -> None:
    """Counts near the integer's end stop at 2**53 - 1 in their row, and sums over rows stay readable."""
    huge = ok(count=2**62, duration_sum=2**62, duration_max=2**62)
    async with open_store(tmp_path) as store:
        for number in range(1, 4):
            await store.commit([status(number, [huge] * 3), status(number, [ok()], node="edge-2")])
        rows = {row.node: row for row in await store.rules(per_node=True)}
        assert (rows["edge-1"].success, rows["edge-1"].duration_sum) == (TOTAL_MAX, TOTAL_MAX)
        assert rows["edge-2"].success == 3
        assert (await store.rules())[0].success >= TOTAL_MAX


async def test_a_late_offline_is_ignored(tmp_path: Path) -> None:
    """A will of an earlier session or epoch does not take a node offline that came back since (P3.4)."""
    async with open_store(tmp_path) as store:
        assert await store.presence(birth(1, session=1), epoch(1), AT)
        assert await store.presence(birth(1, session=2), epoch(1), AT + 1)
        assert not await store.presence(birth(1, session=1, online=False), epoch(1), AT + 2)
        assert await store.presence(birth(2, session=0), epoch(2), AT + 3)
        assert not await store.presence(birth(1, session=9, online=False), epoch(1), AT + 4)
        (row,) = await store.nodes()
        assert (row.online, row.since, row.epoch) == (True, AT, str(epoch(2)))
        assert await store.presence(birth(2, session=0, online=False), epoch(2), AT + 5)
        assert not await store.presence(birth(2, session=0), epoch(2), AT + 6)  # the retained birth, once more
        (row,) = await store.nodes()
        assert (row.online, row.since) == (False, AT + 5)


async def test_a_birth_brings_labels_version_and_rules(tmp_path: Path) -> None:
    """Birth and statistics are kept on the node's row, and messages move last_seen."""
    async with open_store(tmp_path) as store:
        await store.presence(birth(labels={"site": "a"}, version="0.1.0", rules_version="r1"), epoch(), AT)
        await store.report("edge-1", NodeStatus(accepted=7, rules_version="r2"), AT + 1)
        await store.commit([status(1, at=AT + 2)])
        (row,) = await store.nodes()
        assert (row.labels, row.version, row.rules_version) == ({"site": "a"}, "0.1.0", "r2")
        assert (row.first_seen, row.last_seen) == (AT, AT + 2)
        assert row.status is not None
        assert row.status.accepted == 7


async def test_a_restored_or_doubled_spool_is_a_conflict(tmp_path: Path) -> None:
    """A known counter under another uuid is a conflict until a person decides; an older birth may be late (P5.8)."""
    async with open_store(tmp_path) as store:
        await store.presence(birth(3), epoch(3), AT)
        await store.presence(birth(5), epoch(5), AT)
        await store.commit([status(n, of=epoch(5)) for n in range(1, 10)])
        assert not await store.presence(birth(4, session=7), epoch(4), AT)
        assert (await store.nodes())[0].conflict == ""
        await store.commit([status(1, of=epoch(4))])
        assert "whose spool never had it" in (await store.nodes())[0].conflict
        assert await store.presence(birth(5, session=2, next_sequence=10), epoch(5), AT)
        assert await store.replace("edge-1", AT) == str(epoch(5))
        assert (await store.nodes())[0].conflict == ""
        twin = NodeBirth("edge-1", str(epoch(5, tail=1)), True, session=9)
        assert not await store.presence(twin, epoch(5, tail=1), AT)
        assert f"known as {epoch(5)}" in (await store.nodes())[0].conflict
        assert await store.presence(birth(6), epoch(6), AT)
        assert await store.replace("edge-1", AT) == str(epoch(6))
        assert (await store.nodes())[0].conflict == ""


async def test_a_birth_that_the_broker_kept_is_no_conflict(tmp_path: Path) -> None:
    """A retained birth that comes again after a restart names an old next sequence, and changes nothing (P3.4)."""
    async with open_store(tmp_path) as store:
        await store.presence(birth(1, next_sequence=1), epoch(1), AT)
        await store.commit([status(n) for n in range(1, 40)])
    async with open_store(tmp_path) as store:
        assert await store.presence(birth(1, next_sequence=1), epoch(1), AT + 9)
        (row,) = await store.nodes()
        assert (row.conflict, row.online, row.since) == ("", True, AT)


async def test_a_start_cuts_every_ring_to_its_bound(tmp_path: Path) -> None:
    """P8.6: what an earlier run, or larger bounds, left above the bounds is cut when the store is opened."""
    async with open_store(tmp_path, ring_rate_max=1000) as store:
        await store.commit([status(1, [bad(detail=f"error {n}") for n in range(30)])])
        assert (len(await store.results()), len(await store.errors())) == (30, 30)
    async with open_store(tmp_path, ring_rule_max=10, errors_per_rule_max=4) as store:
        assert [row.detail for row in await store.results()] == [f"error {n}" for n in range(20, 30)]
        assert len(await store.errors()) == 4
    async with open_store(tmp_path) as store:
        assert len(await store.errors()) == 4
