"""The outbox: what is due, who may tell it, and what stays of an answer (P8.2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, select

from cloud.forwarders.lag import Lag
from cloud.stores import outbox
from cloud.stores.outbox import FORGOTTEN, GONE_KEPT_S, Look, Note, Terms, Waiting
from cloud.stores.tables import changes, deliveries, objects
from tests.cloud.samples import open_store
from tests.forwarders.parts import claimed, delivery, key, mark, marking, wanting

A, B = Terms("hook", "cloud-1"), Terms("hook", "cloud-2")


async def test_a_change_is_claimed_once_told_and_then_known(tmp_path: Path) -> None:
    """Of two controllers one gets a change; once it is settled nobody finds it, until the next change."""
    async with open_store(tmp_path) as store:
        await mark(store, key())

        def work(conn: Connection) -> None:
            mine, theirs = claimed(conn, A, 100), claimed(conn, B, 100)
            assert (list(mine), theirs) == ([key()], {})
            assert (mine[key()].version, mine[key()].told) == (1, 0)
            outbox.settle(conn, A, [Note(key(), 1)], 101)
            assert claimed(conn, B, 200) == claimed(conn, A, 200) == {}
            marking(conn, key())
            assert claimed(conn, B, 200)[key()].told == 1

        await store.write(work)


async def test_a_claim_of_a_dead_controller_runs_out(tmp_path: Path) -> None:
    """Another controller takes the rule after the claim's end; the same controller, started again, at once."""
    async with open_store(tmp_path) as store:
        await mark(store, key())

        def work(conn: Connection) -> None:
            assert claimed(conn, A, 100, lease=60)
            assert not claimed(conn, B, 159)
            assert outbox.look(conn, B, 159).next_at == 160
            assert claimed(conn, A, 159, lease=60)
            assert not claimed(conn, B, 200)
            assert claimed(conn, B, 220)

        await store.write(work)


async def test_versions_never_go_back(tmp_path: Path) -> None:
    """A late answer, after another controller told more, settles nothing and lets go of no claim but its own."""
    async with open_store(tmp_path) as store:
        await mark(store, key())

        def work(conn: Connection) -> None:
            claimed(conn, A, 100, lease=10)
            marking(conn, key())
            assert claimed(conn, B, 111)[key()].version == 2
            outbox.settle(conn, B, [Note(key(), 2)], 112)
            marking(conn, key())
            assert claimed(conn, B, 113)
            outbox.settle(conn, A, [Note(key(), 1, refused="late")], 114)
            row = delivery(conn, "hook", key())
            assert (row.version, row.claimed_by, row.refused) == (2, "cloud-2", "")

        await store.write(work)


async def test_the_longest_waiting_come_first_within_their_interval(tmp_path: Path) -> None:
    """Rules come in the order in which they were told, never-told ones first, and none before its interval is over."""
    terms = A._replace(interval_s=10)
    async with open_store(tmp_path) as store:

        def work(conn: Connection) -> None:
            keys = [key(name) for name in ("a", "b", "c", "d")]
            marking(conn, *keys)
            outbox.claim(conn, terms, keys[:3], 3, 100, 110)
            for at, each in enumerate((keys[1], keys[0], keys[2])):
                outbox.settle(conn, terms, [Note(each, 1)], 100 + at)
            marking(conn, *keys)
            assert outbox.due(conn, terms, 109, 10) == [key("d")]
            assert outbox.due(conn, terms, 111.5, 10) == [key("d"), key("b"), key("a")]
            assert outbox.due(conn, terms, 111.5, 2) == [key("d"), key("b")]
            assert outbox.recent(conn, terms, 102.5) == 1

        await store.write(work)


async def test_a_retry_waits_and_a_refusal_is_kept_until_the_next_version(tmp_path: Path) -> None:
    """A retry is due at its time and counts attempts; a refusal is shown, not repeated, and gone with what is taken."""
    async with open_store(tmp_path) as store:
        await mark(store, key())

        def work(conn: Connection) -> None:
            claimed(conn, A, 100)
            outbox.settle(conn, A, [Note(key(), 1, retry_at=130)], 100)
            assert not claimed(conn, B, 129)
            assert claimed(conn, B, 130)[key()].attempts == 1
            outbox.settle(conn, B, [Note(key(), 1, refused="422 no")], 131)
            assert not claimed(conn, A, 1000)
            found = outbox.look(conn, A, 132)
            assert (found.pending, found.refused, found.refusals) == (0, 1, [(key(), "422 no")])
            marking(conn, key())
            assert claimed(conn, A, 140)[key()].attempts == 0
            outbox.settle(conn, A, [Note(key(), 2)], 141)
            assert outbox.look(conn, A, 142).refused == 0

        await store.write(work)


