"""The spool: durable in groups, two stages, a bounded window, exact account (protocol P5.1 to P5.6)."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import ConfigError, QueueFullError, StorageError
from common.models import Confirmation
from common.rows import execute_rows
from edge.batching import freeze
from edge.settings import SpoolSettings, UplinkSettings
from edge.spooldb import CACHE_KIB, SpoolDb
from edge.spooltables import Changes, Input
from tests.edge.support import NODE, Collected, packed, result, results_of
from tests.support.wait import eventually


async def test_idle_result_is_frozen_in_its_accepting_transaction(tmp_path: Path):
    """P5.1: with room in the window a result becomes a message at once, and its source is told."""
    it = Collected(tmp_path)
    it.accept(result(source_id="a"))
    await eventually(lambda: it.durable == ["a"])
    assert [r.source_id for m in it.frozen for r in results_of(m)] == ["a"]
    stats = it.spool.stats
    assert (stats.accepted, stats.confirmed, stats.pending, stats.waiting_rows) == (1, 0, 1, 0)
    await it.spool.stop()


async def test_window_bounds_messages_and_confirmations_move_it(tmp_path: Path):
    """P5.4: never more than the window is frozen; each confirmation lets the oldest results follow, in order."""
    it = Collected(tmp_path, window=UplinkSettings(window_messages=4, batch_results=1))
    for n in range(100):
        it.accept(result(source_id=str(n)))
    await eventually(lambda: len(it.durable) == 100)
    assert len(it.frozen) == 4
    done = 0
    while it.spool.stats.confirmed < 100:
        fresh, done = it.frozen[done:], len(it.frozen)
        assert 1 <= len(fresh) <= 4
        it.confirm(fresh)
        await eventually(lambda: it.spool.stats.window_messages == 0 or len(it.frozen) > done)  # noqa: B023
    assert [m.sequence for m in it.frozen] == list(range(1, 101))
    assert [r.source_id for m in it.frozen for r in results_of(m)] == [str(n) for n in range(100)]
    await it.spool.stop()


async def test_sequences_stay_within_a_window_of_the_lowest_unconfirmed(tmp_path: Path):
    """P5.7: the cloud takes a window above its mark, so a gap at the bottom holds the rest, whatever is confirmed."""
    it = Collected(tmp_path, window=UplinkSettings(batch_results=1))
    for n in range(800):
        it.accept(result(source_id=str(n)))
    await eventually(lambda: len(it.durable) == 800)
    it.confirm(it.frozen[1:])  # all but the first
    await eventually(lambda: it.spool.stats.confirmed == 255)
    assert (len(it.frozen), it.spool.stats.low) == (256, 1)
    it.confirm(it.frozen[:1])
    await eventually(lambda: len(it.frozen) == 512)
    await it.spool.stop()


async def test_backlog_is_joined_into_full_messages(tmp_path: Path):
    """P5.4: what waits goes together: results that came one by one while the window was full share messages later."""
    it = Collected(tmp_path, window=UplinkSettings(window_messages=1))
    for n in range(300):
        it.accept(result(source_id=str(n)))
        if n % 50 == 0:
            await eventually(lambda: len(it.durable) == n + 1)  # noqa: B023
    await eventually(lambda: len(it.durable) == 300)
    while it.spool.stats.pending:
        before = it.spool.stats.confirmed
        it.confirm(it.frozen[-1:])
        await eventually(lambda: it.spool.stats.confirmed > before)  # noqa: B023
    assert len(it.frozen) <= 4
    assert [r.source_id for m in it.frozen for r in results_of(m)] == [str(n) for n in range(300)]
    await it.spool.stop()


async def test_restart_begins_an_epoch_and_keeps_frozen_bytes(tmp_path: Path):
    """P5.1, P5.2: after a restart the same bytes wait under their old epoch; new results belong to a higher one."""
    first = Collected(tmp_path)
    first.accept(result(source_id="a"))
    await eventually(lambda: first.durable == ["a"])
    await first.spool.stop()
    second = Collected(tmp_path)
    assert second.left == first.frozen
    second.accept(result(source_id="b"))
    await eventually(lambda: second.durable == ["b"])
    assert second.frozen[0].epoch.n == first.frozen[0].epoch.n + 1
    assert second.frozen[0].sequence == 1
    second.confirm([*second.left, *second.frozen])
    await eventually(lambda: second.spool.stats.pending == 0)
    assert second.spool.stats.accepted == 2
    await second.spool.stop()
    third = Collected(tmp_path)
    assert third.left == []
    await third.spool.stop()


async def test_confirmation_of_another_epoch_deletes_nothing(tmp_path: Path):
    """P5.6: a confirmation counts for its own epoch only."""
    it = Collected(tmp_path)
    it.accept(result(source_id="a"))
    await eventually(lambda: it.durable == ["a"])
    n, uuid = it.frozen[0].epoch
    it.spool.confirm(Confirmation(f"{n + 1}-{uuid}", 1000))
    it.accept(result(source_id="b"))
    await eventually(lambda: len(it.durable) == 2)
    assert it.spool.stats.confirmed == 0
    await it.spool.stop()


async def test_journalled_input_comes_back_with_one_more_attempt(tmp_path: Path):
    """P5.3: an input on disk runs again after each restart until its result ends it, in one transaction with it."""
    first = Collected(tmp_path)
    item = Input("j1", "default", "overheat", "m1", "devices/a", b"\x00\xff", 1)
    first.spool.journal(item, lambda: first.durable.append("journalled"))
    await eventually(lambda: first.durable == ["journalled"])
    await first.spool.stop()
    second = Collected(tmp_path)
    assert second.inputs == [item._replace(attempts=2)]
    await second.spool.stop()
    third = Collected(tmp_path)
    assert third.inputs == [item._replace(attempts=3)]
    third.accept(result(source_id="m1"), input_id=item.id)
    await eventually(lambda: third.durable == ["m1"])
    await third.spool.stop()
    assert Collected(tmp_path).inputs == []


async def test_second_process_on_the_same_spool_is_refused(tmp_path: Path):
    """R3 storage: two agents never write one spool; the error says what to look for."""
    it = Collected(tmp_path)
    with pytest.raises(StorageError, match="another agent runs with this data_dir"):
        Collected(tmp_path)
    await it.spool.stop()


async def test_other_node_may_not_take_over_a_spool_that_holds_results(tmp_path: Path):
    """P5.12: a changed node id with a non-empty spool refuses to start and says what to do; an empty one is taken,
    and the new node's account begins at zero, in a later epoch.
    """
    it = Collected(tmp_path)
    it.accept(result(source_id="a"))
    await eventually(lambda: it.durable == ["a"])
    await it.spool.stop()
    with pytest.raises(ConfigError, match=f"belongs to node '{NODE}'"):
        Collected(tmp_path, node="edge-2")
    again = Collected(tmp_path)
    again.confirm(again.left)
    await eventually(lambda: again.spool.stats.pending == 0)
    await again.spool.stop()
    other = Collected(tmp_path, node="edge-2")
    assert (other.spool.stats.accepted, other.spool.stats.confirmed) == (0, 0)
    assert other.spool.stats.epoch.n > again.spool.stats.epoch.n
    await other.spool.stop()


async def test_source_that_cannot_be_told_hinders_no_other(tmp_path: Path):
    """R1.7: the callback of one source fails; the others are told, and the messages are handed over all the same."""
    it = Collected(tmp_path)
    it.spool.accept(packed(result(source_id="a")), lambda: 1 / 0)
    it.accept(result(source_id="b"))
    await eventually(lambda: it.durable == ["b"] and sum(len(results_of(m)) for m in it.frozen) == 2)
    await it.spool.stop()


async def test_queue_bound_refuses_instead_of_growing(tmp_path: Path):
    """R1.6: more results than may wait for a commit are refused to the caller, who holds its source."""
    it = Collected(tmp_path, SpoolSettings(queue_results_max=10))

    def flood() -> None:
        for n in range(1000):
            it.accept(result(source_id=str(n)))

    with pytest.raises(QueueFullError):
        flood()
    await it.spool.stop()
    assert it.spool.stats.accepted == len(it.durable) >= 10


@pytest.mark.parametrize("committed", [True, False], ids=["the commit happened", "the commit did not happen"])
async def test_commit_of_unknown_fate_accepts_exactly_once(tmp_path: Path, monkeypatch, committed):
    """When COMMIT fails, the file decides whether it happened; the group is neither lost nor accepted twice."""
    it = Collected(tmp_path)
    real, failures = SpoolDb.apply, []

    def apply(db, changes):
        if failures:
            return real(db, changes)
        failures.append(1)
        if committed:
            real(db, changes)
        raise StorageError("disk I/O error, by the test")

    monkeypatch.setattr(SpoolDb, "apply", apply)
    it.accept(result(source_id="a"))
    await eventually(lambda: it.durable == ["a"])
    assert it.spool.stats.accepted == 1
    assert [r.source_id for m in it.frozen for r in results_of(m)] == ["a"]
    await it.spool.stop()
    db = sqlite3.connect(tmp_path / "spool.db")
    assert db.execute("SELECT accepted FROM state").fetchone() == (1,)
    assert db.execute("SELECT count(*) FROM messages").fetchone() == (1,)
    db.close()


async def test_changed_codec_leaves_waiting_results_readable(tmp_path: Path):
    """Results that waited in one codec go out in it, after the setting changed: readers take both (P4.1)."""
    it = Collected(tmp_path, window=UplinkSettings(window_messages=1))
    for n in range(4):
        it.spool.accept(packed(result(source_id=str(n)), "json" if n < 2 else "msgpack"))
        await eventually(lambda: it.spool.stats.accepted == n + 1)  # noqa: B023
    while it.spool.stats.pending:
        before = it.spool.stats.confirmed
        it.confirm(it.frozen[-1:])
        await eventually(lambda: it.spool.stats.confirmed > before)  # noqa: B023
    assert [r.source_id for m in it.frozen for r in results_of(m)] == ["0", "1", "2", "3"]
    assert {m.codec for m in it.frozen} == {"json", "msgpack"}
    await it.spool.stop()


async def test_no_message_is_larger_than_the_connection_takes(tmp_path: Path):
    """R2: batches are frozen to fit the broker's limit, so that none can block what is behind it."""
    it = Collected(tmp_path, window=UplinkSettings(window_messages=1))
    it.spool.limit(8000)
    for n in range(500):
        it.accept(result(source_id=f"{n:040d}"))
    await eventually(lambda: it.spool.stats.accepted == 500)
    while it.spool.stats.pending:
        before = it.spool.stats.confirmed
        it.confirm(it.frozen[-1:])
        await eventually(lambda: it.spool.stats.confirmed > before)  # noqa: B023
    assert max(len(message.payload) for message in it.frozen) <= 8000
    assert sum(len(results_of(message)) for message in it.frozen) == 500
    await it.spool.stop()


