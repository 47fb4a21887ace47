"""Two spools for one node, and stores that forgot: seen, never doubled, never silent (P5.8)."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.stores.sql import SqlStore
from common.errors import ControlError
from common.models import Epoch, NodeBirth
from tests.cloud.samples import AT, epoch, ok, open_store, status, totals
from tests.support.examples import examples

TWIN = epoch(7, tail=1)


def born(of: Epoch, *, session: int = 1, online: bool = True, follows: str = "", **more: object) -> NodeBirth:
    """A birth of edge-1, with any epoch."""
    return NodeBirth("edge-1", str(of), online, session=session, follows=follows, **more)  # type: ignore[arg-type]


async def take(store: SqlStore, birth: NodeBirth, *, retained: bool = False, received: int = 0) -> bool:
    """Give a birth to the store."""
    return await store.presence(birth, Epoch.parse(birth.epoch), AT, retained=retained, received=received)


async def conflict(store: SqlStore) -> str:
    """What the node's row says of a conflict."""
    return (await store.nodes())[0].conflict


@pytest.mark.parametrize("retained", [False, True])
async def test_two_uuids_under_one_counter_are_a_conflict_in_words(tmp_path: Path, retained: bool) -> None:
    """P5.8: a birth that names a known counter under another uuid: what happened, what to do, and a loss record."""
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        await store.commit([status(1, of=epoch(7))])
        assert not await take(store, born(TWIN), retained=retained)
        text = await conflict(store)
        assert f"epoch 7 is known as {epoch(7)}" in text
        assert "two agents run with the node id edge-1, or its data_dir was restored from a copy" in text
        assert text.endswith("run: fieldpost node replace edge-1")
        (loss,) = await store.losses(node="edge-1")
        assert (loss.kind, loss.origin, loss.epoch, loss.detail) == ("restored_copy", "cloud", str(TWIN), text)
        outcome = await store.commit([status(1, of=TWIN), status(2, of=epoch(7))])
        assert [(refused.message.epoch, refused.reason) for refused in outcome.refused] == [(TWIN, "conflict")]
        assert await totals(store) == (2, 0)
        assert (await store.nodes())[0].epoch == str(epoch(7))


async def test_a_previous_epoch_under_another_uuid_is_a_conflict(tmp_path: Path) -> None:
    """P5.8: every epoch that a birth names counts, not its own alone."""
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        assert not await take(store, born(epoch(8), previous=[str(TWIN)]))
        assert "epoch 7 is known as" in await conflict(store)


async def test_messages_of_a_twin_that_come_before_its_birth_never_count(tmp_path: Path) -> None:
    """P5.8: two uuids under one counter prove two spools by messages alone; the node is in conflict at once."""
    async with open_store(tmp_path) as store:
        await store.commit([status(1, of=epoch(7))])
        outcome = await store.commit([status(1, of=TWIN), status(2, of=TWIN)])
        assert [refused.reason for refused in outcome.refused] == ["conflict"] * 2
        assert await totals(store) == (1, 0)
        assert "fieldpost node replace edge-1" in await conflict(store)
        assert len(await store.losses()) == 1


async def test_a_restored_spool_goes_on_from_less_than_is_known(tmp_path: Path) -> None:
    """P5.8: a copy taken at message 4 of epoch 7, started again as epoch 8, while 7 went on to message 9."""
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        await store.commit([status(n, of=epoch(7)) for n in range(1, 10)])
        assert not await take(store, born(epoch(8), follows=f"{epoch(7)}.5", previous=[str(epoch(7))]))
        assert f"epoch {epoch(7)} is known up to message 9, but epoch 8 goes on from 5" in await conflict(store)
        (loss,) = await store.losses(kind="restored_copy")
        assert (loss.epoch, loss.first_sequence, loss.last_sequence, loss.messages) == (str(epoch(7)), 5, 9, 5)
        outcome = await store.commit([status(1, of=epoch(8))])
        assert outcome.refused[0].reason == "conflict"
        assert await store.replace("edge-1", AT) == str(epoch(8))
        assert (await store.commit([status(1, of=epoch(8))])).new == 1
        late = await store.commit([status(7, of=epoch(7))])  # of the other spool: this one has no message 7
        assert late.refused[0].reason == "conflict"
        assert await totals(store) == (10, 0)


