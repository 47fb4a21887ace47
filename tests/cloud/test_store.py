"""The store: exact counts, one transaction for effect and progress, restarts, damage (P5.5, P5.7, P5.8)."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from pathlib import Path

import msgspec
import pytest

from cloud.settings import StoreSettings
from cloud.stores import presence
from cloud.stores.base import RuleRow, StatusMessage
from cloud.stores.sql import SqlStore
from cloud.stores.status import RuleKey, rule_statuses
from common.errors import StorageError
from tests.cloud.samples import AT, bad, birth, epoch, ok, open_store, status, totals
from tests.support.wait import eventually


async def test_a_commit_counts_and_confirms(tmp_path: Path) -> None:
    """What is new is counted and confirmed up to its sequence, with the last message as parent (P5.5)."""
    async with open_store(tmp_path) as store:
        outcome = await store.commit([status(1, [ok(), bad()]), status(2)])
        (confirmed,) = outcome.confirmed
        assert (confirmed.node, confirmed.epoch, confirmed.through, confirmed.also) == ("edge-1", epoch(), 2, [])
        assert (confirmed.msg_id, confirmed.namespace) == ("id-2", "default")
        assert (outcome.new, outcome.duplicate, outcome.results) == (2, 0, 3)
        assert await totals(store) == (2, 1)


@pytest.mark.sqlite
async def test_a_question_before_the_store_is_open_is_answered(tmp_path: Path) -> None:
    """Whoever asks while a controller starts gets one clear line, never a traceback."""
    with pytest.raises(StorageError, match="not open; try again"):
        await SqlStore(f"sqlite:///{tmp_path}/cloud.db", StoreSettings()).rules()


async def test_duplicates_and_reordering_leave_counts_exact(tmp_path: Path) -> None:
    """Every message three times in shuffled order, in batches of any size, counts once (promise 2)."""
    rng = random.Random(7)
    async with open_store(tmp_path) as store:
        for node in ("edge-1", "edge-2"):
            for start in range(1, 400, 50):
                window = [status(n, [ok(), bad()], node=node, low=start) for n in range(start, start + 50)] * 3
                rng.shuffle(window)
                while window:
                    size = rng.randint(1, 20)
                    batch, window = window[:size], window[size:]
                    assert not (await store.commit(batch)).refused
        assert await totals(store) == (800, 800)
        per_node = await store.rules(per_node=True)
        assert [(row.node, row.success, row.fail) for row in per_node] == [("edge-1", 400, 400), ("edge-2", 400, 400)]
        assert all(row.duplicates == 800 and row.cloud_lost == 0 for row in await store.nodes())


async def test_counts_per_node_are_read_from_a_key_on(tmp_path: Path) -> None:
    """``after`` and ``limit`` cut the same list into pieces that are it again, whatever the order of the database."""
    names = ("b", "a", "B", "a-1", "a.1", "ab")
    async with open_store(tmp_path) as store:
        for node in ("gw-1", "gw-10", "gw-2"):
            await store.commit([status(1, [ok(name) for name in names], node=node)])
        whole = await store.rules(per_node=True)
        pieces: list[RuleRow] = []
        while some := await store.rules(per_node=True, limit=4, after=_key(pieces)):
            pieces += some
            assert len(some) == min(4, len(whole) - len(pieces) + len(some))
        assert pieces == whole
        assert len(whole) == 3 * len(names)
        assert await store.rules(per_node=True, rule="ab", limit=2, after=("default", "ab", "gw-10", "")) == [
            row for row in whole if (row.rule, row.node) == ("ab", "gw-2")
        ]


def _key(rows: list[RuleRow]) -> tuple[str, ...]:
    return (rows[-1].namespace, rows[-1].rule, rows[-1].node, rows[-1].uid) if rows else ()


async def test_a_duplicate_is_confirmed_again_without_effect(tmp_path: Path) -> None:
    """A message that was committed before is confirmed again and not counted (P5.7)."""
    async with open_store(tmp_path) as store:
        await store.commit([status(1)])
        outcome = await store.commit([status(1)])
        assert (outcome.new, outcome.duplicate, outcome.confirmed[0].through) == (0, 1, 1)
        assert await totals(store) == (1, 0)


async def test_a_gap_is_confirmed_with_single_later_ones(tmp_path: Path) -> None:
    """What came above a gap is named in ``also`` until the gap is filled (P5.5)."""
    async with open_store(tmp_path) as store:
        (confirmed,) = (await store.commit([status(1), status(3), status(5)])).confirmed
        assert (confirmed.through, confirmed.also) == (1, [3, 5])
        (confirmed,) = (await store.commit([status(2)])).confirmed
        assert (confirmed.through, confirmed.also) == (3, [5])


async def test_beyond_the_window_is_refused(tmp_path: Path) -> None:
    """More than a window above the mark is refused, not counted, and accepted once the gap has closed (P5.7)."""
    async with open_store(tmp_path) as store:
        outcome = await store.commit([status(257)])
        assert [refused.reason for refused in outcome.refused] == ["beyond_window"]
        assert await totals(store) == (0, 0)
        outcome = await store.commit([status(1), status(257)])
        assert not outcome.refused
        assert outcome.confirmed[0].also == [257]


async def test_a_restart_keeps_counts_and_progress(tmp_path: Path) -> None:
    """Another process on the same file counts nothing twice and goes on where the first was."""
    async with open_store(tmp_path) as store:
        await store.commit([status(n) for n in range(1, 11)])
    async with open_store(tmp_path) as store:
        outcome = await store.commit([status(n) for n in range(1, 13)])
        assert (outcome.new, outcome.duplicate, outcome.confirmed[0].through) == (2, 10, 12)
        assert await totals(store) == (12, 0)


@pytest.mark.parametrize("point", ["effects_written", "progress_written"])
async def test_effect_and_progress_are_kept_together_or_not_at_all(tmp_path: Path, point: str) -> None:
    """A failure between effect and progress, or before the commit, keeps neither; sent again it counts once (P5.5)."""
    failures = [point]

    def fault(name: str) -> None:
        if name in failures:
            failures.remove(name)
            raise RuntimeError("pulled the plug")

    async with open_store(tmp_path, fault=fault) as store:
        with pytest.raises(StorageError, match="pulled the plug"):
            await store.commit([status(1, [ok(), bad()])])
        assert await totals(store) == (0, 0)
        assert (await store.results(), await store.errors(), await store.nodes()) == ([], [], [])
        outcome = await store.commit([status(1, [ok(), bad()])])
        assert (outcome.new, outcome.duplicate) == (1, 0)
        assert await totals(store) == (1, 1)


async def test_an_unknown_fate_of_a_commit_is_repeated_without_doubling(tmp_path: Path) -> None:
    """When the commit succeeded but its answer was lost, the repeated group finds duplicates and confirms them."""
    failures = ["committed"]

    def fault(name: str) -> None:
        if name in failures:
            failures.remove(name)
            raise StorageError("the connection broke during COMMIT")

    async with open_store(tmp_path, fault=fault) as store:
        outcome = await store.commit([status(1), status(2)])
        assert (outcome.new, outcome.duplicate, outcome.confirmed[0].through) == (0, 2, 2)
        assert await totals(store) == (2, 0)
        assert store.statistics()["retries"] == 1


@pytest.mark.sqlite
async def test_a_locked_database_delays_and_loses_nothing(tmp_path: Path) -> None:
    """While another process holds the file the group waits and is repeated; then all is there, once."""
    async with open_store(tmp_path, busy_timeout_ms=20) as store:
        other = sqlite3.connect(tmp_path / "cloud.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        commit = asyncio.ensure_future(store.commit([status(1)]))
        await eventually(lambda: store.statistics()["retries"] >= 2)
        other.execute("ROLLBACK")
        other.close()
        assert (await commit).new == 1
        assert await totals(store) == (1, 0)


async def test_a_message_that_the_store_cannot_take_stops_no_other(tmp_path: Path) -> None:
    """Of a group with one value no database takes, only that message is left out, unconfirmed (R1.7)."""
    poison = status(2, [bad(step="\ud800")])
    async with open_store(tmp_path) as store:
        one, two = await asyncio.gather(
            store.commit([status(1), poison, status(3)]), store.commit([status(1, node="edge-2")])
        )
        assert [(refused.message, refused.reason) for refused in one.refused] == [(poison, "not_stored")]
        assert (one.confirmed[-1].through, one.confirmed[-1].also) == (1, [3])
        assert two.new == 1
        assert await totals(store) == (3, 0)


async def test_a_wiped_store_follows_the_low_and_says_what_it_lost(tmp_path: Path) -> None:
    """A low above the mark raises it and counts the skipped range as cloud_lost; nothing is doubled (P5.8)."""
    async with open_store(tmp_path) as store:
        outcome = await store.commit([status(312, low=301), status(301, low=301)])
        assert [(each.through, each.also) for each in outcome.confirmed] == [(301, [312])]
        (row,) = await store.nodes()
        assert row.cloud_lost == 300
        outcome = await store.commit([status(300, low=290)])
        assert (outcome.new, outcome.duplicate) == (0, 1)


async def test_nodes_and_epochs_do_not_mix(tmp_path: Path) -> None:
    """Equal sequences of other nodes and other epochs are counted apart."""
    others: list[StatusMessage] = [
        status(1),
        status(1, node="edge-2"),
        status(1, of=epoch(2)),
    ]
    async with open_store(tmp_path) as store:
        outcome = await store.commit(others)
        assert (outcome.new, len(outcome.confirmed)) == (3, 3)
        assert await totals(store) == (3, 0)


async def test_an_epoch_below_the_named_and_confirmed_is_retired(tmp_path: Path) -> None:
    """An older epoch retires only when the birth names it no more and a higher one is confirmed (P5.7)."""
    async with open_store(tmp_path) as store:
        await store.presence(birth(1), epoch(1), AT)
        await store.commit([status(1)])
        await store.presence(birth(2, previous=[str(epoch(1))]), epoch(2), AT)
        await store.commit([status(1, of=epoch(2))])
        assert not (await store.commit([status(2)])).refused  # named as previous: still open
        await store.presence(birth(3), epoch(3), AT)
        assert (await store.nodes())[0].retired_through == 1  # the highest confirmed is 2
        outcome = await store.commit([status(2), status(1)])
        assert [refused.reason for refused in outcome.refused] == ["stale_epoch"] * 2
        await store.commit([status(1, of=epoch(3))])
        assert (await store.nodes())[0].retired_through == 2
        assert await totals(store) == (4, 0)


@pytest.mark.sqlite  # hundreds of births; what it looks for is in our own judgement
async def test_a_stuck_message_does_not_keep_later_epochs_open(tmp_path: Path) -> None:
    """R1.7, P5.7: a message stays stuck in an old epoch, and more agent starts follow than epochs may be open: each
    other message counts once, and what was confirmed is retired, epoch by epoch.
    """
    async with open_store(tmp_path) as store:
        for n in range(1, 300):
            named = [str(epoch(1))] if n > 1 else []
            follows = f"{epoch(n - 1)}.2" if n > 2 else ""
            born = store.presence(birth(n, previous=named, follows=follows, next_sequence=1), epoch(n), AT)
            sent = [status(1, of=epoch(n))] if n > 1 else []  # of the first epoch nothing comes through
            taken, outcome = await asyncio.gather(born, store.commit(sent))
            assert (taken, outcome.new, outcome.refused) == (True, len(sent), [])
        again = await store.commit([status(1, of=epoch(n)) for n in range(2, 297)])
        assert {refused.reason for refused in again.refused} == {"stale_epoch"}
        assert (await store.commit([status(1)])).new == 1
        (row,) = await store.nodes()
        assert (row.conflict, row.cloud_lost, row.refused) == ("", 0, 295)
        assert await totals(store) == (299, 0)


async def test_a_late_birth_opens_no_retired_epoch(tmp_path: Path) -> None:
    """P5.7: a birth that comes again, as it was before its older epoch was confirmed, does not let that count twice."""
    async with open_store(tmp_path) as store:
        late = birth(3, previous=[str(epoch(1)), str(epoch(2))])
        await store.presence(late, epoch(3), AT)
        await store.commit([status(1, of=epoch(2)), status(1, of=epoch(3))])
        await store.presence(birth(3, session=2, previous=[str(epoch(1))]), epoch(3), AT)
        await store.presence(msgspec.structs.replace(late, session=2), epoch(3), AT)
        outcome = await store.commit([status(1, of=epoch(2))])
        assert [refused.reason for refused in outcome.refused] == ["stale_epoch"]
        assert await totals(store) == (2, 0)


async def test_a_late_birth_retires_no_later_epoch(tmp_path: Path) -> None:
    """P5.7: what an older birth does not name it could not know of; nothing that was counted counts once more."""
    async with open_store(tmp_path) as store:
        await store.commit([status(1, of=epoch(5)), status(1, of=epoch(4))])
        await store.presence(birth(3), epoch(3), AT)
        await store.presence(birth(4), epoch(4), AT)
        outcome = await store.commit([status(1, of=epoch(4))])
        assert (outcome.new, outcome.duplicate) == (0, 1)
        assert await totals(store) == (2, 0)


@pytest.mark.sqlite
async def test_retired_epochs_are_remembered_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R1.6: a crash loop with a stuck message fills no table, and a message older than memory raises no alarm."""
    monkeypatch.setattr(presence, "RETIRED_MAX", 50)
    async with open_store(tmp_path) as store:
        for n in range(1, 110):
            await store.presence(birth(n, previous=[str(epoch(1))] if n > 1 else []), epoch(n), AT)
            await store.commit([status(1, of=epoch(n))] if n > 1 else [])
        with sqlite3.connect(tmp_path / "cloud.db") as raw:
            (kept,) = raw.execute("SELECT count(*) FROM retired").fetchone()
            (open_now,) = raw.execute("SELECT count(*) FROM progress").fetchone()
        raw.close()
        assert 45 < kept <= 50
        assert open_now <= 4
        (refused,) = (await store.commit([status(2, of=epoch(5))])).refused
        assert refused.reason == "conflict"
        assert (await store.nodes())[0].conflict == ""
        assert (await store.commit([status(1)])).new == 1