def test_the_page_cache_is_bounded(tmp_path: Path) -> None:
    """B5: SQLite itself says that it keeps to our bound, not to its own of twice that."""
    db = SpoolDb(tmp_path / "spool.db", NODE, "fieldpost")
    db.open()
    assert db._pragma("cache_size") == -CACHE_KIB
    db.close()


def test_large_messages_and_results_are_not_kept_by_prepared_statements(tmp_path: Path, monkeypatch):
    """B5: what a stall leaves are rows of 64 KiB; a statement, which stays with its values, gets few of them."""
    db = SpoolDb(tmp_path / "spool.db", NODE, "fieldpost")
    state = db.open()
    rows = [packed(result())._replace(body=bytes(1 << 16)) for _ in range(64)]
    new = [freeze(row, state.epoch, at, 1, root="fieldpost", node=NODE, timestamp=0) for at, row in enumerate(rows, 1)]
    sizes: list[int] = []

    def watched(cursor, text, values):
        sizes.append(sum(value.__sizeof__() for value in values))
        return cursor.execute(text, values)

    monkeypatch.setattr(
        "edge.spooldb.execute_rows",
        lambda cursor, *args: execute_rows(SimpleNamespace(execute=partial(watched, cursor)), *args),
    )
    db.apply(Changes(state, new_messages=new, new_results=rows))
    assert (len(sizes), max(sizes) < 2 << 16) == (128, True)
    db.close()