async def test_a_spool_that_follows_as_it_should_is_no_conflict(tmp_path: Path) -> None:
    """P5.8: an epoch that ended where the cloud knows it, or behind that, goes on in the next one."""
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        await store.commit([status(n, of=epoch(7)) for n in range(1, 10)])
        assert await take(store, born(epoch(8), follows=f"{epoch(7)}.12", previous=[str(epoch(7))]))
        assert (await store.commit([status(n, of=epoch(7)) for n in (10, 11)] + [status(1, of=epoch(8))])).new == 3
        assert (await conflict(store), await store.losses()) == ("", [])


async def test_a_cloned_node_whose_epochs_interleave(tmp_path: Path) -> None:
    """P5.8: a clone begins epoch 8 from 7, and the first agent goes on in 7: its next message shows it, uncounted."""
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        await store.commit([status(n, of=epoch(7)) for n in range(1, 5)])
        assert await take(store, born(epoch(8), follows=f"{epoch(7)}.5"))
        assert not await take(store, born(epoch(7), session=2))
        assert (await store.commit([status(1, of=epoch(8))])).new == 1
        outcome = await store.commit([status(5, of=epoch(7)), status(2, of=epoch(8))])
        assert [refused.message.epoch for refused in outcome.refused] == [epoch(7)]
        assert "message 5 of epoch 7" in await conflict(store)
        assert await totals(store) == (6, 0)
        assert [loss.epoch for loss in await store.losses(kind="restored_copy")] == [str(epoch(7))]
        assert await store.replace("edge-1", AT) == str(epoch(7))  # it was heard last
        assert (await store.commit([status(5, of=epoch(7))])).new == 1
        assert (await store.commit([status(3, of=epoch(8))])).refused[0].reason == "conflict"


async def test_a_clone_while_its_epoch_is_still_held(tmp_path: Path) -> None:
    """P5.8: the same while the clone holds messages of epoch 7: those count, and what 7 adds in the first agent not."""
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        await store.commit([status(n, of=epoch(7)) for n in range(1, 5)])
        assert await take(store, born(epoch(8), follows=f"{epoch(7)}.6", previous=[str(epoch(7))]))
        outcome = await store.commit([status(6, of=epoch(7)), status(5, of=epoch(7)), status(4, of=epoch(7))])
        assert [(refused.message.sequence, refused.reason) for refused in outcome.refused] == [(6, "conflict")]
        assert "ended before message 6 in the spool that is known" in await conflict(store)
        assert await totals(store) == (5, 0)


async def test_an_old_copy_is_told_by_a_counter_that_is_retired(tmp_path: Path) -> None:
    """P5.8: a copy whose counter the known spool had once, long retired: its birth is proof before any message."""
    old = epoch(2, tail=5)
    async with open_store(tmp_path) as store:
        for n in (1, 2, 3):
            await take(store, born(epoch(n)))
            await store.commit([status(1, of=epoch(n))])
        assert not await take(store, born(epoch(2)))  # late, but of this spool
        assert await conflict(store) == ""
        assert not await take(store, born(old))
        assert f"epoch 2 is known as {epoch(2)}" in await conflict(store)
        assert await store.replace("edge-1", AT) == str(old)
        assert await take(store, born(epoch(3, tail=5), follows=f"{old}.2"))
        assert await conflict(store) == ""


async def test_a_later_spool_of_another_origin_does_not_silence_the_first(tmp_path: Path) -> None:
    """P5.8: an agent that had another id before begins at a higher counter and names nothing of this node: what the
    first one goes on to send is told as a conflict, not refused as late for ever. What came before is only late.
    """
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(1)))
        await store.commit([status(n, of=epoch(1)) for n in (1, 2)])
        assert await take(store, born(epoch(2, tail=9)))
        await store.commit([status(1, of=epoch(2, tail=9))])
        assert await take(store, born(epoch(3, tail=9), follows=f"{epoch(2, tail=9)}.2"))
        assert (await store.commit([status(2, of=epoch(1))])).refused[0].reason == "stale_epoch"
        assert await conflict(store) == ""
        assert (await store.commit([status(3, of=epoch(1))])).refused[0].reason == "conflict"
        assert f"message 3 of epoch {epoch(1)} comes" in await conflict(store)
        assert await totals(store) == (3, 0)
        assert [loss.epoch for loss in await store.losses(kind="restored_copy")] == [str(epoch(1))]