async def test_too_many_epochs_are_refused(tmp_path: Path) -> None:
    """A node cannot fill the store with epochs: above the bound new ones are refused and counted."""
    async with open_store(tmp_path, epochs_per_node_max=257) as store:
        outcome = await store.commit([status(1, of=epoch(n)) for n in range(1, 260)])
        assert [refused.reason for refused in outcome.refused] == ["too_many_epochs"] * 2
        assert (await store.nodes())[0].refused == 2


@pytest.mark.sqlite
@pytest.mark.parametrize("content", [b"this is no database at all, but a text of some length" * 40, b"x" * 3000])
async def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    """A foreign file is refused with its name, and not changed."""
    path = tmp_path / "cloud.db"
    path.write_bytes(content)
    store = SqlStore(f"sqlite:///{path}", StoreSettings())
    with pytest.raises(StorageError, match=r"cloud\.db cannot be opened: file is not a database"):
        await store.start()
    await store.stop()
    assert path.read_bytes() == content


@pytest.mark.sqlite
async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A store that a later program wrote is refused with both versions."""
    async with open_store(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "cloud.db") as conn:
        conn.execute("UPDATE fieldpost_schema SET version = 99")
    conn.close()
    store = SqlStore(f"sqlite:///{tmp_path / 'cloud.db'}", StoreSettings())
    with pytest.raises(StorageError, match="has schema version 99, this program knows 5"):
        await store.start()
    await store.stop()


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:p@h/d", "sqlite:////nowhere/at/all/cloud.db"])
async def test_a_url_that_cannot_work_is_one_clear_error(url: str) -> None:
    """An unusable URL is a StorageError, never a driver's exception."""
    store = SqlStore(url, StoreSettings())
    with pytest.raises(StorageError, match="store"):
        await store.start()
    await store.stop()


