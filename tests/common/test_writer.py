"""The thread that commits groups: nothing is lost, order is kept, one hop per group (architecture decision 1)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from common.errors import DamageError, QueueFullError, StorageError
from common.writer import HASTY_GROUPS, GroupWriter
from tests.support.wait import eventually


class Store:
    """Keeps what was committed; can be told to block or to fail."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.done: list[int] = []
        self.failed: list[tuple[list[int], BaseException]] = []
        self.threads: set[str] = set()
        self.errors: list[BaseException] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def commit(self, group: list[int]) -> list[int]:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.open.wait(10)
        if self.errors:
            raise self.errors.pop(0)
        self.groups.append(group)
        return group

    def on_done(self, outcome: list[int]) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.done += outcome

    def on_failed(self, group: list[int], exc: BaseException) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.failed.append((group, exc))

    def writer(self, *, group_max: int = 8192, queue_max: int = 100_000) -> GroupWriter[int, list[int]]:
        writer: GroupWriter[int, list[int]] = GroupWriter(
            "spool", self.commit, self.on_done, self.on_failed, group_max=group_max, queue_max=queue_max
        )
        writer.start()
        return writer


async def test_everything_is_committed_in_order() -> None:
    """Operations are committed in the order of submit, on the writer's own thread, and handed back on the loop."""
    store = Store()
    writer = store.writer(group_max=7)
    for number in range(1000):
        writer.submit(number)
        if number % 100 == 0:
            await asyncio.sleep(0)
    await writer.stop()
    assert store.done == list(range(1000))
    assert store.threads == {"spool"}
    assert max(map(len, store.groups)) <= 7
    assert writer.groups == len(store.groups)


async def test_groups_grow_while_a_commit_runs() -> None:
    """What comes during a commit is one group afterwards: one hop however many operations."""
    store = Store()
    writer = store.writer()
    store.open.clear()
    writer.submit(0)
    await asyncio.to_thread(store.entered.wait, 10)
    for number in range(1, 500):
        writer.submit(number)
    assert writer.waiting == 499
    store.open.set()
    await eventually(lambda: len(store.done) == 500)
    assert store.groups == [[0], list(range(1, 500))]
    await writer.stop()


class Clock:
    """Stands still, so that each group follows closely; a nap calls ``meanwhile``."""

    def __init__(self) -> None:
        self.naps = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.naps += 1
        self.meanwhile()


async def test_a_small_group_waits_for_company_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while a small group waits is in it, and the next one waits, too."""
    clock, store = Clock(), Store()
    monkeypatch.setattr("common.writer.time", clock)
    writer = store.writer()
    for number in range(3):
        clock.meanwhile = partial(writer.submit, -number)
        writer.submit(number)
        await eventually(lambda number=number: len(store.done) == 2 * number + 2)
    assert store.groups == [[0, 0], [1, -1], [2, -2]]
    await writer.stop()


async def test_nothing_waits_where_no_company_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a wait in vain the next groups go at once; then one tries again."""
    clock, store = Clock(), Store()
    monkeypatch.setattr("common.writer.time", clock)
    writer = store.writer()
    for number in range(HASTY_GROUPS + 2):
        writer.submit(number)
        await eventually(lambda number=number: len(store.done) == number + 1)
        assert clock.naps == (2 if number > HASTY_GROUPS else 1)
    assert len(store.groups) == HASTY_GROUPS + 2
    await writer.stop()


async def test_queue_is_bounded() -> None:
    """Above queue_max submit refuses and takes nothing; afterwards there is room again."""
    store = Store()
    writer = store.writer(queue_max=3)
    store.open.clear()
    writer.submit(0)
    await asyncio.to_thread(store.entered.wait, 10)
    for number in (1, 2, 3):
        writer.submit(number)
    with pytest.raises(QueueFullError, match=r"^spool is full \(3\)$"):
        writer.submit(4)
    store.open.set()
    await eventually(lambda: len(store.done) == 4)
    writer.submit(5)
    await writer.stop()
    assert store.done == [0, 1, 2, 3, 5]


async def test_storage_error_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A store that cannot write for a while loses nothing: the same group comes again."""
    store = Store()
    store.errors = [StorageError("disk full"), StorageError("disk full")]
    writer = store.writer()
    writer.submit(1)
    await eventually(lambda: store.done == [1])
    assert writer.retries == 2
    assert "spool: disk full; 1 operations wait" in caplog.text
    await writer.stop()
    assert not store.failed


@pytest.mark.parametrize("error", [ZeroDivisionError("broken"), DamageError("malformed")], ids=["fault", "damage"])
async def test_other_errors_give_the_group_up(error: Exception) -> None:
    """A programming error, and damage, which no repetition mends, go to ``failed`` with the group; others go on."""
    store = Store()
    store.errors = [error]
    writer = store.writer()
    writer.submit(1)
    await eventually(lambda: store.failed)
    writer.submit(2)
    await writer.stop()
    assert store.done == [2]
    assert store.failed[0][0] == [1]
    assert store.failed[0][1] is error
    assert writer.retries == 0


async def test_stop_does_not_wait_for_a_broken_store() -> None:
    """While the store cannot write, stop() ends soon, and what was not committed is handed to ``failed``."""
    store = Store()
    store.errors = [StorageError("disk full")] * 50
    writer = store.writer()
    writer.submit(1)
    await eventually(lambda: writer.retries >= 4)
    began = time.monotonic()
    await writer.stop()
    assert time.monotonic() - began < 3
    assert [group for group, _ in store.failed] == [[1]]
    assert isinstance(store.failed[0][1], StorageError)


async def test_stop_commits_what_waits() -> None:
    """Everything submitted before stop() is committed and handed back before it returns."""
    store, before = Store(), set(threading.enumerate())
    writer = store.writer(group_max=10)
    for number in range(95):
        writer.submit(number)
    await writer.stop()
    assert store.done == list(range(95))
    assert "spool" not in {thread.name for thread in set(threading.enumerate()) - before}
