"""What a group of operations does to the spool, on the writer's thread: quota, window, promotion, account (P5.1, P5.2).

Theory of operation. A group is planned without changing anything, written as one transaction, and then memory follows.
When the fate of a commit is unknown the file is opened anew, and its commit counter tells. Of what is here the loop
reads nothing but what a ``Committed`` hands over.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from common.clock import Clock
from common.codec import CodecName
from common.errors import DamageError, RefusedError, StorageError
from common.faults import Fault
from common.message import new_id
from common.models import LOST_SET_ASIDE, Confirmation, Epoch, LossRecord, clean_text, rfc3339
from edge.batching import Frozen, Packed, freeze, loss, pack
from edge.lanes import Lanes, Split, in_turn, split
from edge.letters import Letters, Look, Void, drop, outgrown, redrive, void
from edge.quota import drop_step, fold_step
from edge.settings import SpoolSettings, UplinkSettings
from edge.spooldb import PAGE_BYTES, SELECT_ROWS, SpoolDb
from edge.spoolops import Accept, Callback, Committed, Journal, Op, SpoolStats
from edge.spooltables import Changes, Input, State

log = logging.getLogger(__name__)

STEPS_MAX = 64  # of folding or dropping in one group
PAGES_SPARE = 256  # of the quota, kept for confirmations and state, so that a full spool can still drain


class _Attempt(msgspec.Struct):
    """A commit that was tried: what to hand over if it turns out to have happened. A ``step`` only made room."""

    changes: Changes
    durable: list[Callback]
    held: list[Accept]
    accepted: int = 0
    step: bool = False


class Committer:
    """The spool's file, and what is known of it between two commits.

    Arguments: ``db`` is the file; ``node`` and ``root`` say whose it is; ``settings`` bound it, ``window`` what is
    frozen; ``codec`` is of summaries and loss records; ``fault`` is called at the points ``deleting`` and
    ``spool_committed``.
    """

    def __init__(
        self,
        db: SpoolDb,
        node: str,
        root: str,
        *,
        settings: SpoolSettings,
        window: UplinkSettings,
        codec: CodecName,
        clock: Clock,
        fault: Fault,
    ) -> None:
        self.db, self._node, self._root, self._codec = db, node, root, codec
        self._settings, self._window, self._clock, self._fault = settings, window, clock, fault
        self.batch_bytes = window.batch_bytes  # of a message that is frozen from now on
        self._attempt: _Attempt | None = None
        self._state = State(Epoch(0, ""))
        self._in_window: dict[tuple[int, int], Frozen] = {}
        self._held: list[Accept] = []  # accepted by nobody yet: the quota is reached
        self._lanes = Lanes()
        self._fold_again = 0  # the next row's id from which on folding is tried again
        self._inputs: set[str] = set()  # ids of what is journalled
        self._used = 0  # bytes of the file's pages

    @property
    def quota(self) -> int:
        """Bytes that results and inputs may take."""
        return self._settings.bytes_max - PAGES_SPARE * PAGE_BYTES

    def open(self) -> tuple[list[Frozen], list[Input]]:
        """Open the file, begin an epoch, and return what an earlier run left: messages to send, inputs to run again.

        Raises StorageError, ConfigError. The epoch is on disk before anything names it (P5.2): in the spool, and then
        beside it, so that what stands there tells of a spool that is gone. A damaged file is set aside, and what is
        left then is a record of the loss.
        """
        damage = ""
        try:
            state = self._load()
        except DamageError as exc:
            damage = self._set_aside(exc)
            state = self._load()
        lost = [self._gone(damage)] if damage or (self.db.last_epoch and not state.epoch.n) else []
        inputs = [item._replace(attempts=item.attempts + 1) for item in self.db.inputs()]
        epoch = Epoch(max(state.epoch.n, self.db.last_epoch) + 1, new_id())
        follows = f"{state.epoch}.{state.next_sequence}" if state.next_sequence > 1 else state.follows
        begun = msgspec.structs.replace(state, epoch=epoch, next_sequence=1, commits=state.commits + 1, follows=follows)
        split(begun, self._waiting())
        self._write(_Attempt(Changes(begun, new_inputs=inputs, new_results=lost), [], []))
        self.db.remember_epoch(epoch.n)
        return list(self._in_window.values()), inputs

    def _set_aside(self, damage: DamageError) -> str:
        """Keep a damaged file under another name, so that a new one begins; returns what happened, in words (P5.8)."""
        stamp = rfc3339(self._clock.time()).replace(":", "").replace("-", "")
        kept = self.db.set_aside(stamp)
        log.critical("%s; it is kept as %s, and a new spool begins", damage, kept[0] if kept else "nothing")
        return f"{damage}; kept as {', '.join(path.name for path in kept)}"

    def _gone(self, damage: str) -> Packed:
        """The record of the loss of a whole spool; without ``damage`` it is only known that there was one (P5.8)."""
        last = self.db.last_epoch
        found = damage or f"the spool that was here, with epochs up to {last}, was moved away or set aside"
        if not damage:
            log.error("%s; a new spool begins", found)
        detail = clean_text(f"{found}; how many results it held is unknown")
        reason, now = "damaged" if damage else "missing", rfc3339(self._clock.time())
        return loss(LossRecord(new_id(), LOST_SET_ASIDE, until=now, reason=reason, detail=detail), self._codec)

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def commit(self, group: list[Op]) -> Committed:
        """Do all of a group in one transaction. Raises StorageError, after which the same group may be given again, and
        DamageError, which no repetition mends.
        """
        if self._attempt is not None:
            attempt = self._attempt
            self._load()
            self._attempt = None
            if self._state.commits == attempt.changes.state.commits and not attempt.step:  # it was committed after all
                return self._finish(attempt)
        by_kind: defaultdict[type[Op], list[Any]] = defaultdict(list)
        for op in group:
            by_kind[type(op)].append(op)
        accepts, journal = self._held + by_kind[Accept], by_kind[Journal]
        gone = self._confirmed(by_kind[Confirmation])
        wanted = sum(len(op.packed.body) + 64 for op in accepts)
        self._make_room(wanted)
        room = self.quota - self._used + sum([len(message.payload) for message in gone])
        held: list[Accept] = []
        if wanted > room:
            accepts, held = self._within(accepts, room)
        changes = Changes(msgspec.structs.replace(self._state, commits=self._state.commits + 1))
        self._looked(by_kind[Look], changes)
        if self._lanes.live > self._window.live_rows_max or by_kind[Split]:
            split(changes.state, self._waiting())
        self._plan(changes, accepts, journal, gone, by_kind[Void], by_kind[Letters])
        durable = [op.on_durable for op in accepts if op.on_durable is not None]
        durable += [op.on_durable for op in journal if op.on_durable is not None]
        attempt = _Attempt(changes, durable, held, len(accepts))
        if gone:
            self._fault("deleting")
        self._write(attempt)
        self._fault("spool_committed")
        return self._finish(attempt)

    def _finish(self, attempt: _Attempt) -> Committed:
        self._held = attempt.held
        return Committed(
            attempt.durable, attempt.changes.new_messages, self.account(), attempt.changes.done, attempt.accepted
        )

    def _within(self, accepts: list[Accept], room: int) -> tuple[list[Accept], list[Accept]]:
        """Split into what the quota has room for (``room`` bytes) and what must wait for a confirmation.

        What ends a journalled input never waits: inputs that fill the quota could otherwise never leave it.
        """
        taken: list[Accept] = []
        held: list[Accept] = []
        for op in accepts:
            room -= len(op.packed.body) + 64
            (taken if op.input_id or (room >= 0 and not held) else held).append(op)
        return taken, held

    def _confirmed(self, confirmations: list[Confirmation]) -> list[Frozen]:
        spans = [(Epoch.parse(said.epoch), said.through, said.also) for said in confirmations]
        return [
            message
            for (_, sequence), message in self._in_window.items()
            if any(message.epoch == of and (sequence <= through or sequence in also) for of, through, also in spans)
        ]

    def _make_room(self, wanted: int) -> None:
        """Fold, and if that is not enough drop, until ``wanted`` bytes fit or nothing more can be gained (P5.10).

        Each step is a transaction of its own, so the next one sees what it left.
        """
        for step in range(STEPS_MAX):
            used = self._used
            fits = used + wanted <= self.quota
            if not self._lanes.rows or used < self._settings.fold_from * self.quota or (fits and step):
                return
            changes = Changes(msgspec.structs.replace(self._state))
            gained = 0
            if not fits or self._state.next_row >= self._fold_again:  # to find nothing costs a look at the whole index
                gained = fold_step(self.db, changes, self._codec, (self._window.batch_results, self.batch_bytes))
                self._fold_again = 0 if gained else self._state.next_row + 1 + self._lanes.rows // 8
            if not gained and self._lanes.live and not (fits and self._lanes.backlog):
                split(changes.state, self._waiting())
                self._fold_again = 0
            elif not gained and not fits and self._settings.full == "drop_oldest":
                gained = drop_step(self.db, changes, self._codec, used + wanted - self.quota)
            if not gained and changes.state.backlog_through == self._state.backlog_through:
                return
            self._write(_Attempt(changes, [], self._held, step=True))

    def _write(self, attempt: _Attempt) -> None:
        """Commit, then change memory. When that fails its fate is unknown: the file tells when it is open again."""
        changes = attempt.changes
        try:
            self.db.apply(changes)
            used = self.db.bytes_used()
        except StorageError:
            self.db.close()
            self._attempt = attempt
            raise
        self._lanes = self._lanes.after(changes, self._state)
        self._state, self._used = changes.state, used
        for key in changes.gone_messages:
            self._in_window.pop(key, None)
        self._in_window.update(((m.epoch.n, m.sequence), m) for m in changes.new_messages)
        self._inputs.difference_update(changes.gone_inputs)
        self._inputs.update(item.id for item in changes.new_inputs)

    def _plan(
        self,
        changes: Changes,
        accepts: list[Accept],
        journal: list[Journal],
        gone: list[Frozen],
        voids: list[Void],
        orders: list[Letters],
    ) -> None:
        """Say what this group changes, without changing anything: the file first, then memory."""
        state = changes.state
        state.accepted += sum(op.packed.weight for op in accepts)
        state.confirmed += sum(message.weight for message in gone)
        changes.gone_messages = [(m.epoch.n, m.sequence) for m in gone]
        ended = {op.input_id for op in accepts if op.input_id}
        changes.new_inputs = [op.input for op in journal if op.input.id not in ended]
        changes.gone_inputs = list(ended)
        left = set(changes.gone_messages)
        window = {key: message for key, message in self._in_window.items() if key not in left}
        again = [packed for op in voids for packed in self._void(op, window, changes)]
        again += self._ordered(orders, changes)
        again += outgrown(self.db, changes, self.quota, self._codec) if changes.new_dead else []
        self._promote_lanes([*again, *(op.packed for op in accepts)], window, changes)

    def _promote_lanes(self, new: list[Packed], window: dict[tuple[int, int], Frozen], changes: Changes) -> None:
        """Freeze what the window has room for, of both lanes in turns; what of the ``new`` finds none waits."""
        state, lanes, fresh = changes.state, self._lanes.after(changes, self._state), self._packed(new)
        through, room = state.backlog_through, self._has_room(window, state, self._low(window, state))
        backlog = self._packed(self._oldest(0, through, window)) if room and lanes.backlog else []
        rows = self._oldest(through, state.next_row, window) if room and lanes.live else []
        live = self._packed(rows) + (fresh if len(rows) == lanes.live else [])
        taken = self._promote(in_turn(backlog, live, state.next_sequence, self._window.backlog_share), window, changes)
        changes.gone_results = [row for packed in taken for row in packed.rows]
        state.backlog -= sum(packed.weight for packed in taken if packed.rows and packed.rows[0] <= through)
        changes.new_results += fresh[sum(not packed.rows for packed in taken) :]

    def _oldest(self, after: int, through: int, window: dict[tuple[int, int], Frozen]) -> list[Packed]:
        """The oldest rows of a lane, no more than there is room for."""
        most = (self._window.window_messages - len(window)) * self._window.batch_results
        return self.db.oldest_results(self._window.window_bytes, after, through, rows_max=min(most, SELECT_ROWS))

    def _waiting(self) -> int:
        """How many executions wait without a sequence."""
        return self._state.pending - sum(message.weight for message in self._in_window.values())

    def _void(self, op: Void, window: dict[tuple[int, int], Frozen], changes: Changes) -> list[Packed]:
        """Put a void record in the place of a message; returns what of it is to be sent in another one."""
        message = window.get(op.key)
        if message is None or not message.weight:  # confirmed meanwhile, or void already
            return []
        low, now = self._low(window, changes.state), self._clock.time()
        window[op.key], rest = void(message, op.refusal, changes, root=self._root, node=self._node, low=low, at=now)
        changes.new_messages.append(window[op.key])
        return rest

    def _ordered(self, orders: list[Letters], changes: Changes) -> list[Packed]:
        """Do what the operator wants with dead letters; returns what is to be sent."""
        packed: list[Packed] = []
        for op in orders:
            letters = [
                letter
                for letter in self.db.dead()
                if (letter.id in op.ids or not op.ids) and letter.id not in changes.gone_dead
            ]
            before = len(changes.gone_dead)
            packed += redrive(letters, changes) if op.order == "redrive" else drop(letters, changes, self._codec)
            changes.done.append((op.done, len(changes.gone_dead) - before))
        return packed

    def _looked(self, questions: list[Look], changes: Changes) -> None:
        for question in questions:
            changes.done.append((question.answer, self.db.dead()))

    def _packed(self, items: list[Packed]) -> list[Packed]:
        return pack(items, self._window.batch_results, self.batch_bytes) if items else []

    def _has_room(self, window: dict[tuple[int, int], Frozen], state: State, low: int) -> bool:
        return len(window) < self._window.window_messages and state.next_sequence < low + self._window.window_messages

    def _promote(
        self, candidates: Iterable[Packed], window: dict[tuple[int, int], Frozen], changes: Changes
    ) -> list[Packed]:
        """Freeze as many ``candidates`` as the window takes (P5.4); returns those, which are always the first ones."""
        state, now = changes.state, int(self._clock.time() * 1000)
        low, size = self._low(window, state), sum([len(message.payload) for message in window.values()])
        taken = []
        for packed in candidates:
            too_large = window and size + len(packed.body) > self._window.window_bytes
            if too_large or not self._has_room(window, state, low):
                break
            sequence = state.next_sequence
            taken.append(packed)
            try:
                message = freeze(packed, state.epoch, sequence, low, root=self._root, node=self._node, timestamp=now)
            except (RefusedError, KeyError) as exc:  # bits of its row have changed: it would stop all others
                changes.new_results.append(self._unusable(packed, state, exc))
                continue
            window[(state.epoch.n, sequence)] = message
            changes.new_messages.append(message)
            state.next_sequence += 1
            size += len(message.payload)
        return taken

    def _unusable(self, packed: Packed, state: State, why: Exception) -> Packed:
        """Give up results that no message can be made of; returns the record of the loss (P5.8)."""
        state.set_aside += packed.weight
        detail = clean_text(f"damaged: results of rule {packed.namespace}/{packed.rule} in {packed.codec}: {why}")
        log.critical("%d results cannot be sent and are given up: %s", packed.weight, detail)
        record = LossRecord(new_id(), LOST_SET_ASIDE, results=packed.weight, reason="damaged", detail=detail)
        return loss(record, self._codec)

    @staticmethod
    def _low(window: dict[tuple[int, int], Frozen], state: State) -> int:
        # Messages enter in the order of their sequences and keep their place, so the first of the epoch is the lowest.
        return next((sequence for n, sequence in window if n == state.epoch.n), state.next_sequence)

    def _load(self) -> State:
        self._state, self._used = self.db.open(), self.db.bytes_used()
        self._in_window = {(m.epoch.n, m.sequence): m for m in self.db.messages()}
        self._lanes = Lanes(*self.db.waiting(self._state.backlog_through))
        self._inputs = {item.id for item in self.db.inputs()}
        return self._state

    def account(self) -> SpoolStats:
        """What is on disk now."""
        state = self._state
        return SpoolStats(
            state.epoch,
            self._low(self._in_window, state),
            state.next_sequence,
            state.accepted,
            state.confirmed,
            self._lanes.rows,
            len(self._in_window),
            len(self._inputs),
            self._used,
            len(self._held),
            state.dead,
            state.dropped,
            state.set_aside,
            state.folded,
            state.backlog,
            sorted({message.epoch for message in self._in_window.values()} - {state.epoch}),
            state.follows,
        )