async def test_sixteen_writers_and_threefold_delivery_leave_counts_exact(tmp_path: Path) -> None:
    """Where the last of several writers wins, or a repetition counts, numbers are off. Here sixteen write at once, over
    two controllers, each message comes three times in any order, and all sums are exact: counts, rates, errors (P5.7).
    """
    rng = random.Random(11)
    nodes = [f"edge-{number}" for number in range(16)]
    async with open_store(tmp_path) as one, open_store(tmp_path) as two:

        async def write(node: str) -> None:
            window = [status(n, [ok(), bad(count=2)], node=node) for n in range(1, 31)] * 3
            rng.shuffle(window)
            for at in range(0, len(window), 5):
                store = one if rng.random() < 0.5 else two
                assert not (await store.commit(window[at : at + 5])).refused

        await asyncio.gather(*map(write, nodes))
        assert await totals(one) == (16 * 30, 16 * 60)
        assert {row.node: (row.success, row.fail) for row in await two.rules(per_node=True)} == dict.fromkeys(
            nodes, (30, 60)
        )
        assert [(error.detail, error.count) for error in await two.errors()] == [("no answer", 16 * 60)]
        for store in (one, two):
            await store.keep_statistics(AT, everything=True)
        key = RuleKey("default", "overheat", "")
        (told,) = await one.read(lambda conn: rule_statuses(conn, [key], now=AT + 60, stale_s=60))
        assert (told.last_minute, told.success, told.fail) == (16 * 90, 16 * 30, 16 * 60)
