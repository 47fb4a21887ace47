"""Backlog and live results are two lanes with a fair share of the window (protocol P5.6)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import StorageError
from edge.batching import Frozen
from edge.lanes import in_turn
from edge.settings import SpoolSettings, UplinkSettings
from edge.spooldb import SpoolDb
from tests.edge.support import NODE, ROOT, Collected, packed, result, results_of
from tests.support.wait import eventually

ONE_BY_ONE = UplinkSettings(window_messages=4, batch_results=1)
BYTES = (1 << 20) + (1 << 18)  # less 1 MiB of reserve: 256 KiB for results


def _sources(messages: list[Frozen]) -> list[str]:
    return [item.source_id for message in messages for item in results_of(message)]


async def _accept(it: Collected, names: list[str]) -> None:
    for name in names:
        it.accept(result(source_id=name))
    await eventually(lambda: names[-1] in it.durable)


async def _split(it: Collected) -> None:
    it.spool.split()
    await eventually(lambda: it.spool.stats.backlog > 0)


async def _drain(it: Collected, until: int) -> None:
    """Confirm one message after another until ``until`` executions are confirmed."""
    while it.spool.stats.confirmed < until:
        before = it.spool.stats.confirmed
        low = it.spool.stats.low
        it.confirm([next(message for message in it.frozen if message.sequence == low)])
        await eventually(lambda: it.spool.stats.confirmed > before)  # noqa: B023


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 10**12), st.floats(0.05, 0.95))
def test_each_lane_keeps_its_order_and_waits_no_longer_than_its_share(old: int, new: int, first: int, share: float):
    """Merged, each lane is what it was; while both wait none has more messages in a row than its share allows."""
    merged = list(in_turn([packed(result("old", str(n))) for n in range(old)],
                          [packed(result("new", str(n))) for n in range(new)], first, share))  # fmt: skip
    for rule, count in (("old", old), ("new", new)):
        assert [p for p in merged if p.rule == rule] == [packed(result(rule, str(n))) for n in range(count)]
    left, in_a_row, most = {"old": old, "new": new}, 0, {"old": share / (1 - share), "new": (1 - share) / share}
    last = ""
    for item in merged:
        other = "new" if item.rule == "old" else "old"
        left[item.rule] -= 1
        in_a_row = in_a_row + 1 if item.rule == last else 1
        last = item.rule
        if not left[other]:
            break
        assert in_a_row <= math.ceil(most[item.rule] + 1e-6) + 1e-9


@pytest.mark.parametrize(("share", "behind"), [(0.5, 1), (0.75, 3), (0.25, 1)])
async def test_live_result_does_not_wait_for_the_backlog(tmp_path: Path, share: float, behind: int):
    """P5.6: after the window and the backlog's share of turns comes what is accepted now, each lane in its order."""
    it = Collected(tmp_path, window=UplinkSettings(window_messages=4, batch_results=1, backlog_share=share))
    backlog, live = [f"old-{n}" for n in range(200)], [f"new-{n}" for n in range(20)]
    await _accept(it, backlog)
    assert it.spool.stats.backlog == 0  # nobody has listened yet: there is nothing to share with
    await _split(it)
    assert it.spool.stats.backlog == 196
    await _accept(it, live)
    await _drain(it, 220)
    sent = _sources(it.frozen)
    assert [name for name in sent if name in live] == live
    assert [name for name in sent if name in backlog] == backlog
    assert sent.index("new-0") <= 4 + behind
    assert sent.index("new-19") <= 4 + 20 / (1 - share) + 1
    assert [message.sequence for message in it.frozen] == list(range(1, 221))
    assert it.spool.stats.backlog == 0
    await it.spool.stop()


async def test_one_lane_takes_all_when_the_other_is_empty(tmp_path: Path):
    """P5.6: the share is no reserve: a backlog alone fills the whole window, and so do live results alone."""
    it = Collected(tmp_path, window=ONE_BY_ONE)
    await _accept(it, [f"old-{n}" for n in range(12)])
    await _split(it)
    await _drain(it, 4)
    assert it.spool.stats.window_messages == 4
    assert _sources(it.frozen) == [f"old-{n}" for n in range(8)]
    await _drain(it, 12)
    await _accept(it, [f"new-{n}" for n in range(6)])
    assert it.spool.stats.window_messages == 4
    assert _sources(it.frozen)[12:] == [f"new-{n}" for n in range(4)]
    await it.spool.stop()