async def test_an_old_copy_shows_itself_by_its_first_message(tmp_path: Path) -> None:
    """P5.8: a birth with a lower counter may be late; a message of an epoch that the known spool never had is proof."""
    old = epoch(2, tail=5)
    async with open_store(tmp_path) as store:
        for n in (1, 3):
            await take(store, born(epoch(n)))
            await store.commit([status(1, of=epoch(n))])
        assert (await store.commit([status(1, of=epoch(1))])).refused[0].reason == "stale_epoch"
        assert not await take(store, born(old))
        assert await conflict(store) == ""
        assert (await store.commit([status(1, of=old)])).refused[0].reason == "conflict"
        assert "whose spool never had it" in await conflict(store)
        assert await store.replace("edge-1", AT) == str(old)
        assert (await store.commit([status(1, of=old)])).new == 1
        assert (await store.commit([status(2, of=epoch(3))])).refused[0].reason == "conflict"
        assert await totals(store) == (3, 0)
        assert {loss.id for loss in await store.losses()} == {f"conflict-{old}", f"replaced-{epoch(3)}"}


async def test_a_spool_set_back_within_its_epoch(tmp_path: Path) -> None:
    """P5.8: a machine resumed from a snapshot is born with a next sequence that had come long before, and says so once
    more; then replaced. The same birth that comes twice, as brokers do, is no second word.
    """
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        await store.commit([status(n, of=epoch(7)) for n in range(1, 10)])
        again = born(epoch(7), session=2, next_sequence=5, time="t1")
        for _ in range(2):
            assert not await take(store, again, received=9)
            assert await conflict(store) == ""
        again = born(epoch(7), session=2, next_sequence=5, time="t2")
        assert not await take(store, again, received=9)
        assert "known up to message 9, but its agent goes on from 5" in await conflict(store)
        assert (await store.commit([status(5, of=epoch(7))])).refused[0].reason == "conflict"
        await store.replace("edge-1", AT)
        assert (await store.commit([status(5, of=epoch(7))])).new == 1
        again = born(epoch(7), session=2, next_sequence=6, time="t3")
        assert await take(store, again, received=9), "what was heard before the person decided proves nothing any more"


async def test_each_controllers_own_evidence_counts(tmp_path: Path) -> None:
    """P5.8: of several controllers one may have heard what proves the conflict; that another one was first to take the
    birth hides nothing.
    """
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        await store.commit([status(n, of=epoch(7)) for n in range(1, 10)])
        first, second = (born(epoch(7), session=2, next_sequence=5, time=at) for at in ("t1", "t2"))
        assert not await take(store, first, received=8)
        assert await take(store, first)
        assert await take(store, second)
        assert not await take(store, second, received=8)
        assert "known up to message 8, but its agent goes on from 5" in await conflict(store)


async def test_a_birth_that_is_minutes_late_is_no_conflict(tmp_path: Path) -> None:
    """P5.8: messages that overtook their agent's birth prove nothing, and what it says again is taken."""
    async with open_store(tmp_path) as store:
        await store.commit([status(n, of=epoch(7)) for n in range(1, 6)])
        assert not await take(store, born(epoch(7), session=1, next_sequence=1, time="t1"), received=5)
        assert await take(store, born(epoch(7), session=1, next_sequence=6, time="t2"), received=5)
        assert await take(store, born(epoch(8), session=1, next_sequence=1, time="t3"))
        assert await conflict(store) == ""
        assert (await store.commit([status(6, of=epoch(7))])).new == 1


async def test_what_goes_on_from_an_epoch_in_doubt_is_in_doubt(tmp_path: Path) -> None:
    """P5.8: a clone that is started again gets a higher counter, and is known by its origin."""
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        await take(store, born(TWIN))
        assert not await take(store, born(epoch(8), follows=f"{TWIN}.3"))
        assert (await store.commit([status(1, of=epoch(8))])).refused[0].reason == "conflict"
        assert await take(store, born(epoch(9)))  # the first agent, started again


