"""Mistakes that could be made in the product, each of which the simulation must find.

A simulation that cannot fail proves nothing. Each mutant replaces one small piece of the product's behaviour by a
plausible wrong one; ``tests/simulation/test_mutants.py`` demands that a bounded number of seeds finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

from msgspec import structs

from cloud.progress import Progress, Sight
from cloud.stores import presence
from cloud.stores import writes as store_writes
from cloud.stores.base import StatusMessage
from cloud.stores.writes import StatusCommit
from common.message import RESPONSE, new_id
from common.messaging.base import PUBLISHED, Inbound
from common.models import WINDOW, Confirmation, Epoch, NodeBirth
from common.resource import RULESTATUS, build_resource
from edge import lanes
from edge.batching import Frozen
from edge.committing import Committer
from edge.lanes import Lanes
from edge.spool import Spool
from edge.spooldb import SpoolDb
from edge.spoolops import Accept
from edge.spooltables import Changes, Input, State
from edge.uplink import Uplink, _Sending
from tests.simulation import controller
from tests.simulation.disk import Disk


@contextmanager
def _replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


Mutant = Callable[[ExitStack], None]
MUTANTS: dict[str, Mutant] = {}


def _mutant(make: Mutant) -> Mutant:
    MUTANTS[make.__name__] = make
    return make


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Run the block with the mistake ``name`` in the product."""
    with ExitStack() as stack:
        MUTANTS[name](stack)
        yield


# -- the cloud ---------------------------------------------------------------------------------------------------------


@_mutant
def confirm_before_commit(stack: ExitStack) -> None:
    """The controller confirms what it has received, before the transaction."""
    take = controller.Controller._take

    def eager(self: controller.Controller, inbound: Inbound) -> None:
        before = len(self.waiting)
        take(self, inbound)
        if len(self.waiting) > before:
            message = self.waiting[-1]
            resource = build_resource(message.node, message.namespace, RULESTATUS)
            content = Confirmation(str(message.epoch), 0, [message.sequence])
            self.answers.append(controller._answer(message.msg_id, resource, RESPONSE, content))

    stack.enter_context(_replaced(controller.Controller, _take=eager))


def _progress(stack: ExitStack, mistaken: type[Progress]) -> None:
    stack.enter_context(_replaced(store_writes, Progress=mistaken))


@_mutant
def forget_a_bit(stack: ExitStack) -> None:
    """What is committed above the mark is not remembered."""

    class Forgetful(Progress):
        def see(self, sequence: int) -> Sight:
            bits = self.bits
            sight = super().see(sequence)
            if sequence > self.mark + 1:
                self.bits = bits
            return sight

    _progress(stack, Forgetful)


@_mutant
def mark_jumps_gaps(stack: ExitStack) -> None:
    """The mark is the highest sequence that was seen, whatever is missing below."""

    class Jumping(Progress):
        def see(self, sequence: int) -> Sight:
            if sequence <= self.mark:
                return Sight.SEEN
            self.mark = sequence
            return Sight.NEW

    _progress(stack, Jumping)


@_mutant
def low_raises_too_far(stack: ExitStack) -> None:
    """``low`` is taken for the highest confirmed sequence, not for the lowest unconfirmed one."""

    class Raised(Progress):
        def raise_to(self, mark: int) -> int:
            return super().raise_to(mark + 1)

    _progress(stack, Raised)


