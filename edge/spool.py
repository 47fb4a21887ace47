"""The spool: durable store-and-forward of results, in two stages (protocol P5.1 to P5.3).

Theory of operation. ``results`` are accepted and durable, without a sequence. ``messages`` are frozen: topic, bytes,
epoch and sequence never change, and they are deleted only when the cloud has confirmed them. At most a window of
messages exists; when there is room, the oldest results become messages, in the accepting transaction itself when
nothing waits.

All of it happens on one writer thread, in groups: what was accepted, journalled and confirmed since the last commit is
one transaction (``edge.committing``). The loop gets one ``Committed`` for each group, and only then answers sources and
publishes messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from common.clock import Clock, SystemClock
from common.codec import CodecName
from common.errors import QueueFullError
from common.faults import Fault, no_fault
from common.models import Confirmation, Epoch, Refusal
from common.writer import GroupWriter, Writer
from edge.batching import Frozen, Packed
from edge.committing import Committer
from edge.lanes import Split
from edge.letters import Letters, Look, Void
from edge.settings import SpoolSettings, UplinkSettings
from edge.spooldb import SpoolDb
from edge.spoolops import Accept, Again, Callback, Committed, Journal, Op, SpoolStats
from edge.spooltables import DeadMessage, Input

log = logging.getLogger(__name__)

HEAD_BYTES = 2048  # of a message, around its results: header and route at their longest


class Spool:
    """Durable results of one node.

    Arguments:
        path: of the file. node, root: whose it is; in every topic.
        on_frozen: called on the loop with messages to publish, in order.
        on_fatal: called on the loop when the spool can go on no more; the agent must stop.
        codec: of summaries and loss records; results come encoded.
        fault: called at the points ``deleting``, ``spool_committed``, ``source_ack`` and ``promoted``.
        db, writer: what a simulation replaces: the file, and what commits groups to it (a GroupWriter's arguments).
    """

    def __init__(
        self,
        path: Path,
        node: str,
        root: str,
        *,
        on_frozen: Callable[[list[Frozen]], None],
        on_fatal: Callable[[BaseException], None],
        settings: SpoolSettings | None = None,
        window: UplinkSettings | None = None,
        codec: CodecName = "json",
        clock: Clock | None = None,
        fault: Fault = no_fault,
        db: SpoolDb | None = None,
        writer: Callable[..., Writer[Op]] = GroupWriter,
    ) -> None:
        self._settings, self._window = settings or SpoolSettings(), window or UplinkSettings()
        self._queue_max = self._settings.queue_results_max
        self._on_frozen, self._on_fatal, self._fault = on_frozen, on_fatal, fault
        self._committer = Committer(
            db or SpoolDb(path, node, root), node, root, settings=self._settings, window=self._window, codec=codec,
            clock=clock or SystemClock(), fault=fault,
        )  # fmt: skip
        commit = self._committer.commit
        self._writer = writer("spool", commit, self._committed, self._failed, queue_max=self._queue_max)
        self._put_off: list[Confirmation | Split] = []  # came while the queue was full; at most a window of them
        self.stats = SpoolStats(Epoch(0, ""), 1, 1, 0, 0)

    def open(self) -> tuple[list[Frozen], list[Input]]:
        """Open the file, begin an epoch, and return what an earlier run left: messages to send, inputs to run again.

        Raises StorageError, ConfigError. A damaged file is set aside, and what is left then is a record of the loss.
        """
        left = self._committer.open()
        self.stats = self._committer.account()
        return left

    def start(self) -> None:
        """Start the writer thread; call on the loop, after ``open``."""
        self._writer.start()
        if self.stats.waiting_rows:  # what waits may have room now, and nothing else may come
            self._writer.submit(Again())

    def accept(self, packed: Packed, on_durable: Callback | None = None, input_id: str = "") -> None:
        """Queue one encoded result; ``on_durable`` is called when it is on disk. Raises QueueFullError: not taken.

        A result that ends a journalled input is taken at the quota too: it makes room.
        """
        if self.stats.held >= self._settings.queue_results_max and not input_id:
            raise QueueFullError("spool", self._settings.bytes_max)
        self._writer.submit(Accept(packed, on_durable, input_id))

    def journal(self, item: Input, on_durable: Callback | None = None) -> None:
        """Queue an input for the journal (P5.3). Raises QueueFullError, at the quota too: not taken."""
        if self.stats.bytes_used > self._committer.quota:
            raise QueueFullError("spool", self._settings.bytes_max)
        self._writer.submit(Journal(item, on_durable))

    def void(self, key: tuple[int, int], refusal: Refusal) -> None:
        """Replace a message that the cloud refuses for good by a ``void`` record, and keep it as a dead letter (P5.9).

        ``key`` is epoch counter and sequence. Left to the next refusal when the queue is full.
        """
        with suppress(QueueFullError):
            self._writer.submit(Void(key, refusal))

    async def dead(self) -> list[DeadMessage]:
        """The dead letters, oldest first. Raises QueueFullError."""
        answer: asyncio.Future[list[DeadMessage]] = asyncio.get_running_loop().create_future()
        self._writer.submit(Look(answer))
        return await answer

    async def letters(self, order: str, ids: list[str]) -> int:
        """``redrive`` or ``drop`` dead letters (no ids: all); returns how many. Raises QueueFullError."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._writer.submit(Letters(order, ids, done))
        return await done

    def confirm(self, confirmation: Confirmation) -> None:
        """Forget what the cloud has committed (P5.6). Never refused: the uplink asks once, and a full window gets no
        later confirmation that could repair a lost one.
        """
        self._submit(confirmation)

    def split(self) -> None:
        """A connection to a controller begins: what waits now is the backlog, what comes now is live (P5.6)."""
        self._submit(Split())

    def _submit(self, op: Confirmation | Split) -> None:
        try:
            self._writer.submit(op)
        except QueueFullError:
            self._put_off.append(op)

    def limit(self, payload_bytes_max: int) -> None:
        """Freeze no message larger than this connection takes: a broker would close it, and all behind would wait
        (R2).
        """
        self._committer.batch_bytes = max(1, min(self._window.batch_bytes, payload_bytes_max - HEAD_BYTES))

    @property
    def room(self) -> int:
        """How many results may be queued now; 0 holds the sources back."""
        if self.stats.held:
            return 0
        room = self._queue_max - self._writer.waiting
        return room if room > 0 else 0

    async def stop(self) -> None:
        """Commit what is queued and close the file."""
        await self._writer.stop()
        self._committer.close()

    def _committed(self, outcome: Committed) -> None:
        self.stats = outcome.stats
        put_off, self._put_off = self._put_off, []
        for op in put_off:
            self._submit(op)
        if outcome.durable:
            self._fault("source_ack")
        for callback in outcome.durable:
            try:
                callback()
            except Exception:  # of one source: the others are told all the same, and what is frozen is sent
                log.exception("a source could not be told that its result is durable")
        if outcome.stats.held and outcome.accepted:  # more than the quota came at once, and part of it has found room
            with suppress(QueueFullError):
                self._writer.submit(Again())
        for future, answer in outcome.done:
            if not future.done():
                future.set_result(answer)
        if outcome.frozen:
            self._fault("promoted")
            self._on_frozen(outcome.frozen)

    def _failed(self, group: list[Op], exc: BaseException) -> None:
        log.critical("spool failed with %d operations not accepted: %s", len(group), exc)
        self._on_fatal(exc)