async def test_new_hardware_under_the_old_id(tmp_path: Path) -> None:
    """P6.5: after node replace a chain that begins at 1 counts, and the old one never again, whatever its counter."""
    async with open_store(tmp_path) as store:
        for n in (1, 2, 3):
            await take(store, born(epoch(n)))
            await store.commit([status(1, of=epoch(n))])
        fresh = epoch(1, tail=9)
        await take(store, born(fresh))
        await store.commit([status(1, of=fresh)])
        assert await store.replace("edge-1", AT) == str(fresh)
        assert (await store.commit([status(1, of=fresh)])).new == 1
        after = epoch(2, tail=9)
        assert await take(store, born(after, follows=f"{fresh}.2"))
        assert (await store.commit([status(1, of=after)])).new == 1
        assert await conflict(store) == ""
        for old in (epoch(2), epoch(3)):
            assert (await store.commit([status(5, of=old)])).new == 0
        assert not await take(store, born(epoch(4), follows=f"{epoch(3)}.2"))
        assert "given up by node replace" in await conflict(store)
        assert await totals(store) == (5, 0)


@pytest.mark.parametrize("left", [True, False], ids=["left-in-the-copy", "all-confirmed"])
async def test_what_was_retired_counts_no_second_time_after_a_replace(tmp_path: Path, left: bool) -> None:
    """P5.8, R1.2: a copy is restored whose last epoch the cloud has retired since; after node replace the messages that
    the copy still holds of it do not count again, and nothing is said to be lost that was counted.
    """
    copy = epoch(2, tail=1)
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(1)))
        await store.commit([status(n, of=epoch(1)) for n in range(1, 6)])
        await take(store, born(epoch(2), follows=f"{epoch(1)}.6"))
        await store.commit([status(1, of=epoch(2))])
        await take(store, born(epoch(2), session=2, follows=f"{epoch(1)}.6", next_sequence=2, low=2))
        (late,) = (await store.commit([status(5, of=epoch(1))])).refused
        assert late.reason == "stale_epoch"
        restored = born(copy, previous=[str(epoch(1))] if left else [], follows=f"{epoch(1)}.6", next_sequence=1)
        assert not await take(store, restored)
        assert await store.replace("edge-1", AT) == str(copy)
        assert await take(store, born(copy, session=2, previous=restored.previous, follows=restored.follows))
        outcome = await store.commit([status(4, of=epoch(1)), status(5, of=epoch(1)), status(1, of=copy)])
        assert (outcome.new, outcome.duplicate, len(outcome.refused)) == (1, 2, 0) if left else (1, 0, 2)
        assert await totals(store) == (7, 0)
        assert {loss.kind for loss in await store.losses()} == {"restored_copy"}
        assert (await store.nodes())[0].cloud_lost == 0


async def test_a_replace_of_nobody_is_an_error(tmp_path: Path) -> None:
    """An unknown node is named in the error, and nothing of the same transaction is lost."""
    async with open_store(tmp_path) as store:
        replaced, committed = await asyncio.gather(
            store.replace("edge-9", AT), store.commit([status(1)]), return_exceptions=True
        )
        assert isinstance(replaced, ControlError)
        assert not isinstance(committed, BaseException)
        assert await totals(store) == (1, 0)


async def test_a_wiped_store_learns_from_a_birth_what_it_lost(tmp_path: Path) -> None:
    """P5.8: low, and an epoch that was confirmed to its end, say what was confirmed once and is unknown here."""
    async with open_store(tmp_path) as store:
        assert await take(store, born(epoch(8), low=41, next_sequence=44, follows=f"{epoch(7)}.101"))
        found = {(loss.epoch, loss.first_sequence, loss.last_sequence) for loss in await store.losses()}
        assert found == {(str(epoch(8)), 1, 40), (str(epoch(7)), 1, 100)}
        (row,) = await store.nodes()
        assert (row.cloud_lost, row.lost["cloud_lost"].messages, row.conflict) == (140, 140, "")
        assert (await store.commit([status(41, of=epoch(8), low=41)])).confirmed[0].through == 41
        assert await take(store, born(epoch(8), low=41, next_sequence=44, follows=f"{epoch(7)}.101"), retained=True)
        assert len(await store.losses()) == 2