@_mutant
def half_a_window_in_the_cloud(stack: ExitStack) -> None:
    """The cloud forgets what came in the upper half of its window, though the edge may send all of it."""

    class Narrow(Progress):
        def see(self, sequence: int) -> Sight:
            sight = super().see(sequence)
            self.bits &= (1 << WINDOW // 2) - 1
            return sight

    _progress(stack, Narrow)


@_mutant
def effect_without_progress(stack: ExitStack) -> None:
    """Effect and progress are two transactions."""
    write = StatusCommit._write_progress

    def apart(self: StatusCommit) -> None:
        self._fault("effects_written")
        self._conn.exec_driver_sql("COMMIT")
        self._conn.exec_driver_sql("BEGIN IMMEDIATE")
        self._fault("progress_written")
        write(self)

    stack.enter_context(_replaced(StatusCommit, _write_progress=apart))


@_mutant
def progress_is_forgotten(stack: ExitStack) -> None:
    """What a controller counts is written, and sometimes not what it has seen: nothing of one message alone."""
    write = StatusCommit._write_progress

    def forgetful(self: StatusCommit) -> None:
        if len(self._touched) == 1 and next(iter(self._progress.values())).mark > 1:
            self._touched.clear()
        write(self)

    stack.enter_context(_replaced(StatusCommit, _write_progress=forgetful))


@_mutant
def births_retire_all_older_epochs(stack: ExitStack) -> None:
    """A birth retires every epoch but its own, though it names older ones that still have messages."""
    values = presence._values

    def newest(birth: NodeBirth, epoch: Epoch, *args: Any, **more: Any) -> dict[str, Any]:
        found = values(birth, epoch, *args, **more)
        return {**found, "lowest_n": epoch.n} if birth.online else found

    stack.enter_context(_replaced(presence, _values=newest))


@_mutant
def only_the_lowest_named_epoch_retires(stack: ExitStack) -> None:
    """A message that stays stuck keeps every later epoch open, until there are too many."""
    stack.enter_context(_replaced(presence, _retire_unnamed=lambda *args: None))


@_mutant
def retired_epochs_count_again(stack: ExitStack) -> None:
    """Progress of a retired epoch is thrown away, and its late messages are taken for new ones."""
    take = StatusCommit._take

    def forgiving(self: StatusCommit, message: StatusMessage, *args: Any) -> bool:
        row = self._nodes[message.node]
        if not isinstance(row, SimpleNamespace):
            fields = {name: getattr(row, name) for name in row._fields}
            self._nodes[message.node] = SimpleNamespace(**{**fields, "retired_through": 0})
        self._present = {}
        return take(self, message, *args)

    stack.enter_context(_replaced(StatusCommit, _take=forgiving))


# -- the edge ----------------------------------------------------------------------------------------------------------


@_mutant
def delete_on_puback(stack: ExitStack) -> None:
    """The broker's acknowledgement is taken for the cloud's."""
    send = Uplink._send

    def trusting(self: Uplink, sending: _Sending) -> None:
        message = sending.message

        def published(sending: _Sending, reason: int) -> None:
            if reason == PUBLISHED:
                self.confirmed(Confirmation(str(message.epoch), 0, [message.sequence]))

        with _replaced(self, _published=published):
            send(self, sending)

    stack.enter_context(_replaced(Uplink, _send=trusting))


@_mutant
def epoch_reused(stack: ExitStack) -> None:
    """A restart goes on with the epoch of before and begins again at sequence 1."""

    def reusing(self: Committer) -> tuple[list[Frozen], list[Input]]:
        state = self._load()
        epoch = state.epoch if state.epoch.n else Epoch(1, new_id())
        begun = structs.replace(state, epoch=epoch, next_sequence=1, commits=state.commits + 1)
        self.db.apply(Changes(begun))
        self._state = begun
        return list(self._in_window.values()), self.db.inputs()

    stack.enter_context(_replaced(Committer, open=reusing))


@_mutant
def no_bound_of_sequences(stack: ExitStack) -> None:
    """Sequences run ahead of the lowest unconfirmed one without a bound."""

    def boundless(self: Committer, window: dict[tuple[int, int], Frozen], state: State, low: int) -> bool:
        return len(window) < self._window.window_messages

    stack.enter_context(_replaced(Committer, _has_room=boundless))


@_mutant
def sequences_with_gaps(stack: ExitStack) -> None:
    """A commit that failed has used up its sequences."""
    load = Committer._load

    def burning(self: Committer) -> State:
        state = load(self)
        if self._attempt is not None and state.commits < self._attempt.changes.state.commits:
            state.next_sequence = self._attempt.changes.state.next_sequence
        return state

    stack.enter_context(_replaced(Committer, _load=burning))


@_mutant
def publish_before_commit(stack: ExitStack) -> None:
    """Messages are published while their transaction is still under way."""
    make = Spool.__init__

    def hasty(self: Spool, *args: Any, **more: Any) -> None:
        make(self, *args, **more)
        plan = self._committer._plan

        def planned(changes: Changes, *rest: Any) -> None:
            plan(changes, *rest)
            self._on_frozen(list(changes.new_messages))

        self._committer._plan = planned  # type: ignore[method-assign]

    stack.enter_context(_replaced(Spool, __init__=hasty))


@_mutant
def told_before_durable(stack: ExitStack) -> None:
    """A source is acknowledged when its result is queued."""
    accept = Spool.accept

    def hasty(self: Spool, packed: Any, on_durable: Any = None, input_id: str = "") -> None:
        accept(self, packed, None, input_id)
        if on_durable is not None:
            on_durable.truth.told.add(on_durable.id)

    stack.enter_context(_replaced(Spool, accept=hasty))


@_mutant
def commit_without_sync(stack: ExitStack) -> None:
    """synchronous=NORMAL: a power cut takes what was committed last."""
    make = Disk.__init__

    def unsynced(self: Disk) -> None:
        make(self)
        self.synced = False

    stack.enter_context(_replaced(Disk, __init__=unsynced))


@_mutant
def unknown_commit_repeated(stack: ExitStack) -> None:
    """A commit that reported an error is repeated without a look at whether it happened."""
    commit = Committer.commit

    def blind(self: Committer, group: Any) -> Any:
        if self._attempt is not None:
            self._load()
            self._attempt = None
        return commit(self, group)

    stack.enter_context(_replaced(Committer, commit=blind))


@_mutant
def inputs_forgotten(stack: ExitStack) -> None:
    """Journalled inputs are not run again after a restart."""
    opened = Spool.open

    def forgetful(self: Spool) -> tuple[list[Frozen], list[Input]]:
        return opened(self)[0], []

    stack.enter_context(_replaced(Spool, open=forgetful))


@_mutant
def order_lost_in_batches(stack: ExitStack) -> None:
    """New results overtake those of their own lane."""
    plan = Committer._plan

    def overtaking(self: Committer, changes: Changes, accepts: list[Accept], *args: Any) -> None:
        lanes = self._lanes
        if accepts:
            self._lanes = Lanes(lanes.backlog)
        try:
            plan(self, changes, accepts, *args)
        finally:
            self._lanes = lanes

    stack.enter_context(_replaced(Committer, _plan=overtaking))


@_mutant
def live_waits_for_the_backlog(stack: ExitStack) -> None:
    """Every turn is the backlog's: an outage delays what happens now."""
    stack.enter_context(_replaced(lanes, is_backlogs_turn=lambda sequence, share: True))


@_mutant
def backlog_waits_for_live(stack: ExitStack) -> None:
    """No turn is the backlog's: a busy node never sends what it kept."""
    stack.enter_context(_replaced(lanes, is_backlogs_turn=lambda sequence, share: False))


@_mutant
def rows_are_used_again(stack: ExitStack) -> None:
    """A row's id may be one that was used before: what comes now is taken for backlog."""
    write = SpoolDb._write

    def reusing(self: SpoolDb, db: Any, changes: Changes) -> None:
        changes.state.next_row = 1 + db.execute("SELECT coalesce(max(id), 0) FROM results").fetchone()[0]
        write(self, db, changes)

    stack.enter_context(_replaced(SpoolDb, _write=reusing))


@_mutant
def confirmation_lost_at_a_full_queue(stack: ExitStack) -> None:
    """The uplink has forgotten what the spool's full queue did not take: the window stays full for ever."""

    def dropping(self: Spool, confirmation: Confirmation) -> None:
        if self._writer.waiting < self._settings.queue_results_max:
            self._writer.submit(confirmation)

    stack.enter_context(_replaced(Spool, confirm=dropping))


@_mutant
def no_resend(stack: ExitStack) -> None:
    """What was sent once over this connection is not sent again."""
    stack.enter_context(_replaced(Uplink, resend_due=lambda self: None))


@_mutant
def resent_newest_first(stack: ExitStack) -> None:
    """After a reconnect the newest message goes first."""

    def backwards(self: Uplink) -> None:
        for key in sorted(self._sending, reverse=True):
            if not self._sending[key].flying and self._link.connected:
                self._send(self._sending[key])

    stack.enter_context(_replaced(Uplink, _send_more=backwards))