@pytest.mark.parametrize("field", ["delivered_at", "next_at", "claimed_until"])
async def test_a_clock_that_jumped_holds_nothing_up(tmp_path: Path, field: str) -> None:
    """Times that lie years ahead, from a clock that was wrong, do not keep a rule from being told."""
    async with open_store(tmp_path) as store:

        def work(conn: Connection) -> None:
            marking(conn, key())
            claimed(conn, B, 100)
            conn.execute(deliveries.update().values({field: 1e12}))
            assert claimed(conn, A._replace(interval_s=10), 200)

        await store.write(work)


async def test_sinks_know_nothing_of_each_other(tmp_path: Path) -> None:
    """What one sink was told, refused or has claimed changes nothing for another."""
    other = Terms("mqtt", "cloud-1")
    async with open_store(tmp_path) as store:

        def work(conn: Connection) -> None:
            marking(conn, key())
            claimed(conn, A, 100)
            outbox.settle(conn, A, [Note(key(), 1, refused="no")], 101)
            assert claimed(conn, other, 102)
            assert outbox.look(conn, other, 103).refused == 0
            outbox.release(conn, "mqtt", "cloud-1")
            assert claimed(conn, other._replace(holder="cloud-9"), 104)

        await store.write(work)


async def test_rules_that_are_gone_are_forgotten_and_trimmed(tmp_path: Path) -> None:
    """A sink with a state per rule is told of gone rules once, to clear them, unless another rule has the name now; a
    day later nothing is left of them anywhere.
    """
    keeps = A._replace(sink="mqtt", forgets=True)
    old, new, lone, local = key("r", "u1"), key("r", "u2"), key("s", "u3"), key("t")
    async with open_store(tmp_path) as store:

        def work(conn: Connection) -> None:
            for each in (old, new, lone):
                wanting(conn, each) if each != new else None
            marking(conn, old, lone, local, at=50)
            for terms in (A, keeps):
                outbox.settle(conn, terms, [Note(each, 1) for each in claimed(conn, terms, 100)], 100)
            conn.execute(delete(objects))
            wanting(conn, new)
            marking(conn, new, old, at=60)
            assert set(claimed(conn, A, 200)) == {old, new}
            assert set(claimed(conn, keeps, 200)) == {new}
            assert outbox.look(conn, keeps, 200).pending == 1
            assert sorted(outbox.to_forget(conn, "mqtt", 10)) == [(old, True), (lone, False)]
            outbox.settle(conn, keeps, [Note(old, FORGOTTEN), Note(lone, FORGOTTEN)], 201)
            assert outbox.to_forget(conn, "mqtt", 10) == []
            for _ in range(2):
                for terms in (A, keeps):
                    outbox.trim(conn, terms, 61 + GONE_KEPT_S)
            assert {row.uid for row in conn.execute(select(changes))} == {"u2", ""}
            assert {row.uid for row in conn.execute(select(deliveries))} == {"u2", ""}

        await store.write(work)


def test_lag_is_the_age_of_the_oldest_change() -> None:
    """A rule that changes all the time is as late as its first change that was not told, not as its last."""

    def looked(version: int, changed_at: float, told: int, told_at: float) -> Look:
        return Look(1, 0, [Waiting(key(), version, changed_at, told, told_at)], 0, [])

    nothing, lag = Look(0, 0, [], 0, []), Lag()
    lag.update(nothing, 999)
    assert lag.seconds(1000) == 0
    lag.update(looked(2, 1000, 1, 10), 1000)  # one change: as old as it is
    for at in range(1001, 1031):
        lag.update(looked(at - 998, at, 1, 10), at)
    assert lag.seconds(1031) == 31
    lag.update(looked(35, 1030.5, 33, 1030), 1031)  # told meanwhile; two changes since
    assert lag.seconds(1031) == pytest.approx(1)
    lag.update(nothing, 1032)
    assert lag.seconds(1033) == 0