async def test_a_restored_older_store_keeps_the_range_that_it_lost(tmp_path: Path) -> None:
    """P5.8: a store from a copy knows messages up to 3, the node holds none below 8: 4 to 7 are cloud_lost, once."""
    async with open_store(tmp_path) as store:
        await take(store, born(epoch(7)))
        await store.commit([status(n, of=epoch(7)) for n in (1, 2, 3, 6)])
        for _ in range(2):
            await store.commit([status(8, of=epoch(7), low=8)])
        (loss,) = await store.losses(kind="cloud_lost")
        assert (loss.first_sequence, loss.last_sequence, loss.messages, loss.origin) == (4, 7, 3, "cloud")
        assert "restored or wiped" in loss.detail


class _Life:
    """What a healthy spool did: presence in the order of its making, and messages by epoch."""

    def __init__(self, starts: list[tuple[int, int, bool]]) -> None:
        self.presence: list[NodeBirth] = []
        self.messages: list[tuple[Epoch, int]] = []
        follows = ""
        held: list[Epoch] = []
        for n, (frozen, sessions, will) in enumerate(starts, 1):
            of = epoch(n)
            previous = [str(each) for each in held]
            done = 0
            for session in range(1, sessions + 1):
                birth = born(of, session=session, follows=follows, previous=previous, next_sequence=done + 1, low=1)
                self.presence.append(birth)
                more = frozen if session == sessions else frozen // 2
                self.messages += [(of, sequence) for sequence in range(done + 1, more + 1)]
                done = more
                if will:
                    self.presence.append(born(of, session=session, online=False))
            if frozen:
                follows = f"{of}.{frozen + 1}"
                held.append(of)  # nothing is confirmed to the node: every epoch stays on its disk


lives = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3), st.booleans()), min_size=1, max_size=5).map(_Life)


@pytest.mark.sqlite  # what it looks for is in our own judgement, and a database for each example is slow
@settings(max_examples=examples(60), deadline=None)
@given(lives, st.data())
def test_no_order_of_births_messages_and_wills_is_a_false_conflict(life: _Life, data: st.DataObject) -> None:
    """P5.8: one healthy spool, heard in any order, doubled, late or kept by a broker, is never in conflict, and every
    message counts once.
    """
    heard: list[NodeBirth | tuple[Epoch, int]] = [*life.presence, *life.messages]
    order = data.draw(st.permutations(heard))
    again = data.draw(st.lists(st.sampled_from(heard), max_size=20))
    kept = data.draw(st.lists(st.booleans(), min_size=len(heard) + 20, max_size=len(heard) + 20))

    empty = _empty_store()

    async def live() -> None:
        with TemporaryDirectory() as directory:
            Path(directory, "cloud.db").write_bytes(empty)  # to make one costs as much as to live
            async with open_store(Path(directory)) as store:
                # At last everything once more, in the order of its making, as a node sends until it is confirmed.
                for what, retained in zip([*order, *again], kept, strict=False):
                    await _hear(store, what, retained)
                for what in heard:
                    await _hear(store, what, False)
                (row,) = await store.nodes()
                assert row.conflict == ""
                assert await store.losses() == []
                assert await totals(store) == (len(life.messages), 0)

    asyncio.run(live())


@cache
def _empty_store() -> bytes:
    """The file of a store in which nothing happened yet."""

    async def make(directory: Path) -> bytes:
        async with open_store(directory):
            pass
        return (directory / "cloud.db").read_bytes()

    with TemporaryDirectory() as directory:
        return asyncio.run(make(Path(directory)))


async def _hear(store: SqlStore, what: NodeBirth | tuple[Epoch, int], retained: bool) -> None:
    if isinstance(what, NodeBirth):
        await take(store, what, retained=retained)
    else:
        outcome = await store.commit([status(what[1], [ok()], of=what[0])])
        assert not [refused for refused in outcome.refused if refused.reason == "conflict"]
