"""One thread that owns a database and commits what is queued as one group (architecture decision 1).

The event loop queues operations; the thread takes all that wait (at most ``group_max``), does them in one transaction,
and hands the outcome back: one hop to the thread and one back per *group*, however many operations it holds. While a
group is being committed the next one gathers, so groups grow with the load and nothing waits when there is none. When
nothing came meanwhile, but closely after, the small group that begins then waits a moment for company: a commit costs
as much as tens of operations do. Where none comes, as when each operation is the answer to a commit, it stops waiting.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from common.backoff import Backoff
from common.errors import DamageError, QueueFullError, StorageError

log = logging.getLogger(__name__)

GATHER_S = 0.001  # that a small group waits for company when another group has just ended
CLOSELY_S = 0.002
SMALL_GROUP = 64  # operations; a larger group does not wait
HASTY_GROUPS = 16  # that go at once after one that waited in vain

Op = TypeVar("Op")
Out = TypeVar("Out")
_Taken = TypeVar("_Taken", contravariant=True)


class Writer(Protocol[_Taken]):
    """What the owner of a writer uses of it; a simulation that decides when groups are committed has its own."""

    def start(self) -> None: ...

    def submit(self, op: _Taken, /) -> None: ...

    @property
    def waiting(self) -> int: ...

    async def stop(self) -> None: ...


class GroupWriter(Generic[Op, Out]):
    """Commits operations in groups on its own thread.

    Arguments:
        name: of the thread and in messages.
        commit: called on the thread with a group (never empty); commits it and returns the outcome. When it raises
            StorageError the same group is given again after a delay, so it must be safe to repeat; nothing is lost.
            DamageError, which no repetition mends, and any other exception go to ``failed``, and the group is given up.
        done: called on the loop with the outcome of each commit.
        failed: called on the loop with a group that was given up and the exception.
        group_max: operations in one group.
        queue_max: operations that may wait; ``submit`` raises QueueFullError above.
    """

    def __init__(
        self,
        name: str,
        commit: Callable[[list[Op]], Out],
        done: Callable[[Out], None],
        failed: Callable[[list[Op], BaseException], None],
        *,
        group_max: int = 8192,
        queue_max: int = 100_000,
    ) -> None:
        self._name, self._commit, self._done, self._failed = name, commit, done, failed
        self._group_max, self._queue_max = group_max, queue_max
        self._queue: deque[Op] = deque()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended_at = 0.0
        self._hasty = 0  # groups that do not wait, of HASTY_GROUPS
        self.groups = 0
        self.retries = 0

    def start(self) -> None:
        """Start the thread. Call on the running event loop, to which outcomes are handed."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def submit(self, op: Op) -> None:
        """Queue one operation (loop only). Raises QueueFullError at ``queue_max``, and after ``stop``."""
        queue = self._queue
        if self._stopping.is_set():
            raise QueueFullError(f"{self._name}, which was stopped,", 0)
        if len(queue) >= self._queue_max:
            raise QueueFullError(self._name, self._queue_max)
        queue.append(op)
        if not self._wake.is_set():
            self._wake.set()

    @property
    def waiting(self) -> int:
        """How many operations wait for a group."""
        return len(self._queue)

    async def stop(self) -> None:
        """Commit what is queued, hand over the outcomes, and end the thread."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
            await asyncio.sleep(0)

    def _run(self) -> None:
        queue = self._queue
        while True:
            self._wake.wait()
            self._wake.clear()
            self._gather()
            while queue:
                group = [queue.popleft() for _ in range(min(len(queue), self._group_max))]
                self._commit_group(group)
                self._ended_at = time.monotonic()
            if self._stopping.is_set() and not queue:
                return

    def _gather(self) -> None:
        waiting = len(self._queue)
        if not waiting or waiting >= SMALL_GROUP or time.monotonic() - self._ended_at >= CLOSELY_S:
            return
        if self._hasty:
            self._hasty -= 1
            return
        time.sleep(GATHER_S)
        if len(self._queue) == waiting:
            self._hasty = HASTY_GROUPS

    def _commit_group(self, group: list[Op]) -> None:
        backoff = Backoff(0.05, 5.0)
        while True:
            try:
                outcome = self._commit(group)
            except DamageError as exc:
                return self._hand_over(self._failed, group, exc)
            except StorageError as exc:
                self.retries += 1
                delay = backoff.next()
                log.error("%s: %s; %d operations wait, again in %.1f s", self._name, exc, len(group), delay)
                if self._stopping.is_set():
                    return self._hand_over(self._failed, group, exc)
                self._stopping.wait(delay)
                continue
            except BaseException as exc:
                log.exception("%s: a group of %d operations failed", self._name, len(group))
                return self._hand_over(self._failed, group, exc)
            self.groups += 1
            return self._hand_over(self._done, outcome)

    def _hand_over(self, callback: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: the process ends, and what was committed is on disk
            log.debug("%s: loop closed before the outcome was handed over", self._name)