async def test_what_an_earlier_run_left_is_backlog(tmp_path: Path):
    """A restart begins with a backlog of all that waits, whatever its lane was; ids of rows are never used again."""
    first = Collected(tmp_path, window=ONE_BY_ONE)
    await _accept(first, [f"old-{n}" for n in range(10)])
    await _split(first)
    await _accept(first, [f"mid-{n}" for n in range(10)])
    await first.spool.stop()
    second = Collected(tmp_path, window=ONE_BY_ONE)
    assert second.spool.stats.backlog == 16
    await _accept(second, ["new"])
    second.confirm(second.left)
    await eventually(lambda: second.spool.stats.confirmed == 4)
    await _drain(second, 21)
    sent = _sources([*second.left, *second.frozen])
    assert [name for name in sent if name != "new"] == [
        *(f"old-{n}" for n in range(10)),
        *(f"mid-{n}" for n in range(10)),
    ]
    assert sent.index("new") <= 4 + 1
    await second.spool.stop()
    db = SpoolDb(tmp_path / "spool.db", NODE, ROOT)
    assert db.open().next_row == 1 + 6 + 10 + 1
    db.close()


async def test_live_lane_that_grows_too_long_becomes_backlog(tmp_path: Path):
    """``live_rows_max``: when more comes than goes, what has waited becomes backlog, and the newest still goes soon."""
    window = UplinkSettings(window_messages=1, batch_results=1, live_rows_max=10)
    it = Collected(tmp_path, window=window)
    for n in range(30):
        await _accept(it, [f"r-{n}"])
    assert 0 < it.spool.stats.backlog <= 29
    before = len(it.frozen)
    await _accept(it, ["newest"])
    await _drain(it, 31)
    assert _sources(it.frozen).index("newest") <= before + 2 * (10 + 2)
    await it.spool.stop()


async def test_folding_takes_the_backlog_and_leaves_live_results(tmp_path: Path):
    """P5.10: while the cloud is there, details of what happens now are not folded away for an old outage."""
    it = Collected(tmp_path, SpoolSettings(bytes_max=BYTES), UplinkSettings(window_messages=1, batch_results=1))
    long = "x" * 400
    for at in range(0, 200, 20):
        await _accept(it, [f"old-{n:04d}{long}" for n in range(at, at + 20)])
    assert it.spool.stats.folded == 0
    await _split(it)
    live = [f"new-{n:04d}{long}" for n in range(60)]
    for at in range(0, 60, 20):
        await _accept(it, live[at : at + 20])
    assert it.spool.stats.folded > 0
    await _drain(it, 260)
    told = [item for message in it.frozen for item in results_of(message)]
    assert [item.source_id for item in told if item.source_id.startswith("new") and item.count == 1] == live
    assert sum(item.count for item in told) == 260
    await it.spool.stop()


async def test_summaries_of_shared_rows_keep_the_order_of_what_waits(tmp_path: Path):
    """P5.10: rows that many rules share fold into rows that they share, in their places, not behind what waits."""
    it = Collected(tmp_path, SpoolSettings(bytes_max=BYTES), UplinkSettings(window_messages=1))
    rounds, rules = 40, 60
    for turn in range(rounds):
        for n in range(rules):
            it.accept(result(f"rule-{n:02d}", source_id=f"{turn:04d}" + "x" * 150))
        await eventually(lambda: len(it.durable) == (turn + 1) * rules)  # noqa: B023
    assert it.spool.stats.folded > 0
    while it.spool.stats.pending:
        before = it.spool.stats.confirmed
        it.confirm(it.frozen[-1:])
        await eventually(lambda: it.spool.stats.confirmed > before)  # noqa: B023
    told = [item for message in it.frozen for item in results_of(message)]
    for n in range(rules):
        of_rule = [item for item in told if item.rule_id == f"rule-{n:02d}"]
        assert sum(item.count for item in of_rule) == rounds
        single = [item.source_id for item in of_rule if item.count == 1]
        assert single == sorted(single)
        assert of_rule[-1].source_id.startswith(f"{rounds - 1:04d}")
    await it.spool.stop()


@pytest.mark.parametrize("committed", [True, False], ids=["the step happened", "the step did not happen"])
async def test_group_is_accepted_though_the_step_before_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
):
    """A fold whose fate is unknown is no reason to take the group that needed the room for done."""
    it = Collected(tmp_path, SpoolSettings(bytes_max=BYTES), UplinkSettings(window_messages=1, batch_results=1))
    real, failures = SpoolDb.apply, []

    def apply(db, changes):
        if failures or not changes.folded_results:
            return real(db, changes)
        failures.append(1)
        if committed:
            real(db, changes)
        raise StorageError("disk I/O error, by the test")

    monkeypatch.setattr(SpoolDb, "apply", apply)
    for n in range(500):
        await _accept(it, [f"{n:04d}" + "x" * 400])
    assert failures
    assert (it.spool.stats.accepted, len(it.durable)) == (500, 500)
    await it.spool.stop()
