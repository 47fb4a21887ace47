"""Background tasks: named, supervised, awaited at stop (style 13)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from common.tasks import Tasks
from tests.support.wait import eventually


async def test_failing_task_is_logged_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """What raises is not lost: it is logged with its name and runs again."""
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise RuntimeError("broken")
        await asyncio.Event().wait()

    tasks = Tasks("owner")
    tasks.start("work", work)
    await eventually(lambda: len(runs) == 3)
    assert tasks.restarts == 2
    assert "owner: task work failed, again in" in caplog.text
    assert "RuntimeError: broken" in caplog.text
    await tasks.stop()


async def test_task_that_returns_is_done() -> None:
    """A task that ends by itself is not started again, and its name is free."""
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)

    tasks = Tasks("owner")
    tasks.start("work", work)
    await eventually(lambda: runs)
    await asyncio.sleep(0)
    tasks.start("work", work)
    await eventually(lambda: len(runs) == 2)
    assert tasks.restarts == 0
    await tasks.stop()


async def test_once_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    """With forever=False a failure is logged and final."""
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)
        raise RuntimeError("broken")

    tasks = Tasks("owner")
    tasks.start("work", work, forever=False)
    await eventually(lambda: "task work failed" in caplog.text)
    await asyncio.sleep(0)
    tasks.start("work", work, forever=False)
    await eventually(lambda: len(runs) == 2)
    await tasks.stop()


async def test_a_name_runs_once() -> None:
    """Two tasks of one name are a programming error."""
    tasks = Tasks("owner")
    tasks.start("work", asyncio.Event().wait)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="owner: task work runs already"):
        tasks.start("work", asyncio.Event().wait)  # type: ignore[arg-type]
    await tasks.stop()


async def test_stop_cancels_and_waits() -> None:
    """stop() returns when every task has cleaned up, and is harmless twice."""
    cleaned: list[str] = []
    running = asyncio.Event()

    async def work() -> None:
        try:
            running.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("work")

    tasks = Tasks("owner")
    tasks.start("work", work)
    await running.wait()
    assert {task.get_name() for task in asyncio.all_tasks()} >= {"owner.work"}
    await tasks.stop()
    assert cleaned == ["work"]
    await tasks.stop()


async def test_stop_while_a_task_waits_to_be_started_again() -> None:
    """A task in its backoff is ended too."""
    failed = asyncio.Event()

    async def work() -> None:
        failed.set()
        raise RuntimeError("broken")

    tasks = Tasks("owner")
    tasks.start("work", work)
    await failed.wait()
    await asyncio.wait_for(tasks.stop(), 1)


async def test_a_swallowed_cancellation_does_not_hang_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that takes its cancellation for something else is cancelled again, and named."""
    monkeypatch.setattr("common.tasks.CANCEL_AGAIN_S", 0.01)
    running = asyncio.Event()

    async def work() -> None:
        running.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    tasks = Tasks("owner")
    tasks.start("deaf", work)
    await running.wait()
    await asyncio.wait_for(tasks.stop(), 5)
    assert "owner.deaf does not end" in caplog.text
